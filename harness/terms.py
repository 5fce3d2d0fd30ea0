"""The terms of an objective as the study file has them: one table a term, each a weighted part of a student's loss."""

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

KNOBS = {"jsd": ("beta", "normalise"), "skew_kl": ("skew",), "skew_reverse_kl": ("skew",), "akl": ("head",)}
"""Which settings of a divergence belong to which one."""


class Table(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Divergence(Table):
    """What the tables of a divergence have in common."""

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
    def _no_idle_knob(self) -> "Divergence":
        for name in ("beta", "normalise", "skew", "head"):
            if getattr(self, name) is not None and name not in KNOBS.get(self.divergence, ()):
                users = [divergence for divergence, names in KNOBS.items() if name in names]
                raise ValueError(f"{name} does nothing with {self.divergence}; it belongs to {' and '.join(users)}")
        return self


class Kd(Divergence):
    """Token-level distillation: a divergence between teacher and student at every assistant token."""

    weight: float = Field(1.0, ge=0, description="weight in the sum of terms")


class Ce(Table):
    """Next-token cross-entropy on the corpus."""

    weight: float = Field(1.0, ge=0, description="weight in the sum of terms")
    tokens: Literal["assistant", "all"] = Field(
        "assistant", description="which tokens are learnt: what the assistant says, or prompts as well"
    )


class OnPolicy(Divergence):
    """On-policy distillation: the student answers the corpus's prompts, the teacher grades its tokens."""

    weight: float = Field(1.0, ge=0, description="weight in the sum of terms")
    fraction: float = Field(0.5, gt=0, le=1, description="share of the rows whose answers the student writes anew")
    max_tokens: int = Field(64, ge=1, description="longest answer that the student writes")
    sampling: float = Field(1.0, ge=0, description="temperature at which it writes; 0 takes the likeliest token")


class _TeacherText(Table):
    """What the tables of texts that the teacher writes before the training have in common."""

    weight: float = Field(1.0, ge=0, description="weight in the sum of terms")
    samples: int = Field(1, ge=1, description="answers per prompt of the corpus")
    max_tokens: int = Field(128, ge=1, description="longest answer in tokens")
    temperature: float = Field(0.6, ge=0, description="at which the teacher writes; 0 takes the likeliest token")
    top_p: float = Field(0.9, gt=0, le=1, description="nucleus sampling")


class Sequence(_TeacherText):
    """Sequence-level distillation: cross-entropy on the teacher's own answers to the corpus's prompts."""


class Explanations(_TeacherText):
    """Explanation tuning: cross-entropy on answers in which the teacher was asked for its reasoning."""

    systems: str = Field(
        "data:prompts/explain.jsonl", description="JSONL of system messages that ask for it, one drawn a prompt"
    )


Layers = Literal["even", "last", "kept"] | tuple[tuple[int, int], ...]
LAYERS = (
    "which student layer learns from which of the teacher: even, last, kept (the one it was cut from), or a list of "
    "[student, teacher] pairs from 0"
)


class Hidden(Table):
    """Hidden states behind matched layers brought together, through a learnt projection where widths differ."""

    weight: float = Field(1.0, ge=0, description="weight in the sum of terms")
    distance: Literal["mse", "cosine"] = Field("mse", description="mean squared error, or 1 - cosine")
    layers: Layers = Field("even", description=LAYERS)


class Attention(Table):
    """Attention of matched layers brought together."""

    weight: float = Field(1.0, ge=0, description="weight in the sum of terms")
    kind: Literal["scores", "relations"] = Field(
        "scores", description="scores: before the softmax, as TinyBERT; relations: of queries, keys, values, as MiniLM"
    )
    heads: int | None = Field(
        None, ge=1, description="relations: heads to which both sides are cut; default: student's"
    )
    layers: Layers | None = Field(None, description=f"{LAYERS}; default even for scores, the last for relations")

    @model_validator(mode="after")
    def _no_idle_knob(self) -> "Attention":
        if self.heads is not None and self.kind == "scores":
            raise ValueError('heads does nothing with kind = "scores"; it belongs to relations')
        return self


class Embedding(Table):
    """Embedding outputs brought together, through a learnt projection where widths differ."""

    weight: float = Field(1.0, ge=0, description="weight in the sum of terms")
    distance: Literal["mse", "cosine"] = Field("mse", description="mean squared error, or 1 - cosine")


class Uld(Table):
    """Universal logit distillation: for teachers with another tokenizer, by sorted probabilities."""

    weight: float = Field(1.0, ge=0, description="weight in the sum of terms")
    temperature: float = Field(1.0, gt=0, description="divides both sides' logits")
    aligned: bool = Field(
        True, description="compare where both tokenizers have a border in the text; false: by place, as published"
    )


class Ranking(Table):
    """Ranking distillation (Tang and Wang 2018): the teacher's best items that were not observed count as relevant."""

    weight: float = Field(1.0, ge=0, description="weight in the sum of terms")
    k: int = Field(10, ge=1, description="length of the teacher's list")
    sharpness: float = Field(1.0, gt=0, description="λ: place r of the list weighs exp(-r / λ)")
    mu: float = Field(0.1, gt=0, description="μ: what is placed too low by the student weighs tanh(μ (its rank - r))")
    hybrid_from: float = Field(
        0.2, ge=0, le=1, description="share of the steps after which both weights count; 1: only the place does"
    )
    normalise: bool = Field(True, description="let both weights' products sum to 1 at each position")
    samples: int | None = Field(
        None, ge=1, description="items from which the student's rank is estimated; by default it is exact"
    )


class Terms(Table):
    """The objective: a weighted sum of terms. A term that is not named, or has weight 0, is not computed."""

    kd: Kd | None = Field(None, description="token distillation")
    ce: Ce | None = Field(None, description="cross-entropy on the corpus")
    sequence: Sequence | None = Field(None, description="cross-entropy on the teacher's own answers")
    explanations: Explanations | None = Field(None, description="cross-entropy on the teacher's explanations")
    on_policy: OnPolicy | None = Field(None, description="divergence on the student's own answers")
    hidden: Hidden | None = Field(None, description="hidden states")
    attention: Attention | None = Field(None, description="attention")
    embedding: Embedding | None = Field(None, description="embeddings")
    uld: Uld | None = Field(None, description="across tokenizers")
    ranking: Ranking | None = Field(None, description="ranker: the teacher's best unobserved items")

    @property
    def weights(self) -> dict[str, float]:
        """The weight of every term that is computed, by name."""
        named = {name: getattr(self, name) for name in type(self).model_fields}
        return {name: term.weight for name, term in named.items() if term and term.weight}

    @model_validator(mode="after")
    def _something(self) -> "Terms":
        if not self.weights:
            raise ValueError("no term has a weight above 0, so there is nothing to train on")
        if "kd" in self.weights and "uld" in self.weights:
            raise ValueError("kd needs one tokenizer and uld is for two; drop one of both")
        return self

    @property
    def need_teacher(self) -> bool:
        """Whether the teacher's view of the text is needed while the student trains."""
        return bool(self.weights.keys() - {"ce", "sequence", "explanations"})

    @property
    def need_teacher_model(self) -> bool:
        """Whether only the teacher itself will do, and no cache of what it said of the corpus."""
        return bool(self.weights.keys() - {"ce", "sequence", "explanations", "kd"})

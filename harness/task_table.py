"""Labelled tasks as the study file has them: what every encoder of the study is fine-tuned on and scored by."""

from typing import Literal

from pydantic import Field, model_validator

from harness.benchmarks import NAME, RESERVED
from harness.terms import Ce, Table, Terms

MASKED = "masked"  # the suite of masked-LM perplexity beside the tasks


class Augment(Table):
    """More texts for a task (TinyBERT, Jiao et al. 2020, algorithm 1): words replaced by what the teacher's masked LM
    would put there."""

    copies: int = Field(4, ge=1, description="new texts made of each; 20 in the paper")
    replace: float = Field(0.4, gt=0, le=1, description="probability that a word is replaced")
    candidates: int = Field(15, ge=1, description="the likeliest words, of which one is drawn")


class Tune(Table):
    """One stage of an arm's fine-tuning on each task; what it does not name is the task's own."""

    terms: Terms | None = Field(
        None, description="ce: labels; kd: the fine-tuned teacher's soft predictions; and the layer terms"
    )
    tokens: int | None = Field(None, gt=0, description="tokens to train on")
    lr: float | None = Field(None, gt=0, description="peak learning rate")
    augment: Augment | None = Field(None, description="train on new texts as well")


class Task(Table):
    """A task with labels: a table of texts, and how the arms are fine-tuned on it."""

    name: str = Field(pattern=NAME, description="name of its suite in bench and report")
    data: str = Field(description="CSV, TSV, Parquet or JSONL with a text and its label: data:..., pypi:... or a path")
    text_column: str = Field("text", description="the column that holds the text")
    pair_column: str | None = Field(None, description="the column that holds a second text")
    label_column: str = Field("label", description="the column that holds the label")
    only: dict[str, str] = Field({}, description="rows that are taken: those with this value in this column")
    labels: dict[str, tuple[str, ...]] = Field(
        {}, description="classes and the labels that belong to each; default: a class for each label"
    )
    items: int | None = Field(None, ge=1, description="texts to train on, by hash; all by default")
    held_out: int = Field(500, ge=2, description="texts to be scored by: so many of one in ten, by hash")
    max_tokens: int = Field(64, ge=4, description="tokens of a text, special ones included; longer ones are cut")
    metric: Literal["acc", "f1"] = Field("acc", description="f1: also the F1 of the first class, beside the accuracy")
    tokens: int = Field(gt=0, description="tokens to train on; the texts repeat if they are shorter")
    lr: float = Field(5e-5, gt=0, description="peak learning rate of AdamW")
    warmup: float = Field(0.1, ge=0, lt=1, description="share of the steps in which the rate rises from 0")
    weight_decay: float = Field(0.01, ge=0, description="AdamW's decoupled weight decay, on matrices only")
    row_tokens: int = Field(512, ge=16, description="tokens packed into one row: a batch of texts")
    accumulate: int = Field(1, ge=1, description="rows per optimiser step")
    terms: Terms = Field(Terms(ce=Ce()), description="what an arm without tune minimises, the teacher too")

    @model_validator(mode="after")
    def _clear(self) -> "Task":
        if self.name in (*RESERVED, MASKED):
            raise ValueError(f"another result is called {self.name!r}; give the task another name")
        if len(self.labels) == 1:
            raise ValueError("labels has one class, and there is nothing to tell apart")
        taken = [label for labels in self.labels.values() for label in labels]
        if twice := next((label for label in taken if taken.count(label) > 1), None):
            raise ValueError(f"labels puts {twice!r} into two classes")
        if self.terms.weights.keys() != {"ce"}:
            raise ValueError("the terms of a task are the teacher's too: ce alone; others belong to [[student.tune]]")
        return self

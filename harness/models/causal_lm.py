"""The family of models that write: packed rows of chats and texts, next tokens, answers."""

from collections.abc import Mapping, Sequence
from typing import Any

from harness.bench.cost_worker import facts, measured
from harness.config import Train
from harness.models.chat_format import end_of_turn
from harness.models.families import CAUSAL_LM, Family
from harness.models.load import load_model
from harness.progress import say
from harness.train.batches import Document, Row, pack, to_batch
from harness.train.evaluate import evaluate, nearness
from harness.train.objective import Objective, backward_row, counts, heads_of
from harness.train.on_policy import rewritten

TERMS = ("kd", "ce", "sequence", "explanations", "on_policy", "hidden", "attention", "embedding", "uld")


def held_out(documents: Sequence[Document], config: Train, objective: Objective) -> list[Row]:
    return pack(documents[: config.evaluate_chats], config.row_tokens)


def heads(student: Any, teacher: Any, objective: Objective) -> Any:
    found = heads_of(student, teacher, objective.chunk)
    if objective.chunk and found[0] is None:
        say("the student's own forward pass computes the logits, all at once (its head cannot be taken apart)")
    return found


def draw(rows: Sequence[Row], step: int, student: Any, objective: Objective, *, seed: int, end: int) -> list[Row]:
    return rewritten(rows, step, student, objective.terms.on_policy, seed=seed, end=end)


def backward(
    student: Any, teacher: Any, row: Row, objective: Objective, totals: Mapping[str, int], heads: Any, device: Any
) -> dict[str, float]:
    batch = to_batch(row, objective.every_token and not row.on_policy, device)
    return backward_row(student, teacher, batch, objective, totals, heads)


def prepare(*args: Any) -> Any:
    from harness.train.stage import prepare

    return prepare(*args)


def objective(*args: Any) -> Any:
    from harness.train.stage import objective_of

    return objective_of(*args)


def save(*args: Any) -> None:
    from harness.train.stage import save_model

    save_model(*args)


def bench(*args: Any) -> Any:
    from harness.stages import bench_texts

    return bench_texts(*args)


FAMILY = Family(
    name=CAUSAL_LM,
    terms=frozenset(TERMS),
    load=load_model,
    prepare=prepare,
    objective=objective,
    held_out=held_out,
    heads=heads,
    draw=draw,
    counts=counts,
    backward=backward,
    evaluate=evaluate,
    merit=nearness,
    save=save,
    bench=bench,
    cost_facts=facts,
    cost_measured=measured,
    end=end_of_turn,
    cached=True,
)

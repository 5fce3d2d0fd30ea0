"""On-policy rows: the student answers the corpus's prompts itself, so that the teacher can grade its own tokens.

Generalised knowledge distillation (Agarwal et al. 2024, algorithm 1): a share of the rows, drawn anew at each step, has
the student's answers in the place of the corpus's.
"""

from collections.abc import Sequence
from typing import Any

from harness.chat import Sampling, seed_for, write_ids
from harness.terms import OnPolicy
from harness.train.batches import Document, Row


def rewritten(rows: Sequence[Row], step: int, student: Any, term: OnPolicy | None, *, seed: int, end: int) -> list[Row]:
    """The rows of a step, a share of them with answers that the student wrote; all as they are without the term.

    Which rows and which tokens is decided by `seed`, `step` and the row's own tokens, so that it does not depend on
    how many processes share the step. `end` is the token that ends a turn.
    """
    if term is None or not term.weight:
        return list(rows)
    return [_answered(row, student, term, seed, step, end) if _drawn(row, term, seed, step) else row for row in rows]


def _drawn(row: Row, term: OnPolicy, seed: int, step: int) -> bool:
    key = row.documents[0].key
    return seed_for(seed, "on-policy row", step, key) % 1_000_000 < term.fraction * 1_000_000


def _answered(row: Row, student: Any, term: OnPolicy, seed: int, step: int, end: int) -> Row:
    prompts = [list(document.ids[: document.scored[0] + 1]) for document in row.documents if document.scored]
    seeds = [seed_for(seed, "on-policy", step, document.key) for document in row.documents if document.scored]
    training = student.training
    student.eval()
    written, ended = write_ids(student, prompts, seeds, Sampling(term.max_tokens, term.sampling), end)
    student.train(training)
    documents = []
    for prompt, ids, stopped in zip(prompts, written, ended, strict=True):
        answer = [*ids, end] if stopped else ids
        documents.append(Document((*prompt, *answer), (False,) * len(prompt) + (True,) * len(answer)))
    return Row(tuple(documents), on_policy=True)

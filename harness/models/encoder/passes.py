"""One row of masked text through an encoder, forward and backward, and its figures on held-out rows.

The objective's own functions do it: a batch of masked rows scores the hidden positions in place, and the head of a
masked LM is a transform before the output matrix.
"""

from collections.abc import Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

from harness.config import Train
from harness.models.encoder.masking import masked, to_batch
from harness.train import evaluate as evaluation
from harness.train.batches import Document, Row, pack
from harness.train.head import Head, _behind
from harness.train.objective import Objective, backward_row

if TYPE_CHECKING:
    pass

WATCHED = -1  # the step whose masks held-out rows have, the same at every evaluation
Heads = tuple[Head | None, Head | None]


def draw(rows: Sequence[Row], step: int, student: Any, objective: Objective, *, seed: int, end: int) -> list[Row]:
    """The rows with the tokens hidden that this step predicts."""
    assert objective.masking is not None
    return masked(rows, objective.masking, seed=seed, step=step)


def held_out(documents: Sequence[Document], config: Train, objective: Objective) -> list[Row]:
    """Held-out rows with the same tokens hidden for every arm and at every evaluation."""
    assert objective.masking is not None
    return masked(pack(documents[: config.evaluate_chats], config.row_tokens), objective.masking, seed=0, step=WATCHED)


def backward(
    student: Any,
    teacher: Any,
    row: Row,
    objective: Objective,
    totals: Mapping[str, int],
    heads: Heads,
    device: Any,
) -> dict[str, float]:
    return backward_row(student, teacher, to_batch(row, device), objective, totals, heads)


def evaluate(student: Any, teacher: Any, rows: Sequence[Row], objective: Objective, heads: Heads) -> dict[str, float]:
    """Perplexity at the hidden tokens and, with a teacher, kl and top1 there."""
    return evaluation.evaluate(student, teacher, rows, objective, heads, to_batch)


def heads_of(student: Any, teacher: Any, objective: Objective) -> Heads:
    """The heads of student and teacher; None for the plain path."""
    if not objective.chunk:
        return None, None
    return head_of(student), head_of(teacher) if teacher is not None else None


def head_of(model: Any) -> Head | None:
    """The head of a masked LM, put to the proof on a few tokens; None where it cannot be taken apart.

    Transform and matrix then run at the hidden positions alone, one token in seven.
    """
    import torch

    linear, body = model.get_output_embeddings(), model.base_model
    if not isinstance(linear, torch.nn.Linear) or body is model:
        return None
    head = Head(linear.weight, linear.bias, None, partial(_behind, model, body, linear))
    training = model.training
    model.eval()
    try:
        with torch.no_grad():
            ids_1T = torch.arange(1, 5, device=linear.weight.device)[None]
            hidden_TD = body(input_ids=ids_1T).last_hidden_state[0]
            wanted_TV = model(input_ids=ids_1T).logits[0]
            found_TV = torch.cat([head.logits(head.taken(hidden_1D)) for hidden_1D in hidden_TD.split(1)])
            return head if torch.allclose(found_TV, wanted_TV.float(), rtol=1e-4, atol=1e-4) else None
    except (TypeError, ValueError, AttributeError, RuntimeError, IndexError):
        return None  # an architecture of another make
    finally:
        model.train(training)

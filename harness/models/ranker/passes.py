"""One step of a ranker's training, and its figures on held-out users.

A row is several histories; each is a document whose tokens are items. Every position of a history is asked for the
item that came next.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from harness.config import Train
from harness.models.ranker import losses
from harness.models.ranker.interactions import Query
from harness.models.ranker.measures import measures
from harness.models.ranker.queries import AT_ONCE, ask, padded
from harness.ranker_table import RankerTable
from harness.terms import Terms
from harness.train import parallel
from harness.train.batches import Document, Row
from harness.train.objective import Objective, forward_precision

if TYPE_CHECKING:
    import torch

WATCHED = ("ndcg@10", "recall@10", "map")


@dataclass(frozen=True)
class RankerObjective(Objective):
    """The terms, and when the ranking term's second weight sets in.

    `vocabulary` is the number of items. `top`: the teacher's best items of the documents it has read so far, by the
    document's key; it reads each one once.
    """

    table: RankerTable = field(default_factory=RankerTable)
    hybrid_step: int = 0
    top: dict[str, "torch.Tensor"] = field(default_factory=dict)


@dataclass(frozen=True)
class Drawn:
    """A row as one step sees it: what is drawn by chance comes from seed, step and document alone."""

    row: Row
    step: int
    seed: int

    @property
    def ids(self) -> tuple[int, ...]:
        return self.row.ids

    def items(self, what: int, count: int, items: int) -> np.ndarray[Any, np.dtype[np.int64]]:
        """`count` items for each position of the row [N, count]; `what` tells draws of several purposes apart."""
        found = []
        for document in self.row.documents:
            rng = np.random.default_rng([self.seed, self.step, what, int(document.key[:16], 16)])
            found.append(rng.integers(items, size=(len(document.ids) - 1, count)))
        return np.concatenate(found)


def draw(rows: Sequence[Row], step: int, student: Any, objective: Objective, *, seed: int, end: int) -> list[Drawn]:
    return [Drawn(row, step, seed) for row in rows]


def held_out(queries: Sequence[Query], config: Train, objective: Objective) -> list[tuple[Query, ...]]:
    """The held-out users on which the student is watched, some at once."""
    watched = queries[: config.evaluate_chats]
    return [tuple(watched[first : first + AT_ONCE]) for first in range(0, len(watched), AT_ONCE)]


def counts(drawn: Drawn, terms: Terms) -> dict[str, int]:
    """Both terms speak of every item of a history but the first."""
    return dict.fromkeys(terms.weights, sum(len(document.ids) - 1 for document in drawn.row.documents))


def backward(
    student: Any,
    teacher: Any,
    drawn: Drawn,
    objective: RankerObjective,
    totals: Mapping[str, int],
    heads: Any,
    device: Any,
) -> dict[str, float]:
    """One forward and backward pass over a row; returns each term's part of the step's loss, unweighted.

    Only scores that a term asks for are computed with a gradient: those of the item that came, of the negatives and of
    the teacher's list. A term of weight 0 is not computed.
    """
    import torch

    weights = objective.terms.weights
    documents = drawn.row.documents
    ids_BT, last_B = padded([document.ids[:-1] for document in documents], device)
    keep_BT = torch.arange(ids_BT.shape[1], device=device) <= last_B[:, None]
    label_N = torch.tensor([item for document in documents for item in document.ids[1:]], device=device)
    with forward_precision(objective.precision, ids_BT.device.type):
        hidden_ND = student.hidden(ids_BT)[keep_BT].to(student.dtype)
    parts: dict[str, torch.Tensor] = {}
    if "ce" in weights:
        negative_NS = torch.from_numpy(drawn.items(0, objective.table.negatives, objective.vocabulary)).to(device)
        scores_NS = student.score_some(hidden_ND, torch.cat([label_N[:, None], negative_NS], -1))
        drawn_NS = negative_NS != label_N[:, None]
        parts["ce"] = losses.observed_loss(scores_NS[:, 0], scores_NS[:, 1:], drawn_NS).sum()
    if "ranking" in weights:
        top_NK = torch.cat([_top(teacher, document, objective, device) for document in documents])
        mine_NK = student.score_some(hidden_ND, top_NK)
        weight_NK = _ranking_weights(student, drawn, objective, hidden_ND.detach(), top_NK, mine_NK.detach())
        parts["ranking"] = losses.ranking_loss(mine_NK, weight_NK).sum()
    torch.stack([weights[name] / totals[name] * value for name, value in parts.items()]).sum().backward()
    return {name: float(value.detach()) / totals[name] for name, value in parts.items()}


def _ranking_weights(
    student: Any,
    drawn: Drawn,
    objective: RankerObjective,
    hidden_ND: "torch.Tensor",
    top_NK: "torch.Tensor",
    mine_NK: "torch.Tensor",
) -> "torch.Tensor":
    """The weight of each item of the teacher's list: its place in it and, later on, how low the student places it."""
    import torch

    table = objective.terms.ranking
    assert table is not None
    place_K = losses.place_weights(table.k, table.sharpness).to(mine_NK.device)
    if drawn.step < objective.hybrid_step:
        return place_K.expand_as(mine_NK)
    with torch.no_grad():
        if table.samples is None:
            rank_NK = losses.ranks_of(student.score(hidden_ND), top_NK)
        else:
            some_NS = torch.from_numpy(drawn.items(1, table.samples, objective.vocabulary)).to(mine_NK.device)
            rank_NK = losses.sampled_ranks(student.score_some(hidden_ND, some_NS), mine_NK, objective.vocabulary)
        return losses.hybrid_weights(place_K, losses.discrepancy_weights(rank_NK, table.mu), table.normalise)


def _top(teacher: Any, document: Document, objective: RankerObjective, device: Any) -> "torch.Tensor":
    """The teacher's best items at each position of a document, best first [T, K].

    Left out are what the user had in the document until then, and what came next: they are observed.
    """
    import torch

    table = objective.terms.ranking
    assert table is not None
    if document.key not in objective.top:
        with torch.no_grad():
            ids_T = torch.tensor(document.ids, device=device)
            scores_TV = teacher.score(teacher.hidden(ids_T[None, :-1])[0]).float()
            position, item = torch.tril_indices(len(ids_T) - 1, len(ids_T), offset=1, device=device)
            scores_TV[position, ids_T[item]] = -torch.inf
            objective.top[document.key] = scores_TV.topk(table.k).indices
    return objective.top[document.key]


def evaluate(
    student: Any, teacher: Any, rows: Sequence[Sequence[Query]], objective: Objective, heads: Any
) -> dict[str, float]:
    """Means over held-out users; of several processes each brings `rows` of its own."""
    training = student.training
    student.eval()
    sums: dict[str, float] = dict.fromkeys(("users", *WATCHED), 0.0)
    for queries in rows:
        for rank, _ in ask(student, queries):
            found = measures([rank])
            sums = {name: value + (1 if name == "users" else found[name]) for name, value in sums.items()}
    student.train(training)
    sums = parallel.add_up(sums)
    return {name: sums[name] / sums["users"] for name in WATCHED}


def merit(figures: Mapping[str, float]) -> float:
    """Lower is better."""
    return -figures["ndcg@10"]

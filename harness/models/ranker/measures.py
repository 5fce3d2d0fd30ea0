"""How good a ranking is: precision, recall, nDCG and average precision of one user's list of items.

Gains are binary. With a single relevant item, as in leave-one-out, recall at k is whether it is among the first k,
precision is that divided by k, and average precision is the reciprocal of its rank.
"""

import math
from collections.abc import Sequence

CUTS = (10, 5, 3)  # the first gives the report's headline
NAMES = (*(f"{what}@{cut}" for what in ("ndcg", "precision", "recall") for cut in CUTS), "map")


def precision(ranks: Sequence[int], cut: int) -> float:
    """Share of the first `cut` places that hold a relevant item; `ranks` are the relevant items' places, from 1."""
    return sum(rank <= cut for rank in ranks) / cut


def recall(ranks: Sequence[int], cut: int) -> float:
    """Share of the relevant items that stand on the first `cut` places."""
    return sum(rank <= cut for rank in ranks) / len(ranks)


def ndcg(ranks: Sequence[int], cut: int) -> float:
    """Sum of 1 / log2(1 + rank) over relevant items on the first `cut` places, over the most it could be.

    Source: Järvelin and Kekäläinen 2002, with binary gains.
    """
    best = sum(1 / math.log2(1 + rank) for rank in range(1, min(len(ranks), cut) + 1))
    return sum(1 / math.log2(1 + rank) for rank in ranks if rank <= cut) / best


def average_precision(ranks: Sequence[int]) -> float:
    """Mean, over relevant items, of the precision at each one's place; over users, its mean is MAP."""
    return sum(place / rank for place, rank in enumerate(sorted(ranks), 1)) / len(ranks)


def measures(ranks: Sequence[int]) -> dict[str, float]:
    """All measures of one user's list, by the names in NAMES."""
    found = {f"ndcg@{cut}": ndcg(ranks, cut) for cut in CUTS}
    found |= {f"precision@{cut}": precision(ranks, cut) for cut in CUTS}
    found |= {f"recall@{cut}": recall(ranks, cut) for cut in CUTS}
    return found | {"map": average_precision(ranks)}

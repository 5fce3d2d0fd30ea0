"""What is read together: rows of pieces, in the order of the plan."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from harness.bench.plan import Plan


def needed(plan: Plan, wanted: np.ndarray) -> list[int]:
    """The pieces that must be read for the predictions whose flat index is `wanted` [N], with what they build on."""
    asked: set[tuple[int, int]] = set()
    found = []
    for number in reversed(range(len(plan.pieces))):
        piece = plan.pieces[number]
        end = (piece.chain, piece.context - plan.chains[piece.chain].start) if piece.chain is not None else None
        if wanted[piece.slot].any() or end in asked:
            found.append(number)
            asked.update(plan.past_of(piece)[:1])
    return found[::-1]


@dataclass(frozen=True)
class Row:
    """Pieces (by number) that are read in one forward pass, each after what it builds on."""

    pieces: list[int]


def pack(plan: Plan, todo: Sequence[int], budget: int) -> list[Row]:
    """Rows of at most `budget` tokens of the pieces `todo`; a larger piece, and one read alone, has its own."""
    rows: list[Row] = []
    room = 0
    for number in todo:
        piece = plan.pieces[number]
        if not rows or piece.alone or len(piece.ids) > room:
            rows.append(Row([]))
            room = budget
        rows[-1].pieces.append(number)
        room = 0 if piece.alone else room - len(piece.ids)
    return rows

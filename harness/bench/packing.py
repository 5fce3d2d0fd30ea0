"""What is read together: rows of pieces, in an order that keeps every thread busy and little in memory."""

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from harness.bench.plan import Plan


def needed(plan: Plan, wanted: np.ndarray) -> list[int]:
    """The pieces that must be read for the predictions whose flat index is `wanted` [N], with what they build on."""
    asked: set[tuple[int | None, int]] = set()
    found = []
    for number in reversed(range(len(plan.pieces))):
        piece = plan.pieces[number]
        if wanted[piece.slot].any() or (piece.chain is not None and (piece.chain, piece.context) in asked):
            found.append(number)
            asked.add((piece.source, piece.past))
    return found[::-1]


@dataclass(frozen=True)
class Row:
    """Pieces (by number) that are read in one forward pass, once all rows `after` are done."""

    pieces: list[int]
    after: frozenset[int]


def pack(plan: Plan, todo: Sequence[int], budget: int, workers: int = 1) -> list[Row]:
    """Rows of at most `budget` tokens (a larger piece has a row of its own) of the pieces `todo`, in a fixed order.

    Each row can run as soon as the rows before it in the list are done, but for at most `workers` - 1 of them.
    """
    writer: dict[tuple[int | None, int], int] = {}  # (chain, tokens in it) -> the piece that brought it there
    followers: dict[int, list[int]] = {}
    ready: deque[int] = deque()
    before: dict[int, int] = {}
    for number in todo:
        piece = plan.pieces[number]
        if piece.chain is not None:
            writer[piece.chain, piece.context] = number
        if (earlier := writer.get((piece.source, piece.past))) is not None:
            before[number] = earlier
            followers.setdefault(earlier, []).append(number)
        else:
            ready.append(number)
    rows: list[Row] = []
    row_of: dict[int, int] = {}
    while ready:
        together: list[list[int]] = []
        while ready and len(together) < workers:
            pieces = [ready.popleft()]
            used = budget if plan.pieces[pieces[0]].alone else len(plan.pieces[pieces[0]].ids)
            while ready and used + len(plan.pieces[ready[0]].ids) <= budget and not plan.pieces[ready[0]].alone:
                used += len(plan.pieces[ready[0]].ids)
                pieces.append(ready.popleft())
            together.append(pieces)
        for pieces in together:
            row_of |= dict.fromkeys(pieces, len(rows))
            rows.append(Row(pieces, frozenset(row_of[before[number]] for number in pieces if number in before)))
        # What follows comes next, so that little has to be remembered at a time.
        for pieces in reversed(together):
            for number in reversed(pieces):
                ready.extendleft(reversed(followers.get(number, ())))
    return rows

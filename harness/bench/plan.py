"""What is read in which order: sequences that begin alike are cut so that each beginning is read once.

The sequences to score form a tree of tokens. It is cut into pieces: a *chain* is a run of tokens that goes on where
another ended, in pieces of at most `PIECE` tokens; a *bush* is one piece that holds several short sequences as
branches, each token seeing only its own ancestors. Behind a beginning that several sequences share, keys and values
are kept, and everything after it attends to them.

The pieces depend on the sequences alone. The token budget decides only how many pieces are read together, and a piece
is computed in the same way in any company: that is why no result depends on the budget.
"""

import itertools
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

PIECE = 256
"""Tokens of a piece at most: intermediate results stay in the processor's cache."""
BUSH = 256
"""Tokens of a bush at most: its attention costs the square."""
MERGE = 48
"""Short neighbours are read as one bush up to so many tokens: fewer calls."""
PAIRS = 3000
"""So many pairs of tokens in attention cost as much as one token everywhere else (6 times the width, roughly)."""
SHARED = 32
"""The shortest common beginning that is worth keeping keys and values of."""


@dataclass(frozen=True)
class Span:
    """One sequence to score: reading `ids`, the model predicts `targets[k]` at position `at[k]`."""

    ids: Sequence[int]
    at: Sequence[int]
    targets: Sequence[int]

    @classmethod
    def ending(cls, ids: Sequence[int], targets: Sequence[int]) -> "Span":
        """A span whose last positions predict `targets`."""
        return cls(ids, range(len(ids) - len(targets), len(ids)), targets)


@dataclass(frozen=True)
class Piece:
    """Tokens that are read in one forward pass, behind the first `past` tokens of the text that ends in chain `source`.

    `ids`, `positions`: [T]. `visible`: [T, T], True where a token (row) sees another of the piece, None where it is
    plainly causal. `chain`: where its keys and values are kept for later pieces; None where nobody asks for them.
    `keep`: [S] places at which something is predicted, ascending. The n-th prediction is made at `keep[place[n]]`, is
    `target[n]`, and belongs to the flat index `slot[n]` (see `Plan`). A piece that is `alone` is a whole sequence for
    the model's own forward.
    """

    ids: np.ndarray
    positions: np.ndarray
    visible: np.ndarray | None
    source: int | None
    past: int
    chain: int | None
    keep: np.ndarray
    place: np.ndarray
    target: np.ndarray
    slot: np.ndarray
    alone: bool = False

    @property
    def context(self) -> int:
        """Tokens of its past and its own."""
        return self.past + len(self.ids)


@dataclass(frozen=True)
class Chain:
    """`length` tokens whose keys and values are kept; they stand at `start`, behind the end of chain `parent`."""

    parent: int | None
    start: int
    length: int


@dataclass(frozen=True)
class Plan:
    """Pieces in an order in which each comes after its past, and the chains that they fill and build on.

    The predictions of span i have the flat indices `offsets[i]` to `offsets[i + 1]`, in the order of its targets.
    """

    pieces: list[Piece]
    chains: list[Chain]
    offsets: np.ndarray

    def past_of(self, piece: Piece) -> list[tuple[int, int]]:
        """What a piece builds on, the nearest first: (chain, how many of its tokens)."""
        found = []
        source, past = piece.source, piece.past
        while source is not None:
            chain = self.chains[source]
            found.append((source, past - chain.start))
            source, past = chain.parent, chain.start
        return found


@dataclass
class _Planner:
    """The cutting: `order` sorts the spans, `common[k]` is what the k-th of them shares with the one before it."""

    ids: list[np.ndarray]
    at: list[np.ndarray]
    targets: list[np.ndarray]
    order: list[int]
    common: np.ndarray
    offsets: np.ndarray
    piece: int
    merge: int = 0
    pieces: list[Piece] = field(default_factory=list)
    chains: list[Chain] = field(default_factory=list)


def make_plan(spans: Sequence[Span], *, limit: int = 1 << 30, piece: int = PIECE, merge: int | None = None) -> Plan:
    """Cut spans into pieces; those without targets get none, those longer than `limit` tokens are read alone."""
    offsets = np.concatenate([[0], np.cumsum([len(span.targets) for span in spans], dtype=np.int64)]).astype(np.int64)
    ids, at, targets = (
        [np.asarray(getattr(span, name), dtype=np.int64) for span in spans] for name in ("ids", "at", "targets")
    )
    # As big-endian bytes, token sequences sort and compare at the speed of memory.
    keys = [one.astype(">u4").tobytes() for one in ids]
    order = sorted((i for i in range(len(spans)) if len(targets[i])), key=lambda i: keys[i])
    alone = [i for i in order if len(ids[i]) > limit]
    order = [i for i in order if len(ids[i]) <= limit]
    common = np.zeros(len(order), dtype=np.int64)
    for place in range(1, len(order)):
        common[place] = _common(ids[order[place - 1]], ids[order[place]])
    planner = _Planner(ids, at, targets, order, common, offsets, piece, min(MERGE if merge is None else merge, BUSH))
    roots = _groups(planner, 0, len(order), 0) if order else []
    # The largest first: memory that is short shows at once.
    roots.sort(key=lambda root: -_fresh(planner, *root, 0))
    for start, stop in roots:
        _grow(planner, start, stop)
    for _, same in itertools.groupby(alone, key=lambda i: keys[i]):
        members = list(same)
        whole = np.arange(len(ids[members[0]]))
        predicted = [(at[i], targets[i], offsets[i] + np.arange(len(at[i]))) for i in members]
        planner.pieces.append(_piece(ids[members[0]], whole, None, None, 0, None, predicted, alone=True))
    return Plan(planner.pieces, planner.chains, offsets)


def _common(a: np.ndarray, b: np.ndarray) -> int:
    size = min(len(a), len(b))
    different = np.flatnonzero(a[:size] != b[:size])
    return int(different[0]) if len(different) else size


def _fresh(planner: _Planner, start: int, stop: int, depth: int) -> int:
    """Tokens of the spans from `start` to `stop` beyond `depth`, shared ones once."""
    lengths = sum(len(planner.ids[i]) for i in planner.order[start:stop])
    return lengths - depth - int(planner.common[start + 1 : stop].sum())


def _groups(planner: _Planner, start: int, stop: int, depth: int) -> list[tuple[int, int]]:
    """The spans from `start` to `stop` in groups that share more than `depth` tokens, short neighbours in one."""
    cuts = [start, *(start + 1 + np.flatnonzero(planner.common[start + 1 : stop] <= depth)).tolist(), stop]
    groups: list[tuple[int, int]] = []
    size = 0
    for first, last in itertools.pairwise(cuts):
        fresh = _fresh(planner, first, last, depth)
        if groups and size + fresh <= planner.merge:
            groups[-1] = (groups[-1][0], last)
            size += fresh
        else:
            groups.append((first, last))
            size = fresh
    return groups


def _grow(planner: _Planner, start: int, stop: int) -> None:
    """Cut one group of spans: what all share becomes a chain, and what comes after it groups of its own."""
    stack: list[tuple[int, int, int, int | None]] = [(start, stop, 0, None)]
    while stack:
        start, stop, depth, source = stack.pop()
        if stop - start == 1:
            _add_chain(planner, [start], depth, len(planner.ids[planner.order[start]]), source, keep=False)
            continue
        shared = int(planner.common[start + 1 : stop].min())
        groups = _groups(planner, start, stop, shared)
        if _better_together(planner, start, stop, depth, shared, groups):
            _add_bush(planner, range(start, stop), depth, source)
            continue
        if shared - depth >= SHARED:
            source = _add_chain(planner, range(start, stop), depth, shared, source, keep=True)
            depth = shared
        stack += [(*group, depth, source) for group in reversed(groups)]


def _better_together(
    planner: _Planner, start: int, stop: int, depth: int, shared: int, groups: Sequence[tuple[int, int]]
) -> bool:
    """Whether one bush costs less than its groups apart, which read again what all share beyond `depth`."""
    fresh = _fresh(planner, start, stop, depth)
    if fresh > BUSH or shared - depth >= SHARED:
        return fresh <= BUSH
    apart = [_fresh(planner, *group, depth) for group in groups]
    return fresh + fresh**2 / PAIRS <= sum(one + one**2 / PAIRS for one in apart)


def _add_chain(
    planner: _Planner, places: Sequence[int], depth: int, end: int, source: int | None, keep: bool
) -> int | None:
    """Add the tokens from `depth` to `end`, which all spans at `places` have; returns the chain that remembers them."""
    ids = planner.ids[planner.order[places[0]]]
    starts = range(depth, end, planner.piece)
    kept = end if keep else starts[-1] if starts else depth
    chain = None
    if kept > depth:
        chain = len(planner.chains)
        planner.chains.append(Chain(source, depth, kept - depth))
    for first in starts:
        last = min(first + planner.piece, end)
        predicted = [_between(planner, planner.order[place], first, last, first) for place in places]
        planner.pieces.append(
            _piece(
                ids[first:last],
                np.arange(first, last),
                None,
                source if first == depth else chain,
                first,
                chain if last <= kept else None,
                predicted,
            )
        )
    return chain


def _between(
    planner: _Planner, i: int, first: int, last: int, offset: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """What span i predicts from `first` up to `last`: places counted from `offset`, targets, flat indices."""
    which = np.flatnonzero((planner.at[i] >= first) & (planner.at[i] < last))
    return planner.at[i][which] - offset, planner.targets[i][which], planner.offsets[i] + which


def _add_bush(planner: _Planner, places: range, depth: int, source: int | None) -> None:
    """Add everything that the spans at `places` have beyond `depth`, as branches of one piece."""
    ids: list[np.ndarray] = []
    positions: list[np.ndarray] = []
    branches: list[tuple[int, int, np.ndarray]] = []  # (first new place, end, places of the ancestors)
    predicted = []
    path = np.empty(0, dtype=np.int64)
    start = 0
    for place in places:
        i = planner.order[place]
        common = max(0, int(planner.common[place]) - depth) if place > places.start else 0
        own = planner.ids[i][depth + common :]
        end = start + len(own)
        ids.append(own)
        positions.append(np.arange(depth + common, depth + common + len(own)))
        branches.append((start, end, path[:common]))
        path = np.concatenate([path[:common], np.arange(start, end)])
        at, target, slot = _between(planner, i, depth, len(planner.ids[i]), depth)
        predicted.append((path[at], target, slot))
        start = end
    if start == 0:  # all of them end where their past does
        return
    visible = None
    # One branch after another, each going on where the last one ended, is a plain causal sequence.
    if any(len(ancestors) < first for first, end, ancestors in branches if first < end):
        visible = np.zeros((start, start), dtype=bool)
        for first, end, ancestors in branches:
            visible[first:end, ancestors] = True
            visible[first:end, first:end] = np.tri(end - first, dtype=bool)
    whole = np.concatenate(ids), np.concatenate(positions)
    planner.pieces.append(_piece(*whole, visible, source, depth, None, predicted))


def _piece(
    ids: np.ndarray,
    positions: np.ndarray,
    visible: np.ndarray | None,
    source: int | None,
    past: int,
    chain: int | None,
    predicted: Sequence[tuple[np.ndarray, np.ndarray, np.ndarray]],
    *,
    alone: bool = False,
) -> Piece:
    where, target, slot = (np.concatenate(parts) for parts in zip(*predicted, strict=True))
    keep, place = np.unique(where, return_inverse=True)
    return Piece(ids, positions, visible, source, past, chain, keep, place, target, slot, alone)


@dataclass(frozen=True)
class Prompts:
    """A plan for prompts that texts are written after, in which the prediction after prompt k has the flat index k.

    `chains[k]` remembers prompt k behind the first `depth` tokens, which are those of chain `shared` (None: 0 tokens).
    `pieces[k]` are its pieces; those of the shared chain belong to the first prompt.
    """

    plan: Plan
    chains: list[int]
    pieces: list[list[int]]
    shared: int | None
    depth: int


def prompts_plan(prompts: Sequence[np.ndarray], piece: int = PIECE) -> Prompts:
    """Cut prompts into chains; what all of them begin with is a chain that the others branch off."""
    ends = [Span.ending(prompt, [0]) for prompt in prompts]
    offsets = np.arange(len(prompts) + 1)
    at, targets = ([np.asarray(getattr(end, name), dtype=np.int64) for end in ends] for name in ("at", "targets"))
    planner = _Planner(list(prompts), at, targets, list(range(len(prompts))), np.zeros(0), offsets, piece)
    shortest = min(prompts, key=len)
    depth = min(_common(shortest, prompt) for prompt in prompts) if len(prompts) > 1 else 0
    depth = min(depth, len(shortest) - 1)  # each has a token of its own
    shared = _add_chain(planner, [0], 0, depth, None, keep=True) if depth >= SHARED else None
    depth = depth if shared is not None else 0
    chains, pieces = [], []
    for k, prompt in enumerate(prompts):
        start = len(planner.pieces) if k else 0
        chain = _add_chain(planner, [k], depth, len(prompt), shared, keep=True)
        assert chain is not None
        chains.append(chain)
        pieces.append(list(range(start, len(planner.pieces))))
    return Prompts(Plan(planner.pieces, planner.chains, offsets), chains, pieces, shared, depth)

"""A plan is right when every prediction sees exactly the tokens that stand before it in its own sequence."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from harness.bench import plan as planning
from harness.bench.packing import needed, pack
from harness.bench.plan import Span, make_plan, prompts_plan

TOKENS = st.lists(st.integers(0, 2), min_size=1, max_size=14)


@pytest.fixture(autouse=True, scope="module")
def small_pieces():
    """Constants so small that short sequences are cut in every way there is."""
    names = {"BUSH": 12, "MERGE": 6, "SHARED": 3, "PAIRS": 20}
    with pytest.MonkeyPatch.context() as patch:
        for name, value in names.items():
            patch.setattr(planning, name, value)
        yield


def spans_of(sequences, lengths):
    return [Span.ending(ids, [7] * min(length, len(ids))) for ids, length in zip(sequences, lengths, strict=False)]


def contexts(plan, order):
    """What each prediction sees, by its flat index, when the pieces are read in this order."""
    memory: dict[int, list[int]] = {}
    seen = {}
    for number in order:
        piece = plan.pieces[number]
        parts = [memory[chain][:length] for chain, length in plan.past_of(piece)]
        past = [token for part in reversed(parts) for token in part]
        assert len(past) == piece.past
        size = len(piece.ids)
        visible = np.tri(size, dtype=bool) if piece.visible is None else piece.visible
        for place, slot in zip(piece.keep[piece.place], piece.slot, strict=True):
            own = np.flatnonzero(visible[place])
            assert piece.positions[own].tolist() == list(range(piece.past, piece.past + len(own)))
            seen[int(slot)] = past + piece.ids[own].tolist()
        if piece.chain is not None:
            kept = memory.setdefault(piece.chain, [])
            assert len(kept) == piece.past - plan.chains[piece.chain].start
            kept += piece.ids.tolist()
            assert len(kept) <= plan.chains[piece.chain].length
    return seen


@given(st.lists(TOKENS, max_size=12), st.lists(st.integers(0, 5), min_size=12, max_size=12), st.integers(2, 9))
def test_every_prediction_sees_its_own_past(sequences, lengths, piece):
    spans = spans_of(sequences, lengths)
    plan = make_plan(spans, piece=piece)
    seen = contexts(plan, range(len(plan.pieces)))
    expected = {
        int(plan.offsets[i]) + k: list(span.ids[: at + 1])
        for i, span in enumerate(spans)
        for k, at in enumerate(span.at)
    }
    assert seen == expected
    assert all(len(one.ids) <= max(piece, planning.BUSH) for one in plan.pieces)


@given(st.lists(TOKENS, max_size=12), st.integers(2, 9), st.integers(1, 40), st.sets(st.integers(0, 11)))
def test_rows_keep_order_and_budget(sequences, piece, budget, asked):
    spans = spans_of(sequences, [3] * 12)
    plan = make_plan(spans, piece=piece)
    wanted = np.zeros(plan.offsets[-1], dtype=bool)
    for i in asked & set(range(len(spans))):
        wanted[plan.offsets[i] : plan.offsets[i + 1]] = True
    todo = needed(plan, wanted)
    rows = pack(plan, todo, budget)
    order = [number for row in rows for number in row.pieces]
    assert order == todo
    assert wanted[list(contexts(plan, order))].sum() == wanted.sum()
    sizes = [sum(len(plan.pieces[number].ids) for number in row.pieces) for row in rows]
    assert all(size <= budget or len(row.pieces) == 1 for size, row in zip(sizes, rows, strict=True))


@given(st.lists(TOKENS, min_size=1, max_size=8), st.integers(2, 9))
def test_prompts_have_chains_that_remember_them(prompts, piece):
    found = prompts_plan([np.array(one) for one in prompts], piece)
    assert contexts(found.plan, range(len(found.plan.pieces))) == {k: list(one) for k, one in enumerate(prompts)}
    assert [found.plan.chains[chain].length + found.depth for chain in found.chains] == [len(one) for one in prompts]
    assert all(found.plan.chains[chain].parent == found.shared for chain in found.chains)
    assert [n for some in found.pieces for n in some] == list(range(len(found.plan.pieces)))


def test_a_shared_beginning_is_read_once():
    stem = list(range(100, 140))
    spans = [Span.ending([*stem, k, k + 1, k + 2], [1, 2]) for k in range(50)]
    plan = make_plan(spans)
    assert sum(len(piece.ids) for piece in plan.pieces) == 40 + 50 * 3


def test_the_endings_of_an_item_are_branches_of_one_piece():
    spans = [Span.ending([5, 6, 7, k, 9], [1, 2]) for k in range(4)]
    (piece,) = make_plan(spans).pieces
    assert len(piece.ids) == 3 + 4 * 2
    assert piece.positions.max() == 4
    assert len(piece.keep) == 4 * 2


def test_little_in_common_is_read_again_where_that_is_cheaper():
    spans = [Span.ending([5, item, item + 1, item + 2, item + 3], [1]) for item in (10, 20)]
    assert [len(piece.ids) for piece in make_plan(spans, merge=0).pieces] == [5, 5]


def test_what_is_too_long_for_the_model_to_be_cut_is_alone():
    spans = [Span.ending([1] * size, [2]) for size in (3, 9, 9)]
    plan = make_plan(spans, limit=8)
    assert [(piece.alone, len(piece.ids), len(piece.slot)) for piece in plan.pieces] == [(False, 3, 1), (True, 9, 2)]
    assert [len(row.pieces) for row in pack(plan, range(2), 100)] == [1, 1]

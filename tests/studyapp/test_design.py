"""The study's design: what holds for every number of scenarios, arms and raters, whatever the seed."""

from collections import Counter
from dataclasses import replace
from itertools import combinations, pairwise

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from studyapp.design import Plan, codes, most_repeats, pages_per_rater, panels, session, sizes
from studyapp.design_extras import Page
from studyapp.design_rows import template, williams

MODES = ("fixed", "live", "side-by-side")


def spread(counts):
    counts = list(counts)
    return max(counts) - min(counts)


@st.composite
def plans(draw, crossing, modes=MODES, limited=False):
    """A small study; `modes` are those that its scenarios may have."""
    arms = tuple(f"arm{number}" for number in range(draw(st.integers(2, 5))))
    kinds = draw(st.sampled_from([(mode,) for mode in modes] + ([modes] if len(modes) > 1 else [])))
    scenarios = {f"s{number}": draw(st.sampled_from(kinds)) for number in range(draw(st.integers(1, 9)))}
    side = draw(st.sampled_from([side for side in (2, 3, 4) if crossing == "between" or splits(len(arms), side)]))
    most = draw(st.integers(1, 4)) if limited else draw(st.one_of(st.none(), st.integers(1, 4)))
    per_rater = draw(st.integers(1, len(scenarios)))
    return Plan(scenarios, arms, crossing, per_rater, most, side, seed=draw(st.integers(0, 2**31)))


def splits(arms, side):
    try:
        return bool(sizes(arms, side))
    except ValueError:
        return False


def sessions_of(plan, raters):
    """The sessions of so many raters, fewer if the study is full before."""
    found = []
    for slot in range(raters):
        pages = session(plan, found, slot)
        if not pages:
            break
        found.append(pages)
    return found


def cells_of(plan, sessions):
    dealt = Counter((page.scenario, arm) for pages in sessions for page in pages for arm in page.arms)
    return {(scenario, arm): dealt[scenario, arm] for scenario in plan.scenarios for arm in plan.arms}


def loads(plan, pages):
    met = Counter(arm for page in pages for arm in page.arms)
    return [met[arm] for arm in plan.arms]


THOUSAND = settings(max_examples=1000, deadline=None, suppress_health_check=list(HealthCheck))
HUNDREDS = settings(max_examples=200, deadline=None, suppress_health_check=list(HealthCheck))


@given(plans("within"), st.integers(1, 8))
@THOUSAND
def test_within_raters_every_promise_holds_whoever_comes_next(plan, raters):
    sessions = sessions_of(plan, raters)
    for pages in sessions:
        scenarios = Counter(page.scenario for page in pages for _ in page.arms)
        assert set(scenarios.values()) == {len(plan.arms)}  # each scenario with every arm
        assert len({(page.scenario, arm) for page in pages for arm in page.arms}) == sum(scenarios.values())
        assert spread(loads(plan, pages)) == 0
        assert len(scenarios) <= plan.per_rater
        for page in pages:
            assert page.mode == plan.scenarios[page.scenario]
            assert len(page.arms) == 1 if page.mode != "side-by-side" else 2 <= len(page.arms) <= plan.side
    for number in range(1, len(sessions) + 1):
        filled = cells_of(plan, sessions[:number])
        assert spread(filled.values()) <= 1
        assert plan.ratings_per_cell is None or max(filled.values()) <= plan.ratings_per_cell


@given(plans("between"), st.integers(1, 8))
@THOUSAND
def test_between_raters_every_promise_holds_whoever_comes_next(plan, raters):
    sessions = sessions_of(plan, raters)
    width = min(plan.side, len(plan.arms))
    wide = "side-by-side" in plan.scenarios.values() and len(plan.arms) % width
    alike = len(set(plan.scenarios.values()) - {"live"}) == 1 and set(plan.scenarios.values()) != {
        "live",
        "side-by-side",
    }
    for pages in sessions:
        assert len({page.scenario for page in pages}) == len(pages) <= plan.per_rater  # none twice
        assert all(len(set(page.arms)) == len(page.arms) for page in pages)
        assert all(len(page.arms) == (width if page.mode == "side-by-side" else 1) for page in pages)
    for number in range(1, len(sessions) + 1):
        filled = cells_of(plan, sessions[:number])
        for scenario in plan.scenarios:
            assert spread(filled[scenario, arm] for arm in plan.arms) <= 1
        if alike and len(plan.arms) <= plan.per_rater and not wide:
            assert spread(filled.values()) <= 1
        if plan.ratings_per_cell is not None:
            assert max(filled.values()) <= plan.ratings_per_cell + (1 if wide else 0)


@given(plans("between", modes=("fixed",)), st.integers(1, 10))
@HUNDREDS
def test_between_raters_each_meets_every_arm_equally_often(plan, raters):
    plan = replace(plan, ratings_per_cell=None)
    for pages in sessions_of(plan, raters):
        assert spread(loads(plan, pages)) <= 1
        assert len(pages) == plan.per_rater


@given(plans("between", modes=("side-by-side",)), st.integers(1, 8))
@HUNDREDS
def test_between_raters_pages_with_several_arms_share_them_out_too(plan, raters):
    plan = replace(plan, ratings_per_cell=None)
    for pages in sessions_of(plan, raters):
        assert spread(loads(plan, pages)) <= 2  # pages cannot be parted: one too many here and there


@given(plans("between", modes=("fixed",)), st.integers(1, 12))
@HUNDREDS
def test_between_raters_arms_take_turns_at_each_position(plan, raters):
    whole = len(plan.arms) * (len(plan.scenarios) // len(plan.arms))
    if whole:
        plan = replace(plan, ratings_per_cell=None, per_rater=whole)
        stood = Counter((at, page.arms[0]) for pages in sessions_of(plan, raters) for at, page in enumerate(pages))
        for at in range(whole):
            assert spread(stood[at, arm] for arm in plan.arms) <= 1


@given(plans("within", modes=("fixed",)), st.integers(1, 10))
@HUNDREDS
def test_meetings_with_a_scenario_are_as_far_apart_as_they_can_be(plan, raters):
    for pages in sessions_of(plan, raters):
        dealt = len({page.scenario for page in pages})
        last: dict[str, int] = {}
        for position, page in enumerate(pages):
            assert position - last.get(page.scenario, position - dealt) == dealt
            last[page.scenario] = position


@given(plans("within", modes=("fixed",)), st.integers(1, 12))
@HUNDREDS
def test_for_each_scenario_the_arms_take_turns_at_coming_first(plan, raters):
    met = Counter()
    for pages in sessions_of(plan, raters):
        dealt = len({page.scenario for page in pages})
        met.update((page.scenario, page.arms[0], at // dealt) for at, page in enumerate(pages))
    for scenario in plan.scenarios:
        for block in range(len(plan.arms)):
            assert spread(met[scenario, arm, block] for arm in plan.arms) <= 1


@given(plans("within", modes=("fixed",)), st.integers(1, 10))
@HUNDREDS
def test_within_a_session_no_block_prefers_an_arm(plan, raters):
    most = 4 if len(plan.arms) % 2 else 2  # odd numbers of arms take two squares, and a session may straddle them
    for pages in sessions_of(plan, raters):
        dealt = len({page.scenario for page in pages})
        for block in range(len(plan.arms)):
            part = Counter(page.arms[0] for page in pages[block * dealt : (block + 1) * dealt])
            assert spread(part[arm] for arm in plan.arms) <= most


@given(plans("within", modes=("fixed",)), st.integers(1, 10))
@HUNDREDS
def test_each_scenario_stands_equally_often_at_each_place(plan, raters):
    plan = replace(plan, per_rater=len(plan.scenarios), ratings_per_cell=None)
    sessions = sessions_of(plan, raters)
    places = range(len(plan.scenarios))
    stood = Counter((page.scenario, at) for pages in sessions for at, page in zip(places, pages, strict=False))
    for scenario in plan.scenarios:
        assert spread(stood[scenario, place] for place in places) <= 1


@given(plans("within", modes=("fixed", "side-by-side")))
@HUNDREDS
def test_after_a_whole_round_every_arm_has_followed_every_other_one_equally_often(plan):
    """Carry-over (Williams): counted for each scenario in the order in which raters meet its arms."""
    n = len(plan.arms)
    plan = replace(plan, per_rater=len(plan.scenarios), ratings_per_cell=None, side=4 if n <= 4 else 3)
    sessions = sessions_of(plan, n if n % 2 == 0 else 2 * n)
    for scenario, mode in plan.scenarios.items():
        if mode == "fixed" or n <= plan.side:
            rows = [[arm for page in pages if page.scenario == scenario for arm in page.arms] for pages in sessions]
            follows = Counter(pair for row in rows for pair in pairwise(row))
            assert len(follows) == n * (n - 1)
            assert spread(follows.values()) == 0


@given(plans("within", modes=("side-by-side",)))
@settings(max_examples=60, deadline=None, suppress_health_check=list(HealthCheck))
def test_side_by_side_each_arm_stands_equally_often_at_each_place(plan):
    n = len(plan.arms)
    plan = replace(plan, per_rater=len(plan.scenarios), ratings_per_cell=None)
    most = 1 if n <= plan.side else 3  # pages of part of the arms look after pairs first
    stood = Counter()
    for pages in sessions_of(plan, 2 * n):
        stood.update((page.scenario, arm, place) for page in pages for place, arm in enumerate(page.arms))
        for scenario in plan.scenarios:
            for place in range(min(plan.side, n)):
                assert spread(stood[scenario, arm, place] for arm in plan.arms) <= most


@pytest.mark.parametrize(("crossing", "arms", "side"), [("between", 4, 2), ("between", 3, 2), ("within", 4, 2)])
def test_side_by_side_pairs_meet_equally_often(crossing, arms, side):
    plan = Plan(dict.fromkeys("wxyz", "side-by-side"), tuple("abcd"[:arms]), crossing, 4, None, side)
    together = Counter()
    for pages in sessions_of(plan, 12):
        together.update(pair for page in pages for pair in combinations(sorted(page.arms), 2))
    pairs = list(combinations(sorted(plan.arms), 2))
    assert spread(together[pair] for pair in pairs) <= max(together.values()) / 4


@given(
    st.sampled_from(["within", "between"]).flatmap(lambda crossing: plans(crossing, limited=True)),
    st.randoms(use_true_random=False),
)
@settings(max_examples=150, deadline=None, suppress_health_check=list(HealthCheck))
def test_what_raters_give_back_is_dealt_again_until_every_cell_has_its_ratings(plan, chance):
    """Raters stop anywhere; what they held of a scenario without rating all of it goes to somebody else."""
    held: list[list[Page]] = []
    for slot in range(400):
        pages = session(plan, held, slot)
        if not pages:
            break
        kept = set(chance.sample(sorted(plan.scenarios), chance.randint(0, len(plan.scenarios))))
        whole = chance.random() < 0.5 or slot > 40
        held.append([page for page in pages if whole or page.scenario in kept])
    else:
        raise AssertionError("the study never ends")
    width = min(plan.side, len(plan.arms))
    over = "side-by-side" in plan.scenarios.values() and plan.crossing == "between" and len(plan.arms) % width
    filled = set(cells_of(plan, held).values())
    assert min(filled) == plan.ratings_per_cell
    assert max(filled) <= plan.ratings_per_cell + (1 if over else 0)


@given(st.integers(1, 6), st.integers(0, 2**31))
def test_codes_are_a_permutation_and_differ_between_raters(n, seed):
    arms = [f"arm{number}" for number in range(n)]
    drawn = [codes(arms, slot, seed=seed) for slot in range(3 * n)]
    for one in drawn:
        assert set(one) == set(arms)
        assert sorted(one.values()) == list("ABCDEF"[:n])
    for turn in range(3):
        for arm in arms:
            assert len({one[arm] for one in drawn[turn * n : (turn + 1) * n]}) == n
    if n > 1:
        for one, following in pairwise(drawn):
            assert all(one[arm] != following[arm] for arm in arms)  # nobody's A is the next one's


@given(st.integers(1, 9))
def test_williams_squares_are_latin_and_balanced_for_carry_over(n):
    squares = williams(n)
    for square in squares:
        for line in [*square, *zip(*square, strict=True)]:
            assert sorted(line) == list(range(n))
    follows = Counter(pair for square in squares for row in square for pair in pairwise(row))
    assert len(follows) == n * (n - 1)
    assert set(follows.values()) <= {len(squares)}


@given(st.integers(1, 6), st.integers(1, 20), st.integers(0, 99))
def test_a_template_has_every_arm_at_every_position_once_a_turn(n, count, seed):
    arms = [f"arm{number}" for number in range(n)]
    rows = [template(arms, count, slot, seed) for slot in range(n)]
    assert all(spread(Counter(row)[arm] for arm in arms) <= 1 for row in rows)
    assert all(sorted(column) == arms for column in zip(*rows, strict=True))


def test_a_seed_is_a_design():
    plan = Plan({f"s{number}": "fixed" for number in range(20)}, ("x", "y", "z"), per_rater=6, seed=1)
    assert session(plan, [], 0) == session(plan, [], 0)
    assert session(plan, [], 0) != session(replace(plan, seed=2), [], 0)
    assert codes(plan.arms, 4, seed=1) == codes(list(reversed(plan.arms)), 4, seed=1)


def test_no_page_of_a_side_by_side_study_is_left_with_one_arm():
    assert [sizes(arms, 4) for arms in (2, 4, 5, 6, 7)] == [[2], [4], [3, 2], [3, 3], [4, 3]]
    with pytest.raises(ValueError, match="3 arms do not split over pages of at most 2"):
        sizes(3, 2)


@given(
    st.sampled_from(["within", "between"]).flatmap(plans),
    st.integers(0, 3),
    st.integers(0, 6),
    st.integers(2, 7),
    st.integers(0, 4),
)
@HUNDREDS
def test_training_comes_first_and_checks_lie_among_the_rest(plan, training, checks, every, repeats):
    plan = replace(
        plan,
        training=tuple((f"t{number}",) for number in range(training)),
        checks=tuple((f"c{number}",) for number in range(checks)),
        check_every=every,
        repeats=repeats,
    )
    pages = session(plan, [], 0)
    kinds = [page.kind for page in pages]
    assert kinds[:training] == ["training"] * training
    assert [page.extras for page in pages[:training]] == list(plan.training)
    assert "training" not in kinds[training:]
    rest = pages[training:]
    assert rest[0].kind == "rated"
    met = [page.extras for page in rest if page.kind == "check"]
    assert len(set(met)) == len(met) <= checks
    others = len(rest) - len(met)
    assert len(met) >= min(checks, max(1, others // every))
    if checks > others // every:  # as long as they last, one in every stretch
        ends = [at for at, page in enumerate(rest) if page.kind == "check"]
        assert all(later - sooner <= 2 * every for sooner, later in pairwise(ends))
    if len(set(plan.scenarios.values())) == 1 and "live" not in plan.scenarios.values():
        assert len(pages) == pages_per_rater(plan)
    assert panels(plan) >= max(len(page.arms or page.extras) for page in pages)


@given(st.sampled_from(["within", "between"]).flatmap(plans), st.integers(1, 5))
@HUNDREDS
def test_a_repeat_is_a_page_once_more_half_a_session_later(plan, repeats):
    rated = [page for page in session(plan, [], 0) if page.kind == "rated"]
    pages = session(replace(plan, repeats=repeats), [], 0)
    assert [page for page in pages if page.kind == "rated"] == rated
    again = [at for at, page in enumerate(pages) if page.kind == "repeat"]
    assert len(again) <= most_repeats(len(rated))
    if "live" not in plan.scenarios.values():
        assert len(again) == min(repeats, most_repeats(len(rated)))
    for at in again:
        first = next(n for n, page in enumerate(pages) if page == replace(pages[at], kind="rated"))
        assert pages[at].mode != "live"
        assert at - first >= max(1, len(rated) // 2)


def test_raters_begin_with_different_checks():
    plan = Plan(
        {f"s{number}": "fixed" for number in range(8)}, ("x", "y"), checks=tuple((f"c{n}",) for n in range(8)), seed=3
    )
    sessions = sessions_of(replace(plan, check_every=8), 4)
    first = [next(page.extras for page in pages if page.kind == "check") for pages in sessions]
    assert len(set(first)) == 4

"""The study's design: what holds for every number of scenarios, arms and raters, whatever the seed."""

from collections import Counter
from itertools import pairwise

from hypothesis import given, settings
from hypothesis import strategies as st

from studyapp.design import Item, codes, session, williams


@st.composite
def studies(draw, everything=False):
    """Scenarios, arms, scenarios per rater, seed, and the sessions of a number of raters."""
    arms = [f"arm{number}" for number in range(draw(st.integers(2, 5)))]
    scenarios = [f"s{number}" for number in range(draw(st.integers(1, 12)))]
    per_rater = len(scenarios) if everything else draw(st.integers(1, len(scenarios)))
    seed = draw(st.integers(0, 2**31))
    sessions: list[list[Item]] = []
    for _ in range(draw(st.integers(1, 14))):
        sessions.append(session(scenarios, arms, sessions, per_rater=per_rater, seed=seed))
    return scenarios, arms, per_rater, seed, sessions


def spread(counts):
    counts = list(counts)
    return max(counts) - min(counts)


@given(studies())
@settings(max_examples=150, deadline=None)
def test_a_rater_meets_each_scenario_with_every_arm(study):
    _, arms, per_rater, _, sessions = study
    for items in sessions:
        assert len(items) == len(set(items)) == per_rater * len(arms)
        assert set(Counter(item.arm for item in items).values()) == {per_rater}
        assert set(Counter(item.scenario for item in items).values()) == {len(arms)}


@given(studies())
@settings(max_examples=100, deadline=None)
def test_meetings_with_a_scenario_are_as_far_apart_as_they_can_be(study):
    _, _, per_rater, _, sessions = study
    for items in sessions:
        last: dict[str, int] = {}
        for position, item in enumerate(items):
            assert position - last.get(item.scenario, position - per_rater) == per_rater
            last[item.scenario] = position


@given(studies())
@settings(max_examples=100, deadline=None)
def test_cells_fill_evenly(study):
    scenarios, arms, _, _, sessions = study
    cells = Counter(item for items in sessions for item in items)
    assert spread(cells[Item(scenario, arm)] for scenario in scenarios for arm in arms) <= 1


@given(studies())
@settings(max_examples=150, deadline=None)
def test_for_each_scenario_the_arms_take_turns_at_coming_first(study):
    scenarios, arms, per_rater, _, sessions = study
    met = Counter((item.scenario, item.arm, at // per_rater) for items in sessions for at, item in enumerate(items))
    for scenario in scenarios:
        for block in range(len(arms)):
            assert spread(met[scenario, arm, block] for arm in arms) <= 1


@given(studies())
@settings(max_examples=150, deadline=None)
def test_within_a_session_no_block_prefers_an_arm(study):
    _, arms, per_rater, _, sessions = study
    most = 4 if len(arms) % 2 else 2  # odd numbers of arms take two squares, and a session may straddle them
    for items in sessions:
        for block in range(len(arms)):
            part = Counter(item.arm for item in items[block * per_rater : (block + 1) * per_rater])
            assert spread(part[arm] for arm in arms) <= most


@given(studies(everything=True))
@settings(max_examples=100, deadline=None)
def test_each_scenario_stands_equally_often_at_each_place(study):
    scenarios, _, per_rater, _, sessions = study
    stood = Counter((item.scenario, place) for items in sessions for place, item in enumerate(items[:per_rater]))
    for scenario in scenarios:
        assert spread(stood[scenario, place] for place in range(per_rater)) <= 1


@given(st.integers(1, 6), st.integers(0, 2**31))
def test_codes_are_a_permutation_and_differ_between_raters(n, seed):
    arms = [f"arm{number}" for number in range(n)]
    drawn = [codes(arms, rater, seed=seed) for rater in range(3 * n)]
    for one in drawn:
        assert set(one) == set(arms)
        assert sorted(one.values()) == list("ABCDEF"[:n])
    for turn in range(3):
        for arm in arms:
            assert len({one[arm] for one in drawn[turn * n : (turn + 1) * n]}) == n


@given(st.integers(1, 9))
def test_williams_squares_are_latin_and_balanced_for_carry_over(n):
    squares = williams(n)
    for square in squares:
        for line in [*square, *zip(*square, strict=True)]:
            assert sorted(line) == list(range(n))
    follows = Counter(pair for square in squares for row in square for pair in pairwise(row))
    assert len(follows) == n * (n - 1)
    assert set(follows.values()) <= {len(squares)}


def test_a_seed_is_a_design():
    scenarios, arms = [f"s{number}" for number in range(20)], ["x", "y", "z"]
    one = session(scenarios, arms, [], per_rater=6, seed=1)
    assert one == session(scenarios, arms, [], per_rater=6, seed=1)
    assert one != session(scenarios, arms, [], per_rater=6, seed=2)
    assert codes(arms, 4, seed=1) == codes(list(reversed(arms)), 4, seed=1)

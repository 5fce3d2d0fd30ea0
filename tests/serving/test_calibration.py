"""The pace that is chosen: the rule of its formula, checked by letting the measured answers out at it."""

import random

import pytest

from harness.errors import RatingError
from harness.serving.calibration import Curve, Found, choose
from studyapp.pacing import Pace, Pacer


def steady(first: float, rate: float, length: int, size: int = 4) -> Curve:
    """An arm that begins after `first` seconds and writes pieces of `size` characters at `rate`."""
    points = [(first + start / rate, min(length, start + size)) for start in range(0, length, size)]
    return Curve(tuple(points), first + length / rate)


def uneven(rng: random.Random, rate: float) -> Curve:
    """An arm with pauses, such as those for other chats' prompts."""
    time, done, points = rng.uniform(0.2, 0.9), 0, []
    for _ in range(rng.randint(20, 80)):
        time += rng.choice([1, 1, 1, 1, 6]) * rng.uniform(0.5, 1.5) * 3 / rate
        done += rng.randint(1, 6)
        points.append((time, done))
    return Curve(tuple(points), time + 1 / rate)


def missed(curve: Curve, found: Found) -> int:
    """How many ticks are missed when an answer is let out at a pace, by the pacer itself."""
    pacer = Pacer(Pace(found.cps, found.tick, found.delay))
    left, ended, tick = list(curve.points), False, 0
    while True:
        now = found.delay + tick * found.tick
        while left and left[0][0] <= now:
            pacer.feed("x" * (left.pop(0)[1] - len(pacer.text)))
        if not left and curve.end <= now:
            pacer.close("stop")
        shown = pacer.tick()
        if ended := bool(shown and shown.ended):
            return pacer.missed
        tick += 1
        assert tick < 10_000, ended


def test_the_slowest_arm_sets_the_pace() -> None:
    curves = {"fast": [steady(0.1, 400, 300)] * 8, "slow": [steady(0.6, 50, 300)] * 8}
    found = choose(curves)
    assert found.g == pytest.approx(50)
    assert found.cps == pytest.approx(40)
    assert pytest.approx(0.6) == found.F
    assert found.delay >= 0.6 + 0.2
    assert found.delay <= 0.6 + 0.2 + 0.3
    assert (found.longest, found.answers) == (300, 16)


def test_nobody_is_shown_more_than_they_can_read() -> None:
    assert choose({"a": [steady(0.05, 900, 400)]}).cps == 75


@pytest.mark.parametrize("seed", range(20))
def test_no_measured_answer_would_have_been_late(seed: int) -> None:
    rng = random.Random(seed)
    curves = {arm: [uneven(rng, rate) for _ in range(12)] for arm, rate in (("a", 50.0), ("b", rng.uniform(40, 180)))}
    found = choose(curves)
    assert [missed(curve, found) for some in curves.values() for curve in some] == [0] * 24
    assert found.cps <= 0.8 * found.g
    assert found.delay >= found.F + found.tick


def test_an_arm_that_is_too_slow_is_refused_and_both_ways_out_work() -> None:
    curves = {"secret-name": [steady(1.0, 10, 200)] * 4}
    with pytest.raises(RatingError) as refused:
        choose(curves)
    text = str(refused.value)
    assert "secret-name" not in text
    assert 'mode = "fixed"' in text
    assert "10.0 characters a second" in text
    told = float(text.split("delay = ")[1].split()[0])
    found = choose(curves, cps=12, delay=told)
    assert (found.cps, found.delay) == (12, told)
    assert missed(curves["secret-name"][0], found) == 0
    longer = steady(1.0, 10, 250)  # a quarter longer than anything measured
    assert missed(longer, found) == 0


def test_what_the_study_file_asks_for_is_kept_or_refused_with_what_it_needs() -> None:
    curves = {"a": [steady(0.5, 40, 200)] * 4}
    assert choose(curves, cps=20).cps == 20
    assert choose(curves, delay=5).delay == 5
    with pytest.raises(RatingError, match="is too short") as refused:
        choose(curves, delay=0.6)
    assert choose(curves, delay=float(str(refused.value).split("set delay = ")[1].split()[0]))
    with pytest.raises(RatingError, match="too short"):
        choose(curves, cps=60, delay=1.0)
    assert choose(curves, cps=60).delay > 0.7 + 200 * (1 / 40 - 1 / 60)


def test_empty_and_short_answers_count_for_their_beginning_only() -> None:
    empty = Curve((), 2.5)
    found = choose({"a": [steady(0.2, 60, 200), empty, steady(0.2, 60, 6)]})
    assert found.g == pytest.approx(60)
    assert found.F == 2.5
    with pytest.raises(RatingError, match="too little"):
        choose({"a": [steady(0.2, 60, 200)], "b": [empty, steady(0.1, 60, 8)]})

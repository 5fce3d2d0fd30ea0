"""Paired comparisons against plain formulas, the reference numbers, and by simulation."""

import csv
import math

import numpy as np
import pytest
import reference_numbers as reference

from reports.stats import benchmarks
from reports.stats.bootstrap import multinomial_weights
from reports.stats.paired import Column, bootstrap_p, compare, draw, score_interval, wilson


def ones(values: list[float]) -> Column:
    return Column(np.array(values, float), np.ones(len(values)))


def rng(seed: int = 3) -> np.random.Generator:
    return np.random.default_rng(seed)


def table(name: str) -> dict[str, list[str]]:
    if not (reference.FOLDER / name).exists():
        pytest.skip(f"no reference numbers at {reference.FOLDER}")
    with (reference.FOLDER / name).open(newline="") as file:
        rows = list(csv.DictReader(file))
    return {key: [row[key] for row in rows] for key in rows[0]}


def test_accuracies_are_those_of_the_reference() -> None:
    items = table("items.csv")
    teacher, student = ones([float(x) for x in items["teacher"]]), ones([float(x) for x in items["distilled"]])
    drawn = draw([student, teacher], None, rng())
    found = compare(teacher, student, (drawn[1], drawn[0]), 240, chance=0.25)
    wanted = benchmarks.accuracy(teacher.value, student.value, rng())
    assert found.retained is not None
    assert (found.difference.low, found.difference.high) == (wanted.difference_low, wanted.difference_high)
    assert (found.retained.low, found.retained.high) == (wanted.retained_low, wanted.retained_high)
    assert (found.p, found.test) == (wanted.mcnemar_p, "mcnemar")
    assert (found.teacher_only, found.student_only) == (49, 23)
    assert found.above_chance is not None
    assert found.above_chance.estimate == pytest.approx((0.575 - 0.25) / (0.6833333333 - 0.25))


def test_perplexities_are_those_of_the_reference() -> None:
    rows = table("nll.csv")
    arm = np.array(rows["arm"])
    nll, size = (np.array(rows[key], float) for key in ("nll", "bytes"))
    teacher, student = (Column(nll[arm == name], size[arm == name], "bits") for name in ("teacher", "distilled"))
    drawn = draw([teacher, student], None, rng(5))
    found = compare(teacher, student, (drawn[0], drawn[1]), len(teacher.value))
    wanted = reference._perplexity()
    assert found.retained is not None
    assert found.retained.estimate == pytest.approx(wanted["perplexity.bpb_ratio"], rel=1e-9)
    assert found.retained.low == pytest.approx(wanted["perplexity.bootstrap.bpb_ratio.low"], rel=1e-9)
    assert found.retained.high == pytest.approx(wanted["perplexity.bootstrap.bpb_ratio.high"], rel=1e-9)


def test_draws_are_weighted_sums_over_whole_clusters() -> None:
    value, weight = np.array([1.0, 2, 4, 8, 16]), np.array([1.0, 1, 2, 2, 3])
    cluster = np.array([0, 0, 1, 2, 2])
    drawn = draw([Column(value, weight, "exp")], cluster, rng(), 50)[0]
    counts = multinomial_weights(rng(), 50, 3).astype(float)
    sums, sizes = np.array([3.0, 4, 24]), np.array([2.0, 2, 5])
    assert drawn == pytest.approx(np.exp((counts @ sums) / (counts @ sizes)))


def test_copies_of_an_item_in_its_cluster_say_nothing_new() -> None:
    answers = rng(1).integers(2, size=40).astype(float)
    thrice = ones(np.repeat(answers, 3).tolist())
    alone, together = (
        score_interval(column, draw([column], cluster, rng())[0], 40)[0]
        for column, cluster in ((Column(3 * answers, np.full(40, 3.0)), None), (thrice, np.repeat(np.arange(40), 3)))
    )
    assert (alone.low, alone.high) == pytest.approx((together.low, together.high))
    single, how = score_interval(thrice, draw([thrice], None, rng())[0], 120)
    assert how == "wilson"
    assert single.high - single.low < 0.7 * (together.high - together.low)


def test_wilson_by_hand() -> None:
    z2 = 1.959963984540054**2
    assert wilson(10, 10) == pytest.approx((10 / (10 + z2), 1.0))
    assert wilson(0, 10)[0] == 0
    low, high = wilson(30, 100)
    for end in (low, high):  # the ends are the shares that a score test just does not reject
        assert (0.3 - end) ** 2 == pytest.approx(z2 * end * (1 - end) / 100)


def test_no_ratio_where_the_teacher_is_not_clearly_above_chance() -> None:
    teacher, student = ones([1, 0, 0, 0] * 20 + [1]), ones([1, 0, 0, 0] * 20 + [0])
    drawn = draw([teacher, student], None, rng())
    found = compare(teacher, student, (drawn[0], drawn[1]), 81, chance=0.25)
    assert found.above_chance is None
    assert found.retained is not None
    never = ones([0.0] * 81)
    drawn = draw([never, student], None, rng())
    assert compare(never, student, (drawn[0], drawn[1]), 81).retained is None


def test_identical_arms_and_single_documents() -> None:
    column = Column(np.array([3.0, 5, 9]), np.array([1.0, 2, 3]), "exp")
    drawn = draw([column, column], None, rng())
    same = compare(column, column, (drawn[0], drawn[1]), 3)
    assert (same.p, same.difference.low, same.difference.high) == (1.0, 0.0, 0.0)
    assert same.retained is not None
    assert (same.retained.low, same.retained.high) == (1.0, 1.0)
    one = Column(column.value[:1], column.weight[:1], "exp")
    alone = compare(one, Column(one.value + 1, one.weight, "exp"), (np.empty(0), np.empty(0)), 1)
    assert (alone.p, alone.difference.low) == (None, None)
    assert alone.retained is not None
    assert alone.retained.estimate == pytest.approx(math.e)


def test_few_documents_cannot_show_much() -> None:
    teacher = Column(np.array([3.0, 5, 9]), np.ones(3), "exp")
    student = Column(teacher.value + 1, np.ones(3), "exp")
    drawn = draw([teacher, student], None, rng())
    assert compare(teacher, student, (drawn[0], drawn[1]), 3).p == 0.25
    assert bootstrap_p(np.array([1.0] * 999)) == pytest.approx(2 / 1000)


def test_paired_intervals_cover_and_tests_hold_their_size() -> None:
    """Simulated: 120 items in 40 groups of three that share their difficulty, both arms equally good."""
    source, studies, covered, rejected = rng(11), 300, 0, 0
    cluster = np.repeat(np.arange(40), 3)
    for _ in range(studies):
        ease = np.repeat(source.normal(0, 1, 40), 3)
        lean = np.repeat(source.normal(0, 0.5, 40), 3)  # what makes groups, not items, the sample
        teacher, student = (
            ones((ease + side * lean + source.normal(0, 1, 120) > 0).astype(float).tolist()) for side in (-1, 1)
        )
        drawn = draw([teacher, student], cluster, source, 400)
        found = compare(teacher, student, (drawn[0], drawn[1]), 40)
        assert found.test == "bootstrap"
        covered += found.difference.low <= 0 <= found.difference.high
        rejected += found.p < 0.05
    assert 0.91 <= covered / studies <= 0.98
    assert 0.02 <= rejected / studies <= 0.09

"""Statistics of judges against plain formulas, scipy and simulation."""

import math

import numpy as np
import pytest
from scipy import stats as scipy_stats

from reports.stats import judges as stats
from reports.stats.cells import Cells
from reports.stats.fraction import fraction
from reports.stats.ppi import CannotCombineError, Marks, combine, tuned


def marks(rng: np.random.Generator, n: int = 90) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    a = rng.integers(1, 6, n).astype(float)
    return a, np.clip(a + rng.integers(-2, 3, n), 1, 5).astype(float), np.repeat(np.arange(n // 3), 3)


def test_rank_correlations_are_scipys() -> None:
    rng = np.random.default_rng(1)
    a, b, scenario = marks(rng)
    found = stats.rank_correlation(a, b, scenario, rng, draws=200)
    assert found.spearman.estimate == pytest.approx(scipy_stats.spearmanr(a, b)[0], abs=1e-12)
    assert found.kendall.estimate == pytest.approx(scipy_stats.kendalltau(a, b)[0], abs=1e-12)
    for one in (found.spearman, found.kendall):
        assert one.low is not None
        assert one.high is not None
        assert one.estimate is not None
        assert one.low < one.estimate < one.high
        assert (one.n, one.clusters) == (90, 30)


def test_a_draw_of_scenarios_is_the_correlation_of_the_drawn_units() -> None:
    rng = np.random.default_rng(2)
    a, b, scenario = marks(rng, 30)
    weight = np.array([[2.0, 0, 1, 1, 0, 3, 0, 1, 1, 1]])
    rows = np.concatenate([np.flatnonzero(scenario == g) for g in range(10) for _ in range(int(weight[0, g]))])
    assert stats._spearman(a, b, weight[:, scenario])[0] == pytest.approx(scipy_stats.spearmanr(a[rows], b[rows])[0])
    pairs = stats._pair_sums(a, b, scenario, 10)
    assert stats._kendall(pairs, weight)[0] == pytest.approx(scipy_stats.kendalltau(a[rows], b[rows])[0])


def test_constant_marks_have_no_correlation() -> None:
    rng = np.random.default_rng(3)
    found = stats.rank_correlation(np.full(12, 3.0), np.arange(12.0), np.arange(12), rng, draws=50)
    assert found.spearman.estimate is None
    assert found.kendall.estimate is None
    assert found.spearman.low is None


def test_agreement_and_kappa_follow_their_definitions() -> None:
    a, b = np.array([1.0, 2, 3, 4, 5, 5]), np.array([1.0, 3, 3, 2, 5, 4])
    found = stats.agreement(a, b)
    assert found is not None
    assert (found.n, found.exact) == (6, pytest.approx(3 / 6))
    assert found.within_one == pytest.approx(5 / 6)
    observed = sum((x - y) ** 2 for x, y in zip(a, b, strict=True)) / 6
    chance = sum((x - y) ** 2 for x in a for y in b) / 36
    assert found.kappa == pytest.approx(1 - observed / chance)
    assert stats.agreement(np.zeros(0), np.zeros(0)) is None
    same = stats.agreement(np.full(4, 2.0), np.full(4, 2.0))
    assert same is not None
    assert (same.exact, same.kappa) == (1.0, None)


def test_people_are_compared_with_each_other_over_all_pairs() -> None:
    rater = np.array([0, 1, 2, 0, 1, 2])
    unit = np.array([0, 0, 0, 1, 1, 2])
    value = np.array([1.0, 2, 4, 5, 5, 3])
    one, other, weight = stats.person_pairs(rater, unit, value)
    expected = [(1.0, 2.0), (1.0, 4.0), (2.0, 4.0), (5.0, 5.0)]
    both_ways = sorted([*expected, *(pair[::-1] for pair in expected)])
    assert sorted(zip(one.tolist(), other.tolist(), strict=True)) == both_ways
    assert len(one) == 2 * 3 + 2 * 1
    assert weight.sum() == pytest.approx(3 + 2)  # each unit counts as its raters


def test_means_over_scenarios_have_the_t_interval_of_scenario_means() -> None:
    rng = np.random.default_rng(4)
    value = rng.normal(size=40)
    found = stats.clustered_mean(value, np.repeat(np.arange(20), 2))
    means = value.reshape(20, 2).mean(axis=1)
    low, high = scipy_stats.t.interval(0.95, 19, means.mean(), means.std(ddof=1) / math.sqrt(20))
    assert (found.low, found.high) == (pytest.approx(low), pytest.approx(high))


def test_the_length_slope_is_least_squares_within_scenarios() -> None:
    rng = np.random.default_rng(5)
    scenario = np.repeat(np.arange(25), 3)
    length = rng.integers(20, 900, 75).astype(float)
    value = 0.4 * np.log2(length) + rng.normal(size=25)[scenario] + rng.normal(0, 0.1, 75)
    found = stats.length_slope(value, length, scenario)
    design = np.column_stack([np.log2(length), scenario[:, None] == np.arange(25)])
    assert found.estimate == pytest.approx(np.linalg.lstsq(design, value, rcond=None)[0][0])
    assert found.low is not None
    assert found.high is not None
    assert found.low < 0.4 < found.high
    assert stats.length_slope(value, np.full(75, 50.0), scenario).estimate is None


def test_swapping_tells_a_judge_that_looks_at_places_from_one_that_looks_at_answers() -> None:
    scenario = np.arange(40)
    by_place = stats.swap(np.ones(40, int), np.ones(40, int), np.full(40, 2.0), scenario)
    assert by_place is not None
    assert (by_place.first, by_place.consistent, by_place.preference.estimate, by_place.advantage.estimate) == (
        1,
        0,
        1,
        2,
    )
    rng = np.random.default_rng(6)
    better = rng.choice([-1, 0, 1], 40)
    by_answer = stats.swap(better, -better, np.zeros(40), scenario)
    assert by_answer is not None
    assert (by_answer.consistent, by_answer.preference.estimate, by_answer.first, by_answer.partly) == (1, 0, 0, 0)
    none = np.zeros(0, int)
    assert stats.swap(none, none, np.zeros(0), none) is None


def test_sums_of_scores_have_fiellers_limits() -> None:
    rng = np.random.default_rng(7)
    y = rng.integers(2, 6, 30).astype(float)
    x = np.clip(y - rng.integers(0, 2, 30), 1, 5)
    found = stats.sum_fraction(x, y, rng)
    assert found.estimate == pytest.approx(x.sum() / y.sum())
    t = scipy_stats.t.ppf(0.975, 29)
    for limit in (found.low, found.high):
        assert limit is not None
        z = x - limit * y  # Fieller's set: ratios whose residual mean is t standard errors from 0
        assert abs(z.mean()) / (z.std(ddof=1) / math.sqrt(30)) == pytest.approx(t)
    assert found.bootstrap_low == pytest.approx(found.low, abs=0.01)
    few = stats.sum_fraction(x[:4], y[:4], rng)
    assert (few.low, few.bootstrap_low) == (None, None)
    assert stats.sum_fraction(x, np.ones(30), rng, shift=1.0).estimate is None


def test_sums_of_scores_cover_the_truth() -> None:
    rng = np.random.default_rng(8)
    hits = 0
    for _ in range(400):
        ease = rng.normal(0, 1, 40)
        y, x = 4 + ease + rng.normal(0, 0.5, 40), 3 + ease + rng.normal(0, 1, 40)
        found = stats.sum_fraction(x, y, rng, draws=10)
        assert found.low is not None
        assert found.high is not None
        hits += found.low <= 0.75 <= found.high
    assert 0.92 <= hits / 400 <= 0.98


def one_rating_each(rng: np.random.Generator, n: int, others: int) -> tuple[Cells, Marks]:
    """Independent scenarios, each rated by somebody else: the setting of the papers."""
    truth = rng.normal(4, 1, n + others)
    student = truth - 1 + rng.normal(0, 0.7, n + others)
    judge = np.column_stack([student + rng.normal(0.5, 0.5, n + others), truth + rng.normal(0.2, 0.5, n + others)])
    codes = np.arange(n)
    y = np.column_stack([student, truth])[:n] + rng.normal(0, 0.3, (n, 2))
    return Cells(codes, codes, y[:, 0], y[:, 1]), Marks(judge[:n], judge[n:])


def test_with_one_rating_a_scenario_the_means_are_those_of_ppi_plus_plus() -> None:
    cells, given = one_rating_each(np.random.default_rng(9), 50, 300)
    found = combine(cells, given)
    z = cells.student - found.people * cells.teacher
    f, g = (part @ np.array([1.0, -found.people]) for part in (given.rated, given.others))
    lam = np.cov(z, f, ddof=1)[0, 1] / ((1 + 50 / 300) * np.var(np.concatenate([f, g]), ddof=1))
    assert found.weight == pytest.approx(lam)
    for column, mean in ((0, found.student), (1, found.teacher)):
        y = (cells.student, cells.teacher)[column]
        by_hand = y.mean() - lam * (given.rated[:, column].mean() - given.others[:, column].mean())
        assert mean == pytest.approx(by_hand)
    assert found.estimate == pytest.approx(found.student / found.teacher)
    w = np.array([1, -found.estimate]) / found.teacher
    residual = np.column_stack([cells.student, cells.teacher]) @ w - lam * given.rated @ w
    # One degree of freedom more is taken off, for lambda; the rest is the paper's variance.
    variance = residual.var(ddof=1) / 50 * 49 / 48 + lam**2 * (given.others @ w).var(ddof=1) / 300
    assert found.se == pytest.approx(math.sqrt(variance))


def test_a_judge_that_knows_nothing_hardly_changes_the_interval_and_a_good_one_narrows_it() -> None:
    rng = np.random.default_rng(10)
    cells, given = one_rating_each(rng, 60, 400)
    noise = Marks(rng.normal(3, 1, given.rated.shape), rng.normal(3, 1, given.others.shape))
    good, useless = combine(cells, given), combine(cells, noise)
    assert good.gain > 0.25
    assert good.high - good.low < 0.9 * (good.people_high - good.people_low)
    assert useless.weight < 0.2
    assert useless.high - useless.low < 1.06 * (useless.people_high - useless.people_low)
    constant = combine(cells, Marks(np.full_like(given.rated, 3.0), np.full_like(given.others, 3.0)))
    assert (constant.weight, constant.estimate) == (0.0, pytest.approx(constant.people))
    assert (constant.low, constant.high) != (math.inf, math.inf)


def test_a_judge_that_is_off_by_a_constant_changes_nothing() -> None:
    cells, given = one_rating_each(np.random.default_rng(11), 40, 200)
    moved = Marks(given.rated + np.array([1.5, -2.0]), given.others + np.array([1.5, -2.0]))
    one, other = combine(cells, given), combine(cells, moved)
    assert other.estimate == pytest.approx(one.estimate)
    assert (other.low, other.high) == (pytest.approx(one.low), pytest.approx(one.high))


def test_lambda_stays_between_nothing_and_all() -> None:
    cells, given = one_rating_each(np.random.default_rng(12), 40, 200)
    assert tuned(cells, Marks(-given.rated, -given.others), 0.75) == 0.0
    assert tuned(cells, Marks(given.rated / 50, given.others / 50), 0.75) == 1.0


def crossed(rng: np.random.Generator, rated: int, others: int, raters: int, quality: float) -> tuple[Cells, Marks]:
    """Raters with a severity and a taste of their own, each on 8 of the rated scenarios; a judge who is biased."""
    n = rated + others
    ease, gap = rng.normal(0, 0.6, n), rng.normal(0, 0.5, n)
    truth = np.column_stack([3.3 + ease + gap, 3.9 + ease])
    severity, taste = rng.normal(0, 0.4, raters), rng.normal(0, 0.25, raters)
    rater = np.repeat(np.arange(raters), 8)
    scenario = np.concatenate([rng.permutation(rated)[:8] for _ in range(raters)])
    y = truth[scenario] + severity[rater, None] + np.column_stack([taste[rater], 0 * taste[rater]])
    y += rng.normal(0, 0.6, y.shape)
    judge = np.clip(np.round(quality * truth + rng.normal(0, 0.5, (n, 2)) + np.array([0.6, 0.1])), 1, 5)
    used, codes = np.unique(scenario, return_inverse=True)
    rest = np.setdiff1d(np.arange(n), used)
    return Cells(rater, codes, y[:, 0], y[:, 1]), Marks(judge[used], judge[rest])


@pytest.mark.parametrize("quality", [1.0, 0.0])
def test_the_combined_interval_covers_the_truth_with_raters_and_scenarios_crossed(quality: float) -> None:
    rng = np.random.default_rng(13)
    hits, widths, alone = 0, [], []
    for _ in range(400):
        found = combine(*crossed(rng, 16, 150, 24, quality))
        hits += found.low <= 3.3 / 3.9 <= found.high
        widths.append(found.high - found.low)
        alone.append(found.people_high - found.people_low)
    assert 0.925 <= hits / 400 <= 0.98
    if quality:
        assert np.median(widths) < 0.95 * np.median(alone)
    else:
        assert np.median(widths) < 1.05 * np.median(alone)


def test_too_little_is_refused_by_name() -> None:
    cells, given = one_rating_each(np.random.default_rng(14), 40, 200)
    few = Cells(np.arange(4), np.arange(4), cells.student[:4], cells.teacher[:4])
    one = Cells(np.zeros(40, int), cells.scenario, cells.student, cells.teacher)
    same = Cells(cells.rater, cells.scenario, np.full(40, 3.0), np.full(40, 4.0))
    for chosen, marks_, code in (
        (few, Marks(given.rated[:4], given.others), "few_rated"),
        (cells, Marks(given.rated, given.others[:4]), "few_others"),
        (one, given, "one_rater"),
        (same, given, "zero_variance"),
    ):
        with pytest.raises(CannotCombineError) as error:
            combine(chosen, marks_)
        assert error.value.code == code


def test_people_alone_are_the_default_fraction() -> None:
    cells, given = one_rating_each(np.random.default_rng(15), 40, 200)
    found, alone = combine(cells, given), fraction(cells)
    assert (found.people, found.people_low, found.people_high) == (alone.ratio, alone.low, alone.high)

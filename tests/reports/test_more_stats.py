"""Planning between and within, variance components, repeats, order, blinding, preference, several studies, gaps."""

import math
from dataclasses import replace

import numpy as np
import pytest
import scipy.stats

from reports.stats import blinding, components, meta, missing, order, planning, preference, repeats, sequence
from reports.stats.bootstrap import pigeonhole, pigeonhole_all
from reports.stats.cells import CannotEstimateError, Cells, Ratings
from reports.stats.effects import davidson
from reports.stats.fraction import fraction, fraction_all

MODEL = planning.Components(3.9, 0.96, 0.45, 0.4, 0.2, 0.25, 0.8, 0.3)


def crossed(raters: int, scenarios: int) -> tuple[np.ndarray, np.ndarray]:
    rater, scenario = np.meshgrid(np.arange(raters), np.arange(scenarios), indexing="ij")
    return rater.ravel(), scenario.ravel()


class TestComponents:
    def test_without_gaps_they_are_those_of_the_analysis_of_variance(self) -> None:
        rng = np.random.default_rng(1)
        table = rng.normal(size=(6, 9)) + rng.normal(size=(6, 1)) + rng.normal(size=9)
        rows, columns = table.mean(axis=1, keepdims=True), table.mean(axis=0, keepdims=True)
        rest = float(np.sum((table - rows - columns + table.mean()) ** 2)) / (5 * 8)
        found = components.crossed(table.ravel(), *crossed(6, 9))
        assert found.rest == pytest.approx(rest)
        assert found.rater == pytest.approx((9 * rows.var(ddof=1) - rest) / 9)
        assert found.scenario == pytest.approx((6 * columns.var(ddof=1) - rest) / 6)

    def test_with_gaps_they_are_unbiased(self) -> None:
        rng = np.random.default_rng(2)
        found = []
        for _ in range(400):
            rater, scenario = crossed(12, 15)
            keep = rng.random(len(rater)) < np.where(rater < 4, 0.9, 0.4)
            rater, scenario = (np.unique(axis[keep], return_inverse=True)[1] for axis in (rater, scenario))
            value = rng.normal(0, 0.5, 12)[rater] + rng.normal(0, 0.3, 15)[scenario] + rng.normal(0, 0.8, len(rater))
            one = components.crossed(value, rater, scenario)
            found.append([one.rater, one.scenario, one.rest])
        assert np.mean(found, axis=0) == pytest.approx([0.25, 0.09, 0.64], abs=0.02)

    def test_a_pilot_gives_back_what_it_was_drawn_from(self) -> None:
        rng = np.random.default_rng(3)
        drawn = [components.components(planning.draw_cells(MODEL, 30, 40, 20, rng)) for _ in range(60)]
        for name, value in vars(MODEL).items():
            power = 2 if name.startswith("s_") else 1
            mean = np.mean([getattr(one, name) ** power for one in drawn])
            assert mean == pytest.approx(value**power, rel=0.15, abs=0.01), name

    def test_raters_and_scenarios_that_cannot_be_told_apart(self) -> None:
        with pytest.raises(CannotEstimateError, match="one rater"):
            components.crossed(np.ones(3), np.zeros(3, dtype=np.int64), np.arange(3))
        with pytest.raises(CannotEstimateError, match="shares a scenario"):
            components.crossed(np.arange(3.0), np.arange(3), np.arange(3))


class TestPlanning:
    @pytest.mark.parametrize("crossing", ["within", "between"])
    def test_closed_form_is_near_the_simulated_test(self, crossing: planning.Crossing) -> None:
        closed = planning.power(MODEL, 0.9, 30, 30, 30, crossing=crossing).power
        drawn = planning.simulate(MODEL, 0.9, 30, 30, 30, np.random.default_rng(8), 400, crossing=crossing)
        assert drawn == pytest.approx(closed, abs=0.06)  # the Monte Carlo error is 0.02

    @pytest.mark.parametrize("crossing", ["within", "between"])
    def test_size_at_the_margin(self, crossing: planning.Crossing) -> None:
        model = replace(MODEL, true_ratio=0.9)
        drawn = planning.simulate(model, 0.9, 25, 25, 25, np.random.default_rng(9), 400, crossing=crossing)
        assert 0.02 <= drawn <= 0.09

    def test_between_needs_more(self) -> None:
        within = planning.raters_needed(MODEL, 0.9, 40, 20)
        between = planning.raters_needed(MODEL, 0.9, 40, 20, crossing="between")
        assert within < between
        assert planning.raters_needed(MODEL, 0.9, 8, 8) is None

    def test_scenarios_needed_is_the_least(self) -> None:
        least = planning.scenarios_needed(MODEL, 0.9)
        assert planning.power(MODEL, 0.9, math.inf, least, least).power >= 0.8
        assert planning.power(MODEL, 0.9, math.inf, least - 1, least - 1).power < 0.8

    def test_arms_are_dealt_evenly(self) -> None:
        drawn = planning.draw_ratings(MODEL, 24, 20, 10, np.random.default_rng(4), arms=3)
        by_rater = np.bincount(drawn.rater * 2 + drawn.arm, minlength=48).reshape(24, 2)
        assert set(by_rater.ravel()) <= {3, 4}
        by_scenario = np.bincount(drawn.scenario * 2 + drawn.arm, minlength=40).reshape(20, 2)
        assert np.abs(by_scenario[:, 0] - by_scenario[:, 1]).max() <= 2


class TestRepeats:
    def test_by_hand(self) -> None:
        rater = np.array([0, 0, 1, 1, 2, 2])
        first, second = np.array([4.0, 3, 5, 2, 1, 4]), np.array([4.0, 4, 5, 4, 1, 3])
        found = repeats.consistency(rater, first, second)
        d = second - first
        assert (found.n, found.n_raters) == (6, 3)
        assert found.exact.estimate == pytest.approx(3 / 6)
        assert found.within_one.estimate == pytest.approx(5 / 6)
        assert found.mean_distance == pytest.approx(4 / 6)
        assert found.sd == pytest.approx(math.sqrt(np.mean(d**2) / 2))
        observed = np.mean([(a - b) ** 2 for a, b in zip(first, second, strict=True)])
        chance = np.mean([(a - b) ** 2 for a in first for b in second])
        assert found.kappa == pytest.approx(1 - observed / chance)
        # equal numbers of repeats: the clustered interval is the t interval of the raters' means
        means = d.reshape(3, 2).mean(axis=1)
        half = scipy.stats.t.ppf(0.975, 2) * means.std(ddof=1) / math.sqrt(3)
        assert (found.shift.low, found.shift.high) == pytest.approx((means.mean() - half, means.mean() + half))

    def test_nothing_and_one_rater(self) -> None:
        assert repeats.consistency(np.array([], dtype=np.int64), np.array([]), np.array([])) is None
        alone = repeats.consistency(np.array([0, 0]), np.array([3.0, 3]), np.array([3.0, 3]))
        assert alone.exact.low is None
        assert alone.kappa is None


class TestOrder:
    def test_slope_is_that_of_least_squares_with_dummies(self) -> None:
        rng = np.random.default_rng(6)
        rater, arm = rng.integers(0, 7, 90), rng.integers(0, 3, 90)
        x = rng.random(90)
        y = rng.normal(size=90) + 0.7 * x + np.arange(7.0)[rater] + arm
        design = np.column_stack([x, *(rater == one for one in range(7)), *(arm == one for one in (1, 2))]).astype(
            float
        )
        beta = np.linalg.lstsq(design, y, rcond=None)[0]
        residual = y - design @ beta
        left = design[:, 1:]
        z = x - left @ np.linalg.lstsq(left, x, rcond=None)[0]
        meat = sum((z[rater == one] @ residual[rater == one]) ** 2 for one in range(7))
        found = order.slope(y, x, [rater, arm], rater)
        assert found.estimate == pytest.approx(beta[0])
        assert found.se == pytest.approx(math.sqrt(7 / 6 * meat) / (z @ z))
        assert found.p == pytest.approx(2 * scipy.stats.t.sf(abs(found.estimate / found.se), 6))

    def test_no_slope_without_places(self) -> None:
        rater = np.arange(6) % 2
        assert order.slope(np.arange(6.0), np.ones(6), [rater], rater) is None
        assert order.slope(np.arange(6.0), rater.astype(float), [rater], rater) is None

    def test_places(self) -> None:
        rater = np.array([1, 0, 0, 0, 1, 1])
        position = np.array([5.0, 2, 1, 2, 7, 9])
        assert order.place_in_order(rater, position) == pytest.approx([0, 1, 0, 1, 0.5, 1])
        assert order.place_in_order(np.array([0]), np.array([3.0])) == pytest.approx([0])


class TestBlinding:
    def test_scores_of_one_guess_each_are_bangs_index(self) -> None:
        counts, scores = blinding.bang(14, 6, 5), blinding.bang_of_raters(np.array([1.0] * 14 + [-1.0] * 6 + [0.0] * 5))
        assert vars(scores) == pytest.approx(vars(counts))

    @pytest.mark.parametrize(
        ("counts", "said"),
        [
            ((20, 4, 1), "failed"),
            ((4, 20, 1), "reversed"),
            ((10, 9, 10), "held"),
            ((8, 4, 2), "unclear"),
            ((4, 4, 1), "too few"),
            ((12, 0, 0), "failed"),
            ((0, 0, 12), "held"),
        ],
    )
    def test_verdicts(self, counts: tuple[int, int, int], said: str) -> None:
        assert blinding.verdict(blinding.bang(*counts)) == said

    def test_scores_of_raters(self) -> None:
        found = blinding.of_counts(np.array([2.0, 1, 0]), np.array([0.0, 1, 0]), np.array([2.0, 2, 0]))
        assert found == pytest.approx([1, 0])


class TestPreference:
    def choices(self) -> preference.Choices:
        rng = np.random.default_rng(7)
        rater, scenario = crossed(12, 14)
        outcome = rng.choice([1, 0, -1], len(rater), p=[0.5, 0.2, 0.3])
        turned = rng.random(len(rater)) < 0.5
        arm, other = np.where(turned, 0, 1), np.where(turned, 1, 0)
        return preference.Choices(rater, scenario, arm, other, np.where(turned, -outcome, outcome))

    def test_net_preference_is_a_two_way_mean(self) -> None:
        mine = self.choices().of(1, 0)
        found = preference.preference(mine)
        assert found.net == pytest.approx(np.mean(mine.outcome))
        assert found.chosen + found.neither + found.other == pytest.approx(1)
        # the same as the difference of two arms rated 3 + outcome and 3
        from reports.stats.tests import difference

        diff = difference(
            fraction(Cells(mine.rater, mine.scenario, 3.0 + mine.outcome, np.full(len(mine.outcome), 3.0)))
        )
        assert (found.low, found.high, found.p) == pytest.approx((diff.low, diff.high, diff.p))

    def test_strengths_are_davidsons(self) -> None:
        all_, mine = self.choices(), self.choices().of(1, 0)
        won, lost = np.sum(mine.outcome == 1), np.sum(mine.outcome == -1)
        assert preference.strengths(all_, 2).log_strength[1] == pytest.approx(math.log(won / lost))
        low, high = preference.strength_intervals(all_, 2, np.random.default_rng(1), 300)[1]
        assert low < math.log(won / lost) < high

    def test_weights_count_rows(self) -> None:
        few = preference.Choices(*(np.array(one) for one in ([0, 0], [0, 1], [1, 0], [0, 1], [1, 0])))
        wins, ties = preference.counts(few, 2, np.array([3.0, 2.0]))
        assert wins.tolist() == [[0, 0], [3, 0]]
        assert ties.tolist() == [[0, 2], [2, 0]]
        assert davidson(wins, ties).separation


class TestMeta:
    def test_equal_studies(self) -> None:
        found = meta.pool(np.array([0.9, 0.9, 0.9]), np.array([0.03, 0.03, 0.03]))
        half = scipy.stats.t.ppf(0.975, 2) * (0.03 / 0.9) / math.sqrt(3)
        assert (found.tau, found.i2, found.q) == (0, 0, pytest.approx(0))
        assert (math.log(found.low), math.log(found.high)) == pytest.approx(
            (math.log(0.9) - half, math.log(0.9) + half)
        )

    def test_paule_and_mandel_meet_their_equation(self) -> None:
        y, v = np.array([-0.3, 0.1, 0.4, -0.05]), np.array([0.01, 0.02, 0.015, 0.01])
        tau2 = meta.paule_mandel(y, v)
        w = 1 / (v + tau2)
        assert w @ (y - w @ y / w.sum()) ** 2 == pytest.approx(3)

    def test_coverage_over_studies(self) -> None:
        rng = np.random.default_rng(11)
        held = 0
        for _ in range(500):
            se = rng.uniform(0.02, 0.06, 6)
            found = meta.pool(0.9 * np.exp(rng.normal(0, 0.05, 6) + rng.normal(0, se)), 0.9 * se)
            held += found.low <= 0.9 <= found.high
        assert 0.92 <= held / 500 <= 0.98

    def test_one_study_is_no_pool(self) -> None:
        assert meta.pool(np.array([0.9]), np.array([0.1])) is None
        assert meta.pool(np.array([0.9, 1.0]), np.array([0.1, 0.1])).next_low is None


class TestMissing:
    def test_cells_with_one_arm(self) -> None:
        rows = [(0, 0, 0), (0, 0, 1), (0, 1, 1), (1, 0, 1), (1, 1, 0), (1, 1, 1)]
        rater, scenario, arm = (np.array(one) for one in zip(*rows, strict=True))
        found = missing.unpaired(Ratings(rater, scenario, arm, np.ones(6)), 1, 0)
        assert (found.both, found.student_only, found.teacher_only) == (2, 2, 0)
        assert found.p == pytest.approx(0.5)

    def test_gap_is_a_paired_t_test_over_raters(self) -> None:
        rng = np.random.default_rng(3)
        rater, arm = np.repeat(np.arange(9), 8), np.tile([0, 0, 0, 0, 1, 1, 1, 1], 9)
        lost = (rng.random(72) < np.where(arm == 1, 0.5, 0.1)).astype(float)
        share = lost.reshape(9, 2, 4).mean(axis=2)
        found = missing.missing_gap(rater, arm, lost, 1, 0)
        want = scipy.stats.ttest_rel(share[:, 1], share[:, 0])
        assert found.estimate == pytest.approx((share[:, 1] - share[:, 0]).mean())
        assert found.p == pytest.approx(want.pvalue)

    def test_leaving(self) -> None:
        counts, p = missing.leaving(np.array([0] * 12 + [1] * 4), 2)
        assert counts == [12, 4]
        assert p == pytest.approx(scipy.stats.chisquare([12, 4]).pvalue)
        assert missing.leaving(np.array([0, 1]), 2) == ([1, 1], None)


def test_the_ratios_sequence_is_the_differences_inverted() -> None:
    rng = np.random.default_rng(2)
    t = rng.normal(4, 0.4, 25)
    s = 0.9 * t + rng.normal(0, 0.3, 25)
    found = sequence.asymptotic_ratio(s, t)
    for limit in (found.low[-1], found.high[-1]):
        moved = sequence.asymptotic(s - limit * t)
        assert min(abs(moved.low[-1]), abs(moved.high[-1])) == pytest.approx(0, abs=1e-9)
    assert np.isnan(found.low[: sequence.LEAST - 1]).all()
    assert found.centre[-1] == pytest.approx(s.mean() / t.mean())


def test_the_ratios_sequence_is_rarely_missed_at_any_look() -> None:
    rng = np.random.default_rng(12)
    missed = 0
    for _ in range(400):
        t = rng.normal(4, 0.5, 60)
        found = sequence.asymptotic_ratio(0.9 * t + rng.normal(0, 0.4, 60), t)
        missed += bool(np.any((found.low > 0.9) | (found.high < 0.9)))
    assert missed / 400 <= 0.08


def test_pigeonhole_of_all_data_agrees_where_all_cells_are_common() -> None:
    rng = np.random.default_rng(4)
    rater, scenario = crossed(11, 13)
    student, teacher = (rng.integers(1, 6, len(rater)).astype(float) for _ in "st")
    cells = Cells(rater, scenario, student, teacher)
    both = Ratings(
        *(np.tile(one, 2) for one in (rater, scenario)), np.repeat([1, 0], len(rater)), np.append(student, teacher)
    )
    one = pigeonhole(cells, np.random.default_rng(1), 2_000).ratio()
    other = pigeonhole_all(both, 1, 0, np.random.default_rng(1), 2_000).ratio()
    assert one == pytest.approx(other)


def test_pigeonhole_of_all_data_is_near_its_interval() -> None:
    ratings = planning.draw_ratings(MODEL, 30, 30, 30, np.random.default_rng(5))
    found = fraction_all(ratings, 1, 0)
    low, high = pigeonhole_all(ratings, 1, 0, np.random.default_rng(6), 2_000).ratio()
    assert 0.8 < (high - low) / (found.high - found.low) < 1.7

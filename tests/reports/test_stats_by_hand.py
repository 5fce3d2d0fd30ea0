"""Statistics against numbers worked by hand, textbook values typed in, and scipy."""

import math

import numpy as np
import pytest
import scipy.stats

from reports.stats import agreement, benchmarks, blinding, effects, planning, sequence
from reports.stats.bootstrap import pigeonhole
from reports.stats.cells import CannotEstimateError, Cells, Ratings, collapse, common_cells
from reports.stats.fraction import fraction, fraction_all
from reports.stats.ordinal import ordered_logit
from reports.stats.tests import (
    benjamini_hochberg,
    difference,
    equivalence,
    holm,
    non_inferiority,
    rater_differences,
    sign_flip,
    wilcoxon,
)

# tiny.csv: (rater, scenario, teacher, student), None where it is missing. Raters A, B, C; scenarios 1, 2, 3.
TINY = [
    (0, 0, 4, 4),
    (0, 1, 5, 4),
    (0, 2, 3, 2),
    (1, 0, 4, 3),
    (1, 1, 3, 3),
    (1, 2, None, 2),
    (2, 0, 5, 3),
    (2, 1, 4, 5),
    (2, 2, 4, None),
]


@pytest.fixture
def tiny() -> Ratings:
    rows = [(r, s, arm, v) for r, s, *both in TINY for arm, v in enumerate(both)]
    rater, scenario, arm = (np.array(column) for column in list(zip(*rows, strict=True))[:3])
    return collapse(rater, scenario, arm, np.array([math.nan if row[3] is None else row[3] for row in rows]))[0]


@pytest.fixture
def cells(tiny: Ratings) -> Cells:
    return common_cells(tiny, 1, 0)


def test_common_cells(cells: Cells) -> None:
    assert (cells.n, cells.n_raters, cells.n_scenarios) == (7, 3, 3)
    assert cells.teacher.sum() == 28
    assert cells.student.sum() == 24


def test_fraction_by_hand(cells: Cells) -> None:
    found = fraction(cells)
    assert found.ratio == pytest.approx(6 / 7)
    parts = found.contrast
    assert parts.v_rater == pytest.approx(12 / 196**2)
    assert parts.v_scenario == pytest.approx(336 / 196**2)
    assert parts.v_cell == pytest.approx(7 / 6 * 256 / 196**2)
    assert parts.v_raw == pytest.approx(parts.v_rater + parts.v_scenario - parts.v_cell)
    assert parts.floor_used
    assert found.se == pytest.approx(0.093522, abs=1e-6)
    assert found.df == 2
    assert (found.delta_low, found.delta_high) == pytest.approx((0.454750, 1.259535), abs=1e-6)
    assert (found.low, found.high) == pytest.approx((0.460908, 1.296944), abs=1e-6)


def test_other_numbers_by_hand(tiny: Ratings, cells: Cells) -> None:
    assert fraction_all(tiny, 1, 0).ratio == pytest.approx(26 / 32)
    assert fraction(cells, shift=1).ratio == pytest.approx(17 / 21)
    assert difference(fraction(cells)).estimate == pytest.approx(-4 / 7)
    d = rater_differences(cells)
    assert d == pytest.approx([-2 / 3, -1 / 2, -1 / 2])
    flip = sign_flip(d, np.random.default_rng(0))
    assert (flip.mean, flip.p, flip.exact) == (pytest.approx(-5 / 9), 0.25, True)
    pairs = effects.pairs(cells)
    assert (pairs.win, pairs.tie, pairs.loss) == pytest.approx((1 / 7, 2 / 7, 4 / 7))
    assert effects.effects(cells).cliffs_delta == pytest.approx((9 - 26) / 49)
    wins, ties = effects.pair_counts({(0, 1): common_cells(tiny, 0, 1)}, 2)
    davidson = effects.davidson(wins, ties)
    assert davidson.log_strength == pytest.approx([0, math.log(1 / 4)])
    assert davidson.nu == pytest.approx(1)
    assert effects.bradley_terry(wins, ties).log_strength == pytest.approx([0, math.log(2 / 5)])
    units = agreement.units_of(tiny)
    assert agreement.krippendorff(units, tiny.value, "interval") == pytest.approx(1 - (18 / 16) / (440 / 240))


def test_fieller_is_the_test_inverted(cells: Cells) -> None:
    found = fraction(cells, level=0.90)
    assert non_inferiority(found, found.low).p == pytest.approx(0.05)
    assert equivalence(found, found.low - 1e-9, found.high + 1e-9) == pytest.approx(0.05, abs=1e-6)


def test_one_rater_has_no_interval() -> None:
    one = Cells(np.zeros(3, int), np.arange(3), np.array([3.0, 4, 3]), np.array([4.0, 5, 3]))
    found = fraction(one)
    assert found.ratio == pytest.approx(10 / 12)
    assert (found.low, found.se, found.df) == (None, None, None)
    assert difference(found).p is None
    assert non_inferiority(found).p is None


def test_errors_name_what_is_missing(tiny: Ratings) -> None:
    empty = tiny.where(tiny.arm == 9)
    for ratings, code in ((empty, "no_ratings"), (tiny.where(tiny.arm == 1), "no_teacher_ratings")):
        with pytest.raises(CannotEstimateError) as error:
            common_cells(ratings, 1, 0)
        assert error.value.code == code


def test_bootstrap_agrees_with_a_plain_loop() -> None:
    rng = np.random.default_rng(2)
    rater, scenario = (part.ravel() for part in np.meshgrid(np.arange(12), np.arange(9), indexing="ij"))
    kept = rng.random(len(rater)) < 0.7
    rater, scenario = rater[kept], scenario[kept]
    teacher = rng.integers(2, 6, len(rater)).astype(float)
    student = np.clip(teacher - rng.integers(0, 2, len(rater)), 1, 5)
    fast = pigeonhole(Cells(rater, scenario, student, teacher), np.random.default_rng(0), 4000).ratio()
    ratios = []
    for _ in range(4000):
        w = np.bincount(rng.integers(12, size=12), minlength=12)[rater]
        w = w * np.bincount(rng.integers(9, size=9), minlength=9)[scenario]
        ratios.append((w * student).sum() / (w * teacher).sum())
    assert fast == pytest.approx(np.quantile(ratios, [0.025, 0.975]), abs=0.006)


@pytest.mark.parametrize("ties", [False, True])
def test_wilcoxon_is_scipys(ties: bool) -> None:
    rng = np.random.default_rng(4)
    d = rng.integers(-5, 9, 30).astype(float) if ties else rng.normal(0.3, 1, 30)
    theirs = scipy.stats.wilcoxon(d, zero_method="wilcox", correction=False, method="approx")
    assert wilcoxon(d).p == pytest.approx(theirs.pvalue)
    if not ties:
        assert wilcoxon(d, exact=True).p == pytest.approx(scipy.stats.wilcoxon(d, method="exact").pvalue)


def test_sign_flip_exact_is_scipys() -> None:
    d = np.random.default_rng(5).normal(0.2, 1, 9)
    theirs = scipy.stats.permutation_test(
        (d,), lambda x: np.abs(x.mean()), permutation_type="samples", alternative="greater"
    )
    assert sign_flip(d, np.random.default_rng(0)).p == pytest.approx(theirs.pvalue)


def test_sign_flip_by_chance_is_close_to_exact() -> None:
    d = np.random.default_rng(6).normal(0.35, 1, 16)
    exact = np.mean(
        np.abs((1 - 2 * ((np.arange(2**16)[:, None] >> np.arange(16)) & 1)) @ d / 16) >= abs(d.mean()) - 1e-12
    )
    assert sign_flip(d, np.random.default_rng(0)).p == pytest.approx(exact, abs=0.004)


def test_multiplicity() -> None:
    p = [0.01, None, 0.04, 0.03, 0.02, 0.05]
    assert holm(p) == pytest.approx([0.05, None, 0.09, 0.09, 0.08, 0.09])
    given = [value for value in p if value is not None]
    adjusted = [value for value in benjamini_hochberg(p) if value is not None]
    assert adjusted == pytest.approx(scipy.stats.false_discovery_control(given, method="bh"))
    assert holm([]) == []


def test_icc_and_alpha_of_textbooks() -> None:
    table = np.array([[9, 2, 5, 8], [6, 1, 3, 2], [8, 4, 6, 8], [7, 1, 2, 6], [10, 5, 6, 9], [6, 2, 4, 7]], float)
    icc = agreement.icc(table)
    assert (icc.single, icc.average) == pytest.approx((0.29, 0.62), abs=0.005)
    assert agreement.icc(table[:1]) is None
    assert agreement.krippendorff(np.array([0, 0, 1, 1]), np.array([3.0, 3, 3, 3])) is None


def test_ordered_logit_of_two_levels_is_the_log_odds_ratio() -> None:
    arm = np.repeat([0, 1], [40, 40])
    value = np.concatenate([np.repeat([1.0, 5], [10, 30]), np.repeat([1.0, 5], [20, 20])])
    rater = np.tile(np.arange(8), 10)
    fit = ordered_logit(arm, value, rater, 2)
    assert fit.coef == pytest.approx([0, -math.log(3)])
    assert fit.se_model[1] == pytest.approx(math.sqrt(1 / 10 + 1 / 30 + 1 / 20 + 1 / 20))


def test_ordered_logit_separation() -> None:
    fit = ordered_logit(np.repeat([0, 1], 10), np.repeat([5.0, 1.0], 10), np.tile(np.arange(5), 4), 2)
    assert fit.separation
    assert fit.coef is None


def test_davidson_separation() -> None:
    never_wins = np.array([[0.0, 4], [0, 0]])
    assert effects.davidson(never_wins, np.zeros((2, 2))).separation
    assert effects.davidson(never_wins, np.array([[0.0, 2], [2, 0]])).separation


def test_bang_extremes() -> None:
    assert blinding.bang(0, 0, 0) is None
    assert blinding.bang(10, 0, 0).index == 1
    assert blinding.bang(0, 10, 0).index == -1
    assert blinding.bang(5, 5, 10).p == pytest.approx(0.5)


def test_mcnemar_is_the_binomial_test() -> None:
    for b, c in ((6, 16), (0, 5), (9, 9)):
        assert benchmarks.mcnemar_exact(b, c) == pytest.approx(scipy.stats.binomtest(min(b, c), b + c).pvalue)
    assert benchmarks.mcnemar_exact(0, 0) == 1


def test_accuracy_of_a_teacher_that_knows_nothing() -> None:
    found = benchmarks.accuracy(np.zeros(20), np.ones(20), np.random.default_rng(0), draws=50)
    assert found.retained is None
    assert found.difference == 1


def test_perplexity_is_pooled() -> None:
    found = benchmarks.perplexity(np.array([100.0, 10.0]), np.array([100.0, 5.0]), np.array([400.0, 20.0]))
    assert found.token_perplexity == pytest.approx(math.exp(110 / 105))
    assert found.bits_per_byte == pytest.approx(110 / math.log(2) / 420)


def test_planning_against_simulation() -> None:
    model = planning.Components(3.9, 0.96, s_r=0.45, s_s=0.4, s_ra=0.2, s_sa=0.25, s_e=0.8)
    closed = planning.power(model, 0.9, 12, 60, 20).power
    assert planning.simulate(model, 0.9, 12, 60, 20, np.random.default_rng(1), 400) == pytest.approx(closed, abs=0.07)
    assert planning.raters_needed(model, 0.9, 8, 8) is None  # more raters cannot replace scenarios
    needed = planning.raters_needed(model, 0.9, 50, 20)
    assert (
        planning.power(model, 0.9, needed, 50, 20).power >= 0.8 > planning.power(model, 0.9, needed - 1, 50, 20).power
    )


def test_confidence_sequences() -> None:
    d = np.random.default_rng(8).normal(-0.3, 0.5, 60)
    working, check = sequence.asymptotic(d), sequence.empirical_bernstein(d)
    assert np.isnan(working.low[: sequence.LEAST - 1]).all()
    assert (working.low[9:] < working.centre[9:]).all()
    assert (check.high - check.low > working.high - working.low)[9:].all()
    width = working.high - working.low
    assert width[59] < width[20]

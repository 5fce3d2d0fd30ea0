"""What must not matter does not matter: order of rows, names of raters, scale of the weights."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from reports.stats import agreement, effects
from reports.stats.cells import Cells, collapse, common_cells
from reports.stats.fraction import fraction, fraction_all
from reports.stats.tests import difference, non_inferiority, rater_differences, wilcoxon

SETTINGS = settings(max_examples=60, deadline=None, derandomize=True)


@st.composite
def long_tables(draw: st.DrawFn) -> tuple[np.ndarray, ...]:
    """Ratings of two arms by up to 6 raters on up to 6 scenarios, with gaps and repeats, at least one common cell."""
    size = draw(st.integers(2, 6)), draw(st.integers(2, 6))
    cell = st.tuples(st.integers(0, size[0] - 1), st.integers(0, size[1] - 1), st.integers(0, 1), st.integers(1, 5))
    rows = draw(st.lists(cell, min_size=4, max_size=60))
    rows += [(0, 0, 0, draw(st.integers(2, 5))), (0, 0, 1, draw(st.integers(1, 5)))]
    rater, scenario, arm, value = (np.array(column) for column in zip(*rows, strict=True))
    return rater, scenario, arm, value.astype(float)


def summary(rater: np.ndarray, scenario: np.ndarray, arm: np.ndarray, value: np.ndarray) -> list[float | None]:
    ratings, _ = collapse(rater, scenario, arm, value)
    cells = common_cells(ratings, 1, 0)
    found, every = fraction(cells), fraction_all(ratings, 1, 0)
    diff = difference(found)
    return [
        found.ratio,
        found.low,
        found.high,
        found.df,
        every.ratio,
        every.low,
        diff.p,
        non_inferiority(found).p,
        effects.effects(cells).cliffs_delta,
        agreement.krippendorff(agreement.units_of(ratings), ratings.value),
        wilcoxon(rater_differences(cells)).p,
    ]


def close(a: list[float | None], b: list[float | None]) -> bool:
    return all(
        (x is None) == (y is None) and (x is None or np.isclose(x, y, 1e-7, 1e-9)) for x, y in zip(a, b, strict=True)
    )


@SETTINGS
@given(long_tables(), st.randoms(use_true_random=False))
def test_order_of_rows_does_not_matter(table: tuple[np.ndarray, ...], random: object) -> None:
    order = list(range(len(table[0])))
    random.shuffle(order)
    assert summary(*table) == summary(*(column[order] for column in table))


@SETTINGS
@given(long_tables(), st.permutations(range(6)), st.permutations(range(6)))
def test_names_do_not_matter(table: tuple[np.ndarray, ...], raters: list[int], scenarios: list[int]) -> None:
    rater, scenario, arm, value = table
    assert close(summary(*table), summary(np.array(raters)[rater], np.array(scenarios)[scenario], arm, value))


@SETTINGS
@given(long_tables())
def test_raters_and_scenarios_are_alike(table: tuple[np.ndarray, ...]) -> None:
    rater, scenario, arm, value = table
    found = [
        fraction(common_cells(collapse(*axes, arm, value)[0], 1, 0)) for axes in ((rater, scenario), (scenario, rater))
    ]
    for name in ("ratio", "low", "high", "df"):
        a, b = getattr(found[0], name), getattr(found[1], name)
        assert (a is None) == (b is None)
        assert a is None or a == pytest.approx(b)


@SETTINGS
@given(long_tables())
def test_interval_holds_the_estimate(table: tuple[np.ndarray, ...]) -> None:
    found = fraction(common_cells(collapse(*table)[0], 1, 0))
    if found.low is not None:
        assert found.low <= found.ratio + 1e-12
        assert found.high >= found.ratio - 1e-12
    narrow = fraction(common_cells(collapse(*table)[0], 1, 0), level=0.8)
    if narrow.low is not None:
        assert found.low <= narrow.low + 1e-9
        assert found.high >= narrow.high - 1e-9


@SETTINGS
@given(long_tables())
def test_swapping_arms_turns_signs(table: tuple[np.ndarray, ...]) -> None:
    cells = common_cells(collapse(*table)[0], 1, 0)
    turned = Cells(cells.rater, cells.scenario, cells.teacher, cells.student)
    assert effects.effects(turned).cliffs_delta == pytest.approx(-effects.effects(cells).cliffs_delta)
    assert effects.pairs(turned).win == effects.pairs(cells).loss
    assert difference(fraction(turned)).estimate == pytest.approx(-difference(fraction(cells)).estimate)


def coverage(replications: int, raters: int, scenarios: int, rng: np.random.Generator) -> float:
    """Share of simulated studies whose default interval holds the true fraction, on the rounded and clipped scale."""

    def rate(mean: float, effects_of: list[np.ndarray], noise: np.ndarray) -> np.ndarray:
        return np.clip(np.round(mean + sum(effects_of) + noise), 1, 5)

    rater, scenario = (part.ravel() for part in np.meshgrid(np.arange(raters), np.arange(scenarios), indexing="ij"))
    means, sds = (3.4, 3.9), (0.4, 0.4, 0.25, 0.25, 0.8)
    # The true means of the rounded scale: one effect of each kind adds up to one normal variable.
    spread = np.sqrt(sum(sd**2 for sd in sds))
    truth = [np.clip(np.round(mean + spread * rng.standard_normal(2_000_000)), 1, 5).mean() for mean in means]
    held = 0
    for _ in range(replications):
        shared = [sds[0] * rng.standard_normal(raters)[rater], sds[1] * rng.standard_normal(scenarios)[scenario]]
        arms = []
        for mean in means:
            own = [sds[2] * rng.standard_normal(raters)[rater], sds[3] * rng.standard_normal(scenarios)[scenario]]
            arms.append(rate(mean, shared + own, sds[4] * rng.standard_normal(len(rater))))
        found = fraction(Cells(rater, scenario, arms[0], arms[1]))
        held += found.low <= truth[0] / truth[1] <= found.high
    return held / replications


def test_coverage_of_the_default_interval() -> None:
    assert 0.92 <= coverage(600, 20, 20, np.random.default_rng(20)) <= 0.98

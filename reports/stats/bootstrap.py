"""The pigeonhole bootstrap (Owen 2007): raters and scenarios are drawn anew, a cell weighs the product.

With weights W_r [draws, R] and W_s [draws, S], the sum of w * x over cells is the row sum of (W_r X) * W_s, where X is
the R x S table of x. Two matrix products therefore replace the loop over draws.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from reports.stats.cells import Cells, Floats, Ints, Ratings, dense

CHUNK = 4_000_000  # weights held at once, in elements


@dataclass(frozen=True)
class Draws:
    """Bootstrap means of the student and the teacher, each [draws]; draws of total weight 0 are left out."""

    m1: Floats
    m0: Floats

    def ratio(self, shift: float = 0.0, level: float = 0.95) -> tuple[float, float] | None:
        """Percentile interval of the ratio of means; None where no draw has a ratio."""
        there = self.m0 != shift
        if not there.any():
            return None
        return percentile((self.m1[there] - shift) / (self.m0[there] - shift), level)

    def difference(self, level: float = 0.95) -> tuple[float, float]:
        """Percentile interval of m1 - m0."""
        return percentile(self.m1 - self.m0, level)


def percentile(draws: Floats, level: float = 0.95) -> tuple[float, float]:
    """The central `level` of some draws [B]."""
    low, high = np.quantile(draws, [(1 - level) / 2, (1 + level) / 2])
    return float(low), float(high)


def multinomial_weights(rng: np.random.Generator, draws: int, size: int) -> npt.NDArray[np.float32]:
    """Weights [draws, size], each row Multinomial(size, 1/size): how often each level was drawn."""
    picks = rng.integers(size, size=(draws, size), dtype=np.int64)
    picks += (np.arange(draws, dtype=np.int64) * size)[:, None]
    return np.bincount(picks.ravel(), minlength=draws * size).reshape(draws, size).astype(np.float32)


def pigeonhole(cells: Cells, rng: np.random.Generator, draws: int = 10_000) -> Draws:
    """Resample raters and scenarios of the common cells. Needs two of each to mean anything.

    float32 is exact here: weights and ratings are small whole numbers, and their sums stay below 2^24.
    """
    shape = cells.n_raters, cells.n_scenarios
    tables = [_table(cells.rater, cells.scenario, value, shape) for value in (None, cells.student, cells.teacher)]
    n, s, t = _sums(tables, rng, draws)
    there = n > 0
    return Draws(s[there] / n[there], t[there] / n[there])


def pigeonhole_all(
    ratings: Ratings, student: int, teacher: int, rng: np.random.Generator, draws: int = 10_000
) -> Draws:
    """The same for the means over all cells of each arm, common or not: one draw serves both arms."""
    rows = ratings.where((ratings.arm == student) | (ratings.arm == teacher))
    rater, scenario = dense(rows.rater), dense(rows.scenario)
    shape = int(rater.max()) + 1, int(scenario.max()) + 1
    tables = []
    for arm in (student, teacher):
        mine = rows.arm == arm
        tables += [_table(rater[mine], scenario[mine], value, shape) for value in (None, rows.value[mine])]
    n_s, s, n_t, t = _sums(tables, rng, draws)
    there = (n_s > 0) & (n_t > 0)
    return Draws(s[there] / n_s[there], t[there] / n_t[there])


def _table(rater: Ints, scenario: Ints, value: Floats | None, shape: tuple[int, int]) -> npt.NDArray[np.float32]:
    """Sums of values [n] in an R x S table; counts for None."""
    flat = np.bincount(rater * shape[1] + scenario, value, minlength=shape[0] * shape[1])
    return flat.reshape(shape).astype(np.float32)


def _sums(tables: Sequence[npt.NDArray[np.float32]], rng: np.random.Generator, draws: int) -> Floats:
    """Weighted sums [tables, draws] of R x S tables under the same draws of raters and scenarios."""
    shape = tables[0].shape
    sums = np.empty((len(tables), draws))
    step = max(1, CHUNK // max(shape))
    for start in range(0, draws, step):
        stop = min(start + step, draws)
        by_rater = multinomial_weights(rng, stop - start, shape[0])
        by_scenario = multinomial_weights(rng, stop - start, shape[1]).astype(np.float64)
        for row, table in enumerate(tables):
            sums[row, start:stop] = np.einsum("bs,bs->b", (by_rater @ table).astype(np.float64), by_scenario)
    return sums

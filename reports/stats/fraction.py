"""The satisfaction fraction: a ratio of two means with raters and scenarios as samples.

Two-way clustered variance (Cameron, Gelbach, Miller 2011) with a floor, Satterthwaite's degrees of freedom, Fieller's
interval (1954) and the delta interval beside it.
"""

import math
from dataclasses import dataclass

import numpy as np
from scipy.special import stdtrit

from reports.stats.cells import CannotEstimateError, Cells, Floats, Ints, Ratings, dense

# Sums of exact zeros leave rounding noise near 1e-30; one rating of a million that differs leaves 1e-14.
ZERO = 1e-24
# Variances that are equal in truth differ by rounding; degrees of freedom must not hang on which is larger then.
TIE = 1e-9


@dataclass(frozen=True)
class Contrast:
    """Variance of one linear combination of the two means: floored `v`, its parts, and Satterthwaite's `df`."""

    v: float
    v_rater: float
    v_scenario: float
    v_cell: float
    v_raw: float
    floor_used: bool
    df: float

    @property
    def se(self) -> float:
        return math.sqrt(self.v)


@dataclass(frozen=True)
class TwoWay:
    """Sums of influences by rater [R, 2], scenario [S, 2] and cell [n, 2]; columns: student mean, teacher mean."""

    rater: Floats
    scenario: Floats
    cell: Floats

    def contrast(self, w_student: float, w_teacher: float) -> Contrast:
        """Variance of w_student * m1 + w_teacher * m0; needs two raters and two scenarios.

        The two-way variance may be negative or smaller than a one-way variance; the largest of the three counts.
        """
        w = np.array([w_student, w_teacher])
        sizes = len(self.rater), len(self.scenario), len(self.cell)
        parts = (self.rater, self.scenario, self.cell)
        vr, vs, vc = (g / (g - 1) * float(np.sum((sums @ w) ** 2)) for g, sums in zip(sizes, parts, strict=True))
        raw = vr + vs - vc
        v = max(raw, vr, vs)
        floor_used = raw < v * (1 - TIE)
        if v <= ZERO:
            return Contrast(0.0, 0.0, 0.0, 0.0, 0.0, False, float(min(sizes[:2]) - 1))
        if floor_used:
            larger = [g for g, one_way in zip(sizes[:2], (vr, vs), strict=True) if one_way >= v * (1 - TIE)]
            df = float(min(larger) - 1)
        else:
            df = v**2 / (vr**2 / (sizes[0] - 1) + vs**2 / (sizes[1] - 1) + vc**2 / (sizes[2] - 1))
        return Contrast(v, vr, vs, vc, raw, floor_used, df)

    def matrices(self) -> tuple[Floats, Floats, Floats]:
        """The 2x2 covariances of (m1, m0): two-way, by rater, by scenario."""
        vr, vs, vc = (len(g) / (len(g) - 1) * (g.T @ g) for g in (self.rater, self.scenario, self.cell))
        return vr + vs - vc, vr, vs


def two_way(psi_s: Floats, psi_t: Floats, rater: Ints, scenario: Ints, cell: Ints | None = None) -> TwoWay:
    """Sum influences [n] of the student's and the teacher's mean over raters, scenarios and cells (codes [n])."""

    def sums(codes: Ints) -> Floats:
        return np.stack([np.bincount(codes, psi_s), np.bincount(codes, psi_t)], axis=1)

    by_cell = np.stack([psi_s, psi_t], axis=1) if cell is None else sums(cell)
    return TwoWay(sums(rater), sums(scenario), by_cell)


@dataclass(frozen=True)
class Estimate:
    """Two means and their ratio, with what the interval and every test need.

    `m1`, `m0` and all that follows are on the scale moved by `shift` (1 for the rescaled fraction). `contrast` and the
    limits are None with one rater or one scenario; limits are infinite where Fieller's set is unbounded.
    """

    m1: float
    m0: float
    ratio: float
    n_student: int
    n_teacher: int
    n_cells: int
    n_raters: int
    n_scenarios: int
    shift: float
    level: float
    sums: TwoWay
    contrast: Contrast | None
    low: float | None
    high: float | None
    delta_low: float | None
    delta_high: float | None

    @property
    def se(self) -> float | None:
        return None if self.contrast is None else self.contrast.se

    @property
    def df(self) -> float | None:
        return None if self.contrast is None else self.contrast.df

    @property
    def zero_variance(self) -> bool:
        return self.contrast is not None and self.contrast.v == 0

    @property
    def unbounded(self) -> bool:
        return self.low is not None and math.isinf(self.low)


def fraction(cells: Cells, *, shift: float = 0.0, level: float = 0.95) -> Estimate:
    """Ratio of means on common cells, the default estimator; `shift` 1 moves the lowest rating to zero.

    Raises CannotEstimateError with the code teacher_at_floor if the teacher's mean is exactly `shift`.
    """
    m1, m0 = float(cells.student.mean()), float(cells.teacher.mean())
    sums = two_way((cells.student - m1) / cells.n, (cells.teacher - m0) / cells.n, cells.rater, cells.scenario)
    return _estimate(m1, m0, (cells.n, cells.n, cells.n), sums, shift, level)


def fraction_all(ratings: Ratings, student: int, teacher: int, *, shift: float = 0.0, level: float = 0.95) -> Estimate:
    """Ratio of the arms' means over all their cells, common or not; the two ratings of a cell stay one cluster.

    Secondary to `fraction`: who rated what may differ between arms.
    """
    rows = ratings.where((ratings.arm == student) | (ratings.arm == teacher))
    is_s, is_t = rows.arm == student, rows.arm == teacher
    if not is_s.any() or not is_t.any():
        raise CannotEstimateError("no_ratings", "one of the two arms has no rating")
    n1, n0 = int(is_s.sum()), int(is_t.sum())
    m1, m0 = float(rows.value[is_s].mean()), float(rows.value[is_t].mean())
    psi_s = np.where(is_s, (rows.value - m1) / n1, 0.0)
    psi_t = np.where(is_t, (rows.value - m0) / n0, 0.0)
    key = rows.rater * (int(rows.scenario.max()) + 1) + rows.scenario
    cell = np.unique(key, return_inverse=True)[1].astype(np.int64)
    sums = two_way(psi_s, psi_t, dense(rows.rater), dense(rows.scenario), cell)
    return _estimate(m1, m0, (n1, n0, int(cell.max()) + 1), sums, shift, level)


def _estimate(m1: float, m0: float, n: tuple[int, int, int], sums: TwoWay, shift: float, level: float) -> Estimate:
    if m0 == shift:
        raise CannotEstimateError("teacher_at_floor", "the teacher's mean is the lowest rating")
    m1, m0 = m1 - shift, m0 - shift
    ratio = m1 / m0
    n_raters, n_scenarios = len(sums.rater), len(sums.scenario)
    contrast, low, high, delta_low, delta_high = None, None, None, None, None
    if min(n_raters, n_scenarios) > 1:
        contrast = sums.contrast(1 / m0, -ratio / m0)
        low = high = delta_low = delta_high = ratio
        if contrast.v > 0:
            low, high = fieller(m1, m0, sums, contrast.df, level)
            half = t_quantile(contrast.df, level) * contrast.se
            delta_low, delta_high = ratio - half, ratio + half
    return Estimate(
        m1, m0, ratio, *n, n_raters, n_scenarios, shift, level, sums, contrast, low, high, delta_low, delta_high
    )


def t_quantile(df: float, level: float) -> float:
    """The two-sided quantile of Student's t: 0.95 gives the 97.5 % point."""
    return float(stdtrit(df, (1 + level) / 2))


def fieller(m1: float, m0: float, sums: TwoWay, df: float, level: float = 0.95) -> tuple[float, float]:
    """Fieller's set {rho: (m1 - rho m0)^2 <= t^2 v(1, -rho)} with the floored variance; (-inf, inf) if unbounded.

    The floored variance is a maximum of three, so the set is the hull of three quadratic solutions. A matrix without a
    real solution adds nothing.
    """
    t2 = t_quantile(df, level) ** 2
    limits: list[float] = []
    for v in sums.matrices():
        a, b, c = m0**2 - t2 * v[1, 1], m1 * m0 - t2 * v[0, 1], m1**2 - t2 * v[0, 0]
        if a <= 0:
            return -math.inf, math.inf
        root = b**2 - a * c
        if root >= 0:
            limits += [(b - math.sqrt(root)) / a, (b + math.sqrt(root)) / a]
    return float(min(limits)), float(max(limits))

"""Prediction-powered inference: a few ratings by people, many marks by a judge, one fraction.

Angelopoulos, Bates, Fannjiang, Jordan and Zrnic, "Prediction-powered inference" (2023), with the power tuning of
Angelopoulos, Duchi and Zrnic, "PPI++" (2023). The judge may be wrong in any way: its mean on scenarios that nobody
rated is corrected by its error where people rated, and it counts as much as it helps, down to not at all. For a mean,

    estimate = mean(Y) - lambda (mean of F where people rated - mean of F elsewhere),

with Y the people's ratings and F the judge's marks. Here ratings are not independent: they share raters and
scenarios. So the people's part has the two-way clustered variance of `fraction`, the judge's part that of its
scenarios, and lambda is tuned for the contrast student - fraction x teacher, which is what the interval is about.
"""

import math
from dataclasses import dataclass

import numpy as np

from reports.stats.cells import Cells, Floats
from reports.stats.fraction import TIE, ZERO, Contrast, TwoWay, fraction, t_quantile, two_way

LEAST = 5
"""Scenarios with people's ratings, and without, below which nothing is combined: lambda would be guesswork."""


@dataclass(frozen=True)
class Marks:
    """A judge's marks of both arms, one row a scenario [S, 2]: student, teacher."""

    rated: Floats
    """Scenarios with common cells, in the order of the cells' scenario codes."""
    others: Floats
    """Scenarios that nobody rated."""


@dataclass(frozen=True)
class Combined:
    """People's and judge's means combined, and their ratio with its 95 % interval.

    `weight` is lambda: 0 leaves the people's fraction as it is. `low` and `high` are Fieller's, infinite where the set
    is unbounded. `people_low` and `people_high` are the interval without the judge; `gain` is the share of variance
    that the judge took off, which is also the share of people's work that it saved.
    """

    estimate: float
    low: float
    high: float
    se: float
    df: float
    student: float
    teacher: float
    weight: float
    gain: float
    n_cells: int
    n_raters: int
    n_rated: int
    n_others: int
    people: float
    people_low: float
    people_high: float


class CannotCombineError(ValueError):
    """The ratings and marks do not allow to combine them; `code` says why."""

    def __init__(self, code: str, what: str):
        super().__init__(what)
        self.code = code


def combine(cells: Cells, marks: Marks, *, shift: float = 0.0, level: float = 0.95) -> Combined:
    """The satisfaction fraction from people's common cells and a judge's marks.

    Valid where the rated scenarios are a random part of all: then the judge's marks mean the same in both parts.
    Raises CannotCombineError (few_rated, few_others, one_rater, teacher_at_floor, zero_variance), and what `fraction`
    raises.
    """
    n_s, n_u = cells.n_scenarios, len(marks.others)
    if n_s < LEAST:
        raise CannotCombineError("few_rated", f"people rated {n_s} scenarios; at least {LEAST} are needed")
    if not n_u:
        raise CannotCombineError("few_others", "people rated every scenario that was judged: nothing is left to add")
    if n_u < LEAST:
        raise CannotCombineError("few_others", f"the judge alone rated {n_u} scenarios; at least {LEAST} are needed")
    if cells.n_raters < 2:
        raise CannotCombineError("one_rater", "there is one rater; at least two are needed")
    people = fraction(cells, shift=shift, level=level)
    contrast = people.contrast
    if contrast is None or contrast.v <= ZERO or people.low is None or people.high is None:
        raise CannotCombineError("zero_variance", "the people's ratings do not differ")
    weight = tuned(cells, marks, people.ratio)
    y = np.stack([cells.student, cells.teacher], axis=1)
    left = y - weight * marks.rated[cells.scenario]
    away = weight * marks.others
    mean = left.mean(axis=0) + away.mean(axis=0) - shift
    if mean[1] <= 0:
        raise CannotCombineError("teacher_at_floor", "the teacher's combined mean is the lowest rating")
    psi = (left - left.mean(axis=0)) / cells.n
    sums = two_way(psi[:, 0], psi[:, 1], cells.rater, cells.scenario)
    centred = away - away.mean(axis=0)
    extra = centred.T @ centred / (n_u * (n_u - 1))
    ratio = float(mean[0] / mean[1])
    w = np.array([1.0, -ratio]) / mean[1]
    v_people = _tuned_contrast(sums, w, weight)
    v_judge = float(w @ extra @ w)
    v = v_people.v + v_judge
    if v <= ZERO:
        raise CannotCombineError("zero_variance", "people and judge agree to the last point")
    df = v**2 / (v_people.v**2 / v_people.df + v_judge**2 / (n_u - 1))
    low, high = _fieller(mean, sums, extra, t_quantile(df, level))
    return Combined(
        estimate=ratio,
        low=low,
        high=high,
        se=math.sqrt(v),
        df=df,
        student=float(mean[0]) + shift,
        teacher=float(mean[1]) + shift,
        weight=weight,
        gain=1 - v / contrast.v,
        n_cells=cells.n,
        n_raters=cells.n_raters,
        n_rated=n_s,
        n_others=n_u,
        people=people.ratio,
        people_low=people.low,
        people_high=people.high,
    )


def tuned(cells: Cells, marks: Marks, ratio: float) -> float:
    """lambda: covariance of people's and judge's contrast over the variance of the judge's, kept within 0 and 1.

    Contrast is student - ratio x teacher. The covariance is that of the two means over rated scenarios, clustered by
    scenario; the judge's variance is taken over all its scenarios, rated or not. With one rating a scenario this is
    PPI++'s cov(Y, F) / ((1 + n/N) var(F)).
    """
    z = cells.student - ratio * cells.teacher
    rated, others = (part @ np.array([1.0, -ratio]) for part in (marks.rated, marks.others))
    share = np.bincount(cells.scenario) / cells.n
    g = len(share)
    z_gap = np.bincount(cells.scenario, z - z.mean()) / cells.n
    f_gap = share * (rated - share @ rated)
    covariance = g / (g - 1) * float(z_gap @ f_gap)
    variance = float(np.var(np.concatenate([rated, others]), ddof=1)) * (float(share @ share) + 1 / len(others))
    if variance <= ZERO:
        return 0.0
    return min(1.0, max(0.0, covariance / variance))


def _tuned_contrast(sums: TwoWay, w: Floats, weight: float) -> Contrast:
    """The people's part of the variance. lambda was fitted to the same scenarios, which costs one degree of freedom."""
    found = sums.contrast(float(w[0]), float(w[1]))
    g = len(sums.scenario)
    if weight == 0 or found.df <= 1:
        return found
    scale = (g - 1) / (g - 2)
    v_scenario = found.v_scenario * scale
    raw = found.v_rater + v_scenario - found.v_cell
    v = max(raw, found.v_rater, v_scenario)
    df = max(1.0, found.df - 1) if v_scenario >= v * (1 - TIE) else found.df
    return Contrast(v, found.v_rater, v_scenario, found.v_cell, raw, raw < v * (1 - TIE), df)


def _fieller(mean: Floats, sums: TwoWay, extra: Floats, t: float) -> tuple[float, float]:
    """Fieller's set with the variance floored as in `fraction.fieller`, the judge's part added to each of the three."""
    g = len(sums.scenario)
    limits: list[float] = []
    for matrix in sums.matrices():
        v = matrix * (g - 1) / (g - 2) + extra
        a = mean[1] ** 2 - t**2 * v[1, 1]
        b = mean[0] * mean[1] - t**2 * v[0, 1]
        c = mean[0] ** 2 - t**2 * v[0, 0]
        if a <= 0:
            return -math.inf, math.inf
        root = b**2 - a * c
        if root >= 0:
            limits += [float((b - math.sqrt(root)) / a), float((b + math.sqrt(root)) / a)]
    return (min(limits), max(limits)) if limits else (-math.inf, math.inf)

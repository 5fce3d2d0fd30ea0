"""Variance components of a pilot study, by moments: what a plan needs to know about raters and scenarios.

Model as in `planning`: y = mu_arm + rater + scenario + rater:scenario + rater:arm + scenario:arm + e. The difference of
a cell's two ratings holds the arm's interactions only, their mean everything; each is a two-way crossed table with
gaps, whose three variances follow from three sums of squares (Gao, Owen 2017, section 4.1; with no gaps they are those
of the analysis of variance).
"""

from dataclasses import dataclass

import numpy as np

from reports.stats.cells import CannotEstimateError, Cells, Floats, Ints
from reports.stats.planning import Components


@dataclass(frozen=True)
class Crossed:
    """Variances of a crossed table with one value a cell: rater, scenario, and what is left. May be negative."""

    rater: float
    scenario: float
    rest: float


def crossed(value: Floats, rater: Ints, scenario: Ints) -> Crossed:
    """Unbiased variances of values [n] of cells, codes without gaps; unbalanced tables are allowed.

    Raises CannotEstimateError (one_cluster, no_overlap) where raters and scenarios cannot be told apart.
    """
    n = len(value)
    by_rater, by_scenario = np.bincount(rater).astype(np.float64), np.bincount(scenario).astype(np.float64)
    if min(len(by_rater), len(by_scenario)) < 2:
        raise CannotEstimateError("one_cluster", "one rater or one scenario")
    within_rater = _squares(value, rater, by_rater)
    within_scenario = _squares(value, scenario, by_scenario)
    total = n * float(np.sum((value - value.mean()) ** 2))
    left_r, left_s = n - len(by_rater), n - len(by_scenario)
    # expectations of the three sums in (rater, scenario, rest)
    expected = np.array(
        [
            [0.0, left_r, left_r],
            [left_s, 0.0, left_s],
            [n**2 - np.sum(by_rater**2), n**2 - np.sum(by_scenario**2), n**2 - n],
        ]
    )
    if np.linalg.matrix_rank(expected) < 3:
        raise CannotEstimateError("no_overlap", "no rater shares a scenario with another and has a second one")
    return Crossed(*(float(one) for one in np.linalg.solve(expected, [within_rater, within_scenario, total])))


def _squares(value: Floats, group: Ints, count: Floats) -> float:
    mean = np.bincount(group, value) / count
    return float(np.sum((value - mean[group]) ** 2))


def components(cells: Cells) -> Components:
    """What a pilot's common cells say for a plan; a negative variance counts as 0. Codes must be without gaps."""
    apart = crossed(cells.student - cells.teacher, cells.rater, cells.scenario)
    both = crossed((cells.student + cells.teacher) / 2, cells.rater, cells.scenario)
    v_ra, v_sa, v_e = (max(one, 0.0) / 2 for one in (apart.rater, apart.scenario, apart.rest))
    v_r, v_s, v_rs = both.rater - v_ra / 2, both.scenario - v_sa / 2, both.rest - v_e / 2
    mean_s, mean_t = float(cells.student.mean()), float(cells.teacher.mean())
    root = [float(np.sqrt(max(one, 0.0))) for one in (v_r, v_s, v_ra, v_sa, v_e, v_rs)]
    return Components(mean_t, mean_s / mean_t, *root)

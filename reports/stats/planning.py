"""How many raters and scenarios a non-inferiority test needs, by closed form and by simulation of the real test.

Model: y = mu_arm + rater + scenario + rater:arm + scenario:arm + e, interactions independent between arms.
"""

import math
from dataclasses import dataclass

import numpy as np
from scipy.special import nctdtr, stdtrit

from reports.stats.cells import Cells
from reports.stats.fraction import fraction
from reports.stats.tests import non_inferiority


@dataclass(frozen=True)
class Components:
    """What a plan assumes: the teacher's mean, the true ratio, and standard deviations in points of the scale."""

    mu_t: float
    true_ratio: float
    s_r: float
    s_s: float
    s_ra: float
    s_sa: float
    s_e: float


@dataclass(frozen=True)
class Power:
    """Power of the one-sided 5 % test, the standard error of m1 - margin m0, its df, and the noncentrality."""

    power: float
    se: float
    df: float
    ncp: float


def power(
    model: Components, margin: float, raters: float, scenarios: int, per_rater: int, alpha: float = 0.05
) -> Power:
    """Closed form for `raters` people of whom each rates `per_rater` of `scenarios` scenarios in both arms.

    `raters` may be math.inf: the limit that more raters cannot pass.
    """
    q = margin
    a_r = ((1 - q) ** 2 * model.s_r**2 + (1 + q**2) * model.s_ra**2) / raters
    a_s = ((1 - q) ** 2 * model.s_s**2 + (1 + q**2) * model.s_sa**2) / scenarios
    a_e = (1 + q**2) * model.s_e**2 / (raters * per_rater)
    v = a_r + a_s + a_e
    if math.isinf(raters):
        df = float(scenarios - 1)
    else:
        v_r, v_s = a_r + a_e, a_s + a_e
        v_c = (raters * a_r + scenarios * a_s) / (raters * per_rater) + a_e
        df = v**2 / (v_r**2 / (raters - 1) + v_s**2 / (scenarios - 1) + v_c**2 / (raters * per_rater - 1))
    ncp = model.mu_t * (model.true_ratio - q) / math.sqrt(v)
    critical = float(stdtrit(df, 1 - alpha))
    return Power(1 - float(nctdtr(df, ncp, critical)), math.sqrt(v), df, ncp)


def raters_needed(
    model: Components, margin: float, scenarios: int, per_rater: int, target: float = 0.80, most: int = 100_000
) -> int | None:
    """The least number of raters that reaches the target power; None if no number does (`unreachable`).

    More raters cannot replace scenarios: with few of them power stops short of any target.
    """
    if power(model, margin, math.inf, scenarios, per_rater).power < target:
        return None

    def enough(raters: int) -> bool:
        return power(model, margin, raters, scenarios, per_rater).power >= target

    high = 2
    while not enough(high):
        high *= 2
        if high > most:
            return None
    low = high // 2
    while low + 1 < high:
        middle = (low + high) // 2
        low, high = (low, middle) if enough(middle) else (middle, high)
    return high


def simulate(
    model: Components,
    margin: float,
    raters: int,
    scenarios: int,
    per_rater: int,
    rng: np.random.Generator,
    replications: int = 500,
    alpha: float = 0.05,
) -> float:
    """Share of simulated studies in which the real test finds the student not inferior."""
    found = 0
    for _ in range(replications):
        cells = draw_cells(model, raters, scenarios, per_rater, rng)
        p = non_inferiority(fraction(cells), margin).p
        found += p is not None and p < alpha
    return found / replications


def draw_cells(model: Components, raters: int, scenarios: int, per_rater: int, rng: np.random.Generator) -> Cells:
    """One study of the model, on the continuous scale; each rater's scenarios are drawn at random."""
    chosen = np.argsort(rng.random((raters, scenarios)), axis=1)[:, :per_rater]
    rater = np.repeat(np.arange(raters), per_rater)
    scenario = chosen.ravel()
    shared = model.s_r * rng.standard_normal(raters)[rater] + model.s_s * rng.standard_normal(scenarios)[scenario]

    def arm(mean: float) -> np.ndarray[tuple[int], np.dtype[np.float64]]:
        own = model.s_ra * rng.standard_normal(raters)[rater] + model.s_sa * rng.standard_normal(scenarios)[scenario]
        return mean + shared + own + model.s_e * rng.standard_normal(len(rater))

    used = np.unique(scenario, return_inverse=True)[1].astype(np.int64)
    return Cells(rater, used, arm(model.mu_t * model.true_ratio), arm(model.mu_t))

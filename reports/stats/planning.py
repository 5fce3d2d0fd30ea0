"""How many raters and scenarios a non-inferiority test needs, by closed form and by simulation of the real test.

Model: y = mu_arm + rater + scenario + rater:scenario + rater:arm + scenario:arm + e, arms' interactions independent.
Crossing "within": a rater rates each of their scenarios in every arm, and the default estimator is used. "between": in
one arm only, arms dealt evenly over raters and scenarios, and the all-data estimator is used.
"""

import math
from dataclasses import dataclass
from typing import Literal

import numpy as np
from scipy.special import nctdtr, stdtrit

from reports.stats.cells import Cells, Floats, Ints, Ratings
from reports.stats.fraction import fraction, fraction_all
from reports.stats.tests import non_inferiority

Crossing = Literal["within", "between"]


@dataclass(frozen=True)
class Components:
    """What a plan assumes: the teacher's mean, the true ratio, and standard deviations in points of the scale.

    `s_r`, `s_s`: raters, scenarios; `s_ra`, `s_sa`: how arms differ between raters, between scenarios; `s_e`: the rest;
    `s_rs`: what a rater makes of a scenario in every arm, which a comparison within cells does not feel.
    """

    mu_t: float
    true_ratio: float
    s_r: float
    s_s: float
    s_ra: float
    s_sa: float
    s_e: float
    s_rs: float = 0.0


@dataclass(frozen=True)
class Power:
    """Power of the one-sided 5 % test, the standard error of m1 - margin m0, its df, and the noncentrality."""

    power: float
    se: float
    df: float
    ncp: float


def power(
    model: Components,
    margin: float,
    raters: float,
    scenarios: int,
    per_rater: int,
    alpha: float = 0.05,
    *,
    crossing: Crossing = "within",
    arms: int = 2,
) -> Power:
    """Closed form for `raters` people of whom each is given `per_rater` of `scenarios` scenarios.

    "within" means `arms` ratings for each of them, "between" one. `raters` may be math.inf: the limit that more raters
    cannot pass.
    """
    q = margin
    both = 1 + q**2
    a_r = ((1 - q) ** 2 * model.s_r**2 + both * model.s_ra**2) / raters
    a_s = ((1 - q) ** 2 * model.s_s**2 + both * model.s_sa**2) / scenarios
    if crossing == "within":
        cells = raters * per_rater
        a_e = (both * model.s_e**2 + (1 - q) ** 2 * model.s_rs**2) / cells
        by_r, by_s = a_r * raters / cells, a_s * scenarios / cells
        extra_r = extra_s = 0.0
    else:  # one rating a cell: effects of raters and scenarios meet in the two means on different cells
        in_arm = raters * per_rater / arms
        cells = 2 * in_arm
        a_e = both * (model.s_e**2 + model.s_rs**2) / in_arm
        by_r = extra_s = both * (model.s_r**2 + model.s_ra**2) / in_arm
        by_s = extra_r = both * (model.s_s**2 + model.s_sa**2) / in_arm
    v = a_r + a_s + a_e
    if math.isinf(raters):
        df = float(scenarios - 1)
    else:
        v_r, v_s, v_c = a_r + a_e + extra_r, a_s + a_e + extra_s, by_r + by_s + a_e
        df = v**2 / (v_r**2 / (raters - 1) + v_s**2 / (scenarios - 1) + v_c**2 / (cells - 1))
    ncp = model.mu_t * (model.true_ratio - q) / math.sqrt(v) if v > 0 else math.inf
    if math.isinf(ncp):
        return Power(1.0 if model.true_ratio > q else 0.0, 0.0, df, ncp)
    critical = float(stdtrit(df, 1 - alpha))
    return Power(1 - float(nctdtr(df, ncp, critical)), math.sqrt(v), df, ncp)


def raters_needed(
    model: Components,
    margin: float,
    scenarios: int,
    per_rater: int,
    target: float = 0.80,
    most: int = 100_000,
    *,
    crossing: Crossing = "within",
    arms: int = 2,
) -> int | None:
    """The least number of raters that reaches the target power; None if no number does (`unreachable`).

    More raters cannot replace scenarios: with few of them power stops short of any target.
    """

    def reached(raters: float) -> bool:
        return power(model, margin, raters, scenarios, per_rater, crossing=crossing, arms=arms).power >= target

    if not reached(math.inf):
        return None
    high = 2
    while not reached(high):
        high *= 2
        if high > most:
            return None
    low = high // 2
    while low + 1 < high:
        middle = (low + high) // 2
        low, high = (low, middle) if reached(middle) else (middle, high)
    return high


def scenarios_needed(model: Components, margin: float, target: float = 0.80, most: int = 1_000) -> int | None:
    """The least number of scenarios with which enough raters reach the target power; None up to `most`."""
    for scenarios in range(2, most + 1):
        if power(model, margin, math.inf, scenarios, scenarios).power >= target:
            return scenarios
    return None


def simulate(
    model: Components,
    margin: float,
    raters: int,
    scenarios: int,
    per_rater: int,
    rng: np.random.Generator,
    replications: int = 500,
    alpha: float = 0.05,
    *,
    crossing: Crossing = "within",
    arms: int = 2,
) -> float:
    """Share of simulated studies in which the real test finds the student not inferior."""
    found = 0
    for _ in range(replications):
        if crossing == "within":
            estimate = fraction(draw_cells(model, raters, scenarios, per_rater, rng))
        else:
            estimate = fraction_all(draw_ratings(model, raters, scenarios, per_rater, rng, arms), 1, 0)
        p = non_inferiority(estimate, margin).p
        found += p is not None and p < alpha
    return found / replications


def draw_cells(model: Components, raters: int, scenarios: int, per_rater: int, rng: np.random.Generator) -> Cells:
    """One study of crossing "within", on the continuous scale; each rater's scenarios are drawn at random."""
    rater, scenario = _dealt(raters, scenarios, per_rater, rng)
    shared = _shared(model, raters, scenarios, rater, scenario, rng)

    def arm(mean: float) -> Floats:
        own = model.s_ra * rng.standard_normal(raters)[rater] + model.s_sa * rng.standard_normal(scenarios)[scenario]
        return np.asarray(mean + shared + own + model.s_e * rng.standard_normal(len(rater)))

    used = np.unique(scenario, return_inverse=True)[1].astype(np.int64)
    return Cells(rater, used, arm(model.mu_t * model.true_ratio), arm(model.mu_t))


def draw_ratings(
    model: Components, raters: int, scenarios: int, per_rater: int, rng: np.random.Generator, arms: int = 2
) -> Ratings:
    """One study of crossing "between", on the continuous scale: teacher 0, student 1, other arms left out."""
    rater, scenario = _dealt(raters, scenarios, per_rater, rng)
    arm = _arms_between(scenario.reshape(raters, per_rater), scenarios, arms, rng)
    effect_ra = model.s_ra * rng.standard_normal((raters, arms))
    effect_sa = model.s_sa * rng.standard_normal((scenarios, arms))
    mean = np.where(arm == 1, model.mu_t * model.true_ratio, model.mu_t)
    value = mean + _shared(model, raters, scenarios, rater, scenario, rng)
    value = value + effect_ra[rater, arm] + effect_sa[scenario, arm] + model.s_e * rng.standard_normal(len(rater))
    return Ratings(rater, scenario, arm, value).where(arm < 2)


def _arms_between(scenario_RK: Ints, scenarios: int, arms: int, rng: np.random.Generator) -> Ints:
    """An arm for every rating [R * K]: each rater meets all arms, and a scenario all arms, as evenly as can be."""
    met = np.zeros((arms, scenarios))
    found = np.empty(scenario_RK.shape, dtype=np.int64)
    per_rater = scenario_RK.shape[1]
    for rater, mine in enumerate(scenario_RK):
        left = np.ones(per_rater, dtype=bool)
        for turn in range(arms):
            arm = (rater + turn) % arms
            take = (per_rater - turn + arms - 1) // arms
            lack = met[arm, mine] - met[:, mine].mean(axis=0) + 1e-3 * rng.random(per_rater)
            chosen = np.argsort(np.where(left, lack, np.inf))[:take]
            found[rater, chosen], left[chosen] = arm, False
        met[found[rater], mine] += 1
    return found.ravel()


def _dealt(raters: int, scenarios: int, per_rater: int, rng: np.random.Generator) -> tuple[Ints, Ints]:
    chosen = np.argsort(rng.random((raters, scenarios)), axis=1)[:, :per_rater]
    return np.repeat(np.arange(raters), per_rater), chosen.ravel().astype(np.int64)


def _shared(
    model: Components, raters: int, scenarios: int, rater: Ints, scenario: Ints, rng: np.random.Generator
) -> Floats:
    """Effects that every arm of a cell shares."""
    value = model.s_r * rng.standard_normal(raters)[rater] + model.s_s * rng.standard_normal(scenarios)[scenario]
    if model.s_rs:
        value = value + model.s_rs * rng.standard_normal(len(rater))
    return np.asarray(value)

"""Looking early: confidence sequences for raters' mean difference and ratio, valid at every look at once.

All hold the scenarios fixed: they speak of other raters, not of other scenarios.
"""

import math
from dataclasses import dataclass

import numpy as np

from reports.stats.cells import Floats

LEAST = 10  # finished raters before the first look; from 5 the sequence misses twice as often as it should


@dataclass(frozen=True)
class Sequence:
    """Centre and limits after 1, 2, ... raters, each [R]; NaN before the first look is allowed."""

    centre: Floats
    low: Floats
    high: Floats


def rho_squared(t_opt: float = 20.0, alpha: float = 0.05) -> float:
    """The tuning value at which the asymptotic sequence is tightest after about `t_opt` raters."""
    return (-2 * math.log(alpha) + math.log(-2 * math.log(alpha) + 1)) / t_opt


def asymptotic(d_R: Floats, alpha: float = 0.05, t_opt: float = 20.0, least: int = LEAST) -> Sequence:
    """Asymptotic confidence sequence of d_R in order of completion (Waudby-Smith et al. 2024, Theorem 2.2)."""
    n = np.arange(1, len(d_R) + 1)
    h = rho_squared(t_opt, alpha)
    mean = np.cumsum(d_R) / n
    sd = np.sqrt(np.maximum(np.cumsum(d_R**2) / n - mean**2, 0.0))
    half = sd * np.sqrt(2 * (n * h + 1) / (n**2 * h) * np.log(np.sqrt(n * h + 1) / alpha))
    early = n < least
    low, high = mean - half, mean + half
    low[early] = high[early] = np.nan
    return Sequence(mean, low, high)


def asymptotic_ratio(
    student_R: Floats, teacher_R: Floats, alpha: float = 0.05, t_opt: float = 20.0, least: int = LEAST
) -> Sequence:
    """The same for the ratio of raters' mean ratings, by inversion: all rho whose sequence of s - rho t includes 0.

    The set is Fieller's with the boundary in place of the t quantile: an interval, or unbounded (infinite limits).
    """
    n = np.arange(1, len(student_R) + 1)
    h = rho_squared(t_opt, alpha)
    bound2 = 2 * (n * h + 1) / (n**2 * h) * np.log(np.sqrt(n * h + 1) / alpha)
    s, t = np.cumsum(student_R) / n, np.cumsum(teacher_R) / n
    v_ss = np.maximum(np.cumsum(student_R**2) / n - s**2, 0.0)
    v_tt = np.maximum(np.cumsum(teacher_R**2) / n - t**2, 0.0)
    v_st = np.cumsum(student_R * teacher_R) / n - s * t
    a, b, c = t**2 - bound2 * v_tt, s * t - bound2 * v_st, s**2 - bound2 * v_ss
    root = np.sqrt(np.maximum(b**2 - a * c, 0.0))
    with np.errstate(divide="ignore", invalid="ignore"):
        low = np.where(a > 0, (b - root) / a, -np.inf)
        high = np.where(a > 0, (b + root) / a, np.inf)
        ratio = s / t
    low[n < least] = high[n < least] = np.nan
    return Sequence(ratio, low, high)


def empirical_bernstein(d_R: Floats, bound: float = 4.0, alpha: float = 0.05, cap: float = 0.5) -> Sequence:
    """Predictable plug-in empirical Bernstein sequence on [-bound, bound] (Waudby-Smith, Ramdas 2024, Theorem 2).

    Needs no asymptotics and is wide: the check, not the working method. No running intersection.
    """
    x = (d_R + bound) / (2 * bound)
    t = np.arange(1, len(x) + 1)
    mean = (0.5 + np.cumsum(x)) / (t + 1)
    before = np.concatenate(([0.5], mean[:-1]))
    variance = (0.25 + np.cumsum((x - mean) ** 2)) / (t + 1)
    variance_before = np.concatenate(([0.25], variance[:-1]))
    rate = np.minimum(np.sqrt(2 * math.log(2 / alpha) / (variance_before * t * np.log(t + 1))), cap)
    psi = (-np.log1p(-rate) - rate) / 4
    weight = np.cumsum(rate)
    centre = np.cumsum(rate * x) / weight
    half = (math.log(2 / alpha) + np.cumsum(4 * (x - before) ** 2 * psi)) / weight
    low, high = np.maximum(centre - half, 0.0), np.minimum(centre + half, 1.0)
    return Sequence(*(2 * bound * part - bound for part in (centre, low, high)))

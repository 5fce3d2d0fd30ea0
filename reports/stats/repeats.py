"""Self-consistency: how alike a rater rates the same item at two hidden meetings."""

import math
from dataclasses import dataclass

import numpy as np

from reports.stats.cells import Floats, Ints, dense
from reports.stats.fraction import t_quantile


@dataclass(frozen=True)
class Share:
    """A mean over rows that belong to raters, with Student's t interval over raters; None for a single rater."""

    estimate: float
    low: float | None
    high: float | None


@dataclass(frozen=True)
class Consistency:
    """Agreement of raters with themselves.

    `exact`, `within_one`: shares of repeats with the same rating, and with at most one point between; `kappa`: weighted
    by squared distance (Cohen 1968), None where ratings do not vary; `sd`: standard deviation of one rating around the
    rater's own mean for an item, in points; `shift`: mean of second minus first.
    """

    n: int
    n_raters: int
    exact: Share
    within_one: Share
    shift: Share
    mean_distance: float
    sd: float
    kappa: float | None


def consistency(rater: Ints, first: Floats, second: Floats) -> Consistency | None:
    """From first and second ratings [n] of the same items by the same raters (codes [n]); None without any."""
    if not len(first):
        return None
    d = second - first
    return Consistency(
        n=len(d),
        n_raters=len(np.unique(rater)),
        exact=share_by_rater((d == 0).astype(np.float64), rater),
        within_one=share_by_rater((np.abs(d) <= 1).astype(np.float64), rater),
        shift=share_by_rater(d, rater),
        mean_distance=float(np.abs(d).mean()),
        sd=math.sqrt(float(np.mean(d**2)) / 2),
        kappa=quadratic_kappa(first, second),
    )


def quadratic_kappa(first: Floats, second: Floats) -> float | None:
    """1 - observed over expected mean squared distance, expected if both meetings were independent (Cohen 1968)."""
    expected = float(first.var() + second.var() + (first.mean() - second.mean()) ** 2)
    return None if expected == 0 else 1 - float(np.mean((first - second) ** 2)) / expected


def share_by_rater(value: Floats, rater: Ints, level: float = 0.95) -> Share:
    """The mean of values [n] with raters (codes [n]) as the sample: clustered variance, t with raters - 1 df."""
    mean = float(value.mean())
    sums = np.bincount(dense(rater), value - mean)
    groups = len(sums)
    if groups < 2:
        return Share(mean, None, None)
    half = t_quantile(groups - 1, level) * math.sqrt(groups / (groups - 1) * float(np.sum(sums**2))) / len(value)
    return Share(mean, mean - half, mean + half)

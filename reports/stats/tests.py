"""Tests of a student against its teacher: no difference, not inferior, equivalent; and families of tests.

The two-way t tests generalise to new raters and new scenarios. The sign flip and Wilcoxon's test hold the scenarios
fixed: they speak of these scenarios only.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy.special import ndtr, stdtr

from reports.stats.cells import Cells, Floats
from reports.stats.fraction import Contrast, Estimate, t_quantile

SLACK = 1e-12


@dataclass(frozen=True)
class Difference:
    """Mean of student minus teacher with its interval; `t` and `p` (two-sided) are None where the variance is 0."""

    estimate: float
    contrast: Contrast | None
    low: float | None
    high: float | None
    t: float | None
    p: float | None


def difference(estimate: Estimate) -> Difference:
    """The mean difference in points, its two-way clustered interval and the primary test of "no difference"."""
    d = estimate.m1 - estimate.m0
    if estimate.contrast is None:
        return Difference(d, None, None, None, None, None)
    contrast = estimate.sums.contrast(1.0, -1.0)
    if contrast.v == 0:
        return Difference(d, contrast, d, d, None, None)
    half = t_quantile(contrast.df, estimate.level) * contrast.se
    t = d / contrast.se
    return Difference(d, contrast, d - half, d + half, t, float(2 * stdtr(contrast.df, -abs(t))))


@dataclass(frozen=True)
class OneSided:
    """A one-sided test of m1 against margin * m0; None where it cannot be computed."""

    margin: float
    t: float | None
    p: float | None


def _against(estimate: Estimate, margin: float) -> tuple[float, float] | None:
    """T and df of m1 - margin * m0. The df is the one at the estimated ratio, as for the interval."""
    if estimate.contrast is None or estimate.contrast.v == 0:
        return None
    v = estimate.sums.contrast(1.0, -margin).v
    return None if v == 0 else ((estimate.m1 - margin * estimate.m0) / math.sqrt(v), estimate.contrast.df)


def non_inferiority(estimate: Estimate, margin: float = 0.90) -> OneSided:
    """P(t > T) for H0: ratio <= margin. Below alpha exactly if the (1 - 2 alpha) Fieller interval lies above it."""
    found = _against(estimate, margin)
    if found is None:
        return OneSided(margin, None, None)
    t, df = found
    return OneSided(margin, t, float(stdtr(df, -t)))


def non_superiority(estimate: Estimate, margin: float = 1.11) -> OneSided:
    """P(t < T) for H0: ratio >= margin, the other half of the equivalence test."""
    found = _against(estimate, margin)
    if found is None:
        return OneSided(margin, None, None)
    t, df = found
    return OneSided(margin, t, float(stdtr(df, t)))


def equivalence(estimate: Estimate, low: float = 0.90, high: float = 1.11) -> float | None:
    """p of two one-sided tests (Schuirmann 1987): the larger of both."""
    below, above = non_inferiority(estimate, low).p, non_superiority(estimate, high).p
    return None if below is None or above is None else max(below, above)


def rater_differences(cells: Cells) -> Floats:
    """Mean of student minus teacher for each rater [R], over the rater's common cells."""
    count = np.bincount(cells.rater)
    return np.bincount(cells.rater, cells.student - cells.teacher) / count


@dataclass(frozen=True)
class SignFlip:
    """Sign-flip test over raters: unweighted mean of their differences, two-sided p, whether all flips were tried."""

    n: int
    mean: float
    p: float
    exact: bool


def sign_flip(d_R: Floats, rng: np.random.Generator, draws: int = 100_000) -> SignFlip:
    """Flip the sign of each rater's mean difference; statistic |mean|. All 2^R flips up to 14 raters."""
    n = len(d_R)
    observed = abs(float(d_R.mean()))
    if n <= 14:
        signs = 1.0 - 2.0 * ((np.arange(2**n)[:, None] >> np.arange(n)) & 1)
        count = int(np.sum(np.abs(signs @ d_R) / n >= observed - SLACK))
        return SignFlip(n, float(d_R.mean()), count / 2**n, True)
    count = 0
    step = max(1, 4_000_000 // n)
    for start in range(0, draws, step):
        size = min(step, draws - start)
        bits = np.unpackbits(rng.integers(256, size=(size, -(-n // 8)), dtype=np.uint8), axis=1, count=n)
        flipped = (2.0 * (bits.astype(np.float64) @ d_R) - d_R.sum()) / n
        count += int(np.sum(np.abs(flipped) >= observed - SLACK))
    return SignFlip(n, float(d_R.mean()), (1 + count) / (1 + draws), False)


@dataclass(frozen=True)
class Wilcoxon:
    """Signed-rank test: sums of ranks, z and p values; z is None for the exact distribution, all None for n = 0."""

    n_nonzero: int
    w_plus: float
    w_minus: float
    z: float | None
    p: float | None
    p_greater: float | None


def midranks(values: Floats) -> Floats:
    """Ranks from 1, ties share their mean rank."""
    _, inverse, count = np.unique(values, return_inverse=True, return_counts=True)
    last = np.cumsum(count)
    return np.asarray((last - (count - 1) / 2)[inverse], dtype=np.float64)


def wilcoxon(d: Floats, *, exact: bool = False) -> Wilcoxon:
    """Wilcoxon's signed-rank test of d [n]: zeros dropped, midranks, tie-corrected normal, no continuity correction.

    `exact` counts all sign patterns instead; right only without ties and zeros. d is rounded to 10 decimals first,
    since floating noise breaks ties.
    """
    d = np.round(d, 10)
    d = d[d != 0]
    n = len(d)
    if n == 0:
        return Wilcoxon(0, 0.0, 0.0, None, None, None)
    ranks = midranks(np.abs(d))
    w_plus = float(ranks[d > 0].sum())
    w_minus = float(ranks[d < 0].sum())
    if exact:
        ways = np.ones(1)
        for rank in range(1, n + 1):
            longer = np.zeros(len(ways) + rank)
            longer[: len(ways)] += ways
            longer[rank:] += ways
            ways = longer
        share = ways / ways.sum()
        greater = float(share[math.ceil(w_plus - SLACK) :].sum())
        less = float(share[: math.floor(w_plus + SLACK) + 1].sum())
        return Wilcoxon(n, w_plus, w_minus, None, min(1.0, 2 * min(greater, less)), greater)
    ties = np.unique(np.abs(d), return_counts=True)[1].astype(np.float64)
    variance = n * (n + 1) * (2 * n + 1) / 24 - float(np.sum(ties**3 - ties)) / 48
    z = (w_plus - n * (n + 1) / 4) / math.sqrt(variance)
    return Wilcoxon(n, w_plus, w_minus, z, float(2 * ndtr(-abs(z))), float(ndtr(-z)))


def holm(p: Sequence[float | None]) -> list[float | None]:
    """Holm's step-down adjustment (1979); a missing p stays missing and does not count."""
    return _adjust(p, step_up=False)


def benjamini_hochberg(p: Sequence[float | None]) -> list[float | None]:
    """Benjamini and Hochberg's step-up adjustment (1995) of the false discovery rate."""
    return _adjust(p, step_up=True)


def _adjust(p: Sequence[float | None], *, step_up: bool) -> list[float | None]:
    there = [index for index, value in enumerate(p) if value is not None]
    values = np.array([p[index] for index in there], dtype=np.float64)
    m = len(values)
    order = np.argsort(values, kind="stable")
    rank = np.arange(1, m + 1)
    if step_up:
        sorted_p = np.minimum.accumulate((values[order] * m / rank)[::-1])[::-1]
    else:
        sorted_p = np.maximum.accumulate(values[order] * (m - rank + 1))
    adjusted: list[float | None] = [None] * len(p)
    for place, value in zip(order, np.minimum(sorted_p, 1.0), strict=True):
        adjusted[there[place]] = float(value)
    return adjusted

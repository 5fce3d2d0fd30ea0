"""Several studies of one question: a random-effects mean of log ratios, and how much the studies differ."""

import math
from dataclasses import dataclass

import numpy as np
from scipy.special import chdtrc

from reports.stats.cells import Floats
from reports.stats.fraction import t_quantile


@dataclass(frozen=True)
class Pooled:
    """The pooled ratio with its 95 % interval, the interval for a further study, and the spread between studies.

    `tau` is the standard deviation of the log ratio between studies, `i2` the share of variance between them, `p` that
    of Cochran's Q for no difference. `next_low`, `next_high` are None below three studies.
    """

    n: int
    estimate: float
    low: float
    high: float
    next_low: float | None
    next_high: float | None
    tau: float
    i2: float
    q: float
    p: float


def pool(estimate_K: Floats, se_K: Floats, level: float = 0.95) -> Pooled | None:
    """Pool ratios [K] with their standard errors on the log scale; None below two studies, or without variance.

    Between-study variance by Paule and Mandel (1982), interval by Hartung and Knapp (2001), never narrower than that of
    the weights alone (Roever, Knapp, Friede 2015); interval for a further study by Higgins, Thompson, Spiegelhalter
    (2009).
    """
    k = len(estimate_K)
    if k < 2 or np.any(se_K <= 0) or np.any(estimate_K <= 0):
        return None
    y, v = np.log(estimate_K), (se_K / estimate_K) ** 2
    tau2 = paule_mandel(y, v)
    w = 1 / (v + tau2)
    mean = float(w @ y / w.sum())
    spread = max(1.0, float(w @ (y - mean) ** 2) / (k - 1))
    se = math.sqrt(spread / float(w.sum()))
    half = t_quantile(k - 1, level) * se
    fixed = 1 / v
    q = float(fixed @ (y - fixed @ y / fixed.sum()) ** 2)
    further = t_quantile(k - 2, level) * math.sqrt(tau2 + se**2) if k > 2 else None
    return Pooled(
        n=k,
        estimate=math.exp(mean),
        low=math.exp(mean - half),
        high=math.exp(mean + half),
        next_low=None if further is None else math.exp(mean - further),
        next_high=None if further is None else math.exp(mean + further),
        tau=math.sqrt(tau2),
        i2=max(0.0, 1 - (k - 1) / q) if q > 0 else 0.0,
        q=q,
        p=float(chdtrc(k - 1, q)),
    )


def paule_mandel(y: Floats, v: Floats) -> float:
    """The between-study variance at which Cochran's Q meets its expectation K - 1; 0 if it is below without any."""

    def q(tau2: float) -> float:
        w = 1 / (v + tau2)
        return float(w @ (y - w @ y / w.sum()) ** 2)

    if q(0.0) <= len(y) - 1:
        return 0.0
    low, high = 0.0, float(np.var(y, ddof=1)) + float(v.max())
    while q(high) > len(y) - 1:
        high *= 2
    for _ in range(200):
        middle = (low + high) / 2
        low, high = (middle, high) if q(middle) > len(y) - 1 else (low, middle)
    return (low + high) / 2

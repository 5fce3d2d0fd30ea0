"""Order effects: do ratings move with the place in a rater's order, or with the place on a page?

A slope within groups: what is absorbed (rater, arm, page) is taken out of ratings and places alike, so that it cannot
pass for an effect of order (Frisch, Waugh 1933; Lovell 1963). Standard errors are clustered by rater.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy.special import stdtr

from reports.stats.cells import Floats, Ints, dense
from reports.stats.fraction import t_quantile

ROUNDS = 500


@dataclass(frozen=True)
class Slope:
    """Change of the rating for one unit of x; limits and p are None with one cluster or without variance."""

    estimate: float
    se: float | None
    low: float | None
    high: float | None
    p: float | None
    n: int
    n_clusters: int


def slope(value: Floats, x: Floats, absorbed: Sequence[Ints], cluster: Ints, level: float = 0.95) -> Slope | None:
    """Least squares slope of values [n] on x [n] within absorbed groupings (codes [n]); None where x does not vary."""
    if len(value) < 3:
        return None
    groups = [dense(one) for one in absorbed]
    y, z = without(value, groups), without(x, groups)
    spread = float(z @ z)
    if spread <= 1e-9 * max(1.0, float(x @ x)):
        return None
    estimate = float(z @ y) / spread
    clusters = dense(cluster)
    n_clusters = int(clusters.max()) + 1
    nothing = Slope(estimate, None, None, None, None, len(value), n_clusters)
    if n_clusters < 2:
        return nothing
    sums = np.bincount(clusters, z * (y - estimate * z))
    se = math.sqrt(n_clusters / (n_clusters - 1) * float(np.sum(sums**2))) / spread
    if se < 1e-12:
        return nothing
    df = n_clusters - 1
    half = t_quantile(df, level) * se
    p = float(2 * stdtr(df, -abs(estimate / se)))
    return Slope(estimate, se, estimate - half, estimate + half, p, len(value), n_clusters)


def without(value: Floats, groups: Sequence[Ints]) -> Floats:
    """Values [n] with the means of every grouping taken out, by turns until nothing is left of any."""
    value = value - value.mean()
    for _ in range(ROUNDS):
        before = value
        for group in groups:
            value = value - (np.bincount(group, value) / np.bincount(group))[group]
        if len(groups) < 2 or float(np.abs(value - before).max()) < 1e-10:
            break
    return value


def place_in_order(rater: Ints, position: Floats) -> Floats:
    """Each row's place in its rater's order [n], from 0 (first) to 1 (last); 0 where a rater has one row only.

    Rows of one position (a page with several answers) share their place.
    """
    order = np.lexsort((position, rater))
    r, p = rater[order], position[order]
    new_rater = np.concatenate(([True], r[1:] != r[:-1]))
    step = np.concatenate(([False], (r[1:] == r[:-1]) & (p[1:] != p[:-1]))).astype(np.int64)
    run = np.cumsum(step)
    run = run - run[np.flatnonzero(new_rater)[np.cumsum(new_rater) - 1]]
    last = np.zeros(int(rater.max()) + 1 if len(rater) else 0)
    np.maximum.at(last, r, run)
    place = np.empty(len(rater))
    place[order] = run / np.maximum(last[r], 1)
    return place

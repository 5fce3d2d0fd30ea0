"""The ordered logit (cumulative link) model with arms only: P(y <= k) = logistic(c_k - b_arm).

Ratings enter as a table of counts, so the cost does not grow with their number. The model's own standard error
believes that ratings are independent; the one clustered by rater is the one to show.
"""

from dataclasses import dataclass

import numpy as np
from scipy.special import expit

from reports.stats.cells import Floats, Ints, dense


@dataclass(frozen=True)
class OrderedLogit:
    """Coefficients [K] with the reference arm at 0 (below 0: rated lower), and their two kinds of standard errors.

    `separation` says that the likelihood has no maximum; then the three lists are None.
    """

    coef: list[float] | None
    se_model: list[float] | None
    se_clustered: list[float] | None
    separation: bool


def ordered_logit(arm: Ints, value: Floats, rater: Ints, k: int, reference: int = 0) -> OrderedLogit:
    """Fit the model to ratings: `arm` codes below `k`, `value`, `rater` codes, each [N].

    Levels of the scale that nobody used are left out; they carry no information on the arms.
    """
    none = OrderedLogit(None, None, None, True)
    level = np.unique(value, return_inverse=True)[1].astype(np.int64)
    n_levels = int(level.max()) + 1 if len(level) else 0
    present = np.bincount(arm, minlength=k) > 0
    if n_levels < 2 or not present.all():
        return none
    counts = np.bincount(arm * n_levels + level, minlength=k * n_levels).reshape(k, n_levels).astype(np.float64)
    free = [index for index in range(k) if index != reference]
    share = np.cumsum(counts.sum(axis=0))[:-1] / counts.sum()
    beta = np.concatenate([np.log(share / (1 - share)), np.zeros(len(free))])

    for _ in range(100):
        loglik, score, information = _likelihood(beta, counts, free)
        gradient = np.einsum("kl,klp->p", counts, score)
        try:
            step = np.linalg.solve(information, gradient)
        except np.linalg.LinAlgError:
            return none
        while not _likelihood(beta + step, counts, free)[0] >= loglik - 1e-9:
            step = step / 2
            if np.abs(step).max() < 1e-13:
                break
        beta = beta + step
        if np.abs(beta[n_levels - 1 :]).max(initial=0.0) > 15:
            return none
        if np.abs(step).max() < 1e-10:
            break
    else:
        return none

    _, score, information = _likelihood(beta, counts, free)
    covariance = np.linalg.inv(information)
    groups = dense(rater)
    n_groups = int(groups.max()) + 1
    cell = arm * n_levels + level
    by_rater = np.bincount(groups * (k * n_levels) + cell, minlength=n_groups * k * n_levels)
    sums = by_rater.reshape(n_groups, -1) @ score.reshape(k * n_levels, -1)
    clustered = np.full(len(beta), np.nan)
    if n_groups > 1:
        clustered = np.sqrt(np.diag(covariance @ (sums.T @ sums) @ covariance) * n_groups / (n_groups - 1))
    return OrderedLogit(
        _spread(beta, free, k, n_levels),
        _spread(np.sqrt(np.diag(covariance)), free, k, n_levels),
        _spread(clustered, free, k, n_levels) if n_groups > 1 else None,
        False,
    )


def _spread(values: Floats, free: list[int], k: int, n_levels: int) -> list[float]:
    """The arms' part of a parameter vector as a list over all arms, the reference at 0."""
    full = np.zeros(k)
    full[free] = values[n_levels - 1 :]
    return [float(value) for value in full]


def _likelihood(beta: Floats, counts: Floats, free: list[int]) -> tuple[float, Floats, Floats]:
    """Log likelihood, score of one rating [arm, level, parameter] and observed information."""
    k, n_levels = counts.shape
    n_cuts, n_par = n_levels - 1, len(beta)
    cuts = beta[:n_cuts]
    if np.any(np.diff(cuts) <= 0):
        return -np.inf, np.zeros((k, n_levels, n_par)), np.eye(n_par)
    b = np.zeros(k)
    b[free] = beta[n_cuts:]
    eta = np.full((k, n_levels + 1), np.inf)  # cut below and above each level
    eta[:, 0] = -np.inf
    eta[:, 1:-1] = cuts[None, :] - b[:, None]
    cdf = expit(eta)
    density = cdf * (1 - cdf)
    slope = density * (1 - 2 * cdf)
    p = np.maximum(np.diff(cdf, axis=1), 1e-300)

    design = np.zeros((k, n_levels + 1, n_par))  # d eta / d parameter
    for cut in range(n_cuts):
        design[:, cut + 1, cut] = 1.0
    for place, arm in enumerate(free):
        design[arm, 1:-1, n_cuts + place] = -1.0
    upper, lower = design[:, 1:], design[:, :-1]
    score = (density[:, 1:, None] * upper - density[:, :-1, None] * lower) / p[..., None]
    weight = counts / p
    information = np.einsum("kl,klp,klq->pq", counts, score, score)
    information -= np.einsum("kl,klp,klq->pq", weight * slope[:, 1:], upper, upper)
    information += np.einsum("kl,klp,klq->pq", weight * slope[:, :-1], lower, lower)
    return float(np.sum(counts * np.log(p))), score, information

"""The cumulative-link mixed model: P(y <= k) = logistic(c_k - x b - sum of random effects), effects crossed.

Each grouping (rater, scenario, rater by arm, ...) adds a normal effect with mean 0. The effects are integrated out by
Laplace's approximation at their joint mode; thresholds, coefficients and standard deviations maximise the result
(Christensen's `clmm` does the same). The gradient is exact, implicit derivative of the mode included.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy.special import expit

from reports.stats.arrow import Arrow, Factor
from reports.stats.cells import Floats, Ints, dense

LARGEST_SD = 10.0
NEGLIGIBLE = 1e-3  # a standard deviation below this counts as 0: the likelihood no longer feels it
STEP = 1e-4  # of the finite differences of the gradient that give the information
TOLERANCE = 1e-9  # gain of the log likelihood that a further step promises, below which the search ends
UNKNOWN = 1e12  # minus the log likelihood where it cannot be computed


@dataclass(frozen=True)
class MixedLogit:
    """Coefficients and their standard errors [P], thresholds [levels - 1], SD of each grouping, log likelihood."""

    coef: list[float]
    se: list[float]
    thresholds: list[float]
    sd: list[float]
    loglik: float


def mixed_logit(value: Floats, x_NP: Floats, groupings: Sequence[Ints]) -> MixedLogit | None:
    """Fit the model to ratings [N] with covariates `x_NP` (no constant) and groupings, each codes [N].

    None where it has no answer: fewer than two levels of the scale, a grouping with one group, a coefficient that
    runs away (an arm always rated the same), or information that is not positive. The cost grows with the number of
    groups on the larger side (raters, or scenarios) times the square of that on the other.
    """
    level = np.unique(value, return_inverse=True)[1].astype(np.int64)
    n_levels = int(level.max()) + 1 if len(level) else 0
    codes = [dense(one) for one in groupings]
    if n_levels < 2 or not codes or min(int(one.max()) for one in codes) < 1:
        return None
    model = _Model(level, n_levels, np.asarray(x_NP, dtype=np.float64), codes)
    found = _maximise(model)
    if found is None:
        return None
    theta, loglik = found
    n_cuts, n_fixed = n_levels - 1, model.n_fixed
    sd = np.exp(theta[n_fixed:])
    free = np.concatenate([np.arange(n_fixed), n_fixed + np.flatnonzero(sd > NEGLIGIBLE)])
    try:
        covariance = np.linalg.inv(_information(model, theta, free, model.objective(theta)[1]))
    except np.linalg.LinAlgError:
        return None
    variance = np.diag(covariance)[n_cuts:n_fixed]
    if np.any(variance <= 0) or np.any(np.abs(theta[n_cuts:n_fixed]) > 15):
        return None
    return MixedLogit(
        [float(one) for one in theta[n_cuts:n_fixed]],
        [math.sqrt(one) for one in variance],
        [float(one) for one in _cuts(theta[:n_cuts])],
        [float(one) if one > NEGLIGIBLE else 0.0 for one in sd],
        loglik,
    )


def _maximise(model: "_Model") -> tuple[Floats, float] | None:
    """The parameters (see `_Model.objective`) at the maximum, and the log likelihood there.

    BFGS (Nocedal, Wright 2006, algorithm 6.1) from a first curvature by differences; SDs stay within their bounds.
    """
    share = np.cumsum(np.bincount(model.level, minlength=model.n_levels))[:-1] / len(model.level)
    cuts = np.log(share / (1 - share))
    spaced = np.concatenate([cuts[:1], np.log(np.diff(cuts))])
    theta = np.concatenate([spaced, np.zeros(model.x.shape[1]), np.full(len(model.codes), -0.5)])
    every = np.arange(len(theta))
    low = np.where(every < model.n_fixed, -np.inf, math.log(NEGLIGIBLE) - 1)
    high = np.where(every < model.n_fixed, np.inf, math.log(LARGEST_SD))
    value, gradient = model.objective(theta)
    values, vectors = np.linalg.eigh(_information(model, theta, every, gradient))
    inverse = (vectors / np.maximum(np.abs(values), 1e-2)) @ vectors.T
    for _ in range(200):
        held = ((theta <= low) & (gradient > 0)) | ((theta >= high) & (gradient < 0))
        slope = np.where(held, 0.0, gradient)
        step = np.where(held, 0.0, -inverse @ slope)
        if float(step @ slope) >= 0:
            step, inverse = -slope, np.eye(len(theta))
        step = step / max(1.0, float(np.abs(step).max()))
        if float(np.abs(step @ slope)) < TOLERANCE:
            return (theta, -value) if value < UNKNOWN else None
        scale = 1.0
        while True:
            moved = np.clip(theta + scale * step, low, high)
            after, turned = model.objective(moved)
            if after <= value + 1e-4 * scale * float(step @ slope) or scale < 1e-6:
                break
            scale /= 2
        s, y = moved - theta, turned - gradient
        if float(s @ y) > 1e-12:
            rho = 1 / float(s @ y)
            left = np.eye(len(theta)) - rho * np.outer(s, y)
            inverse = left @ inverse @ left.T + rho * np.outer(s, s)
        stuck = scale < 1e-6 or value - after < 1e-10
        theta, value, gradient = moved, after, turned
        if stuck:
            return (theta, -value) if value < UNKNOWN else None
    return None


def _cuts(spaced: Floats) -> Floats:
    """Thresholds from the first one and the logarithms of the steps between them: always in order."""
    return np.cumsum(np.concatenate([spaced[:1], np.exp(spaced[1:])]))


def _information(model: "_Model", theta: Floats, free: Ints, gradient: Floats) -> Floats:
    """Observed information of the free parameters, by differences of the exact gradient."""
    rows = []
    for at in free:
        step = np.zeros(len(theta))
        step[at] = STEP
        rows.append((model.objective(theta + step)[1] - gradient)[free] / STEP)
    information = np.array(rows)
    return np.asarray((information + information.T) / 2)


class _Model:
    """The Laplace log likelihood and its gradient; keeps the last mode as the next start.

    Effects are scaled to unit variance: the linear predictor holds sd_g * z, z standard normal [Q] over all groups.
    """

    def __init__(self, level: Ints, n_levels: int, x_NP: Floats, codes: Sequence[Ints]):
        self.level, self.n_levels, self.x, self.codes = level, n_levels, x_NP, list(codes)
        self.n_fixed = n_levels - 1 + self.x.shape[1]
        self.sizes = [int(one.max()) + 1 for one in codes]
        self.starts = np.concatenate([[0], np.cumsum(self.sizes)]).astype(np.int64)
        self.columns_NG = np.stack([one + at for one, at in zip(codes, self.starts[:-1], strict=True)], axis=1)
        self.arrow = Arrow(codes)
        self.z = np.zeros(int(self.starts[-1]))

    def objective(self, theta: Floats) -> tuple[float, Floats]:
        """Minus the log likelihood and its gradient at (first threshold, log steps to the next, coefficients, log SDs).

        Where the likelihood cannot be computed it is very small, so that a search turns back.
        """
        n_cuts = self.n_levels - 1
        sd_G = np.exp(theta[self.n_fixed :])
        cuts = np.concatenate([[-np.inf], _cuts(theta[:n_cuts]), [np.inf]])
        mode = self._mode(cuts, self.x @ theta[n_cuts : self.n_fixed], sd_G)
        if mode is None:
            return UNKNOWN, np.zeros(len(theta))
        parts, factor = mode
        loglik = parts.loglik - float(self.z @ self.z) / 2 - factor.half_log_det
        gradient = self._gradient(parts, factor, sd_G)
        behind = np.cumsum(gradient[:n_cuts][::-1])[::-1]  # a step moves every threshold behind it
        gradient[:n_cuts] = behind * np.concatenate([[1.0], np.exp(theta[1:n_cuts])])
        return -loglik, -gradient

    def _mode(self, cuts: Floats, fixed: Floats, sd_G: Floats) -> "tuple[_Parts, Factor] | None":
        """The effects' mode by Newton's method: derivatives there, and the factored information of z."""
        for start in (self.z, np.zeros(len(self.z))):
            z = start.copy()
            parts = self._at(cuts, fixed, sd_G, z)
            if not np.isfinite(parts.loglik):
                continue
            for _ in range(60):
                factor = self.arrow.factor(parts.weight, sd_G)
                if factor is None:
                    break
                gradient = self._spread(parts.score, sd_G) - z
                step = factor.solve(gradient)
                height, scale = parts.loglik - float(z @ z) / 2, 1.0
                while True:
                    after = self._at(cuts, fixed, sd_G, z + scale * step)
                    moved = z + scale * step
                    if after.loglik - float(moved @ moved) / 2 >= height - 1e-10 or scale < 1e-8:
                        break
                    scale /= 2
                z, parts = moved, after
                if np.abs(scale * step).max() < 1e-4:  # the error after a step is of the order of its square
                    factor = self.arrow.factor(parts.weight, sd_G)
                    if factor is None:
                        break
                    self.z = z
                    return parts, factor
        return None

    def _at(self, cuts: Floats, fixed: Floats, sd_G: Floats, z: Floats) -> "_Parts":
        eta = fixed + z[self.columns_NG] @ sd_G
        return _derivatives(cuts[self.level + 1] - eta, cuts[self.level] - eta)

    def _spread(self, per_row: Floats, sd_G: Floats) -> Floats:
        """Sums of a quantity [N] over the rows of every group, times the group's SD [Q]."""
        parts = [
            sd * np.bincount(one, per_row, minlength=size)
            for one, sd, size in zip(self.codes, sd_G, self.sizes, strict=True)
        ]
        return np.concatenate(parts)

    def _gradient(self, parts: "_Parts", factor: Factor, sd_G: Floats) -> Floats:
        """Gradient of the log likelihood: the direct part, and that through the determinant and the mode."""
        spread_NG = factor.covariances() @ sd_G  # the covariance of z_g with the row's whole random part
        leverage = spread_NG @ sd_G  # variance of the row's random part
        # -1/2 log det falls with eta through the weights; the mode moves so that both are felt by every parameter.
        through = -0.5 * leverage * parts.weight_eta
        moved = factor.solve(self._spread(through, sd_G))  # adjoint of the mode
        shift = moved[self.columns_NG] @ sd_G
        by_eta = parts.score + through - parts.weight * shift
        gradient_x = self.x.T @ by_eta
        by_high = parts.score_high - 0.5 * leverage * parts.weight_high + shift * -parts.weight_of_high
        by_low = parts.score_low - 0.5 * leverage * parts.weight_low + shift * -parts.weight_of_low
        n_cuts = self.n_levels - 1
        cuts = np.bincount(self.level, by_high, minlength=self.n_levels)[:n_cuts]
        cuts = cuts + np.bincount(self.level, by_low, minlength=self.n_levels)[1:]
        log_sd = []
        for g, sd in enumerate(sd_G):
            z_row = self.z[self.columns_NG[:, g]]
            direct = sd * float(z_row @ by_eta)
            own = sd * float(moved[self.columns_NG[:, g]] @ parts.score)  # the score of z scales with its SD
            log_sd.append(direct + own - sd * float((parts.weight * spread_NG[:, g]).sum()))
        return np.concatenate([cuts, gradient_x, log_sd])


@dataclass(frozen=True)
class _Parts:
    """Derivatives of the rows' log likelihood [N] at high and low threshold; `weight` is minus the second by eta."""

    loglik: float
    score: Floats
    weight: Floats
    weight_eta: Floats
    score_high: Floats
    score_low: Floats
    weight_high: Floats
    weight_low: Floats
    weight_of_high: Floats
    weight_of_low: Floats


def _derivatives(high: Floats, low: Floats) -> _Parts:
    """All derivatives of log(F(high) - F(low)), F logistic; infinite thresholds have none."""
    cdf_h, cdf_l = expit(high), expit(low)
    # far out both are near 1: the difference is taken on the side where it does not cancel
    p = np.where(low > 0, expit(-low) - expit(-high), cdf_h - cdf_l)
    if np.any(p <= 0):
        nothing = np.zeros(len(high))
        return _Parts(-math.inf, *[nothing] * 9)
    f_h, f_l = cdf_h * (1 - cdf_h), cdf_l * (1 - cdf_l)
    s_h, s_l = f_h * (1 - 2 * cdf_h) / p, f_l * (1 - 2 * cdf_l) / p  # f' / p
    t_h, t_l = f_h * (1 - 6 * f_h) / p, f_l * (1 - 6 * f_l) / p  # f'' / p
    a, b = f_h / p, f_l / p
    g, d = s_h - s_l, a - b
    weight = d**2 - g
    weight_high = -(t_h - g * a) + 2 * d * (s_h - a * d)
    weight_low = -(-t_l + g * b) + 2 * d * (-s_l + b * d)
    return _Parts(
        loglik=float(np.log(p).sum()),
        score=-d,
        weight=weight,
        weight_eta=-(weight_high + weight_low),
        score_high=a,
        score_low=-b,
        weight_high=weight_high,
        weight_low=weight_low,
        weight_of_high=s_h - a * d,
        weight_of_low=-s_l + b * d,
    )

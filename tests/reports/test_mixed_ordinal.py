"""The cumulative-link mixed model against published fits, quadrature, and its own derivatives."""

import numpy as np
import pytest
from scipy.optimize import minimize
from scipy.special import expit

from reports.stats.arrow import Arrow
from reports.stats.mixed_ordinal import _Model, mixed_logit
from reports.stats.ordinal import ordered_logit

# Bitterness of wine (Randall 1989, tabled by Christensen for `ordinal`): bottles in rows, judges in columns.
WINE = """
2 1 2 3 2 3 1 2 1
3 2 3 2 3 2 1 2 2
3 1 3 3 4 3 2 2 3
4 3 2 2 3 2 2 3 2
4 2 5 3 3 2 2 3 3
4 3 5 2 3 4 3 3 2
5 5 4 5 3 5 2 3 4
5 4 4 3 3 4 3 4 4
"""
RATING = np.array([line.split() for line in WINE.strip().splitlines()], float).ravel()
BOTTLE, JUDGE = np.repeat(np.arange(8), 9), np.tile(np.arange(9), 8)
X = np.stack([BOTTLE // 4, BOTTLE // 2 % 2], axis=1).astype(float)  # warm, contact


def test_published_fit_of_the_wine_data() -> None:
    """clmm(rating ~ temp + contact + (1 | judge)): the estimates that its tutorial prints."""
    found = mixed_logit(RATING, X, [JUDGE])
    assert found.coef == pytest.approx([3.0630, 1.8349], abs=1e-4)
    assert found.se == pytest.approx([0.5954, 0.5126], abs=2e-4)
    assert found.thresholds == pytest.approx([-1.6237, 1.5134, 4.2285, 6.0888], abs=1e-4)
    assert found.sd == pytest.approx([1.131], abs=1e-3)
    assert found.loglik == pytest.approx(-81.57, abs=0.005)


def test_a_grouping_without_variance_changes_nothing() -> None:
    alone, crossed = mixed_logit(RATING, X, [JUDGE]), mixed_logit(RATING, X, [JUDGE, BOTTLE])
    assert crossed.sd[1] == 0
    assert crossed.coef == pytest.approx(alone.coef, abs=1e-3)
    assert crossed.se == pytest.approx(alone.se, abs=1e-3)


def test_gradient_is_exact() -> None:
    model = _Model((RATING - 1).astype(np.int64), 5, X, [JUDGE, BOTTLE])
    theta = np.array([-1.5, 1.0, 0.9, 0.5, 2.5, 1.4, -0.1, -0.7])
    exact = model.objective(theta)[1]
    numeric = [(model.objective(theta + h)[0] - model.objective(theta - h)[0]) / 2e-5 for h in 1e-5 * np.eye(8)]
    assert exact == pytest.approx(numeric, abs=1e-6)


@pytest.mark.parametrize("groupings", ["rater", "rater scenario", "rater scenario rater_arm scenario_arm", "arm rater"])
def test_the_arrow_is_the_matrix(groupings: str) -> None:
    """Solutions, determinant and inverse as those of the whole matrix, built by hand."""
    rng = np.random.default_rng(2)
    rater, scenario, arm = rng.integers(7, size=90), rng.integers(5, size=90), rng.integers(3, size=90)
    known = {"rater": rater, "scenario": scenario, "arm": arm, "rater_arm": 3 * rater + arm}
    known["scenario_arm"] = 3 * scenario + arm
    codes = [np.unique(known[name], return_inverse=True)[1] for name in groupings.split()]
    weight, sd = rng.uniform(0.1, 2, 90), rng.uniform(0.3, 1.5, len(codes))
    starts = np.cumsum([0, *(one.max() + 1 for one in codes)])
    columns = np.stack([one + at for one, at in zip(codes, starts, strict=False)], axis=1)
    design = np.zeros((90, starts[-1]))
    design[np.arange(90)[:, None], columns] = sd
    whole = np.eye(starts[-1]) + design.T @ (weight[:, None] * design)
    factor = Arrow(codes).factor(weight, sd)
    right = rng.normal(size=starts[-1])
    assert factor.solve(right) == pytest.approx(np.linalg.solve(whole, right), abs=1e-10)
    assert 2 * factor.half_log_det == pytest.approx(np.linalg.slogdet(whole)[1])
    inverse = np.linalg.inv(whole)
    assert factor.covariances() == pytest.approx(inverse[columns[:, :, None], columns[:, None, :]], abs=1e-10)


def test_laplace_is_near_quadrature() -> None:
    """The likelihood with each judge's effect integrated by Gauss and Hermite's rule on 40 points."""
    at, weight = np.polynomial.hermite_e.hermegauss(40)
    weight = weight / weight.sum()
    level = RATING.astype(int)

    def minus_loglik(theta: np.ndarray) -> float:
        cuts = np.concatenate([[-np.inf], np.cumsum([theta[0], *np.exp(theta[1:4])]), [np.inf]])
        eta = (X @ theta[4:6])[:, None] + np.exp(theta[6]) * at
        p = expit(cuts[level][:, None] - eta) - expit(cuts[level - 1][:, None] - eta)
        return -sum(np.log(np.prod(p[judge == JUDGE], axis=0) @ weight) for judge in range(9))

    start = np.array([-1.6, 1.1, 1.0, 0.6, 3.0, 1.8, 0.1])
    best = minimize(minus_loglik, start, method="BFGS", options={"gtol": 1e-4})
    found = mixed_logit(RATING, X, [JUDGE])
    assert found.coef == pytest.approx(best.x[4:6], abs=0.05)
    assert found.loglik == pytest.approx(-best.fun, abs=0.1)


def test_recovers_what_was_simulated() -> None:
    rng = np.random.default_rng(5)
    rater, scenario, arm = (
        axis.ravel() for axis in np.meshgrid(np.arange(40), np.arange(30), np.arange(2), indexing="ij")
    )
    latent = -0.9 * arm + rng.normal(0, 0.8, 40)[rater] + rng.normal(0, 0.6, 30)[scenario]
    latent = latent + rng.normal(0, 0.4, (40, 2))[rater, arm] + rng.logistic(size=len(arm))
    value = 1.0 + np.digitize(latent, [-3, -1.2, 0.3, 1.8])
    found = mixed_logit(value, (arm == 1)[:, None].astype(float), [rater, scenario, 2 * rater + arm])
    assert abs(found.coef[0] + 0.9) < 2.5 * found.se[0]
    assert found.sd == pytest.approx([0.8, 0.6, 0.4], abs=0.25)
    blind = ordered_logit(arm, value, rater, 2)
    assert abs(found.coef[0]) > abs(blind.coef[1])  # ignoring the groups shrinks the effect
    assert found.se[0] > blind.se_model[1]


def test_no_answer_where_there_is_none() -> None:
    same = np.full(12, 3.0)
    groups = np.arange(12) % 3
    x = (np.arange(12) % 2)[:, None].astype(float)
    assert mixed_logit(same, x, [groups]) is None
    assert mixed_logit(1 + x[:, 0], x, [groups]) is None  # one arm always lower: no finite coefficient
    assert mixed_logit(1 + x[:, 0], x, [np.zeros(12, dtype=np.int64)]) is None

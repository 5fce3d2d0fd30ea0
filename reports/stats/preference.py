"""Side by side: which answer on a page was preferred, as net preference and as strengths of a paired model."""

from dataclasses import dataclass

import numpy as np

from reports.stats.bootstrap import multinomial_weights, percentile
from reports.stats.cells import Floats, Ints, dense
from reports.stats.effects import Strengths, davidson
from reports.stats.fraction import t_quantile, two_way


@dataclass(frozen=True)
class Choices:
    """Choices between two arms of one page, four arrays [n]: codes of rater and scenario, the two arms, the outcome.

    `outcome` is 1 if `arm` was chosen, -1 if `other` was, 0 for no preference. Of a page with more arms the chosen one
    wins against each of the rest, and the rest are not compared.
    """

    rater: Ints
    scenario: Ints
    arm: Ints
    other: Ints
    outcome: Ints

    def of(self, arm: int, other: int) -> "Choices":
        """The choices between two arms, turned so that `arm` comes first."""
        straight, turned = (self.arm == arm) & (self.other == other), (self.arm == other) & (self.other == arm)
        keep = straight | turned
        n = int(keep.sum())
        outcome = np.where(turned, -self.outcome, self.outcome)[keep]
        return Choices(self.rater[keep], self.scenario[keep], np.full(n, arm), np.full(n, other), outcome)


@dataclass(frozen=True)
class Preference:
    """Shares of pages on which the arm was chosen, neither, the other; `net` = chosen - other with its interval."""

    n: int
    n_raters: int
    n_scenarios: int
    chosen: float
    neither: float
    other: float
    net: float
    low: float | None
    high: float | None
    p: float | None


def preference(choices: Choices) -> Preference | None:
    """Net preference for the first arm of `choices.of(...)`; raters and scenarios as samples, as for a difference."""
    from scipy.special import stdtr

    x = choices.outcome.astype(np.float64)
    n = len(x)
    if not n:
        return None
    net = float(x.mean())
    sums = two_way((x - net) / n, np.zeros(n), dense(choices.rater), dense(choices.scenario))
    low: float | None = None
    high: float | None = None
    p: float | None = None
    if min(len(sums.rater), len(sums.scenario)) > 1:
        contrast = sums.contrast(1.0, 0.0)
        low = high = net
        if contrast.v > 0:
            half = t_quantile(contrast.df, 0.95) * contrast.se
            low, high = net - half, net + half
            p = float(2 * stdtr(contrast.df, -abs(net) / contrast.se))
    chosen, neither, other = (float(np.mean(x == outcome)) for outcome in (1, 0, -1))
    return Preference(n, len(sums.rater), len(sums.scenario), chosen, neither, other, net, low, high, p)


def counts(choices: Choices, n_arms: int, weight: Floats | None = None) -> tuple[Floats, Floats]:
    """Wins and ties [K, K] of all pairs, each row counting `weight` times."""
    w = np.ones(len(choices.outcome)) if weight is None else weight
    size = n_arms**2
    forward, back = choices.arm * n_arms + choices.other, choices.other * n_arms + choices.arm
    won, lost, tied = (np.where(choices.outcome == outcome, w, 0.0) for outcome in (1, -1, 0))
    wins = np.bincount(forward, won, minlength=size) + np.bincount(back, lost, minlength=size)
    ties = np.bincount(forward, tied, minlength=size) + np.bincount(back, tied, minlength=size)
    return wins.astype(np.float64).reshape(n_arms, n_arms), ties.astype(np.float64).reshape(n_arms, n_arms)


def strengths(choices: Choices, n_arms: int) -> Strengths:
    """Davidson's model with ties (1970) of all choices; the log strength of arm 0 is 0."""
    return davidson(*counts(choices, n_arms))


def strength_intervals(
    choices: Choices, n_arms: int, rng: np.random.Generator, draws: int = 500
) -> list[tuple[float, float] | None]:
    """Percentile intervals of the log strengths by the pigeonhole bootstrap; None for arm 0, and where one in twenty
    draws has no finite strength.
    """
    rater, scenario = dense(choices.rater), dense(choices.scenario)
    by_rater = multinomial_weights(rng, draws, int(rater.max()) + 1)
    by_scenario = multinomial_weights(rng, draws, int(scenario.max()) + 1)
    drawn = []
    for one in range(draws):
        weight = by_rater[one][rater].astype(np.float64) * by_scenario[one][scenario]
        found = strengths_of(choices, n_arms, weight)
        if found is not None:
            drawn.append(found)
    if len(drawn) < 0.95 * draws:
        return [None] * n_arms
    return [None, *(percentile(np.array([one[arm] for one in drawn])) for arm in range(1, n_arms))]


def strengths_of(choices: Choices, n_arms: int, weight: Floats) -> list[float] | None:
    """Log strengths where every row counts `weight` [n] times; None where they are not finite."""
    return davidson(*counts(choices, n_arms, weight)).log_strength

"""A judge beside people: rank correlation, agreement, and what draws a judge for reasons other than the answer.

A unit is one arm's answer to one scenario. Units of one scenario fall together, so scenarios are what is drawn anew;
where people's own ratings enter one by one, people count as a sample too.
"""

import math
from dataclasses import dataclass

import numpy as np

from reports.stats.bootstrap import multinomial_weights, percentile
from reports.stats.cells import Bools, Floats, Ints, dense
from reports.stats.fraction import t_quantile, two_way

DRAWS = 2_000
LEAST = 3  # scenarios (or raters) below which no interval is given
LEAST_RATIO = 5  # scenarios below which a ratio of sums has none: its Fieller set is wide or unbounded anyway
CHUNK = 4_000_000  # numbers held at once


@dataclass(frozen=True)
class Interval:
    """An estimate with its 95 % limits (None where there are none), from `n` values in `clusters` scenarios."""

    estimate: float | None
    low: float | None
    high: float | None
    n: int
    clusters: int


@dataclass(frozen=True)
class Ranks:
    """Rank correlations of two columns of units: Spearman's rho, and Kendall's tau-b, which allows for ties."""

    spearman: Interval
    kendall: Interval


def rank_correlation(a: Floats, b: Floats, scenario: Ints, rng: np.random.Generator, draws: int = DRAWS) -> Ranks:
    """Correlate two columns of units [U]; intervals are percentiles of draws of whole scenarios (codes [U])."""
    scenario = dense(scenario)
    groups = int(scenario.max()) + 1 if len(scenario) else 0
    whole = np.ones((1, len(a)))
    rho = _first(_spearman(a, b, whole))
    pairs = _pair_sums(a, b, scenario, groups)
    tau = _first(_kendall(pairs, np.ones((1, groups))))
    limits: list[tuple[float | None, float | None]] = [(None, None), (None, None)]
    if groups >= LEAST:
        drawn: list[list[Floats]] = [[], []]
        step = max(1, CHUNK // max(1, len(a)))
        for start in range(0, draws, step):
            weight = multinomial_weights(rng, min(step, draws - start), groups).astype(np.float64)
            drawn[0].append(_spearman(a, b, weight[:, scenario]))
            drawn[1].append(_kendall(pairs, weight))
        limits = [_limits(np.concatenate(one)) for one in drawn]
    return Ranks(Interval(rho, *limits[0], len(a), groups), Interval(tau, *limits[1], len(a), groups))


def _first(values: Floats) -> float | None:
    return float(values[0]) if len(values) and np.isfinite(values[0]) else None


def _limits(drawn: Floats) -> tuple[float | None, float | None]:
    """Percentiles of the draws that have a value; None where one in twenty or more has none."""
    there = drawn[np.isfinite(drawn)]
    return (None, None) if len(there) < 0.95 * len(drawn) else percentile(there)


def _weighted_ranks(value: Floats, weight_BU: Floats) -> Floats:
    """Mid-ranks [B, U] of values [U], each counted as often as its weight says."""
    levels, level = np.unique(value, return_inverse=True)
    onto = np.zeros((len(value), len(levels)))
    onto[np.arange(len(value)), level] = 1.0
    mass = weight_BU @ onto
    middle: Floats = np.cumsum(mass, axis=1) - mass / 2
    return middle[:, level]


def _spearman(a: Floats, b: Floats, weight_BU: Floats) -> Floats:
    """Pearson's correlation of the mid-ranks, for each row of weights [B]; NaN where one column is constant."""
    if not len(a):
        return np.full(len(weight_BU), np.nan)
    total = weight_BU.sum(axis=1, keepdims=True)
    parts = []
    for value in (a, b):
        rank = _weighted_ranks(value, weight_BU)
        parts.append(rank - (weight_BU * rank).sum(axis=1, keepdims=True) / total)
    cross, one, two = (
        (weight_BU * x * y).sum(axis=1) for x, y in ((parts[0], parts[1]), (parts[0], parts[0]), (parts[1], parts[1]))
    )
    with np.errstate(invalid="ignore", divide="ignore"):
        found: Floats = cross / np.sqrt(one * two)
    found[(one < 1e-9) | (two < 1e-9)] = np.nan
    return found


def _pair_sums(a: Floats, b: Floats, scenario: Ints, groups: int) -> tuple[Floats, Floats, Floats]:
    """For every pair of scenarios [G, G] the sums over their units of sign(a) sign(b), of [a differs], [b differs]."""
    sums = [np.zeros((groups, groups)) for _ in range(3)]
    step = max(1, CHUNK // max(1, len(a)))
    for start in range(0, len(a), step):
        rows = slice(start, start + step)
        sign_a = np.sign(a[rows, None] - a[None, :])
        sign_b = np.sign(b[rows, None] - b[None, :])
        for total, table in zip(sums, (sign_a * sign_b, sign_a**2, sign_b**2), strict=True):
            by_column = np.stack([np.bincount(scenario, row, minlength=groups) for row in table])
            np.add.at(total, scenario[rows], by_column)
    return sums[0], sums[1], sums[2]


def _kendall(pairs: tuple[Floats, Floats, Floats], weight_BG: Floats) -> Floats:
    """tau-b for each row of scenario weights [B]: concordant less discordant over the root of the untied pairs."""
    balance, untied_a, untied_b = (((weight_BG @ table) * weight_BG).sum(axis=1) for table in pairs)
    with np.errstate(invalid="ignore", divide="ignore"):
        found: Floats = balance / np.sqrt(untied_a * untied_b)
    return found


def clustered_mean(value: Floats, scenario: Ints) -> Interval:
    """A mean of values [n] with a t interval over scenarios (codes [n]); values of one scenario are one cluster."""
    if not len(value):
        return Interval(None, None, None, 0, 0)
    groups = dense(scenario)
    count, mean = int(groups.max()) + 1, float(value.mean())
    if count < LEAST:
        return Interval(mean, None, None, len(value), count)
    sums = np.bincount(groups, value - mean) / len(value)
    half = t_quantile(count - 1, 0.95) * math.sqrt(count / (count - 1) * float(np.sum(sums**2)))
    return Interval(mean, mean - half, mean + half, len(value), count)


def crossed_mean(value: Floats, rater: Ints, scenario: Ints) -> Interval:
    """A mean of values [n] with people and scenarios (codes [n]) as samples: two-way clustered, Satterthwaite's t."""
    if not len(value):
        return Interval(None, None, None, 0, 0)
    raters, groups, mean = dense(rater), dense(scenario), float(value.mean())
    size = int(groups.max()) + 1
    if size < LEAST or int(raters.max()) + 1 < LEAST:
        return Interval(mean, None, None, len(value), size)
    psi = (value - mean) / len(value)
    contrast = two_way(psi, np.zeros(len(psi)), raters, groups).contrast(1.0, 0.0)
    half = t_quantile(contrast.df, 0.95) * contrast.se
    return Interval(mean, mean - half, mean + half, len(value), size)


@dataclass(frozen=True)
class Agreement:
    """Two marks of the same answers: share equal, share within one, quadratic weighted kappa, n pairs of marks."""

    n: int
    exact: float
    within_one: float
    kappa: float | None


def agreement(a: Floats, b: Floats, weight: Floats | None = None) -> Agreement | None:
    """Agreement of two columns of marks [n], each pair counted by its weight [n]; None without a pair.

    kappa is Cohen's with quadratic weights (1968): 1 minus the mean squared difference over what the two columns'
    own distributions would give by chance; None where both are one and the same constant.
    """
    if not len(a):
        return None
    w = np.ones(len(a)) if weight is None else weight
    w = w / w.sum()
    gap = np.abs(a - b)
    mean_a, mean_b = float(w @ a), float(w @ b)
    chance = float(w @ (a - mean_a) ** 2) + float(w @ (b - mean_b) ** 2) + (mean_a - mean_b) ** 2
    kappa = None if chance < 1e-12 else 1 - float(w @ gap**2) / chance
    return Agreement(len(a), float(w @ (gap < 1e-9)), float(w @ (gap < 1 + 1e-9)), kappa)


def person_pairs(rater: Ints, unit: Ints, value: Floats) -> tuple[Floats, Floats, Floats]:
    """All pairs of people who rated the same unit: both marks and a weight, so that each unit counts as its raters.

    The yardstick for a judge: how well one person agrees with another one.
    """
    order = np.lexsort((rater, unit))
    unit, value = unit[order], value[order]
    first = np.flatnonzero(np.concatenate(([True], unit[1:] != unit[:-1]))) if len(unit) else np.zeros(0, np.int64)
    ones: list[Floats] = []
    others: list[Floats] = []
    weights: list[Floats] = []
    for start, stop in zip(first, [*first[1:], len(unit)], strict=True):
        m = int(stop) - int(start)
        if m < 2:
            continue
        i, j = np.triu_indices(m, 1)
        marks = value[start:stop]
        # Both directions: neither person is the first.
        ones += [marks[i], marks[j]]
        others += [marks[j], marks[i]]
        weights.append(np.full(2 * len(i), 1.0 / (m - 1)))
    empty = np.zeros(0)
    return (
        np.concatenate(ones) if ones else empty,
        np.concatenate(others) if others else empty,
        np.concatenate(weights) if weights else empty,
    )


def length_slope(value: Floats, length: Floats, scenario: Ints) -> Interval:
    """Points by which values [U] rise when an answer is twice as long, within scenarios (codes [U]).

    Least squares with one level for each scenario, standard error clustered by scenario. With the judge's mark less the
    people's mean as value, what is left is a taste for length that people do not share.
    """
    groups = dense(scenario)
    size = int(groups.max()) + 1 if len(groups) else 0
    n = np.bincount(groups, minlength=size)
    x = np.log2(np.maximum(length, 1.0))

    def within(column: Floats) -> Floats:
        centred: Floats = column - (np.bincount(groups, column, minlength=size) / np.maximum(n, 1))[groups]
        return centred

    x, y = within(x), within(value)
    square = float(x @ x)
    used = int(np.sum(np.bincount(groups, x**2, minlength=size) > 1e-12)) if size else 0
    if square < 1e-9:
        return Interval(None, None, None, len(value), used)
    slope = float(x @ y) / square
    if used < LEAST:
        return Interval(slope, None, None, len(value), used)
    sums = np.bincount(groups, x * (y - slope * x), minlength=size)
    half = t_quantile(used - 1, 0.95) * math.sqrt(used / (used - 1) * float(np.sum(sums**2))) / square
    return Interval(slope, slope - half, slope + half, len(value), used)


@dataclass(frozen=True)
class Swap:
    """Comparisons that a judge saw in both orders: n pairs of verdicts and what became of them.

    `consistent` have the same outcome in both orders; `first` (`second`) name whatever was shown first (second) both
    times; `partly` are a tie in one order only. `preference` is the share of verdicts for the first place less that for
    the second, 0 without a bias; `advantage` the points that the first place adds to a mark's lead.
    """

    n: int
    consistent: float
    first: float
    second: float
    partly: float
    preference: Interval
    advantage: Interval


def swap(forward: Ints, backward: Ints, lead: Floats, scenario: Ints) -> Swap | None:
    """What swapping positions does. For each pair [n]: the verdict in one order and in the other, coded by place shown
    (1 the first, -1 the second, 0 a tie), and `lead`, the mark at the first place less that at the second, averaged
    over both orders (NaN without marks). None without a pair.
    """
    if not len(forward):
        return None
    same = forward == -backward  # one arm stands first, then second
    there = ~np.isnan(lead)
    return Swap(
        n=len(forward),
        consistent=float(np.mean(same)),
        first=float(np.mean((forward == 1) & (backward == 1))),
        second=float(np.mean((forward == -1) & (backward == -1))),
        partly=float(np.mean(~same & ((forward == 0) | (backward == 0)))),
        preference=clustered_mean((forward + backward) / 2.0, scenario),
        advantage=clustered_mean(lead[there], scenario[there]),
    )


@dataclass(frozen=True)
class SumFraction:
    """Sum of a student's scores over the sum of its teacher's, over n scenarios, with two 95 % intervals.

    `low` and `high` are Fieller's (None where the set is unbounded or n is below 5), `bootstrap_*` percentiles of draws
    of scenarios.
    """

    n: int
    student: float
    teacher: float
    estimate: float | None
    low: float | None
    high: float | None
    bootstrap_low: float | None
    bootstrap_high: float | None


def sum_fraction(
    student: Floats, teacher: Floats, rng: np.random.Generator, *, shift: float = 0.0, draws: int = 10_000
) -> SumFraction:
    """The ratio of sums of two score columns [S], one value a scenario (Fieller 1954, t with S - 1).

    `shift` is taken off every score first: 1 moves the lowest mark to zero. Scenarios are the sample; the judge is not,
    so the interval speaks of other questions to this judge, not of other judges.
    """
    x, y = student - shift, teacher - shift
    n = len(x)
    total_x, total_y = float(x.sum()), float(y.sum())
    if not n or total_y <= 0:
        return SumFraction(n, total_x, total_y, None, None, None, None, None)
    ratio = total_x / total_y
    if n < LEAST_RATIO:
        return SumFraction(n, total_x, total_y, ratio, None, None, None, None)
    limits = _fieller(x, y)
    weight = [multinomial_weights(rng, min(draws, start + step) - start, n).astype(np.float64)
              for step in [max(1, CHUNK // n)] for start in range(0, draws, step)]  # fmt: skip
    drawn = np.concatenate([part @ np.stack([x, y], axis=1) for part in weight])
    there = drawn[:, 1] > 0
    boot = percentile(drawn[there, 0] / drawn[there, 1]) if there.mean() >= 0.975 else (None, None)
    return SumFraction(n, total_x, total_y, ratio, *limits, *boot)


def _fieller(x: Floats, y: Floats) -> tuple[float | None, float | None]:
    n = len(x)
    mx, my = float(x.mean()), float(y.mean())
    vxx, vxy, vyy = (float(a @ b) / (n * (n - 1)) for a, b in ((x - mx, x - mx), (x - mx, y - my), (y - my, y - my)))
    t2 = t_quantile(n - 1, 0.95) ** 2
    a, b, c = my**2 - t2 * vyy, mx * my - t2 * vxy, mx**2 - t2 * vxx
    root = b**2 - a * c
    if a <= 0:
        return None, None
    half = math.sqrt(max(0.0, root))  # below zero by rounding only: the estimate itself always fits
    return (b - half) / a, (b + half) / a


def longer_wins(outcome: Ints, longer: Ints) -> Interval:
    """The share of decided pairs [n] in which the longer answer won; ties and equal lengths are left out.

    `outcome` is 1 where the student won, -1 where it lost; `longer` 1 where its answer is the longer one, -1 where it
    is the shorter one. Each pair is its own cluster.
    """
    decided: Bools = (outcome != 0) & (longer != 0)
    won = (outcome[decided] == longer[decided]).astype(np.float64)
    return clustered_mean(won, np.arange(len(won), dtype=np.int64))

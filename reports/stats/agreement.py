"""Do raters agree: Krippendorff's alpha, intraclass correlation, and flags for raters who stand apart."""

from dataclasses import dataclass
from typing import Literal

import numpy as np

from reports.stats.cells import Floats, Ints, Ratings, dense

Metric = Literal["nominal", "ordinal", "interval"]


def units_of(ratings: Ratings) -> Ints:
    """The unit (scenario, arm) of every rating, as codes without gaps [N]."""
    width = int(ratings.arm.max()) + 1 if len(ratings.arm) else 1
    return dense(ratings.scenario * width + ratings.arm)


def krippendorff(unit: Ints, value: Floats, metric: Metric = "ordinal") -> float | None:
    """Krippendorff's alpha (2011) of ratings [N] of units [N], through the coincidence matrix.

    Units with one rating drop out. None if no unit has two, or if all pairable ratings are equal.
    """
    if not len(value):
        return None
    levels, level = np.unique(value, return_inverse=True)
    k, n_units = len(levels), int(unit.max()) + 1
    table = np.bincount(unit * k + level, minlength=n_units * k).reshape(n_units, k).astype(np.float64)
    m = table.sum(axis=1)
    table, m = table[m >= 2], m[m >= 2]
    if not len(m):
        return None
    coincidence = (table / (m - 1)[:, None]).T @ table - np.diag((table / (m - 1)[:, None]).sum(axis=0))
    n_c = coincidence.sum(axis=1)
    distance = _distance(levels, n_c, metric)
    observed = float((coincidence * distance).sum())
    expected = float((np.outer(n_c, n_c) * distance).sum() / (n_c.sum() - 1))
    return None if expected == 0 else 1 - observed / expected


def _distance(levels: Floats, n_c: Floats, metric: Metric) -> Floats:
    if metric == "nominal":
        return np.asarray(levels[:, None] != levels[None, :], dtype=np.float64)
    if metric == "interval":
        return np.asarray((levels[:, None] - levels[None, :]) ** 2, dtype=np.float64)
    middle = np.cumsum(n_c) - n_c / 2  # so that differences count all ratings between two levels and half at the ends
    return np.asarray((middle[:, None] - middle[None, :]) ** 2, dtype=np.float64)


@dataclass(frozen=True)
class Icc:
    """ICC(2,1) and ICC(2,k): one rater, and the mean of all."""

    single: float
    average: float
    n_units: int
    n_raters: int


def icc(table_UR: Floats) -> Icc | None:
    """Intraclass correlation, two-way random (Shrout, Fleiss 1979), of a complete table [units, raters].

    None with fewer than two units or raters, or without variance. Never fill in a table to get one.
    """
    n, k = table_UR.shape
    if n < 2 or k < 2:
        return None
    grand = table_UR.mean()
    rows, columns = table_UR.mean(axis=1), table_UR.mean(axis=0)
    ms_rows = k * float(np.sum((rows - grand) ** 2)) / (n - 1)
    ms_columns = n * float(np.sum((columns - grand) ** 2)) / (k - 1)
    residual = table_UR - rows[:, None] - columns[None, :] + grand
    ms_error = float(np.sum(residual**2)) / ((n - 1) * (k - 1))
    single = ms_rows + (k - 1) * ms_error + k * (ms_columns - ms_error) / n
    average = ms_rows + (ms_columns - ms_error) / n
    if single <= 0 or average <= 0:
        return None
    return Icc((ms_rows - ms_error) / single, (ms_rows - ms_error) / average, n, k)


def complete_table(ratings: Ratings, n_arms: int) -> Floats | None:
    """A complete table [units, raters] found in the ratings by rule, or None.

    Scenarios are taken in the order of how many raters rated them with every arm, and as many of them as give the
    largest table of raters who rated all of these.
    """
    n_raters, n_scenarios = int(ratings.rater.max()) + 1, int(ratings.scenario.max()) + 1
    cell = ratings.rater * n_scenarios + ratings.scenario
    full = (np.bincount(cell, minlength=n_raters * n_scenarios) == n_arms).reshape(n_raters, n_scenarios)
    order = np.argsort(-full.sum(axis=0), kind="stable")
    complete = np.logical_and.accumulate(full[:, order], axis=1)
    size = complete.sum(axis=0) * np.arange(1, n_scenarios + 1)
    best = int(np.argmax(size))
    shared, raters = order[: best + 1], np.flatnonzero(complete[:, best])
    if len(raters) < 2:
        return None
    keep = np.isin(ratings.rater, raters) & np.isin(ratings.scenario, shared)
    rows = ratings.where(keep)
    table = np.empty((len(shared) * n_arms, len(raters)))
    table[dense(rows.scenario) * n_arms + rows.arm, dense(rows.rater)] = rows.value
    return table


@dataclass(frozen=True)
class RaterFacts:
    """One row a rater [R]: ratings given, their mean and SD, how many shared a unit, correlation with the others."""

    n: Ints
    mean: Floats
    sd: Floats
    n_shared: Ints
    agreement: Floats

    def constant(self, least: int = 10) -> Ints:
        """Raters (codes) who gave one and the same rating at least `least` times."""
        return np.flatnonzero((self.n >= least) & (self.sd == 0)).astype(np.int64)

    def disagreeing(self, least: int = 10, below: float = 0.2) -> Ints:
        """Raters (codes) whose correlation with the others is below 0.2 over at least `least` shared units."""
        with np.errstate(invalid="ignore"):
            return np.flatnonzero((self.n_shared >= least) & (self.agreement < below)).astype(np.int64)


def rater_facts(ratings: Ratings, n_raters: int) -> RaterFacts:
    """Severity and agreement of every rater; NaN where a number cannot be computed.

    Agreement is the correlation of a rater's ratings with the mean of the others' ratings of the same unit.
    """
    n, mean, _, sd = _moments(ratings.rater, ratings.value, n_raters)
    unit = units_of(ratings)
    count, total = np.bincount(unit), np.bincount(unit, ratings.value)
    shared = count[unit] > 1
    rater, own = ratings.rater[shared], ratings.value[shared]
    others = (total[unit][shared] - own) / (count[unit][shared] - 1)
    n_shared, own_mean, own_ss, _ = _moments(rater, own, n_raters)
    _, others_mean, others_ss, _ = _moments(rater, others, n_raters)
    product = np.bincount(rater, (own - own_mean[rater]) * (others - others_mean[rater]), minlength=n_raters)
    with np.errstate(invalid="ignore", divide="ignore"):
        agreement = product / np.sqrt(own_ss * others_ss)
    agreement[~np.isfinite(agreement)] = np.nan
    return RaterFacts(n, mean, sd, n_shared, agreement)


def _moments(group: Ints, value: Floats, size: int) -> tuple[Ints, Floats, Floats, Floats]:
    """Count, mean, sum of squares and standard deviation by group [size]; noise below 1e-12 counts as 0."""
    n = np.bincount(group, minlength=size).astype(np.int64)
    with np.errstate(invalid="ignore", divide="ignore"):
        mean: Floats = np.bincount(group, value, minlength=size) / n
        squares: Floats = np.bincount(group, (value - mean[group]) ** 2, minlength=size).astype(np.float64)
        squares[squares < 1e-12] = 0.0
        sd: Floats = np.where(n > 1, np.sqrt(squares / (n - 1)), np.nan)
    return n, mean, squares, sd

"""Benchmark scores with intervals, and two arms compared on the same items.

Every score here is f(sum of values / sum of weights) over its items: an accuracy has weights of 1, a perplexity has a
document's negative log-likelihood as value and its tokens as weight. Items of one document or group fall together, so
whole groups (clusters) are drawn anew; without groups every item is one. One resample serves both arms and all scores
of the same items: that is what makes a comparison paired.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from reports.stats.benchmarks import mcnemar_exact, resampled_means
from reports.stats.bootstrap import percentile
from reports.stats.cells import Floats, Ints

DRAWS = 10_000
FEW_DRAWS, MANY_ITEMS = 2_000, 4_000  # with so many clusters fewer draws do, and more would take minutes
Z = 1.959963984540054  # the normal's 97.5 % point

TRANSFORMS: dict[str, Callable[[Floats], Floats]] = {
    "mean": lambda ratio: ratio,
    "exp": lambda ratio: np.exp(np.minimum(ratio, 700.0)),  # a broken model must not overflow
    "bits": lambda ratio: ratio / math.log(2),
}
"""Name -> f: a plain mean, a perplexity from nats, bits from nats."""


@dataclass(frozen=True)
class Column:
    """One score's items in one arm: values and weights [n], and the name of the transform."""

    value: Floats
    weight: Floats
    transform: str = "mean"

    @property
    def score(self) -> float:
        return float(TRANSFORMS[self.transform](np.asarray(self.value.sum() / self.weight.sum())))

    @property
    def binary(self) -> bool:
        """Whether every item is right (1) or wrong (0) and counts the same."""
        return self.transform == "mean" and bool(np.all(self.weight == 1) and np.all(np.isin(self.value, (0.0, 1.0))))

    def at(self, index: Ints) -> "Column":
        """The column of these items only."""
        return Column(self.value[index], self.weight[index], self.transform)


@dataclass(frozen=True)
class Interval:
    """An estimate with its 95 % limits, None where there are none."""

    estimate: float
    low: float | None = None
    high: float | None = None


def wilson(right: float, n: int) -> tuple[float, float]:
    """Wilson's 95 % interval (1927) of a share: never beyond 0 and 1, and no point where all items are right."""
    p, z2 = right / n, Z * Z
    centre, half = (p + z2 / (2 * n)), Z * math.sqrt(p * (1 - p) / n + z2 / (4 * n * n))
    return max(0.0, (centre - half) / (1 + z2 / n)), min(1.0, (centre + half) / (1 + z2 / n))


def draw(columns: list[Column], cluster: Ints | None, rng: np.random.Generator, draws: int | None = None) -> Floats:
    """Bootstrap scores [columns, draws] of several columns over the same items, each draw with the same clusters.

    `cluster` [n] numbers the group of each item; None: every item is its own.
    """
    rows = np.stack([part for column in columns for part in (column.value, column.weight)]).astype(np.float64)
    if cluster is not None:
        rows = np.stack([np.bincount(cluster, row) for row in rows])
    n = rows.shape[1]
    means = resampled_means(rows, rng, draws or (DRAWS if n <= MANY_ITEMS else FEW_DRAWS))
    return np.stack([TRANSFORMS[c.transform](means[2 * k] / means[2 * k + 1]) for k, c in enumerate(columns)])


def score_interval(column: Column, drawn: Floats, clusters: int) -> tuple[Interval, str]:
    """A score's interval and how it was made: Wilson's for shares of single items, else percentiles of its draws.

    One cluster has no interval.
    """
    n = len(column.value)
    if clusters < 2:
        return Interval(column.score), "none"
    if column.binary and clusters == n:
        return Interval(column.score, *wilson(float(column.value.sum()), n)), "wilson"
    return Interval(column.score, *percentile(drawn)), "bootstrap"


@dataclass(frozen=True)
class Comparison:
    """A student's score against a teacher's on the same items.

    `retained` is student / teacher, `above_chance` (student - chance) / (teacher - chance); each None where the
    denominator is not clearly above 0, so that no ratio can be trusted. `p` is two-sided for no difference: by exact
    McNemar where items are single, right or wrong, else by the bootstrap, and then never below 2^(1 - clusters), which
    is all that so few could show; None for one cluster. `teacher_only` and `student_only` count the items that only
    one of both answers rightly.
    """

    n: int
    clusters: int
    teacher: float
    student: float
    difference: Interval
    retained: Interval | None
    above_chance: Interval | None
    p: float | None
    test: str | None
    teacher_only: int | None
    student_only: int | None


def compare(
    teacher: Column, student: Column, drawn: tuple[Floats, Floats], clusters: int, chance: float | None = None
) -> Comparison:
    """Compare two columns over the same items; `drawn` are the teacher's and the student's scores in the same draws."""
    t, s = teacher.score, student.score
    known = clusters > 1
    gap = drawn[1] - drawn[0]
    difference = Interval(s - t, *percentile(gap)) if known else Interval(s - t)
    p, test = None, None
    teacher_only, student_only = None, None
    if teacher.binary and student.binary:
        teacher_only, student_only = (
            int(np.sum(teacher.value > student.value)),
            int(np.sum(student.value > teacher.value)),
        )
        if known and clusters == len(teacher.value):
            p, test = mcnemar_exact(teacher_only, student_only), "mcnemar"
    if known and test is None:
        p, test = max(bootstrap_p(gap), 2.0 ** (1 - clusters)), "bootstrap"
    return Comparison(
        n=len(teacher.value),
        clusters=clusters,
        teacher=t,
        student=s,
        difference=difference,
        retained=_ratio(s, t, drawn[1], drawn[0], known),
        above_chance=None if chance is None else _ratio(s, t, drawn[1], drawn[0], known, chance),
        p=p,
        test=test,
        teacher_only=teacher_only,
        student_only=student_only,
    )


def bootstrap_p(gap: Floats) -> float:
    """Two-sided p of no difference from bootstrap draws of a difference [B]; never below 2 / (B + 1)."""
    at_most, at_least = int(np.sum(gap <= 0)), int(np.sum(gap >= 0))
    return min(1.0, 2 * (1 + min(at_most, at_least)) / (1 + len(gap)))


def ratio_draws(student: Floats, teacher: Floats, chance: float = 0.0) -> Floats | None:
    """Draws of (student - chance) / (teacher - chance); None where the teacher is not clearly above chance.

    More than 2.5 % of draws at or below chance mean that its interval reaches it, and that the ratio has no bound.
    """
    above = teacher > chance
    if float(np.mean(above)) < 0.975:
        return None
    return np.asarray((student[above] - chance) / (teacher[above] - chance))


def _ratio(s: float, t: float, drawn_s: Floats, drawn_t: Floats, known: bool, chance: float = 0.0) -> Interval | None:
    if t <= chance:
        return None
    if not known:
        return Interval((s - chance) / (t - chance))
    draws = ratio_draws(drawn_s, drawn_t, chance)
    return None if draws is None else Interval((s - chance) / (t - chance), *percentile(draws))

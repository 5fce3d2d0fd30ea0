"""What is missing, arm by arm: gaps that prefer an arm can make an arm look better than it is."""

import math
from dataclasses import dataclass

import numpy as np
from scipy.special import stdtr

from reports.stats.benchmarks import mcnemar_exact
from reports.stats.cells import Floats, Ints, Ratings, aligned


@dataclass(frozen=True)
class Unpaired:
    """Cells in which both arms were rated, and those with one of them only; p of the exact McNemar test."""

    both: int
    student_only: int
    teacher_only: int
    p: float


def unpaired(ratings: Ratings, student: int, teacher: int) -> Unpaired:
    """Count the cells of two arms. Expects what `collapse` returns."""
    both = aligned(ratings, student, teacher).n
    only_s = int(np.sum(ratings.arm == student)) - both
    only_t = int(np.sum(ratings.arm == teacher)) - both
    return Unpaired(both, only_s, only_t, mcnemar_exact(only_t, only_s))


@dataclass(frozen=True)
class Gap:
    """Difference of two arms' missing shares, raters as the sample; t and p None where they do not vary."""

    estimate: float
    p: float | None
    n_raters: int


def missing_gap(rater: Ints, arm: Ints, missing: Floats, student: int, teacher: int) -> Gap | None:
    """Mean over raters of (missing share of the student's items - the teacher's), with a paired t test.

    Three arrays [n], one row an item that was given out; `missing` is 1 where it was not rated. None where no rater was
    given both arms.
    """
    size = int(rater.max()) + 1 if len(rater) else 0

    def share(code: int) -> Floats:
        mine = arm == code
        with np.errstate(invalid="ignore"):
            return np.bincount(rater[mine], missing[mine], minlength=size) / np.bincount(rater[mine], minlength=size)

    d = share(student) - share(teacher)
    d = d[np.isfinite(d)]
    if not len(d):
        return None
    mean, n = float(d.mean()), len(d)
    sd = float(d.std(ddof=1)) if n > 1 else 0.0
    return Gap(mean, float(2 * stdtr(n - 1, -abs(mean) * math.sqrt(n) / sd)) if sd > 1e-12 else None, n)


def leaving(arm: Ints, n_arms: int) -> tuple[list[int], float | None]:
    """Where raters left: counts [K] of the arm they met last, and p that every arm is as likely (chi-squared).

    p is None below five expected in each arm.
    """
    count = np.bincount(arm, minlength=n_arms)
    expected = len(arm) / n_arms
    if expected < 5:
        return [int(one) for one in count], None
    from scipy.special import chdtrc

    return [int(one) for one in count], float(chdtrc(n_arms - 1, float(np.sum((count - expected) ** 2) / expected)))

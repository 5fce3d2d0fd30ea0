"""Did blinding hold: Bang's index (Bang, Ni, Davis 2004) of one arm's guesses, and what it allows to say."""

import math
from dataclasses import dataclass
from typing import Literal

import numpy as np
from scipy.special import ndtr, ndtri

from reports.stats.cells import Floats

CLEAR = 0.2  # an index up to this counts as small (the usual reading of Bang's index)
LEAST = 10  # guesses below which nothing is said

Verdict = Literal["held", "failed", "unclear", "reversed", "too few"]


@dataclass(frozen=True)
class Bang:
    """Bang's index: 0 blind, 1 seen through, -1 everybody guesses another arm; normal interval, one-sided p for > 0."""

    n: int
    index: float
    se: float
    low: float
    high: float
    p: float | None


def bang(correct: int, wrong: int, dont_know: int, level: float = 0.95) -> Bang | None:
    """The index of one arm from the counts of its guesses; None without guesses. One per arm: do not average."""
    n = correct + wrong + dont_know
    if n == 0:
        return None
    pc, pw = correct / n, wrong / n
    index = pc - pw
    se = math.sqrt((pc * (1 - pc) + pw * (1 - pw) + 2 * pc * pw) / n)
    return _bang(n, index, se, level)


def bang_of_raters(score: Floats, level: float = 0.95) -> Bang | None:
    """The same from one score for each rater [n]: the mean of their guesses about an arm, right 1, wrong -1, unsure 0.

    With one guess for each rater these are the index and standard error of `bang`.
    """
    n = len(score)
    return None if n == 0 else _bang(n, float(score.mean()), float(score.std()) / math.sqrt(n), level)


def _bang(n: int, index: float, se: float, level: float) -> Bang:
    half = float(ndtri((1 + level) / 2)) * se
    return Bang(n, index, se, index - half, index + half, float(ndtr(-index / se)) if se > 0 else None)


def verdict(found: Bang) -> Verdict:
    """What an index says about blinding.

    failed: the interval lies above 0. reversed: below 0. held: it includes 0 and the index is at most 0.2 from it.
    unclear: it includes 0, but the index is further off. Fewer than ten raters decide nothing.
    """
    if found.n < LEAST:
        return "too few"
    if found.se == 0:
        return "failed" if found.index > 0 else "reversed" if found.index < 0 else "held"
    if found.low > 0:
        return "failed"
    if found.high < 0:
        return "reversed"
    return "held" if abs(found.index) <= CLEAR else "unclear"


def of_counts(correct: Floats, wrong: Floats, asked: Floats) -> Floats:
    """One score for each rater [n] from counts of right and wrong guesses among those asked, raters never asked out."""
    there = asked > 0
    return np.asarray((correct[there] - wrong[there]) / asked[there], dtype=np.float64)

"""Did blinding hold: Bang's index (Bang, Ni, Davis 2004) of one arm's guesses."""

import math
from dataclasses import dataclass

from scipy.special import ndtr, ndtri


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
    half = float(ndtri((1 + level) / 2)) * se
    return Bang(n, index, se, index - half, index + half, float(ndtr(-index / se)) if se > 0 else None)

"""Pairs and effect sizes on common cells; every sign is student minus teacher."""

import math
from dataclasses import dataclass

import numpy as np

from reports.stats.cells import Cells, Floats


@dataclass(frozen=True)
class Outcomes:
    """Shares of common cells in which the student is rated higher, equal, lower."""

    n: int
    win: float
    tie: float
    loss: float


def pairs(cells: Cells) -> Outcomes:
    """Win, tie and loss shares of the student."""
    d = cells.student - cells.teacher
    return Outcomes(cells.n, float(np.mean(d > 0)), float(np.mean(d == 0)), float(np.mean(d < 0)))


@dataclass(frozen=True)
class Effects:
    """Cohen's d and d_z (None where a standard deviation is 0 or n is 1), Cliff's delta."""

    cohen_d: float | None
    cohen_dz: float | None
    cliffs_delta: float


def effects(cells: Cells) -> Effects:
    """Standardised differences of student and teacher; standard deviations have the denominator n - 1."""
    d = cells.student - cells.teacher
    pooled = spread = 0.0
    if cells.n > 1:
        pooled = math.sqrt((float(cells.student.var(ddof=1)) + float(cells.teacher.var(ddof=1))) / 2)
        spread = float(d.std(ddof=1))
    return Effects(
        float(d.mean()) / pooled if pooled > 0 else None,
        float(d.mean()) / spread if spread > 0 else None,
        cliffs_delta(cells.student, cells.teacher),
    )


def cliffs_delta(a: Floats, b: Floats) -> float:
    """P(a > b) - P(a < b) over all pairs (Cliff 1993), in n log n."""
    b = np.sort(b)
    below = np.searchsorted(b, a, side="left")
    above = len(b) - np.searchsorted(b, a, side="right")
    return float((below - above).sum() / (len(a) * len(b)))


@dataclass(frozen=True)
class Strengths:
    """Log strengths [K] with the reference at 0, and nu, the weight of ties (None for half ties).

    With `separation` the likelihood has no maximum (an arm that never wins, or never loses): all numbers are None.
    """

    log_strength: list[float] | None
    nu: float | None
    separation: bool


def davidson(wins_KK: Floats, ties_KK: Floats, reference: int = 0) -> Strengths:
    """Davidson's model of paired comparisons with ties (1970) by maximum likelihood.

    wins_KK[i, j] counts wins of i over j, ties_KK[i, j] is symmetric. Standard errors are not given: cells are not
    independent.
    """
    return _paired_model(wins_KK, ties_KK, reference, with_nu=bool(ties_KK.sum() > 0))


def bradley_terry(wins_KK: Floats, ties_KK: Floats | None = None, reference: int = 0) -> Strengths:
    """Bradley and Terry's model (1952); a tie counts as half a win for each side."""
    wins = wins_KK if ties_KK is None else wins_KK + ties_KK / 2
    return _paired_model(wins, np.zeros_like(wins), reference, with_nu=False)


def _paired_model(wins: Floats, ties: Floats, reference: int, *, with_nu: bool) -> Strengths:
    """Newton's method on a concave log likelihood: each pair is a multinomial with win, loss and tie as outcomes."""
    none = Strengths(None, None, True)
    k = len(wins)
    if not _connected(wins + ties) or wins.sum() == 0:
        return none
    free = [index for index in range(k) if index != reference]
    blocks = []
    for i in range(k):
        for j in range(i + 1, k):
            total = wins[i, j] + wins[j, i] + ties[i, j]
            if total > 0:
                x = np.zeros((3, k + 1))  # outcomes: i wins, j wins, tie; columns: log strengths, log nu
                x[0, i] = x[1, j] = x[2, k] = 1.0
                x[2, [i, j]] = 0.5
                rows = slice(None) if with_nu else slice(0, 2)
                counts = np.array([wins[i, j], wins[j, i], ties[i, j]])[rows]
                blocks.append((x[rows][:, [*free, *([k] if with_nu else [])]], counts))
    beta = np.zeros(len(free) + with_nu)

    def loglik(at: Floats) -> float:
        return sum(float(n @ (x @ at)) - float(n.sum()) * float(np.logaddexp.reduce(x @ at)) for x, n in blocks)

    for _ in range(200):
        gradient, information = np.zeros(len(beta)), np.zeros((len(beta), len(beta)))
        for x, n in blocks:
            p = np.exp(x @ beta - np.logaddexp.reduce(x @ beta))
            mean = p @ x
            gradient += n @ x - n.sum() * mean
            information += n.sum() * ((x.T * p) @ x - np.outer(mean, mean))
        try:
            step = np.linalg.solve(information, gradient)
        except np.linalg.LinAlgError:
            return none
        before = loglik(beta)
        while loglik(beta + step) < before - 1e-9 and np.abs(step).max() > 1e-12:
            step = step / 2
        beta = beta + step
        if np.abs(beta).max() > 15:
            return none
        if np.abs(step).max() < 1e-10:
            break
    else:
        return none
    strength = np.zeros(k)
    strength[free] = beta[: len(free)]
    nu = math.exp(float(beta[-1])) if with_nu else None
    return Strengths([float(value) for value in strength], nu, False)


def _connected(beats: Floats) -> bool:
    """Whether every arm reaches every other along wins and ties (Ford 1957): else a strength is infinite."""
    reach = (beats > 0) | np.eye(len(beats), dtype=bool)
    for _ in range(len(beats)):
        reach = (reach.astype(np.int64) @ reach.astype(np.int64)) > 0
    return bool(reach.all())


def pair_counts(cells_of: dict[tuple[int, int], Cells], k: int) -> tuple[Floats, Floats]:
    """Wins and ties [K, K] of all pairs of arms; the first arm of a key is the `student` of its cells."""
    wins, ties = np.zeros((k, k)), np.zeros((k, k))
    for (i, j), cells in cells_of.items():
        d = cells.student - cells.teacher
        wins[i, j], wins[j, i] = np.sum(d > 0), np.sum(d < 0)
        ties[i, j] = ties[j, i] = np.sum(d == 0)
    return wins, ties

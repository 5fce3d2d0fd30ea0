"""Paired comparisons of benchmark results: accuracy by item, perplexity by document."""

import math
from dataclasses import dataclass

import numpy as np
from scipy.special import bdtr

from reports.stats.bootstrap import multinomial_weights, percentile
from reports.stats.cells import Floats

CHUNK = 2_000_000


def mcnemar_exact(teacher_only: int, student_only: int) -> float:
    """Two-sided exact McNemar test: items that only one of both models answers rightly; 1 if there is none."""
    n = teacher_only + student_only
    return 1.0 if n == 0 else min(1.0, 2 * float(bdtr(min(teacher_only, student_only), n, 0.5)))


@dataclass(frozen=True)
class Accuracy:
    """Two accuracies on the same items, their difference and ratio with percentile intervals, exact McNemar p."""

    n: int
    teacher: float
    student: float
    teacher_only: int
    student_only: int
    difference: float
    difference_low: float
    difference_high: float
    retained: float | None
    retained_low: float | None
    retained_high: float | None
    mcnemar_p: float


def accuracy(teacher: Floats, student: Floats, rng: np.random.Generator, draws: int = 10_000) -> Accuracy:
    """Compare right (1) and wrong (0) answers [n] of both models, items resampled together.

    `retained` is the ratio of accuracies, None if the teacher answers nothing rightly.
    """
    both = resampled_means(np.stack([student, teacher]), rng, draws)
    acc_t, acc_s = float(teacher.mean()), float(student.mean())
    low, high = percentile(both[0] - both[1])
    retained: tuple[float, float] | tuple[None, None] = (None, None)
    if acc_t > 0:
        there = both[1] > 0
        retained = percentile(both[0][there] / both[1][there])
    b, c = int(np.sum((teacher == 1) & (student == 0))), int(np.sum((teacher == 0) & (student == 1)))
    return Accuracy(
        n=len(teacher),
        teacher=acc_t,
        student=acc_s,
        teacher_only=b,
        student_only=c,
        difference=acc_s - acc_t,
        difference_low=low,
        difference_high=high,
        retained=acc_s / acc_t if acc_t > 0 else None,
        retained_low=retained[0],
        retained_high=retained[1],
        mcnemar_p=mcnemar_exact(b, c),
    )


@dataclass(frozen=True)
class Perplexity:
    """Pooled perplexity of a text: exp(nats per token), bits per UTF-8 byte, and the perplexity per byte."""

    nll_per_token: float
    token_perplexity: float
    bits_per_byte: float
    byte_perplexity: float


def perplexity(nll: Floats, tokens: Floats, size: Floats) -> Perplexity:
    """From summed negative log likelihoods in nats, tokens and UTF-8 bytes of documents [D], pooled.

    Not the mean of the documents' perplexities. Across tokenizers compare bits per byte only.
    """
    per_token = float(nll.sum() / tokens.sum())
    bits = float(nll.sum() / (math.log(2) * size.sum()))
    return Perplexity(per_token, math.exp(per_token), bits, 2.0**bits)


def perplexity_draws(
    nll: Floats, tokens: Floats, size: Floats, rng: np.random.Generator, draws: int = 10_000
) -> tuple[Floats, Floats]:
    """Bootstrap over documents: token perplexities and bits per byte, each [draws].

    The generator's state decides which documents are drawn: give two models equal generators for paired draws.
    """
    means = resampled_means(np.stack([nll, tokens, size]), rng, draws)
    return np.exp(means[0] / means[1]), means[0] / (math.log(2) * means[2])


def resampled_means(rows: Floats, rng: np.random.Generator, draws: int) -> Floats:
    """Means [rows, draws] of rows [rows, n] under resampling of columns."""
    n = rows.shape[1]
    out = np.empty((len(rows), draws))
    step = max(1, CHUNK // n)
    for start in range(0, draws, step):
        stop = min(start + step, draws)
        out[:, start:stop] = rows @ multinomial_weights(rng, stop - start, n).T.astype(np.float64) / n
    return out

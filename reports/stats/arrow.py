"""The information of crossed random effects, factored by its shape: an arrow.

A rater's effects (its own, and one for each arm) meet those of no other rater, so their part of the matrix is block
diagonal. It is eliminated first; what is left to factor is as large as the other side, scenarios and what is nested in
them (the Schur complement). The larger side is the one that goes first.
"""

from collections.abc import Sequence

import numpy as np
from scipy.linalg import cho_solve, lapack

from reports.stats.cells import Floats, Ints


class Arrow:
    """Where each row's effects stand in the matrix; `codes` are groupings of the rows, each [N] from 0 without gaps.

    The matrix is I + sum over rows of weight * (sd_g sd_h at the row's groups g and h), over all groups [Q] in the
    order of the groupings.
    """

    def __init__(self, codes: Sequence[Ints]):
        self.sizes = [int(one.max()) + 1 for one in codes]
        owner, inner = max(
            ((owner, _nested(owner, codes)) for owner in codes),
            key=lambda one: sum(self.sizes[g] for g in one[1]),
        )
        self.owner = owner
        self.inner, self.outer = inner, [g for g in range(len(codes)) if g not in inner]
        starts = np.concatenate([[0], np.cumsum(self.sizes)]).astype(np.int64)
        owners = np.concatenate([_owner_of(codes[g], owner, self.sizes[g]) for g in inner])
        order = np.argsort(owners, kind="stable")
        first = np.searchsorted(owners[order], owners[order])
        slot = np.empty(len(owners), dtype=np.int64)
        slot[order] = np.arange(len(owners)) - first
        self.shape = int(owner.max()) + 1, int(slot.max()) + 1, sum(self.sizes[g] for g in self.outer)
        self.place = owners * self.shape[1] + slot
        self.of_inner = np.concatenate([np.arange(starts[g], starts[g + 1]) for g in inner])
        self.of_outer = np.concatenate(
            [np.arange(starts[g], starts[g + 1]) for g in self.outer] or [np.zeros(0, dtype=np.int64)]
        )
        before = np.concatenate([[0], np.cumsum([self.sizes[g] for g in inner])]).astype(np.int64)
        self.slot = {g: slot[codes[g] + at] for g, at in zip(inner, before, strict=False)}
        before = np.concatenate([[0], np.cumsum([self.sizes[g] for g in self.outer])]).astype(np.int64)
        self.column = {g: codes[g] + at for g, at in zip(self.outer, before, strict=False)}

    def factor(self, weight: Floats, sd_G: Floats) -> "Factor | None":
        """The factored matrix for weights [N]; None where it is not positive definite."""
        n, k, s = self.shape
        corner, side, rest = np.zeros(n * k * k), np.zeros(n * k * s), np.zeros(s * s)
        for g in self.inner:
            for h in self.inner:
                at = (self.owner * k + self.slot[g]) * k + self.slot[h]
                corner += sd_G[g] * sd_G[h] * np.bincount(at, weight, minlength=n * k * k)
            for h in self.outer:
                at = (self.owner * k + self.slot[g]) * s + self.column[h]
                side += sd_G[g] * sd_G[h] * np.bincount(at, weight, minlength=n * k * s)
        for g in self.outer:
            for h in self.outer:
                at = self.column[g] * s + self.column[h]
                rest += sd_G[g] * sd_G[h] * np.bincount(at, weight, minlength=s * s)
        corner_nkk = corner.reshape(n, k, k) + np.eye(k)
        try:
            diagonal = np.linalg.cholesky(corner_nkk).diagonal(axis1=1, axis2=2)
        except np.linalg.LinAlgError:
            return None
        inverse = np.asarray(np.linalg.inv(corner_nkk), dtype=np.float64)
        side_nks = side.reshape(n, k, s)
        solved = inverse @ side_nks
        schur = rest.reshape(s, s) + np.eye(s) - side_nks.reshape(n * k, s).T @ solved.reshape(n * k, s)
        lower, failed = lapack.dpotrf(np.asfortranarray(schur), lower=1) if s else (schur, 0)
        if failed:
            return None
        half = float(np.log(diagonal).sum()) + float(np.log(np.diag(lower)).sum())
        return Factor(self, inverse, solved, lower, half)


class Factor:
    """A factored matrix; `half_log_det` is half the logarithm of its determinant."""

    def __init__(self, arrow: Arrow, inverse: Floats, solved: Floats, lower: Floats, half_log_det: float):
        self.arrow, self.inverse, self.solved, self.lower = arrow, inverse, solved, lower
        self.half_log_det = half_log_det

    def solve(self, right: Floats) -> Floats:
        """The solution x [Q] of M x = right [Q]."""
        arrow, (n, k, s) = self.arrow, self.arrow.shape
        inner = np.zeros(n * k)
        inner[arrow.place] = right[arrow.of_inner]
        whole = self.solved.reshape(n * k, s)
        found = np.empty(len(right))
        outer = right[arrow.of_outer] - whole.T @ inner
        outer = cho_solve((self.lower, True), outer) if s else outer
        own = (self.inverse @ inner.reshape(n, k, 1)).ravel() - whole @ outer
        found[arrow.of_inner], found[arrow.of_outer] = own[arrow.place], outer
        return found

    def covariances(self) -> Floats:
        """Entries of the inverse for every row's own effects [N, G, G]."""
        arrow, (n, k, s) = self.arrow, self.arrow.shape
        rest, _ = lapack.dpotri(self.lower, lower=1) if s else (self.lower, 0)
        rest = np.tril(rest)
        rest = rest + np.tril(rest, -1).T
        side = -(self.solved.reshape(n * k, s) @ rest).reshape(n, k, s)
        corner = self.inverse - side @ self.solved.transpose(0, 2, 1)
        n_groupings = len(arrow.sizes)
        found = np.empty((len(arrow.owner), n_groupings, n_groupings))
        for g in arrow.inner:
            for h in arrow.inner:
                found[:, g, h] = corner[arrow.owner, arrow.slot[g], arrow.slot[h]]
            for h in arrow.outer:
                found[:, g, h] = found[:, h, g] = side[arrow.owner, arrow.slot[g], arrow.column[h]]
        for g in arrow.outer:
            for h in arrow.outer:
                found[:, g, h] = rest[arrow.column[g], arrow.column[h]]
        return found


def _nested(owner: Ints, codes: Sequence[Ints]) -> list[int]:
    """The groupings whose every group lies within one group of `owner`, itself included."""
    size = int(owner.max()) + 1
    return [g for g, one in enumerate(codes) if len(np.unique(one * size + owner)) == int(one.max()) + 1]


def _owner_of(code: Ints, owner: Ints, size: int) -> Ints:
    found = np.empty(size, dtype=np.int64)
    found[code] = owner
    return found

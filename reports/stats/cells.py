"""Ratings as integer codes, and the common cells on which a student is compared with its teacher."""

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

Ints = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float64]
Bools = npt.NDArray[np.bool_]


class CannotEstimateError(ValueError):
    """The ratings do not determine the estimate; `code` says why in the words of docs/statistics.md."""

    def __init__(self, code: str, what: str):
        super().__init__(what)
        self.code = code


@dataclass(frozen=True)
class Ratings:
    """Ratings of one measure in long form, one row a (rater, scenario, arm): four arrays of shape [N].

    `rater`, `scenario` and `arm` are integer codes from 0; `value` is 1 to 5, a mean where a cell was rated twice.
    """

    rater: Ints
    scenario: Ints
    arm: Ints
    value: Floats

    def where(self, keep: Bools) -> "Ratings":
        """The rows for which `keep` [N] is true; the codes stay."""
        return Ratings(self.rater[keep], self.scenario[keep], self.arm[keep], self.value[keep])


@dataclass(frozen=True)
class Cells:
    """Common cells of two arms: four arrays of shape [n], rater and scenario as codes (from `common_cells` gapless).

    `student` and `teacher` are the two ratings of a cell.
    """

    rater: Ints
    scenario: Ints
    student: Floats
    teacher: Floats

    @property
    def n(self) -> int:
        return len(self.student)

    @property
    def n_raters(self) -> int:
        return int(self.rater.max()) + 1 if self.n else 0

    @property
    def n_scenarios(self) -> int:
        return int(self.scenario.max()) + 1 if self.n else 0


def dense(codes: Ints) -> Ints:
    """Codes renumbered from 0 without gaps, order kept."""
    if not len(codes):
        return codes
    seen = np.bincount(codes) > 0
    return (np.cumsum(seen) - 1)[codes].astype(np.int64)


def collapse(rater: Ints, scenario: Ints, arm: Ints, value: Floats) -> tuple[Ratings, int]:
    """Drop missing ratings (NaN) and average repeated ones; also says how many rows were repeats.

    All four arrays have shape [N]. The result is sorted by rater, scenario and arm, so the order of rows is forgotten.
    """
    there = ~np.isnan(value)
    rater, scenario, arm, value = rater[there], scenario[there], arm[there], value[there]
    if not len(value):
        return Ratings(rater, scenario, arm, value), 0
    n_scenario, n_arm = int(scenario.max()) + 1, int(arm.max()) + 1
    key = (rater.astype(np.int64) * n_scenario + scenario) * n_arm + arm
    order = np.argsort(key, kind="stable")
    key, value = key[order], value[order]
    first = np.flatnonzero(np.concatenate(([True], key[1:] != key[:-1])))
    count = np.diff(np.append(first, len(key)))
    mean = np.add.reduceat(value, first) / count
    key = key[first]
    rest = key // n_arm
    return Ratings(rest // n_scenario, rest % n_scenario, key % n_arm, mean), int(len(value) - len(mean))


def aligned(ratings: Ratings, student: int, teacher: int) -> Cells:
    """Both arms' ratings of the cells in which both were rated, under the codes of `ratings`; may be empty."""
    width = int(ratings.scenario.max()) + 1 if len(ratings.scenario) else 1
    rows = [ratings.where(ratings.arm == arm) for arm in (student, teacher)]
    keys = [part.rater * width + part.scenario for part in rows]
    shared, at_s, at_t = np.intersect1d(keys[0], keys[1], assume_unique=True, return_indices=True)
    return Cells(shared // width, shared % width, rows[0].value[at_s], rows[1].value[at_t])


def common_cells(ratings: Ratings, student: int, teacher: int) -> Cells:
    """The common cells (rater, scenario) of two arms, codes without gaps. Expects what `collapse` returns.

    Raises CannotEstimateError with the code no_ratings, no_teacher_ratings, no_student_ratings or no_common_cells.
    """
    if not len(ratings.value):
        raise CannotEstimateError("no_ratings", "there is no rating")
    if not np.any(ratings.arm == teacher):
        raise CannotEstimateError("no_teacher_ratings", "nobody rated the teacher")
    if not np.any(ratings.arm == student):
        raise CannotEstimateError("no_student_ratings", "nobody rated the student")
    cells = aligned(ratings, student, teacher)
    if not cells.n:
        raise CannotEstimateError("no_common_cells", "no rater rated both arms on one scenario")
    return Cells(dense(cells.rater), dense(cells.scenario), cells.student, cells.teacher)


def plain(value: Any) -> Any:
    """numpy scalars as Python's own, NaN and infinities as None: what goes into JSON."""
    if isinstance(value, dict):
        return {key: plain(inner) for key, inner in value.items()}
    if isinstance(value, (list, tuple)):
        return [plain(inner) for inner in value]
    if isinstance(value, np.generic):
        value = value.item()
    if isinstance(value, float) and not np.isfinite(value):
        return None
    return value

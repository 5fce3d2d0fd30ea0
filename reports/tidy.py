"""Tidy ratings: one row a rating, labels as integer codes, every value checked.

Columns are plain arrays rather than a data frame: pandas alone takes longer to import than a report takes to make.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from harness.errors import RatingError
from reports.stats.cells import Bools, Floats, Ints, Ratings, collapse

MEASURES = ("satisfaction", "goal_achievement")


class UnusableRatingsError(RatingError):
    """The ratings cannot be analysed as they are; `code` names the reason as docs/statistics.md does."""

    def __init__(self, code: str, what: str, hint: str | None = None):
        super().__init__(what, hint)
        self.code = code


@dataclass(frozen=True)
class Tidy:
    """Ratings of one kind of rater. Codes [N] index the label tuples, which are sorted (the teacher's arm first).

    `values` holds one array [N] for each measure, NaN where it is missing; `category` one label for each scenario;
    `finished` the time of each rater's last rating, '' where times are unknown. `position` (in the rater's order),
    `place` (on its page, from 1) and `seconds` are NaN where unknown. `marks` names rows [N] by what speaks against
    them, such as a chat that fell behind its pace.
    """

    raters: tuple[str, ...]
    scenarios: tuple[str, ...]
    arms: tuple[str, ...]
    category: tuple[str, ...]
    finished: tuple[str, ...]
    rater: Ints
    scenario: Ints
    arm: Ints
    position: Floats
    values: dict[str, Floats] = field(default_factory=dict)
    modes: tuple[str, ...] = ("",)
    mode: Ints = field(default_factory=lambda: np.zeros(0, dtype=np.int64))
    languages: tuple[str, ...] = ("",)
    language: Ints = field(default_factory=lambda: np.zeros(0, dtype=np.int64))
    place: Floats = field(default_factory=lambda: np.zeros(0))
    seconds: Floats = field(default_factory=lambda: np.zeros(0))
    marks: dict[str, Bools] = field(default_factory=dict)
    time: tuple[str, ...] = ()

    @property
    def n(self) -> int:
        """Rows with at least one rating in them."""
        there = [~np.isnan(value) for value in self.values.values()]
        return int(np.any(there, axis=0).sum()) if there else 0

    @property
    def categories(self) -> tuple[str, ...]:
        return tuple(sorted({name for name in self.category if name}))

    def has(self, measure: str) -> bool:
        return measure in self.values and bool((~np.isnan(self.values[measure])).any())

    def measure(self, measure: str, keep: Bools | None = None) -> tuple[Ratings, int]:
        """The ratings of one measure (of the rows `keep` [N]), repeats averaged, and how many rows were repeats."""
        rows = slice(None) if keep is None else keep
        return collapse(self.rater[rows], self.scenario[rows], self.arm[rows], self.values[measure][rows])

    def rows(self, measure: str) -> Ratings:
        """The ratings of one measure as given, missing ones left out."""
        there = ~np.isnan(self.values[measure])
        return Ratings(self.rater, self.scenario, self.arm, self.values[measure]).where(there)

    def in_category(self, name: str) -> Bools:
        """Which scenarios [S] belong to a category."""
        return np.array([category == name for category in self.category], dtype=np.bool_)

    def of_mode(self, mode: str) -> "Tidy":
        """The ratings given in one mode: modes are never analysed together."""
        if self.modes == (mode,):
            return self
        return self.only(self.mode == self.modes.index(mode))

    def only(self, keep: Bools) -> "Tidy":
        """The rows for which `keep` [N] is true; labels that no row has any more are dropped, but every arm stays."""

        def fewer(labels: tuple[str, ...], codes: Ints) -> tuple[tuple[str, ...], Ints, list[int]]:
            used = np.flatnonzero(np.bincount(codes[keep], minlength=len(labels)))
            place = np.zeros(len(labels), dtype=np.int64)
            place[used] = np.arange(len(used))
            return tuple(labels[one] for one in used), place[codes[keep]], used.tolist()

        raters, rater, used_raters = fewer(self.raters, self.rater)
        scenarios, scenario, used_scenarios = fewer(self.scenarios, self.scenario)
        modes, mode, _ = fewer(self.modes, self.mode)
        languages, language, _ = fewer(self.languages, self.language)
        return Tidy(
            raters,
            scenarios,
            self.arms,
            tuple(self.category[one] for one in used_scenarios),
            tuple(self.finished[one] for one in used_raters),
            rater,
            scenario,
            self.arm[keep],
            self.position[keep],
            {name: value[keep] for name, value in self.values.items()},
            modes,
            mode,
            languages,
            language,
            self.place[keep],
            self.seconds[keep],
            {name: mark[keep] for name, mark in self.marks.items()},
            tuple(self.time[one] for one in np.flatnonzero(keep)) if self.time else (),
        )


def make_tidy(
    rater: Sequence[str],
    scenario: Sequence[str],
    arm: Sequence[str],
    values: Mapping[str, Sequence[float | None]],
    *,
    teacher: str,
    category: Sequence[str | None] | None = None,
    position: Sequence[float | None] | None = None,
    time: Sequence[str | None] | None = None,
    mode: Sequence[str | None] | None = None,
    language: Sequence[str | None] | None = None,
    place: Sequence[float | None] | None = None,
    seconds: Sequence[float | None] | None = None,
) -> Tidy:
    """Build tidy ratings from columns of equal length; what is None is unknown throughout.

    Raises UnusableRatingsError (rating_out_of_range), naming rater, scenario, arm and value, for a rating that is not
    a whole number from 1 to 5.
    """
    n = len(rater)
    arrays = {name: _floats(column, n) for name, column in values.items()}
    for name, column in arrays.items():
        wrong = np.flatnonzero(~np.isnan(column) & ~np.isin(column, (1, 2, 3, 4, 5)))
        if len(wrong):
            at = int(wrong[0])
            raise UnusableRatingsError(
                "rating_out_of_range",
                f"{name} of rater {rater[at]}, scenario {scenario[at]}, arm {arm[at]} is {column[at]:g}",
                hint="a rating is a whole number from 1 to 5; mend or remove it"
                + (f" ({len(wrong)} such ratings)" if len(wrong) > 1 else ""),
            )
    raters, rater_codes = _encode(rater)
    scenarios, scenario_codes = _encode(scenario)
    arms, arm_codes = _encode(arm, first=teacher)
    modes, mode_codes = _encode([one or "" for one in mode] if mode is not None else [""] * n)
    languages, language_codes = _encode([one or "" for one in language] if language is not None else [""] * n)
    return Tidy(
        raters,
        scenarios,
        arms,
        _last(category, scenario_codes, len(scenarios)),
        _last(time, rater_codes, len(raters)),
        rater_codes,
        scenario_codes,
        arm_codes,
        _floats(position, n),
        arrays,
        modes or ("",),
        mode_codes,
        languages or ("",),
        language_codes,
        _floats(place, n),
        _floats(seconds, n),
        time=tuple(one or "" for one in time) if time is not None else (),
    )


def _encode(labels: Sequence[str], first: str | None = None) -> tuple[tuple[str, ...], Ints]:
    """Sorted distinct labels, `first` leading even if absent, and the code of every row."""
    distinct = sorted(set(labels) - {first})
    if first is not None:
        distinct.insert(0, first)
    code = {label: index for index, label in enumerate(distinct)}
    return tuple(distinct), np.fromiter(map(code.__getitem__, labels), np.int64, len(labels))


def _last(labels: Sequence[str | None] | None, group: Ints, size: int) -> tuple[str, ...]:
    """The last label of each group in sorting order, '' where there is none: a scenario's category, a latest time."""
    found = [""] * size
    for code, label in set(zip(group.tolist(), labels, strict=True)) if labels is not None else ():
        found[code] = max(found[code], label or "")
    return tuple(found)


def _floats(column: Sequence[float | None] | None, n: int) -> Floats:
    return np.full(n, np.nan) if column is None else np.array(column, dtype=np.float64)  # None becomes NaN

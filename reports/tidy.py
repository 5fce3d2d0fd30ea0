"""Tidy ratings: one row a rating, labels as integer codes, every value checked.

Columns are plain arrays rather than a data frame: pandas alone takes longer to import than a report takes to make.
"""

import csv
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from harness.errors import ConfigError, RatingError
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
    `finished` the time of each rater's last rating, '' where times are unknown; `position` is NaN where unknown.
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

    def measure(self, measure: str) -> tuple[Ratings, int]:
        """The ratings of one measure, repeats averaged, and how many rows were repeats."""
        return collapse(self.rater, self.scenario, self.arm, self.values[measure])

    def rows(self, measure: str) -> Ratings:
        """The ratings of one measure as given, missing ones left out."""
        there = ~np.isnan(self.values[measure])
        return Ratings(self.rater, self.scenario, self.arm, self.values[measure]).where(there)

    def in_category(self, name: str) -> Bools:
        """Which scenarios [S] belong to a category."""
        return np.array([category == name for category in self.category], dtype=np.bool_)


def make_tidy(
    rater: Sequence[str],
    scenario: Sequence[str],
    arm: Sequence[str],
    values: dict[str, Sequence[float | None]],
    *,
    teacher: str,
    category: Sequence[str | None] | None = None,
    position: Sequence[float | None] | None = None,
    time: Sequence[str | None] | None = None,
) -> Tidy:
    """Build tidy ratings from columns of equal length.

    Raises UnusableRatingsError (rating_out_of_range), naming rater, scenario, arm and value, for a rating that is not
    a whole number from 1 to 5.
    """
    arrays = {name: _floats(column) for name, column in values.items()}
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
    places = _floats(position) if position is not None else np.full(len(rater_codes), np.nan)
    return Tidy(
        raters,
        scenarios,
        arms,
        _last(category, scenario_codes, len(scenarios)),
        _last(time, rater_codes, len(raters)),
        rater_codes,
        scenario_codes,
        arm_codes,
        places,
        arrays,
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


def _floats(column: Sequence[float | None]) -> Floats:
    return np.array(column, dtype=np.float64)  # None becomes NaN


def _stripped(column: tuple[str, ...]) -> list[str]:
    """Labels without spaces around them; a label that many rows share is looked at once."""
    short = {label: label.strip() for label in set(column)}
    return [short[label] for label in column]


def read_csv(path: Path, teacher: str) -> Tidy:
    """Read anybody's tidy ratings: columns rater, scenario, arm, satisfaction; optionally the rest.

    Raises ConfigError for a missing file, column or teacher, UnusableRatingsError for ratings that cannot be used.
    """
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            reader = csv.reader(file)
            header = [name.strip() for name in next(reader, [])]
            rows = [row for row in reader if row]
    except FileNotFoundError:
        raise ConfigError(f"no such file: {path}", hint="give a CSV file of ratings") from None
    except (UnicodeDecodeError, csv.Error) as error:
        raise ConfigError(f"{path} is not a CSV file in UTF-8: {error}", hint="save it again as UTF-8 CSV") from None
    missing = [name for name in ("rater", "scenario", "arm", "satisfaction") if name not in header]
    if missing:
        raise ConfigError(
            f"{path} has no column {' or '.join(missing)}; found {', '.join(header) or 'nothing'}",
            hint="needed: rater, scenario, arm, satisfaction; optional: goal_achievement, category, position",
        )
    short = next((line for line, row in enumerate(rows, 2) if len(row) != len(header)), None)
    if short is not None:
        raise ConfigError(f"{path}, line {short}: {len(rows[short - 2])} fields, but the header has {len(header)}")
    if not rows:
        raise UnusableRatingsError("no_ratings", f"{path} holds no rating", hint="add one row for each rating")
    columns = dict(zip(header, map(_stripped, zip(*rows, strict=True)), strict=True))
    for name in ("rater", "scenario", "arm"):
        if "" in columns[name]:
            raise ConfigError(f"{path}, line {columns[name].index('') + 2}: the {name} is empty", hint="name every one")
    if teacher not in columns["arm"]:
        found = ", ".join(sorted(set(columns["arm"])))
        raise UnusableRatingsError(
            "no_teacher_ratings", f"no rating of an arm {teacher!r}; arms are {found}", hint="name one with --teacher"
        )

    def numbers(name: str) -> list[float | None]:
        value: dict[str, float | None] = {"": None}
        for text in set(columns[name]) - {""}:
            try:
                value[text] = float(text)
            except ValueError:
                raise UnusableRatingsError(
                    "rating_out_of_range",
                    f"{path}, line {columns[name].index(text) + 2}: {name} is {text!r}, not a number",
                    hint="a missing rating is an empty field",
                ) from None
        return [value[text] for text in columns[name]]

    return make_tidy(
        columns["rater"],
        columns["scenario"],
        columns["arm"],
        {name: numbers(name) for name in MEASURES if name in columns},
        teacher=teacher,
        category=columns.get("category"),
        position=numbers("position") if "position" in columns else None,
        time=columns.get("created_at"),
    )

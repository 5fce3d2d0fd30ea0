"""Anybody's table of ratings as tidy ratings: a CSV file in, every mistake in it named by its line."""

import csv
import difflib
import itertools
from collections.abc import Sequence
from pathlib import Path

from harness.errors import ConfigError
from reports.tidy import MEASURES, Tidy, UnusableRatingsError, make_tidy

NEEDED = ("rater", "scenario", "arm", "satisfaction")
OPTIONAL = ("goal_achievement", "category", "position", "mode", "language", "place", "seconds", "created_at", "kind")
KINDS = ("person", "judge", "simulated")
BATCH = 20_000  # rows read at once

Columns = dict[str, list[str]]


def read_csv(path: Path, teacher: str) -> Tidy:
    """Read tidy ratings of one kind of rater; see `read_kinds`. Several kinds in one file are an error here."""
    kinds = read_kinds(path, teacher)
    if len(kinds) > 1:
        raise ConfigError(f"{path} holds ratings of several kinds: {', '.join(kinds)}", hint="choose one kind")
    return next(iter(kinds.values()))


def read_kinds(path: Path, teacher: str) -> dict[str, Tidy]:
    """Read tidy ratings: columns rater, scenario, arm, satisfaction, optionally the rest; people's first.

    Rows of different `kind` (person where there is no such column) are never put together. Raises ConfigError for a
    missing file, column or teacher, UnusableRatingsError for ratings that cannot be used.
    """
    columns = _columns(path)
    for name in ("rater", "scenario", "arm"):
        if "" in columns[name]:
            raise ConfigError(f"{path}, line {columns[name].index('') + 2}: the {name} is empty", hint="name every one")
    if teacher not in columns["arm"]:
        _no_teacher(columns["arm"], teacher)
    kinds = [one or "person" for one in columns.get("kind", [""] * len(columns["arm"]))]
    for line, kind in enumerate(kinds, 2):
        if kind not in KINDS:
            raise ConfigError(f"{path}, line {line}: kind is {kind!r}", hint=f"it is one of {', '.join(KINDS)}")
    numbers = {name: _numbers(path, name, columns[name]) for name in (*MEASURES, "position", "place", "seconds")
               if name in columns}  # fmt: skip
    found = {}
    for kind in KINDS:
        keep = [at for at, one in enumerate(kinds) if one == kind]
        if not keep:
            continue
        whole = len(keep) == len(kinds)

        def mine(column: Sequence, keep: list[int] = keep, whole: bool = whole) -> Sequence:
            return column if whole else [column[at] for at in keep]

        found[kind] = make_tidy(
            *(mine(columns[name]) for name in ("rater", "scenario", "arm")),
            {name: mine(numbers[name]) for name in MEASURES if name in numbers},
            teacher=teacher,
            time=mine(columns["created_at"]) if "created_at" in columns else None,
            **{name: mine(numbers[name]) for name in ("position", "place", "seconds") if name in numbers},
            **{name: mine(columns[name]) for name in ("category", "mode", "language") if name in columns},
        )
    return found


def _columns(path: Path) -> Columns:
    """The columns of a file by name, labels without spaces around them.

    Rows are taken in batches, and labels that many rows share are held once: a row costs a few pointers.
    """
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            reader = csv.reader(file)
            header = [name.strip() for name in next(reader, [])]
            _check_header(path, header)
            columns: list[list[str]] = [[] for _ in header]
            known: list[dict[str, str]] = [{} for _ in header]
            rows = filter(None, reader)
            while batch := list(itertools.islice(rows, BATCH)):
                short = next((at for at, row in enumerate(batch) if len(row) != len(header)), None)
                if short is not None:
                    line = len(columns[0]) + short + 2
                    raise ConfigError(
                        f"{path}, line {line}: {len(batch[short])} fields, but the header has {len(header)}"
                    )
                for column, seen, values in zip(columns, known, zip(*batch, strict=True), strict=True):
                    labels = {label: seen.get(label) or label.strip() for label in set(values)}
                    column += map(labels.__getitem__, values)
                    if len(seen) < BATCH:
                        seen |= labels
    except FileNotFoundError:
        raise ConfigError(f"no such file: {path}", hint="give a CSV file of ratings") from None
    except IsADirectoryError:
        raise ConfigError(f"{path} is a folder", hint="give a CSV file of ratings") from None
    except (UnicodeDecodeError, csv.Error) as error:
        raise ConfigError(f"{path} is not a CSV file in UTF-8: {error}", hint="save it again as UTF-8 CSV") from None
    if not columns[0]:
        raise UnusableRatingsError("no_ratings", f"{path} holds no rating", hint="add one row for each rating")
    return dict(zip(header, columns, strict=True))


def _check_header(path: Path, header: Sequence[str]) -> None:
    missing = [name for name in NEEDED if name not in header]
    if missing:
        hint = f"needed: {', '.join(NEEDED)}; optional: {', '.join(OPTIONAL)}"
        if len(header) == 1 and ";" in header[0]:
            hint = "the fields are separated by semicolons; save the file with commas"
        raise ConfigError(
            f"{path} has no column {' or '.join(missing)}; found {', '.join(header) or 'nothing'}", hint=hint
        )
    twice = next((name for name in header if header.count(name) > 1 and name in (*NEEDED, *OPTIONAL)), None)
    if twice:
        raise ConfigError(f"{path} has two columns {twice}", hint="rename one of them")


def _no_teacher(arms: Sequence[str], teacher: str) -> None:
    known = sorted(set(arms))
    near = difflib.get_close_matches(teacher, known, 1)
    raise UnusableRatingsError(
        "no_teacher_ratings",
        f"no rating of an arm {teacher!r}; arms are {', '.join(known)}",
        hint=f"did you mean --teacher {near[0]}?" if near else "name one with --teacher",
    )


def _numbers(path: Path, name: str, column: Sequence[str]) -> list[float | None]:
    value: dict[str, float | None] = {"": None}
    for text in set(column) - {""}:
        try:
            value[text] = float(text)
        except ValueError:
            raise UnusableRatingsError(
                "rating_out_of_range",
                f"{path}, line {column.index(text) + 2}: {name} is {text!r}, not a number",
                hint="a missing rating is an empty field",
            ) from None
    return [value[text] for text in column]

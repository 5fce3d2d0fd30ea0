"""The tables of a study as CSV, JSONL or Parquet, and its chats for other tools.

Arms appear as the codes that raters saw; a code is another arm for each rater. Who knows the arms' names (the harness,
after unblinding) hands them in, and they stand in columns of their own. Texts of chats come out of a closed study only:
the same text under two raters' codes would show that both are one arm.
"""

import csv
import io
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sqlite_utils import Database

from harness.errors import RatingError
from studyapp.export_chats import argilla, label_studio
from studyapp.store_owner import overview_in, people_in, reading

Names = Mapping[str, str]
"""Arm key -> name of the arm."""

_HISTORY = """
SELECT rater.label AS rater, rater.kind, assignment.kind AS item, assignment.scenario, assignment.extra,
    assignment.arm_key, assignment.code, assignment.position, assignment.place, event.revision, event.satisfaction,
    event.goal_achievement, event.comment, event.seconds, event.at
FROM rating_event AS event JOIN assignment ON assignment.id = event.assignment
JOIN rater ON rater.id = assignment.rater
ORDER BY rater.id, assignment.position, assignment.place, event.revision
"""

_RATERS = """
SELECT label AS rater, rater.kind, language, joined_at, consented_at, consent_version, last_seen,
    count(assignment.id) AS items, count(done_at) AS done
FROM rater LEFT JOIN assignment ON assignment.rater = rater.id AND released_at IS NULL
GROUP BY rater.id ORDER BY rater.id
"""

_CHATS = """
SELECT rater.label AS rater, rater.kind, item.kind AS item, item.scenario, category, goal, reached, item.arm_key,
    item.code, item.position, item.place, item.mode, satisfaction, goal_achievement, comment, seconds, updated_at,
    CASE item.mode WHEN 'live' THEN (
        SELECT json_group_array(json_object('role', role, 'content', content)) FROM (
            SELECT role, content FROM turn WHERE turn.assignment = item.id AND (role = 'user' OR finish IS NOT NULL)
            ORDER BY number, role DESC
        )
    ) ELSE answer.messages END AS messages
FROM rating JOIN assignment AS item ON item.id = rating.assignment
JOIN rater ON rater.id = item.rater JOIN scenario ON scenario.id = item.scenario
LEFT JOIN answer ON answer.scenario = item.scenario AND answer.arm_key = item.arm_key
ORDER BY rater.id, item.position, item.place
"""

TABLES = {
    "ratings": "SELECT * FROM tidy_ratings",
    "history": _HISTORY,
    "repeats": "SELECT * FROM tidy_repeats",
    "checks": "SELECT * FROM tidy_checks",
    "preferences": "SELECT * FROM tidy_preferences",
    "guesses": "SELECT * FROM tidy_guesses",
    "live": "SELECT * FROM tidy_live",
    "raters": _RATERS,
    "chats": _CHATS,
}
"""What can be exported, by name."""

FORMATS = {"csv": ".csv", "jsonl": ".jsonl", "parquet": ".parquet", "argilla": ".json", "label-studio": ".json"}
"""The formats, each with the ending of its files; the last two are about chats and are no tables."""

# column with arm keys -> the columns that stand in its place: codes always, names where they are known
_ARMS = {
    "arm_key": ("code", "arm"),
    "arm_keys": ("codes", "arms"),
    "arm_key_a": ("code_a", "arm_a"),
    "arm_key_b": ("code_b", "arm_b"),
    "larger": ("larger", "larger_arm"),
    "preferred": ("preferred_code", "preferred_arm"),
}
_LISTS = ("codes", "arms", "arm_keys", "messages")
_TRUTHS = ("passed", "unpaced", "rated")
_REALS = ("seconds", "late_s")
_WHOLES = (
    *("position", "place", "satisfaction", "goal_achievement", "revision", "again_position", "again_satisfaction"),
    *("again_goal_achievement", "distance", "again_place", "satisfaction_from", "satisfaction_to", "goal_from"),
    *("goal_to", "turns", "underruns", "late_turns", "failures", "cut", "empty", "consent_version", "items", "done"),
)
_FORMULA = ("=", "+", "-", "@", "\t", "\r")


def table(path: Path, name: str, names: Names | None = None) -> tuple[list[str], list[dict[str, Any]]]:
    """Columns and rows of one of TABLES. With `names`, columns with the arms' names stand beside the codes.

    Raises RatingError for an unknown table, or for chats of a study that is not closed.
    """
    if name not in TABLES:
        raise RatingError(f"there is no table {name!r} to export", hint=f"take one of {', '.join(TABLES)}")
    with reading(path) as db:
        if name == "chats" and overview_in(db, path).state != "closed":
            raise RatingError(
                "chats come out of a closed study only: their texts show which codes are the same model",
                hint="close the study first, or export another table",
            )
        cursor = db.conn.execute(TABLES[name])
        found = [column for column, *_ in cursor.description]
        codes = _codes(db)
        columns = list(dict.fromkeys(new for old in found for new in _new_columns(old, found, names)))
        rows = [_row(dict(zip(found, values, strict=True)), codes, names) for values in cursor]
        if name == "raters":
            columns.append("flags")
            for row, person in zip(rows, people_in(db), strict=True):
                row["flags"] = "; ".join(flag.name for flag in person.flags)
    return columns, [{column: row[column] for column in columns} for row in rows]


@dataclass(frozen=True)
class File:
    """The bytes of an exported file, and how many rows or ratings it holds."""

    content: bytes
    rows: int


def render(path: Path, form: str, name: str = "ratings", names: Names | None = None) -> File:
    """A table, or for 'argilla' and 'label-studio' the rated chats, as a file. Raises RatingError as `table` does."""
    if form not in FORMATS:
        raise RatingError(f"unknown format {form!r}", hint=f"use one of {', '.join(FORMATS)}")
    if form in ("argilla", "label-studio"):
        rows = [row for row in table(path, "chats", names)[1] if row["item"] == "rated"]
        with reading(path) as db:
            uid = db.conn.execute("SELECT uid FROM study").fetchone()[0]
        records = argilla(rows, uid) if form == "argilla" else label_studio(rows)
        return File((json.dumps(records, ensure_ascii=False, indent=1) + "\n").encode(), len(rows))
    columns, rows = table(path, name, names)
    if form == "jsonl":
        content = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows).encode()
    else:
        content = _csv(columns, rows) if form == "csv" else _parquet(columns, rows)
    return File(content, len(rows))


def _codes(db: Database) -> dict[str, dict[str, str]]:
    """Each rater's code for each arm key."""
    codes: dict[str, dict[str, str]] = {}
    for rater, key, code in db.conn.execute("SELECT label, arm_key, code FROM code JOIN rater ON rater.id = rater"):
        codes.setdefault(rater, {})[key] = code
    return codes


def _new_columns(old: str, found: Sequence[str], names: Names | None) -> list[str]:
    if old not in _ARMS:
        return [old]
    code, arm = _ARMS[old]
    return [code] * (code == old or code not in found) + [arm] * (names is not None)


def _row(row: dict[str, Any], codes: Mapping[str, Mapping[str, str]], names: Names | None) -> dict[str, Any]:
    """A row without arm keys, its values of the types that they have outside SQLite."""
    for column in _LISTS:
        if isinstance(row.get(column), str):
            row[column] = json.loads(row[column])
    for column in _TRUTHS:
        if row.get(column) is not None:
            row[column] = bool(row[column])
    for old, (code, arm) in _ARMS.items():
        if old not in row:
            continue
        keys = row.pop(old)
        if code not in row:
            row[code] = _each(keys, codes[row["rater"]])
        if names is not None:
            row[arm] = _each(keys, names)
    return row


def _each(keys: Any, values: Mapping[str, str]) -> Any:
    if isinstance(keys, list):
        return [values.get(key) for key in keys]
    return None if keys is None else values.get(keys)


def _csv(columns: Sequence[str], rows: Sequence[Mapping[str, Any]]) -> bytes:
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(columns)
    writer.writerows([_cell(row[column]) for column in columns] for row in rows)
    return out.getvalue().encode()


def _cell(value: Any) -> Any:
    if isinstance(value, list):
        return json.dumps(value, ensure_ascii=False)
    # a spreadsheet would run what a stranger wrote as a formula
    return f"'{value}" if isinstance(value, str) and value.startswith(_FORMULA) else value


def _parquet(columns: Sequence[str], rows: Sequence[Mapping[str, Any]]) -> bytes:
    import pyarrow as pa
    import pyarrow.parquet as pq

    text = pa.string()
    types = {name: pa.int64() for name in _WHOLES} | {name: pa.float64() for name in _REALS}
    types |= {name: pa.bool_() for name in _TRUTHS} | {name: pa.list_(text) for name in ("codes", "arms")}
    types["messages"] = pa.list_(pa.struct([("role", text), ("content", text)]))
    schema = pa.schema([(column, types.get(column, text)) for column in columns])
    out = io.BytesIO()
    pq.write_table(pa.Table.from_pylist(list(rows), schema), out)
    return out.getvalue()

"""What the model server, and who starts it, read in study.db. Neither writes there."""

import json
import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

BUDGET = 1.2
"""Seconds within which an arm that failed is asked once more, while the study has no pace yet."""


def look_up(db: Path, assignment: int) -> tuple[str, float]:
    """The arm key behind a live assignment, and the delay of the study's pace in seconds.

    Raises LookupError for an assignment that is not there, not live, or was taken from its rater.
    """
    with _reading(db) as connection:
        row = connection.execute(
            "SELECT arm_key, (SELECT pace FROM study) FROM assignment"
            " WHERE id = ? AND mode = 'live' AND arm_key IS NOT NULL AND released_at IS NULL",
            [assignment],
        ).fetchone()
    if row is None:
        raise LookupError(f"no live assignment {assignment}")
    return str(row[0]), float(json.loads(row[1])["delay"]) if row[1] else BUDGET


def known_pace(db: Path) -> dict[str, Any] | None:
    """The pace of live chats with what it was made from, None while it has not been chosen."""
    with _reading(db) as connection:
        row = connection.execute("SELECT pace FROM study").fetchone()
    return json.loads(row[0]) if row and row[0] else None


@contextmanager
def _reading(db: Path) -> Iterator[sqlite3.Connection]:
    connection = sqlite3.connect(f"{db.absolute().as_uri()}?mode=ro", uri=True, timeout=10.0)
    try:
        yield connection
    finally:
        connection.close()

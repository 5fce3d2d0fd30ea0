"""What the running study reads and writes: raters, their items, their ratings. All its SQL is here.

Every call opens its own connection (see db.py), so any thread may call. A function that returns after a write returns
after the commit. Setting a study up is in store_setup.py.
"""

import hashlib
import json
import secrets
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from itertools import groupby
from pathlib import Path
from typing import Any, Literal

from sqlite_utils import Database

from harness.errors import RatingError
from harness.records import Message
from studyapp import design
from studyapp.db import connect, prepare, write
from studyapp.schema import MAX_COMMENT
from studyapp.store_setup import create

__all__ = ["Counts", "Item", "Rater", "Study", "counts", "create", "prepare", "study"]

Kind = Literal["person", "judge", "simulated"]


@dataclass(frozen=True)
class Study:
    """What the page needs to know of the study as a whole."""

    uid: str
    consent: str
    consent_version: int
    state: str
    items: int
    """How many items a new rater gets."""


@dataclass(frozen=True)
class Rater:
    """A rater as the page knows one: the row's id and the pseudonym."""

    id: int
    label: str


@dataclass(frozen=True)
class Item:
    """One assignment with all that is shown of it, and its rating if there is one (revision 0: none yet)."""

    position: int
    code: str
    goal: str
    reached: str
    messages: tuple[Message, ...]
    revision: int
    satisfaction: int | None
    goal_achievement: int | None
    comment: str


@dataclass(frozen=True)
class Counts:
    """How far a study is. `assignments` has them by state: waiting, shown (but not rated), done.

    A cell is one scenario with one arm; it is full when it has `ratings_per_cell` ratings by people.
    """

    raters: int
    ratings: int
    assignments: dict[str, int]
    cells: int
    full_cells: int
    ratings_per_cell: int
    state: str


def study(path: Path) -> Study:
    """The study as a whole. Raises RatingError where the database holds none."""
    with connect(path) as db:
        row = _one(
            db,
            "SELECT uid, consent, consent_version, state, min(scenarios_per_rater, (SELECT count(*) FROM scenario))"
            " * (SELECT count(*) FROM arm) AS items FROM study",
        )
    if row is None:
        raise RatingError(f"{path} holds no study", hint="prepare the answers first, with viva answer")
    return Study(**row)


def counts(path: Path) -> Counts:
    """How many raters and ratings there are, and how many cells are full.

    Raises RatingError where there is no study.
    """
    with connect(path) as db:
        row = _one(
            db,
            """
            WITH cell AS (
                SELECT count(rating.assignment) AS n FROM scenario CROSS JOIN arm
                LEFT JOIN assignment ON assignment.scenario = scenario.id AND assignment.arm_key = arm.key
                    AND assignment.rater IN (SELECT id FROM rater WHERE kind = 'person')
                LEFT JOIN rating ON rating.assignment = assignment.id
                GROUP BY scenario.id, arm.key
            )
            SELECT state, ratings_per_cell,
                (SELECT count(*) FROM rater) AS raters, (SELECT count(*) FROM rating) AS ratings,
                (SELECT count(*) FROM assignment WHERE shown_at IS NULL AND done_at IS NULL) AS waiting,
                (SELECT count(*) FROM assignment WHERE shown_at IS NOT NULL AND done_at IS NULL) AS shown,
                (SELECT count(*) FROM assignment WHERE done_at IS NOT NULL) AS done,
                (SELECT count(*) FROM cell) AS cells,
                (SELECT count(*) FROM cell WHERE n >= ratings_per_cell) AS full_cells
            FROM study
            """,
        )
    if row is None:
        raise RatingError(f"{path} holds no study", hint="prepare the answers first, with viva answer")
    states = {state: row.pop(state) for state in ("waiting", "shown", "done")}
    return Counts(assignments=states, **row)


def add_rater(path: Path, kind: Kind = "person") -> str:
    """Enter a rater who has just consented, deal them their items, and return their token.

    Only the token's sha256 is stored. Raises RatingError unless the study is open.
    """
    token = secrets.token_urlsafe(32)
    at = _now()
    with write(path) as db:
        facts = _one(db, "SELECT * FROM study")
        if facts is None or facts["state"] != "open":
            raise RatingError("this study takes no raters now", hint="ask whoever sent you here")
        number = db.conn.execute("SELECT count(*) FROM rater").fetchone()[0]
        consented = (at, facts["consent_version"]) if kind == "person" else (None, None)
        rater = db.conn.execute(
            "INSERT INTO rater (label, kind, token_hash, joined_at, consented_at, consent_version, last_seen)"
            " VALUES (?, ?, ?, ?, ?, ?, ?)",
            (f"R{number + 1:02d}", kind, _hash(token), at, *consented, at),
        ).lastrowid
        arms = [row["key"] for row in db.query("SELECT key FROM arm ORDER BY key")]
        codes = design.codes(arms, number, seed=facts["seed"])
        db.conn.executemany(
            "INSERT INTO code (rater, arm_key, code) VALUES (?, ?, ?)", [(rater, arm, codes[arm]) for arm in arms]
        )
        items = design.session(
            [row["id"] for row in db.query("SELECT id FROM scenario ORDER BY ord")],
            arms,
            _sessions(db),
            per_rater=facts["scenarios_per_rater"],
            seed=facts["seed"],
        )
        db.conn.executemany(
            "INSERT INTO assignment (rater, scenario, arm_key, code, position) VALUES (?, ?, ?, ?, ?)",
            [(rater, item.scenario, item.arm, codes[item.arm], at) for at, item in enumerate(items, 1)],
        )
    return token


def rater_by_token(path: Path, token: str) -> Rater | None:
    """The rater whom a cookie belongs to, None for a stranger."""
    with connect(path) as db:
        row = _one(db, "SELECT id, label FROM rater WHERE token_hash = ?", [_hash(token)])
    return Rater(**row) if row else None


def rater_by_label(path: Path, label: str) -> Rater | None:
    """The rater with this pseudonym."""
    with connect(path) as db:
        row = _one(db, "SELECT id, label FROM rater WHERE label = ?", [label])
    return Rater(**row) if row else None


def progress(path: Path, rater: int) -> tuple[int, int, int]:
    """Of a rater's items: how many are rated, how many there are, and the first unrated position (one past the end
    when all are rated)."""
    with connect(path) as db:
        return _progress(db, rater)


def show(path: Path, rater: int, position: int) -> Item:
    """The item at a position of a rater's own, noting that it is shown now.

    Raises RatingError for a position the rater does not have or has not come to yet.
    """
    at = _now()
    with write(path, durable=False) as db:
        assignment = _assignment(db, rater, position)
        db.conn.execute(
            "UPDATE assignment SET shown_at = :at, opened_at = coalesce(opened_at, :at) WHERE id = :id",
            {"at": at, "id": assignment["id"]},
        )
        db.conn.execute("UPDATE rater SET last_seen = ? WHERE id = ?", (at, rater))
        row = _one(
            db,
            """
            SELECT position, code, goal, reached, messages, coalesce(revision, 0) AS revision,
                satisfaction, goal_achievement, coalesce(comment, '') AS comment
            FROM assignment
            JOIN scenario ON scenario.id = assignment.scenario
            JOIN answer ON answer.scenario = assignment.scenario AND answer.arm_key = assignment.arm_key
            LEFT JOIN rating ON rating.assignment = assignment.id
            WHERE assignment.id = ?
            """,
            [assignment["id"]],
        )
    assert row is not None  # the study has an answer for each cell: store_setup checks it
    row["messages"] = tuple(Message(**message) for message in json.loads(row["messages"]))
    return Item(**row)


def rate(
    path: Path,
    rater: int,
    position: int,
    satisfaction: int,
    goal_achievement: int,
    comment: str = "",
    revision: int = 0,
) -> int:
    """Store a rating and return its revision; once this returns, the rating is on the disk.

    `revision` is the one the rater was looking at (0: not rated yet). The same values again change nothing, so that a
    double click is one rating; other values are a new revision, and the old one stays in `rating_event`.

    Raises RatingError for a value outside 1..5, a comment that is too long, a position that is not the rater's to rate
    now, and for a change to a rating that has meanwhile been changed elsewhere.
    """
    for what, value in (("satisfaction", satisfaction), ("goal achievement", goal_achievement)):
        if type(value) is not int or not 1 <= value <= 5:
            raise RatingError(f"{what} is {value!r}", hint="give a whole number from 1 to 5")
    comment = comment.strip()
    if len(comment) > MAX_COMMENT:
        raise RatingError(f"the comment has {len(comment)} characters", hint=f"keep it within {MAX_COMMENT}")

    at = _now()
    with write(path) as db:
        facts = _one(db, "SELECT state FROM study")
        if facts is None or facts["state"] != "open":
            raise RatingError("this study takes no ratings now", hint="what you have saved is kept")
        assignment = _assignment(db, rater, position)
        old = _one(db, "SELECT * FROM rating WHERE assignment = ?", [assignment["id"]])
        values = {"satisfaction": satisfaction, "goal_achievement": goal_achievement, "comment": comment}
        if old is not None and all(old[key] == value for key, value in values.items()):
            return int(old["revision"])
        if (old["revision"] if old else 0) != revision:
            raise RatingError(
                f"item {position} has been rated in another window meanwhile", hint="reload the page to see that rating"
            )
        # an item rated without having been shown (a program's rating) took no time that we know of
        row = {**values, "assignment": assignment["id"], "revision": revision + 1, "at": at}
        row["seconds"] = _seconds(assignment["shown_at"] or at, at)
        db.conn.execute(
            "INSERT INTO rating (assignment, satisfaction, goal_achievement, comment, seconds, revision, created_at,"
            " updated_at)"
            " VALUES (:assignment, :satisfaction, :goal_achievement, :comment, :seconds, :revision, :at, :at)"
            " ON CONFLICT (assignment) DO UPDATE SET satisfaction = excluded.satisfaction,"
            " goal_achievement = excluded.goal_achievement, comment = excluded.comment, seconds = excluded.seconds,"
            " revision = excluded.revision, updated_at = excluded.updated_at",
            row,
        )
        db.conn.execute(
            "INSERT INTO rating_event (assignment, revision, satisfaction, goal_achievement, comment, seconds, at)"
            " VALUES (:assignment, :revision, :satisfaction, :goal_achievement, :comment, :seconds, :at)",
            row,
        )
        db.conn.execute("UPDATE assignment SET done_at = coalesce(done_at, ?) WHERE id = ?", (at, assignment["id"]))
        db.conn.execute("UPDATE rater SET last_seen = ? WHERE id = ?", (at, rater))
    return revision + 1


def alive(path: Path) -> bool:
    """Whether the database answers."""
    with connect(path) as db:
        return bool(db.conn.execute("SELECT 1 FROM study").fetchone())


def _assignment(db: Database, rater: int, position: int) -> dict[str, Any]:
    row = _one(db, "SELECT id, shown_at FROM assignment WHERE rater = ? AND position = ?", [rater, position])
    if row is None or position > _progress(db, rater)[2]:
        raise RatingError(f"item {position} is not yours to rate now", hint="reload the page")
    return row


def _progress(db: Database, rater: int) -> tuple[int, int, int]:
    done, total, first = db.conn.execute(
        "SELECT count(done_at), count(*), coalesce(min(CASE WHEN done_at IS NULL THEN position END), count(*) + 1)"
        " FROM assignment WHERE rater = ?",
        [rater],
    ).fetchone()
    return done, total, first


def _sessions(db: Database) -> Sequence[Sequence[design.Item]]:
    """The items of every earlier rater, in their order."""
    rows = db.query("SELECT rater, scenario, arm_key FROM assignment ORDER BY rater, position")
    grouped = groupby(rows, key=lambda row: row["rater"])
    return [[design.Item(row["scenario"], row["arm_key"]) for row in group] for _, group in grouped]


def _one(db: Database, sql: str, values: Sequence[Any] = ()) -> dict[str, Any] | None:
    return next(iter(list(db.query(sql, values))), None)


def _hash(token: str) -> str:
    return hashlib.sha256(token.encode()).hexdigest()


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="milliseconds")


def _seconds(start: str, end: str) -> float:
    return max(0.0, (datetime.fromisoformat(end) - datetime.fromisoformat(start)).total_seconds())

"""Connections to study.db: a fresh one for each call, foreign keys on, every commit on the disk."""

import contextlib
import sqlite3
import threading
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from sqlite_utils import Database

from harness.errors import RatingError
from studyapp.schema import migrate

BUSY_SECONDS = 10.0

# SQLite's busy handler sleeps and tries again, it does not queue: with many writers some wait ten times as long as
# the others. One lock in front of it serves them in turn.
_one_writer = threading.Lock()


@contextlib.contextmanager
def connect(path: Path) -> Iterator[Database]:
    """Open a study's database, which has to exist, for the length of a `with` block.

    Raises RatingError where there is no database. The connection belongs to the thread that opened it.
    """
    if not Path(path).is_file():
        raise RatingError(f"no study database at {path}", hint="prepare the answers first, with viva answer")
    db = _open(path)
    try:
        yield db
    finally:
        db.conn.close()


@contextlib.contextmanager
def write(path: Path, *, durable: bool = True) -> Iterator[Database]:
    """One write transaction: committed when the block ends, undone when it raises.

    A durable one is on the disk then, and survives a power cut. Another one survives the death of the process only, and
    does not wait for the disk.

    It begins IMMEDIATE. A plain BEGIN that reads first and writes later fails at once with "database is locked" when
    another connection wrote in between, and no timeout helps.
    """
    with _one_writer, connect(path) as db:
        if not durable:
            db.conn.execute("PRAGMA synchronous = NORMAL")
        db.conn.execute("BEGIN IMMEDIATE")
        try:
            yield db
        except BaseException:
            db.conn.execute("ROLLBACK")
            raise
        db.conn.execute("COMMIT")


def prepare(path: Path) -> None:
    """Make the database if there is none, and bring it to the newest schema."""
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    db = _open(path)
    try:
        db.enable_wal()
        migrate(db)
    finally:
        db.conn.close()


def one(db: Database, sql: str, values: Sequence[Any] | dict[str, Any] = ()) -> dict[str, Any] | None:
    """The first row of a query, None if there is none."""
    return next(iter(list(db.query(sql, values))), None)


def moment(minutes: float = 0.0) -> str:
    """The present moment, or one so many minutes later: UTC, ISO 8601 with milliseconds, so that text order is time."""
    return (datetime.now(UTC) + timedelta(minutes=minutes)).isoformat(timespec="milliseconds")


def _open(path: Path) -> Database:
    # isolation_level None: the sqlite3 module begins no transaction of its own, so `write` is the only one that does.
    conn = sqlite3.connect(path, timeout=BUSY_SECONDS, isolation_level=None)
    conn.execute("PRAGMA foreign_keys = ON")
    conn.execute("PRAGMA synchronous = FULL")  # a rating that the page has confirmed survives a power cut
    conn.execute("PRAGMA secure_delete = ON")  # what a rater withdraws is overwritten, not only unlinked
    return Database(conn)

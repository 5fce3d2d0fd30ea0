"""Connections to study.db: one for each call, foreign keys on, every commit on the disk.

To open one takes longer than to store a rating. So a process that serves keeps those that it has opened (`kept_open`):
a call takes one that nobody uses, and gives it back.
"""

import contextlib
import os
import sqlite3
import stat
import threading
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from sqlite_utils import Database

from harness.errors import RatingError
from studyapp.schema import migrate

BUSY_SECONDS = 10.0
FULL = "PRAGMA synchronous = FULL"  # a rating that the page has confirmed survives a power cut

# SQLite's busy handler sleeps and tries again, it does not queue: with many writers some wait ten times as long as
# the others. One lock in front of it serves them in turn.
_one_writer = threading.Lock()

_kept: "dict[str, _Kept]" = {}


@contextlib.contextmanager
def connect(path: Path) -> Iterator[Database]:
    """A connection to a study's database, which has to exist, for the length of a `with` block.

    Raises RatingError where there is no database. Only the thread that runs the block may use the connection.
    """
    try:
        file = os.stat(path)
        there = stat.S_ISREG(file.st_mode)
    except OSError:
        there = False
    if not there:
        raise RatingError(f"no study database at {path}", hint="prepare the answers first, with viva answer")
    kept, which = _kept.get(os.fspath(path)), (file.st_dev, file.st_ino)
    db = (kept and kept.take(which)) or _open(path)
    try:
        yield db
    except BaseException:
        db.conn.close()  # whatever state it is in
        raise
    if kept is None or not kept.put(db, which):
        db.conn.close()


@contextlib.contextmanager
def kept_open(path: Path) -> Iterator[None]:
    """While the `with` block runs, calls in this process keep their connections to this database for one another.

    Afterwards none is left open. A file that was put in the place of the database is noticed as without this.
    """
    kept = _kept[os.fspath(path)] = _Kept()
    try:
        yield
    finally:
        del _kept[os.fspath(path)]
        kept.end()


@contextlib.contextmanager
def write(path: Path, *, durable: bool = True) -> Iterator[Database]:
    """One write transaction: committed when the block ends, undone when it raises.

    A durable one is on the disk then, and survives a power cut. Another one survives the death of the process only, and
    does not wait for the disk.

    It begins IMMEDIATE. A plain BEGIN that reads first and writes later fails at once with "database is locked" when
    another connection wrote in between, and no timeout helps.
    """
    with _one_writer, connect(path) as db:
        db.conn.execute(FULL if durable else "PRAGMA synchronous = NORMAL")  # a kept one is as its last call left it
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


class _Kept:
    """Open connections to one database that no call uses just now, each with the file (device, inode) it leads to."""

    def __init__(self) -> None:
        self.idle: list[tuple[Database, tuple[int, int]]] = []
        self.ended = False
        self.lock = threading.Lock()

    def take(self, file: tuple[int, int]) -> Database | None:
        """One to this file, to use alone; None if a fresh one has to be opened."""
        with self.lock:
            while self.idle:
                db, leads_to = self.idle.pop()
                if leads_to == file:
                    return db
                db.conn.close()  # another file has taken the name
        return None

    def put(self, db: Database, file: tuple[int, int]) -> bool:
        """Keep one for the next call; False if none will come."""
        with self.lock:
            if not self.ended:
                self.idle.append((db, file))
            return not self.ended

    def end(self) -> None:
        """Close all. One that is in use now is closed by its call."""
        with self.lock:
            self.ended = True
            for db, _ in self.idle:
                db.conn.close()


def _open(path: Path) -> Database:
    # isolation_level None: the sqlite3 module begins no transaction of its own, so `write` is the only one that does.
    # A kept connection goes from thread to thread, but is never in two at once.
    conn = sqlite3.connect(path, timeout=BUSY_SECONDS, isolation_level=None, check_same_thread=False)
    conn.execute("PRAGMA foreign_keys = ON")
    conn.execute(FULL)
    conn.execute("PRAGMA secure_delete = ON")  # what a rater withdraws is overwritten, not only unlinked
    return Database(conn)

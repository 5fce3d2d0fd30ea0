"""Connections to study.db: kept while a process serves, used by one call at a time, none left at the end."""

import os
import shutil
import sqlite3
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from raters import newcomer, rate_all, rows
from small_study import make

from harness.errors import RatingError
from studyapp.db import connect, kept_open, write

FULL, NORMAL = 2, 1


@pytest.fixture
def db(tmp_path: Path) -> Path:
    make(tmp_path / "study.db")
    return tmp_path / "study.db"


def is_open(connection: sqlite3.Connection) -> bool:
    try:
        connection.execute("SELECT 1")
    except sqlite3.ProgrammingError:
        return False
    return True


def one_call(path: Path) -> sqlite3.Connection:
    with connect(path) as database:
        return database.conn


def test_without_a_server_each_call_closes_its_connection(db):
    first, second = one_call(db), one_call(db)
    assert first is not second
    assert [is_open(first), is_open(second)] == [False, False]


def test_while_serving_one_call_takes_what_another_gave_back_in_whatever_thread(db):
    with kept_open(db):
        first = one_call(db)
        with ThreadPoolExecutor(1) as pool:
            assert pool.submit(one_call, db).result() is first
        assert is_open(first)


def test_no_connection_is_in_two_calls_at_once(db):
    with kept_open(db), connect(db) as outer, connect(db) as inner:
        assert inner.conn is not outer.conn


def test_none_is_left_open_after_serving(db):
    with kept_open(db):
        with connect(db) as one, connect(db) as two:
            pass
        assert [is_open(one.conn), is_open(two.conn)] == [True, True]
    assert [is_open(one.conn), is_open(two.conn)] == [False, False]
    assert one_call(db) not in (one.conn, two.conn)


def test_a_call_that_outlasts_the_server_ends_well_and_closes_its_own(db):
    serving = kept_open(db)
    serving.__enter__()
    with connect(db) as late:
        serving.__exit__(None, None, None)
        assert late.conn.execute("SELECT count(*) FROM scenario").fetchone() == (4,)
    assert not is_open(late.conn)


def test_the_connection_of_a_call_that_failed_is_not_used_again(db):
    with kept_open(db):
        with pytest.raises(sqlite3.IntegrityError), write(db) as failed:  # noqa: PT012
            failed.conn.execute("UPDATE study SET name = 'half', side = 4")
            failed.conn.execute("UPDATE study SET side = 9")
        assert not is_open(failed.conn)
        assert rows(db, "SELECT name FROM study") == [("small",)]


def test_a_study_in_the_place_of_the_old_one_is_noticed(db, tmp_path):
    shutil.copy(db, tmp_path / "other.db")
    with sqlite3.connect(tmp_path / "other.db") as other:
        other.execute("UPDATE study SET name = 'another'")
    other.close()
    with kept_open(db):
        old = one_call(db)
        with connect(db) as held:
            os.replace(tmp_path / "other.db", db)
        with connect(db) as new:
            assert new.conn.execute("SELECT name FROM study").fetchone() == ("another",)
            assert new.conn not in (old, held.conn)
        db.unlink()
        with pytest.raises(RatingError, match="no study database"), connect(db):
            pass


def test_a_kept_connection_forgets_that_the_last_call_did_not_wait_for_the_disk(db):
    def how(**said: bool) -> int:
        with write(db, **said) as database:
            return int(database.conn.execute("PRAGMA synchronous").fetchone()[0])

    with kept_open(db):
        assert [how(), how(durable=False), how(), how(durable=False)] == [FULL, NORMAL, FULL, NORMAL]


def test_foreign_keys_hold_and_deleted_values_are_overwritten_on_kept_connections(db):
    with kept_open(db):
        one_call(db)
        with connect(db) as kept:
            found = [kept.conn.execute(f"PRAGMA {name}").fetchone()[0] for name in ("foreign_keys", "secure_delete")]
    assert found == [1, 1]


def test_raters_at_once_over_kept_connections_lose_nothing_and_hold_no_old_state(db):
    with kept_open(db):
        raters = [newcomer(db) for _ in range(8)]
        with ThreadPoolExecutor(8) as pool:
            ends = list(pool.map(lambda rater: rate_all(db, rater), raters))
        assert {end.state for end in ends} == {"end"}
        total = sum(end.total for end in ends)
        for table in ("rating", "rating_event"):
            assert rows(db, f"SELECT count(*) FROM {table}") == [(total,)]
        # one that still read would keep the log from being emptied
        assert rows(db, "PRAGMA wal_checkpoint(TRUNCATE)") == [(0, 0, 0)]

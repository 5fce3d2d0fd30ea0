"""What the database itself refuses, whoever writes to it."""

import sqlite3

import pytest
from raters import rate_all
from small_study import make

from studyapp import db, schema, session
from studyapp.records import Marks


@pytest.fixture
def study(path):
    rater = session.who(path, session.join(path))
    session.rate(path, rater, 1, [Marks(4, 5)], version=0)
    return path


RATING = "INSERT INTO rating VALUES (2, {satisfaction}, {goal}, '', {seconds}, 1, 'now', 'now')"
ASSIGNMENT = (
    "INSERT INTO assignment (rater, kind, mode, scenario, arm_key, extra, code, position, place, released_at,"
    " released_why, done_at) VALUES (1, {kind}, 'fixed', {scenario}, {arm}, {extra}, {code}, {position}, {place},"
    " {at}, {why}, {done})"
)


def assignment(**changes):
    values = {"kind": "'check'", "scenario": "NULL", "arm": "NULL", "extra": "'check-c'", "code": "'D'", "position": 99}
    return ASSIGNMENT.format(**{**values, "place": 1, "at": "NULL", "why": "NULL", "done": "NULL", **changes})


@pytest.mark.parametrize(
    "sql",
    [
        RATING.format(satisfaction=0, goal=3, seconds=1),
        RATING.format(satisfaction=6, goal=3, seconds=1),
        RATING.format(satisfaction=3, goal=77, seconds=1),
        RATING.format(satisfaction=2.5, goal=3, seconds=1),
        RATING.format(satisfaction="'good'", goal=3, seconds=1),
        RATING.format(satisfaction="NULL", goal=3, seconds=1),
        RATING.format(satisfaction=3, goal=3, seconds=-1),
        "INSERT INTO rating VALUES (1, 3, 3, '', 1, 1, 'now', 'now')",  # rated already
        "INSERT INTO rating VALUES (999, 3, 3, '', 1, 1, 'now', 'now')",  # no such assignment
        f"UPDATE rating SET comment = '{'x' * (schema.MAX_COMMENT + 1)}'",
        "DELETE FROM rating_event",
        "UPDATE rating_event SET satisfaction = 1",
        "DELETE FROM assignment WHERE id = 1",
        "UPDATE assignment SET code = 'Z' WHERE id = 2",
        "UPDATE assignment SET position = 1 WHERE id = 2",
        "UPDATE assignment SET released_at = 'now', released_why = 'lease' WHERE id = 1",  # it is rated
        "UPDATE assignment SET released_at = 'now' WHERE id = 2",  # for no reason
        "UPDATE assignment SET kind = 'check' WHERE id = 2",  # a check of an arm
        assignment(scenario="'s1'"),
        assignment(arm="'k-one'", code="(SELECT code FROM code WHERE rater = 1 AND arm_key = 'k-one')"),
        assignment(kind="'rated'"),
        assignment(extra="'check-none'"),
        assignment(position=1),
        assignment(place=0),
        "INSERT INTO answer (scenario, arm_key, messages) VALUES ('s1', 'k-one', '[]')",  # a second answer
        "INSERT INTO answer (scenario, arm_key, messages) VALUES ('nowhere', 'k-one', '[]')",
        "UPDATE answer SET messages = 'no json'",
        "UPDATE rater SET consented_at = NULL",
        "INSERT INTO rater SELECT 9, 'R09', kind, slot, language, joined_at, consented_at, consent_version, last_seen,"
        " questions_at FROM rater",  # a slot taken twice
        "INSERT INTO token (hash, rater, purpose, at) VALUES ('h', 1, 'password', 'now')",
        "INSERT INTO token (hash, rater, purpose, at) VALUES ('h', 99, 'cookie', 'now')",
        "INSERT INTO preference VALUES (99, 1, 1, 'A', 'now')",
        "INSERT INTO guess VALUES (1, 'B', 'A', 'A', 'now')",  # not in order
        "INSERT INTO guess VALUES (1, 'A', 'B', 'C', 'now')",  # none of the two
        "INSERT INTO turn (assignment, number, role, content, at) VALUES (2, 1, 'user', 'hello', 'now')",  # no chat
        "INSERT INTO problem (rater, text, at) VALUES (1, '', 'now')",
        "UPDATE study SET mode = 'dead'",
        "UPDATE study SET crossing = 'over'",
        "UPDATE study SET side = 5",
        "UPDATE study SET pace = 'fast'",
        "UPDATE scenario SET mode = NULL",
        "UPDATE extra SET satisfaction_from = 4, satisfaction_to = 3",
    ],
)
def test_the_database_refuses(study, sql):
    with db.write(study) as database:
        database.conn.execute(
            "INSERT INTO extra VALUES ('check-c', 'check', 0, 'g', 'o', 'r', '[]', 1, 2, 1, 2, '')",
        )
        with pytest.raises(sqlite3.IntegrityError):
            database.conn.execute(sql)


def test_there_is_one_study(study):
    with db.write(study) as database:
        columns = [row[1] for row in database.conn.execute("PRAGMA table_info(study)")][1:]
        with pytest.raises(sqlite3.IntegrityError):
            database.conn.execute(f"INSERT INTO study SELECT 2, {', '.join(columns)} FROM study")


@pytest.mark.parametrize("table", ["rating_event", "preference", "log"])
def test_history_only_grows(tmp_path, table):
    path = tmp_path / "study.db"
    make(path, mode="side-by-side")
    rate_all(path)
    with db.write(path) as database:
        database.conn.execute("INSERT INTO log (at, actor, action) VALUES ('now', 'owner', 'pause')")
    with db.write(path) as database:
        assert database.conn.execute(f"SELECT count(*) FROM {table}").fetchone()[0] > 0
        for sql in (f"DELETE FROM {table}", f"UPDATE {table} SET at = 'then'"):
            with pytest.raises(sqlite3.IntegrityError, match="only grows"):
                database.conn.execute(sql)


def test_connections_keep_ratings_safe(study):
    with db.connect(study) as database:
        assert database.conn.execute("PRAGMA foreign_keys").fetchone() == (1,)
        assert database.conn.execute("PRAGMA synchronous").fetchone() == (2,)
        assert database.conn.execute("PRAGMA journal_mode").fetchone() == ("wal",)
        assert database.conn.execute("PRAGMA secure_delete").fetchone() == (1,)


def test_migrations_are_applied_once(study):
    db.prepare(study)
    with db.connect(study) as database:
        assert schema.migrations.pending(database) == []


def test_a_failed_write_leaves_nothing(study):
    def fail_half_way():
        with db.write(study) as database:
            database.conn.execute("UPDATE study SET name = 'other'")
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fail_half_way()
    with db.connect(study) as database:
        assert database.conn.execute("SELECT name FROM study").fetchone() == ("small",)


def test_the_report_reads_tidy_ratings_with_plain_sqlite3(study):
    connection = sqlite3.connect(study)
    connection.row_factory = sqlite3.Row
    rows = [dict(row) for row in connection.execute("SELECT * FROM tidy_ratings")]
    connection.close()
    assert len(rows) == 1
    assert list(rows[0]) == [
        *("rater", "kind", "scenario", "category", "arm_key", "code", "position", "satisfaction", "goal_achievement"),
        *("comment", "seconds", "revision", "created_at", "updated_at", "mode", "item", "place"),
    ]
    row = rows[0]
    assert (row["rater"], row["kind"], row["position"], row["satisfaction"], row["goal_achievement"]) == (
        *("R01", "person", 1),
        *(4, 5),
    )
    assert (row["mode"], row["item"], row["place"]) == ("fixed", "rated", 1)

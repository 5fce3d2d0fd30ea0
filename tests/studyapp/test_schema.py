"""What the database itself refuses, whoever writes to it."""

import sqlite3

import pytest

from studyapp import db, schema, session, store


@pytest.fixture
def study(path):
    rater = session.who(path, session.join(path))
    store.rate(path, rater.id, 1, 4, 5)
    return path


RATING = "INSERT INTO rating VALUES (2, {satisfaction}, {goal}, '', {seconds}, 1, 'now', 'now')"


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
        "INSERT INTO answer (scenario, arm_key, messages) VALUES ('s1', 'k-one', '[]')",  # a second answer
        "INSERT INTO answer (scenario, arm_key, messages) VALUES ('nowhere', 'k-one', '[]')",
        "UPDATE answer SET messages = 'no json'",
        "UPDATE rater SET consented_at = NULL",
        "INSERT INTO study SELECT 2, uid, name, mode, seed, 1, 1, consent, 1, content, state, created_at FROM study",
        "UPDATE study SET mode = 'dead'",
    ],
)
def test_the_database_refuses(study, sql):
    with db.write(study) as database, pytest.raises(sqlite3.IntegrityError):
        database.conn.execute(sql)


def test_connections_keep_ratings_safe(study):
    with db.connect(study) as database:
        assert database.conn.execute("PRAGMA foreign_keys").fetchone() == (1,)
        assert database.conn.execute("PRAGMA synchronous").fetchone() == (2,)
        assert database.conn.execute("PRAGMA journal_mode").fetchone() == ("wal",)


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
        *("comment", "seconds", "revision", "created_at", "updated_at"),
    ]
    row = rows[0]
    assert (row["rater"], row["kind"], row["position"], row["satisfaction"], row["goal_achievement"]) == (
        *("R01", "person", 1),
        *(4, 5),
    )

"""From a file of the first schema, filled with ratings, to the newest one: nothing is lost, everything goes on."""

import sqlite3

import pytest
from first_schema import TOKEN, make_first
from small_study import make, scenarios

from studyapp import db, schema, session, store
from studyapp.records import Marks

TIDY = (
    "rater, kind, scenario, category, arm_key, code, position, satisfaction, goal_achievement, comment, seconds,"
    " revision, created_at, updated_at"
)


@pytest.fixture
def old(tmp_path):
    return make_first(tmp_path / "study.db")


def rows(path, sql):
    connection = sqlite3.connect(path)
    try:
        return connection.execute(sql).fetchall()
    finally:
        connection.close()


def test_no_row_of_the_first_schema_is_lost_or_changed(old):
    queries = [
        f"SELECT {TIDY} FROM tidy_ratings",
        "SELECT id, label, kind, joined_at, consented_at, consent_version, last_seen FROM rater",
        "SELECT * FROM code ORDER BY rater, arm_key",
        "SELECT id, rater, scenario, arm_key, code, position, opened_at, shown_at, done_at FROM assignment ORDER BY id",
        "SELECT * FROM rating",
        "SELECT * FROM rating_event",
        "SELECT id, category, goal, opening, turns, reached, ord FROM scenario ORDER BY ord",
        "SELECT * FROM answer",
        "SELECT uid, name, mode, seed, ratings_per_cell, consent, consent_version, content, state FROM study",
    ]
    before = [rows(old, sql) for sql in queries]
    assert len(before[0]) == 4
    db.prepare(old)
    assert [rows(old, sql) for sql in queries] == before
    assert rows(old, "PRAGMA foreign_key_check") == []
    assert rows(old, "PRAGMA integrity_check") == [("ok",)]
    with db.connect(old) as database:
        assert schema.migrations.pending(database) == []
    assert not [name for (name,) in rows(old, "SELECT name FROM sqlite_master") if name.startswith("old_")]


def test_the_migrated_tables_are_those_of_a_new_study(old, tmp_path):
    db.prepare(old)
    make(tmp_path / "new.db")
    sql = "SELECT type, name, tbl_name, sql FROM sqlite_master WHERE name NOT IN ('study', 'scenario') ORDER BY name"
    assert rows(old, sql) == rows(tmp_path / "new.db", sql)
    for table in ("study", "scenario"):
        columns = f"SELECT name, type, \"notnull\", dflt_value FROM pragma_table_info('{table}') ORDER BY name"
        assert rows(old, columns) == rows(tmp_path / "new.db", columns)


def test_raters_come_back_with_their_cookie_and_go_on(old):
    db.prepare(old)
    rater = session.who(old, TOKEN)
    assert rater.label == "R01"
    view = session.current(old, rater)
    assert (view.state, view.item.position, view.done, view.total) == ("item", 5, 4, 9)
    session.rate(old, rater, 5, [Marks(2, 2)], version=view.item.version)
    first = session.at(old, rater, 1).item
    session.rate(old, rater, 1, [Marks(5, 5)], version=first.version)
    assert rows(old, "SELECT count(*) FROM tidy_ratings") == [(5,)]
    assert rows(old, "SELECT revision, satisfaction FROM rating_event WHERE assignment = 1 ORDER BY 1")[-1] == (3, 5)


def test_the_same_study_file_finds_its_migrated_study_unchanged(old):
    settings = {"items": scenarios(3), "consent": "Old consent.", "ratings_per_cell": 2}
    make(old, **settings)
    assert make(old, **settings) is False
    assert store.counts(old).ratings == 4
    assert rows(old, "SELECT consent_version FROM study") == [(1,)]
    new = session.who(old, session.join(old))
    assert new.label == "R03"
    assert session.current(old, new).item is not None


def test_items_that_were_waiting_go_to_whoever_needs_them(old):
    """R02 rated nothing and was last seen long ago; with two ratings for a cell, a third rater takes R02's place."""
    make(old, items=scenarios(3), consent="Old consent.", ratings_per_cell=1)
    new = session.who(old, session.join(old))
    assert session.current(old, new).total == 9
    assert rows(old, "SELECT count(*) FROM assignment WHERE rater = 2 AND released_why = 'lease'") == [(9,)]


def test_a_migration_that_fails_leaves_the_file_as_it_was(old, monkeypatch):
    before = rows(old, "SELECT type, name, sql FROM sqlite_master ORDER BY name")
    monkeypatch.setattr(schema, "VIEWS", schema.VIEWS + "CREATE VIEW broken AS SELECT 1 FROM WHERE;")
    with pytest.raises(sqlite3.OperationalError):
        db.prepare(old)
    assert rows(old, "SELECT type, name, sql FROM sqlite_master ORDER BY name") == before
    assert rows(old, "SELECT count(*) FROM tidy_ratings") == [(4,)]
    monkeypatch.undo()
    db.prepare(old)
    assert rows(old, "SELECT count(*) FROM tidy_ratings") == [(4,)]

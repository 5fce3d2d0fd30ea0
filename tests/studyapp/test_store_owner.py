"""What the owner reads and does, straight from the store."""

import sqlite3
from dataclasses import replace

import pytest
from owned_study import KEYS, SCENARIOS, make_owned

from harness.errors import RatingError
from studyapp import store_owner, store_owner_acts
from studyapp.db import prepare, write


@pytest.fixture
def db(tmp_path):
    return make_owned(tmp_path / "study.db")


def query(path, sql):
    connection = sqlite3.connect(path)
    rows = connection.execute(sql).fetchall()
    connection.close()
    return rows


def test_progress_counts_what_is_there(db):
    progress = store_owner.progress(db)
    study = progress.overview
    assert (study.raters, study.finished, study.others, study.withdrawn) == (4, 3, 1, 1)
    assert (study.invites, study.claimed, study.ratings) == (2, 1, 3 * 12 + 10)
    assert (study.cells, study.full_cells) == (12, 12)
    assert (study.fewest, study.most) == (15, 16)
    assert [(code.code, code.rated + code.waiting) for code in progress.codes] == [("A", 16), ("B", 16), ("C", 16)]
    assert sum(code.waiting for code in progress.codes) == 2
    assert [scenario.id for scenario in progress.scenarios] == list(SCENARIOS)
    assert sum(scenario.ratings for scenario in progress.scenarios) == study.ratings
    rows = {person.label: person for person in progress.people}
    assert [(rows[label].done, rows[label].total) for label in ("R01", "R04", "R05")] == [(15, 15), (13, 15), (13, 13)]
    assert (rows["R01"].comments, rows["R01"].problems, rows["R03"].problems) == (2, 1, 1)


def test_each_rater_has_the_flags_they_earned(db):
    found = {person.label: {flag.name for flag in person.flags} for person in store_owner.progress(db).people}
    assert found == {
        "R01": set(),
        "R02": {"straight-lining"},
        "R03": {"too fast"},
        "R04": {"failed checks", "repeats differ"},
        "R05": set(),
    }


def test_items_that_went_to_somebody_else_are_not_counted(db):
    with write(db) as connection:
        connection.conn.execute(
            "UPDATE assignment SET released_at = '2026', released_why = 'lease' WHERE done_at IS NULL"
        )
    progress = store_owner.progress(db)
    assert sum(code.waiting for code in progress.codes) == 0
    assert progress.overview.finished == 4
    assert {person.label: person.total for person in progress.people}["R04"] == 13


def test_means_by_arm_are_there_once_the_study_is_closed(db):
    assert store_owner.progress(db).arms == ()
    store_owner_acts.set_state(db, "close", "cli")
    arms = store_owner.progress(db).arms
    assert [arm.number for arm in arms] == [1, 2, 3]
    for arm, key in zip(arms, sorted(KEYS), strict=True):
        ((count, one, two),) = query(
            db,
            "SELECT count(*), avg(satisfaction), avg(goal_achievement) FROM tidy_ratings"
            f" WHERE kind = 'person' AND arm_key = '{key}'",
        )
        assert (arm.ratings, arm.satisfaction, arm.goal_achievement) == (count, one, two)
    store_owner_acts.set_state(db, "open", "cli")
    assert store_owner.progress(db).arms == ()


def plain(progress):
    """Without how far a rater's two answers to one item lie apart."""
    people = [
        replace(person, flags=tuple(flag for flag in person.flags if flag.name != "repeats differ"))
        for person in progress.people
    ]
    return replace(progress, people=tuple(people))


def test_until_then_progress_does_not_depend_on_who_got_which_marks(tmp_path):
    """Marks are handed round among arms, so that another arm is the best: before closing nothing changes."""

    def good_first(rater, position, arm):
        return (5 - 2 * arm, 5 - arm) if rater != 2 else (3, 3)

    def good_last(rater, position, arm):
        return good_first(rater, position, 2 - arm)

    one = make_owned(tmp_path / "one.db", marks=good_first)
    two = make_owned(tmp_path / "two.db", marks=good_last)
    assert plain(store_owner.progress(one)) == plain(store_owner.progress(two))
    for path in (one, two):
        store_owner_acts.set_state(path, "close", "cli")
    assert store_owner.progress(one).arms != store_owner.progress(two).arms


def test_states_go_as_they_should_and_are_logged(db):
    assert store_owner_acts.set_state(db, "pause", "owner")
    assert not store_owner_acts.set_state(db, "pause", "owner")
    assert store_owner_acts.set_state(db, "open", "cli")
    assert store_owner_acts.set_state(db, "close", "cli")
    assert store_owner.overview(db).closed_at is not None
    with pytest.raises(RatingError, match="nothing to pause"):
        store_owner_acts.set_state(db, "pause", "cli")
    assert store_owner_acts.set_state(db, "open", "cli")
    assert store_owner.overview(db).closed_at is None
    found = [(entry["actor"], entry["action"], entry["detail"]) for entry in store_owner.log(db)]
    assert found[:4] == [
        ("cli", "open", "was closed"),
        ("cli", "close", "was open"),
        ("cli", "open", "was paused"),
        ("owner", "pause", "was open"),
    ]


def test_names_are_out_only_after_closing_and_for_good(db):
    with pytest.raises(RatingError, match="the study is open") as error:
        store_owner_acts.unblind(db, "cli")
    assert "close" in error.value.hint
    assert store_owner.overview(db).unblinded_at is None
    store_owner_acts.set_state(db, "close", "cli")
    assert store_owner_acts.unblind(db, "cli")
    assert not store_owner_acts.unblind(db, "cli")
    assert [entry["action"] for entry in store_owner.log(db)].count("unblind") == 1
    with pytest.raises(RatingError, match="stays closed"):
        store_owner_acts.set_state(db, "open", "owner")


def test_extending_adds_and_refuses_what_it_cannot(db):
    facts = store_owner_acts.extend(db, "cli", raters=5, ratings=1)
    assert (facts.max_raters, facts.ratings_per_cell) == (15, 3)
    assert store_owner.log(db)[0]["detail"] == "5 more raters, 1 more ratings of each cell"
    for values, what in (({}, "by what"), ({"raters": -1}, "-1 raters"), ({"ratings": 10**6}, "1000000 ratings")):
        with pytest.raises(RatingError, match=what):
            store_owner_acts.extend(db, "cli", **values)
    with write(db) as connection:
        connection.conn.execute("UPDATE study SET max_raters = NULL")
    with pytest.raises(RatingError, match="no limit"):
        store_owner_acts.extend(db, "cli", raters=1)
    store_owner_acts.set_state(db, "close", "cli")
    with pytest.raises(RatingError, match="closed"):
        store_owner_acts.extend(db, "cli", ratings=1)
    assert store_owner.overview(db).ratings_per_cell == 3


def test_invitations_are_kept_as_hashes(db):
    tokens = store_owner_acts.invite(db, 30, "cli", "second wave")
    assert len(set(tokens)) == 30
    assert all(len(token) >= 32 for token in tokens)
    dump = "\n".join(sqlite3.connect(db).iterdump())
    assert not any(token in dump for token in tokens)
    made = store_owner.invites(db)
    assert len(made) == 32
    assert {(row["note"], row["used_at"]) for row in made[:30]} == {("second wave", None)}
    for count, note in ((0, ""), (1001, ""), (1, "x" * 201)):
        with pytest.raises(RatingError):
            store_owner_acts.invite(db, count, "cli", note)
    store_owner_acts.set_state(db, "close", "cli")
    with pytest.raises(RatingError, match="closed"):
        store_owner_acts.invite(db, 1, "cli")
    assert len(store_owner.invites(db)) == 32


def test_a_database_without_study_or_of_an_older_version_is_an_error_of_ours(tmp_path, db):
    with pytest.raises(RatingError, match="no study database"):
        store_owner.progress(tmp_path / "none.db")
    prepare(tmp_path / "empty.db")
    with pytest.raises(RatingError, match="holds no study"):
        store_owner.progress(tmp_path / "empty.db")
    with write(db) as connection:
        connection.conn.execute("DELETE FROM _sqlite_migrations WHERE name <> 'm001_first_tables'")
    with pytest.raises(RatingError, match="older version"):
        store_owner.progress(db)


def test_a_new_study_has_progress_too(tmp_path):
    path = tmp_path / "study.db"
    prepare(path)
    with write(path) as connection:
        connection.conn.execute(
            "INSERT INTO study (id, uid, name, mode, seed, ratings_per_cell, scenarios_per_rater, consent,"
            " consent_version, content, created_at) VALUES (1, 'u', 'n', 'live', 1, 1, 1, 'c', 1, 'x', '2026')"
        )
    progress = store_owner.progress(path)
    assert (progress.overview.ratings, progress.codes, progress.people) == (0, (), ())
    assert store_owner.notes(path) == store_owner.Notes((), ())

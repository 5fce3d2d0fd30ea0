"""Studies and ratings in a real SQLite file."""

import sqlite3
from concurrent.futures import ThreadPoolExecutor

import pytest
from small_study import KEYS, make, scenarios

from harness.errors import RatingError
from studyapp import session, store


@pytest.fixture
def rater(path):
    return session.who(path, session.join(path))


def rows(path, sql):
    connection = sqlite3.connect(path)
    try:
        return connection.execute(sql).fetchall()
    finally:
        connection.close()


def test_the_same_study_again_changes_nothing(path, rater):
    store.rate(path, rater.id, 1, 3, 3)
    before = rows(path, "SELECT * FROM study")
    assert make(path) is False
    assert make(path, keys=KEYS) is False
    assert rows(path, "SELECT * FROM study") == before
    assert store.counts(path).ratings == 1


def test_changed_answers_replace_the_old_ones_while_there_is_no_rating(path, rater):
    assert make(path, text=lambda arm, scenario: "another answer") is True
    assert {text for (text,) in rows(path, "SELECT json_extract(messages, '$[1].content') FROM answer")} == {
        "another answer"
    }
    assert store.counts(path).raters == 0
    assert make(path, items=scenarios(2)) is True
    assert store.counts(path).cells == 2 * len(KEYS)


def test_changed_answers_are_refused_once_there_are_ratings(path, rater):
    store.rate(path, rater.id, 1, 3, 3)
    store.rate(path, rater.id, 2, 3, 3)
    with pytest.raises(RatingError, match="already holds 2 ratings") as error:
        make(path, text=lambda arm, scenario: "another answer")
    assert "--run" in error.value.hint
    assert store.counts(path).ratings == 2
    assert "another answer" not in str(rows(path, "SELECT messages FROM answer"))


def test_a_new_consent_text_gets_a_new_version_and_keeps_ratings(path, rater):
    store.rate(path, rater.id, 1, 3, 3)
    assert make(path, consent="A new text.") is True
    assert make(path, consent="A new text.") is False
    assert store.study(path).consent_version == 2
    assert store.counts(path).ratings == 1
    assert rows(path, "SELECT consent_version FROM rater") == [(1,)]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"mode": "dead"}, "unknown rating mode 'dead'"),
        ({"ratings_per_cell": 0}, "ratings_per_cell is 0"),
        ({"items": []}, "no scenario id"),
        ({"keys": ["same", "same"]}, "the arm key 'same' comes twice"),
    ],
)
def test_an_inconsistent_study_is_refused(tmp_path, change, message):
    with pytest.raises(RatingError, match=message):
        make(tmp_path / "s.db", **change)
    assert not (tmp_path / "s.db").exists()


def test_every_arm_has_to_answer_every_scenario(tmp_path):
    settings = {"name": "x", "mode": "fixed", "seed": 1, "ratings_per_cell": 1}
    with pytest.raises(RatingError, match="12 of 12 are missing"):
        store.create(tmp_path / "s.db", scenarios=scenarios(), arm_keys=KEYS, answers=[], **settings)


@pytest.mark.parametrize("value", [0, 6, -1, 77, 3.0, 2.5, True, "4", None])
@pytest.mark.parametrize("scale", ["satisfaction", "goal achievement"])
def test_a_rating_outside_one_to_five_is_refused_and_named(path, rater, scale, value):
    marks = (value, 3) if scale == "satisfaction" else (3, value)
    with pytest.raises(RatingError, match=scale) as error:
        store.rate(path, rater.id, 1, *marks)
    assert repr(value) in error.value.what
    assert "1 to 5" in error.value.hint
    assert store.counts(path).ratings == 0


def test_a_double_submit_from_many_threads_is_one_rating(path, rater):
    with ThreadPoolExecutor(8) as pool:
        revisions = list(pool.map(lambda _: store.rate(path, rater.id, 1, 4, 2, "fine"), range(24)))
    assert set(revisions) == {1}
    assert rows(path, "SELECT satisfaction, goal_achievement, comment, revision FROM rating") == [(4, 2, "fine", 1)]
    assert rows(path, "SELECT count(*) FROM rating_event") == [(1,)]


def test_raters_at_the_same_time_do_not_disturb_one_another(path):
    raters = [session.who(path, session.join(path)) for _ in range(6)]

    def work(rater):
        for position in range(1, 10):
            store.rate(path, rater.id, position, position % 5 + 1, 3)

    with ThreadPoolExecutor(6) as pool:
        list(pool.map(work, raters))
    assert store.counts(path).ratings == 54
    assert rows(path, "SELECT count(*) FROM rating_event") == [(54,)]


def test_a_change_is_a_new_revision_and_the_old_one_stays(path, rater):
    assert store.rate(path, rater.id, 1, 4, 2) == 1
    assert store.rate(path, rater.id, 1, 5, 2, "better on a second look", revision=1) == 2
    assert store.rate(path, rater.id, 1, 5, 2, "better on a second look", revision=1) == 2
    assert rows(path, "SELECT satisfaction, comment, revision FROM rating") == [(5, "better on a second look", 2)]
    assert rows(path, "SELECT revision, satisfaction, comment FROM rating_event ORDER BY revision") == [
        (1, 4, ""),
        (2, 5, "better on a second look"),
    ]


def test_a_stale_window_cannot_overwrite_a_rating_it_has_not_seen(path, rater):
    store.rate(path, rater.id, 1, 4, 2)
    with pytest.raises(RatingError, match="another window"):
        store.rate(path, rater.id, 1, 1, 1)
    assert rows(path, "SELECT satisfaction, revision FROM rating") == [(4, 1)]


def test_nobody_rates_what_is_not_theirs_or_not_reached(path, rater):
    for position in (0, -1, 2, 10, 10**9):
        with pytest.raises(RatingError, match="not yours"):
            store.rate(path, rater.id, position, 3, 3)
    with pytest.raises(RatingError, match="not yours"):
        store.rate(path, rater.id + 1, 1, 3, 3)


def test_a_comment_is_kept_as_typed_and_has_a_limit(path, rater):
    nasty = "'); DROP TABLE rating; -- <script>alert(1)</script> ünïcode \U0001f600"
    store.rate(path, rater.id, 1, 3, 3, nasty)
    assert rows(path, "SELECT comment FROM rating") == [(nasty,)]
    with pytest.raises(RatingError, match="2001 characters"):
        store.rate(path, rater.id, 2, 3, 3, "x" * 2001)


def test_counts_tell_how_far_a_study_is(path):
    assert store.counts(path) == store.Counts(0, 0, {"waiting": 0, "shown": 0, "done": 0}, 12, 0, 2, "open")
    for _ in range(2):
        rater = session.who(path, session.join(path))
        session.current(path, rater)
        session.rate(path, rater, 1, 3, 3)
    found = store.counts(path)
    assert (found.raters, found.ratings) == (2, 2)
    assert found.assignments == {"waiting": 14, "shown": 2, "done": 2}
    assert found.full_cells == 0


def test_cells_fill_evenly_and_the_study_ends_full(path):
    for _ in range(3):  # 3 raters x 3 scenarios = 4 scenarios x 2, and one over
        rater = session.who(path, session.join(path))
        for position in range(1, 10):
            store.rate(path, rater.id, position, 3, 3)
    assert store.counts(path).full_cells == 12


def test_the_token_itself_is_not_stored(path):
    token = session.join(path)
    assert token.encode() not in path.read_bytes()
    wal = path.with_name("study.db-wal")
    assert not wal.exists() or token.encode() not in wal.read_bytes()


def test_judges_are_raters_of_another_kind_without_consent(path):
    session.join(path, "judge")
    assert rows(path, "SELECT kind, consented_at FROM rater") == [("judge", None)]


def test_without_a_database_the_error_says_what_to_do(tmp_path):
    with pytest.raises(RatingError, match="no study database") as error:
        store.counts(tmp_path / "none.db")
    assert "viva answer" in error.value.hint

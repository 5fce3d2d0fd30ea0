"""Putting a study into a real SQLite file, changing it, and counting how far it is."""

import json

import pytest
from raters import change, newcomer, rate_all, rows
from small_study import KEYS, known, make, scenarios

from harness.errors import RatingError
from studyapp import session, store
from studyapp.db import prepare
from studyapp.store_raters import rater_by_label


def test_the_same_study_again_changes_nothing(path):
    rate_all(path, most=1)
    before = rows(path, "SELECT * FROM study")
    assert make(path) is False
    assert make(path, keys=KEYS) is False
    assert rows(path, "SELECT * FROM study") == before
    assert store.counts(path).ratings == 1


def test_changed_answers_replace_the_old_ones_while_there_is_no_rating(path):
    session.report_problem(path, newcomer(path), 1, "too small")
    assert make(path, text=lambda arm, scenario: "another answer") is True
    assert {text for (text,) in rows(path, "SELECT json_extract(messages, '$[1].content') FROM answer")} == {
        "another answer"
    }
    assert store.counts(path).raters == 0
    assert make(path, items=scenarios(2)) is True
    assert store.counts(path).cells == 2 * len(KEYS)


@pytest.mark.parametrize(
    "changed",
    [
        {"text": lambda arm, scenario: "another answer"},
        {"crossing": "between"},
        {"checks": [known(1)]},
        {"items": scenarios(5)},
        {"items": scenarios(4, modes=(None, "side-by-side"))},
    ],
)
def test_other_content_is_refused_once_there_are_ratings(path, changed):
    rate_all(path, most=2)
    before = rows(path, "SELECT * FROM answer"), rows(path, "SELECT * FROM study")
    with pytest.raises(RatingError, match="already holds 2 ratings") as error:
        make(path, **changed)
    assert "--run" in error.value.hint
    assert (rows(path, "SELECT * FROM answer"), rows(path, "SELECT * FROM study")) == before


def test_live_chats_are_content_too(tmp_path):
    path = tmp_path / "study.db"
    make(path, mode="live")
    session.say(path, newcomer(path), 1, "hello")
    with pytest.raises(RatingError, match="0 ratings and 1 live chats"):
        make(path, mode="live", items=scenarios(3))


def test_a_new_consent_text_gets_a_new_version_and_keeps_ratings(path):
    rate_all(path, most=1)
    assert make(path, consent="A new text.") is True
    assert make(path, consent="A new text.") is False
    assert store.study(path).consent_version == 2
    assert store.counts(path).ratings == 1
    assert rows(path, "SELECT consent_version FROM rater") == [(1,)]


def test_consent_is_asked_in_the_language_of_the_study(tmp_path):
    make(tmp_path / "study.db", language="de")
    facts = store.study(tmp_path / "study.db")
    assert facts.language == "de"
    assert "freiwillig" in facts.consent


def test_what_the_owner_changed_holds_until_the_study_file_says_something_else(path):
    assert make(path, max_raters=5) is True
    change(path, "UPDATE study SET ratings_per_cell = 99, max_raters = 9, open_join = 0")
    assert make(path, max_raters=5) is False
    assert rows(path, "SELECT ratings_per_cell, max_raters, open_join FROM study") == [(99, 9, 0)]
    assert make(path, max_raters=6) is True
    assert rows(path, "SELECT ratings_per_cell, max_raters, open_join FROM study") == [(99, 6, 0)]
    assert make(path, max_raters=None) is True
    assert rows(path, "SELECT max_raters FROM study") == [(None,)]


def test_the_margin_is_fixed_before_the_first_rating(path):
    assert make(path, margin=0.9) is True
    ((margin, at),) = rows(path, "SELECT margin, margin_at FROM study")
    assert (margin, store.margin(path)) == (0.9, (0.9, at))
    assert make(path, margin=0.8) is True
    rate_all(path, most=1)
    assert make(path, margin=0.7) is False
    margin, fixed = store.margin(path)
    assert margin == 0.8
    assert fixed <= rows(path, "SELECT created_at FROM rating")[0][0]


def test_a_margin_that_comes_late_says_so(path):
    rate_all(path, most=1)
    change(path, "UPDATE rating SET created_at = '2020-01-01T00:00:00.000+00:00'")
    assert make(path, margin=0.9) is True
    assert store.margin(path)[1] > rows(path, "SELECT created_at FROM rating")[0][0]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"mode": "dead"}, "unknown rating mode 'dead'"),
        ({"crossing": "over"}, "unknown crossing 'over'"),
        ({"colour": "red"}, "unknown setting 'colour'"),
        ({"ratings_per_cell": 0}, "ratings_per_cell is 0"),
        ({"check_every": 0}, "check_every is 0"),
        ({"items": []}, "no scenario id"),
        ({"keys": ["same", "same"]}, "the arm key 'same' comes twice"),
        ({"checks": [known(1), known(1)]}, "the known answer 'known1' comes twice"),
        ({"mode": "side-by-side", "side": 2}, "side = 2: 3 arms do not split"),
        ({"mode": "side-by-side", "keys": ["alone"]}, "needs two arms or more"),
        ({"mode": "live", "repeats": 1}, "repeats does nothing where all chats are live"),
        ({"repeats": 9}, "repeats = 9, but of 9 items at most 2"),
    ],
)
def test_an_inconsistent_study_is_refused(tmp_path, changes, message):
    with pytest.raises(RatingError, match=message):
        make(tmp_path / "s.db", **changes)
    assert not (tmp_path / "s.db").exists()


def test_every_arm_has_to_answer_every_scenario_that_is_not_live(tmp_path):
    settings = {"name": "x", "mode": "fixed", "seed": 1, "ratings_per_cell": 1, "arm_keys": KEYS}
    with pytest.raises(RatingError, match="12 of 12 are missing"):
        store.create(tmp_path / "s.db", scenarios=scenarios(), answers=[], **settings)
    with pytest.raises(RatingError, match="6 of 6 are missing"):
        store.create(tmp_path / "s.db", scenarios=scenarios(modes=(None, "live")), answers=[], **settings)
    assert store.create(tmp_path / "s.db", scenarios=scenarios(modes=("live",)), answers=[], **settings)


def test_what_the_page_needs_to_know(tmp_path):
    make(tmp_path / "fixed.db", questions=True, training=[known(1)], checks=[known(2)], repeats=2)
    facts = store.study(tmp_path / "fixed.db")
    assert (facts.items, facts.panels, facts.live, facts.open_join, facts.state) == (13, 1, False, True, "open")
    make(tmp_path / "mixed.db", items=scenarios(modes=("live", "side-by-side")), open_join=False)
    facts = store.study(tmp_path / "mixed.db")
    assert (facts.panels, facts.live, facts.open_join) == (3, True, False)
    make(tmp_path / "between.db", crossing="between")
    assert store.study(tmp_path / "between.db").items == 3


def test_the_pace_of_live_chats(path):
    with pytest.raises(RatingError, match="pace of live chats is not set"):
        store.pace(path)
    with pytest.raises(RatingError, match="a pace needs tick, delay"):
        store.set_pace(path, {"cps": 20})
    store.set_pace(path, {"cps": 20, "tick": 0.2, "delay": 1.5, "g": 40})
    pace = store.pace(path)
    assert (pace.cps, pace.tick, pace.delay) == (20, 0.2, 1.5)
    assert json.loads(rows(path, "SELECT pace FROM study")[0][0])["g"] == 40


def test_counts_tell_how_far_a_study_is(tmp_path):
    path = tmp_path / "study.db"
    make(path, ratings_per_cell=2, checks=[known(1)], repeats=1)
    assert store.counts(path) == store.Counts(0, 0, {"waiting": 0, "shown": 0, "done": 0}, 12, 0, 2, "open")
    for _ in range(2):
        rate_all(path, most=1)
    found = store.counts(path)
    assert (found.raters, found.ratings) == (2, 2)
    assert found.assignments == {"waiting": 14, "shown": 2, "done": 2}
    assert found.full_cells == 0
    newcomer(path)  # finds what the two left over
    for (label,) in rows(path, "SELECT label FROM rater"):
        rate_all(path, rater_by_label(path, label))
    found = store.counts(path)
    assert (found.ratings, found.full_cells) == (24, 12)  # checks and repeats are none of them


def test_without_a_database_or_a_study_the_error_says_what_to_do(tmp_path):
    for look in (store.counts, store.study):
        with pytest.raises(RatingError, match="no study database") as error:
            look(tmp_path / "none.db")
        assert "viva answer" in error.value.hint
        prepare(tmp_path / "empty.db")
        with pytest.raises(RatingError, match="holds no study"):
            look(tmp_path / "empty.db")

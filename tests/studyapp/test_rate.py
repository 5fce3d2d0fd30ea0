"""Marks and preferences: one rating whatever happens on the way, and all of its history."""

from concurrent.futures import ThreadPoolExecutor

import pytest
from raters import newcomer, rate_page, rows
from small_study import make

from studyapp import session
from studyapp.records import NOT_SAID, Marks, RefusedError


@pytest.fixture
def rater(path):
    return newcomer(path)


@pytest.fixture
def beside(tmp_path):
    path = tmp_path / "beside.db"
    make(path, mode="side-by-side")
    return path


def refused(path, rater, *values, **how):
    with pytest.raises(RefusedError) as error:
        session.rate(path, rater, *values, **how)
    return error.value


@pytest.mark.parametrize("value", [0, 6, -1, 77, 3.0, 2.5, True, "4"])
@pytest.mark.parametrize("scale", ["satisfaction", "goal achievement"])
def test_a_rating_outside_one_to_five_is_refused_and_named(path, rater, scale, value):
    marks = Marks(value, 3) if scale == "satisfaction" else Marks(3, value)
    error = refused(path, rater, 1, [marks], version=0)
    assert error.reason == "mark"
    assert scale in error.what
    assert repr(value) in error.what
    assert "1 to 5" in error.hint
    assert rows(path, "SELECT count(*) FROM rating") == [(0,)]


def test_a_double_submit_from_many_threads_is_one_rating(path, rater):
    with ThreadPoolExecutor(8) as pool:
        views = list(pool.map(lambda _: session.rate(path, rater, 1, [Marks(4, 2, "fine")], version=0), range(24)))
    assert {view.item.position for view in views} == {2}
    assert rows(path, "SELECT satisfaction, goal_achievement, comment, revision FROM rating") == [(4, 2, "fine", 1)]
    assert rows(path, "SELECT count(*) FROM rating_event") == [(1,)]


def test_of_different_submits_at_once_one_wins_and_the_others_are_told(path, rater):
    def submit(mark):
        try:
            session.rate(path, rater, 1, [Marks(mark, mark)], version=0)
        except RefusedError as error:
            return error.reason
        return "stored"

    with ThreadPoolExecutor(5) as pool:
        results = list(pool.map(submit, [1, 2, 3, 4, 5]))
    assert sorted(results) == ["changed"] * 4 + ["stored"]
    assert rows(path, "SELECT revision FROM rating") == [(1,)]


def test_raters_at_the_same_time_do_not_disturb_one_another(path):
    def work(_):
        rater = newcomer(path)
        view = session.current(path, rater)
        while view.item:
            view = rate_page(path, rater, view.item, view.item.position % 5 + 1)

    with ThreadPoolExecutor(6) as pool:
        list(pool.map(work, range(6)))
    assert rows(path, "SELECT count(*), count(DISTINCT assignment) FROM rating") == [(54, 54)]
    assert rows(path, "SELECT count(*) FROM rating_event") == [(54,)]
    assert rows(path, "SELECT count(*) FROM rating WHERE satisfaction <> (SELECT position % 5 + 1 FROM assignment"
                      " WHERE id = assignment)") == [(0,)]  # fmt: skip


def test_a_change_is_a_new_revision_and_the_old_one_stays(path, rater):
    session.rate(path, rater, 1, [Marks(4, 2)], version=0)
    for _ in range(2):  # the second time is a replay
        session.rate(path, rater, 1, [Marks(5, 2, "better on a second look")], version=1)
    assert rows(path, "SELECT satisfaction, comment, revision FROM rating") == [(5, "better on a second look", 2)]
    assert rows(path, "SELECT revision, satisfaction, comment FROM rating_event ORDER BY revision") == [
        (1, 4, ""),
        (2, 5, "better on a second look"),
    ]


def test_a_stale_window_or_a_replayed_request_cannot_undo_a_change(path, rater):
    session.rate(path, rater, 1, [Marks(4, 2)], version=0)
    assert refused(path, rater, 1, [Marks(1, 1)], version=0).reason == "changed"
    session.rate(path, rater, 1, [Marks(5, 5)], version=1)
    assert refused(path, rater, 1, [Marks(4, 2)], version=0).reason == "changed"
    assert rows(path, "SELECT satisfaction, revision FROM rating") == [(5, 2)]


def test_nobody_rates_what_is_not_theirs_or_not_reached(path, rater):
    for position in (0, -1, 2, 10, 10**9):
        assert refused(path, rater, position, [Marks(3, 3)], version=0).reason == "gone"
    assert refused(path, session.Rater(99, "R99"), 1, [Marks(3, 3)], version=0).reason == "gone"
    assert refused(path, rater, 1, [Marks(3, 3)] * 2, version=0).reason == "missing"
    assert refused(path, rater, 1, [], version=0).reason == "missing"


def test_a_comment_is_kept_as_typed_and_has_a_limit(path, rater):
    nasty = "'); DROP TABLE rating; -- <script>alert(1)</script> ünïcode \U0001f600"
    session.rate(path, rater, 1, [Marks(3, 3, nasty)], version=0)
    assert rows(path, "SELECT comment FROM rating") == [(nasty,)]
    error = refused(path, rater, 2, [Marks(3, 3, "x" * 2001)], version=0)
    assert (error.reason, error.facts) == ("long", {"count": 2001, "most": 2000})


def test_side_by_side_all_codes_are_rated_at_once_with_a_preference(beside):
    rater = newcomer(beside)
    item = session.current(beside, rater).item
    codes = [panel.code for panel in item.panels]
    assert sorted(codes) == ["A", "B", "C"]
    marks = [Marks(1, 2), Marks(3, 4), Marks(5, 5)]
    assert refused(beside, rater, 1, marks[:2], preference=None, version=0).reason == "missing"
    assert refused(beside, rater, 1, marks, version=0).reason == "preference"
    assert refused(beside, rater, 1, marks, preference="Z", version=0).reason == "preference"
    assert rows(beside, "SELECT count(*) FROM rating") == [(0,)]
    session.rate(beside, rater, 1, marks, preference=codes[1], version=0)
    item = session.at(beside, rater, 1).item
    assert [(panel.satisfaction, panel.goal_achievement) for panel in item.panels] == [(1, 2), (3, 4), (5, 5)]
    assert (item.preference, item.preferred) == (codes[1], True)
    assert rows(beside, "SELECT place, satisfaction FROM tidy_ratings") == [(1, 1), (2, 3), (3, 5)]


def test_a_preference_has_a_history_too(beside):
    rater = newcomer(beside)
    item = session.current(beside, rater).item
    codes, marks = [panel.code for panel in item.panels], [Marks(3, 3)] * 3
    assert (item.preference, item.preferred) == (None, False)
    version = 0
    for said in (codes[0], None, None, codes[2], NOT_SAID):
        session.rate(beside, rater, 1, marks, preference=said, version=version)
        version = session.at(beside, rater, 1).item.version
    assert rows(beside, "SELECT revision, code FROM preference ORDER BY 1") == [(1, codes[0]), (2, None), (3, codes[2])]
    assert refused(beside, rater, 1, marks, preference=codes[0], version=version - 1).reason == "changed"
    assert rows(beside, "SELECT count(*) FROM rating_event") == [(3,)]  # marks that stayed have one revision
    ((arms, preferred),) = rows(beside, "SELECT arm_keys, preferred FROM tidy_preferences")
    assert preferred in arms


def test_one_changed_panel_is_one_new_revision(beside):
    rater = newcomer(beside)
    session.rate(beside, rater, 1, [Marks(3, 3)] * 3, preference=None, version=0)
    item = session.at(beside, rater, 1).item
    session.rate(beside, rater, 1, [Marks(3, 3), Marks(4, 3), Marks(3, 3)], version=item.version)
    assert rows(beside, "SELECT revision FROM rating ORDER BY assignment") == [(1,), (2,), (1,)]


def test_time_on_an_item_runs_from_when_it_was_shown(path, rater):
    session.current(path, rater)
    session.rate(path, rater, 1, [Marks(3, 3)], version=0)
    ((seconds, shown, rated),) = rows(
        path, "SELECT seconds, shown_at, created_at FROM rating JOIN assignment ON assignment.id = assignment"
    )
    assert shown < rated
    assert 0 <= seconds < 60

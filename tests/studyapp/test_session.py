"""A rater's way through the study, without a web page."""

import pytest
from raters import change, newcomer, rate_all, rate_page, rows
from small_study import known, make, scenarios

from studyapp import session
from studyapp.records import NOT_SAID, Marks, RefusedError


@pytest.fixture
def mixed(tmp_path):
    """All modes, practice, checks, repeats, questions and a completion code; every scenario is dealt."""
    path = tmp_path / "mixed.db"
    make(
        path,
        items=scenarios(6, modes=("fixed", "side-by-side", "live"), turns=2),
        scenarios_per_rater=6,
        training=[known(1)],
        checks=[known(2), known(3)],
        check_every=6,
        repeats=2,
        questions=True,
        completion_code="DONE-42",
    )
    return path


def test_from_joining_to_the_end(path):
    rater = newcomer(path)
    view = session.current(path, rater)
    assert not view.can_go_back
    met = []
    while view.item:
        assert (view.item.position, view.position, view.done, view.total) == (len(met) + 1,) * 2 + (len(met), 9)
        met.append((view.item.panels[0].code, view.item.goal))
        view = rate_page(path, rater, view.item)
    assert len(set(met)) == 9
    assert {code for code, _ in met} == {"A", "B", "C"}
    assert (view.state, view.done, view.total, view.item, view.position) == ("end", 9, 9, None, 10)
    assert view.completion is None


def test_a_mixed_study_from_practice_to_the_completion_code(mixed):
    rater = newcomer(mixed)
    view = session.current(mixed, rater)
    assert view.item.training
    assert view.item.feedback is None
    view = session.rate(mixed, rater, 1, [Marks(5, 5)], version=0)
    assert view.item.feedback == "Most people give 1 or 2 here."
    view = session.after(mixed, rater, 1)
    seen = []
    while view.item:
        seen.append(view.item)
        view = rate_page(mixed, rater, view.item)
    modes = [item.mode for item in seen]
    assert (modes.count("side-by-side"), modes.count("live")) >= (2, 6)
    assert all(len(item.panels) == (3 if item.mode == "side-by-side" else 1) for item in seen)
    assert not any(item.training or item.feedback for item in seen)  # checks and repeats look like the rest
    assert len(seen) == 2 * 3 + 2 + 2 * 3 + 2 + 2
    assert view.state == "questions"
    assert view.completion is None
    guesses = [view.pairs[0][0], None, view.pairs[2][1]]
    view = session.answer_questions(mixed, rater, guesses)
    assert (view.state, view.completion) == ("end", "DONE-42")
    assert session.current(mixed, rater) == view
    assert [row[0] for row in rows(mixed, "SELECT larger FROM guess ORDER BY code_a, code_b")] == guesses
    assert rows(mixed, "SELECT count(*) FROM tidy_repeats")[0][0] >= 2
    assert rows(mixed, "SELECT item, passed, count(*) FROM tidy_checks GROUP BY 1, 2 ORDER BY 1") == [
        ("check", 0, 2),
        ("training", 0, 1),
    ]


def test_checks_have_a_code_of_their_own(mixed):
    """What raters think of a check would rub off on the arm whose code it had."""
    for _ in range(3):
        rater = newcomer(mixed)
        arms = {code for (code,) in rows(mixed, f"SELECT code FROM code WHERE rater = {rater.id}")}
        extras = {
            code for (code,) in rows(mixed, f"SELECT code FROM assignment WHERE rater = {rater.id} AND extra NOT NULL")
        }
        assert arms | extras == set("ABCD")
        assert len(extras) == 1


def test_side_by_side_checks_come_in_several_panels(tmp_path):
    path = tmp_path / "study.db"
    checks = [
        known(1),
        known(2, "Another chat.", satisfaction=(4, 5), goal_achievement=(4, 5)),
        known(3, goal="Other."),
    ]
    make(path, mode="side-by-side", checks=checks, check_every=2)
    rater = newcomer(path)
    sizes = {
        extra: panels
        for extra, panels in rows(
            path, "SELECT min(extra), count(*) FROM assignment WHERE extra NOT NULL GROUP BY position"
        )
    }
    assert 2 in sizes.values()
    view = rate_all(path, rater)
    assert view.state == "end"
    assert rows(path, "SELECT count(*) FROM tidy_preferences") == [(3,)]  # those on checks are not among them


def test_a_rater_comes_back_to_where_they_were(path):
    token = session.join(path)
    rate_all(path, session.who(path, token), most=2)
    assert session.current(path, session.who(path, token)).item.position == 3


def test_going_back_shows_the_rating_and_changes_it(path):
    rater = newcomer(path)
    session.rate(path, rater, 1, [Marks(4, 2, "first")], version=0)
    item = session.back(path, rater, 2).item
    panel = item.panels[0]
    assert (item.position, panel.satisfaction, panel.goal_achievement, panel.comment, panel.revision) == (
        *(1, 4, 2),
        *("first", 1),
    )
    view = session.rate(path, rater, 1, [Marks(5, 2, "second")], version=item.version)
    assert view.item.position == 2
    assert session.back(path, rater, 2).item.panels[0].satisfaction == 5
    assert session.back(path, rater, 1).item.position == 1
    assert session.after(path, rater, 1).item.position == 2
    assert session.after(path, rater, 2).item.position == 2  # it is not rated: nothing behind it is shown


def test_back_from_the_end_is_the_last_item(path):
    rater = newcomer(path)
    view = rate_all(path, rater)
    assert view.can_go_back
    assert session.back(path, rater, view.position).item.position == 9
    assert session.after(path, rater, 9).state == "end"
    assert session.at(path, rater, 10).state == "end"


def test_both_marks_are_needed(path):
    rater = newcomer(path)
    with pytest.raises(RefusedError, match=r"for the goal$") as refused:
        session.rate(path, rater, 1, [Marks(4, None)], version=0)
    assert refused.value.reason == "missing"
    with pytest.raises(RefusedError, match=r"for satisfaction and for the goal$"):
        session.rate(path, rater, 1, [Marks(None, None)], version=0)
    assert session.current(path, rater).done == 0


def test_strangers_have_no_session(path):
    session.join(path)
    for token in ("", None, "R01", "x" * 1000, "\udcff"):
        assert session.who(path, token) is None


def test_codes_differ_between_raters(path):
    """The second rater's Assistant A is not the first one's."""

    def by_text(rater):
        found = {}
        view = session.current(path, rater)
        while view.item:
            panel = view.item.panels[0]
            found[panel.messages[1].content.split(" to ")[0]] = panel.code
            view = rate_page(path, rater, view.item)
        return found

    one, two = by_text(newcomer(path)), by_text(newcomer(path))
    assert len(one) == 3
    assert all(one[answer] != two[answer] for answer in one)


@pytest.mark.parametrize(("state", "shown"), [("paused", "paused"), ("closed", "closed")])
def test_a_study_that_is_not_open_shows_nothing_and_takes_nothing(path, state, shown):
    rater = newcomer(path)
    session.rate(path, rater, 1, [Marks(4, 4)], version=0)
    change(path, f"UPDATE study SET state = '{state}'")
    for view in (session.current(path, rater), session.at(path, rater, 1), session.back(path, rater, 2)):
        assert (view.state, view.item) == (shown, None)
    for act in (
        lambda: session.rate(path, rater, 2, [Marks(4, 4)], version=0),
        lambda: session.say(path, rater, 2, "hello"),
        lambda: session.answer_questions(path, rater, []),
        lambda: session.join(path),
    ):
        with pytest.raises(RefusedError) as refused:
            act()
        assert refused.value.reason == shown
    change(path, "UPDATE study SET state = 'open'")
    assert session.current(path, rater).item.position == 2


def test_who_has_finished_still_gets_the_code_when_the_study_is_closed(mixed):
    rater = newcomer(mixed)
    rate_all(mixed, rater)
    change(mixed, "UPDATE study SET state = 'paused'")
    assert session.current(mixed, rater).state == "paused"  # the questions are still to be answered
    change(mixed, "UPDATE study SET state = 'closed'")
    assert session.current(mixed, rater).completion == "DONE-42"


def test_the_questions_come_once_and_need_an_answer_each(mixed):
    rater = newcomer(mixed)
    with pytest.raises(RefusedError, match="nothing to be answered yet"):
        session.answer_questions(mixed, rater, [None, None, None])
    pairs = rate_all(mixed, rater).pairs
    assert len(pairs) == 3
    for wrong in ([None], [None] * 4, ["Z", None, None], ["a", None, None]):
        with pytest.raises(RefusedError) as refused:
            session.answer_questions(mixed, rater, wrong)
        assert refused.value.reason == "questions"
    for guesses in ([pair[1] for pair in pairs], [None] * 3, [None] * 3):
        session.answer_questions(mixed, rater, guesses)
    assert rows(mixed, "SELECT larger, count(*) FROM guess GROUP BY 1") == [(None, 3)]


def test_many_arms_are_asked_about_in_a_ring(tmp_path):
    keys = [f"k{number}" for number in range(6)]
    make(tmp_path / "study.db", keys=keys, items=scenarios(2), scenarios_per_rater=1, questions=True)
    view = rate_all(tmp_path / "study.db")
    assert len(view.pairs) == 6
    assert all(sum(code in pair for pair in view.pairs) == 2 for code in "ABCDEF")
    session.answer_questions(tmp_path / "study.db", session.Rater(1, "R01"), [pair[0] for pair in view.pairs])
    assert rows(tmp_path / "study.db", "SELECT count(*) FROM tidy_guesses WHERE larger NOT NULL") == [(6,)]


def test_problems_are_kept_with_their_page(path):
    rater = newcomer(path)
    session.report_problem(path, rater, 1, " The text is cut off. ")
    session.report_problem(path, rater, None, "The page is too small.")
    assert rows(path, "SELECT assignment, text FROM problem") == [
        (1, "The text is cut off."),
        (None, "The page is too small."),
    ]
    for position, text, reason in ((1, "  ", "write"), (1, "x" * 2001, "long"), (5, "not mine yet", "gone")):
        with pytest.raises(RefusedError) as refused:
            session.report_problem(path, rater, position, text)
        assert refused.value.reason == reason
    assert NOT_SAID not in "ABC"

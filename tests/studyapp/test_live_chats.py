"""Live chats in the database: what was typed and what was shown is there, once, whatever breaks in between."""

from concurrent.futures import ThreadPoolExecutor

import pytest
from raters import newcomer, rate_all, rows, say_and_hear
from small_study import make, scenarios

from studyapp import session
from studyapp.records import Marks, RefusedError
from studyapp.store_live import MOST_FAILURES

GOOD = {"finish": "stop", "underruns": 0, "late_s": 0.0, "failed": False}
BAD = {"finish": "failed", "underruns": 0, "late_s": 0.0, "failed": True}


@pytest.fixture
def live(tmp_path):
    path = tmp_path / "live.db"
    make(path, mode="live", items=scenarios(3, turns=3))
    return path


@pytest.fixture
def rater(live):
    return newcomer(live)


def refused(act, *values, **how):
    with pytest.raises(RefusedError) as error:
        act(*values, **how)
    return error.value.reason


def test_a_chat_from_the_first_word_to_the_rating(live, rater):
    item = session.current(live, rater).item
    assert (item.mode, item.opening, item.turns) == ("live", f"Please give me thing {item.goal[-2]}.", 3)
    assert (item.panels[0].messages, item.writing, item.rateable) == ((), True, False)
    turn = session.say(live, rater, 1, " Hello there! ")
    assert (turn.number, turn.attempt) == (1, 1)
    assert [(message.role, message.content) for message in turn.messages] == [("user", "Hello there!")]
    waiting = session.at(live, rater, 1).item
    assert (len(waiting.panels[0].messages), waiting.writing, waiting.rateable) == (1, True, False)
    item = session.heard(live, rater, turn, "Hello.", **GOOD).item
    assert [message.content for message in item.panels[0].messages] == ["Hello there!", "Hello."]
    assert (item.writing, item.rateable) == (True, False)
    assert refused(session.rate, live, rater, 1, [Marks(3, 3)], version=item.version) == "chat"
    item = session.end_chat(live, rater, 1).item
    assert (item.writing, item.rateable) == (False, True)
    assert session.end_chat(live, rater, 1).item == item
    assert refused(session.say, live, rater, 1, "more") == "chat"
    assert session.rate(live, rater, 1, [Marks(4, 4)], version=item.version).item.position == 2
    assert rows(live, "SELECT turns, ended_by, unpaced, rated FROM tidy_live") == [(1, "rater", 0, 1)]


def test_the_last_turn_ends_the_chat(live, rater):
    for number in range(3):
        view = say_and_hear(live, rater, 1, f"question {number}")
    assert (view.item.writing, view.item.rateable) == (False, True)
    assert rows(live, "SELECT ended_by FROM chat") == [("limit",)]
    assert rows(live, "SELECT number, role, content FROM turn ORDER BY number, role DESC")[2:4] == [
        (2, "user", "question 1"),
        (2, "assistant", "an answer"),
    ]


def test_the_version_changes_with_everything_that_is_stored(live, rater):
    seen = [session.current(live, rater).item.version]

    def note():
        seen.append(session.at(live, rater, 1).item.version)

    turn = session.say(live, rater, 1, "hello")
    note()
    turn = session.say(live, rater, 1, "")
    note()
    session.heard(live, rater, turn, "failed", **BAD)
    note()
    turn = session.say(live, rater, 1, "")
    note()
    session.heard(live, rater, turn, "hello", **GOOD)
    note()
    session.end_chat(live, rater, 1)
    note()
    session.rate(live, rater, 1, [Marks(3, 3)], version=seen[-1])
    note()
    assert seen == sorted(set(seen))


def test_a_turn_without_answer_is_asked_anew_with_what_was_typed(live, rater):
    """The web process or the model server died: the message is there, and the same turn waits."""
    first = session.say(live, rater, 1, "my long question")
    again = session.say(live, rater, 1, "")
    assert (again.assignment, again.number, again.attempt) == (first.assignment, 1, 2)
    assert again.messages == first.messages
    session.heard(live, rater, first, "too late", **GOOD)  # what the dead attempt still sends does not count
    assert rows(live, "SELECT role, content, attempt FROM turn") == [("user", "my long question", 2)]
    session.heard(live, rater, again, "in time", **GOOD)
    session.heard(live, rater, again, "once more", **GOOD)  # a replay changes nothing
    assert rows(live, "SELECT role, content FROM turn") == [("user", "my long question"), ("assistant", "in time")]


def test_a_question_can_be_put_otherwise_while_it_has_no_answer(live, rater):
    session.say(live, rater, 1, "my qestion")
    turn = session.say(live, rater, 1, "my question")
    assert [message.content for message in turn.messages] == ["my question"]


def test_a_failed_answer_is_counted_and_asked_for_again(live, rater):
    turn = session.say(live, rater, 1, "hello")
    view = session.heard(live, rater, turn, "Sorry.", **BAD | {"underruns": 1, "late_s": 0.5})
    assert [message.role for message in view.item.panels[0].messages] == ["user"]
    assert (view.item.writing, view.item.rateable) == (True, False)
    turn = session.say(live, rater, 1, "")
    session.heard(live, rater, turn, "Hello.", **GOOD | {"underruns": 2, "late_s": 0.4, "finish": "length"})
    session.end_chat(live, rater, 1)
    (found,) = rows(
        live, "SELECT turns, underruns, late_turns, late_s, failures, cut, unpaced, ended_by FROM tidy_live"
    )
    assert found == (1, 3, 1, 0.9, 1, 1, 1, "rater")


def test_an_arm_that_always_fails_gives_the_item_up_for_somebody_else(live, rater):
    before = session.current(live, rater)
    for attempt in range(MOST_FAILURES):
        turn = session.say(live, rater, 1, "hello" if attempt == 0 else "")
        view = session.heard(live, rater, turn, "Sorry.", **BAD)
    assert (view.item.position, view.total) == (2, before.total - 1)
    assert rows(live, "SELECT released_why FROM assignment WHERE position = 1") == [("failure",)]
    assert rows(live, "SELECT failures, ended_by, rated FROM tidy_live") == [(MOST_FAILURES, "failure", 0)]
    end = rate_all(live, rater)
    assert (end.state, end.released) == ("end", 0)  # nobody's fault: the completion code is not withheld


def test_a_chat_that_fails_later_is_rated_as_far_as_it_went(live, rater):
    say_and_hear(live, rater, 1)
    for attempt in range(MOST_FAILURES):
        turn = session.say(live, rater, 1, "and then?" if attempt == 0 else "")
        view = session.heard(live, rater, turn, "Sorry.", **BAD)
    assert (view.item.position, view.item.rateable, view.item.writing) == (1, True, False)
    session.rate(live, rater, 1, [Marks(2, 2)], version=view.item.version)
    assert rows(live, "SELECT ended_by, turns, rated FROM tidy_live") == [("failure", 1, 1)]


def test_ending_while_an_answer_is_missing(live, rater):
    assert refused(session.end_chat, live, rater, 1) == "write"
    session.say(live, rater, 1, "hello")
    assert refused(session.end_chat, live, rater, 1) == "write"
    say_and_hear(live, rater, 1, "")
    turn = session.say(live, rater, 1, "more")
    assert session.end_chat(live, rater, 1).item.rateable
    view = session.heard(live, rater, turn, "too late", **GOOD)
    assert [message.content for message in view.item.panels[0].messages] == ["hello", "an answer", "more"]
    assert rows(live, "SELECT ended_by FROM chat") == [("failure",)]


@pytest.mark.parametrize(("text", "reason"), [("", "write"), (" \n ", "write"), ("x" * 4001, "long")])
def test_messages_have_a_length(live, rater, text, reason):
    assert refused(session.say, live, rater, 1, text) == reason
    assert rows(live, "SELECT count(*) FROM chat") == [(0,)]


def test_nobody_writes_in_another_ones_chat_or_on_another_page(live, rater):
    other = newcomer(live)
    turn = session.say(live, rater, 1, "hello")
    assert refused(session.heard, live, other, turn, "not yours", **GOOD) == "gone"
    assert refused(session.say, live, rater, 2, "not reached") == "gone"
    session.withdraw(live, rater)
    assert refused(session.heard, live, rater, turn, "nobody listens", **GOOD) == "gone"
    assert rows(live, "SELECT count(*) FROM turn") == [(0,)]


def test_a_prepared_chat_takes_no_messages(path):
    assert refused(session.say, path, newcomer(path), 1, "hello") == "gone"


def test_two_tabs_that_send_at_once_have_one_turn(live, rater):
    with ThreadPoolExecutor(6) as pool:
        turns = list(pool.map(lambda number: session.say(live, rater, 1, f"text {number}"), range(6)))
    assert {turn.number for turn in turns} == {1}
    assert sorted(turn.attempt for turn in turns) == [1, 2, 3, 4, 5, 6]
    with ThreadPoolExecutor(6) as pool:
        list(pool.map(lambda turn: session.heard(live, rater, turn, f"answer {turn.attempt}", **GOOD), turns))
    assert rows(live, "SELECT content FROM turn WHERE role = 'assistant'") == [("answer 6",)]


def test_the_report_finds_what_was_said(live, rater):
    say_and_hear(live, rater, 1, answer="I am SmolLM.")
    say_and_hear(live, rater, 1, answer="")
    item = session.end_chat(live, rater, 1).item
    session.rate(live, rater, 1, [Marks(3, 3)], version=item.version)
    assert rows(live, "SELECT texts FROM tidy_texts") == [('["I am SmolLM.",""]',)]
    assert rows(live, "SELECT empty FROM tidy_live") == [(1,)]


def test_time_on_a_live_item_covers_the_whole_chat(live, rater):
    session.current(live, rater)
    shown = rows(live, "SELECT shown_at FROM assignment WHERE position = 1")
    say_and_hear(live, rater, 1)
    session.end_chat(live, rater, 1)
    assert rows(live, "SELECT shown_at FROM assignment WHERE position = 1") == shown

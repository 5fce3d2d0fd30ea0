"""What a rater's buttons do, without Gradio and without a browser."""

import asyncio
import sqlite3
from itertools import pairwise

import pytest
from scripted import PACE, Scripted
from small_study import known, make, scenarios

from studyapp import session, store_owner_acts
from studyapp.chats import Chats
from studyapp.screens import NONE, ProblemError, Reader, Screens
from studyapp.texts import texts


def readers(path, language="en"):
    return Reader(session.who(path, session.join(path)), texts(language))


def ratings(path):
    connection = sqlite3.connect(path)
    try:
        rows = connection.execute("SELECT position, place, satisfaction, goal_achievement, comment FROM tidy_ratings")
        return rows.fetchall()
    finally:
        connection.close()


@pytest.fixture
def reader(path):
    return readers(path)


@pytest.fixture
def screens(path):
    return Screens(path, panels=1)


def test_an_item_is_shown_rated_and_left(path, reader, screens):
    shown = screens.show(reader)
    assert "1 of 9" in shown["item"]
    assert "Answer" in shown["chat-1"]
    assert (shown["satisfaction-1"], shown["goal_achievement-1"], shown["comment-1"]) == (None, None, "")
    after = screens.save(reader, shown["place"], [(4, 5, " good ")], None)
    assert "2 of 9" in after["item"]
    assert ratings(path) == [(1, 1, 4, 5, "good")]
    before = screens.back(reader, after["place"])
    assert (before["satisfaction-1"], before["goal_achievement-1"], before["comment-1"]) == (4, 5, "good")
    assert before["place"].startswith("1.")
    assert before["place"] != shown["place"]  # the version has changed with the rating


def test_a_page_can_be_opened_at_an_item_that_is_there(reader, screens):
    place = screens.show(reader)["place"]
    screens.save(reader, place, [(1, 1, "")], None)
    assert "1 of 9" in screens.show(reader, at=1)["item"]
    for at in (3, 99, 9999):
        assert "2 of 9" in screens.show(reader, at=at)["item"]


@pytest.mark.parametrize(
    ("marks", "said"),
    [
        ((None, None, ""), "Please give a mark from 1 to 5 for satisfaction and the goal."),
        ((3, None, ""), "Please give a mark from 1 to 5 for the goal."),
        ((3, 6, ""), "A mark is a whole number from 1 to 5."),
        ((3, 0, ""), "A mark is a whole number from 1 to 5."),
        ((3, 3.5, ""), "A mark is a whole number from 1 to 5."),
        ((3, "3", ""), "A mark is a whole number from 1 to 5."),
        ((3, True, ""), "A mark is a whole number from 1 to 5."),
        ((3, 3, "x" * 2001), "The text has 2001 characters; please keep it within 2000."),
    ],
)
def test_what_is_wrong_is_said_and_nothing_is_stored(path, reader, screens, marks, said):
    place = screens.show(reader)["place"]
    with pytest.raises(ProblemError) as problem:
        screens.save(reader, place, [marks], None)
    assert str(problem.value) == said
    assert ratings(path) == []


def test_problems_are_told_in_the_raters_language(path, screens):
    reader = readers(path, "de")
    place = screens.show(reader)["place"]
    with pytest.raises(
        ProblemError, match="Bitte vergeben Sie eine Note von 1 bis 5 für Ihre Zufriedenheit und das Ziel"
    ):
        screens.save(reader, place, [(None, None, "")], None)
    with pytest.raises(ProblemError, match="können Sie jetzt nicht bewerten"):
        screens.save(reader, "7.0.A", [(1, 1, "")], None)


@pytest.mark.parametrize(
    "place", ["", None, 7, "1", "1.0", "0.0.A", "1.0.a", "1.0.A+B", "1.0.A;", "99999.0.A", "1.x.A"]
)
def test_a_made_up_place_is_no_place(path, reader, screens, place):
    screens.show(reader)
    with pytest.raises(ProblemError, match="not yours to rate"):
        screens.save(reader, place, [(1, 1, "")], None)
    assert ratings(path) == []


def test_a_page_left_open_elsewhere_does_not_overwrite(path, reader, screens):
    place = screens.show(reader)["place"]
    screens.save(reader, place, [(4, 4, "")], None)
    with pytest.raises(ProblemError, match="changed in another window"):
        screens.save(reader, place, [(1, 1, "")], None)
    assert ratings(path) == [(1, 1, 4, 4, "")]


def test_a_paused_or_closed_study_keeps_what_is_typed(path, reader, screens):
    place = screens.show(reader)["place"]
    for act, said in (("pause", "paused at the moment"), ("close", "takes no more ratings")):
        store_owner_acts.set_state(path, act, "owner")
        with pytest.raises(ProblemError, match=said):
            screens.save(reader, place, [(1, 1, "")], None)  # no value is given back: the page stays as it is
        assert "elsewhere" in screens.show(reader)["item"]


def test_a_problem_is_reported_with_its_page_or_without(path, reader, screens):
    place = screens.show(reader)["place"]
    assert "Thank you" in screens.report(reader, place, " <b>odd</b> ")["thanks"]
    screens.report(reader, "junk", "nothing works")
    screens.report(reader, "5.0.A", "not there")
    connection = sqlite3.connect(path)
    assert [text for (text,) in connection.execute("SELECT text FROM problem")] == [
        "<b>odd</b>",
        "nothing works",
        "not there",
    ]
    assert [bool(at) for (at,) in connection.execute("SELECT assignment FROM problem")] == [True, False, False]
    connection.close()
    for text, said in (("  ", "Please write something first"), ("x" * 2001, "2001 characters")):
        with pytest.raises(ProblemError, match=said):
            screens.report(reader, place, text)


@pytest.fixture
def beside(tmp_path):
    path = tmp_path / "study.db"
    make(path, mode="side-by-side", side=3, training=[known(1)])
    return path


def test_side_by_side_takes_all_marks_and_a_preference(beside):
    reader, screens = readers(beside), Screens(beside, panels=3)
    shown = screens.show(reader)
    assert "answered" not in shown["item"]
    learnt = screens.save(reader, shown["place"], [(1, 2, "")], None)
    assert "Most people give 1 or 2 here." in learnt["item"]  # the feedback comes before the next page
    shown = screens.onward(reader, learnt["place"])
    codes = shown["place"].split(".")[2].split("+")
    assert list(shown["codes"]) == codes
    assert len(codes) == 3
    assert all(f"Assistant {code}" in shown[f"chat-{n}"] for n, code in enumerate(codes, 1))
    marks = [(1, 2, "a"), (3, 4, "b"), (5, 1, "c")]
    with pytest.raises(ProblemError, match=f"satisfaction .Assistant {codes[1]}."):
        screens.save(reader, shown["place"], [marks[0], (None, 4, ""), marks[2]], NONE)
    for preferred in (None, "X", 1, "not said"):
        with pytest.raises(ProblemError):
            screens.save(reader, shown["place"], marks, preferred)
    assert ratings(beside) == []
    after = screens.save(reader, shown["place"], marks, codes[1])
    assert ratings(beside) == [(2, 1, 1, 2, "a"), (2, 2, 3, 4, "b"), (2, 3, 5, 1, "c")]
    before = screens.back(reader, after["place"])
    assert before["preference"] == codes[1]
    assert [before[f"satisfaction-{n}"] for n in (1, 2, 3)] == [1, 3, 5]
    screens.save(reader, before["place"], marks, NONE)
    assert screens.back(reader, after["place"])["preference"] == NONE


def test_other_codes_than_the_pages_own_are_refused(beside):
    reader, screens = readers(beside), Screens(beside, panels=3)
    place = screens.show(reader)["place"]
    with pytest.raises(ProblemError):
        screens.save(reader, place + "+B+C", [(1, 1, "")] * 3, NONE)
    with pytest.raises(ProblemError):
        screens.save(reader, place + "+B+C+D", [(1, 1, "")] * 3, NONE)


@pytest.fixture
def chatting(tmp_path):
    path = tmp_path / "study.db"
    make(path, mode="live", items=scenarios(turns=2))
    return path


def live(path, broker):
    return Screens(path, panels=1, chats=Chats(path, broker, lambda: PACE))


def test_a_live_chat_from_the_first_message_to_the_rating(chatting):
    async def scene():
        reader, screens = readers(chatting), live(chatting, Scripted())
        shown = screens.show(reader)
        place = shown["place"]
        assert shown["say"].startswith("Please give me thing")  # the scenario's opening, to be edited
        with pytest.raises(ProblemError, match="Please write something first"):
            screens.finish(reader, place)
        sent = await screens.send(reader, place, "Hello")
        assert "Hello" in sent["chat-1"]
        assert sent["say"] == ""
        assert "is writing" in sent["live"]
        for act in (screens.send(reader, place, "more"), screens.again(reader, place)):
            with pytest.raises(ProblemError, match="still answering"):
                await act
        with pytest.raises(ProblemError, match="still answering"):
            screens.finish(reader, place)
        heard = [text async for text in screens.watch(reader, place)]
        assert all(later.startswith(text) for text, later in pairwise(heard))  # it only grows
        settled = screens.settled(reader, place)
        assert settled.keys() == {"item", "note", "chat-1", "live", "place"}  # and nothing that a rater fills in
        assert "One message left." in settled["item"]
        assert settled["live"] == ""
        assert "A long enough answer." in settled["chat-1"]
        assert [text async for text in screens.watch(reader, place)] == []
        ended = screens.finish(reader, settled["place"])
        assert "rateable" in ended["item"]
        after = screens.save(reader, ended["place"], [(5, 4, "")], None)
        assert "2 of 9" in after["item"]
        assert after["say"] != ""

    asyncio.run(scene())
    assert ratings(chatting) == [(1, 1, 5, 4, "")]


def test_a_chat_that_failed_can_be_asked_again_with_what_was_written(chatting):
    async def scene():
        broker = Scripted(fail=RuntimeError("k-one"))
        reader, screens = readers(chatting), live(chatting, broker)
        place = screens.show(reader)["place"]
        await screens.send(reader, place, "Hello")
        heard = [text async for text in screens.watch(reader, place)]
        assert "could not answer just now" in heard[-1]
        settled = screens.settled(reader, place)
        assert "pending" in settled["item"]
        assert "Hello" in settled["chat-1"]
        assert "could not answer" not in settled["chat-1"]
        broker.fail = None
        again = await screens.again(reader, settled["place"])
        assert "say" not in again  # what is in the box stays
        assert "A long enough answer." in [text async for text in screens.watch(reader, place)][-1]

    asyncio.run(scene())


def test_an_arm_that_always_fails_gives_the_page_to_another(chatting):
    async def scene():
        reader, screens = readers(chatting), live(chatting, Scripted(fail=RuntimeError("k-one")))
        first = screens.show(reader)
        await screens.send(reader, first["place"], "Hello")
        for _ in range(4):
            _ = [text async for text in screens.watch(reader, first["place"])]
            await screens.again(reader, first["place"])
        _ = [text async for text in screens.watch(reader, first["place"])]
        settled = screens.settled(reader, first["place"])
        assert not settled["place"].startswith("1.")  # the next page, whole
        assert settled["say"].startswith("Please give me thing")

    asyncio.run(scene())


def test_a_page_opened_while_an_answer_is_on_its_way_joins_it(chatting):
    async def scene():
        reader, screens = readers(chatting), live(chatting, Scripted())
        place = screens.show(reader)["place"]
        await screens.send(reader, place, "Hello")
        first = screens.watch(reader, place)
        seen = await anext(first)
        assert seen
        opened = screens.show(reader)
        assert "is writing" in opened["live"]
        assert "did not arrive" not in opened["item"]
        rest = [text async for text in screens.watch(reader, opened["place"])]
        assert "A long enough answer." in rest[-1]

    asyncio.run(scene())

"""Answers on their way: written once whoever watches, stored before they are shown to their end."""

import asyncio
import sqlite3

import pytest
from scripted import PACE, Away, Scripted
from small_study import make, scenarios

from harness.errors import RatingError
from studyapp import session
from studyapp.chats import Chats
from studyapp.pacing import Pace


@pytest.fixture
def db(tmp_path):
    path = tmp_path / "study.db"
    make(path, mode="live", items=scenarios(turns=2))
    return path


@pytest.fixture
def rater(db):
    return session.who(db, session.join(db))


def said(db):
    connection = sqlite3.connect(db)
    try:
        return connection.execute(
            "SELECT role, content, finish, failed FROM turn ORDER BY number, role DESC"
        ).fetchall()
    finally:
        connection.close()


async def watched(chats, rater, position=1):
    answer = chats.answering(rater, position)
    return [text async for text in answer.watch()] if answer else []


async def over(chats, rater, position=1):
    while chats.answering(rater, position):
        await asyncio.sleep(0.01)


def test_what_was_written_is_stored_before_the_model_is_asked(db, rater):
    async def scene():
        broker = Scripted()
        chats = Chats(db, broker, lambda: PACE)
        await chats.ask(rater, 1, "Hello", failure="sorry")
        assert said(db)[0][:2] == ("user", "Hello")
        assert broker.asked == []  # ask returns at once: the task has not run yet
        shown = await watched(chats, rater)
        assert broker.asked == [["Hello"]]
        assert shown == sorted(shown, key=len)
        assert all(shown[-1].startswith(text) for text in shown)
        assert said(db)[1] == ("assistant", broker.text + " ", "stop", 0)

    asyncio.run(scene())


def test_two_who_ask_at_once_are_one_question_and_both_see_the_answer(db, rater):
    async def scene():
        broker = Scripted()
        chats = Chats(db, broker, lambda: PACE)
        await asyncio.gather(*(chats.ask(rater, 1, text, failure="sorry") for text in ("Hello", "Hello", "other")))
        one, two = await asyncio.gather(watched(chats, rater), watched(chats, rater))
        assert one[-1] == two[-1]
        assert broker.asked == [["Hello"]]
        assert len(said(db)) == 2

    asyncio.run(scene())


def test_an_answer_nobody_watches_is_kept(db, rater):
    async def scene():
        chats = Chats(db, Scripted(), lambda: PACE)
        await chats.ask(rater, 1, "Hello", failure="sorry")
        async for _ in chats.answering(rater, 1).watch():
            break  # the browser is gone
        await over(chats, rater)
        assert said(db)[1][2] == "stop"
        assert not session.at(db, rater, 1).item.rateable
        assert session.end_chat(db, rater, 1).item.rateable

    asyncio.run(scene())


def test_who_comes_later_gets_all_of_it_at_once(db, rater):
    async def scene():
        chats = Chats(db, Scripted(), lambda: PACE)
        await chats.ask(rater, 1, "Hello", failure="sorry")
        first = chats.answering(rater, 1).watch()
        for _ in range(3):
            seen = await anext(first)
        late = chats.answering(rater, 1).watch()
        assert (await anext(late)).startswith(seen)
        await over(chats, rater)

    asyncio.run(scene())


def test_a_failure_shows_one_sentence_and_the_same_turn_can_be_asked_again(db, rater):
    async def scene():
        broker = Scripted(fail=RuntimeError("arm k-one is out of memory"))
        chats = Chats(db, broker, lambda: PACE)
        await chats.ask(rater, 1, "Hello", failure="sorry")
        assert (await watched(chats, rater))[-1] == "sorry"
        assert said(db)[0][:2] == ("user", "Hello")
        assert session.at(db, rater, 1).item.panels[0].messages[-1].role == "user"
        broker.fail = None
        await chats.ask(rater, 1, "", failure="sorry")
        await over(chats, rater)
        assert broker.asked == [["Hello"], ["Hello"]]
        assert [(role, failed) for role, _, _, failed in said(db)] == [("user", 0), ("assistant", 1)]

    asyncio.run(scene())


def test_without_a_model_server_the_message_waits(db, rater, caplog):
    async def scene():
        broker = Away()
        chats = Chats(db, broker, lambda: PACE)
        await chats.ask(rater, 1, "Hello", failure="sorry")
        assert await watched(chats, rater) in ([], [""])
        assert said(db) == [("user", "Hello", None, 0)]
        assert "did not take up" in caplog.text
        chats.broker = Scripted()
        await chats.ask(rater, 1, "", failure="sorry")
        await over(chats, rater)
        assert len(said(db)) == 2

    asyncio.run(scene())


def test_a_refused_message_leaves_nothing_running(db, rater):
    async def scene():
        chats = Chats(db, Scripted(), lambda: PACE)
        for position, text in ((2, "not there yet"), (1, ""), (1, "x" * 5000)):
            with pytest.raises(RatingError):
                await chats.ask(rater, position, text, failure="sorry")
            assert chats.running == {}
        assert said(db) == []

    asyncio.run(scene())


def test_a_rater_who_withdraws_meanwhile_leaves_nothing_behind(db, rater, caplog):
    async def scene():
        chats = Chats(db, Scripted(), lambda: PACE)
        await chats.ask(rater, 1, "Hello", failure="sorry")
        await asyncio.to_thread(session.withdraw, db, rater)
        await over(chats, rater)
        assert said(db) == []
        assert chats.running == {}

    asyncio.run(scene())


def test_what_is_shown_does_not_depend_on_the_speed_of_the_model(tmp_path):
    """The events of a fast and a slow model are the same texts in the same order."""

    class Slow(Scripted):
        async def _write(self):
            async for piece in super()._write():
                await asyncio.sleep(0.002)
                yield piece

    async def scene(broker, path):
        make(path, mode="live", items=scenarios(turns=2))
        rater = session.who(path, session.join(path))
        chats = Chats(path, broker, lambda: Pace(cps=200, tick=0.05, delay=0.3))
        await chats.ask(rater, 1, "Hello", failure="sorry")
        return await watched(chats, rater)

    text = "Some words of an answer. " * 2
    fast = asyncio.run(scene(Scripted(text), tmp_path / "fast.db"))
    slow = asyncio.run(scene(Slow(text), tmp_path / "slow.db"))
    assert fast == slow
    assert [len(text) for text in fast] == [*range(0, 51, 10), 51]

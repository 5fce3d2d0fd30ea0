"""A whole live chat in a real Chromium with real models behind it: two tiny ones, in a model server of their own."""

import sqlite3
from contextlib import closing

import pytest
from playwright.sync_api import expect
from rater import join, mark, rater_at, save, say, wait_for_item
from served import Models, serving

from harness.serving import process
from studyapp import store
from tests.serving.live_study import ARMS, make_run

pytestmark = pytest.mark.browser


@pytest.fixture(scope="module")
def real(tmp_path_factory):
    """The real page over a live study whose arms are tiny models, loaded by the real model server."""
    run = make_run(tmp_path_factory.mktemp("models"))
    with process.serving(run.dir.root, 3) as handle:
        store.set_pace(run.dir.db, {"cps": 60.0, "tick": 0.2, "delay": 1.0, "key": "k"})
        with serving(run.dir.db, models=Models(handle.address, handle.secret)) as server:
            yield server


def test_two_chats_with_models_then_their_marks(browser, real):
    with rater_at(browser, real.url) as page:
        join(page)
        for item in (1, 2):
            wait_for_item(page, item)
            page.locator("#send").click()
            expect(page.locator("#chat-1 li.assistant")).to_have_count(1)
            expect(page.locator("#live .on-its-way")).to_have_count(0)
            say(page, "And then?")
            expect(page.locator("#chat-1 li.assistant")).to_have_count(2)
            expect(page.locator("#live .on-its-way")).to_have_count(0)
            shown = [one.inner_text() for one in page.locator("#chat-1 li.assistant").all()]
            with closing(sqlite3.connect(real.db)) as connection:
                stored = connection.execute(
                    "SELECT content FROM turn JOIN assignment ON assignment.id = turn.assignment"
                    " WHERE position = ? AND role = 'assistant' ORDER BY number",
                    (item,),
                ).fetchall()
            assert len(stored) == 2
            assert all(text.strip() and text.strip() in seen for (text,), seen in zip(stored, shown, strict=True))
            page.locator("#finish").click()
            page.locator("#marks-1").wait_for()
            assert not [arm for arm in ARMS if arm in page.content()]
            mark(page, 2 + item, item)
            save(page)
        assert page.complaints == []

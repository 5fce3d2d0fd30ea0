"""Live chats as raters have them: a real server, a real model server with scripted arms, a real Chromium."""

import re
import sqlite3

import pytest
from playwright.sync_api import expect
from rater import classes, join, mark, open_page, position, rater_at, save, say, wait_for_item
from served import serving, typing
from small_study import make, scenarios

pytestmark = pytest.mark.browser


def rows(served, sql):
    connection = sqlite3.connect(served.db)
    try:
        return connection.execute(sql).fetchall()
    finally:
        connection.close()


def test_a_whole_chat_then_its_marks(browser, live):
    with rater_at(browser, live.url) as page:
        join(page)
        expect(page.locator("#say textarea")).to_have_value(re.compile("Please give me thing"))
        for hidden in ("#marks-1", "#save", "#finish", "#again"):
            assert page.locator(hidden).is_hidden()
        page.locator("#send").click()
        writing = page.locator("#live .on-its-way")
        writing.wait_for()
        assert page.locator("#send").is_hidden()  # nothing to press while it is writing
        assert page.locator("#finish").is_hidden()
        expect(writing).to_have_count(0)
        expect(page.locator("#chat-1 li.assistant")).to_contain_text("It goes on for a while.")
        expect(page.get_by_text("2 messages left.")).to_be_visible()
        expect(page.locator("#say textarea")).to_have_value("")
        expect(page.locator("#say textarea")).to_be_focused()
        say(page, "An image please")
        assert '<img src="http://evil.example/y.png">' in page.locator("#chat-1 li.assistant").last.inner_text()
        page.locator("#finish").click()
        page.locator("#marks-1").wait_for()
        assert page.locator("#writing").is_hidden()
        mark(page, 4, 2)
        save(page)
        wait_for_item(page, 2)
        assert page.locator("#chat-1 li").count() == 0
        assert rows(live, "SELECT turns, ended_by, rated FROM tidy_live ORDER BY started_at DESC LIMIT 1") == [
            (2, "rater", 1)
        ]
        assert [url for url in page.requests if not url.startswith((live.url, "data:", "blob:"))] == []
        assert page.complaints == []


def test_a_whole_chat_by_keyboard(browser, live):
    with rater_at(browser, live.url) as page:
        join(page)
        page.locator("#say textarea").focus()
        page.keyboard.press("Control+End")
        page.keyboard.press("Shift+Enter")
        page.keyboard.type("Be brief. 12345")
        page.keyboard.press("Enter")
        expect(page.locator("#chat-1 li.assistant")).to_have_count(1)
        expect(page.locator("#chat-1 li.user div")).to_contain_text("\nBe brief. 12345")
        expect(page.locator("#say textarea")).to_be_focused()
        expect(page.locator("#viva-said")).to_contain_text("It goes on for a while.")  # what a screen reader reads out
        page.keyboard.press("Tab")
        page.keyboard.press("Tab")
        assert page.evaluate("document.activeElement.id") == "finish"
        page.keyboard.press("Enter")
        page.locator("#marks-1").wait_for()
        expect(page.locator("#satisfaction-1 input").first).to_be_focused()
        for key in ("5", "4", "Enter"):
            page.keyboard.press(key)
        wait_for_item(page, 2)
        last = rows(live, "SELECT satisfaction, goal_achievement FROM tidy_ratings ORDER BY created_at DESC LIMIT 1")
        assert last == [(5, 4)]


def test_a_chat_ends_at_its_limit(browser, live):
    with rater_at(browser, live.url, viewport={"width": 360, "height": 740}) as page:
        join(page)
        for number in range(3):
            say(page, f"Message {number}. " + "averyveryverylongword" * 5)
            assert page.evaluate("document.documentElement.scrollWidth") <= 360
        page.locator("#marks-1").wait_for()
        assert page.locator("#writing").is_hidden()
        expect(page.get_by_text("The chat has ended. Please rate it.")).to_be_visible()


def test_a_failure_keeps_the_message_and_can_be_tried_again(browser, live):
    with rater_at(browser, live.url) as page:
        join(page)
        page.locator("#say textarea").fill("please fail")
        page.locator("#send").click()
        page.locator("#again").wait_for()
        expect(page.locator("#chat-1 li.user")).to_contain_text("please fail")
        expect(page.get_by_text("the answer did not arrive")).to_be_visible()
        assert page.locator("#send").is_hidden()
        page.locator("#again").click()
        page.locator("#live .on-its-way").wait_for()
        expect(page.locator("#live .on-its-way")).to_have_count(0)
        page.locator("#again").wait_for()
        assert position(page) == 1


def test_a_page_loaded_anew_joins_the_answer(browser, live):
    with rater_at(browser, live.url) as page:
        join(page)
        page.locator("#say textarea").fill("tell me " + "a long word " * 60)
        page.locator("#send").click()
        page.locator("#live .on-its-way").wait_for()
        second = open_page(page.context, live.url)  # and a second window does too
        page.reload()
        for window in (page, second):
            wait_for_item(window, 1)
            expect(window.locator("#chat-1 li.assistant")).to_have_count(1)
            expect(window.locator("#chat-1 li.assistant")).to_contain_text("It goes on for a while.")
        asked = rows(live, "SELECT count(*), sum(attempt) FROM turn WHERE role = 'user' AND content LIKE 'tell me%'")
        assert asked == [(1, 1)]


def test_two_raters_chat_at_once(browser, live):
    with rater_at(browser, live.url) as one, rater_at(browser, live.url) as two:
        pages = {"one": one, "two": two}
        for page in pages.values():
            join(page)
        for turn in range(2):
            for name, page in pages.items():
                page.locator("#say textarea").fill(f"{name} says {turn}")
                page.locator("#send").click()
            for name, page in pages.items():
                expect(page.locator("#chat-1 li.assistant")).to_have_count(turn + 1)
                expect(page.locator("#chat-1 li.assistant").last).to_contain_text(f"to: {name} says {turn}")
                expect(page.locator("#live .on-its-way")).to_have_count(0)
        for name, page in pages.items():
            other = "two" if name == "one" else "one"
            assert other + " says" not in page.locator("#panels").inner_text()


def test_the_page_comes_back_after_a_restart_with_all_that_was_typed(browser, tmp_path):
    path = tmp_path / "study.db"
    make(path, mode="live", items=scenarios(turns=3), scenarios_per_rater=1)
    with typing(path) as models, serving(path, models=models) as server, rater_at(browser, server.url) as page:
        join(page)
        say(page, "The first message")
        page.locator("#say textarea").fill("half a thought")
        server.kill()
        page.locator("#send").click()
        page.wait_for_timeout(1000)
        port = int(re.search(r":(\d+)/", server.url)[1])
        expect(page.locator("#say textarea")).to_have_value("half a thought")
        with serving(path, port, models=models):
            # Gradio looks for the server by itself and loads the page anew once it is there
            expect(page.get_by_text("Connection Lost")).to_have_count(0)
            wait_for_item(page, 1)
            expect(page.locator("#chat-1 li.user")).to_contain_text("The first message")
            expect(page.locator("#say textarea")).to_have_value("half a thought")
            page.locator("#send").click()
            expect(page.locator("#chat-1 li.assistant").last).to_contain_text("to: half a thought")
            expect(page.locator("#say textarea")).to_have_value("")


def test_while_the_model_server_is_away_a_rater_waits_and_loses_nothing(browser, tmp_path):
    path = tmp_path / "study.db"
    make(path, mode="live", items=scenarios(turns=3), scenarios_per_rater=1)
    with typing(path) as models, serving(path, models=models) as server, rater_at(browser, server.url) as page:
        join(page)
        models.kill()
        page.locator("#say textarea").fill("into the silence")
        page.locator("#send").click()
        page.locator("#again").wait_for()
        expect(page.locator("#chat-1 li.user")).to_contain_text("into the silence")
        page.goto(server.url)
        expect(page.get_by_role("heading", name="A short break")).to_be_visible()
        assert page.url.endswith("/paused")
        with typing(path):
            page.goto(server.url)
            wait_for_item(page, 1)
            assert "pending" in classes(page)
            page.locator("#again").click()
            expect(page.locator("#chat-1 li.assistant")).to_contain_text("to: into the silence")

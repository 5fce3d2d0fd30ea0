"""The rating page as raters use it: a real server, a real Chromium."""

import contextlib
import sqlite3

import pytest
from playwright.sync_api import expect
from rater import join, mark, open_page, position, rate_items, save, shown, wait_for_item

pytestmark = pytest.mark.browser


@contextlib.contextmanager
def rater_at(browser, url, **context):
    """A page in a context of its own, with everything it requested and complained about."""
    own = browser.new_context(**context)
    page = own.new_page()
    page.requests, page.complaints = [], []
    page.on("request", lambda request: page.requests.append(request.url))
    page.on("console", lambda message: message.type == "error" and page.complaints.append(message.text))
    page.on("pageerror", lambda error: page.complaints.append(str(error)))
    page.on("dialog", lambda dialog: page.complaints.append(dialog.message))
    page.set_default_timeout(30_000)
    page.goto(url)
    try:
        yield page
    finally:
        own.close()


def stored(served):
    """The last rater's ratings: (position, satisfaction, goal achievement, comment, revision)."""
    connection = sqlite3.connect(served.db)
    try:
        return connection.execute(
            "SELECT position, satisfaction, goal_achievement, comment, revision FROM tidy_ratings"
            " WHERE rater = (SELECT label FROM rater ORDER BY id DESC LIMIT 1) ORDER BY position"
        ).fetchall()
    finally:
        connection.close()


def test_a_rater_consents_rates_leaves_comes_back_and_finishes(browser, served):
    with rater_at(browser, served.url) as page:
        assert "1 to 5" in page.content()
        expect(page.get_by_text("You will rate 9 chats")).to_be_visible()
        join(page)
        seen = rate_items(page, [(4, 5), (2, 1), (3, 3)])
        assert stored(served) == [(1, 4, 5, "", 1), (2, 2, 1, "", 1), (3, 3, 3, "", 1)]
        assert position(page) == 4

        context = page.context
        page.close()  # closing the tab is safe
        page = open_page(context, served.url)
        wait_for_item(page, 4)
        expect(page.get_by_text("4 of 9")).to_be_visible()
        seen += rate_items(page, [(1, 2), (5, 5), (4, 4), (3, 2), (2, 2), (1, 1)])
        expect(page.get_by_role("heading", name="Thank you")).to_be_visible()
        expect(page.get_by_role("button", name="Save and next")).to_have_count(0)
        assert len(stored(served)) == 9
        assert {item["assistant"] for item in seen} == {"Assistant A", "Assistant B", "Assistant C"}
        assert len({item["answer"] for item in seen}) == 9

        page.get_by_role("link", name="Start as a new rater").click()
        page.get_by_role("button", name="Leave").click()
        expect(page.get_by_role("button", name="Start rating")).to_be_visible()


def test_going_back_shows_the_rating_and_a_change_is_a_revision(browser, served):
    with rater_at(browser, served.url) as page:
        join(page)
        expect(page.get_by_role("button", name="Back")).to_be_disabled()
        page.get_by_label("Comment").fill("a <b>comment</b>\nof two lines")
        rate_items(page, [(4, 5), (2, 1)])
        page.get_by_role("button", name="Back").click()
        wait_for_item(page, 2)
        page.get_by_role("button", name="Back").click()
        wait_for_item(page, 1)
        expect(page.locator("#satisfaction").get_by_label("4")).to_be_checked()
        expect(page.locator("#goal_achievement").get_by_label("5")).to_be_checked()
        expect(page.get_by_label("Comment")).to_have_value("a <b>comment</b>\nof two lines")
        mark(page, 1, 5)
        save(page)
        save(page)  # item 2 as it is: no new revision
        wait_for_item(page, 3)
        assert stored(served) == [(1, 1, 5, "a <b>comment</b>\nof two lines", 2), (2, 2, 1, "", 1)]
        expect(page.locator("#satisfaction input:checked")).to_have_count(0)
        expect(page.get_by_label("Comment")).to_have_value("")


def test_a_missing_mark_is_asked_for_and_nothing_is_lost(browser, served):
    with rater_at(browser, served.url) as page:
        join(page)
        page.locator("#satisfaction").get_by_label("4").check()
        page.get_by_label("Comment").fill("kept")
        page.get_by_role("button", name="Save and next").click()
        expect(page.get_by_text("Please give a mark from 1 to 5 for the goal.")).to_be_visible()
        assert stored(served) == []
        page.locator("#goal_achievement").get_by_label("2").check()
        save(page)
        assert stored(served) == [(1, 4, 2, "kept", 1)]
        expect(page.get_by_text("Please give a mark")).to_have_count(0)


def test_two_quick_clicks_are_one_rating(browser, served):
    with rater_at(browser, served.url) as page:
        join(page)
        mark(page, 5, 4)
        page.get_by_role("button", name="Save and next").dblclick()
        wait_for_item(page, 2)
        page.wait_for_timeout(500)
        assert position(page) == 2
        assert stored(served) == [(1, 5, 4, "", 1)]


def test_the_whole_way_by_keyboard(browser, served):
    with rater_at(browser, served.url) as page:
        page.keyboard.press("Tab")
        page.keyboard.press("Space")
        page.keyboard.press("Tab")
        page.keyboard.press("Enter")
        wait_for_item(page, 1)
        page.locator("#satisfaction input").first.wait_for(state="attached")
        page.keyboard.press("4")
        page.keyboard.press("2")
        expect(page.locator("#goal_achievement").get_by_label("2")).to_be_checked()
        page.keyboard.press("Enter")
        wait_for_item(page, 2)
        assert page.evaluate("document.activeElement.tagName") == "H1"  # reading goes on at the new item

        page.locator("#satisfaction").get_by_label("1").focus()
        page.keyboard.press("Space")
        page.keyboard.press("ArrowRight")
        page.keyboard.press("ArrowRight")
        expect(page.locator("#satisfaction").get_by_label("3")).to_be_checked()
        page.keyboard.press("Tab")  # one step from scale to scale
        page.keyboard.press("Space")
        page.keyboard.press("ArrowLeft")
        expect(page.locator("#goal_achievement").get_by_label("5")).to_be_checked()
        page.keyboard.press("Tab")
        page.keyboard.type("12345 typed\nwith an Enter")
        page.keyboard.press("Control+Enter")
        wait_for_item(page, 3)
        assert stored(served) == [(1, 4, 2, "", 1), (2, 3, 5, "12345 typed\nwith an Enter", 1)]


def test_texts_of_models_are_shown_as_typed_and_call_nobody(browser, served):
    with rater_at(browser, served.url) as page:
        join(page)
        answer = shown(page)["answer"]
        assert '**bold** ![x](http://evil.example/x.png) <img src="http://evil.example/y.png"> <script>' in answer
        assert page.locator("#item img, #item script, #item strong, #item a").count() == 0
        rate_items(page, [(3, 3)] * 2)
        assert [url for url in page.requests if not url.startswith((served.url, "data:", "blob:"))] == []
        assert page.complaints == []


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_it_fits_a_small_phone(browser, served, scheme):
    size = {"width": 360, "height": 740}
    with rater_at(browser, served.url, viewport=size, color_scheme=scheme) as page:
        assert page.evaluate("document.documentElement.scrollWidth") <= 360
        join(page)
        page.locator("#form").wait_for()
        assert page.evaluate("document.documentElement.scrollWidth") <= 360
        box = page.locator("#satisfaction label").first.bounding_box()
        assert min(box["width"], box["height"]) >= 44  # a finger's width
        rate_items(page, [(5, 5)])


def test_a_window_left_open_does_not_overwrite_what_another_saved(browser, served):
    with rater_at(browser, served.url) as page:
        join(page)
        other = open_page(page.context, served.url)
        wait_for_item(other, 1)
        rate_items(page, [(4, 4)])
        mark(other, 1, 1)
        other.get_by_role("button", name="Save and next").click()
        expect(other.get_by_text("has been rated in another window")).to_be_visible()
        assert stored(served) == [(1, 4, 4, "", 1)]
        other.reload()
        wait_for_item(other, 2)


def test_a_second_rater_sees_other_codes(browser, served):
    with rater_at(browser, served.url) as one, rater_at(browser, served.url) as two:
        codes = []
        for page in (one, two):
            join(page)
            seen = rate_items(page, [(3, 3)] * 9)
            codes.append({item["answer"].split(" to ")[0]: item["assistant"] for item in seen})
        assert codes[0].keys() == codes[1].keys()
        assert sorted(codes[0].values()) == sorted(codes[1].values())

"""Prepared chats as raters rate them: a real server, a real Chromium."""

import sqlite3

import pytest
from playwright.sync_api import expect
from rater import join, mark, open_page, position, rate_items, rater_at, save, shown, wait_for_item

pytestmark = pytest.mark.browser


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
        assert page.url == served.url + "end"
        assert len(stored(served)) == 9
        assert {item["assistant"] for item in seen} == {"Assistant A", "Assistant B", "Assistant C"}
        assert len({item["answer"] for item in seen}) == 9

        page.get_by_role("link", name="Look at your ratings again").click()
        wait_for_item(page, 9)
        expect(page.locator("#satisfaction-1").get_by_label("1")).to_be_checked()
        mark(page, 2, 2)
        save(page)
        expect(page.get_by_role("heading", name="Thank you")).to_be_visible()
        assert stored(served)[-1] == (9, 2, 2, "", 2)

        page.get_by_role("link", name="Someone else's turn").click()
        page.get_by_role("button", name="Leave").click()
        expect(page.get_by_role("button", name="Start rating")).to_be_visible()


def test_going_back_shows_the_rating_and_a_change_is_a_revision(browser, served):
    with rater_at(browser, served.url) as page:
        join(page)
        expect(page.get_by_role("button", name="Back")).to_have_count(0)
        page.get_by_label("Comment").fill("a <b>comment</b>\nof two lines")
        rate_items(page, [(4, 5), (2, 1)])
        page.get_by_role("button", name="Back").click()
        wait_for_item(page, 2)
        page.get_by_role("button", name="Back").click()
        wait_for_item(page, 1)
        expect(page.locator("#satisfaction-1").get_by_label("4")).to_be_checked()
        expect(page.locator("#goal_achievement-1").get_by_label("5")).to_be_checked()
        expect(page.get_by_label("Comment")).to_have_value("a <b>comment</b>\nof two lines")
        mark(page, 1, 5)
        save(page)
        save(page)  # item 2 as it is: no new revision
        wait_for_item(page, 3)
        assert stored(served) == [(1, 1, 5, "a <b>comment</b>\nof two lines", 2), (2, 2, 1, "", 1)]
        expect(page.locator("#satisfaction-1 input:checked")).to_have_count(0)
        expect(page.get_by_label("Comment")).to_have_value("")


def test_a_missing_mark_is_asked_for_and_nothing_is_lost(browser, served):
    with rater_at(browser, served.url) as page:
        join(page)
        page.locator("#satisfaction-1").get_by_label("4").check()
        page.get_by_label("Comment").fill("kept")
        page.get_by_role("button", name="Save and next").click()
        expect(page.get_by_text("Please give a mark from 1 to 5 for the goal.")).to_be_visible()
        assert stored(served) == []
        page.locator("#goal_achievement-1").get_by_label("2").check()
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
        page.get_by_role("checkbox").focus()
        page.keyboard.press("Space")
        page.keyboard.press("Tab")
        page.keyboard.press("Enter")
        wait_for_item(page, 1)
        page.keyboard.press("4")
        page.keyboard.press("2")
        expect(page.locator("#goal_achievement-1").get_by_label("2")).to_be_checked()
        page.keyboard.press("Enter")
        wait_for_item(page, 2)
        assert page.evaluate("document.activeElement.tagName") == "H1"  # reading goes on at the new item

        page.locator("#satisfaction-1").get_by_label("1").focus()
        page.keyboard.press("Space")
        page.keyboard.press("ArrowRight")
        page.keyboard.press("ArrowRight")
        expect(page.locator("#satisfaction-1").get_by_label("3")).to_be_checked()
        page.keyboard.press("Tab")  # one step from scale to scale
        page.keyboard.press("Space")
        page.keyboard.press("ArrowLeft")
        expect(page.locator("#goal_achievement-1").get_by_label("5")).to_be_checked()
        page.keyboard.press("Tab")
        page.keyboard.type("12345 typed\nwith an Enter")
        page.keyboard.press("Control+Enter")
        wait_for_item(page, 3)
        assert stored(served) == [(1, 4, 2, "", 1), (2, 3, 5, "12345 typed\nwith an Enter", 1)]

        page.locator("#satisfaction-1").get_by_label("1").focus()
        page.keyboard.press("5")  # inside a question a number answers it and goes on to the next
        page.keyboard.press("1")
        page.keyboard.press("Enter")
        wait_for_item(page, 4)
        assert stored(served)[-1] == (3, 5, 1, "", 1)


def test_texts_of_models_are_shown_as_typed_and_call_nobody(browser, served):
    with rater_at(browser, served.url) as page:
        join(page)
        answer = shown(page)["answer"]
        assert '**bold** ![x](http://evil.example/x.png) <img src="http://evil.example/y.png"> <script>' in answer
        assert page.locator(":is(#item, #panels) :is(img, script, strong, a, iframe)").count() == 0
        rate_items(page, [(3, 3)] * 2)
        page.get_by_role("button", name="Report a problem").click()
        page.get_by_label("What is wrong").fill('<img src="http://evil.example/z.png">')
        page.locator("#report").click()
        expect(page.get_by_text("will read it")).to_be_visible()
        assert [url for url in page.requests if not url.startswith((served.url, "data:", "blob:"))] == []
        assert page.complaints == []


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_it_fits_a_small_phone(browser, served, scheme):
    size = {"width": 360, "height": 740}
    with rater_at(browser, served.url, viewport=size, color_scheme=scheme) as page:
        assert page.evaluate("document.documentElement.scrollWidth") <= 360
        join(page)
        page.locator("#marks-1").wait_for()
        assert page.evaluate("document.documentElement.scrollWidth") <= 360
        box = page.locator("#satisfaction-1 label").first.bounding_box()
        assert min(box["width"], box["height"]) >= 44  # a finger's width
        background = page.evaluate("getComputedStyle(document.querySelector('gradio-app')).backgroundColor")
        assert (sum(map(int, background.strip("rgb()").split(","))) < 200) == (scheme == "dark")
        rate_items(page, [(5, 5)])


def test_a_window_left_open_does_not_overwrite_what_another_saved(browser, served):
    with rater_at(browser, served.url) as page:
        join(page)
        other = open_page(page.context, served.url)
        wait_for_item(other, 1)
        rate_items(page, [(4, 4)])
        mark(other, 1, 1)
        other.get_by_role("button", name="Save and next").click()
        expect(other.get_by_text("has been changed in another window")).to_be_visible()
        assert stored(served) == [(1, 4, 4, "", 1)]
        other.reload()
        wait_for_item(other, 2)


def test_the_browsers_own_back_button_brings_no_second_rating(browser, served):
    with rater_at(browser, served.url) as page:
        join(page)
        rate_items(page, [(4, 4)])
        page.get_by_role("link", name="Go on at another device").click()
        page.get_by_role("button", name="Make my link").wait_for()
        page.go_back()
        wait_for_item(page, 2)
        rate_items(page, [(2, 3)])
        page.go_back()  # to where the rater consented
        wait_for_item(page, 3)
        page.go_forward()
        wait_for_item(page, 3)
        assert stored(served) == [(1, 4, 4, "", 1), (2, 2, 3, "", 1)]


def test_two_raters_at_once_each_have_their_own(browser, served):
    with rater_at(browser, served.url) as one, rater_at(browser, served.url) as two:
        pages = {"one": one, "two": two}
        answers = {"one": [], "two": []}
        for page in pages.values():
            join(page)
        for number in range(9):  # in turns, so that each click of one falls between two of the other
            for name, page in pages.items():
                answers[name] += rate_items(page, [(1 + number % 5, 3)])
        codes = [
            {item["answer"].split(" to ")[0]: item["assistant"] for item in answers[name]} for name in ("one", "two")
        ]
        assert codes[0].keys() == codes[1].keys()
        assert sorted(codes[0].values()) == sorted(codes[1].values())
        assert codes[0] != codes[1]  # one rater's A is not the other's
        assert [row[1] for row in stored(served)] == [1 + number % 5 for number in range(9)]


def test_what_is_typed_and_not_saved_outlives_the_page(browser, served):
    with rater_at(browser, served.url) as page:
        join(page)
        page.locator("#satisfaction-1").get_by_label("4").check()
        page.get_by_label("Comment").fill("half a thou")
        page.reload()
        wait_for_item(page, 1)
        expect(page.get_by_label("Comment")).to_have_value("half a thou")
        expect(page.locator("#satisfaction-1").get_by_label("4")).to_be_checked()
        page.locator("#goal_achievement-1").get_by_label("3").check()
        save(page)
        assert stored(served) == [(1, 4, 3, "half a thou", 1)]
        expect(page.get_by_label("Comment")).to_have_value("")
        page.reload()
        wait_for_item(page, 2)
        expect(page.get_by_label("Comment")).to_have_value("")
        assert page.evaluate("JSON.stringify({...sessionStorage})") == "{}"


def test_the_page_speaks_the_language_that_the_rater_chooses(browser, served):
    with rater_at(browser, served.url) as page:
        page.get_by_role("button", name="Deutsch").click()
        expect(page.get_by_text("Sie bewerten 9 Gespräche")).to_be_visible()
        join(page)
        expect(page.get_by_role("button", name="Speichern und weiter")).to_be_visible()
        expect(page.get_by_role("radiogroup", name="Wie zufrieden sind Sie mit dem Assistenten?")).to_be_visible()
        expect(page.get_by_text("1 von 9")).to_be_visible()
        assert page.evaluate("document.documentElement.lang") == "de"
        page.get_by_role("button", name="Speichern und weiter").click()
        expect(page.get_by_text("Bitte vergeben Sie eine Note")).to_be_visible()
        page.get_by_role("link", name="Sprache").click()
        page.get_by_role("button", name="English").click()
        wait_for_item(page, 1)
        expect(page.get_by_role("button", name="Save and next")).to_be_visible()
        assert page.evaluate("document.documentElement.lang") == "en"

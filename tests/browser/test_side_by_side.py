"""Up to four chats on one page, a page for practice before and questions after: a real server, a real Chromium."""

import sqlite3

import pytest
from playwright.sync_api import expect
from rater import classes, join, mark, rater_at, save, wait_for_item

pytestmark = pytest.mark.browser


def rows(served, sql):
    connection = sqlite3.connect(served.db)
    try:
        return connection.execute(sql).fetchall()
    finally:
        connection.close()


def practise(page):
    """Rate the page for practice and read what comes back."""
    expect(page.get_by_text("For practice")).to_be_visible()
    mark(page, 5, 5)
    page.locator("#save").click()
    expect(page.get_by_text("Most people give 1 or 2 here.")).to_be_visible()
    expect(page.locator("#save")).to_be_hidden()
    page.locator("#next").click()
    wait_for_item(page, 2)


def test_four_chats_are_rated_and_one_preferred(browser, beside):
    with rater_at(browser, beside.url, viewport={"width": 1400, "height": 900}) as page:
        join(page)
        assert page.locator("#panel-2").is_hidden()
        practise(page)
        assert "panels-4" in classes(page)
        headings = [page.locator(f"#panel-{n} h2").inner_text() for n in range(1, 5)]
        assert len(set(headings)) == 4
        tops = {page.locator(f"#marks-{n}").bounding_box()["y"] for n in range(1, 5)}
        assert len(tops) == 1  # the marks of all four stand in one line
        names = [page.locator(f"#satisfaction-{n}").get_attribute("aria-labelledby") for n in range(1, 5)]
        assert len(set(names)) == 4  # and a screen reader can tell them apart
        for n in range(1, 5):
            mark(page, n, 6 - n, panel=n)
        page.locator("#comment-3 textarea").fill("third")
        page.locator("#save").click()
        expect(page.get_by_text("Please say which one you would rather use again")).to_be_visible()
        page.locator("#preference").get_by_text(headings[1], exact=True).click()
        save(page)
        found = rows(beside, "SELECT place, satisfaction, goal_achievement, comment FROM tidy_ratings ORDER BY place")
        assert found == [(1, 1, 5, ""), (2, 2, 4, ""), (3, 3, 3, "third"), (4, 4, 2, "")]
        assert rows(beside, "SELECT code FROM preference") == [(headings[1].removeprefix("Assistant "),)]
        page.get_by_role("button", name="Back").click()
        wait_for_item(page, 2)
        expect(page.locator("#preference").get_by_label(headings[1])).to_be_checked()
        expect(page.locator("#comment-3 textarea")).to_have_value("third")
        assert [url for url in page.requests if not url.startswith((beside.url, "data:", "blob:"))] == []
        assert page.complaints == []


def test_all_of_it_by_keyboard_to_the_completion_code(browser, beside):
    with rater_at(browser, beside.url, viewport={"width": 1400, "height": 900}) as page:
        join(page)
        for key in ("1", "2", "Enter"):
            page.keyboard.press(key)
        expect(page.get_by_text("Most people give 1 or 2 here.")).to_be_visible()
        page.keyboard.press("Enter")
        for item in (2, 3):
            wait_for_item(page, item)
            page.locator("#preference").wait_for()
            page.locator("#item h1").focus()
            page.keyboard.press("ArrowRight")
            assert page.evaluate("document.activeElement.closest('.place').id") == "panel-1"
            for _ in range(5):
                page.keyboard.press("ArrowRight")
            assert page.evaluate("document.activeElement.closest('.place').id") == "panel-4"
            page.keyboard.press("ArrowLeft")
            assert page.evaluate("document.activeElement.closest('.place').id") == "panel-3"
            for key in "12345123":
                page.keyboard.press(key)
            page.keyboard.press("5")  # the fifth answer: no preference
            expect(page.locator("#preference").get_by_label("No preference")).to_be_checked()
            page.keyboard.press("Enter")
        page.wait_for_url("**/questions")
        for _ in range(6):  # every pair of four
            page.keyboard.press("Tab")
            while page.evaluate("document.activeElement.type") != "radio":
                page.keyboard.press("Tab")
            page.keyboard.press("Space")
            page.keyboard.press("ArrowDown")
        page.get_by_role("button", name="Finish").focus()
        page.keyboard.press("Enter")
        expect(page.get_by_text("THANKS-42")).to_be_visible()
        label = "(SELECT label FROM rater ORDER BY id DESC LIMIT 1)"
        assert rows(beside, f"SELECT count(*) FROM tidy_ratings WHERE rater = {label}") == [(8,)]
        assert rows(beside, f"SELECT count(larger) FROM tidy_guesses WHERE rater = {label}") == [(6,)]


def test_four_chats_fit_a_small_phone(browser, beside):
    with rater_at(browser, beside.url, viewport={"width": 360, "height": 740}, color_scheme="dark") as page:
        join(page)
        practise(page)
        page.locator("#marks-4").wait_for()
        assert page.evaluate("document.documentElement.scrollWidth") <= 360
        tops = [page.locator(f"#panel-{n}").bounding_box()["y"] for n in range(1, 5)]
        assert tops == sorted(tops)  # one below the other
        for n in range(1, 5):
            mark(page, 2, 3, panel=n)
        page.locator("#preference").get_by_text("No preference").click()
        save(page)
        wait_for_item(page, 3)

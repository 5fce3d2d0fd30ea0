"""A rater with a real Chromium: what a test needs to drive the rating page, on any study.

with chromium() as browser:
    page = open_page(browser, url)
    join(page)
    rate_items(page, [(4, 5), (2, 1)])
"""

import contextlib
import re
import shutil
from collections.abc import Iterator, Sequence
from pathlib import Path

from playwright.sync_api import Browser, BrowserContext, Page, expect, sync_playwright

# Chromium's own traffic to its maker is switched off, so that every request a test sees is the page's.
QUIET = (
    *("--no-sandbox", "--disable-gpu", "--disable-background-networking", "--disable-component-update"),
    *("--disable-sync", "--no-first-run"),
)
PATIENCE_MS = 30_000
"""How long to wait for the page on a slow and busy machine."""


def chromium_path() -> str | None:
    """Where Debian's Chromium is, None where there is none."""
    places = [shutil.which("chromium"), shutil.which("chromium-browser"), shutil.which("google-chrome")]
    return next((place for place in places if place and Path(place).exists()), None)


@contextlib.contextmanager
def chromium() -> Iterator[Browser]:
    """A headless Chromium, closed at the end."""
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium_path(), args=list(QUIET))
        try:
            yield browser
        finally:
            browser.close()


def open_page(browser: Browser | BrowserContext, url: str, **context: object) -> Page:
    """A page of a rater of its own (its own cookies), at `url`."""
    page = browser.new_page(**context) if context else browser.new_page()
    page.set_default_timeout(PATIENCE_MS)
    page.goto(url)
    return page


def join(page: Page) -> None:
    """Consent, and wait for the first item."""
    page.get_by_role("checkbox").check()
    page.get_by_role("button", name="Start rating").click()
    wait_for_item(page)


def wait_for_item(page: Page, position: int | None = None) -> None:
    """Wait until an item is there (the one at `position`, if given) and can be rated."""
    where = f"#item .at-{position}" if position else "#item .viva"
    page.locator(where).wait_for()
    if position:
        page.locator("#form").wait_for()


def position(page: Page) -> int | None:
    """Which item is shown, None at the end."""
    found = re.search(r"\bat-(\d+)", page.locator("#item .viva").get_attribute("class") or "")
    return int(found.group(1)) if found else None


def shown(page: Page) -> dict[str, str]:
    """What the rater reads of the current item: the assistant's label, the goal, the answer."""
    return {
        "assistant": page.locator("#item h1").inner_text(),
        "goal": page.locator("#item dd").first.inner_text(),
        "answer": page.locator("#item li.assistant div").last.inner_text(),
    }


def mark(page: Page, satisfaction: int, goal: int) -> None:
    """Choose both marks by mouse."""
    page.locator("#satisfaction").get_by_text(str(satisfaction), exact=True).click()
    page.locator("#goal_achievement").get_by_text(str(goal), exact=True).click()


def save(page: Page) -> None:
    """Save, and wait for what comes next; returns once the page shows the rating as saved."""
    before = page.locator("#item .viva").get_attribute("class") or ""
    page.get_by_role("button", name="Save and next").click()
    expect(page.locator("#item .viva")).not_to_have_class(before, timeout=PATIENCE_MS)


def rate_items(page: Page, ratings: Sequence[tuple[int, int]]) -> list[dict[str, str]]:
    """Rate the next items, (satisfaction, goal achievement) each; returns what was shown for each."""
    seen = []
    for satisfaction, goal in ratings:
        seen.append(shown(page))
        mark(page, satisfaction, goal)
        save(page)
    return seen

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
PATIENCE_MS = 120_000
"""How long to wait for the page on a slow and busy machine."""


def chromium_path() -> str | None:
    """Where Debian's Chromium is, None where there is none."""
    places = [shutil.which("chromium"), shutil.which("chromium-browser"), shutil.which("google-chrome")]
    return next((place for place in places if place and Path(place).exists()), None)


@contextlib.contextmanager
def chromium() -> Iterator[Browser]:
    """A headless Chromium, closed at the end."""
    expect.set_options(timeout=PATIENCE_MS)
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


@contextlib.contextmanager
def rater_at(browser: Browser, url: str, **context: object) -> Iterator[Page]:
    """A page in a context of its own, with everything it requested and complained about."""
    own = browser.new_context(**context)
    page = own.new_page()
    page.requests, page.complaints = [], []
    page.on("request", lambda request: page.requests.append(request.url))
    page.on("console", lambda message: message.type == "error" and page.complaints.append(message.text))
    page.on("pageerror", lambda error: page.complaints.append(str(error)))
    page.on("dialog", lambda dialog: page.complaints.append(dialog.message))
    page.set_default_timeout(PATIENCE_MS)
    page.goto(url)
    try:
        yield page
    finally:
        own.close()


def join(page: Page) -> None:
    """Consent, and wait for the first item."""
    page.get_by_role("checkbox").check()
    page.locator("form[action$='/join'] button").click()
    wait_for_item(page)


def wait_for_item(page: Page, position: int | None = None) -> None:
    """Wait until an item is there: the one at `position`, if given."""
    page.locator(f"#item .at-{position}" if position else "#item .viva[class*=at-]").wait_for()
    page.locator("#panel-1").wait_for()


def classes(page: Page) -> set[str]:
    """What the page says of the item: mode, place, whether it can be rated."""
    return set((page.locator("#item .viva").get_attribute("class") or "").split())


def position(page: Page) -> int | None:
    """Which item is shown, None at the end."""
    if not page.locator("#item .viva").count():
        return None
    found = re.search(r"\bat-(\d+)", " ".join(classes(page)))
    return int(found.group(1)) if found else None


def shown(page: Page) -> dict[str, str]:
    """What the rater reads of the current item: the assistant's label, the goal, the answer."""
    return {
        "assistant": page.locator("#item h1").inner_text(),
        "goal": page.locator("#item dd").first.inner_text(),
        "answer": page.locator("#chat-1 li.assistant div").last.inner_text(),
    }


def mark(page: Page, satisfaction: int, goal: int, panel: int = 1) -> None:
    """Choose both marks of a panel by mouse."""
    page.locator(f"#satisfaction-{panel}").get_by_text(str(satisfaction), exact=True).click()
    page.locator(f"#goal_achievement-{panel}").get_by_text(str(goal), exact=True).click()


def save(page: Page) -> None:
    """Save, and wait for what comes next; returns once the page shows the rating as saved."""
    before = position(page)
    page.locator("#save").click()
    expect(page.locator(f"#item .at-{before}")).to_have_count(0)
    page.wait_for_load_state()


def rate_items(page: Page, ratings: Sequence[tuple[int, int]]) -> list[dict[str, str]]:
    """Rate the next items, (satisfaction, goal achievement) each; returns what was shown for each."""
    seen = []
    for satisfaction, goal in ratings:
        seen.append(shown(page))
        mark(page, satisfaction, goal)
        save(page)
    return seen


def say(page: Page, text: str) -> None:
    """Send a message of a live chat, and wait for the whole answer."""
    answers = page.locator("#chat-1 li.assistant")
    before = answers.count()
    page.locator("#say textarea").fill(text)
    page.locator("#send").click()
    expect(answers).to_have_count(before + 1)
    expect(page.locator("#live .on-its-way")).to_have_count(0)

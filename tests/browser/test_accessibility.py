"""axe-core looks at every page that a rater or the study's owner meets, light and dark; it finds nothing serious."""

import pytest
from owned_study import make_owned
from playwright.sync_api import expect
from rater import join, mark, rater_at, save, say, wait_for_item
from served import serving

from studyapp import owner_lock, store_owner_acts

pytestmark = pytest.mark.browser

axe = pytest.importorskip("axe_playwright_python.sync_playwright", reason="axe-playwright-python is not installed")

SCHEMES = ["light", "dark"]


def faults(page, where):
    """What axe-core finds to be serious or critical, one line each."""
    found = axe.Axe().run(page).response["violations"]
    return [
        f"{where}: {fault['id']} ({fault['impact']}): {node['html'][:150]}"
        for fault in found
        if fault["impact"] in ("serious", "critical")
        for node in fault["nodes"]
    ]


@pytest.mark.parametrize("scheme", SCHEMES)
def test_prepared_chats_and_the_pages_around_them(browser, served, scheme):
    with rater_at(browser, served.url, color_scheme=scheme) as page:
        found = faults(page, "consent")
        join(page)
        mark(page, 2, 3)
        found += faults(page, "an item")
        page.locator("#satisfaction-1 input").nth(1).press("Enter")
        wait_for_item(page, 2)
        page.locator("#save").click()
        page.locator("#note .viva-note").wait_for()
        found += faults(page, "a missing mark")
        for name in ("device", "leave", "withdraw", "language"):
            page.goto(f"{served.url}{name}")
            found += faults(page, name)
        assert found == []


@pytest.mark.parametrize("scheme", SCHEMES)
def test_side_by_side_practice_and_questions(browser, beside, scheme):
    with rater_at(browser, beside.url, color_scheme=scheme, viewport={"width": 1400, "height": 900}) as page:
        join(page)
        mark(page, 1, 1)
        page.locator("#save").click()
        page.locator("#next").wait_for()
        found = faults(page, "feedback")
        page.locator("#next").click()
        for item in (2, 3):
            wait_for_item(page, item)
            for n in range(1, 5):
                mark(page, 3, 3, panel=n)
            page.locator("#preference").get_by_text("No preference").click()
            found += faults(page, "side by side")
            save(page)
        page.wait_for_url("**/questions")
        found += faults(page, "questions")
        for pair in page.locator("fieldset").all():
            pair.locator("input").last.check()
        page.get_by_role("button", name="Finish").click()
        expect(page.get_by_text("THANKS-42")).to_be_visible()
        found += faults(page, "the end")
        assert found == []


@pytest.mark.parametrize("scheme", SCHEMES)
def test_a_live_chat(browser, live, scheme):
    with rater_at(browser, live.url, color_scheme=scheme) as page:
        join(page)
        found = faults(page, "before the first message")
        page.locator("#send").click()
        page.locator("#live .on-its-way").wait_for()
        found += faults(page, "while it is writing")
        expect(page.locator("#live .on-its-way")).to_have_count(0)
        say(page, "And more")
        found += faults(page, "answered")
        page.locator("#finish").click()
        page.locator("#marks-1").wait_for()
        found += faults(page, "to be rated")
        assert found == []


@pytest.mark.parametrize("scheme", SCHEMES)
def test_the_owners_pages(browser, tmp_path, scheme):
    db = make_owned(tmp_path / "study.db")
    owner_lock.seal(db, "a long password")
    with serving(db) as server, rater_at(browser, f"{server.url}owner", color_scheme=scheme) as page:
        found = faults(page, "login")
        for password, shown in (("a wrong password", "a refused login"), ("a long password", "progress")):
            page.get_by_label("Password").fill(password)
            page.get_by_role("button", name="Log in").click()
            page.get_by_text("That is not" if shown == "a refused login" else "Full cells").first.wait_for()
            found += faults(page, shown)
        for name, heading in (("raters", "Raters"), ("notes", "Comments and problems"), ("export", "Export")):
            page.goto(f"{server.url}owner/{name}")
            expect(page.get_by_role("heading", level=1)).to_have_text(heading)
            found += faults(page, name)
        page.goto(f"{server.url}owner/invites")
        page.get_by_label("How many").fill("2")
        page.get_by_role("button", name="Make links").click()
        page.get_by_label("New links").wait_for()
        found += faults(page, "invites")
        store_owner_acts.set_state(db, "close", "cli")
        page.goto(f"{server.url}owner/log")
        expect(page.get_by_role("cell", name="close")).to_be_visible()
        found += faults(page, "log")
        page.goto(f"{server.url}owner")
        expect(page.get_by_text("Arms, by number")).to_be_visible()
        found += faults(page, "progress of a closed study")
        assert found == []

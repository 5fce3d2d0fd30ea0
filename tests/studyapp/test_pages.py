"""The plain pages over HTTP, with the real server: joining, links, another device, withdrawing, questions, the end."""

import contextlib
import re
import sqlite3

import pytest
from served import Client, serving, typing
from small_study import make, scenarios

from studyapp import store, store_owner_acts


def rows(db, sql, *values):
    connection = sqlite3.connect(db)
    try:
        return connection.execute(sql, values).fetchall()
    finally:
        connection.close()


@pytest.fixture(scope="module")
def served(tmp_path_factory):
    """An open study of one scenario and three arms, with questions and a completion URL."""
    path = tmp_path_factory.mktemp("pages") / "study.db"
    url = "https://app.prolific.com/submissions/complete?cc=C1234"
    make(path, scenarios_per_rater=1, questions=True, completion_url=url)
    with serving(path) as server:
        yield server


@pytest.fixture(scope="module")
def invited(tmp_path_factory):
    """A study by invitation, in German."""
    path = tmp_path_factory.mktemp("invited") / "study.db"
    make(path, open_join=False, language="de", consent="Unser eigener Text.\n\nZwei Absätze.")
    with serving(path) as server:
        yield server


@pytest.fixture
def rater(served, request):
    with Client(served.url, session=request.node.name[:60]) as client:
        assert client.join().status_code == 303
        yield client


def test_joining_takes_consent_and_sets_a_careful_cookie(served):
    with Client(served.url) as client:
        page = client.http.get("/join")
        assert "Version 1 of this text." in page.text
        assert "You will rate 3 chats" in page.text
        before = store.counts(served.db).raters
        refused = client.post("/join", data={"consent": "no"})
        assert refused.status_code == 400
        assert "tick the box" in refused.text
        assert store.counts(served.db).raters == before
        cookie = client.join().headers["set-cookie"]
        assert "HttpOnly" in cookie
        assert "SameSite=lax" in cookie
        assert "Path=/;" in cookie
        client.join()  # a double click
        assert store.counts(served.db).raters == before + 1
        assert client.http.get("/join").status_code == 303
        last = rows(served.db, "SELECT consented_at IS NOT NULL, consent_version FROM rater ORDER BY id DESC LIMIT 1")
        assert last == [(1, 1)]


def test_an_invitation_is_shown_by_get_and_used_up_by_post(invited):
    with Client(invited.url) as client:
        assert "auf Einladung" in client.http.get("/join").text
        assert client.join().status_code == 409
        (token,) = store_owner_acts.invite(invited.db, 1, "owner")
        for _ in range(2):  # a program that looks at mails opens the link
            page = client.http.get(f"/join/{token}")
            assert page.status_code == 200
            assert "<p>Zwei Absätze.</p>" in page.text
        assert rows(invited.db, "SELECT used_at FROM invite WHERE used_at IS NOT NULL") == []
        assert client.post(f"/join/{token}", data={}).status_code == 400  # no consent, not used up
        assert client.join(f"/join/{token}").headers["location"] == "/"
        assert "Assistent" in client.show().text
    with Client(invited.url) as second:
        assert second.http.get(f"/join/{token}").status_code == 200  # it does not say whether a link is good
        used = second.join(f"/join/{token}")
        assert used.status_code == 404
        assert "schon benutzt" in used.text
        assert not second.http.cookies


def test_a_token_counts_only_in_the_path(invited):
    (token,) = store_owner_acts.invite(invited.db, 1, "owner")
    with Client(invited.url) as client:
        assert client.join(f"/join?token={token}").status_code == 409
        assert rows(invited.db, "SELECT count(*) FROM invite WHERE used_at IS NULL")[0][0] == 1


def test_prolifics_parameters_are_kept_apart_and_one_person_joins_once(served):
    link = "?PROLIFIC_PID=5f7a0c12&STUDY_ID=abc&SESSION_ID=s-1"
    with Client(served.url) as client:
        page = client.http.get(f"/join{link}")
        hidden = dict(re.findall(r'<input type="hidden" name="([A-Z_]+)" value="([^"]*)">', page.text))
        assert hidden == {"PROLIFIC_PID": "5f7a0c12", "STUDY_ID": "abc", "SESSION_ID": "s-1"}
        assert "so that you can be paid" in page.text
        assert client.join(**hidden).status_code == 303
        kept = rows(served.db, "SELECT platform, person, study, session FROM crowd")
        assert kept == [("prolific", "5f7a0c12", "abc", "s-1")]
        assert "5f7a0c12" not in client.show().text
    with Client(served.url) as again:
        refused = again.join(**hidden)
        assert refused.status_code == 409
        assert "has joined already" in refused.text
    with Client(served.url) as odd:
        page = odd.http.get('/join?PROLIFIC_PID="><script>alert(1)</script>&STUDY_ID=x')
        assert "<script" not in page.text
        assert "PROLIFIC_PID" not in page.text


def test_a_return_link_brings_a_rater_to_another_device(served, rater):
    rater.show()
    rater.rate(4, 4)
    shown = rater.http.get("/device")
    assert "/continue/" not in shown.text
    made = rater.post("/device").text
    link = re.search(r"http://[\w.:]+(/continue/[\w-]+)", made)[1]
    assert 'href="mailto:?subject=' in made
    with Client(served.url, session="elsewhere") as other:
        assert "Welcome back" in other.http.get(link).text
        assert not other.http.cookies  # opening it changes nothing
        assert other.post(link).headers["location"] == "/"
        assert "2 of 3" in other.show().text
    newer = re.search(r"http://[\w.:]+(/continue/[\w-]+)", rater.post("/device").text)[1]
    with Client(served.url) as other:
        old = other.post(link)
        assert old.status_code == 404
        assert "not valid" in old.text
        assert other.post(newer).status_code == 303


def test_leaving_lets_someone_else_join(rater):
    assert "no longer know you" in rater.http.get("/leave").text
    left = rater.post("/leave")
    assert left.headers["location"] == "/join"
    assert left.headers["clear-site-data"] == '"storage"'
    assert not rater.http.cookies


def test_withdrawing_takes_a_confirmation_and_deletes_everything(served, rater):
    rater.show()
    label = rows(served.db, "SELECT label FROM rater ORDER BY id DESC LIMIT 1")[0][0]
    rater.rate(4, 4, comment="to be deleted")
    assert "cannot be undone" in rater.http.get("/withdraw").text
    assert rater.post("/withdraw").status_code == 400
    assert rows(served.db, "SELECT count(*) FROM rating_event WHERE comment = 'to be deleted'") == [(1,)]
    gone = rater.post("/withdraw", data={"confirm": "yes"})
    assert gone.headers["location"] == "/withdrawn"
    assert "Your data are deleted" in rater.http.get("/withdrawn").text
    assert not rater.http.cookies
    assert rows(served.db, "SELECT count(*) FROM rating_event WHERE comment = 'to be deleted'") == [(0,)]
    assert rows(served.db, "SELECT count(*) FROM rater WHERE label = ?", label) == [(0,)]
    assert rows(served.db, "SELECT count(*) FROM withdrawal WHERE label = ?", label) == [(1,)]
    assert rater.show().status_code == 401


def test_a_language_is_chosen_on_a_page_and_kept(served, rater):
    assert "Assistant" in rater.show().text
    chosen = rater.post("/language", data={"language": "de", "to": "/leave"})
    assert chosen.headers["location"] == "/leave"
    assert "Als jemand Neues anfangen?" in rater.http.get("/leave").text
    assert '<html lang="de">' in rater.http.get("/leave").text
    assert "1 von 3" in rater.show().text
    labels = rater.call(rater.SPEAK).text
    assert "Speichern und weiter" in labels
    assert "Wie zufrieden" in labels
    for to in ("//evil.example", "https://evil.example", "/\\evil.example", "javascript:alert(1)", "/join/../../x", ""):
        assert rater.post("/language", data={"language": "en", "to": to}).headers["location"] == "/"
    rater.post("/language", data={"language": "xx", "to": "/"})
    assert "1 of 3" in rater.show().text


def test_after_the_last_item_come_the_questions_then_the_end(served, rater):
    assert rater.http.get("/end").headers["location"] == "/"
    assert rater.http.get("/questions").headers["location"] == "/"
    for _ in range(3):
        rater.show()
        last = rater.rate(3, 4)
    assert 'href="questions"' in last.json()["data"][0]
    assert rater.http.get("/").headers["location"] == "/questions"
    assert rater.http.get("/?at=3").status_code == 200  # one may look back
    page = rater.http.get("/questions").text
    names = sorted(set(re.findall(r'name="(\w-\w)"', page)))
    assert len(names) == 3
    refused = rater.post("/questions", data={names[0]: "none", names[1]: names[1][0]})
    assert refused.status_code == 400
    assert "Please answer each question" in refused.text
    assert re.search(rf'name="{names[1]}" value="{names[1][0]}" required checked', refused.text)  # it is kept
    for junk in ("X", "", "none'; DROP TABLE guess; --"):
        data = {names[0]: junk, names[1]: "none", names[2]: "none"}
        assert rater.post("/questions", data=data).status_code == 400
    given = {names[0]: "none", names[1]: names[1][0], names[2]: names[2][2]}
    assert rater.post("/questions", data=given).headers["location"] == "/"
    found = rows(served.db, "SELECT code_a || '-' || code_b, larger FROM guess ORDER BY 1")
    assert found == [(names[0], None), (names[1], names[1][0]), (names[2], names[2][2])]
    assert rater.http.get("/").headers["location"] == "/end"
    end = rater.http.get("/end").text
    assert 'href="https://app.prolific.com/submissions/complete?cc=C1234"' in end
    assert "All 3 ratings are saved." in end
    assert rater.http.get("/questions").headers["location"] == "/"


def test_a_completion_code_is_shown_only_at_the_end(path):
    make(path, scenarios_per_rater=1, completion_code="THANKS-42")
    with serving(path) as server, Client(server.url) as rater:
        rater.join()
        for _ in range(3):
            for page in ("/", "/end", "/leave", "/device"):
                assert "THANKS-42" not in rater.http.get(page).text
            assert "THANKS-42" not in rater.show().text
            rater.rate(3, 3)
        assert "THANKS-42" in rater.http.get("/end").text


def test_who_comes_when_all_is_with_others_or_done_is_told_which(path):
    make(path, items=scenarios(1), ratings_per_cell=1, completion_code="THANKS-42")
    with serving(path) as server, contextlib.ExitStack() as stack:
        first, second, third = (stack.enter_context(Client(server.url, session=f"person{n}")) for n in range(3))
        assert first.join().status_code == 303
        first.show()
        first.rate(3, 3)
        busy = second.join()
        assert busy.status_code == 409
        assert "All chats of this study are with raters just now" in busy.text
        with contextlib.closing(sqlite3.connect(path)) as connection, connection:
            connection.execute("UPDATE assignment SET leased_until = '2020-01-01'")
        assert second.join().status_code == 303
        assert first.http.get("/").headers["location"] == "/end"
        end = first.http.get("/end").text
        assert "Your rating is saved" in end
        assert "2 more pages were yours" in end
        assert "THANKS-42" not in end
        second.show()
        for _ in range(3):
            second.rate(4, 4)
        end = second.http.get("/end").text
        assert "THANKS-42" in end
        assert "more page" not in end
        full = third.join()
        assert full.status_code == 409
        assert "has all the raters that it needs" in full.text


def test_a_paused_study_waits_and_a_closed_one_says_so(path):
    with serving(path) as server, Client(server.url) as rater, Client(server.url) as late:
        rater.join()
        rater.show()
        store_owner_acts.set_state(path, "pause", "owner")
        assert rater.http.get("/").headers["location"] == "/paused"
        page = rater.http.get("/paused").text
        assert "paused at the moment" in page
        assert '<meta http-equiv="refresh" content="20;url=/">' in page
        assert "paused at the moment" in rater.rate(3, 3).text
        assert "paused at the moment" in late.http.get("/join").text
        assert late.join().status_code == 409
        store_owner_acts.set_state(path, "open", "owner")
        assert rater.http.get("/paused").headers["location"] == "/"
        assert "2 of 9" in rater.rate(3, 3).text
        store_owner_acts.set_state(path, "close", "owner")
        assert rater.http.get("/").headers["location"] == "/closed"
        assert "The study has ended" in rater.http.get("/closed").text
        assert "has ended and takes no more" in late.http.get("/join").text


def test_without_a_model_server_a_rater_sees_the_pause_page(tmp_path):
    path = tmp_path / "study.db"
    make(path, mode="live", items=scenarios(turns=2))
    with typing(path) as models, serving(path, models=models) as server, Client(server.url, live=True) as rater:
        rater.join()
        assert rater.http.get("/").status_code == 200
        rater.show()
        models.kill()
        assert rater.http.get("/").headers["location"] == "/paused"
        assert "The assistants are away" in rater.http.get("/paused").text
        assert rater.screen_note(rater.call(rater.SEND, "written while it is away", rater.place)) == ""
        assert rater.watch() == []
        again = rater.show().json()["data"][0]
        assert "pending" in again
        assert "did not arrive" in again
        kept = rows(path, "SELECT content FROM turn WHERE role = 'user'")
        assert kept == [("written while it is away",)]
        with typing(path):
            assert rater.http.get("/paused").headers["location"] == "/"
            assert rater.screen_note(rater.call(rater.AGAIN, rater.place)) == ""
            assert "written while it is away" in rater.watch()[-1]

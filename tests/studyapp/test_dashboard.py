"""The owner's pages over HTTP: who gets in, what they show, what they must not, what the buttons do."""

import re
import sqlite3

import fastapi
import httpx
import pytest
from fastapi.testclient import TestClient
from owned_study import CROWD, KEYS, make_owned
from served import serving

from studyapp import dashboard, owner_lock, store_owner

HOST = "http://study.example"
PASSWORD = "a long password"
PAGES = ("", "/raters", "/notes", "/invites", "/log", "/export")
ACTS = ("/study", "/extend", "/invites", "/export", "/logout")


@pytest.fixture(autouse=True, scope="module")
def quick_hash():
    """The real hash with a small cost: its slowness is tested where it lives."""
    patch = pytest.MonkeyPatch()
    patch.setitem(owner_lock.SCRYPT, "n", 2**4)
    yield
    patch.undo()


@pytest.fixture
def db(tmp_path):
    path = make_owned(tmp_path / "study.db")
    owner_lock.seal(path, PASSWORD)
    return path


def visit(path, clock=lambda: 0.0, host=HOST, root=""):
    app = fastapi.FastAPI(docs_url=None, redoc_url=None, openapi_url=None)
    app.include_router(dashboard.routes(path, clock))
    return TestClient(app, base_url=host, root_path=root, follow_redirects=False, headers={"origin": host})


def login(client, password=PASSWORD, **headers):
    return client.post("/owner/login", data={"password": password}, headers=headers)


@pytest.fixture
def owner(db):
    with visit(db) as client:
        assert login(client).status_code == 303
        yield client


def test_a_stranger_sees_the_login_page_only(db):
    with visit(db) as stranger:
        for page in PAGES:
            answer = stranger.get(f"/owner{page}")
            assert (answer.status_code, answer.headers["location"]) == (303, "/owner/login")
            assert "owned" not in answer.text
        for act in ACTS:
            assert stranger.post(f"/owner{act}", data={"action": "close", "sure": "yes"}).status_code == 401
        stranger.cookies.set("viva_owner_0badcafe", "guessed")
        assert stranger.get("/owner").status_code == 303
        page = stranger.get("/owner/login")
        assert page.status_code == 200
        assert "Password" in page.text
        assert "owned" not in page.text
    assert store_owner.overview(db).state == "open"
    assert len(store_owner.log(db)) == 1


def test_without_a_password_there_are_no_owners_pages(tmp_path):
    with visit(make_owned(tmp_path / "study.db")) as client:
        for page in (*PAGES, "/login"):
            assert client.get(f"/owner{page}").status_code == 404
        assert login(client, "").status_code == 404


def test_the_right_password_opens_and_logging_out_closes(db):
    with visit(db) as client:
        wrong = login(client, "a wrong password")
        assert wrong.status_code == 401
        assert "not the password" in wrong.text
        assert "set-cookie" not in wrong.headers
        right = login(client)
        cookie = right.headers["set-cookie"].lower()
        assert (right.status_code, right.headers["location"]) == (303, "/owner")
        assert all(word in cookie for word in ("httponly", "samesite=strict", "path=/owner;", "viva_owner_0badcafe="))
        assert "secure" not in cookie
        token = client.cookies["viva_owner_0badcafe"]
        assert client.get("/owner").status_code == 200
        assert client.get("/owner/login").status_code == 303
        assert client.post("/owner/logout").headers["location"] == "/owner/login"
        client.cookies.set("viva_owner_0badcafe", token)  # a copy of the old cookie is worth nothing
        assert client.get("/owner").status_code == 303


def test_over_https_and_behind_a_proxy_the_cookie_keeps_to_its_place(db):
    with visit(db, host="https://study.example", root="/viva") as client:
        assert client.get("/viva/owner").headers["location"] == "/viva/owner/login"
        answer = client.post("/viva/owner/login", data={"password": PASSWORD})
        assert answer.headers["location"] == "/viva/owner"
        assert "path=/viva/owner;" in answer.headers["set-cookie"].lower()
        assert "; secure" in answer.headers["set-cookie"].lower()


def test_guessing_is_stopped_and_the_owner_gets_in_again_later(db):
    now = [0.0]
    with visit(db, lambda: now[0]) as client:
        tries = [login(client, f"guess number {number}").status_code for number in range(8)]
        assert tries == [401] * 5 + [429] * 3
        refused = login(client)
        assert refused.status_code == 429
        assert int(refused.headers["retry-after"]) > 60
        now[0] += int(refused.headers["retry-after"])
        assert login(client).status_code == 303


@pytest.mark.parametrize(
    "origin", ["http://evil.example", "null", "", f"{HOST}:1", "file://", "http://study.example.evil"]
)
def test_other_sites_cannot_press_the_buttons(db, owner, origin):
    for act in (*ACTS, "/login"):
        answer = owner.post(f"/owner{act}", data={"action": "pause", "password": PASSWORD}, headers={"origin": origin})
        assert answer.status_code == 403
    assert store_owner.overview(db).state == "open"


def test_a_huge_body_is_refused(owner):
    assert owner.post("/owner/invites", data={"note": "x" * 70_000}).status_code == 413


@pytest.mark.parametrize("page", PAGES)
def test_every_page_is_a_whole_page(owner, page):
    answer = owner.get(f"/owner{page}")
    assert answer.status_code == 200
    assert answer.headers["cache-control"] == "no-store"
    assert answer.text.count("<main>") == answer.text.count("</main>") == 1
    assert 'lang="en"' in answer.text
    assert 'aria-current="page"' in answer.text
    assert "<script" not in answer.text
    assert not re.findall(r'(?:src|href|action)="(?!/owner|data:,)', answer.text)


def test_pages_show_what_there_is(owner):
    front = re.sub(r"<[^>]+>", " ", owner.get("/owner").text)
    assert all(word in front for word in ("46", "15 to 16", "12 of 12", "3 finished", "1 of 2 invitations used"))
    raters = owner.get("/owner/raters").text
    assert all(
        word in raters for word in ("straight-lining", "too fast", "failed checks", "repeats differ", "13 of 15")
    )
    assert "first &lt;i&gt;wave" in owner.get("/owner/invites").text
    assert "I cannot scroll" in owner.get("/owner/notes").text


def test_what_raters_write_is_shown_and_never_rendered(owner):
    notes = owner.get("/owner/notes").text
    assert notes.count("&lt;img src=") == 2
    assert "<img" not in notes
    assert "Goal s1 &lt;b&gt;" in owner.get("/owner").text


def test_no_page_says_keys_or_who_raters_are_elsewhere(owner):
    for state in ("open", "close"):
        owner.post("/owner/study", data={"action": state, "sure": "yes"})
        seen = "\n".join(owner.get(f"/owner{page}").text for page in PAGES)
        assert not any(word in seen for word in (*KEYS, "canary", CROWD, "0badcafe"))


def everything(path):
    with visit(path) as client:
        login(client)
        texts = [client.get(f"/owner{page}").text for page in PAGES]
        tables = ("ratings", "history", "repeats", "preferences", "guesses", "live", "chats")
        downloads = [client.post("/owner/export", data={"table": name, "format": "csv"}) for name in tables]
        return texts, [(answer.status_code, answer.text) for answer in downloads]


@pytest.mark.parametrize("order", [(1, 2, 0), (2, 1, 0), (0, 2, 1)])
def test_with_the_keys_handed_round_every_page_is_the_same(tmp_path, order):
    """Another text behind each key: as long as raters do the same, the owner's pages and exports do not differ."""
    found = []
    for name, keys in (("one", KEYS), ("two", [KEYS[place] for place in order])):
        path = make_owned(tmp_path / f"{name}.db", keys=keys)
        owner_lock.seal(path, PASSWORD)
        found.append(everything(path))
        (tmp_path / "owner.json").unlink()
    assert found[0] == found[1]


def test_means_by_arm_come_with_closing_not_before(owner):
    assert "Mean satisfaction" not in owner.get("/owner").text
    owner.post("/owner/study", data={"action": "close", "sure": "yes"})
    page = owner.get("/owner").text
    assert "Mean satisfaction" in page
    assert "Arm 3" in page


def test_buttons_pause_open_and_close(db, owner):
    for action, state in (("pause", "paused"), ("open", "open")):
        assert owner.post("/owner/study", data={"action": action}).headers["location"] == f"/owner?done={action}"
        assert store_owner.overview(db).state == state
        assert dashboard.DONE[action] in owner.get(f"/owner?done={action}").text
    unsure = owner.post("/owner/study", data={"action": "close"})
    assert unsure.status_code == 400
    assert "tick the box" in unsure.text
    assert owner.post("/owner/study", data={"action": "explode"}).status_code == 400
    assert store_owner.overview(db).state == "open"
    assert owner.post("/owner/study", data={"action": "close", "sure": "yes"}).status_code == 303
    assert store_owner.overview(db).state == "closed"
    refused = owner.post("/owner/study", data={"action": "pause"})
    assert (refused.status_code, "nothing to pause" in refused.text) == (409, True)
    assert [entry["actor"] for entry in store_owner.log(db)][:3] == ["owner"] * 3


def test_a_made_up_message_is_not_shown(owner):
    assert "evil" not in owner.get("/owner?done=evil").text


def test_the_study_can_be_extended(db, owner):
    assert owner.post("/owner/extend", data={"raters": "5", "ratings": ""}).status_code == 303
    assert store_owner.overview(db).max_raters == 15
    for values in ({}, {"raters": "-3"}, {"raters": "many"}, {"ratings": "1e3"}, {"ratings": "9999999"}):
        assert owner.post("/owner/extend", data=values).status_code == 409
    assert store_owner.overview(db).ratings_per_cell == 2


def test_invitations_are_shown_once(db, owner):
    page = owner.post("/owner/invites", data={"count": "3", "note": "to <b>friends</b>"})
    links = re.findall(rf"{HOST}/join/[\w-]{{32}}", page.text)
    assert len(set(links)) == 3
    assert "to &lt;b&gt;friends" in page.text
    again = owner.get("/owner/invites").text
    assert not any(link.rsplit("/")[-1] in again for link in links)
    assert len(store_owner.invites(db)) == 5
    for count in ("", "0", "1001", "x"):
        assert owner.post("/owner/invites", data={"count": count}).status_code == 409
    dump = "\n".join(sqlite3.connect(db).iterdump())
    assert not any(link.rsplit("/")[-1] in dump for link in links)


def test_downloads_have_codes_and_are_logged(db, owner):
    answer = owner.post("/owner/export", data={"table": "ratings", "format": "csv"})
    assert answer.headers["content-disposition"] == 'attachment; filename="ratings.csv"'
    assert answer.headers["cache-control"] == "no-store"
    assert answer.text.startswith("rater,kind,scenario,")
    assert "code" in answer.text.splitlines()[0]
    assert "arm" not in answer.text.splitlines()[0]
    entry = store_owner.log(db)[0]
    assert (entry["actor"], entry["action"], entry["detail"]) == ("owner", "export", "ratings as csv")
    for table, form in (("secrets", "csv"), ("ratings", "exe"), ("chats", "csv"), ("ratings", "argilla")):
        refused = owner.post("/owner/export", data={"table": table, "format": form})
        assert refused.status_code == 409
    assert len(store_owner.log(db)) == 2


def test_sql_in_fields_stays_text(db, owner):
    evil = "x'); DROP TABLE rating; --"
    owner.post("/owner/invites", data={"count": "1", "note": evil})
    owner.post("/owner/export", data={"table": evil, "format": "csv"})
    owner.post("/owner/study", data={"action": evil})
    assert store_owner.invites(db)[0]["note"] == evil
    assert store_owner.overview(db).ratings == 46


def test_in_the_real_server_the_guard_lets_the_owner_pass_and_nobody_else(db):
    with serving(db) as server, httpx.Client(base_url=server.url.rstrip("/"), timeout=60) as client:
        origin = {"origin": server.url.rstrip("/")}
        stranger = client.get("/owner")
        assert (stranger.status_code, stranger.headers["location"]) == (303, "/owner/login")
        assert client.post("/owner/login", data={"password": PASSWORD}).status_code == 403  # no Origin
        assert client.post("/owner/login", data={"password": PASSWORD}, headers=origin).status_code == 303
        for page in PAGES:
            answer = client.get(f"/owner{page}")
            assert answer.status_code == 200
            assert "frame-ancestors 'none'" in answer.headers["content-security-policy"]
            assert answer.headers["cache-control"] == "no-store"
        assert client.post("/owner/study", data={"action": "pause"}, headers=origin).status_code == 303
        assert (
            client.post("/owner/export", data={"table": "ratings", "format": "parquet"}, headers=origin).content[:4]
            == b"PAR1"
        )
        assert client.get("/").headers["location"] == "/join"  # the owner is no rater
        assert client.get("/owner/none").status_code == 404
        assert "BLINDING OPENED" not in server.lines
    assert store_owner.overview(db).state == "paused"

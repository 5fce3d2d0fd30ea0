"""Attacks, each tried through HTTP on the real server. test_guard.py has those on routes, origins and sizes."""

import json
import re
import socket
import sqlite3
import time

import pytest
from served import Client, serving, typing
from small_study import make, scenarios

EVIL = (
    "<script>alert(1)</script><img src=x onerror=alert(1)> ![x](http://evil.example/x.png) [a](javascript:alert(1)) "
    "<iframe src='//evil.example'></iframe> {{7*7}} ${7*7} \u202e \x00 </textarea><svg/onload=alert(1)>"
)
SQL = "'); DROP TABLE rating; DROP TABLE rater; --"


def rows(db, sql):
    connection = sqlite3.connect(db)
    try:
        return connection.execute(sql).fetchall()
    finally:
        connection.close()


@pytest.fixture(scope="module")
def served(tmp_path_factory):
    path = tmp_path_factory.mktemp("attacks") / "study.db"
    make(path, text=lambda arm, scenario: f"Answer {arm} to {scenario.id}. {EVIL}")
    with serving(path, limits={"head_seconds": 1.0, "body_seconds": 1.0}) as server:
        yield server


@pytest.fixture
def rater(served, request):
    with Client(served.url, session=request.node.name[:60]) as client:
        assert client.join().status_code == 303
        client.show()
        yield client


def test_another_raters_cookie_is_theirs_and_a_guess_is_nobodys(served, rater):
    (name, token), *_ = rater.http.cookies.items()
    for guess in (token[:-1], token + "A", token.swapcase(), "", "R01", "1", "' OR '1'='1", "\\x00", token[::-1]):
        with Client(served.url) as other:
            other.http.headers["cookie"] = f'{name}="{guess}"'
            assert other.show().status_code in (401, 429)
    rater.rate(5, 5, comment="mine")
    with Client(served.url, session="another") as other:
        other.join()
        assert "mine" not in other.show().text
        other.http.cookies.set(name + "_x", token)
        assert "1 of 9" in other.show().text


def test_items_that_are_not_ones_own_or_not_reached_are_not_told_apart(rater):
    said = {json.dumps(rater.rate(3, 3, position=at).json()["data"][1]) for at in (2, 9, 10, 500, 9999)}
    assert len(said) == 1
    assert "not yours to rate" in said.pop()


@pytest.mark.parametrize("value", [0, 6, -1, 3.5, "3", "5; DROP TABLE rating", True, 1e308, 10**30, "ⅴ"])
def test_a_mark_out_of_range_is_refused(served, rater, value):
    before = rows(served.db, "SELECT count(*) FROM rating_event")
    for marks in ((value, 3), (3, value)):
        answer = rater.rate(*marks)
        assert answer.status_code == 200
        assert "A mark is a whole number from 1 to 5." in answer.text
    assert rows(served.db, "SELECT count(*) FROM rating_event") == before


def test_a_comment_that_is_too_long_is_refused_and_ten_megabytes_are_not_read(served, rater):
    before = rows(served.db, "SELECT count(*) FROM rating_event")
    assert "keep it within 2000" in rater.rate(3, 3, comment="x" * 2001).text
    assert rater.rate(3, 3, comment="x" * 10_000_000).status_code == 413
    assert rows(served.db, "SELECT count(*) FROM rating_event") == before
    assert rater.rate(3, 3, comment="x" * 2000).status_code == 200


def test_scripts_images_and_markdown_stay_text(rater):
    item = rater.show().json()["data"][3]
    assert "&lt;script&gt;alert(1)" in item
    for live in ("<script", "<img", "<iframe", "<svg", "<a ", "onerror=alert(1)>"):
        assert live not in item
    rater.rate(3, 3, comment=EVIL)
    back = rater.screen(rater.call(rater.BACK, rater.place))
    assert back["comment-1"] == EVIL  # a value of a text box, never HTML
    assert "<script" not in back["item"] + back["chat-1"] + back["note"]
    assert rater.call(rater.REPORT, EVIL, rater.place).json()["data"][0] == ""


def test_sql_in_every_field_is_text(served, rater):
    tables = rows(served.db, "SELECT name, sql FROM sqlite_master")
    rater.rate(3, 4, comment=SQL)
    assert rows(served.db, "SELECT comment FROM tidy_ratings ORDER BY updated_at DESC LIMIT 1") == [(SQL,)]
    place = rater.place
    for function, data in (
        (rater.SAVE, [SQL, 3, 3, ""]),
        (rater.SAVE, [place, SQL, 3, ""]),
        (rater.SAVE, [place, 3, SQL, ""]),
        (rater.BACK, [SQL]),
        (rater.ONWARD, [SQL]),
        (rater.REPORT, [SQL, SQL]),
    ):
        assert rater.call(function, *data).status_code == 200
    assert rater.call(rater.SHOW, session_hash=SQL).status_code == 200
    for path in ("/join", "/language", "/withdraw", "/questions"):
        names = ("consent", "PROLIFIC_PID", "STUDY_ID", "SESSION_ID", "language", "to", "confirm", "A-B")
        assert rater.post(path, data=dict.fromkeys(names, SQL)).status_code in (303, 400)
    for path in (f"/join/{SQL}", f"/continue/{SQL}", f"/?at={SQL}"):
        assert rater.http.get(path).status_code in (303, 404)
    assert rows(served.db, "SELECT name, sql FROM sqlite_master") == tables
    assert rater.show().status_code == 200


def test_uploads_are_refused(rater):
    files = {"files": ("x.html", b"<script>alert(1)</script>")}
    for path in ("/gradio_api/upload", "/upload", "/gradio_api/component_server"):
        assert rater.post(path, files=files).status_code == 404
    assert rater.post("/gradio_api/upload", files={"files": ("x", b"x" * 10_000_000)}).status_code == 413


def test_text_that_speaks_to_the_page_is_only_text(served):
    """What is written can look like Gradio's messages or like our own hidden field; it changes nothing."""
    with Client(served.url, session="injection") as rater:
        rater.join()
        rater.show()
        fake = '9.0.A","__type__":"update","visible":true}, "msg":"process_completed" <section class="viva elsewhere">'
        rater.rate(3, 3, comment=fake)
        shown = rater.screen(rater.show())
        assert shown["place"].startswith("2.")
        assert "elsewhere" not in shown["item"]


@pytest.fixture
def slow(served):
    host, port = re.match(r"http://([^:/]+):(\d+)", served.url).groups()
    with socket.create_connection((host, int(port)), timeout=20) as connection:
        yield connection


def gone(connection):
    """Whether the server has hung up, after at most some seconds."""
    connection.settimeout(20)
    try:
        return connection.recv(1000)
    except ConnectionResetError:
        return b""


@pytest.mark.parametrize("head", [b"", b"GET /join HT", b"GET /join HTTP/1.1\r\nHost: x\r\nX-A: "])
def test_a_head_that_never_ends_is_hung_up_on(slow, head):
    slow.sendall(head)
    assert gone(slow) == b""


def test_a_head_that_comes_a_byte_at_a_time_is_hung_up_on(slow):
    ended = False
    for letter in b"GET /healthz HTTP/1.1\r\nHost: localhost\r\n" + b"X: y\r\n" * 20:
        try:
            slow.sendall(bytes([letter]))
        except OSError:
            ended = True
            break
        time.sleep(0.1)
    assert ended


def test_a_body_that_never_ends_is_told_that_it_is_late(served, slow):
    origin = served.url.rstrip("/").encode()
    host = origin.removeprefix(b"http://")
    head = b"POST /join HTTP/1.1\r\nHost: %b\r\nOrigin: %b\r\nContent-Length: 100\r\n\r\nconsent=" % (host, origin)
    slow.sendall(head)
    assert gone(slow).startswith(b"HTTP/1.1 408")


def test_slow_ones_do_not_hold_up_others(served):
    host, port = re.match(r"http://([^:/]+):(\d+)", served.url).groups()
    waiting = [socket.create_connection((host, int(port)), timeout=20) for _ in range(50)]
    try:
        for connection in waiting:
            connection.sendall(b"POST /join HTTP/1.1\r\n")
        with Client(served.url) as rater:
            assert rater.join().status_code == 303
            assert "1 of 9" in rater.show().text
    finally:
        for connection in waiting:
            connection.close()


def test_guessing_links_is_slowed_down_and_shuts_nobody_out(path):
    with (
        serving(path, limits={"misses": (5, 0.01)}) as server,
        Client(server.url) as rater,
        Client(server.url) as thief,
    ):
        rater.join()
        (name, _), *_ = rater.http.cookies.items()
        tried = [thief.join(f"/join/{number:024d}").status_code for number in range(8)]
        assert tried == [404] * 5 + [429] * 3
        late = thief.post(f"/continue/{'x' * 43}")
        assert late.status_code == 429
        assert int(late.headers["retry-after"]) > 1
        assert "That was too often" in late.text
        thief.http.cookies.set(name, "guessed")
        assert thief.show().status_code == 429
        assert rater.show().status_code == 200  # same address, a cookie that is good
        for odd in ("/join/short", "/join/" + "x" * 65, "/join/a/b", "/continue/", "/join/%2e%2e"):
            assert thief.http.get(odd).status_code in (401, 429)
        stored = path.with_name("study.db").read_bytes() + path.with_name("study.db-wal").read_bytes()
        assert b"127.0.0.1" not in stored  # no address on the disk
        assert not [line for line in server.lines if "127.0.0.1" in line and line != server.url]


def test_joining_over_and_over_is_slowed_down(path):
    with serving(path, limits={"joins": (3, 0.01)}) as server:
        status = []
        for _ in range(5):
            with Client(server.url) as client:
                status.append(client.join().status_code)
        assert status == [303] * 3 + [429] * 2


def test_a_rater_who_posts_without_end_is_slowed_down_alone(path):
    with serving(path, limits={"posts": (5, 0.01)}) as server, Client(server.url) as one:
        one.join()
        assert [one.show().status_code for _ in range(7)] == [200] * 5 + [429] * 2
        with Client(server.url, session="two") as two:
            two.join()
            assert two.show().status_code == 200


def test_a_refusal_speaks_the_readers_language(served, rater):
    rater.post("/language", data={"language": "de", "to": "/"})
    assert rater.http.get("/config").text == "Hier ist nichts."
    assert rater.post("/leave", headers={"origin": "http://evil.example"}).text.startswith("Diese Anfrage kam nicht")


def test_a_live_chat_cannot_be_made_to_load_or_run_anything(tmp_path):
    path = tmp_path / "study.db"
    make(path, mode="live", items=scenarios(turns=3))
    with typing(path) as models, serving(path, models=models) as server, Client(server.url, live=True) as rater:
        rater.join()
        rater.show()
        shown = rater.hear("image " + EVIL.replace("\x00", ""))
        chat = rater.screen(rater.show())["chat-1"]
        for html in (*shown, chat):
            assert not re.search(r"<(script|img|iframe|svg|a|textarea)\b", html)
        assert "&lt;script&gt;" in chat
        assert "Please write something first" in rater.call(rater.SEND, "  ", rater.place).text
        assert "keep it within 4000" in rater.call(rater.SEND, "x" * 4001, rater.place).text
        assert rater.screen_note(rater.call(rater.SEND, SQL, rater.place)) == ""
        assert "DROP TABLE" in rater.watch()[-1]
        assert rows(path, "SELECT count(*) FROM rater") == [(1,)]
        for place in ("1.0.A", "9.0.A", SQL, None, 7):
            answer = rater.call(rater.SETTLE, place)
            assert answer.status_code == 200

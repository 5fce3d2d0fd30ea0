"""The server as a process: starting, stopping, dying."""

import socket
import sqlite3
import subprocess
import sys
import time

import httpx
import pytest
from served import Client, serving, typing
from small_study import make, scenarios

from harness.errors import RatingError, RunError
from studyapp.server import serve


def test_a_port_in_use_is_named_at_once(path):
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        with pytest.raises(RunError, match=f"port {port} is already in use") as error:
            serve(path, port=port)
        assert "--port" in error.value.hint


@pytest.mark.parametrize(("host", "port"), [("no such host", 0), ("127.0.0.1", 99999)])
def test_an_impossible_address_is_an_error_of_ours(path, host, port):
    with pytest.raises(RunError, match=r"cannot serve on|no port 99999"):
        serve(path, host=host, port=port)


def test_without_a_study_there_is_no_server(tmp_path):
    with pytest.raises(RatingError, match="no study database"):
        serve(tmp_path / "study.db", port=0)


def test_nothing_heavy_is_imported_before_it_is_needed():
    heavy = ("torch", "gradio", "transformers", "fastapi", "reports")
    code = f"import sys, studyapp.server; print([name for name in {heavy} if name in sys.modules])"
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert found.stdout == "[]\n"


def test_ctrl_c_ends_the_server_quietly(path):
    with serving(path) as server, Client(server.url) as rater:
        rater.join()
        assert httpx.get(server.url + "healthz").json() == {"ok": True}
        assert server.interrupt() == 0
        assert server.lines == [server.url]  # nothing printed but what the callback prints


def test_kill_9_between_two_ratings_loses_nothing_confirmed(path):
    confirmed = 0
    cookies = None
    for life in range(3):
        with serving(path) as server, Client(server.url, session=f"life{life}") as rater:
            if cookies is None:
                rater.join()
                cookies = dict(rater.http.cookies)
            rater.http.cookies.update(cookies)
            assert f"{confirmed + 1} of 9" in rater.show().text  # comes back to where they were
            for _ in range(2):
                answer = rater.rate(confirmed % 5 + 1, 3)
                confirmed += 1
                assert f"{confirmed + 1} of 9" in answer.text
            server.kill()
        connection = sqlite3.connect(path)
        rows = connection.execute("SELECT position, satisfaction, revision FROM tidy_ratings").fetchall()
        assert connection.execute("PRAGMA integrity_check").fetchone() == ("ok",)
        connection.close()
        assert rows == [(at + 1, at % 5 + 1, 1) for at in range(confirmed)]


def test_a_failure_shows_a_constant_text_and_keeps_the_page(path):
    with serving(path) as server, Client(server.url) as rater:
        rater.join()
        rater.show()
        connection = sqlite3.connect(path)
        connection.execute("DROP TRIGGER rating_event_keeps_rows")
        connection.execute("DROP TABLE rating_event")
        connection.close()
        answer = rater.rate(3, 3)
        assert "Something went wrong here" in answer.text
        assert "rating_event" not in answer.text
        time.sleep(0.1)
        assert any("no such table" in line for line in server.lines)  # the owner's terminal says why
        assert "1 of 9" in rater.show().text  # and the half-written rating is undone


def test_a_live_study_without_a_model_server_does_not_start(tmp_path):
    path = tmp_path / "study.db"
    make(path, mode="live", items=scenarios(turns=2))
    with pytest.raises(RatingError, match="no model server") as error:
        serve(path, port=0)
    assert "viva rate" in error.value.hint


def test_kill_9_of_the_page_in_the_middle_of_an_answer_loses_no_word(tmp_path):
    path = tmp_path / "study.db"
    make(path, mode="live", items=scenarios(turns=2))
    with typing(path, paces=(0.05, 0.05, 0.05)) as models:
        with serving(path, models=models) as server, Client(server.url, live=True) as rater:
            rater.join()
            cookies = dict(rater.http.cookies)
            rater.show()
            assert rater.screen_note(rater.call(rater.SEND, "Hello there", rater.place)) == ""
            server.kill()
        with serving(path, models=models) as server, Client(server.url, session="later", live=True) as rater:
            rater.http.cookies.update(cookies)
            shown = rater.screen(rater.show())
            assert "Hello there" in shown["chat-1"]
            assert "pending" in shown["item"]
            assert rater.screen_note(rater.call(rater.AGAIN, rater.place)) == ""
            assert "Hello there It goes on for a while." in rater.watch()[-1]
            assert "One message left." in rater.show().text
    connection = sqlite3.connect(path)
    assert connection.execute("SELECT number, role FROM turn ORDER BY number, role DESC").fetchall() == [
        (1, "user"),
        (1, "assistant"),
    ]
    connection.close()


def test_two_who_watch_one_answer_see_it_whole(tmp_path):
    path = tmp_path / "study.db"
    make(path, mode="live", items=scenarios(turns=2))
    with (
        typing(path) as models,
        serving(path, models=models) as server,
        Client(server.url, session="one", live=True) as one,
        Client(server.url, session="two", live=True) as two,
    ):
        one.join()
        two.http.cookies.update(dict(one.http.cookies))
        one.show()
        two.show()
        assert one.screen_note(one.call(one.SEND, "Hello there", one.place)) == ""
        assert "still answering" in two.screen_note(two.call(two.SEND, "Another", two.place))
        heard = one.watch()
        assert "Hello there It goes on for a while." in heard[-1]
        assert two.watch() == []  # it is over
        for client in (one, two):
            chat = client.screen(client.show())["chat-1"]
            assert chat.count("It goes on for a while.") == 1
            assert "Another" not in chat


def test_behind_a_proxy_that_strips_a_prefix(path):
    with serving(path, root_path="/viva") as server:
        assert server.url.endswith("/viva/")
        with Client(server.url.removesuffix("viva/")) as rater:  # what the proxy passes on
            assert rater.http.get("/").headers["location"] == "/viva/join"
            assert 'action="/viva/join"' in rater.http.get("/join").text
            joined = rater.join()
            assert joined.headers["location"] == "/viva/"
            assert "Path=/viva/;" in joined.headers["set-cookie"]
            rater.http.headers["cookie"] = joined.headers["set-cookie"].split(";")[0]
            assert rater.http.get("/").status_code == 200
            assert "1 of 9" in rater.show().text
            assert "2 of 9" in rater.rate(3, 4).text
            assert rater.http.get("/theme.css").status_code == 200
            assert rater.http.get("/config").status_code == 404
            assert 'href="/viva/device"' in rater.http.get("/leave").text

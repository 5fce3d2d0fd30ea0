"""What the guard lets through, asked over HTTP of the real server."""

import re

import httpx
import pytest
from small_study import Client, all_routes, make, serving

from studyapp import store

KNOWN_TO_RATERS = {"/", "/theme.css", "/favicon.ico", "/manifest.json", "/viva.js", "/leave", "/healthz", "/join"}


@pytest.fixture(scope="module")
def served(tmp_path_factory):
    path = tmp_path_factory.mktemp("guard") / "study.db"
    make(path)
    with serving(path) as server:
        server.db = path
        yield server


@pytest.fixture
def rater(served, request):
    with Client(served.url, session=request.node.name[:60]) as client:
        assert client.join().status_code == 303
        yield client


def test_a_stranger_is_sent_to_the_consent_page_and_sees_nothing_else(served):
    with Client(served.url) as stranger:
        page = stranger.http.get("/")
        assert (page.status_code, page.headers["location"]) == (303, "/join")
        for path in ("/config", "/theme.css", "/gradio_api/info", "/assets/index.js", "/viva.js", "/leave", "/docs"):
            assert stranger.http.get(path).status_code == 401
        assert stranger.show().status_code == 401
        assert stranger.post("/gradio_api/queue/join", json={}).status_code == 401
        stranger.http.cookies.set(next(iter(joined_cookies(served))), "guessed")
        assert stranger.show().status_code == 401


def joined_cookies(served):
    with Client(served.url) as client:
        client.join()
        return dict(client.http.cookies)


def test_joining_takes_consent_and_sets_a_careful_cookie(served):
    with Client(served.url) as client:
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


def test_leaving_lets_someone_else_join(rater):
    assert "no longer know you" in rater.http.get("/leave").text
    assert rater.post("/leave").headers["location"] == "/join"
    assert not rater.http.cookies


def test_a_rater_rates(served, rater):
    assert "1 of 9" in rater.show().text
    answer = rater.rate(4, 5, position=1, comment="good")
    assert answer.status_code == 200
    assert "2 of 9" in answer.text
    assert answer.json()["duration"] == 0
    assert answer.json()["average_duration"] == 0
    assert "not yours to rate" in rater.rate(4, 5, position=7).text
    assert rater.rate(77, 5, position=2).status_code == 500  # Gradio's own check of a choice
    assert "2 of 9" in rater.show().text


def test_a_second_rater_cannot_use_a_session(served, rater):
    assert rater.show().status_code == 200
    with Client(served.url, session=rater.session) as other:
        other.join()
        assert other.show().status_code == 403
    assert rater.show().status_code == 200


@pytest.mark.parametrize("origin", ["http://evil.example", "null", "", "http://127.0.0.1:1", "file://"])
def test_a_foreign_origin_is_refused(rater, origin):
    assert rater.post("/leave", headers={"origin": origin}).status_code == 403
    call = {"data": [], "fn_index": 0, "session_hash": "x"}
    assert rater.post("/gradio_api/run/predict", headers={"origin": origin}, json=call).status_code == 403
    assert rater.http.post("/gradio_api/run/predict", json=call).status_code == 403  # none at all


def test_a_body_that_is_too_large_is_refused(rater):
    assert rater.rate(3, 3, position=1, comment="x" * 70_000).status_code == 413
    headers = {"origin": rater.url, "content-type": "application/json"}
    chunks = (b"x" * 10_000 for _ in range(20))  # without a content-length
    assert rater.http.post("/gradio_api/run/predict", content=chunks, headers=headers).status_code == 413


@pytest.mark.parametrize(
    "call",
    [
        {"fn_index": 99},
        {"fn_index": -1},
        {"fn_index": "0"},
        {"fn_index": None},
        {"fn_index": 0, "data": [1]},
        {"fn_index": 1, "data": [3, 3, "", 1]},
        {"fn_index": 1, "data": [3, 3, {"path": "/etc/passwd", "meta": {"_type": "gradio.FileData"}}, 1, 0]},
        {"session_hash": None},
        {"session_hash": "x" * 65},
        {"api_name": "rate"},
        {"batched": True},
    ],
)
def test_a_call_the_page_would_not_make_is_refused(rater, call):
    assert rater.call(0, **call).status_code == 400


def test_junk_is_refused(rater):
    for body in (b"", b"{", b"[]", b"null", b"[" * 60_000, b"\xff\xfe"):
        assert rater.post("/gradio_api/run/predict", content=body).status_code == 400
    assert rater.show().status_code == 200


def test_pages_carry_the_headers_that_keep_other_sites_out(served, rater):
    for answer in (rater.http.get("/"), rater.http.get("/viva.js"), rater.show(), httpx.get(served.url + "join")):
        assert answer.status_code == 200
        policy = answer.headers["content-security-policy"]
        assert "default-src 'none'" in policy
        assert "unsafe-eval" not in policy
        assert "script-src 'self' 'nonce-" in policy
        assert answer.headers["cache-control"] == "no-store"
        assert answer.headers["x-frame-options"] == "DENY"
        assert answer.headers["x-content-type-options"] == "nosniff"
        assert not [name for name in answer.headers if name.startswith("access-control-") or name == "server"]


def test_every_script_of_the_page_has_the_nonce_and_nonces_change(rater):
    nonces = set()
    for _ in range(2):
        page = rater.http.get("/")
        nonce = re.search(r"'nonce-([\w-]+)'", page.headers["content-security-policy"]).group(1)
        assert len(re.findall(r"<script", page.text)) == len(re.findall(f"<script nonce={nonce}", page.text)) > 3
        nonces.add(nonce)
    assert len(nonces) == 2


def test_parameters_of_the_page_are_dropped(rater):
    for query in ("deep_link=abc", "view=api", "__theme=dark"):
        answer = rater.http.get(f"/?{query}")
        assert (answer.status_code, answer.headers["location"]) == (303, "/")


def test_nothing_but_the_listed_routes_exists(served, rater):
    """Walks every route that FastAPI and Gradio have, as a rater and as a stranger."""
    routes = all_routes(served.db)
    paths = {path for path, _ in routes}
    assert len(paths) >= 75  # a sweep that misses Gradio's included routers finds some 30
    assert "/gradio_api/queue/join" in paths
    others_test = [("POST", "/join"), ("POST", "/leave"), ("POST", "/gradio_api/run/predict")]
    open_to_all = [("GET", "/"), ("GET", "/join"), ("GET", "/healthz")]
    headers = {"origin": served.url.rstrip("/")}
    with Client(served.url) as stranger:
        for path in sorted(paths):
            url = re.sub(r"\{[^}]*\}", "x", path)
            for method in ("GET", "POST", "PUT"):
                if (method, url) in others_test:
                    continue
                if (method, url) not in open_to_all:
                    assert stranger.http.request(method, url, headers=headers).status_code == 401, (method, url)
                seen = rater.http.request(method, url, headers=headers).status_code
                if method == "GET" and (url in KNOWN_TO_RATERS or url.startswith(("/assets/", "/static/"))):
                    assert seen in (200, 303, 404), (method, url)
                else:
                    assert seen == 404, (method, url)


def test_files_stay_where_they_are(served, rater):
    for path in (
        "/static/../../../study.db",
        "/assets/%2e%2e/%2e%2e/gradio/routes.py",
        "/assets/..%2f..%2fx",
        "/study.db",
    ):
        assert rater.http.get(path).status_code == 404
    for path in ("/gradio_api/file=" + str(served.db), "/gradio_api/file=/etc/passwd"):
        assert rater.http.get(path).status_code == 404

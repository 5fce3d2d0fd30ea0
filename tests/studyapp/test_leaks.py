"""Nothing that a rater's browser can reach tells which arm is behind a code.

The same study is served twice, with other arm keys in the same order: every answer of the server must be the same to
the byte, after the parts that are random by design are taken out. And no arm key and no arm name may appear in any.
"""

import json
import re

import pytest
from small_study import Client, all_routes, make, serving

KEYS = [f"canary-{number}-{'abc'[number]}{'xyz'[number] * 9}" for number in range(3)]
OTHER_KEYS = [f"tweety-{number}-{'abc'[number]}{'uvw'[number] * 9}" for number in range(3)]
NAMES = ["teachername", "distilledname", "scratchname"]


def sweep(folder, keys, routes):
    """Everything the server answers to a script of good, bad and curious requests, as a list of (request, answer)."""
    folder.mkdir()
    path = folder / "study.db"
    make(path, keys=keys, name="studyname-" + "-".join(NAMES))
    blinding = folder / "blinding.json"
    blinding.write_text(json.dumps(dict(zip(keys, NAMES, strict=True))))
    blinding.chmod(0o600)
    answers = []

    def note(what, response):
        headers = {name: value for name, value in response.headers.items() if name not in ("date", "content-length")}
        answers.append((what, response.status_code, json.dumps(headers), response.text))

    with serving(path) as server, Client(server.url) as stranger, Client(server.url) as rater:
        note("join page", stranger.http.get("/join"))
        note("join", rater.join())
        for client in (stranger, rater):
            for route in routes:
                if route not in ("/join", "/leave"):
                    note(f"GET {route}", client.http.get(route))
                    if client is rater:
                        note(f"POST {route}", client.post(route))
            note("deep link", client.http.get("/gradio_api/deep_link?session_hash=session1"))
            note("file", client.http.get(f"/gradio_api/file={path}"))
        note("show", rater.show())
        note("too high", rater.rate(99, 1, position=1))
        note("not a number", rater.call(1, "x", 1, "", 1, 0))
        note("far ahead", rater.rate(1, 1, position=9))
        note("one mark only", rater.call(1, 3, None, "", 1, 0))
        note("a function that is not there", rater.call(99))
        for position in range(1, 10):
            note("rate", rater.rate(position % 5 + 1, 3, position, comment="<b>fine</b>"))
        note("back", rater.call(2, 5))
        note("the end", rater.show())
        printed = "\n".join(server.lines).replace(server.url, "")
    return answers, printed, server.url


def plain(text, url):
    """Without what is random by design: nonces, the study's cookie, tokens, the port, the rater's random app id."""
    text = text.replace(url, "URL/").replace(url.rstrip("/"), "URL")
    text = re.sub(r"nonce[-=][\w-]+", "nonce", text)
    text = re.sub(r"viva_[0-9a-f]{8}=[\w-]+", "cookie", text)
    return re.sub(r'"(app_id|etag|last-modified)": ?"?[^",]+', r'"\1"', text)


@pytest.fixture(scope="module")
def sweeps(tmp_path_factory):
    folder = tmp_path_factory.mktemp("leaks")
    make(folder / "any.db")
    routes = sorted({re.sub(r"\{[^}]*\}", "x", route) for route, _ in all_routes(folder / "any.db")})
    assert len(routes) >= 75  # a walk that misses Gradio's included routers finds some 30
    return sweep(folder / "one", KEYS, routes), sweep(folder / "two", OTHER_KEYS, routes)


def test_the_sweep_is_wide(sweeps):
    (answers, _, _), _ = sweeps
    assert len(answers) >= 240
    assert len({what for what, *_ in answers}) >= 140
    assert sum("Answer " in text for *_, text in answers) >= 10  # it does see items


def test_no_key_and_no_name_reaches_the_browser_or_the_terminal(sweeps):
    for answers, printed, _ in sweeps:
        seen = "\n".join([printed, *("\n".join(map(str, answer)) for answer in answers)])
        for canary in (*KEYS, *OTHER_KEYS, *NAMES, "canary", "tweety", "studyname"):
            assert canary not in seen


def test_the_app_never_opens_blinding_json(sweeps):
    for _, printed, _ in sweeps:
        assert "BLINDING OPENED" not in printed


def test_with_other_arm_keys_every_answer_is_the_same(sweeps):
    (one, printed_one, url_one), (two, printed_two, url_two) = sweeps
    assert len(one) == len(two)
    for mine, other in zip(one, two, strict=True):
        assert [plain(str(part), url_one) for part in mine] == [plain(str(part), url_two) for part in other]
    assert printed_one == printed_two

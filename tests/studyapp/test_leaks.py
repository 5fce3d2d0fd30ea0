"""Nothing that a rater's browser can reach tells which arm is behind a code, or which items are checks and repeats.

The same study of all modes is served twice, with other arm keys in the same order and with models of other speed behind
them: every answer of the server must be the same to the byte, after the parts that are random by design are taken out.
And no arm key, no arm name and no kind of item may appear in any.
"""

import json
import re

import pytest
from served import Client, app_of, serving, typing
from small_study import known, make, scenarios

KEYS = [f"canary-{number}-{'abc'[number]}{'xyz'[number] * 9}" for number in range(3)]
OTHER_KEYS = [f"budgie-{number}-{'abc'[number]}{'uvw'[number] * 9}" for number in range(3)]
NAMES = ["teachername", "distilledname", "scratchname"]
FACTS = {"items": scenarios(turns=2, modes=("fixed", "live", "side-by-side")), "scenarios_per_rater": 4, "side": 3}
FACTS |= {"training": [known(1)], "checks": [known(2, goal="You want to check.")], "check_every": 3, "repeats": 1}


class Sweep:
    """One served study, and everything that the server answers to a script of good, bad and curious requests."""

    def __init__(self, folder, keys, paces):
        self.folder, self.keys, self.paces = folder, keys, paces
        self.path = folder / "study.db"
        self.answers = []  # (request, status, headers, text)
        self.streams = []  # what was shown of each answer
        self.printed = ""
        self.url = ""

    def run(self, routes):
        self.folder.mkdir()
        make(self.path, keys=self.keys, name="studyname-" + "-".join(NAMES), questions=True, **FACTS)
        blinding = self.folder / "blinding.json"
        blinding.write_text(json.dumps(dict(zip(self.keys, NAMES, strict=True))))
        blinding.chmod(0o600)
        with (
            typing(self.path, paces=self.paces) as models,
            serving(self.path, models=models, limits={"misses": (1000, 1), "posts": (1000, 100)}) as server,
            Client(server.url, session="no-one") as stranger,
            Client(server.url, panels=3, live=True) as rater,
        ):
            self.url = server.url
            self.note("join page", stranger.http.get("/join"))
            self.note("join", rater.join())
            self.every_route(stranger, rater, routes)
            self.every_event(rater)
            self.all_items(rater)
            self.after_the_last(rater)
            self.printed = "\n".join(server.lines).replace(server.url, "")
        return self

    def note(self, what, response):
        kept = {name: value for name, value in response.headers.items() if name not in ("date", "content-length")}
        self.answers.append((what, response.status_code, json.dumps(kept), response.text))
        return response

    def every_route(self, stranger, rater, routes):
        for client in (stranger, rater):
            who = "stranger" if client is stranger else "rater"
            for route in routes:
                if route not in ("/join", "/leave", "/withdraw", "/device"):
                    self.note(f"{who} GET {route}", client.http.get(route))
                    self.note(f"{who} POST {route}", client.post(route))
        self.note("the database as a file", rater.http.get(f"/gradio_api/file={self.path}"))
        for curious in ("deep_link?session_hash=session1", "queue/data?session_hash=session1", "file=/etc/passwd"):
            self.note(curious, rater.http.get(f"/gradio_api/{curious}"))

    def every_event(self, rater):
        """Each function, right and wrong, before anything is rated."""
        self.note("show", rater.show())
        self.note("speak", rater.call(rater.SPEAK))
        for function in range(15):
            for data in ([], [None], ["1.0.A"], ["1.0.A", "x"], ["9.9.Z"] + [3] * 10, ["1.0.A"] + [99] * 10):
                self.note(f"function {function} of {len(data)}", rater.call(function, *data))
        self.note("a function that is not there", rater.call(99))
        self.note("at an item far ahead", rater.show(at=9))
        self.note("one mark only", rater.rate(3, None))
        self.note("too high", rater.rate(99, 1))
        self.note("a problem", rater.call(rater.REPORT, "odd", rater.place))

    def all_items(self, rater):
        seen = 0
        while True:
            shown = rater.screen(self.note("show", rater.show()))["item"]
            if "elsewhere" in shown:
                return
            seen += 1
            assert seen < 40
            if " live " in shown:
                self.chat(rater, fail=seen % 2 == 0)
            self.note("no preference", rater.rate(2, 3, comment="<b>fine</b>"))
            self.note("rate", rater.rate(seen % 5 + 1, 3, comment="<b>fine</b>", preference="none"))
            if " training " in shown:
                self.note("onward", rater.call(rater.ONWARD, rater.place))
            elif seen % 4 == 0:
                self.note("back", rater.call(rater.BACK, rater.place))

    def chat(self, rater, fail):
        self.note("finish too early", rater.call(rater.FINISH, rater.place))
        if fail:
            self.streams.append(rater.hear("please fail"))
            self.note("failed", rater.show())
            self.note("again", rater.call(rater.AGAIN, rater.place))
            self.streams.append(rater.watch())
            self.note("send another in its place", rater.call(rater.SEND, "Hello instead", rater.place))
            self.streams.append(rater.watch())
        else:
            self.streams.append(rater.hear("Hello there"))
        self.note("answered", rater.show())
        self.note("finish", rater.call(rater.FINISH, rater.place))

    def after_the_last(self, rater):
        for page in ("/", "/questions", "/end", "/paused", "/closed", "/language", "/leave", "/withdraw"):
            self.note(page, rater.http.get(page))
        names = sorted(set(re.findall(r'name="(\w+-\w+)"', rater.http.get("/questions").text)))
        self.note("questions", rater.post("/questions", data=dict.fromkeys(names, "none")))
        self.note("the end", rater.http.get("/end"))

    def plain(self, text):
        """Without what is random by design: nonces, cookies, the port, the folder, ids of processes and events."""
        text = text.replace(self.url, "URL/").replace(self.url.rstrip("/"), "URL").replace(str(self.folder), "FOLDER")
        text = re.sub(r"nonce[-=][\w-]+", "nonce", text)
        text = re.sub(r"viva_[0-9a-f]{8}=[\w-]+", "cookie", text)
        text = re.sub(r'"event_id": ?"\w+"', '"event_id"', text)
        return re.sub(r'"(app_id|etag|last-modified)": ?"?[^",}]+', r'"\1"', text)


@pytest.fixture(scope="module")
def sweeps(tmp_path_factory):
    folder = tmp_path_factory.mktemp("leaks")
    make(folder / "any.db", **FACTS)
    app = app_of(folder / "any.db")
    routes = [re.sub(r"\{[^}]*\}", "x" * 20, path) for path in app.paths if not path.startswith("/owner")]
    assert len(routes) >= 80  # a walk that misses Gradio's included routers finds some 40
    return [
        Sweep(folder / "one", KEYS, (0.0, 0.01, 0.03)).run(routes),
        Sweep(folder / "two", OTHER_KEYS, (0.03, 0.0, 0.01)).run(routes),
    ]


def test_the_sweep_is_wide(sweeps):
    for sweep in sweeps:
        assert len(sweep.answers) >= 450
        assert len({what for what, *_ in sweep.answers}) >= 330
        assert sum("Answer " in text for *_, text in sweep.answers) >= 15  # it does see items
        assert sum(" live " in text for *_, text in sweep.answers) >= 10
        assert sum("panels-3" in text for *_, text in sweep.answers) >= 3
        assert sum("could not answer" in shown[-1] for shown in sweep.streams if shown) >= 2
        assert sum("It goes on for a while." in shown[-1] for shown in sweep.streams if shown) >= 2


def test_no_key_and_no_name_reaches_the_browser_or_the_terminal(sweeps):
    for sweep in sweeps:
        seen = "\n".join([sweep.printed, json.dumps(sweep.streams), *("\n".join(map(str, a)) for a in sweep.answers)])
        for canary in (*KEYS, *OTHER_KEYS, *NAMES, "canary", "budgie", "studyname", "out of memory", "blinding"):
            assert canary not in seen


def test_no_kind_of_item_reaches_the_browser(sweeps):
    for sweep in sweeps:
        items = [text for what, *_, text in sweep.answers if what in ("show", "rate", "back", "answered")]
        assert any("You want to check." in text for text in items)  # the check is there, and looks like any other
        for text in items:
            classes = re.findall(r"section class=[\\\"]+([^\"\\]*)", text)
            words = {word for found in classes for word in found.split()}
            assert not words & {"check", "repeat", "rated", "extra", "known"}
            assert "known1" not in text
            assert "known2" not in text
            assert '"kind"' not in text


def test_the_app_never_opens_blinding_json(sweeps):
    for sweep in sweeps:
        assert "BLINDING OPENED" not in sweep.printed


def test_with_other_arms_every_answer_is_the_same(sweeps):
    one, two = sweeps
    assert [what for what, *_ in one.answers] == [what for what, *_ in two.answers]
    for mine, other in zip(one.answers, two.answers, strict=True):
        assert [one.plain(str(part)) for part in mine] == [two.plain(str(part)) for part in other]
    assert one.printed == two.printed


def test_with_models_of_other_speed_the_streams_show_the_same(sweeps):
    one, two = (sweep.streams for sweep in sweeps)
    assert [shown[-1] for shown in one] == [shown[-1] for shown in two]
    for mine, other in zip(one, two, strict=True):
        # a listener that this machine holds up may miss a step, but there are no other steps than these
        steps = sorted({*mine, *other}, key=len)
        assert len({len(step) for step in steps}) == len(steps)
        lengths = [len(step) - len(steps[0]) for step in steps[:-1]]
        assert all(length % 10 == 0 for length in lengths) or len(steps) <= 2

"""The real server over a study, in a process of its own; a rater over plain HTTP; a model server with scripted arms."""

import contextlib
import json
import os
import re
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx

ROOT = Path(__file__).parents[2]
SECRET = "a secret of the tests"

SERVE = """
import json, sys
from pathlib import Path
from studyapp.broker import Broker
from studyapp.limits import Limits
from studyapp.server import serve
def audit(event, args):
    if event == "open" and "blinding" in str(args[0]):
        print("BLINDING OPENED", flush=True)
sys.addaudithook(audit)
order = json.loads(sys.argv[1])
broker = Broker(order["address"], order["secret"]) if order["address"] else None
serve(Path(order["db"]), port=order["port"], broker=broker, limits=Limits(**order["limits"]),
      root_path=order["root_path"], on_ready=lambda url: print(url, flush=True))
"""

ROUTES = """
import json, sys
from pathlib import Path
from studyapp.broker import Broker
from studyapp.server import build
def walk(app):
    for route in app.routes:
        inner = getattr(route, "original_router", None) or getattr(route, "app", None)
        if hasattr(inner, "routes"):
            yield from walk(inner)
        else:
            yield [route.path, sorted(route.methods)]
guard = build(Path(sys.argv[1]), broker=Broker("unix:/nowhere", ""))
functions = {number: [one.inputs, one.queued] for number, one in guard.calls.functions.items()}
print(json.dumps([list(walk(guard.app)), functions]))
"""


@dataclass
class Served:
    """A running server: its address (with the final slash), its process, and what it printed."""

    url: str
    process: subprocess.Popen[str]
    lines: list[str]
    db: Path

    def kill(self) -> None:
        """kill -9."""
        self.process.kill()
        self.process.wait()

    def interrupt(self) -> int:
        """Ctrl-C; the exit code."""
        self.process.send_signal(signal.SIGINT)
        return self.process.wait(20)


@contextlib.contextmanager
def serving(
    db: Path,
    port: int = 0,
    *,
    models: "Models | None" = None,
    limits: dict[str, Any] | None = None,
    root_path: str = "",
) -> Iterator[Served]:
    """The real server over `db`, ready to answer; stopped at the end if it still runs."""
    order = {"db": str(db), "port": port, "limits": limits or {}, "root_path": root_path}
    order |= {"address": models.address if models else "", "secret": models.secret if models else ""}
    with _running([sys.executable, "-c", SERVE, json.dumps(order)], db.parent) as (process, lines, first):
        yield Served(first, process, lines, db)


@dataclass
class Models:
    """A model server: where it is, and its process."""

    address: str
    secret: str
    process: subprocess.Popen[str] | None = None

    def kill(self) -> None:
        """kill -9."""
        assert self.process is not None
        self.process.kill()
        self.process.wait()


@contextlib.contextmanager
def typing(db: Path, address: str | None = None, paces: Sequence[float] = (0.0, 0.0, 0.0)) -> Iterator[Models]:
    """The real model server over `db` with scripted arms (see typists.py), at `address` (default: a new socket).

    `paces` are the seconds that each arm, in the order of its key, takes for a word.
    """
    address = address or f"unix:{db.parent / 'models.sock'}"
    order = {"db": str(db), "address": address, "secret": SECRET, "paces": list(paces)}
    script = str(Path(__file__).with_name("typists.py"))
    with _running([sys.executable, script, json.dumps(order)], db.parent) as (process, _, _):
        yield Models(address, SECRET, process)


@contextlib.contextmanager
def _running(command: list[str], folder: Path) -> Iterator[tuple[subprocess.Popen[str], list[str], str]]:
    """A process that prints an address once it is ready; what it prints afterwards is collected."""
    env = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    process = subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env=env, cwd=folder
    )
    assert process.stdout is not None
    lines: list[str] = []
    ready = threading.Event()

    def read(stream: Any) -> None:
        for line in stream:
            lines.append(line.rstrip())
            if line.startswith("http"):
                ready.set()
        ready.set()

    reader = threading.Thread(target=read, args=[process.stdout], daemon=True)
    reader.start()
    try:
        assert ready.wait(400), "the server did not start"
        urls = [line for line in lines if line.startswith("http")]
        assert urls, "\n".join(lines)
        yield process, lines, urls[0]
    finally:
        if process.poll() is None:
            process.terminate()
            try:
                process.wait(15)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
        reader.join(10)
        process.stdout.close()


@dataclass(frozen=True)
class App:
    """What an app is made of: every route of it and of Gradio in it, and the functions that the guard lets through."""

    routes: list[tuple[str, list[str]]]
    functions: dict[int, tuple[int, bool]]

    @property
    def paths(self) -> list[str]:
        return sorted({path for path, _ in self.routes})


def app_of(db: Path) -> App:
    """The app over `db`, looked at in another process."""
    env = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    done = subprocess.run([sys.executable, "-c", ROUTES, str(db)], capture_output=True, text=True, env=env)
    assert done.returncode == 0, done.stderr
    routes, functions = json.loads(done.stdout)
    found = {int(number): (inputs, queued) for number, (inputs, queued) in functions.items()}
    return App([(path, methods) for path, methods in routes], found)


@dataclass
class Client:
    """A rater over plain HTTP: what the page in the browser sends, without the browser.

    `panels` and `live` are what the study's page has room for. `place` is the page that was shown last.
    """

    url: str
    session: str = "session1"
    panels: int = 1
    live: bool = False
    place: str = ""
    http: httpx.Client = field(init=False)

    SHOW, SPEAK, SAVE, BACK, ONWARD, REPORT, SEND, AGAIN, FINISH, WATCH, SETTLE = range(11)

    def __post_init__(self) -> None:
        self.url = self.url.rstrip("/")
        self.http = httpx.Client(base_url=self.url, timeout=60)

    def __enter__(self) -> "Client":
        return self

    def __exit__(self, *_: object) -> None:
        self.http.close()

    @property
    def filled(self) -> list[str]:
        """The parts of a whole page, in the order in which their values come."""
        marks = [f"{part}-{n}" for n in range(1, self.panels + 1) for part in ("chat", *MARKED)]
        return ["item", "note", "place", *marks, *["preference"] * (self.panels > 1), *["say", "live"] * self.live]

    def post(self, path: str, headers: dict[str, str] | None = None, **body: Any) -> httpx.Response:
        return self.http.post(path, headers={"origin": self.url, **(headers or {})}, **body)

    def join(self, path: str = "/join", **fields: str) -> httpx.Response:
        return self.post(path, data={"consent": "yes", **fields})

    def call(self, function: int, *data: Any, **changes: Any) -> httpx.Response:
        body = {"data": data, "fn_index": function, "session_hash": self.session, "event_data": None, "trigger_id": 1}
        answer = self.post("/gradio_api/run/predict", json={**body, **changes})
        if found := re.search(r'"(\d+\.\d+\.[A-Z+]+)"', answer.text):
            self.place = found[1]
        return answer

    def screen(self, answer: httpx.Response) -> dict[str, Any]:
        """The values of a whole page, by part; parts that stay as they are are left out."""
        values = zip(self.filled, answer.json()["data"], strict=True)
        return {name: value for name, value in values if value != {"__type__": "update"}}

    def show(self, at: int | None = None) -> httpx.Response:
        query = f"?at={at}" if at else ""
        body = {"data": [], "fn_index": self.SHOW, "session_hash": self.session, "event_data": None, "trigger_id": 1}
        answer = self.post(f"/gradio_api/run/predict{query}", json=body)
        self.place = next(iter(re.findall(r'"(\d+\.\d+\.[A-Z+]+)"', answer.text)), "")
        return answer

    def rate(
        self,
        satisfaction: Any,
        goal: Any,
        position: int | None = None,
        version: int | None = None,
        comment: Any = "",
        preference: Any = None,
    ) -> httpx.Response:
        """Rate all chats of a page alike; by default the page shown last, in the version that was shown."""
        here, seen, codes = self.place.split(".")
        place = f"{position or here}.{seen if version is None else version}.{codes}"
        marks = [satisfaction, goal, comment] * self.panels
        return self.call(self.SAVE, place, *marks, *([preference] if self.panels > 1 else []))

    def hear(self, text: str) -> list[str]:
        """Send a message of a live chat and listen to its end: all that was shown of the answer, in order."""
        assert self.screen_note(self.call(self.SEND, text, self.place)) == ""
        return self.watch()

    def watch(self) -> list[str]:
        """Listen to the answer that is on its way."""
        body = {"data": [self.place], "fn_index": self.WATCH + 2, "session_hash": self.session, "trigger_id": 1}
        joined = self.post("/gradio_api/queue/join", json={**body, "event_data": None})
        assert joined.status_code == 200, joined.text
        shown: list[Any] = []
        for said in self.events():
            if said["msg"] in ("process_generating", "process_completed") and said["output"].get("data"):
                shown = _apply(shown, said["output"]["data"][0])
        self.call(self.SETTLE, self.place)
        return shown

    def events(self) -> Iterator[dict[str, Any]]:
        """The events of this visit until it closes."""
        with self.http.stream("GET", f"/gradio_api/queue/data?session_hash={self.session}") as stream:
            assert stream.status_code == 200
            for line in stream.iter_lines():
                if line.startswith("data:"):
                    yield json.loads(line[5:])

    def screen_note(self, answer: httpx.Response) -> str:
        """The note of a live answer (item, note, ...)."""
        return str(answer.json()["data"][1])


MARKED = ("satisfaction", "goal_achievement", "comment")


def _apply(shown: list[str], change: Any) -> list[str]:
    """What is shown after a change: the whole text, or what Gradio's diff says."""
    last = shown[-1] if shown else ""
    if change is None:  # a stream without a word
        return shown
    if isinstance(change, str):
        return [*shown, change] if change != last else shown
    for action, path, value in change:
        assert path == [], change
        last = last + value if action == "append" else value
    return [*shown, last]

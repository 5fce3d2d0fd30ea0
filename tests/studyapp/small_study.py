"""A small study in a real database, and the real server over it in a process of its own."""

import contextlib
import json
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx

from harness.records import Message, Scenario
from studyapp import store

ROOT = Path(__file__).parents[2]
KEYS = ("k-one", "k-two", "k-three")

SERVE = """
import sys
from studyapp.server import serve
def audit(event, args):
    if event == "open" and "blinding" in str(args[0]):
        print("BLINDING OPENED", flush=True)
sys.addaudithook(audit)
serve(sys.argv[1], port=int(sys.argv[2]), on_ready=lambda url: print(url, flush=True))
"""

ROUTES = """
import json, sys
from studyapp.server import build
def walk(app):
    for route in app.routes:
        inner = getattr(route, "original_router", None) or getattr(route, "app", None)
        if hasattr(inner, "routes"):
            yield from walk(inner)
        else:
            yield [route.path, sorted(route.methods)]
print(json.dumps(list(walk(build(sys.argv[1]).app))))
"""


def scenarios(count: int = 4) -> list[Scenario]:
    kinds = ("advice", "facts")
    return [
        Scenario(
            id=f"s{number}",
            category=kinds[number % 2],
            goal=f"You want thing {number}.",
            opening=f"Please give me thing {number}.",
            turns=1,
            reached=f"The answer names thing {number}.",
        )
        for number in range(1, count + 1)
    ]


def text_of(arm: int, scenario: Scenario) -> str:
    """What arm number `arm` answers; every cell has its own text."""
    return f"Answer {arm} to {scenario.id}: here it is."


def make(
    path: Path,
    *,
    keys: Sequence[str] = KEYS,
    items: Sequence[Scenario] | None = None,
    text: Callable[[int, Scenario], str] = text_of,
    **changes: Any,
) -> bool:
    """Create the small study at `path`; `changes` go to store.create.

    It wants more ratings than any test gives: nobody is sent away because it is full.
    """
    items = scenarios() if items is None else items
    settings = {"name": "small", "mode": "fixed", "seed": 7, "ratings_per_cell": 60, "scenarios_per_rater": 3}
    settings |= {"questions": False}
    answers = [
        (key, item.id, [Message(role="user", content=item.opening), Message(role="assistant", content=text(arm, item))])
        for arm, key in enumerate(keys)
        for item in items
        if (item.mode or changes.get("mode", "fixed")) != "live"
    ]
    return store.create(path, scenarios=items, arm_keys=keys, answers=answers, **{**settings, **changes})


@dataclass
class Served:
    """A running server: its address (with the final slash), its process, and what it printed."""

    url: str
    process: subprocess.Popen[str]
    lines: list[str]

    def kill(self) -> None:
        """kill -9."""
        self.process.kill()
        self.process.wait()

    def interrupt(self) -> int:
        """Ctrl-C; the exit code."""
        self.process.send_signal(signal.SIGINT)
        return self.process.wait(20)


@contextlib.contextmanager
def serving(db: Path, port: int = 0) -> Iterator[Served]:
    """The real server over `db`, ready to answer; stopped at the end if it still runs."""
    env = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    process = subprocess.Popen(
        [sys.executable, "-c", SERVE, str(db), str(port)],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        env=env,
        cwd=db.parent,
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
        assert ready.wait(90), "the server did not start"
        urls = [line for line in lines if line.startswith("http")]
        assert urls, "\n".join(lines)
        yield Served(urls[0], process, lines)
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


def all_routes(db: Path) -> list[tuple[str, list[str]]]:
    """Every route of the app and of Gradio in it, found in another process: (path, methods)."""
    env = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    done = subprocess.run([sys.executable, "-c", ROUTES, str(db)], capture_output=True, text=True, env=env, check=True)
    return [(path, methods) for path, methods in json.loads(done.stdout)]


class Client:
    """A rater over plain HTTP: what the page in the browser sends, without the browser."""

    SHOW, RATE, BACK = 0, 1, 2

    def __init__(self, url: str, session: str = "session1") -> None:
        self.url = url.rstrip("/")
        self.session = session
        self.http = httpx.Client(base_url=self.url, timeout=30)

    def __enter__(self) -> "Client":
        return self

    def __exit__(self, *_: object) -> None:
        self.http.close()

    def post(self, path: str, headers: dict[str, str] | None = None, **body: Any) -> httpx.Response:
        return self.http.post(path, headers={"origin": self.url, **(headers or {})}, **body)

    def join(self) -> httpx.Response:
        return self.post("/join", data={"consent": "yes"})

    def call(self, function: int, *data: Any, **changes: Any) -> httpx.Response:
        body = {"data": data, "fn_index": function, "session_hash": self.session, "event_data": None, "trigger_id": 1}
        return self.post("/gradio_api/run/predict", json={**body, **changes})

    def show(self) -> httpx.Response:
        return self.call(self.SHOW)

    def rate(self, satisfaction: int, goal: int, position: int, revision: int = 0, comment: str = "") -> httpx.Response:
        return self.call(self.RATE, satisfaction, goal, comment, position, revision)

"""A small real server that answers like an OpenAI chat endpoint, as a judge of a given temper."""

import contextlib
import json
import re
import threading
import time
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

Behave = Callable[[str, int], Any]
"""(the first message, how often this conversation went before) -> text, or a status, or (text, finish)."""


def good(request: str, before: int) -> str:
    """Marks that depend on the answer's text alone: the more often it says 'good', the better."""
    if "Assistant B" in request:
        marks = [_mark(part) for part in request.split("Second chat:")]
        winner = "tie" if marks[0] == marks[1] else "A" if marks[0] > marks[1] else "B"
        return json.dumps({"reason": "counted", "A": marks[0], "B": marks[1], "winner": winner})
    mark = _mark(request)
    return json.dumps({"reason": "counted", "satisfaction": mark, "goal_achievement": max(1, mark - 1)})


def first_wins(request: str, before: int) -> str:
    """Whatever is shown first is better."""
    return json.dumps({"reason": "it came first", "A": 5, "B": 3, "winner": "A"}) if "Assistant B" in request else good(
        request, before
    )  # fmt: skip


def garbage(request: str, before: int) -> str:
    return "I cannot put a number on that."


def second_try(request: str, before: int) -> str:
    """Nothing readable at first, and the marks once it is told."""
    return garbage(request, before) if before == 0 else good(request, before)


def _mark(text: str) -> int:
    return min(5, 1 + len(re.findall(r"\bgood\b", text)))


class JudgeServer(ThreadingHTTPServer):
    """Counts and keeps what it is asked. `faults` are taken by the next requests: a status, 'html', 'late', 'drop'."""

    daemon_threads = True

    def __init__(self, behave: Behave, delay: float = 0.0):
        super().__init__(("127.0.0.1", 0), _Handler)
        self.behave, self.delay = behave, delay
        self.faults: list[Any] = []
        self.payloads: list[dict[str, Any]] = []
        self.keys: list[str | None] = []
        self.lock = threading.Lock()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}/v1"

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A client that was killed or gave up is no error of the server."""


class _Handler(BaseHTTPRequestHandler):
    server: JudgeServer

    def do_POST(self) -> None:
        payload = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        with self.server.lock:
            self.server.payloads.append(payload)
            self.server.keys.append(self.headers.get("Authorization"))
            fault = self.server.faults.pop(0) if self.server.faults else None
        time.sleep(self.server.delay)
        if fault == "late":
            time.sleep(3.0)
        if fault == "drop":
            self.connection.close()
            return
        if fault == "html":
            self._send(200, b"<html>nobody home</html>")
            return
        if isinstance(fault, int):
            self._send(fault, json.dumps({"error": {"message": "not like this"}}).encode(), {"Retry-After": "0"})
            return
        messages = payload["messages"]
        said = self.server.behave(messages[0]["content"], (len(messages) - 1) // 2)
        if isinstance(said, int):
            self._send(said, b'{"error": {"message": "too long"}}')
            return
        text, finish = said if isinstance(said, tuple) else (said, "stop")
        usage = {
            "prompt_tokens": sum(len(one["content"]) for one in messages) // 4,
            "completion_tokens": len(text) // 4,
        }
        choice = {"index": 0, "message": {"role": "assistant", "content": text}, "finish_reason": finish}
        self._send(200, json.dumps({"choices": [choice], "usage": usage}).encode())

    def _send(self, status: int, body: bytes, headers: dict[str, str] | None = None) -> None:
        self.send_response(status)
        for name, value in {"Content-Type": "application/json", **(headers or {})}.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: Any) -> None:
        """Nothing: the test's output is pytest's."""


@contextlib.contextmanager
def judging_server(behave: Behave, delay: float = 0.0) -> Iterator[JudgeServer]:
    """A server on a free port as long as the context lasts."""
    with JudgeServer(behave, delay) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
        thread.start()
        try:
            yield server
        finally:
            server.shutdown()
            thread.join()

"""A small real server that answers like an OpenAI completions endpoint, from a model in this process."""

import contextlib
import json
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any


class Server(ThreadingHTTPServer):
    """Serves one model; `faults` are taken by the next requests: a status, 'garbage', 'empty', 'nan', 'late'."""

    daemon_threads = True

    def __init__(self, model: Any, tokenizer: Any):
        super().__init__(("127.0.0.1", 0), _Handler)
        self.model, self.tokenizer = model, tokenizer
        self.faults: list[Any] = []
        self.asked = 0
        self.payloads: list[dict[str, Any]] = []

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}/v1/completions"

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A client that gave up waiting is no error of the server."""


class _Handler(BaseHTTPRequestHandler):
    server: Server

    def do_POST(self) -> None:
        payload = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        self.server.asked += 1
        self.server.payloads.append(payload)
        fault = self.server.faults.pop(0) if self.server.faults else None
        if fault == "late":
            time.sleep(1.5)
        if isinstance(fault, int):
            self._send(fault, b"not now")
            return
        if fault == "garbage":
            self._send(200, b"<html>nobody home</html>")
            return
        choices = [] if fault == "empty" else _choices(self.server, payload)
        if fault == "nan":
            for choice in choices:
                choice["logprobs"]["token_logprobs"] = [float("nan")] * len(choice["logprobs"]["token_logprobs"])
        self._send(200, json.dumps({"choices": choices}).encode())

    def _send(self, status: int, body: bytes) -> None:
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: Any) -> None:
        """Nothing: the test's output is pytest's."""


def _choices(server: Server, payload: dict[str, Any]) -> list[dict[str, Any]]:
    return [
        {"index": index, **(_echo(server, ids) if payload.get("echo") else _write(server, ids, payload))}
        for index, ids in enumerate(payload["prompt"])
    ]


def _echo(server: Server, ids: list[int]) -> dict[str, Any]:
    """Log-probabilities of the prompt's tokens and of one that follows."""
    import torch

    with torch.no_grad():
        logp_TV = server.model(torch.tensor([ids])).logits[0].log_softmax(-1)
    whole = [*ids, int(logp_TV[-1].argmax())]
    tokens: list[float | None] = [None, *(float(logp_TV[at, token]) for at, token in enumerate(whole[1:]))]
    top: list[dict[str, float] | None] = [None, *({"best": float(row_V.max())} for row_V in logp_TV)]
    return {"text": "", "logprobs": {"token_logprobs": tokens, "top_logprobs": top}}


def _write(server: Server, ids: list[int], payload: dict[str, Any]) -> dict[str, Any]:
    import torch

    written: list[int] = []
    text = ""
    while len(written) < payload["max_tokens"]:
        with torch.no_grad():
            written.append(int(server.model(torch.tensor([[*ids, *written]])).logits[0, -1].argmax()))
        text = server.tokenizer.decode(written, skip_special_tokens=True)
        ends = [text.index(stop) for stop in payload["stop"] if stop in text]
        if ends or written[-1] == server.tokenizer.eos_token_id:
            text = text[: min(ends, default=len(text))]
            break
    return {"text": text, "logprobs": None}


@contextlib.contextmanager
def serving(model: Any, tokenizer: Any) -> Iterator[Server]:
    """A server on a free port as long as the context lasts."""
    with Server(model, tokenizer) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
        thread.start()
        try:
            yield server
        finally:
            server.shutdown()
            thread.join()

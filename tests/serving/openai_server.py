"""A small OpenAI-compatible server for tests: it streams chats as vLLM does, or fails in ways that servers do."""

import asyncio
import contextlib
import json
import threading
from collections.abc import AsyncIterator, Iterator
from typing import Any

import uvicorn
from fastapi import FastAPI, Request
from fastapi.responses import PlainTextResponse, Response, StreamingResponse

PIECE = 3


class ChatServer:
    """Answers every chat with `text`, pieces of three characters apart by `gap` seconds.

    `faults` are taken by the next requests: a status, or garbage, html, cut, error, silent, babble, roles.
    """

    def __init__(self) -> None:
        self.text = "Paris is the capital of France, and it lies on the Seine."
        self.gap = 0.0
        self.faults: list[Any] = []
        self.asked: list[dict[str, Any]] = []
        self.keys: list[str | None] = []
        self.url = ""
        self.running = self.most = 0

    def app(self) -> FastAPI:
        app = FastAPI()

        @app.get("/v1/models")
        def models() -> dict[str, Any]:
            return {"object": "list", "data": [{"id": "canary-model-7b", "object": "model"}]}

        @app.post("/v1/chat/completions")
        async def chat(request: Request) -> Response:
            self.asked.append(await request.json())
            self.keys.append(request.headers.get("authorization"))
            fault = self.faults.pop(0) if self.faults else None
            if isinstance(fault, int):
                return PlainTextResponse("canary-model-7b is out", fault)
            if fault == "html":
                return PlainTextResponse("<html>canary-model-7b</html>", media_type="text/html")
            return StreamingResponse(self._events(fault), media_type="text/event-stream", headers={"x-model": "canary"})

        return app

    async def _events(self, fault: Any) -> AsyncIterator[str]:
        self.running += 1
        self.most = max(self.most, self.running)
        yield ": a comment\n\n"
        if fault == "silent":
            await asyncio.sleep(60)
        yield _event({"role": "assistant", "content": None if fault == "roles" else ""})
        if fault == "garbage":
            yield "data: {not json\n\n"
        if fault == "error":
            yield 'data: {"error": {"message": "canary-model-7b ran out of memory"}}\n\n'
            return
        pieces = [self.text[start : start + PIECE] for start in range(0, len(self.text), PIECE)]
        if fault == "babble":
            pieces = pieces * 10_000
        for number, piece in enumerate(pieces):
            if fault == "cut" and number == 3:
                return
            await asyncio.sleep(self.gap)
            yield _event({"content": piece, "reasoning_content": None})
        self.running -= 1
        yield _event({}, "stop")
        yield 'data: {"choices": [], "usage": {"total_tokens": 7}}\n\n'
        yield "data: [DONE]\n\n"


def _event(delta: dict[str, Any], finish: str | None = None) -> str:
    said = {"model": "canary-model-7b", "choices": [{"index": 0, "delta": delta, "finish_reason": finish}]}
    return f"data: {json.dumps(said)}\n\n"


@contextlib.contextmanager
def chat_server() -> Iterator[ChatServer]:
    """A server that runs in a thread of this process."""
    chats = ChatServer()
    server = uvicorn.Server(uvicorn.Config(chats.app(), port=0, log_level="critical", lifespan="off"))
    thread = threading.Thread(target=server.run, daemon=True)
    thread.start()
    while not server.started:
        assert thread.is_alive()
        threading.Event().wait(0.01)
    chats.url = f"http://127.0.0.1:{server.servers[0].sockets[0].getsockname()[1]}/v1"
    try:
        yield chats
    finally:
        server.should_exit = server.force_exit = True
        thread.join(10)

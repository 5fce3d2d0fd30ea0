"""The model server's three requests: is it there, answer a chat, measure the arms.

It answers whoever knows its secret. What it says never depends on an arm but by the text that the arm wrote: a chat is
asked for by the number of its assignment, errors have one text, and headers name nothing.
"""

import asyncio
import hmac
import json
import logging
from collections.abc import AsyncIterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import BaseModel, ConfigDict, Field

from harness.records import Message
from harness.serving.arms import Arm
from harness.serving.measure import Pacing, measured
from harness.serving.study_db import look_up
from harness.serving.turns import Turns

if TYPE_CHECKING:
    from starlette.types import ASGIApp, Receive, Scope, Send
    from starlette.types import Message as AsgiMessage

log = logging.getLogger("harness.serving")

REFUSED = b'{"error": "not available"}'


class Asked(BaseModel):
    """A request for the answer to a chat."""

    model_config = ConfigDict(extra="forbid")

    assignment: int
    messages: tuple[Message, ...] = Field(min_length=1, max_length=200)


def build(db: Path, arms: Mapping[str, Arm], turns: Turns, secret: str, pacing: Pacing) -> "ASGIApp":
    """The app over a study's database; `arms` are by arm key."""
    from fastapi import FastAPI, Request
    from fastapi.responses import Response, StreamingResponse

    app = FastAPI(docs_url=None, redoc_url=None, openapi_url=None)

    @app.get("/health")
    async def health() -> Response:
        return Response(b"{}", media_type="application/json")

    @app.post("/chat")
    async def chat(request: Request) -> Response:
        asked = Asked.model_validate_json(await request.body())
        key, budget = await asyncio.to_thread(look_up, db, asked.assignment)
        answer = turns.answer(asked.assignment, arms[key], asked.messages, budget)
        return StreamingResponse(_lines(answer.follow()), media_type="application/x-ndjson")

    @app.post("/measure")
    async def measure() -> Response:
        return StreamingResponse(_lines(measured(arms, turns, pacing)), media_type="application/x-ndjson")

    return Guard(app, secret)


class Guard:
    """In front of the app: 401 without the secret, 404 for what is not there, 503 for all errors, all in one text."""

    def __init__(self, app: "ASGIApp", secret: str) -> None:
        self.app, self.expected = app, f"Bearer {secret}".encode()

    async def __call__(self, scope: "Scope", receive: "Receive", send: "Send") -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        given = dict(scope["headers"]).get(b"authorization", b"")
        if not hmac.compare_digest(given, self.expected):
            await _refuse(send, 401)
            return
        started = refused = False

        async def guarded(message: "AsgiMessage") -> None:
            nonlocal started, refused
            if message["type"] == "http.response.start":
                started = True
                if message["status"] >= 400:
                    refused = True
                    await _refuse(send, message["status"])
            if not refused:
                await send(message)

        try:
            await self.app(scope, receive, guarded)
        except Exception as error:
            # What was wrong with a request is said in a line, the rest in full.
            log.error("a request failed: %s", error, exc_info=not isinstance(error, LookupError | ValueError))
            if not started:
                await _refuse(send, 503)


async def _refuse(send: "Send", status: int) -> None:
    headers = [(b"content-type", b"application/json"), (b"content-length", str(len(REFUSED)).encode())]
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": REFUSED})


async def _lines(said: AsyncIterator[dict[str, Any]]) -> AsyncIterator[bytes]:
    async for line in said:
        yield json.dumps(line, ensure_ascii=False).encode() + b"\n"

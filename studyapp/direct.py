"""Calls of the page past the queue, answered in Gradio's form but without Gradio's way there.

On that way Gradio looks for files in the values, keeps a copy of the page for each session, measures and counts, and
takes twice as long for a submit as all the rest together. This page uses none of it: its values pass as they are, and
all that is known of a rater is in study.db. So a call that the guard let through goes to its function at once.
"""

import json
from typing import Any

import fastapi
import gradio as gr
from starlette.types import Receive, Scope, Send


class Direct:
    """An ASGI app for POST /gradio_api/run/predict; the guard has read the call (`scope["state"]["call"]`)."""

    def __init__(self, demo: gr.Blocks) -> None:
        self.functions: dict[int, Any] = {index: one.fn for index, one in demo.fns.items() if not one.queue}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        call = scope["state"]["call"]
        request = gr.Request(fastapi.Request(scope), session_hash=call["session_hash"])
        values = await self.functions[call["fn_index"]](request, *call["data"])
        body = json.dumps(answer(values), ensure_ascii=False, separators=(",", ":")).encode(errors="replace")
        headers = [(b"content-type", b"application/json"), (b"content-length", str(len(body)).encode())]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        await send({"type": "http.response.body", "body": body})


def answer(values: list[Any]) -> dict[str, Any]:
    """What Gradio says when a function has given these values, and it says nothing of how long that took."""
    return {
        "data": values,
        "is_generating": False,
        "duration": 0.0,
        "average_duration": 0.0,
        "render_config": None,
        "changed_state_ids": [],
        "used_cache": None,
    }

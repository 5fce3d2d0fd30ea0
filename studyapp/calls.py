"""Which of Gradio's functions a browser may call, in whose session, and with what.

Gradio takes any function index with any arguments from anyone who knows a session's name, and answers junk with an
unhandled error that may tell what the function would have liked. So a call is looked at before Gradio sees it.
"""

import json
from collections import OrderedDict
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any
from urllib.parse import parse_qs

CALL = "/gradio_api/run/predict"
"""Where calls past the queue go."""

MAX_SESSIONS_PER_RATER = 20
MAX_SESSIONS = 10_000
MAX_NAME = 64

KEYS = {"data", "fn_index", "session_hash", "event_data", "trigger_id"}


@dataclass(frozen=True)
class Function:
    """What may be sent to a Gradio function: how many inputs, and whether through the queue or past it."""

    inputs: int
    queued: bool


class NonsenseError(Exception):
    """A call that the page would not make."""


class ForeignError(Exception):
    """A call in the session of another rater."""


class Calls:
    """The functions there are, and whose each Gradio session is: the first rater's who uses it."""

    def __init__(self, functions: Mapping[int, Function]) -> None:
        self.functions = functions
        self.owners: OrderedDict[str, int] = OrderedDict()  # session -> rater

    @property
    def any_queued(self) -> bool:
        """Whether the page has a stream, and so needs the queue at all."""
        return any(function.queued for function in self.functions.values())

    def check(self, body: bytes, rater: int, *, queued: bool) -> dict[str, Any]:
        """A call that may pass; else raise NonsenseError or ForeignError. All its inputs have to be plain values."""
        try:
            call = json.loads(body)
        except (ValueError, RecursionError):
            raise NonsenseError from None
        if not isinstance(call, dict) or not set(call) <= KEYS:
            raise NonsenseError
        data, index = call.get("data"), call.get("fn_index")
        function = self.functions.get(index) if type(index) is int else None
        if function is None or function.queued is not queued or not isinstance(data, list):
            raise NonsenseError
        if len(data) != function.inputs or any(isinstance(value, list | dict) for value in data):
            raise NonsenseError
        if isinstance(call.get("event_data"), list | dict) and call["event_data"]:
            raise NonsenseError
        self._claim(call.get("session_hash"), rater)
        return call

    def check_listener(self, query: bytes, rater: int) -> None:
        """Let someone listen to a session's events: only to one that is their own already."""
        fields = parse_qs(query.decode("ascii", "replace"))
        names = fields.get("session_hash", [])
        if set(fields) != {"session_hash"} or len(names) != 1:
            raise NonsenseError
        if self.owners.get(names[0]) != rater:
            raise ForeignError

    def _claim(self, session: object, rater: int) -> None:
        if not isinstance(session, str) or not 1 <= len(session) <= MAX_NAME:
            raise NonsenseError
        new = session not in self.owners
        if self.owners.setdefault(session, rater) != rater:
            raise ForeignError
        self.owners.move_to_end(session)
        if not new:
            return
        own = [key for key, owner in self.owners.items() if owner == rater]
        for key in own[:-MAX_SESSIONS_PER_RATER]:
            del self.owners[key]
        while len(self.owners) > MAX_SESSIONS:
            self.owners.popitem(last=False)

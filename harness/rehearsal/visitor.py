"""A rater's browser without the browser: the requests that the rating page makes, and what it shows for them.

It knows what a browser knows, and no more: a cookie, the HTML, the numbers of Gradio's functions.
"""

import json
import re
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

import httpx

from harness.errors import RunError

SHOW, SPEAK, SAVE, BACK, ONWARD, REPORT, SEND, AGAIN, FINISH = range(9)
WATCH = {SHOW: 9, SEND: 11, AGAIN: 13}
"""The stream that begins after each of these functions; the function behind it settles the chat."""
MARKED = ("satisfaction", "goal_achievement", "comment")
PLACE = re.compile(r"\d+\.\d+\.([A-Z+]+)")
TIMEOUT = 120.0
PATIENCE = 100
"""How often a request is repeated that the page refuses as too many."""


class StoppedError(Exception):
    """The rehearsal is being stopped."""


@dataclass(frozen=True)
class Shown:
    """What the page shows: where (the hidden field), the item's classes, its text, a note; `say`: the first message."""

    place: str
    classes: frozenset[str]
    characters: int
    note: str
    say: str

    @property
    def position(self) -> int:
        return int(self.place.split(".")[0])

    @property
    def codes(self) -> tuple[str, ...]:
        return tuple(self.place.split(".")[2].split("+"))


class Visitor:
    """One visitor of the rating page at `url`, which has room for `panels` chats, and writes some if it is `live`."""

    def __init__(self, url: str, name: str, *, panels: int, live: bool, stop: threading.Event) -> None:
        parts = urlsplit(url)
        self.origin = f"{parts.scheme}://{parts.netloc}"
        self.name, self.panels, self.live, self.stop = name, panels, live, stop
        self.http = httpx.Client(base_url=url.rstrip("/"), timeout=TIMEOUT, trust_env=False)
        self.said: dict[str, Any] = {}

    def close(self) -> None:
        self.http.close()

    def join(self, path: str = "/join") -> None:
        """Read the consent page, agree, and open the rating page. Raises RunError where that is refused."""
        page = self._asked("GET", path)
        self._need(page, 200, "the consent page")
        self._need(self._asked("POST", path, data={"consent": "yes"}), 303, "joining")

    def open(self) -> Shown | str:
        """Open the rating page: what it shows, or the path of the page where the rater belongs instead."""
        page = self._asked("GET", "/")
        if page.status_code == 303:
            return urlsplit(page.headers["location"]).path
        self._need(page, 200, "the rating page")
        return self._whole(SHOW)

    def save(self, shown: Shown, marks: list[tuple[int, int]], preference: str | None) -> Shown:
        """Send the marks of a page; a `preference` of None is 'no preference'."""
        given: list[Any] = [value for pair in marks for value in (*pair, "")]
        given += [None, None, ""] * (self.panels - len(marks))
        if self.panels > 1:
            given.append((preference or "none") if len(marks) > 1 else None)
        return self._whole(SAVE, shown.place, *given)

    def onward(self, shown: Shown) -> Shown:
        """From a page for practice to the next one."""
        return self._whole(ONWARD, shown.place)

    def say(self, shown: Shown, text: str) -> Shown:
        """Send a message of a live chat and watch the answer to its end."""
        return self._spoken(SEND, text, shown.place)

    def again(self, shown: Shown) -> Shown:
        """Have a message answered anew whose answer failed."""
        return self._spoken(AGAIN, shown.place)

    def finish(self, shown: Shown) -> Shown:
        """End a live chat, so that it can be rated."""
        return self._whole(FINISH, shown.place)

    def question_pairs(self) -> list[tuple[str, str]]:
        """The pairs of codes that the questions at the end ask about."""
        page = self._asked("GET", "/questions")
        self._need(page, 200, "the questions")
        names = dict.fromkeys(re.findall(r'name="([A-Z]+)-([A-Z]+)"', page.text))
        return list(names)

    def answer(self, guesses: dict[tuple[str, str], str | None]) -> None:
        """Answer the questions at the end."""
        data = {f"{one}-{other}": code or "none" for (one, other), code in guesses.items()}
        self._need(self._asked("POST", "/questions", data=data), 303, "the answers to the questions")

    def end(self) -> None:
        """Read the last page."""
        self._need(self._asked("GET", "/end"), 200, "the last page")

    def _spoken(self, function: int, *data: Any) -> Shown:
        names = ["item", "note", "chat-1", "live", "place", "say"]
        shown = self._call(function, names, *data)
        if shown.note:
            return shown
        watch = WATCH[function]
        body = {"data": [shown.place], "fn_index": watch, "session_hash": self.name, "event_data": None}
        joined = self._asked("POST", "/gradio_api/queue/join", json={**body, "trigger_id": 1})
        self._need(joined, 200, "a live chat")
        for _ in self._events():
            pass
        return self._call(watch + 1, names[:-1], shown.place)

    def _events(self) -> Iterator[str]:
        """What the stream of this visit says, until it closes."""
        with self.http.stream("GET", f"/gradio_api/queue/data?session_hash={self.name}") as stream:
            self._need(stream, 200, "a live chat")
            for line in stream.iter_lines():
                if self.stop.is_set():
                    raise StoppedError
                yield line

    def _whole(self, function: int, *data: Any) -> Shown:
        marks = [f"{part}-{n}" for n in range(1, self.panels + 1) for part in ("chat", *MARKED)]
        names = ["item", "note", "place", *marks, *["preference"] * (self.panels > 1), *["say", "live"] * self.live]
        return self._call(function, names, *data)

    def _call(self, function: int, names: list[str], *data: Any) -> Shown:
        """Call one of the page's functions; parts that it leaves as they are keep what they showed."""
        body = {"data": data, "fn_index": function, "session_hash": self.name, "event_data": None, "trigger_id": 1}
        answer = self._asked("POST", "/gradio_api/run/predict", json=body)
        self._need(answer, 200, "the rating page")
        values = zip(names, json.loads(answer.text)["data"], strict=True)
        self.said |= {name: value for name, value in values if not isinstance(value, dict)}
        head = str(self.said.get("item") or "")
        found = re.search(r'class="viva ([^"]*)"', head)
        chats = "".join(str(self.said.get(f"chat-{n}") or "") for n in range(1, self.panels + 1))
        note, place = _text(str(self.said.get("note") or "")), str(self.said.get("place") or "")
        say = str(self.said.get("say") or "")
        return Shown(place, frozenset(found[1].split() if found else ()), len(_text(head + chats)), note, say)

    def _asked(self, method: str, path: str, **content: Any) -> httpx.Response:
        """One request; refused as one too many it is made again, as late as the page wants it."""
        headers = {"origin": self.origin} if method == "POST" else {}
        for _ in range(PATIENCE):
            if self.stop.is_set():
                raise StoppedError
            try:
                answer = self.http.request(method, path, headers=headers, **content)
            except httpx.TransportError as error:
                raise RunError(f"the rating page does not answer: {error}", hint="rehearse again") from None
            if answer.status_code != 429:
                return answer
            self.stop.wait(float(answer.headers.get("retry-after", 1)))
        return answer

    def _need(self, answer: httpx.Response, status: int, what: str) -> None:
        if answer.status_code != status:
            answer.read()
            raise RunError(
                f"{what} answered a simulated rater with {answer.status_code}: {_text(answer.text)[-200:]}",
                hint="a person would have met the same: see what the study file says, then rehearse again",
            )


def _text(html: str) -> str:
    return re.sub(r"<[^>]*>", "", html).strip()

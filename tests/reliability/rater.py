"""A scripted rater over HTTP who reads, chats, rates, doubles clicks, changes their mind, and comes back after a crash.

What the page confirmed goes into the ledger. Whatever is cut off is done again as a person would: by pressing the same
button once more, or by loading the page anew.
"""

import random
import re
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any

import httpx

from studyapp.texts import texts
from tests.reliability.ledger import Ledger, Message, Submit, whole
from tests.studyapp.served import Client

PANELS = 2
WAIT = 0.05
"""Seconds before trying again what failed."""
PATIENCE = 300.0
"""Seconds after which a server that says nothing is a fault, on the slowest machine."""
GONE, CHANGED = (texts("en")(f"note.{reason}") for reason in ("gone", "changed"))


class Stopped(Exception):  # noqa: N818
    """The study of the test is over."""


@dataclass
class Person:
    """Somebody who takes part: their number at this chair, and what their browser keeps while they are away.

    `waiting` are the messages of their present chat; `left_open` is the page that they could rate when they went.
    """

    number: int
    cookies: dict[str, str] = field(default_factory=dict)
    waiting: list[Message] = field(default_factory=list)
    left_open: str = ""


class Rater(threading.Thread):
    """One chair: somebody takes part, after their last page or before somebody else does, until `stop` is set.

    `door` gives the path at which the next one joins.
    """

    def __init__(
        self, url: str, name: str, door: Callable[[], str], ledger: Ledger, stop: threading.Event, seed: int
    ) -> None:
        super().__init__(name=name, daemon=True)
        self.url, self.door, self.ledger, self.stop = url, door, ledger, stop
        self.rng = random.Random(seed)
        self.people = self.sent = 0
        self.me = Person(0)
        self.away: list[Person] = []

    def run(self) -> None:
        try:
            with ThreadPoolExecutor(1) as self.hand:  # for pressing a button twice at once
                while True:
                    if self.away and self.rng.random() < 0.5:
                        self.me = self.away.pop(0)
                    else:
                        self.people += 1
                        self.me = Person(self.people)
                    session = f"{self.name}{self.me.number}"
                    one, two = (Client(self.url, f"{session}{window}", PANELS, True) for window in "ab")
                    with one, two:
                        one.http.timeout = two.http.timeout = httpx.Timeout(PATIENCE)
                        self.take_part(one, two)
        except Stopped:
            pass
        except Exception as error:
            self.surprise(f"{self.name}: {error!r}")

    def take_part(self, client: Client, twin: Client) -> None:
        """Join or come back, and go on to the last page, or away before. `twin` is a second window of the same person.

        Who comes back first rates the page that they had left open.
        """
        if not self.me.cookies:
            self.enter(client)
            self.me.cookies = dict(client.http.cookies)
        for window in (client, twin):
            window.http.cookies.update(self.me.cookies)
        if self.me.left_open:
            client.place, self.me.left_open = self.me.left_open, ""
            self.rate(client, twin)
        while True:
            screen = client.screen(self.good(self.insist(client.show)))
            self.look(screen)
            facts = _classes(screen["item"])
            if "elsewhere" in facts:
                return
            if self.rng.random() < 0.05:
                self.me.left_open = client.place if "rateable" in facts else ""
                self.away.append(self.me)
                return
            if "rateable" in facts:
                self.rate(client, twin)
            else:
                self.chat(client, facts)

    def enter(self, client: Client) -> None:
        """Press the button until it lets this one in: what was cut off may have come through, or not."""
        door = self.door()
        self.ledger.announce()
        while (answer := self.insist(lambda: client.join(door))).status_code != 303:
            if answer.status_code != 409:
                raise AssertionError(f"{door}: {answer.status_code}")
            self.ledger.count("turned_away")
            time.sleep(WAIT)

    def chat(self, client: Client, facts: set[str]) -> None:
        """The next step of a live chat: a message, once more, or its end."""
        if "pending" in facts:
            time.sleep(WAIT)
            if self.me.waiting:  # what was sent is there, though the page could not say so
                self.mark(self.me.waiting[-1], saved=True)
            self.once(lambda: self.good(client.call(client.AGAIN, client.place)))
            self.once(client.watch)
        elif "begun" in facts and self.rng.random() < 0.3:
            ended = self.once(lambda: client.screen(self.good(client.call(client.FINISH, client.place))))
            if ended and "rateable" in _classes(ended.get("item", "")):
                for message in self.me.waiting:
                    self.mark(message, ended=message.saved)  # not one that never arrived
        else:
            self.say(client, "begun" in facts)

    def say(self, client: Client, begun: bool) -> None:
        if not begun:
            self.me.waiting = []
        if not self.me.waiting or self.me.waiting[-1].saved:
            self.sent += 1
            self.me.waiting.append(Message(f"{self.name} says {self.me.number}-{self.sent}."))
            with self.ledger.lock:
                self.ledger.messages.append(self.me.waiting[-1])
        message = self.me.waiting[-1]
        answer = self.once(lambda: self.good(client.call(client.SEND, message.text, client.place)))
        if answer is not None and client.screen_note(answer) == "":
            self.mark(message, saved=True)
            self.once(client.watch)

    def rate(self, client: Client, twin: Client) -> None:
        """Rate the page that was shown; at times twice at once, and at times once more with other marks."""
        where = client.place
        first = self.submit(client, twin, where)
        if first and self.rng.random() < 0.2 and client.place not in ("", where):
            back = self.once(lambda: client.screen(self.good(client.call(client.BACK, client.place))))
            rateable = back and "rateable" in _classes(back.get("item", ""))
            if rateable and self.submit(client, twin, client.place):
                self.replay(twin, first, where)

    def submit(self, client: Client, twin: Client, where: str) -> Submit | None:
        """Send marks for a page until they are saved, or until the rater would rather load the page anew."""
        position, _, codes = where.split(".")
        panels = codes.count("+") + 1
        prefers = self.rng.choice([None, *codes.split("+")]) if panels > 1 else ""
        self.sent += 1
        page, comment = f"{self.name}.{self.me.number}.{position}", f"{self.name} rates {self.me.number}-{self.sent}"
        intent = Submit(page, comment, (self.rng.randint(1, 5), self.rng.randint(1, 5)), panels, prefers)
        self.ledger.announce(intent)
        for _ in range(3):
            client.place = twin.place = where
            second = self.hand.submit(self.press, twin, intent) if self.rng.random() < 0.3 else None
            said = self.press(client, intent)
            if second is not None:
                second.result()
            if said == "":
                return intent
            if said is not None or self.rng.random() < 0.5:
                return None  # loads the page anew
            time.sleep(WAIT)
        return None

    def press(self, client: Client, intent: Submit) -> str | None:
        """Press Save; returns the page's note, empty where it is saved, None where the answer was cut off."""
        answer = self.once(lambda: self.good(self.send(client, intent)))
        if answer is None:
            return None
        screen = client.screen(answer)
        note = str(screen["note"])
        if not note:
            with self.ledger.lock:
                intent.saved = True
            self.look(screen)
        elif GONE in note:
            self.ledger.count("too_late")
        else:
            self.surprise(f"{intent.comment}: {note}")
        return note

    def replay(self, client: Client, intent: Submit, where: str) -> None:
        """Send once more what was saved and then changed; the page has to refuse it."""
        client.place = where
        answer = self.once(lambda: self.good(self.send(client, intent)))
        if answer is not None:
            self.ledger.count("replayed")
            if CHANGED not in str(client.screen(answer)["note"]):
                self.surprise(f"{intent.comment}, replayed: {answer.text[:200]}")

    def send(self, client: Client, intent: Submit) -> httpx.Response:
        choice = "none" if intent.preference is None else intent.preference or None
        return client.rate(*intent.marks, comment=intent.comment, preference=choice)

    def look(self, screen: dict[str, Any]) -> None:
        """See which answers the page shows."""
        for message in self.me.waiting:
            if whole(message.text) in screen.get("chat-1", ""):
                self.mark(message, saved=True, answered=True)

    def mark(self, message: Message, **facts: bool) -> None:
        with self.ledger.lock:
            vars(message).update(facts)

    def surprise(self, text: str) -> None:
        """Note what should not happen."""
        with self.ledger.lock:
            self.ledger.surprises.append(text)

    def good(self, answer: httpx.Response) -> httpx.Response:
        if answer.status_code != 200:
            raise AssertionError(f"{answer.status_code}: {answer.text[:200]}")
        return answer

    def once(self, act: Callable[[], Any]) -> Any:
        """What came of a request, None if it was cut off."""
        if self.stop.is_set():
            raise Stopped
        try:
            answer = act()
        except httpx.HTTPError as error:
            if not isinstance(error, httpx.ConnectError):
                self.ledger.count("cut")
            time.sleep(WAIT)
            return None
        self.ledger.arrived()
        return answer

    def insist(self, act: Callable[[], Any]) -> Any:
        """What came of a request, however often it takes."""
        while (answer := self.once(act)) is None:
            pass
        return answer


def _classes(item: str) -> set[str]:
    """What the page says of itself in the first tag's classes."""
    found = re.search(r'<section class="([^"]*)"', item)
    return set(found[1].split()) if found else set()

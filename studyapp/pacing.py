"""An arm is recognisable by its speed, so no rater sees it: answers are released by one clock for all arms.

A model's text is taken into a buffer as it comes, and let out by characters, never by tokens: after one delay, on a
grid of ticks, at one rate. As long as the buffer is ahead, when something is shown and how much is a function of the
text and the pace alone. Where it is not, the tick is missed, the rest moves on by one, and the answer says so
(`underruns`, `late_s`).
"""

import asyncio
import contextlib
import math
from collections.abc import AsyncGenerator, AsyncIterator
from dataclasses import dataclass
from typing import Any

from studyapp.graphemes import boundary

FAILURE = "Sorry, something went wrong with this answer. Please send your message again."
SLACK = 1e-6  # ticks; sums of floats may miss a whole number by less


@dataclass(frozen=True)
class Pace:
    """`cps` characters a second, let out every `tick` seconds, the first of them `delay` seconds after the question."""

    cps: float
    tick: float = 0.2
    delay: float = 1.2

    def due(self, chunks: int) -> int:
        """Characters that are out after so many chunks."""
        return math.floor(chunks * self.cps * self.tick + SLACK)


@dataclass(frozen=True)
class Ended:
    """How an answer ended: `finish` as the model said it ('stop', 'length', ...), or 'failed'.

    `underruns` counts the times the buffer ran dry, `late_s` the seconds of ticks that were missed in all of them.
    """

    finish: str
    underruns: int
    late_s: float
    failed: bool


class Shown(str):
    """All that is shown of an answer so far; the last one says in `ended` how it ended."""

    ended: Ended | None = None


class Piece(str):
    """What comes from a model at a time; the last one may say in `finish` why the text ends."""

    finish: str | None = None


def last_piece(finish: str) -> Piece:
    """An empty piece that says why the text ended."""
    piece = Piece("")
    piece.finish = finish
    return piece


class Pacer:
    """The buffer of one answer, without a clock: `tick` is called at each tick of the grid."""

    def __init__(self, pace: Pace, failure: str = FAILURE) -> None:
        self.pace, self.failure = pace, failure
        self.text = ""
        self.finish: str | None = None
        self.out = 0
        self.chunks = 0
        self.underruns = 0
        self.missed = 0
        self.dry = False

    def feed(self, piece: str) -> None:
        """Take in what the model wrote."""
        self.text += piece

    def close(self, finish: str) -> None:
        """The model has ended, or failed (`finish` 'failed')."""
        self.finish = self.finish or finish

    def tick(self) -> Shown | None:
        """What is shown now; None where nothing changes."""
        whole = self.finish is not None
        if whole and self.out == len(self.text) and (self.chunks or not self.text):
            return self._end()
        due = self.pace.due(self.chunks + 1)
        # One character more must be known, or that there is none: it may belong to the one before it.
        if not whole and len(self.text) <= due:
            self.underruns += not self.dry
            self.missed += 1
            self.dry = True
            return None
        self.dry = False
        self.chunks += 1
        before, self.out = self.out, boundary(self.text, self.out, due)
        return Shown(self.text[: self.out]) if self.out > before else None

    def _end(self) -> Shown:
        failed = self.finish == "failed"
        shown = Shown(self.failure if failed else self.text)
        shown.ended = Ended(self.finish or "stop", self.underruns, self.missed * self.pace.tick, failed)
        return shown


async def paced(source: AsyncIterator[str], pace: Pace, *, failure: str = FAILURE) -> AsyncGenerator[Shown, None]:
    """Let out what `source` writes: yields all of the text that is shown so far, and at last one that has `ended`.

    The end is a tick of its own behind the last characters. A source that raises has failed: what came of it is let out
    as usual, then `failure` stands in its place. A source that has a coroutine `admitted` is waited for before the
    clock starts (see Broker.stream), and what that raises goes to the caller.
    """
    pacer = Pacer(pace, failure)
    loop = asyncio.get_running_loop()
    reading: asyncio.Task[None] | None = None
    try:
        if admitted := getattr(source, "admitted", None):
            await admitted()
        reading = asyncio.create_task(_read(source, pacer))
        start = loop.time() + pace.delay
        number = 0
        while True:
            await asyncio.sleep(start + number * pace.tick - loop.time())
            shown = pacer.tick()
            if shown is not None:
                yield shown
                if shown.ended:
                    return
            # Ticks that this process slept through are left out, for all arms alike: no two come at once.
            number = max(number, math.floor((loop.time() - start) / pace.tick + SLACK)) + 1
    finally:
        if reading is not None:
            reading.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await reading
        await _close(source)


async def _read(source: AsyncIterator[str], pacer: Pacer) -> None:
    finish = "stop"
    try:
        async for piece in source:
            pacer.feed(piece)
            finish = getattr(piece, "finish", None) or finish
    except Exception:  # whatever it is, it is the same failure for a rater
        finish = "failed"
    pacer.close(finish)


async def _close(source: Any) -> None:
    if close := getattr(source, "aclose", None):
        with contextlib.suppress(Exception):
            await close()

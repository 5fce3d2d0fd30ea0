"""The answers that are being written, by assignment and chat: each is written once, whoever asks and however often.

A web process that lost its connection, or was started anew, asks again and gets the same text from its beginning. As
many answers are written at once as the study was planned for, whichever arms they come from; others wait in one row.
"""

import asyncio
import logging
import time
from collections import OrderedDict
from collections.abc import AsyncIterator, Iterable, Sequence
from typing import Any

from harness.chat import seed_for
from harness.records import Message
from harness.rundir import digest
from harness.serving.arms import Arm, ArmError
from harness.serving.clean import Cleaner

log = logging.getLogger("harness.serving")

KEPT = 512
"""Finished answers that are remembered."""
WAITING_SECONDS = 10.0
"""Who waits is told so often that the server is still there."""
SILENCE_SECONDS = 120.0
"""An arm that says nothing for so long has failed."""

Line = dict[str, Any]


class Answer:
    """What has been written of one answer, as the lines that are sent: text, and in the last one how it ended."""

    def __init__(self) -> None:
        self.lines: list[Line] = []
        self.over = False
        self._more = asyncio.Event()

    def tell(self, line: Line, *, over: bool = False) -> None:
        self.lines.append(line)
        self.over = over
        self._more.set()
        self._more = asyncio.Event()

    async def follow(self) -> AsyncIterator[Line]:
        """All lines from the first one on, until the last one is there."""
        at = 0
        while True:
            more = self._more
            if at < len(self.lines):
                yield self.lines[at]
                at += 1
            elif self.over:
                return
            else:
                try:
                    await asyncio.wait_for(more.wait(), WAITING_SECONDS)
                except TimeoutError:
                    yield {"waiting": True}


class Turns:
    """`places` answers are written at once. `marks` are the special tokens of all arms: no arm's text shows any."""

    def __init__(self, seed: int, places: int, marks: Iterable[str] = ()) -> None:
        self.seed, self.marks = seed, frozenset(marks)
        self._places = asyncio.Semaphore(places)
        self._answers: OrderedDict[tuple[int, str], Answer] = OrderedDict()
        self._tasks: set[asyncio.Task[None]] = set()

    def answer(self, assignment: int, arm: Arm, messages: Sequence[Message], budget: float) -> Answer:
        """The answer to a chat: the one under way or finished, or one begun now.

        An arm that fails within `budget` seconds, before it said anything, is asked once more.
        """
        key = assignment, digest([message.model_dump() for message in messages])
        found = self._answers.get(key)
        if found is None:
            found = self._answers[key] = Answer()
            task = asyncio.create_task(self._write(key, found, arm, messages, budget))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)
        self._answers.move_to_end(key)
        for old in [key for key, answer in self._answers.items() if answer.over][: max(0, len(self._answers) - KEPT)]:
            del self._answers[old]
        return found

    async def _write(
        self, key: tuple[int, str], answer: Answer, arm: Arm, messages: Sequence[Message], budget: float
    ) -> None:
        async with self._places:
            answer.tell({"admitted": True})
            begun = time.monotonic()
            seed = seed_for(self.seed, "live", key[0], sum(message.role == "user" for message in messages))
            while True:
                try:
                    finish = await self._once(answer, arm, messages, seed)
                    answer.tell({"finish": finish}, over=True)
                    return
                except Exception as error:
                    # Not the traceback of an ArmError: its text says it all.
                    log.error("an arm failed: %s", error, exc_info=not isinstance(error, ArmError | TimeoutError))
                again = len(answer.lines) == 1 and time.monotonic() - begun < budget
                if not again:
                    break
                budget = 0.0
        del self._answers[key]  # who asks for it again has it written anew
        answer.tell({"failed": True}, over=True)

    async def _once(self, answer: Answer, arm: Arm, messages: Sequence[Message], seed: int) -> str:
        """Have an answer written, as raters may see it; returns how it ended: stop, length, or mark."""
        cleaner = Cleaner(self.marks, thinking=arm.thinking)
        finish = "stop"
        writing = arm.write(messages, seed)
        try:
            while True:
                said = await asyncio.wait_for(anext(writing), SILENCE_SECONDS)
                finish = said.finish or finish
                if text := cleaner.feed(said.text):
                    answer.tell({"text": text})
                if cleaner.ended:
                    return "mark"
                if said.finish:
                    break
        except StopAsyncIteration:
            pass
        finally:
            await writing.aclose()  # type: ignore[attr-defined]
        if text := cleaner.end():
            answer.tell({"text": text})
        return "mark" if cleaner.ended else finish

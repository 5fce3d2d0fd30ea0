"""Answers on their way to raters: each is written once, by a task of its own, whoever is watching.

A rater who loads the page anew, or has it open twice, joins the answer that is under way; a broken connection neither
stops it nor begins it again. What a rater wrote is on the disk before the model is asked, and the answer before the
last tick has been shown.
"""

import asyncio
import contextlib
import logging
from collections.abc import AsyncIterator, Callable
from pathlib import Path

from studyapp import session
from studyapp.broker import Broker, BrokerError
from studyapp.pacing import Ended, Pace, paced
from studyapp.records import Rater

log = logging.getLogger("studyapp")


class Answer:
    """All that is shown of an answer so far, for those who watch it."""

    def __init__(self) -> None:
        self.text = ""
        self.over = False
        self._changed = asyncio.Event()

    def show(self, text: str) -> None:
        self.text = text
        self._wake()

    def end(self) -> None:
        self.over = True
        self._wake()

    def _wake(self) -> None:
        self._changed.set()
        self._changed = asyncio.Event()

    async def watch(self) -> AsyncIterator[str]:
        """The text so far at once, then whenever there is more, until it is over."""
        seen = None
        while True:
            changed = self._changed
            if self.text != seen:
                seen = self.text
                yield seen
            elif self.over:
                return
            else:
                await changed.wait()


class Chats:
    """The answers that are being written, by rater and position. Lives in one event loop.

    `pace` is asked anew for each answer: it may be set while the page runs.
    """

    def __init__(self, db: Path, broker: Broker, pace: Callable[[], Pace]) -> None:
        self.db = db
        self.broker = broker
        self.pace = pace
        self.running: dict[tuple[int, int], Answer] = {}
        self._tasks: set[asyncio.Task[None]] = set()

    def answering(self, rater: Rater, position: int) -> Answer | None:
        """The answer that is on its way to this item of the rater's, if one is."""
        return self.running.get((rater.id, position))

    async def ask(self, rater: Rater, position: int, text: str, *, failure: str) -> None:
        """Store what the rater wrote, then have it answered; returns once it is stored.

        While an answer is on its way, this does nothing. `failure` is shown in place of an answer that failed.
        Raises RatingError as `session.say` does.
        """
        key = (rater.id, position)
        if key in self.running:
            return
        answer = self.running[key] = Answer()  # before anything waits: two clicks ask once
        try:
            turn = await asyncio.to_thread(session.say, self.db, rater, position, text)
            pace = await asyncio.to_thread(self.pace)
        except BaseException:
            self._over(key, answer)
            raise
        task = asyncio.create_task(self._write(rater, key, turn, answer, pace, failure))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _write(
        self, rater: Rater, key: tuple[int, int], turn: session.Turn, answer: Answer, pace: Pace, failure: str
    ) -> None:
        ended: Ended | None = None
        try:
            stream = paced(self.broker.stream(turn.assignment, turn.messages), pace, failure=failure)
            async with contextlib.aclosing(stream) as release:
                async for shown in release:
                    if shown.ended:  # its own tick, behind the last characters
                        ended = shown.ended
                        await self._keep(rater, turn, str(shown), ended)
                    answer.show(str(shown))
        except BrokerError:
            log.warning("the model server did not take up a chat")
        except Exception:
            log.exception("an answer could not be shown or kept")
        finally:
            self._over(key, answer)

    async def _keep(self, rater: Rater, turn: session.Turn, text: str, ended: Ended) -> None:
        await asyncio.to_thread(
            session.heard,
            self.db,
            rater,
            turn,
            text,
            finish=ended.finish,
            underruns=ended.underruns,
            late_s=ended.late_s,
            failed=ended.failed,
        )

    def _over(self, key: tuple[int, int], answer: Answer) -> None:
        self.running.pop(key, None)
        answer.end()

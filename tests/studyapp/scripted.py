"""In place of the way to a model server, for tests of one process: it says what it is told."""

import asyncio

from studyapp.broker import BrokerError
from studyapp.pacing import Pace, Piece, last_piece

PACE = Pace(cps=2000, tick=0.01, delay=0.02)


class Scripted:
    """A model that writes a text word for word, or fails; `asked` has the messages of every question."""

    def __init__(self, text="A long enough answer. " * 5, fail=None):
        self.text, self.fail, self.asked = text, fail, []

    async def alive(self):
        return True

    def stream(self, assignment, messages):
        self.asked.append([message.content for message in messages])
        return self._write()

    async def _write(self):
        if self.fail:
            raise self.fail
        for word in self.text.split(" "):
            await asyncio.sleep(0)
            yield Piece(word + " ")
        yield last_piece("stop")


class Away(Scripted):
    """A model server that takes up nothing."""

    def stream(self, assignment, messages):
        self.asked.append([message.content for message in messages])
        return self

    async def admitted(self):
        raise BrokerError

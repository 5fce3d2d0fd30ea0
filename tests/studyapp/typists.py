"""A real model server (harness/serving) whose arms are scripted: it runs as a process of its own.

An arm answers "Answer 2 to: <the message>" and some more, word for word at its own pace. A message with 'fail' in it
makes every arm fail, one with 'image' is answered by a text that would call another host.
"""

import asyncio
import json
import logging
import sqlite3
import sys
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import closing
from pathlib import Path

import uvicorn

from harness.records import Message
from harness.serving.__main__ import _listen
from harness.serving.arms import Said
from harness.serving.measure import Pacing
from harness.serving.server import build
from harness.serving.turns import Turns

NASTY = '**bold** ![x](http://evil.example/x.png) <img src="http://evil.example/y.png"> <script>alert(1)</script>'


class Typist:
    """An arm that follows its script."""

    marks: frozenset[str] = frozenset()
    thinking = False

    def __init__(self, key: str, number: int, seconds: float) -> None:
        self.key, self.number, self.seconds = key, number, seconds

    async def write(self, messages: Sequence[Message], seed: int, most: int | None = None) -> AsyncIterator[Said]:
        said = messages[-1].content
        if "fail" in said:
            raise RuntimeError(f"arm {self.key} at /models/{self.key} is out of memory")
        text = f"Answer {self.number} to: {said} It goes on for a while."
        if "image" in said:
            text += f" {NASTY}"
        for word in text.split(" "):
            await asyncio.sleep(self.seconds)
            yield Said(word + " ")
        yield Said("", "stop")

    async def close(self) -> None:
        pass


def say_ready() -> None:
    print("http ready", flush=True)


async def main(order: dict[str, object], ready: Callable[[], None] = say_ready) -> None:
    db = Path(str(order["db"]))
    with closing(sqlite3.connect(db)) as connection:
        keys = [key for (key,) in connection.execute("SELECT key FROM arm ORDER BY rowid")]
    arms = {key: Typist(key, at, order["paces"][at]) for at, key in enumerate(keys)}  # type: ignore[index]
    app = build(db, arms, Turns(7, 50), str(order["secret"]), Pacing([("Hello", 1)], 2, None, None))
    config = uvicorn.Config(app, log_config=None, access_log=False, lifespan="off", ws="none")
    server = uvicorn.Server(config)
    with _listen(str(order["address"])) as listener:
        serving = asyncio.create_task(server.serve(sockets=[listener]))
        while not server.started and not serving.done():
            await asyncio.sleep(0.02)
        ready()
        await serving


if __name__ == "__main__":
    logging.getLogger("uvicorn.error").setLevel(logging.CRITICAL)
    asyncio.run(main(json.loads(sys.argv[1])))

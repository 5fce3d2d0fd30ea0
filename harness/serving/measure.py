"""Measure how fast every arm writes, with as many chats at once as the study is planned for.

Each arm has all places for a while, then all arms share them: whichever is worse counts. A chat is measured at its
first turn and at its last one, whose prompt is the longest.
"""

import asyncio
import dataclasses
import logging
import time
from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import dataclass

from harness.errors import RatingError
from harness.records import Message
from harness.serving.arms import Arm
from harness.serving.calibration import TICK, Curve, choose
from harness.serving.turns import Line, Turns

log = logging.getLogger("harness.serving")

GO_ON = "Please go on."
LEAST = 4
"""Chats of each arm, and of all together, at least."""


@dataclass(frozen=True)
class Pacing:
    """What calibration works with: scenarios as (opening, turns), chats at once, and what the study file asks for."""

    chats: Sequence[tuple[str, int]]
    at_once: int
    cps: float | None = None
    delay: float | None = None
    tick: float = TICK


async def measured(arms: Mapping[str, Arm], turns: Turns, pacing: Pacing) -> AsyncIterator[Line]:
    """Yields {done, of} as it goes on, then the pace as {pace: ...}, or {refused: ..., hint: ...} without any arm."""
    count = max(LEAST, pacing.at_once)
    names = list(arms)
    alone = [[arm] * count for arm in names]
    phases = [*alone, [names[number % len(names)] for number in range(count * 2)]] if len(names) > 1 else alone
    total, done, number = sum(map(len, phases)), 0, 0
    curves: dict[str, list[Curve]] = {arm: [] for arm in names}
    try:
        for phase in phases:
            tasks = []
            for arm in phase:
                number += 1
                opening, length = pacing.chats[number % len(pacing.chats)]
                tasks.append(asyncio.create_task(_chat(turns, arms[arm], -number, opening, length)))
            try:
                for task in asyncio.as_completed(tasks):
                    await task
                    done += 1
                    yield {"done": done, "of": total}
            finally:
                for task in tasks:
                    task.cancel()
            for arm, task in zip(phase, tasks, strict=True):
                curves[arm] += task.result()
        found = choose(curves, cps=pacing.cps, delay=pacing.delay, tick=pacing.tick)
    except RatingError as error:
        yield {"refused": error.what, "hint": error.hint}
        return
    for arm, some in curves.items():  # to the log only
        rates = sorted(rate for curve in some if (rate := curve.rate) is not None)
        log.info("%s: %s characters/s, first after %s s", arm, rates, sorted(curve.first for curve in some))
    yield {"pace": {**dataclasses.asdict(found), "at_once": pacing.at_once}}


async def _chat(turns: Turns, arm: Arm, number: int, opening: str, length: int) -> list[Curve]:
    """A chat's first answer, and the one to its last message, when all answers before were like the first."""
    messages = [Message(role="user", content=opening)]
    curve, text = await _curve(turns, arm, number, messages)
    if length == 1:
        return [curve]
    for _ in range(length - 1):
        messages += [Message(role="assistant", content=text), Message(role="user", content=GO_ON)]
    return [curve, (await _curve(turns, arm, number, messages))[0]]


async def _curve(turns: Turns, arm: Arm, number: int, messages: Sequence[Message]) -> tuple[Curve, str]:
    text, points, begun = "", [], 0.0
    async for line in turns.answer(number, arm, messages, 0.0).follow():
        moment = time.monotonic()
        if line.get("admitted"):
            begun = moment
        if line.get("failed"):
            raise RatingError("an arm failed while it was measured", hint="see model-server.log in the run directory")
        if line.get("text"):
            text += line["text"]
            points.append((moment - begun, len(text)))
    return Curve(tuple(points), time.monotonic() - begun), text

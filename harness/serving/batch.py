"""Several chats of one model written side by side: each has a row, leaves it when its text ends, and the next takes it.

What a chat becomes depends neither on the chats beside it nor on when they come: in every product it has rows of its
own, its prompt is read in the same pieces, and it draws from a generator of its own. That is what the bench's reader
and slots are made for (harness/bench/reading.py, slots.py). A model that they cannot read in pieces is stepped chat by
chat.
"""

import logging
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import numpy as np
import torch

from harness.bench.attend import by
from harness.bench.generate import ROWS
from harness.bench.packing import Row
from harness.bench.plan import Prompts, prompts_plan
from harness.bench.reading import LEAST, Reader, predictions
from harness.bench.rows import read
from harness.bench.slots import Slots
from harness.chat import Sampling, draw

log = logging.getLogger("harness.serving")

PIECE = 64
"""Tokens of a prompt that are read between two steps of the others: they wait no longer than for these."""
SMALLEST = 512
"""Tokens for which the slots have room at first."""


@dataclass(eq=False)
class Writing:
    """One answer on its way: `written` are its tokens so far, `finish` says why it ended: stop, length or failed."""

    prompt: Sequence[int]
    seed: int
    most: int
    written: list[int] = field(default_factory=list)
    finish: str | None = None
    left: bool = False
    """Nobody waits for it any more."""

    def __post_init__(self) -> None:
        self.generator = torch.Generator().manual_seed(self.seed)


@dataclass
class _Reading:
    """The prompt that is being read: its plan, and the pieces that are left."""

    writing: Writing
    prompts: Prompts
    left: deque[int]


@dataclass
class _Apart:
    """A chat of a model that cannot be read in pieces, with the model's own cache."""

    writing: Writing
    cache: Any = None


class Batch:
    """The chats of one model, at most `count` at once; the others wait in the order in which they came."""

    def __init__(self, model: Any, sampling: Sampling, ends: frozenset[int], count: int = LEAST) -> None:
        self.model, self.sampling, self.ends, self.count = model, sampling, ends, count
        self.reader = Reader(model)
        self.waiting: deque[Writing] = deque()
        self.reading: _Reading | None = None
        self.active: list[Writing] = []
        self.apart: list[_Apart] = []
        self.slots: Slots | None = None

    def add(self, writing: Writing) -> None:
        self.waiting.append(writing)

    def clear(self) -> None:
        """Forget all chats."""
        self.waiting.clear()
        self.active, self.apart, self.slots = [], [], None
        self._stop_reading()

    @property
    def busy(self) -> bool:
        """Whether there is anything to do."""
        return bool(self.waiting or self.reading or self.active or self.apart)

    @torch.inference_mode()
    def round(self) -> list[Writing]:
        """Read one piece of a prompt and write one token more of every chat; returns those that got on or ended."""
        self._leave()
        self._take_in()
        moved: list[Writing] = []
        if self.reading or self.active:
            with self.reader.attending():
                moved += self._guarded(self.active[:], self._step) if self.active else []
                moved += self._guarded([self.reading.writing], self._read) if self.reading else []
        for one in self.apart[:]:
            moved += self._guarded([one.writing], partial(self._step_apart, one))
        self.apart = [one for one in self.apart if one.writing.finish is None]
        return moved

    def _leave(self) -> None:
        """Drop the chats that nobody waits for."""
        self.waiting = deque(one for one in self.waiting if not one.left)
        self.apart = [one for one in self.apart if not one.writing.left]
        if self.reading and self.reading.writing.left:
            self._stop_reading()
        for place in reversed(range(len(self.active))):
            if self.active[place].left:
                self._vacate(place)

    def _take_in(self) -> None:
        """Begin with the next chat that waits, if there is room."""
        if not self.waiting or len(self.active) + bool(self.reading) + len(self.apart) >= self.count:
            return
        if len(self.waiting[0].prompt) + self.waiting[0].most > self.reader.limit:
            self.apart.append(_Apart(self.waiting.popleft()))
        elif self.reading is None:
            writing = self.waiting.popleft()
            prompts = prompts_plan([np.asarray(writing.prompt, dtype=np.int64)], PIECE)
            self.reading = _Reading(writing, prompts, deque(prompts.pieces[0]))

    def _guarded(self, some: Sequence[Writing], work: Callable[[], list[Writing]]) -> list[Writing]:
        """Do a part of a round; what it raises ends the chats that it worked for, and no others."""
        try:
            return work()
        except Exception:
            log.exception("writing failed")
            for writing in some:
                writing.finish = "failed"
            if self.reading and self.reading.writing in some:
                self._stop_reading()
            self._clear_ended()
            if not self.active:
                self.slots = None
            return list(some)

    def _read(self) -> list[Writing]:
        """Read the next piece of the prompt; after the last one its chat has its first token and a slot."""
        assert self.reading is not None
        writing, prompts, left = self.reading.writing, self.reading.prompts, self.reading.left
        found: list[torch.Tensor] = []

        def visit(row: Row, first: int, logits: list[torch.Tensor]) -> None:
            for where in predictions(prompts.plan, row)[0]:
                found.append(logits[0][where - first][None].float())

        chain = prompts.chains[0]
        read([self.reader], prompts.plan, [left[0]], visit, workers=1, hold=[chain])
        left.popleft()
        if left:
            return []
        self._make_room(len(writing.prompt) + writing.most)
        assert self.slots is not None
        self.slots.fill(len(self.active), self.reader.memory.layers(chain))
        self.active.append(writing)
        self._stop_reading()
        self._go_on([writing], found[0])
        self._clear_ended()
        return [writing]

    def _stop_reading(self) -> None:
        self.reading = None
        self.reader.memory.clear()

    def _step(self) -> list[Writing]:
        """Write one token more of every active chat."""
        assert self.slots is not None
        moved = self.active[:]
        rows = len(self.slots.lengths) if self.model.device.type != "cpu" else _rows(len(moved))
        self.slots.grow(len(moved), rows)
        ids_B1 = torch.zeros(rows, 1, dtype=torch.long)
        ids_B1[: len(moved), 0] = torch.tensor([one.written[-1] for one in moved])
        position_B1 = torch.as_tensor(self.slots.lengths[:rows, None] - 1)
        with by(self.slots):
            for start, logits_SV in self.reader.step(ids_B1, position_B1, len(moved)):
                self._go_on(moved[start : start + len(logits_SV)], logits_SV.float())
        self._clear_ended()
        return moved

    def _step_apart(self, one: _Apart) -> list[Writing]:
        writing = one.writing
        ids = [*writing.prompt, *writing.written] if one.cache is None else writing.written[-1:]
        inputs = {"input_ids": torch.tensor([ids], device=self.model.device), "use_cache": True}
        out = self.model(**inputs, **({} if one.cache is None else {"past_key_values": one.cache}))
        one.cache = getattr(out, "past_key_values", None)  # without one, everything is read again each time
        self._go_on([writing], out.logits[:, -1].float())
        return [writing]

    def _go_on(self, some: Sequence[Writing], logits_BV: torch.Tensor) -> None:
        for writing, token in zip(some, draw(logits_BV, [one.generator for one in some], self.sampling), strict=True):
            if token in self.ends:
                writing.finish = "stop"
                continue
            writing.written.append(token)
            if len(writing.written) >= writing.most:
                writing.finish = "length"

    def _clear_ended(self) -> None:
        for place in reversed(range(len(self.active))):
            if self.active[place].finish is not None:
                self._vacate(place)

    def _vacate(self, place: int) -> None:
        """Free a slot; the last chat moves into it."""
        last = self.active.pop()
        if place < len(self.active):
            self.active[place] = last
            assert self.slots is not None
            self.slots.move(len(self.active), place)

    def _make_room(self, tokens: int) -> None:
        """Slots that hold so many tokens; larger ones take over what the present ones hold."""
        old = self.slots
        if old is not None and old.capacity >= tokens:
            return
        self.slots = Slots.empty(_rows(self.count), max(SMALLEST, 1 << (tokens - 1).bit_length()), 0, lambda layer: [])
        for place in range(len(self.active)):
            assert old is not None
            whole = slice(place, place + 1), slice(None), slice(int(old.lengths[place]))
            self.slots.fill(place, {layer: (pair[0][whole], pair[1][whole]) for layer, pair in old.stores.items()})


def _rows(texts: int) -> int:
    return max(LEAST, -(-texts // ROWS) * ROWS)

"""An arm whose model runs in the model server: a thread writes all its chats side by side (batch.py)."""

import asyncio
import logging
import queue
import threading
from collections.abc import AsyncIterator, Sequence
from pathlib import Path

from harness.bench.cost_worker import window_of
from harness.chat import Sampling
from harness.models.chat_format import encode_prompt, end_of_turn, render_prompt
from harness.models.load import LoadedModel, load_model
from harness.records import Message
from harness.serving.arms import ArmError, Said
from harness.serving.batch import Batch, Writing
from harness.serving.letters import Letters

log = logging.getLogger("harness.serving")


class LocalArm:
    """A loaded model and the thread that writes with it; `count` chats at once."""

    def __init__(self, loaded: LoadedModel, sampling: Sampling, system: str | None, count: int) -> None:
        self.tokenizer, self.sampling, self.system = loaded.tokenizer, sampling, system
        self.window = window_of(loaded.model)
        self.marks = frozenset(map(str, loaded.tokenizer.all_special_tokens))
        probe = render_prompt(loaded.tokenizer, [Message(role="user", content="?")], system)
        self.thinking = probe.rstrip().endswith("<think>")
        self._batch = Batch(loaded.model, sampling, ends_of(loaded), count)
        self._inbox: queue.SimpleQueue[_Asked | None] = queue.SimpleQueue()
        self._thread = threading.Thread(target=self._work, daemon=True)
        self._thread.start()

    async def write(self, messages: Sequence[Message], seed: int, most: int | None = None) -> AsyncIterator[Said]:
        """See `Arm.write`. A chat that is longer than the model's window loses its oldest turns."""
        most = most or self.sampling.max_tokens
        prompt, most = self._prompt(list(messages), most)
        asked = _Asked(Writing(prompt, seed, most), Letters(self.tokenizer), asyncio.get_running_loop())
        self._inbox.put(asked)
        try:
            while True:
                said = await asked.box.get()
                if said.finish == "failed":
                    raise ArmError("see the log above")
                yield said
                if said.finish:
                    return
        finally:
            asked.writing.left = True

    async def close(self) -> None:
        self._inbox.put(None)
        await asyncio.to_thread(self._thread.join)

    def _prompt(self, messages: list[Message], most: int) -> tuple[list[int], int]:
        """The tokens of a chat that leave room for `most` more, or for half of the window if that is less."""
        most = min(most, max(1, self.window // 2))
        while True:
            prompt = encode_prompt(self.tokenizer, messages, self.system)
            if len(prompt) + most <= self.window:
                return prompt, most
            if len(messages) < 3:
                raise ArmError(f"a message of {len(prompt)} tokens is too long for a window of {self.window}")
            messages = messages[2:]  # the oldest question and its answer

    def _work(self) -> None:
        asked: dict[Writing, _Asked] = {}
        while True:
            try:
                while not self._batch.busy or not self._inbox.empty():
                    new = self._inbox.get()
                    if new is None:
                        return
                    asked[new.writing] = new
                    self._batch.add(new.writing)
                for writing in self._batch.round():
                    asked[writing].tell()
                for writing in [one for one in asked if one.finish or one.left]:
                    del asked[writing]
            except Exception:
                log.exception("the thread that writes failed")
                self._batch.clear()
                for one in asked.values():
                    one.writing.finish, one.writing.left = "failed", True
                    one.tell()
                asked.clear()


class _Asked:
    """A request on its way through the thread, and the box in the event loop that gets its text."""

    def __init__(self, writing: Writing, letters: Letters, loop: asyncio.AbstractEventLoop) -> None:
        self.writing, self.letters, self.loop = writing, letters, loop
        self.box: asyncio.Queue[Said] = asyncio.Queue()
        self.told = 0

    def tell(self) -> None:
        """Put what is new into the box."""
        text = "".join(self.letters.feed(token) for token in self.writing.written[self.told :])
        self.told = len(self.writing.written)
        if self.writing.finish in ("stop", "length"):
            text += self.letters.end()
        if text or self.writing.finish:
            try:
                self.loop.call_soon_threadsafe(self.box.put_nowait, Said(text, self.writing.finish))
            except RuntimeError:  # the loop has ended, and with it whoever waited
                self.writing.left = True


def ends_of(loaded: LoadedModel) -> frozenset[int]:
    """The tokens that end a turn: the tokenizer's, and those that the model's own generation settings name."""
    own = getattr(getattr(loaded.model, "generation_config", None), "eos_token_id", None)
    return frozenset([end_of_turn(loaded.tokenizer), *(own if isinstance(own, list) else [] if own is None else [own])])


def load_arm(directory: Path, sampling: Sampling, system: str | None, count: int) -> LocalArm:
    """Load a model directory, on the GPU if there is one. Raises SourceError when it cannot."""
    import torch

    if not torch.cuda.is_available():
        return LocalArm(load_model(directory, only_read=True), sampling, system, count)
    loaded = load_model(directory, "bfloat16")
    return LocalArm(LoadedModel(loaded.model.to("cuda"), loaded.tokenizer), sampling, system, count)

"""What the model server asks an arm for, wherever that arm runs."""

from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass
from typing import Protocol

from harness.records import Message


class ArmError(Exception):
    """An arm could not answer. What happened goes to the server's log; nobody outside is told."""


@dataclass(frozen=True)
class Said:
    """What an arm wrote at a time; the last one says in `finish` why it ended: stop or length."""

    text: str
    finish: str | None = None


class Arm(Protocol):
    """A model that chats. `marks` are its special tokens, `thinking` whether its answers begin inside <think>."""

    marks: frozenset[str]
    thinking: bool

    def write(self, messages: Sequence[Message], seed: int, most: int | None = None) -> AsyncIterator[Said]:
        """The answer to a chat, as it comes; at most `most` tokens (None: as the study says). Raises ArmError."""
        ...

    async def close(self) -> None:
        """Let go of what it holds."""
        ...

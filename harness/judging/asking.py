"""What passes between the loop and a judge, wherever the judge runs."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from harness.records import Message

Conversation = tuple[Message, ...]


@dataclass(frozen=True)
class Answered:
    """What a judge wrote. `problem` is 'refused' or 'too_long' where it wrote nothing, with the reason as text.

    Tokens are None where the server does not count them; `seconds` are those of the request that was answered.
    """

    text: str
    finish: str | None = None
    tokens_in: int | None = None
    tokens_out: int | None = None
    seconds: float = 0.0
    problem: str | None = None


Ask = Callable[[Sequence[Conversation]], Iterator[tuple[int, Answered]]]
"""Puts conversations to a judge and yields (their index, what it wrote) as they come, in any order."""

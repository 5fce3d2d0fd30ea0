"""A local judge held to the form: it writes the reason freely, and each mark is its likeliest one of those allowed.

Small models understand a request for JSON no better than they follow it. Here the form is written for them, and only
what stands in it is theirs, so every reply can be read. That says nothing of its worth: see the judge beside people.
"""

import json
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from harness.judging.asking import Answered, Conversation

if TYPE_CHECKING:
    from harness.chat import Sampling
    from harness.models.load import LoadedModel

MARKS = ("1", "2", "3", "4", "5")
OPENING = '{"reason": "'
FORMS: dict[str, tuple[tuple[str, str], ...]] = {
    "single": (("satisfaction", '", "satisfaction": '), ("goal_achievement", ', "goal_achievement": ')),
    "pairwise": (("A", '", "A": '), ("B", ', "B": '), ("winner", ', "winner": "')),
}
"""Mode -> the slots of its form in order, each with the text in front of it."""


def answer_forced(
    loaded: "LoadedModel", mode: str, conversations: Sequence[Conversation], sampling: "Sampling"
) -> Iterator[Answered]:
    """The replies to some requests, in their order; reasons are written together, marks are read one by one.

    Raises ConfigError for a model without a chat template.
    """
    from harness.chat import write_ids
    from harness.models.chat_format import encode_prompt, end_of_turn

    begun = time.monotonic()
    tokenizer = loaded.tokenizer
    opening = _ids(tokenizer, OPENING)
    prompts = [[*encode_prompt(tokenizer, chat, None), *opening] for chat in conversations]
    written, ended = write_ids(loaded.model, prompts, [0] * len(prompts), sampling, end_of_turn(tokenizer))
    each = (time.monotonic() - begun) / max(1, len(prompts))
    for chat, prompt, ids, stopped in zip(conversations, prompts, written, ended, strict=True):
        begun = time.monotonic()
        reason = _reason(tokenizer.decode(ids, skip_special_tokens=True))
        values = _marks(loaded, mode, encode_prompt(tokenizer, chat, None), reason)
        yield Answered(
            json.dumps({"reason": reason, **values}, ensure_ascii=False),
            "stop" if stopped else "length",
            len(prompt) - len(opening),
            len(ids) + len(values),
            each + time.monotonic() - begun,
        )


def _marks(loaded: "LoadedModel", mode: str, prompt: list[int], reason: str) -> dict[str, Any]:
    """The likeliest value of each slot, given the reason and the slots before it; a winner never has the lower mark."""
    text, found, read = OPENING + reason, {}, AsRead()
    for name, before in FORMS[mode]:
        text += before
        allowed = MARKS if name != "winner" else _winners(found["A"], found["B"])
        value = likeliest(loaded, prompt, text, allowed, read)
        found[name] = value if name == "winner" else int(value)
        text += value
    return found


def _winners(first: int, second: int) -> tuple[str, ...]:
    return tuple(one for one, gap in (("A", first - second), ("B", second - first), ("tie", 0)) if gap >= 0)


@dataclass
class AsRead:
    """What a model has read already: the tokens, and its keys and values of them."""

    ids: list[int] = field(default_factory=list)
    cache: Any = None

    def logits(self, model: Any, ids: list[int]) -> Any:
        """Logits [V] of the token behind `ids`; where they go on from the last reading, only what is new is read."""
        import torch

        kept = len(self.ids)
        if kept >= len(ids) or ids[:kept] != self.ids:
            self.cache, kept = None, 0
        rest = torch.tensor([ids[kept:]])
        with torch.inference_mode():
            out = model(input_ids=rest, past_key_values=self.cache, use_cache=True, logits_to_keep=1)
        self.ids, self.cache = ids, out.past_key_values
        return out.logits[0, -1]


def likeliest(
    loaded: "LoadedModel", prompt: Sequence[int], text: str, allowed: Sequence[str], read: AsRead | None = None
) -> str:
    """Which of some short values the model is most likely to begin behind a prompt and the text written so far.

    Each value is tokenised together with the text, as the model would have met it; compared are the first tokens in
    which the values differ. `read` remembers what the model has read for the slots before.
    """
    written = [_ids(loaded.tokenizer, text + value) for value in allowed]
    if len(written) == 1:
        return allowed[0]
    shared = 0
    while len({ids[shared] for ids in written}) == 1:
        shared += 1
    logits_V = (read or AsRead()).logits(loaded.model, [*prompt, *written[0][:shared]]).float()
    scores = [float(logits_V[ids[shared]]) for ids in written]
    return allowed[scores.index(max(scores))]


def _ids(tokenizer: Any, text: str) -> list[int]:
    return list(tokenizer(text, add_special_tokens=False)["input_ids"])


def _reason(text: str) -> str:
    """What was written up to the quote that would end it, on one line."""
    return " ".join(text.split('"')[0].split())

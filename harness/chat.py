"""Messages in, text out: batched, seeded generation with local models.

Each chat draws from a generator of its own, so that its text depends on its seed and not on the chats beside it.
"""

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from harness.models.chat_format import encode_prompt, end_of_turn
from harness.models.load import LoadedModel
from harness.records import Message

if TYPE_CHECKING:
    import torch


@dataclass(frozen=True)
class Sampling:
    """How tokens are drawn: temperature 0 takes the likeliest; top_p keeps the smallest set of that probability."""

    max_tokens: int
    temperature: float
    top_p: float = 1.0


@dataclass(frozen=True)
class Written:
    """What a model wrote: text, its length in tokens (end of turn not counted), and why it ended."""

    text: str
    tokens: int
    finish: Literal["stop", "length"]


def seed_for(*parts: object) -> int:
    """A seed made of names and numbers, the same on every machine: 63 bits of their sha256."""
    text = "\x1f".join(str(part) for part in parts)
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big") >> 1


def write_answers(
    loaded: LoadedModel,
    chats: Sequence[Sequence[Message]],
    seeds: Sequence[int],
    sampling: Sampling,
    system: str | None = None,
    on_token: Callable[[int, int], None] = lambda step, written: None,
) -> list[Written]:
    """Write the next answer of every chat, all in one batch.

    `seeds` holds one seed per chat. `on_token(step, written)` is called after each position with the number of
    tokens written so far over all chats.
    """
    if not chats:
        return []
    tokenizer = loaded.tokenizer
    prompts = [encode_prompt(tokenizer, chat, system) for chat in chats]
    written, ended = write_ids(loaded.model, prompts, seeds, sampling, end_of_turn(tokenizer), on_token)
    return [
        Written(
            tokenizer.decode(ids, skip_special_tokens=True).strip(),
            len(ids),
            "stop" if stopped else "length",
        )
        for ids, stopped in zip(written, ended, strict=True)
    ]


def write_ids(
    model: Any,
    prompts: Sequence[Sequence[int]],
    seeds: Sequence[int],
    sampling: Sampling,
    end: int,
    on_token: Callable[[int, int], None] = lambda step, written: None,
) -> tuple[list[list[int]], list[bool]]:
    """The tokens that `model` writes behind each prompt of token ids, and for each whether it ended by itself.

    All are decoded together; each has a seed of its own and leaves the batch at the token `end` (not among those
    returned).
    """
    import torch

    generators = [torch.Generator().manual_seed(seed) for seed in seeds]
    with torch.inference_mode():
        return _decode(model, [list(prompt) for prompt in prompts], generators, sampling, end, on_token)


def _decode(
    model: Any,
    prompts: list[list[int]],
    generators: list["torch.Generator"],
    sampling: Sampling,
    end: int,
    on_token: Callable[[int, int], None],
) -> tuple[list[list[int]], list[bool]]:
    """Decode rows together and drop each from the batch, cache included, when it ends."""
    import torch
    from transformers import DynamicCache

    width = max(map(len, prompts))
    ids_BT = torch.tensor([[end] * (width - len(prompt)) + prompt for prompt in prompts])
    mask_BT = torch.tensor([[0] * (width - len(prompt)) + [1] * len(prompt) for prompt in prompts])
    cache = DynamicCache(config=model.config)
    written: list[list[int]] = [[] for _ in prompts]
    ended = [False] * len(prompts)
    rows = list(range(len(prompts)))
    for step in range(sampling.max_tokens):
        position_BT = (mask_BT.cumsum(-1) - 1).clamp(min=0)[:, -ids_BT.shape[1] :]
        out = model(
            input_ids=ids_BT,
            attention_mask=mask_BT,
            position_ids=position_BT,
            past_key_values=cache,
            use_cache=True,
            logits_to_keep=1,
        )
        tokens = draw(out.logits[:, -1].float(), [generators[row] for row in rows], sampling)
        going = [place for place, token in enumerate(tokens) if token != end]
        for place, token in enumerate(tokens):
            if token == end:
                ended[rows[place]] = True
            else:
                written[rows[place]].append(token)
        on_token(step + 1, sum(map(len, written)))
        if not going:
            break
        if len(going) < len(rows):
            keep = torch.tensor(going)
            cache.batch_select_indices(keep)
            mask_BT = mask_BT[keep]
            rows = [rows[place] for place in going]
        ids_BT = torch.tensor([[tokens[place]] for place in going])
        mask_BT = torch.cat([mask_BT, torch.ones(len(rows), 1, dtype=mask_BT.dtype)], dim=1)
    return written, ended


def draw(logits_BV: "torch.Tensor", generators: Sequence["torch.Generator"], sampling: Sampling) -> list[int]:
    """The next token of each row, drawn from the row's own generator (on the processor); logits are float32."""
    import torch

    if sampling.temperature == 0:
        return [int(token) for token in logits_BV.argmax(-1)]
    # The likeliest 1,000 tokens hold all of the mass that nucleus sampling keeps, at a fraction of a full sort.
    top_BK, index_BK = logits_BV.topk(min(1000, logits_BV.shape[-1]), dim=-1)
    probability_BK = (top_BK / sampling.temperature).softmax(-1)
    before_BK = probability_BK.cumsum(-1) - probability_BK
    probability_BK = probability_BK.masked_fill(before_BK >= sampling.top_p, 0.0)
    return [
        int(index_BK[row, torch.multinomial(probability_BK[row].cpu(), 1, generator=generator)])
        for row, generator in enumerate(generators)
    ]

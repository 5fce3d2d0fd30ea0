"""A judge that runs here: any model that Viva can load, an arm of the study among them; greedy, in batches."""

import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from harness.judge_table import DEFAULT_BATCH, JudgeBy
from harness.judging.asking import Answered, Ask, Conversation
from harness.progress import Report, quiet


def ask_local(by: JudgeBy, mode: str, directory: Path, progress: Report = quiet) -> Ask:
    """How to ask the model in a directory, in a mode. A request that does not fit its window is not asked ('too_long').

    `progress` is called within a batch with (0, 0, note): on a slow machine one takes minutes. Raises SourceError for a
    model that cannot be loaded.
    """
    from harness.chat import Sampling, write_answers
    from harness.judging.forced import answer_forced
    from harness.models.chat_format import encode_prompt
    from harness.models.load import load_model
    from harness.tune import keep_big_blocks

    keep_big_blocks()
    loaded = load_model(directory, precision_of(by), only_read=True)
    window = _window(loaded.model.config)
    size = by.batch or DEFAULT_BATCH
    sampling = Sampling(by.max_tokens, temperature=0.0)

    def ask(conversations: Sequence[Conversation]) -> Iterator[tuple[int, Answered]]:
        lengths = [len(encode_prompt(loaded.tokenizer, chat, None)) for chat in conversations]
        fits = []
        for index, length in enumerate(lengths):
            if window is not None and length + by.max_tokens > window:
                text = f"the request has {length} tokens, a reply may have {by.max_tokens}, and the window is {window}"
                yield index, Answered(text, tokens_in=0, tokens_out=0, problem="too_long")
            else:
                fits.append(index)
        fits.sort(key=lambda index: lengths[index])  # neighbours of similar length waste little padding
        for first in range(0, len(fits), size):
            batch = fits[first : first + size]
            if by.form == "forced":
                progress(0, 0, f"{by.name}: {first:,} of {len(fits):,} in this round")
                yield from zip(
                    batch, answer_forced(loaded, mode, [conversations[i] for i in batch], sampling), strict=True
                )
                continue
            begun = time.monotonic()

            def shown(step: int, written: int) -> None:
                progress(0, 0, f"{by.name}: position {step} of {by.max_tokens}")

            chats = [conversations[index] for index in batch]
            replies = write_answers(loaded, chats, [0] * len(batch), sampling, on_token=shown)
            each = (time.monotonic() - begun) / len(batch)
            for index, reply in zip(batch, replies, strict=True):
                yield index, Answered(reply.text, reply.finish, lengths[index], reply.tokens, each)

    return ask


def precision_of(by: JudgeBy) -> str:
    """The precision in which a judge that runs here does so: 'float32' or 'bfloat16'."""
    from harness.train.stage import choose_precision

    return choose_precision(by.precision or "float32")


def _window(config: Any) -> int | None:
    """The longest sequence that a model was made for, None where its config does not say."""
    found = getattr(config, "max_position_embeddings", None) or getattr(config, "n_positions", None)
    return int(found) if isinstance(found, int) else None

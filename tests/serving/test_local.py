"""An arm in this process: real chats of a real small model, several at once, streamed as text."""

import asyncio
from collections.abc import Iterator, Sequence
from typing import Any

import pytest

from harness.chat import Sampling
from harness.models.load import LoadedModel
from harness.records import Message
from harness.serving.arms import ArmError
from harness.serving.local import LocalArm, ends_of
from tests.tiny import tiny_model

SAMPLING = Sampling(24, 0.7, 0.9)


def chat(*contents: str) -> tuple[Message, ...]:
    return tuple(Message(role=("user", "assistant")[n % 2], content=text) for n, text in enumerate(contents))


CHATS = [chat("What comes after 7?"), chat("Hi!", "Hello.", "And after 8?"), chat("x" * 90), chat("é€👍")]


@pytest.fixture
def arm() -> Iterator[LocalArm]:
    made = LocalArm(tiny_model(), SAMPLING, None, 3)
    yield made
    asyncio.run(made.close())


async def written(arm: LocalArm, messages: Sequence[Message], seed: int) -> tuple[str, str | None]:
    said = [one async for one in arm.write(messages, seed)]
    assert all(one.finish is None for one in said[:-1])
    return "".join(one.text for one in said), said[-1].finish


def test_chats_at_once_are_the_chats_alone(arm: LocalArm) -> None:
    async def together() -> list[tuple[str, str | None]]:
        return list(await asyncio.gather(*(written(arm, one, n) for n, one in enumerate(CHATS * 2))))

    async def in_turn() -> list[tuple[str, str | None]]:
        return [await written(arm, one, n) for n, one in enumerate(CHATS * 2)]

    found = asyncio.run(together())
    assert found == asyncio.run(in_turn())
    assert len({text for text, _ in found}) > 4
    assert all("<|im_" not in text for text, _ in found)


def test_the_same_seed_is_the_same_text_and_another_is_not(arm: LocalArm) -> None:
    texts = [asyncio.run(written(arm, CHATS[0], seed)) for seed in (5, 5, 6)]
    assert texts[0] == texts[1] != texts[2]


def test_text_comes_while_it_is_written(arm: LocalArm) -> None:
    async def first_piece() -> bool:
        writing = arm.write(CHATS[2], 3)
        await anext(writing)
        unfinished = arm._batch.busy
        await writing.aclose()  # type: ignore[attr-defined]
        return unfinished

    assert asyncio.run(first_piece())


def test_who_leaves_frees_the_place(arm: LocalArm) -> None:
    async def leave_and_ask() -> tuple[str, str | None]:
        for _ in range(6):
            writing = arm.write(CHATS[2], 3)
            await anext(writing)
            await writing.aclose()  # type: ignore[attr-defined]
        return await asyncio.wait_for(written(arm, CHATS[0], 5), 60)

    assert asyncio.run(leave_and_ask()) == asyncio.run(written(arm, CHATS[0], 5))


def test_a_chat_longer_than_the_window_loses_its_oldest_turns(arm: LocalArm) -> None:
    tail = ("And then?", "a" * 40, "Why?")
    long = chat("b" * 200, "c" * 200, *tail)
    assert asyncio.run(written(arm, long, 1)) == asyncio.run(written(arm, chat(*tail), 1))
    with pytest.raises(ArmError, match="too long"):
        asyncio.run(written(arm, chat("d" * 600), 1))


def test_all_ends_that_a_model_names_end_its_turn() -> None:
    loaded = tiny_model()
    assert ends_of(loaded) == {1}
    loaded.model.generation_config.eos_token_id = [1, 44]
    assert ends_of(loaded) == {1, 44}
    loaded.model.generation_config.eos_token_id = 45
    assert ends_of(loaded) == {1, 45}


def test_a_template_that_opens_the_thinking_is_noticed() -> None:
    loaded = tiny_model()
    loaded.tokenizer.chat_template += "{% if add_generation_prompt %}<think>\n{% endif %}"
    thinking, plain = (LocalArm(one, SAMPLING, None, 2) for one in (loaded, tiny_model()))
    assert thinking.thinking
    assert not plain.thinking
    assert plain.marks == {"<|im_start|>", "<|im_end|>"}
    for one in (thinking, plain):
        asyncio.run(one.close())


def test_a_model_that_breaks_fails_its_chats_and_goes_on(caplog: pytest.LogCaptureFixture) -> None:
    loaded = tiny_model()
    arm = LocalArm(loaded, SAMPLING, None, 2)
    whole = asyncio.run(written(arm, CHATS[0], 5))
    layer = loaded.model.model.layers[1]
    forward = layer.forward
    left = [4]

    def breaking(*args: Any, **kwargs: Any) -> Any:
        left[0] -= 1
        if left[0] == 0:
            raise RuntimeError("no more")
        return forward(*args, **kwargs)

    layer.forward = breaking
    with pytest.raises(ArmError):
        asyncio.run(written(arm, CHATS[0], 5))
    assert asyncio.run(written(arm, CHATS[0], 5)) == whole
    assert "no more" in caplog.text
    asyncio.run(arm.close())
    assert isinstance(loaded, LoadedModel)

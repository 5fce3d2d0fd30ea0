"""Chats written side by side are those written alone, whenever they come; also as the model's own forward has them."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
import torch

from harness.chat import Sampling, draw
from harness.serving import batch as module
from harness.serving.batch import Batch, Writing
from tests.models.families import FAMILIES, family_model
from tests.tiny import tiny_model

SAMPLING = Sampling(24, 0.9, 0.95)
ENDS = frozenset([1])


def prompts(count: int = 6) -> list[list[int]]:
    rng = np.random.default_rng(3)
    return [rng.integers(2, 250, size=size).tolist() for size in (5, 130, 64, 1, 77, 200)[:count]]


def writings(count: int = 6, most: int = 24) -> list[Writing]:
    return [Writing(prompt, 100 + number, most - 3 * number) for number, prompt in enumerate(prompts(count))]


def run(batch: Batch, some: Sequence[Writing], *, every: int = 1) -> list[tuple[list[int], str | None]]:
    """Write all, one more of them joining every so many rounds."""
    left, rounds = list(some), 0
    while left or batch.busy:
        if left and rounds % every == 0:
            batch.add(left.pop(0))
        batch.round()
        rounds += 1
        assert rounds < 2000
    return [(one.written, one.finish) for one in some]


def alone(model: Any, one: Writing, ends: frozenset[int] = ENDS) -> tuple[list[int], str]:
    """The plain way: all tokens through the model's own forward for each new one."""
    generator = torch.Generator().manual_seed(one.seed)
    written: list[int] = []
    while len(written) < one.most:
        with torch.inference_mode():
            logits_1V = model(torch.tensor([[*one.prompt, *written]])).logits[:, -1].float()
        token = draw(logits_1V, [generator], SAMPLING)[0]
        if token in ends:
            return written, "stop"
        written.append(token)
    return written, "length"


@pytest.fixture(scope="module")
def model() -> Any:
    return tiny_model().model


@pytest.mark.parametrize("every", [1, 3, 40])
def test_chats_beside_each_other_are_those_written_alone(model: Any, every: int) -> None:
    together = run(Batch(model, SAMPLING, ENDS, 4), writings(), every=every)
    assert together == [run(Batch(model, SAMPLING, ENDS, 4), [one])[0] for one in writings()]
    assert together == [alone(model, one) for one in writings()]


def test_a_text_ends_at_any_of_the_models_ends(model: Any) -> None:
    (whole, _), *_ = run(Batch(model, SAMPLING, frozenset(), 4), writings(1))
    end = whole[7]
    ((written, finish),) = run(Batch(model, SAMPLING, frozenset([end]), 4), writings(1))
    assert written == whole[: whole.index(end)]
    assert finish == "stop"


@pytest.mark.parametrize("family", sorted(FAMILIES))
def test_every_family_of_models(family: str) -> None:
    model = family_model(family).model.float()
    size = model.config.vocab_size
    some = [Writing([token % (size - 2) + 2 for token in p], n, 12) for n, p in enumerate(prompts(3))]
    again = [Writing(one.prompt, one.seed, 12) for one in some]
    found = run(Batch(model, SAMPLING, ENDS, 4), some, every=2)
    assert found == [run(Batch(model, SAMPLING, ENDS, 4), [one])[0] for one in again]
    assert all(finish for _, finish in found)


def test_a_model_that_cannot_be_read_in_pieces_is_stepped_chat_by_chat(model: Any) -> None:
    batch = Batch(model, SAMPLING, ENDS, 3)
    batch.reader.limit = 60  # as for a window that only masks know
    found = run(batch, writings())
    assert found == [alone(model, one) for one in writings()]
    assert batch.slots is not None  # the short ones went there


def test_no_more_than_count_are_written_at_once_and_in_their_order(model: Any) -> None:
    batch = Batch(model, SAMPLING, frozenset(), 2)
    some = [Writing([5, 6, 7], n, 6) for n in range(5)]
    for one in some:
        batch.add(one)
    ended: list[int] = []
    while batch.busy:
        batch.round()
        assert len(batch.active) + bool(batch.reading) <= 2
        ended += [n for n, one in enumerate(some) if one.finish and n not in ended]
    assert ended == [0, 1, 2, 3, 4]


def test_a_chat_that_nobody_waits_for_makes_room(model: Any) -> None:
    batch = Batch(model, SAMPLING, frozenset(), 3)
    some = writings(3)
    for one in some:
        batch.add(one)
    for _ in range(8):
        batch.round()
    some[0].left = True
    late = Writing(prompts()[4], 104, 12)
    batch.add(late)
    while batch.busy:
        batch.round()
    assert some[0].finish is None
    for one in (some[1], some[2], late):
        assert (one.written, one.finish) == alone(model, one, frozenset())


def test_a_long_chat_among_short_ones_finds_room(model: Any) -> None:
    long = [token % 240 + 2 for token in range(450)]
    some = [Writing([9, 8, 7], 1, 30), Writing(long, 2, 90), Writing([4, 5], 3, 30)]
    batch = Batch(model, SAMPLING, frozenset(), 4)
    found = run(batch, some, every=4)
    assert batch.slots is not None
    assert batch.slots.capacity >= 540
    assert found == [alone(model, one, frozenset()) for one in some]


def test_what_fails_for_one_chat_is_no_matter_of_the_others(
    model: Any, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    plain, bad = module.prompts_plan, prompts()[1]

    def broken(some: Any, piece: int) -> Any:
        plan = plain(some, piece)
        if some[0].tolist() == bad:
            plan.plan.pieces[-1].ids[:] = 10**6  # no such token
        return plan

    monkeypatch.setattr(module, "prompts_plan", broken)
    some = writings(3)
    found = run(Batch(model, SAMPLING, ENDS, 4), some)
    assert found[1] == ([], "failed")
    assert [found[0], found[2]] == [alone(model, some[0]), alone(model, some[2])]
    assert "writing failed" in caplog.text

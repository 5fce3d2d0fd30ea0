"""A tokenizer and a model from nothing: the same every time, whole, and fit to train and to chat."""

import math
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from harness.config import Shape
from harness.errors import ConfigError
from harness.models.chat_format import encode_chat, render_prompt
from harness.models.fresh import END, fresh_model, train_tokenizer
from harness.models.load import LoadedModel, load_model
from harness.records import Message

LINES = [
    f"The {noun} was {how}, said the {who}."
    for noun in ("film", "plot")
    for how in ("dull", "good")
    for who in ("man", "critic")
]
SHAPE = Shape(layers=2, hidden=32, heads=4, mlp=64)
TOKENIZER = train_tokenizer(LINES, 290)


def weights(model: LoadedModel) -> torch.Tensor:
    return torch.cat([parameter.flatten() for parameter in model.model.parameters()])


def test_the_same_texts_give_the_same_tokenizer_in_another_process_too() -> None:
    code = (
        f"from harness.models.fresh import train_tokenizer; t = train_tokenizer({LINES!r}, 290); "
        "print(t.backend_tokenizer.to_str())"
    )
    other = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    here = train_tokenizer(iter(LINES), 290).backend_tokenizer.to_str()
    assert here == other.strip()
    assert here != train_tokenizer(LINES[:4], 290).backend_tokenizer.to_str()


def test_a_vocabulary_is_as_large_as_asked_or_as_the_corpus_allows() -> None:
    assert len(TOKENIZER) == 290
    assert len(TOKENIZER("The film was dull", add_special_tokens=False)["input_ids"]) < len("The film was dull")
    assert 257 < len(train_tokenizer(["ab ab"], 5000)) < 300
    with pytest.raises(ConfigError, match="a vocabulary of 257 has no room beside the 256 bytes"):
        train_tokenizer(LINES, 257)


@given(st.text())
def test_every_text_can_be_written(text: str) -> None:
    ids = TOKENIZER(text, add_special_tokens=False)["input_ids"]
    assert TOKENIZER.decode(ids) == text


def test_one_token_begins_and_ends_documents() -> None:
    assert TOKENIZER.bos_token == TOKENIZER.eos_token == END
    assert TOKENIZER(END, add_special_tokens=False)["input_ids"] == [TOKENIZER.eos_token_id]


def test_a_chat_is_its_text_so_far() -> None:
    chat = [Message(role="user", content="The film"), Message(role="assistant", content="was good.")]
    more = [*chat, Message(role="user", content="The plot"), Message(role="assistant", content="was dull.")]
    assert render_prompt(TOKENIZER, more[:3], None) == f"{END}The film\nwas good.{END}The plot\n"
    ids, target = encode_chat(TOKENIZER, more, None)
    assert TOKENIZER.decode(ids) == f"{END}The film\nwas good.{END}The plot\nwas dull.{END}"
    learnt = TOKENIZER.decode([token for token, taught in zip(ids, target, strict=True) if taught])
    assert learnt == f"was good.{END}was dull.{END}"


def test_weights_follow_the_seed_alone_and_leave_the_generator() -> None:
    torch.manual_seed(1)
    before = torch.get_rng_state()
    first, again, other = (fresh_model(TOKENIZER, SHAPE, seed) for seed in (3, 3, 4))
    assert torch.equal(torch.get_rng_state(), before)
    assert torch.equal(weights(first), weights(again))
    assert not torch.equal(weights(first), weights(other))


def test_the_shape_is_the_one_named_and_the_embedding_is_shared() -> None:
    model = fresh_model(TOKENIZER, Shape(layers=3, hidden=48, heads=6, kv_heads=2, mlp=80), 0).model
    layer = 48 * 48 * 2 + 48 * 16 * 2 + 48 * 80 * 3 + 2 * 48
    assert sum(parameter.numel() for parameter in model.parameters()) == 290 * 48 + 3 * layer + 48
    assert model.get_input_embeddings().weight is model.get_output_embeddings().weight
    assert model.config.max_position_embeddings >= 1024
    assert model.dtype == torch.float32


def test_random_weights_know_nothing_yet() -> None:
    model = fresh_model(TOKENIZER, SHAPE, 0).model
    with torch.inference_mode():
        logp = model(input_ids=torch.arange(40)[None]).logits.log_softmax(-1)
    assert abs(float(-logp.mean()) - math.log(290)) < 0.1


@pytest.mark.parametrize(
    ("shape", "message"),
    [
        ({"layers": 2, "hidden": 32, "heads": 4}, "needs layers, hidden, heads and mlp"),
        ({"layers": 2, "hidden": 30, "heads": 4, "mlp": 64}, "hidden = 30 does not split into heads = 4"),
        ({"layers": 2, "hidden": 12, "heads": 4, "mlp": 64}, "of an even width"),
        ({"layers": 2, "hidden": 32, "heads": 4, "kv_heads": 3, "mlp": 64}, "heads = 4 is no multiple of kv_heads = 3"),
    ],
)
def test_widths_that_do_not_fit_are_named(shape: dict[str, int], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        fresh_model(TOKENIZER, Shape(**shape), 0)


def test_it_saves_as_an_ordinary_model_directory(tmp_path: Path) -> None:
    made = fresh_model(TOKENIZER, SHAPE, 0)
    made.model.save_pretrained(tmp_path)
    made.tokenizer.save_pretrained(tmp_path)
    loaded = load_model(tmp_path)
    assert torch.equal(weights(made), weights(loaded))
    assert loaded.tokenizer.get_vocab() == TOKENIZER.get_vocab()
    chat = [Message(role="user", content="The film"), Message(role="assistant", content="was good.")]
    assert encode_chat(loaded.tokenizer, chat, None) == encode_chat(TOKENIZER, chat, None)

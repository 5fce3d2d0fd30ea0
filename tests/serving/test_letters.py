"""Tokens as text while they come: together the decoder's text, in pieces never half a character."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from harness.serving.letters import Letters
from tests.tiny import tiny_tokenizer


def word_tokenizer() -> PreTrainedTokenizerFast:
    """Tokens with a mark in place of the space before them, as SentencePiece has; the first space is not written."""
    pieces = ["▁Hello", "▁you", ",", "▁", "'", "s", "<s>", "</s>", *(f"<0x{byte:02X}>" for byte in range(256))]
    core = Tokenizer(models.BPE(vocab={name: n for n, name in enumerate(pieces)}, merges=[], byte_fallback=True))
    core.pre_tokenizer = pre_tokenizers.Metaspace()
    core.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    )
    return PreTrainedTokenizerFast(tokenizer_object=core, bos_token="<s>", eos_token="</s>")


TOKENIZERS = {"bytes": tiny_tokenizer(), "words": word_tokenizer()}


def texts(tokenizer: Any, ids: list[int]) -> list[str]:
    letters = Letters(tokenizer)
    return [*(letters.feed(token) for token in ids), letters.end()]


@pytest.mark.parametrize("text", ["Hello, you!", "Grüße 👍🏽 — 你好", "  two  spaces ", "don 't"])
def test_pieces_are_whole_characters_and_make_up_the_text(text: str) -> None:
    tokenizer = tiny_tokenizer()
    pieces = texts(tokenizer, tokenizer(text)["input_ids"])
    assert "".join(pieces) == text
    assert all("\ufffd" not in piece for piece in pieces)


WORDS = st.one_of(
    st.integers(0, 7).map(lambda token: [token]),
    st.sampled_from("xé€👍").map(lambda c: [8 + byte for byte in c.encode()]),
)


@given(st.lists(WORDS, max_size=20))
def test_words_with_their_spaces_and_bytes(parts: list[list[int]]) -> None:
    ids = [token for part in parts for token in part]
    whole = TOKENIZERS["words"].decode(ids, skip_special_tokens=True, clean_up_tokenization_spaces=False)
    assert "".join(texts(TOKENIZERS["words"], ids)) == whole


@given(st.lists(st.integers(0, 257), max_size=40))
def test_bytes_that_are_no_text(ids: list[int]) -> None:
    """What comes out is the decoder's text, but for characters that are incomplete."""
    whole = TOKENIZERS["bytes"].decode(ids, skip_special_tokens=True, clean_up_tokenization_spaces=False)
    found = "".join(texts(TOKENIZERS["bytes"], ids))
    assert found.replace("\ufffd", "") == whole.replace("\ufffd", "")


def test_special_tokens_and_half_characters_are_left_out() -> None:
    tokenizer = tiny_tokenizer()
    ids = tokenizer("a")["input_ids"] + [0, 1] + tokenizer("b€")["input_ids"][:-1]
    assert "".join(texts(tokenizer, ids)) == "ab"

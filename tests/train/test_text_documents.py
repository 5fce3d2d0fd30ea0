"""Plain texts as training documents: each token of a text is predicted once, whatever the length of a row."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from harness.errors import ConfigError
from harness.models.fresh import train_tokenizer
from harness.texts import Text
from harness.train.batches import pack, to_batch
from harness.train.text_documents import text_documents
from tests.tiny import tiny_tokenizer

TOKENIZER = train_tokenizer(["the film was dull and the plot was dull"], 280)


def texts(*contents: str) -> list[Text]:
    return [Text(id=str(number), text=content) for number, content in enumerate(contents)]


@given(st.lists(st.text(alphabet="the film\n", max_size=60), max_size=4), st.integers(2, 40))
def test_every_token_is_predicted_once_in_order(contents: list[str], row_tokens: int) -> None:
    documents = text_documents(TOKENIZER, texts(*contents), row_tokens)
    predicted = [token for row in pack(documents, row_tokens) for token in to_batch(row).label_N.tolist()]
    end = TOKENIZER.eos_token_id
    whole = [[*TOKENIZER(content, add_special_tokens=False)["input_ids"], end] for content in contents]
    assert predicted == [token for ids in whole for token in ids]
    assert all(2 <= len(document.ids) <= row_tokens for document in documents)
    assert all(all(document.target) and document.kind == "corpus" for document in documents)


def test_a_long_text_becomes_pieces_that_share_one_token() -> None:
    ids = [TOKENIZER.bos_token_id, *TOKENIZER("abcdefg", add_special_tokens=False)["input_ids"], TOKENIZER.eos_token_id]
    pieces = [document.ids for document in text_documents(TOKENIZER, texts("abcdefg"), 4)]
    assert pieces == [tuple(ids[0:4]), tuple(ids[3:7]), tuple(ids[6:9])]


def test_no_piece_holds_the_shared_token_alone() -> None:
    assert [len(one.ids) for one in text_documents(TOKENIZER, texts("abcde"), 4)] == [4, 4]


def test_a_tokenizer_without_a_beginning_takes_its_end_and_one_without_an_end_is_refused() -> None:
    tokenizer = tiny_tokenizer()
    first = text_documents(tokenizer, texts("ab"), 16)[0].ids
    assert (first[0], first[-1]) == (tokenizer.bos_token_id, tokenizer.eos_token_id)
    tokenizer.bos_token = None
    assert text_documents(tokenizer, texts("ab"), 16)[0].ids == (tokenizer.eos_token_id, *first[1:])
    tokenizer.eos_token = None
    with pytest.raises(ConfigError, match="no end-of-sequence token"):
        text_documents(tokenizer, texts("ab"), 16)

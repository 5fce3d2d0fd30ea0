"""From plain texts to training documents: every token is learnt, and a long text becomes several documents."""

from collections.abc import Sequence
from typing import Any

from harness.models.chat_format import end_of_turn
from harness.texts import Text
from harness.train.batches import Document


def text_documents(tokenizer: Any, texts: Sequence[Text], row_tokens: int) -> list[Document]:
    """Documents of at most `row_tokens` tokens that together predict each token of every text once.

    A text stands between the tokenizer's beginning and end of sequence; a tokenizer without a beginning takes the end
    in its place, as GPT-2 does, so that the first word is predicted too. A longer text is cut into consecutive pieces
    of `row_tokens`, each of which opens with the last token of the piece before it: that token is only context there,
    for the first token of a document is never predicted. Raises ConfigError for a tokenizer without an end of sequence.
    """
    end = end_of_turn(tokenizer)
    start = end if tokenizer.bos_token_id is None else int(tokenizer.bos_token_id)
    encoded = tokenizer([text.text for text in texts], add_special_tokens=False)["input_ids"] if texts else []
    documents = []
    for inner in encoded:
        ids = [start, *inner, end]
        for first in range(0, len(ids) - 1, row_tokens - 1):
            piece = tuple(ids[first : first + row_tokens])
            documents.append(Document(piece, (True,) * len(piece)))
    return documents

"""New texts for a task: words replaced by what a masked LM finds likely in their place.

TinyBERT (Jiao et al. 2020, algorithm 1), but that the words of one new text that are to be replaced are hidden
together, one pass a text, and that words of several pieces stay where the paper takes word vectors.
"""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from harness.chat import seed_for
from harness.models.attention import packed
from harness.models.encoder.labels import Labelled
from harness.progress import Report
from harness.task_table import Augment
from harness.train.batches import Document, Row, pack

if TYPE_CHECKING:
    import torch

ROW_TOKENS = 1024  # of texts that are read at once


def augmented(
    documents: Sequence[Document], writer: Any, tokenizer: Any, table: Augment, seed: int, progress: Report
) -> list[Document]:
    """`table.copies` new texts of each document, with its label; those in which nothing was replaced are left out.

    Which words, and what stands in their place, follows from `seed` and the document alone.
    """
    import torch

    special = set(tokenizer.all_special_ids)
    whole, piece = _kinds(tokenizer)
    plans = []
    for copy in range(table.copies):
        for document in documents:
            rng = np.random.Generator(np.random.PCG64(seed_for(seed, "augment", copy, document.key)))
            places = [at for at in _words(document.ids, whole, piece, special) if rng.random() < table.replace]
            if places:
                plans.append((document, places, rng))
    hidden = [_hidden(document, places, int(tokenizer.mask_token_id)) for document, places, _ in plans]
    banned = torch.tensor(sorted({*np.flatnonzero(~whole).tolist(), *special}))
    found: list[Document] = []
    done = 0
    for row in pack(hidden, ROW_TOKENS):
        progress(done, len(plans), "new texts for the task")
        logits_TV = _logits(writer, row)
        logits_TV[:, banned] = -torch.inf
        start = 0
        for document, places, rng in plans[done : done + len(row.documents)]:
            likeliest_PK = logits_TV[[start + at for at in places]].topk(table.candidates).indices.tolist()
            ids = list(document.ids)
            for at, candidates in zip(places, likeliest_PK, strict=True):
                ids[at] = candidates[int(rng.integers(len(candidates)))]
            found.append(Labelled(tuple(ids), document.target, label=getattr(document, "label", 0)))
            start += len(document.ids)
        done += len(row.documents)
    return found


def _kinds(tokenizer: Any) -> tuple[np.ndarray, np.ndarray]:
    """True for the ids that are words, and for those that go on with one [V] each."""
    vocabulary = tokenizer.get_vocab()
    whole, piece = np.zeros((2, 1 + max(vocabulary.values())), dtype=bool)
    for token, index in vocabulary.items():
        piece[index] = token.startswith("##")
        whole[index] = token.isalnum()
    return whole, piece


def _words(ids: Sequence[int], whole: np.ndarray, piece: np.ndarray, special: set[int]) -> list[int]:
    """Positions of words of one piece."""
    return [
        at
        for at, token in enumerate(ids)
        if token not in special and whole[token] and not (at + 1 < len(ids) and piece[ids[at + 1]])
    ]


def _hidden(document: Document, places: Sequence[int], mask: int) -> Document:
    taken = set(places)
    return Document(tuple(mask if at in taken else one for at, one in enumerate(document.ids)), document.target)


def _logits(writer: Any, row: Row) -> "torch.Tensor":
    import torch

    with torch.inference_mode(), packed(writer, row.lengths):
        position_1T = torch.cat([torch.arange(length) for length in row.lengths])[None]
        found: torch.Tensor = writer(input_ids=torch.tensor([row.ids]), position_ids=position_1T).logits[0]
    return found.clone()

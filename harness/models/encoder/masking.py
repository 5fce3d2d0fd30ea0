"""What an encoder reads and predicts: texts between the special tokens, some of their tokens hidden anew at each step.

Devlin et al. 2019, section 3.1: of the tokens that are predicted (15 %) eight in ten are replaced by the mask, one in
ten by a token drawn from the vocabulary, and one in ten stays. Which ones follows from seed, step and the document's
own tokens, so a student and its control, and a resumed training, see the same.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np

from harness.chat import seed_for
from harness.texts import Text
from harness.train.batches import Batch, Document, Row

if TYPE_CHECKING:
    import torch

SHARE, MASKED, DRAWN = 0.15, 0.8, 0.1


@dataclass(frozen=True)
class Masking:
    """How tokens are hidden: the mask's id, and the ids from which replacements are drawn (no special ones)."""

    mask: int
    ordinary: tuple[int, ...]
    share: float = SHARE

    @classmethod
    def of(cls, tokenizer: Any) -> "Masking":
        special = set(tokenizer.all_special_ids)
        ids = sorted(set(tokenizer.get_vocab().values()) - special)
        return cls(int(tokenizer.mask_token_id), tuple(ids))


@dataclass(frozen=True)
class Masked(Document):
    """A document with some tokens hidden: `ids` as the model reads them, `label` as they were, `target` the hidden."""

    label: tuple[int, ...] = ()

    @cached_property
    def scored(self) -> tuple[int, ...]:
        """Positions that are predicted: a masked LM predicts in place."""
        return tuple(index for index, hidden in enumerate(self.target) if hidden)


def documents_of(tokenizer: Any, texts: Sequence[Text], longest: int) -> list[Document]:
    """Texts as documents of at most `longest` tokens, special ones included; a longer text becomes several.

    `target` tells the text's own tokens, which may be hidden, from the special ones.
    """
    encoded = tokenizer(
        [text.text for text in texts], add_special_tokens=False, truncation=False, padding=False, verbose=False
    )
    found = []
    for inner in encoded["input_ids"]:
        for first in range(0, len(inner), longest - 2):
            piece = inner[first : first + longest - 2]
            ids = (int(tokenizer.cls_token_id), *piece, int(tokenizer.sep_token_id))
            found.append(Document(ids, (False, *(True,) * len(piece), False)))
    return found


def masked(rows: Sequence[Row], masking: Masking, *, seed: int, step: int) -> list[Row]:
    """The rows of a step with tokens hidden; the same whoever computes which row."""
    return [Row(tuple(_masked(one, masking, seed_for(seed, "mask", step, one.key)) for one in row.documents))
            for row in rows]  # fmt: skip


def _masked(document: Document, masking: Masking, seed: int) -> Masked:
    rng = np.random.Generator(np.random.PCG64(seed))
    places = np.array([index for index, own in enumerate(document.target) if own])
    count = max(1, round(masking.share * len(places)))
    chosen = rng.choice(places, size=min(count, len(places)), replace=False) if len(places) else places
    ids = list(document.ids)
    target = [False] * len(ids)
    kinds, others = rng.random(len(chosen)), rng.integers(0, len(masking.ordinary), len(chosen))
    for place, kind, other in zip(chosen.tolist(), kinds, others, strict=True):
        target[place] = True
        if kind < MASKED:
            ids[place] = masking.mask
        elif kind < MASKED + DRAWN:
            ids[place] = masking.ordinary[other]
    return Masked(tuple(ids), tuple(target), label=document.ids)


def to_batch(row: Row, device: Any = "cpu") -> Batch:
    """A row of masked documents as tensors: scored are the hidden positions, labels what stood there.

    A row that is not masked scores nothing.
    """
    import torch

    keep: list[int] = []
    label: list[int] = []
    start = 0
    for document in row.documents:
        if isinstance(document, Masked):
            keep += [start + index for index in document.scored]
            label += [document.label[index] for index in document.scored]
        start += len(document.ids)

    def tensor(values: Sequence[Any], dtype: "torch.dtype" = torch.long) -> "torch.Tensor":
        return torch.tensor(values, dtype=dtype, device=device)

    return Batch(
        row=row,
        ids_1T=tensor(row.ids)[None],
        position_1T=torch.cat([torch.arange(length, device=device) for length in row.lengths])[None],
        keep_N=tensor(keep),
        label_N=tensor(label),
        taught_N=torch.ones(len(keep), dtype=torch.bool, device=device),
        kind_N=torch.zeros(len(keep), dtype=torch.long, device=device),
    )

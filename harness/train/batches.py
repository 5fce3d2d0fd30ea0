"""The order of the training data: packed rows, decided before the first step by corpus, budget and seed alone.

Student and control are handed the same plan, so they see the same tokens in the same order.
"""

import hashlib
import random
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from harness.errors import ConfigError

if TYPE_CHECKING:
    import torch

Document = tuple[list[int], list[bool]]
"""Token ids, and for each whether it is learnt (assistant tokens)."""


@dataclass(frozen=True)
class Row:
    """Several whole documents, end to end. `lengths` are theirs; no document attends to another."""

    ids: tuple[int, ...]
    target: tuple[bool, ...]
    lengths: tuple[int, ...]

    @property
    def learnt(self) -> int:
        """Positions whose prediction counts: those followed, in the same document, by a target token."""
        return len(scored_positions(self))


def scored_positions(row: Row) -> list[int]:
    """Positions that predict a target token of the same document (a document's first token is never predicted)."""
    positions = []
    start = 0
    for length in row.lengths:
        positions += [index for index in range(start, start + length - 1) if row.target[index + 1]]
        start += length
    return positions


def pack(documents: Sequence[Document], row_tokens: int) -> list[Row]:
    """Pack documents, in their order, into rows of at most `row_tokens`; one that is longer is cut at its end."""
    rows: list[Row] = []
    ids: list[int] = []
    target: list[bool] = []
    lengths: list[int] = []
    for document_ids, document_target in documents:
        if ids and len(ids) + min(len(document_ids), row_tokens) > row_tokens:
            rows.append(Row(tuple(ids), tuple(target), tuple(lengths)))
            ids, target, lengths = [], [], []
        ids += document_ids[:row_tokens]
        target += document_target[:row_tokens]
        lengths.append(min(len(document_ids), row_tokens))
    if ids:
        rows.append(Row(tuple(ids), tuple(target), tuple(lengths)))
    return rows


def plan_steps(
    documents: Sequence[Document], *, tokens: int, row_tokens: int, accumulate: int, seed: int
) -> list[list[Row]]:
    """The rows of every optimiser step: shuffled epochs, packed, until `tokens` are reached.

    The last step is a whole one, so the plan may exceed `tokens` by less than a step. Raises ConfigError when no
    position of the corpus can be learnt.
    """
    if not any(row.learnt for row in pack(documents, row_tokens)):
        raise ConfigError("the corpus has no assistant token within row_tokens", hint="raise row_tokens")
    rng = random.Random(seed)
    order: list[Document] = []
    total = 0
    while total < tokens + accumulate * row_tokens:
        epoch = list(documents)
        rng.shuffle(epoch)
        order += epoch
        total += sum(min(len(ids), row_tokens) for ids, _ in epoch)
    rows = [row for row in pack(order, row_tokens) if row.learnt]
    steps: list[list[Row]] = []
    seen = 0
    while seen < tokens:
        step = rows[len(steps) * accumulate : (len(steps) + 1) * accumulate]
        steps.append(step)
        seen += sum(len(row.ids) for row in step)
    return steps


def plan_digest(steps: Sequence[Sequence[Row]]) -> str:
    """sha256 over every token of the plan in order: equal for a student and its control."""
    hasher = hashlib.sha256()
    for step in steps:
        for row in step:
            hasher.update(repr((row.ids, row.target, row.lengths)).encode())
    return hasher.hexdigest()


@dataclass(frozen=True)
class Batch:
    """A row as tensors: `ids_1T`, `position_1T`, `mask_11TT` (True where attention is allowed), `keep_N` (positions
    scored) and `label_N` (the tokens that follow them)."""

    ids_1T: "torch.Tensor"
    position_1T: "torch.Tensor"
    mask_11TT: "torch.Tensor"
    keep_N: "torch.Tensor"
    label_N: "torch.Tensor"

    def logits(self, model: Any) -> "torch.Tensor":
        """The model's logits at the scored positions, [N, V]: its own forward, so scaling and capping stay in."""
        out = model(
            input_ids=self.ids_1T,
            position_ids=self.position_1T,
            attention_mask=self.mask_11TT,
            logits_to_keep=self.keep_N,
            use_cache=False,
        )
        logits_NV: torch.Tensor = out.logits[0]
        return logits_NV


def to_batch(row: Row) -> Batch:
    """A row as tensors, with block-diagonal causal attention and positions that restart in each document."""
    import torch

    document_T = torch.repeat_interleave(torch.arange(len(row.lengths)), torch.tensor(row.lengths))
    total = len(row.ids)
    same_TT = document_T[:, None] == document_T[None, :]
    causal_TT = torch.ones(total, total, dtype=torch.bool).tril()
    position_T = torch.cat([torch.arange(length) for length in row.lengths])
    keep = scored_positions(row)
    return Batch(
        ids_1T=torch.tensor([row.ids]),
        position_1T=position_T[None],
        mask_11TT=(same_TT & causal_TT)[None, None],
        keep_N=torch.tensor(keep),
        label_N=torch.tensor([row.ids[index + 1] for index in keep]),
    )

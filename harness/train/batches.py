"""The order of the training data: packed rows, decided before the first step by corpus, budget and seed alone.

Student and control are handed the same plan, so they see the same tokens in the same order.
"""

import hashlib
import random
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import chain
from typing import TYPE_CHECKING, Any

from harness.errors import ConfigError

if TYPE_CHECKING:
    import torch

    from harness.records import Chat
    from harness.train.cross import Pair

KINDS = ("corpus", "sequence", "explanations")  # who wrote a document: each has its own cross-entropy term


@dataclass(frozen=True)
class Document:
    """One text of the training: token ids, and for each whether it is learnt (assistant tokens).

    `kind` is one of KINDS. `pair` is the same text in the tokens of a teacher with another tokenizer.
    """

    ids: tuple[int, ...]
    target: tuple[bool, ...]
    kind: str = "corpus"
    pair: "Pair | None" = None

    def cut(self, tokens: int) -> "Document":
        """Its first `tokens` tokens."""
        if len(self.ids) <= tokens:
            return self
        pair = self.pair.cut(tokens) if self.pair else None
        return replace(self, ids=self.ids[:tokens], target=self.target[:tokens], pair=pair)

    @cached_property
    def key(self) -> str:
        """What names this document in a cache of the teacher: the hash of its tokens and of which are learnt."""
        return hashlib.sha256(repr((self.ids, self.target)).encode()).hexdigest()

    @cached_property
    def scored(self) -> tuple[int, ...]:
        """Positions that predict a learnt token (the first token of a document is never predicted)."""
        return tuple(index for index in range(len(self.ids) - 1) if self.target[index + 1])


@dataclass(frozen=True)
class Row:
    """Several whole documents, end to end; no document attends to another.

    `on_policy` marks a row whose answers the student wrote itself.
    """

    documents: tuple[Document, ...]
    on_policy: bool = False

    @cached_property
    def ids(self) -> tuple[int, ...]:
        return tuple(chain.from_iterable(document.ids for document in self.documents))

    @cached_property
    def target(self) -> tuple[bool, ...]:
        return tuple(chain.from_iterable(document.target for document in self.documents))

    @cached_property
    def lengths(self) -> tuple[int, ...]:
        return tuple(len(document.ids) for document in self.documents)

    @property
    def learnt(self) -> int:
        """Positions whose prediction counts: those followed, in the same document, by a learnt token."""
        return sum(len(document.scored) for document in self.documents)


def scored_positions(row: Row) -> list[int]:
    """Positions in the row that predict a learnt token of the same document."""
    positions = []
    start = 0
    for document in row.documents:
        positions += [start + index for index in document.scored]
        start += len(document.ids)
    return positions


def pack(documents: Sequence[Document], row_tokens: int) -> list[Row]:
    """Pack documents, in their order, into rows of at most `row_tokens`; one that is longer is cut at its end."""
    rows: list[Row] = []
    inside: list[Document] = []
    used = 0
    for document in (document.cut(row_tokens) for document in documents):
        if inside and used + len(document.ids) > row_tokens:
            rows.append(Row(tuple(inside)))
            inside, used = [], 0
        inside.append(document)
        used += len(document.ids)
    if inside:
        rows.append(Row(tuple(inside)))
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
        total += sum(min(len(document.ids), row_tokens) for document in epoch)
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
    """A row as tensors.

    `ids_1T` and `position_1T` (restarting in each document); `keep_N`, the positions scored; `label_N`, the tokens
    that follow them; `taught_N`, True where that token is learnt from a teacher (an assistant token); `kind_N`, the
    index in KINDS of who wrote it.
    """

    row: Row
    ids_1T: "torch.Tensor"
    position_1T: "torch.Tensor"
    keep_N: "torch.Tensor"
    label_N: "torch.Tensor"
    taught_N: "torch.Tensor"
    kind_N: "torch.Tensor"

    def logits(self, model: Any) -> "torch.Tensor":
        """The model's logits at the scored positions, [N, V]: its own forward, so scaling and capping stay in."""
        from harness.models.attention import packed

        with packed(model, self.row.lengths):
            out = model(
                input_ids=self.ids_1T, position_ids=self.position_1T, logits_to_keep=self.keep_N, use_cache=False
            )
        logits_NV: torch.Tensor = out.logits[0]
        return logits_NV


def to_batch(row: Row, every_token: bool = False, device: Any = "cpu") -> Batch:
    """A row as tensors; with `every_token` all predictable positions of the corpus are scored, prompts as well."""
    import torch

    keep: list[int] = []
    taught: list[bool] = []
    kinds: list[int] = []
    start = 0
    for document in row.documents:
        whole = every_token and document.kind == "corpus"
        places = range(len(document.ids) - 1) if whole else document.scored
        keep += [start + index for index in places]
        taught += [document.target[index + 1] for index in places]
        kinds += [KINDS.index(document.kind)] * len(places)
        start += len(document.ids)
    ids_T = torch.tensor(row.ids, device=device)
    keep_N = torch.tensor(keep, dtype=torch.long, device=device)
    return Batch(
        row=row,
        ids_1T=ids_T[None],
        position_1T=torch.cat([torch.arange(length, device=device) for length in row.lengths])[None],
        keep_N=keep_N,
        label_N=ids_T[keep_N + 1],
        taught_N=torch.tensor(taught, dtype=torch.bool, device=device),
        kind_N=torch.tensor(kinds, dtype=torch.long, device=device),
    )


def to_document(tokenizer: Any, chat: "Chat", system: str | None, kind: str = "corpus") -> Document:
    """A chat of a corpus as tokens, by the tokenizer's chat template."""
    from harness.models.chat_format import encode_document

    ids, target = encode_document(tokenizer, chat, system)
    return Document(tuple(ids), tuple(target), kind)

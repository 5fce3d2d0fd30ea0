"""Keys and values of the texts that are being written: each in a slot of its own, so that no step copies them."""

import math
import mmap
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np
import torch

from harness.bench.attend import flash, fused, joined
from harness.bench.memory import Pair
from harness.models.attention import Rule

STEP = 16
"""Keys are attended to in multiples of this: the fused kernel rounds otherwise where it has a rest."""
TOGETHER = 16
"""So many slots are attended to at once."""


@dataclass
class Slots:
    """`stores`, by layer: keys and values [slots, K, capacity, d]. `lengths` counts the tokens that each slot holds.

    All texts begin with the same `depth` tokens, which lie in no slot: `shared(layer)` gives their keys and values
    [1, K, T, d], in parts. As an attention, each row of a pass is the newest token of the slot of that number (see
    `attend.Attention`).
    """

    capacity: int
    lengths: np.ndarray
    depth: int
    shared: Callable[[int], Sequence[Pair]]
    stores: dict[int, Pair] = field(default_factory=dict)
    windows: set[int] = field(default_factory=set)
    used: set[int] = field(default_factory=set)
    masks: dict[int | None, torch.Tensor] = field(default_factory=dict)

    @classmethod
    def empty(cls, count: int, capacity: int, depth: int, shared: Callable[[int], Sequence[Pair]]) -> "Slots":
        return cls(-(-capacity // STEP) * STEP, np.ones(count, dtype=np.int64), depth, shared)

    def fill(self, slot: int, chain: dict[int, Pair]) -> None:
        """Take over what was read of a prompt behind its first `depth` tokens."""
        for layer, pair in chain.items():
            if layer not in self.stores:
                self.stores[layer] = (self._store(pair[0]), self._store(pair[1]))
            self.lengths[slot] = pair[0].shape[2]
            for store, new in zip(self.stores[layer], pair, strict=True):
                store[slot, :, : self.lengths[slot]] = new[0]

    def _store(self, like: torch.Tensor) -> torch.Tensor:
        shape = (len(self.lengths), like.shape[1], self.capacity, like.shape[-1])
        # There must be zeros: what lies behind a text is multiplied by nothing, and must not be NaN.
        if like.device.type != "cpu":
            return like.new_zeros(shape)
        # Straight from the kernel, which gives zeroed pages only where something is written.
        pages = mmap.mmap(-1, math.prod(shape) * like.element_size())
        return torch.frombuffer(pages, dtype=like.dtype).view(shape)

    def move(self, source: int, target: int) -> None:
        """Put the text of one slot into another."""
        length = self.lengths[target] = self.lengths[source]
        for store in (store for pair in self.stores.values() for store in pair):
            store[target, :, :length] = store[source, :, :length]

    def grow(self, texts: int, rows: int) -> None:
        """Make room for one token more in the first `texts` slots; further `rows` are there for their number only."""
        self.lengths[:texts] += 1
        self.lengths[texts:rows] = 1
        self.masks.clear()

    def attend(
        self, layer: int, rule: Rule, query_BHTd: torch.Tensor, key_BKTd: torch.Tensor, value_BKTd: torch.Tensor
    ) -> torch.Tensor:
        rows, device = len(query_BHTd), query_BHTd.device
        each_B, last_B = torch.arange(rows, device=device), torch.as_tensor(self.lengths[:rows] - 1, device=device)
        for store, new in zip(self.stores[layer], (key_BKTd, value_BKTd), strict=True):
            store[each_B, :, last_B] = new[:, :, 0]
        length = self._longest(slice(0, rows))
        own = self.stores[layer][0][:rows, :, :length], self.stores[layer][1][:rows, :, :length]
        mask_BL = self._mask(rule, length, query_BHTd)  # over the shared tokens, then the slot's
        if rule.softcap is not None or not fused(query_BHTd, value_BKTd):
            return self._plain(layer, rule, query_BHTd, own, mask_BL)
        mask_B11L = mask_BL[:, None, None, self.depth :]
        # Neighbours began with prompts of similar lengths: a few at a time, they need not reach as far as the longest.
        parts = [slice(first, first + TOGETHER) for first in range(0, rows, TOGETHER)]
        found = [
            flash(query_BHTd[part], *(one[part, :, :most] for one in own), rule.scaling, mask_B11L[part, ..., :most])
            for part, most in zip(parts, map(self._longest, parts), strict=True)
        ]
        found_BH1d, lse_BH1 = (torch.cat(one) for one in zip(*found, strict=True))
        start = 0
        for key_1KTd, value_1KTd in self.shared(layer)[::-1]:
            # All rows ask the same keys: one product, in which the rows of a group are queries.
            query_1KQd = query_BHTd[:, :, 0].unflatten(1, (key_BKTd.shape[1], -1)).transpose(0, 1).flatten(1, 2)[None]
            end = start + key_1KTd.shape[2]
            hidden_QT = None
            if rule.window is not None:
                hidden_QT = mask_BL[:, start:end].repeat_interleave(query_1KQd.shape[2] // rows, dim=0)
            part_1KQd, part_lse_1KQ = flash(query_1KQd, key_1KTd, value_1KTd, rule.scaling, hidden_QT)
            found_BH1d, lse_BH1 = joined(
                found_BH1d,
                lse_BH1,
                part_1KQd[0].unflatten(1, (rows, -1)).transpose(0, 1).flatten(1, 2)[:, :, None],
                part_lse_1KQ[0].unflatten(1, (rows, -1)).transpose(0, 1).flatten(1, 2)[:, :, None],
            )
            start = end
        return found_BH1d.transpose(1, 2)

    def _longest(self, some: slice) -> int:
        """How far some slots reach, in a multiple of STEP."""
        return -(-int(self.lengths[some].max()) // STEP) * STEP

    def _plain(
        self, layer: int, rule: Rule, query_BHTd: torch.Tensor, own: Pair, mask_BL: torch.Tensor
    ) -> torch.Tensor:
        """The same by plain products: for capped scores, and where no fused kernel gives the logsumexp."""
        shared = self.shared(layer)[::-1]
        groups = query_BHTd.shape[1] // own[0].shape[1]
        keys, values = (
            [one.repeat_interleave(groups, dim=1) for one in part] for part in zip(*shared, own, strict=True)
        )
        score_BH1L = torch.cat([query_BHTd @ key.transpose(-1, -2) for key in keys], dim=-1) * rule.scaling
        if rule.softcap is not None:
            score_BH1L = rule.softcap * torch.tanh(score_BH1L / rule.softcap)
        wide = torch.promote_types(score_BH1L.dtype, torch.float32)
        weight_BH1L = (score_BH1L + mask_BL[:, None, None]).softmax(-1, dtype=wide).to(query_BHTd.dtype)
        parts = weight_BH1L.split([value.shape[2] for value in values], dim=-1)
        out_BH1d = torch.stack([part @ value for part, value in zip(parts, values, strict=True)]).sum(0)
        return out_BH1d.transpose(1, 2)

    def _mask(self, rule: Rule, length: int, like: torch.Tensor) -> torch.Tensor:
        """What is added to the scores [B, depth + length]; the same for all layers of a window."""
        if rule.window not in self.masks:
            place_L, end_B1 = np.arange(self.depth + length), self.depth + self.lengths[: len(like), None]
            seen_BL = place_L < end_B1
            if rule.window is not None:
                seen_BL &= place_L >= end_B1 - rule.window
            hidden_BL = torch.as_tensor(~seen_BL, device=like.device)
            zeros_BL = torch.zeros(hidden_BL.shape, dtype=like.dtype, device=like.device)
            self.masks[rule.window] = zeros_BL.masked_fill_(hidden_BL, torch.finfo(like.dtype).min)
        return self.masks[rule.window]

"""Keys and values of the texts that are being written: each in a slot of its own, so that no step copies them."""

from dataclasses import dataclass, field

import numpy as np
import torch

from harness.bench.attend import FUSED, flash, masked
from harness.models.attention import Rule

STEP = 16
"""Keys are attended to in multiples of this: the fused kernel rounds otherwise where it has a rest."""


@dataclass
class Slots:
    """`keys` and `values` by layer: [slots, K, capacity, d]. `lengths` counts the tokens that each slot holds.

    As an attention, each row of a pass is the newest token of the slot of that number (see `attend.Attention`).
    """

    capacity: int
    lengths: np.ndarray
    keys: dict[int, torch.Tensor] = field(default_factory=dict)
    values: dict[int, torch.Tensor] = field(default_factory=dict)
    windows: set[int] = field(default_factory=set)
    used: set[int] = field(default_factory=set)
    masks: dict[int | None, torch.Tensor] = field(default_factory=dict)

    @classmethod
    def empty(cls, count: int, capacity: int) -> "Slots":
        return cls(-(-capacity // STEP) * STEP, np.ones(count, dtype=np.int64))

    def fill(self, slot: int, chain: dict[int, tuple[torch.Tensor, torch.Tensor]], length: int) -> None:
        """Take over the first `length` tokens that were read of a prompt."""
        for layer, pair in chain.items():
            for store, new in zip((self.keys, self.values), pair, strict=True):
                if layer not in store:
                    # Zeros, because what lies behind a text is multiplied by nothing, and must not be NaN.
                    store[layer] = new.new_zeros(len(self.lengths), new.shape[1], self.capacity, new.shape[-1])
                store[layer][slot, :, :length] = new[0, :, :length]
        self.lengths[slot] = length

    def move(self, source: int, target: int) -> None:
        """Put the text of one slot into another."""
        length = self.lengths[source]
        for store in (self.keys, self.values):
            for kept in store.values():
                kept[target, :, :length] = kept[source, :, :length]
        self.lengths[target] = length

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
        for store, new in ((self.keys, key_BKTd), (self.values, value_BKTd)):
            store[layer][each_B, :, last_B] = new[:, :, 0]
        length = -(-int(self.lengths[:rows].max()) // STEP) * STEP
        key_BKLd, value_BKLd = self.keys[layer][:rows, :, :length], self.values[layer][:rows, :, :length]
        mask_B11L = self._mask(rule, length, query_BHTd)
        if rule.softcap is None and device.type in FUSED and query_BHTd.shape[-1] == value_BKTd.shape[-1]:
            out_BHTd, _ = flash(query_BHTd, key_BKLd, value_BKLd, rule.scaling, mask_B11L)
        else:
            out_BHTd = masked(rule, query_BHTd, key_BKLd, value_BKLd, mask_B11L)
        return out_BHTd.transpose(1, 2)

    def _mask(self, rule: Rule, length: int, like: torch.Tensor) -> torch.Tensor:
        """What is added to the scores, [B, 1, 1, L]; the same for all layers of a window."""
        if rule.window not in self.masks:
            place_L, length_B1 = np.arange(length), self.lengths[: len(like), None]
            seen_BL = place_L < length_B1
            if rule.window is not None:
                seen_BL &= place_L >= length_B1 - rule.window
            hidden_B11L = torch.as_tensor(~seen_BL, device=like.device)[:, None, None]
            zeros_B11L = torch.zeros(hidden_B11L.shape, dtype=like.dtype, device=like.device)
            self.masks[rule.window] = zeros_B11L.masked_fill_(hidden_B11L, torch.finfo(like.dtype).min)
        return self.masks[rule.window]

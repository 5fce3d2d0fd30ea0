"""Attention piece by piece: each piece of a row sees its own past and, of itself, what it may.

Registered with transformers as an attention implementation, it serves every architecture that goes through its
attention interface. The past is attended to without a mask and the piece itself with a small one; the results are
brought together by their logsumexp (as in Dao et al., FlashAttention, 2022, section 3.1), so that no keys are copied.
"""

import contextlib
import threading
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np
import torch

from harness.bench.memory import Memory, Pair
from harness.bench.plan import Piece, Plan
from harness.errors import ConfigError
from harness.models.attention import ALTERING, Rule

NAME = "viva_pieces"
FUSED = ["cpu"]
"""Devices for which torch has a fused kernel that also returns the logsumexp, for any lengths and groups of heads."""


class Attention(Protocol):
    """How queries, keys and values of one layer become its output, for the forward pass under way in this thread."""

    windows: set[int]  # which the architecture's masks have, noted during the pass
    used: set[int]  # which its layers speak of

    def attend(
        self, layer: int, rule: Rule, query_BHTd: torch.Tensor, key_BKTd: torch.Tensor, value_BKTd: torch.Tensor
    ) -> torch.Tensor:
        """Output [B, T, H, d]."""
        ...


class _Local(threading.local):
    now: Attention | None = None


_local = _Local()


@contextlib.contextmanager
def attending(model: Any) -> Iterator[None]:
    """Within it, `model` attends as the forward pass under way says (`by`); outside, as it always does."""
    from transformers import AttentionInterface
    from transformers.masking_utils import AttentionMaskInterface

    AttentionInterface.register(NAME, _attend)
    AttentionMaskInterface.register(NAME, _no_mask)
    before = model.config._attn_implementation
    model.set_attn_implementation(NAME)
    try:
        yield
    finally:
        model.set_attn_implementation(before)


@contextlib.contextmanager
def by(attention: Attention) -> Iterator[None]:
    """Within it, forward passes of this thread attend by `attention`."""
    _local.now = attention
    try:
        yield
    finally:
        _local.now = None


def _no_mask(*args: Any, local_size: int | None = None, **kwargs: Any) -> None:
    """No mask; a window or chunk that it would have had is noted."""
    if local_size is not None and _local.now is not None:
        _local.now.windows.add(local_size)


def _attend(
    module: Any,
    query_BHTd: torch.Tensor,
    key_BKTd: torch.Tensor,
    value_BKTd: torch.Tensor,
    attention_mask: Any,
    scaling: float | None = None,
    dropout: float = 0.0,
    sliding_window: int | None = None,
    softcap: float | None = None,
    is_causal: bool | None = None,
    **kwargs: Any,
) -> tuple[torch.Tensor, None]:
    altered = attention_mask is not None or any(kwargs.get(name) is not None for name in ALTERING)
    causal = getattr(module, "is_causal", True) if is_causal is None else is_causal
    if altered or not causal or _local.now is None:
        raise ConfigError(f"{type(module).__name__} attends by more than queries, keys and a causal mask")
    # Some architectures (Qwen 2 MoE) keep the window to themselves and put it into the mask only.
    window = getattr(module, "sliding_window", None) if sliding_window is None else sliding_window
    if window is not None:
        _local.now.used.add(window)
    rule = Rule(query_BHTd.shape[-1] ** -0.5 if scaling is None else scaling, window, softcap)
    return _local.now.attend(module.layer_idx, rule, query_BHTd, key_BKTd, value_BKTd), None


@dataclass
class Pieces:
    """Attention for a row of pieces that lie one behind the other; keys and values go into `memory` where asked."""

    pieces: Sequence[Piece]
    plan: Plan
    memory: Memory
    windows: set[int] = field(default_factory=set)
    used: set[int] = field(default_factory=set)
    masks: dict[tuple[int, int, int | None], torch.Tensor] = field(default_factory=dict)

    def attend(
        self, layer: int, rule: Rule, query_BHTd: torch.Tensor, key_BKTd: torch.Tensor, value_BKTd: torch.Tensor
    ) -> torch.Tensor:
        heads, tokens = query_BHTd.shape[1:3]
        # Zeros, because what pads the row attends to nothing.
        out_BTHd = value_BKTd.new_zeros(1, tokens, heads, value_BKTd.shape[-1])
        start = 0
        for number, piece in enumerate(self.pieces):
            cut = slice(start, start + len(piece.ids))
            own = key_BKTd[:, :, cut], value_BKTd[:, :, cut]
            # The past first: waiting for it keeps the writers of a chain in their order.
            past = [self.memory.read(source, layer, length) for source, length in self.plan.past_of(piece)]
            if piece.chain is not None:  # before anything is computed: another thread may wait for it
                chain = self.plan.chains[piece.chain]
                self.memory.write(piece.chain, layer, piece.past - chain.start, chain.length, own)
            self._one(number, rule, query_BHTd[:, :, cut], own, past, out_BTHd[:, cut])
            start = cut.stop
        return out_BTHd

    def _one(
        self, number: int, rule: Rule, query_BHTd: torch.Tensor, own: Pair, past: Sequence[Pair], out_BTHd: torch.Tensor
    ) -> None:
        """The attention of one piece, written to `out_BTHd`; `past` has the nearest first."""
        piece, narrow = self.pieces[number], rule.narrows(self.pieces[number].context)
        if narrow or rule.softcap is not None or not fused(query_BHTd, own[1]):
            key_BKLd, value_BKLd = (torch.cat(parts, dim=2) for parts in zip(*reversed(past), own, strict=True))
            if narrow and rule.window is not None:
                seen = slice(max(0, piece.past + 1 - rule.window), None)
                key_BKLd, value_BKLd = key_BKLd[:, :, seen], value_BKLd[:, :, seen]
            bare = not past and piece.visible is None and not narrow
            mask_TL = None if bare else self._mask(number, key_BKLd.shape[2], rule, query_BHTd)
            out_BTHd.copy_(masked(rule, query_BHTd, key_BKLd, value_BKLd, mask_TL).transpose(1, 2))
            return
        mask_TT = None if piece.visible is None else self._mask(number, len(piece.ids), rule, query_BHTd)
        found_BHTd, lse_BHT = flash(query_BHTd, *own, rule.scaling, mask_TT, causal=mask_TT is None)
        # The heads of a group ask the same keys: as one head with more queries, in larger matrix products.
        groups = (own[0].shape[1], -1)
        query_BKGTd, found_BKGTd, lse_BKGT = (one.unflatten(1, groups) for one in (query_BHTd, found_BHTd, lse_BHT))
        for pair in past:
            part_BKGTd, part_lse_BKGT = (
                one.unflatten(2, query_BKGTd.shape[2:4])
                for one in flash(query_BKGTd.flatten(2, 3), *pair, rule.scaling)
            )
            found_BKGTd, lse_BKGT = joined(found_BKGTd, lse_BKGT, part_BKGTd, part_lse_BKGT)
        out_BTHd.unflatten(2, groups).copy_(found_BKGTd.permute(0, 3, 1, 2, 4))

    def _mask(self, number: int, length: int, rule: Rule, like: torch.Tensor) -> torch.Tensor:
        """What is added to the scores of one piece [T, length]: nothing where a key is seen, else the lowest number."""
        piece = self.pieces[number]
        window = rule.window if rule.narrows(piece.context) else None
        if (number, length, window) not in self.masks:
            size = len(piece.ids)
            own_TT = np.tri(size, dtype=bool) if piece.visible is None else piece.visible
            seen_TL = np.ones((size, length), dtype=bool)
            seen_TL[:, length - size :] = own_TT
            if window is not None:
                key_L = np.concatenate([np.arange(piece.past + size - length, piece.past), piece.positions])
                seen_TL &= piece.positions[:, None] - key_L[None] < window
            # Not -inf: a block of the fused kernels that is masked as a whole would give NaN.
            hidden_TL = torch.as_tensor(~seen_TL, device=like.device)
            mask_TL = torch.zeros(seen_TL.shape, dtype=like.dtype, device=like.device)
            self.masks[number, length, window] = mask_TL.masked_fill_(hidden_TL, torch.finfo(like.dtype).min)
        return self.masks[number, length, window]


def joined(
    one: torch.Tensor, one_lse: torch.Tensor, other: torch.Tensor, other_lse: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """Attention over two sets of keys out of that over each, with the logsumexp of the scores: (output, logsumexp)."""
    share = torch.sigmoid(other_lse - one_lse)[..., None].to(one.dtype)
    return torch.lerp(one, other, share), torch.logaddexp(one_lse, other_lse)


def fused(query: torch.Tensor, value: torch.Tensor) -> bool:
    """Whether `flash` can do it."""
    return query.device.type in FUSED and query.shape[-1] == value.shape[-1]


def masked(
    rule: Rule, query_BHTd: torch.Tensor, key_BKLd: torch.Tensor, value_BKLd: torch.Tensor, mask: torch.Tensor | None
) -> torch.Tensor:
    """Attention under an additive mask of [B, H, T, L] or a part of it (None: causal), scores capped by the rule."""
    groups = query_BHTd.shape[1] // key_BKLd.shape[1]
    key_BHLd, value_BHLd = (one.repeat_interleave(groups, dim=1) for one in (key_BKLd, value_BKLd))
    if rule.softcap is None:
        return torch.nn.functional.scaled_dot_product_attention(
            query_BHTd, key_BHLd, value_BHLd, attn_mask=mask, is_causal=mask is None, scale=rule.scaling
        )
    score_BHTL = query_BHTd @ key_BHLd.transpose(-1, -2) * rule.scaling
    score_BHTL = rule.softcap * torch.tanh(score_BHTL / rule.softcap)
    if mask is None:
        mask = torch.full_like(score_BHTL[0, 0], torch.finfo(score_BHTL.dtype).min).triu(1)
    # The softmax in float32 even where the products are bfloat16, as transformers does.
    wide = torch.promote_types(score_BHTL.dtype, torch.float32)
    return (score_BHTL + mask).softmax(-1, dtype=wide).to(value_BHLd.dtype) @ value_BHLd


def flash(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    scaling: float,
    mask: torch.Tensor | None = None,
    *,
    causal: bool = False,
) -> tuple[torch.Tensor, torch.Tensor]:
    """torch's fused kernel for processors: output [B, H, T, d] and the logsumexp of the scores [B, H, T]."""
    out: tuple[torch.Tensor, torch.Tensor] = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu(
        query, key, value, 0.0, causal, attn_mask=mask, scale=scaling
    )
    return out

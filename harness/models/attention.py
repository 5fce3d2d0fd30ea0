"""Attention within documents: packed rows without a mask of all pairs, and queries, keys and values for who asks.

A packed row holds documents end to end, and none attends to another. A mask says so at the price of all pairs of the
row; here each document is attended to on its own, by torch's fused causal kernel. Registered with transformers as an
attention implementation, so it serves every architecture that goes through its attention interface.
"""

import contextlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch

NAME = "viva_packed"


@dataclass
class Seen:
    """What a forward pass showed, by layer: queries [H, T, d], keys and values [Hkv, T, d] (after the rotation)."""

    query: dict[int, "torch.Tensor"] = field(default_factory=dict)
    key: dict[int, "torch.Tensor"] = field(default_factory=dict)
    value: dict[int, "torch.Tensor"] = field(default_factory=dict)


_lengths: tuple[int, ...] = ()
_seen: Seen | None = None
_layers: frozenset[int] = frozenset()


@contextlib.contextmanager
def packed(model: Any, lengths: Sequence[int], seen: Seen | None = None, layers: Sequence[int] = ()) -> Iterator[None]:
    """Within it, forwards of `model` treat their one row as documents of these `lengths`.

    `seen` is filled with queries, keys and values of the `layers` named.
    """
    global _lengths, _seen, _layers
    _register()
    before = model.config._attn_implementation
    outer = (_lengths, _seen, _layers)
    model.set_attn_implementation(NAME)
    _lengths, _seen, _layers = tuple(lengths), seen, frozenset(layers)
    try:
        yield
    finally:
        _lengths, _seen, _layers = outer
        model.set_attn_implementation(before)


def _register() -> None:
    from transformers import AttentionInterface
    from transformers.masking_utils import AttentionMaskInterface

    AttentionInterface.register(NAME, _attend)
    AttentionMaskInterface.register(NAME, lambda *args, **kwargs: None)


def _attend(
    module: Any,
    query_BHTd: "torch.Tensor",
    key_BHTd: "torch.Tensor",
    value_BHTd: "torch.Tensor",
    attention_mask: Any,
    scaling: float | None = None,
    dropout: float = 0.0,
    sliding_window: int | None = None,
    softcap: float | None = None,
    **kwargs: Any,
) -> tuple["torch.Tensor", None]:
    """torch's scaled dot-product attention, document by document. [1, H, T, d] in, [1, T, H, d] out."""
    import torch

    if _seen is not None and module.layer_idx in _layers:
        _seen.query[module.layer_idx] = query_BHTd[0]
        _seen.key[module.layer_idx] = key_BHTd[0]
        _seen.value[module.layer_idx] = value_BHTd[0]
    groups = query_BHTd.shape[1] // key_BHTd.shape[1]
    parts = []
    start = 0
    for length in _lengths:
        cut = slice(start, start + length)
        q, k, v = query_BHTd[:, :, cut], key_BHTd[:, :, cut], value_BHTd[:, :, cut]
        if groups > 1:
            k, v = k.repeat_interleave(groups, dim=1), v.repeat_interleave(groups, dim=1)
        parts.append(_one_document(q, k, v, scaling, sliding_window, softcap, dropout))
        start += length
    return torch.cat(parts, dim=2).transpose(1, 2).contiguous(), None


def _one_document(
    q: "torch.Tensor",
    k: "torch.Tensor",
    v: "torch.Tensor",
    scaling: float | None,
    window: int | None,
    softcap: float | None,
    dropout: float,
) -> "torch.Tensor":
    import torch

    length = q.shape[2]
    narrow = window is not None and window < length
    if softcap is None and not narrow:
        return torch.nn.functional.scaled_dot_product_attention(
            q, k, v, dropout_p=dropout, is_causal=True, scale=scaling
        )
    allowed_TT = torch.ones(length, length, dtype=torch.bool).tril()
    if narrow:
        allowed_TT &= ~torch.ones(length, length, dtype=torch.bool).tril(-int(window or 0))
    if softcap is None:
        return torch.nn.functional.scaled_dot_product_attention(
            q, k, v, attn_mask=allowed_TT, dropout_p=dropout, scale=scaling
        )
    score = q @ k.transpose(-1, -2) * (scaling if scaling is not None else q.shape[-1] ** -0.5)
    score = softcap * torch.tanh(score / softcap)
    weight = score.masked_fill(~allowed_TT, torch.finfo(score.dtype).min).softmax(-1)
    return torch.nn.functional.dropout(weight, dropout) @ v

"""Attention within documents: packed rows without a mask of all pairs, and queries, keys and values for who asks.

A packed row holds documents end to end, and none attends to another. A mask says so at the price of all pairs of the
row; here each document is attended to on its own, by torch's fused kernel: causally by a model that writes, both ways
by an encoder. Registered with transformers as an
attention implementation, so it serves every architecture that goes through its attention interface; one that mixes
tokens in another way (recurrent layers, chunks, sinks, biases) is refused rather than packed wrongly.
"""

import contextlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from harness.errors import ConfigError

if TYPE_CHECKING:
    import torch

NAME = "viva_packed"
ALTERING = ("s_aux", "sinks", "position_bias", "indices", "block_indices")
"""What an architecture hands to its attention beside queries, keys and values, and that changes the weights."""
HINT = "take a model whose layers mix tokens by causal attention alone, such as Llama, Qwen, Gemma, Mistral or GPT-2"


@dataclass(frozen=True)
class Rule:
    """How a layer makes scores of queries and keys, and which keys a query may see."""

    scaling: float
    window: int | None = None
    softcap: float | None = None
    causal: bool = True

    def scores(self, query_HTd: "torch.Tensor", key_KTd: "torch.Tensor") -> "torch.Tensor":
        """What enters the softmax, [H, T, T], before anything is masked; H is a multiple of K (groups of queries)."""
        import torch

        query_KGTd = query_HTd.reshape(key_KTd.shape[0], -1, *query_HTd.shape[1:])
        score_HTT = (query_KGTd @ key_KTd[:, None].transpose(-1, -2)).flatten(0, 1) * self.scaling
        return score_HTT if self.softcap is None else self.softcap * torch.tanh(score_HTT / self.softcap)

    def allowed(self, length: int, device: Any = None) -> "torch.Tensor":
        """True where a query (row) of a document sees a key (column), [T, T]."""
        import torch

        every_TT = torch.ones(length, length, dtype=torch.bool, device=device)
        if not self.causal:
            return every_TT
        past_TT = every_TT.tril()
        return past_TT if not self.narrows(length) else past_TT & every_TT.triu(1 - (self.window or 0))

    def narrows(self, length: int) -> bool:
        """Whether the window is smaller than a document of this length."""
        return self.causal and self.window is not None and self.window < length


@dataclass
class Seen:
    """What a forward pass showed, by layer: queries [H, T, d], keys and values [K, T, d] as attention gets them.

    Queries and keys are behind the rotation (and Qwen 3's norms); `rule` says how they are brought together.
    """

    query: dict[int, "torch.Tensor"] = field(default_factory=dict)
    key: dict[int, "torch.Tensor"] = field(default_factory=dict)
    value: dict[int, "torch.Tensor"] = field(default_factory=dict)
    rule: dict[int, Rule] = field(default_factory=dict)


@dataclass(frozen=True)
class _Now:
    """The forward pass that is under way; `attended` and `windows` are filled by it, to be checked at its end."""

    lengths: tuple[int, ...]
    writes: bool = True
    seen: Seen | None = None
    layers: frozenset[int] = frozenset()
    attended: set[int] = field(default_factory=set)
    windows: set[int] = field(default_factory=set)
    used: set[int] = field(default_factory=set)


_now = _Now(())


@contextlib.contextmanager
def packed(model: Any, lengths: Sequence[int], seen: Seen | None = None, layers: Sequence[int] = ()) -> Iterator[None]:
    """Within it, forwards of `model` treat their one row as documents of these `lengths`.

    `seen` (a new one each time) is filled with queries, keys and values of the `layers` named. With gradient
    checkpointing the backward pass runs within it too: what is recomputed must see the same documents. Raises
    ConfigError for an architecture whose documents would see each other, or would not attend as they do alone.
    """
    global _now
    _register()
    before, outer = model.config._attn_implementation, _now
    model.set_attn_implementation(NAME)
    _now = now = _Now(tuple(lengths), model.can_generate(), seen, frozenset(layers))
    try:
        yield
    finally:
        _now = outer
        model.set_attn_implementation(before)
    _check(model, now)


def _check(model: Any, now: _Now) -> None:
    """Raise ConfigError unless every layer attended here, with every window that the architecture's masks have."""
    kind = type(model).__name__
    config = model.config.get_text_config()
    missing = set(range(config.num_hidden_layers)) - now.attended
    if missing:
        raise ConfigError(
            f"{kind} cannot read packed rows: layers {sorted(missing)} do not go through transformers' attention "
            "interface, and would see across documents",
            hint=HINT,
        )
    ignored = {window for window in now.windows - now.used if window < max(now.lengths)}
    # Gemma and its like make the mask of a window also when no layer is left that takes it.
    if ignored and set(getattr(config, "layer_types", None) or ["unknown"]) != {"full_attention"}:
        raise ConfigError(
            f"{kind} cannot read packed rows: a mask keeps its attention to {min(ignored)} tokens, but its layers do "
            "not say so",
            hint=f"set row_tokens to at most {min(ignored)}, or {HINT}",
        )


def _register() -> None:
    from transformers import AttentionInterface
    from transformers.masking_utils import AttentionMaskInterface

    AttentionInterface.register(NAME, _attend)
    AttentionMaskInterface.register(NAME, _no_mask)


def _no_mask(*args: Any, local_size: int | None = None, **kwargs: Any) -> None:
    """No mask; a window or chunk that it would have had is noted."""
    if local_size is not None:
        _now.windows.add(local_size)


def _attend(
    module: Any,
    query_BHTd: "torch.Tensor",
    key_BKTd: "torch.Tensor",
    value_BKTd: "torch.Tensor",
    attention_mask: Any,
    scaling: float | None = None,
    dropout: float = 0.0,
    sliding_window: int | None = None,
    softcap: float | None = None,
    **kwargs: Any,
) -> tuple["torch.Tensor", None]:
    """Attention, document by document. [1, H, T, d] in, [1, T, H, d] out."""
    import torch

    given = kwargs.get("is_causal")
    causal = bool(getattr(module, "is_causal", _now.writes) if given is None else given)
    _refuse(module, attention_mask, causal, kwargs)
    rule = Rule(
        scaling=query_BHTd.shape[-1] ** -0.5 if scaling is None else scaling,
        # Some architectures (Qwen 2 MoE) keep the window to themselves and put it into the mask only.
        window=getattr(module, "sliding_window", None) if sliding_window is None else sliding_window,
        softcap=softcap,
        causal=causal,
    )
    layer, seen = module.layer_idx, _now.seen
    _now.attended.add(layer)
    if rule.window is not None:
        _now.used.add(rule.window)
    # A layer that is recomputed must not replace what the loss was computed from, nor keep its second graph alive.
    if seen is not None and layer in _now.layers and layer not in seen.rule:
        seen.query[layer], seen.key[layer], seen.value[layer] = query_BHTd[0], key_BKTd[0], value_BKTd[0]
        seen.rule[layer] = rule
    parts = []
    start = 0
    for length in _now.lengths:
        cut = slice(start, start + length)
        parts.append(_one_document(query_BHTd[0, :, cut], key_BKTd[0, :, cut], value_BKTd[0, :, cut], rule, dropout))
        start += length
    return torch.cat(parts, dim=1).transpose(0, 1)[None].contiguous(), None


def _refuse(module: Any, attention_mask: Any, causal: bool, kwargs: dict[str, Any]) -> None:
    """Raise ConfigError for attention that is more than queries, keys, values and, for who writes, a causal mask."""
    found = [name for name in ALTERING if kwargs.get(name) is not None]
    if attention_mask is not None:
        found.append("attention_mask")
    if _now.writes and not causal:
        found.append("is_causal = false")
    if found:
        raise ConfigError(f"{type(module).__name__} cannot read packed rows: it attends by {found[0]}", hint=HINT)


def _one_document(
    query_HTd: "torch.Tensor", key_KTd: "torch.Tensor", value_KTd: "torch.Tensor", rule: Rule, dropout: float
) -> "torch.Tensor":
    """One document's attention, [H, T, d]: by the fused kernel, but for capped scores, which it does not know."""
    import torch

    length, groups = query_HTd.shape[1], query_HTd.shape[0] // key_KTd.shape[0]
    value_HTd = value_KTd.repeat_interleave(groups, dim=0) if groups > 1 else value_KTd
    if rule.softcap is None:
        key_HTd = key_KTd.repeat_interleave(groups, dim=0) if groups > 1 else key_KTd
        mask_TT = rule.allowed(length, query_HTd.device) if rule.narrows(length) else None
        return torch.nn.functional.scaled_dot_product_attention(
            query_HTd[None],
            key_HTd[None],
            value_HTd[None],
            attn_mask=mask_TT,
            dropout_p=dropout,
            is_causal=rule.causal and mask_TT is None,
            scale=rule.scaling,
        )[0]
    score_HTT = rule.scores(query_HTd, key_KTd)
    score_HTT = score_HTT.masked_fill(~rule.allowed(length, score_HTT.device), torch.finfo(score_HTT.dtype).min)
    # The softmax in float32 even where the products are bfloat16, as transformers does.
    wide = torch.promote_types(score_HTT.dtype, torch.float32)
    weight_HTT = score_HTT.softmax(-1, dtype=wide).to(value_HTd.dtype)
    return torch.nn.functional.dropout(weight_HTT, dropout) @ value_HTd

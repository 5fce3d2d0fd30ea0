"""Weights of b bits: 2^b points between the ends of each bucket, and every weight on the nearest of them.

Source: Polino, Pascanu and Alistarh 2018, "Model compression via distillation and quantization", arXiv 1802.05668,
section 2: a bucket is scaled to the interval from 0 to 1 by its lowest and its highest weight (linear scaling),
rounded there, and scaled back. Deterministic rounding. What trains such weights is in harness/train/quantized.py.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from harness.config import Quantize
from harness.errors import ConfigError

if TYPE_CHECKING:
    import torch

POINTS, LOW, HIGH = (
    "weight_points",
    "weight_low",
    "weight_high",
)  # beside `weight` in its module, while points are learnt


@dataclass(frozen=True)
class Coded:
    """A tensor of b bits: `codes` [N] into `points` [2^b], and the ends `low`, `high` [B] of its buckets.

    `points` lie about the interval from 0 to 1, where a bucket's ends are. The last bucket may have fewer weights.
    """

    codes_N: "torch.Tensor"
    low_B: "torch.Tensor"
    high_B: "torch.Tensor"
    points_P: "torch.Tensor"
    bucket: int
    shape: tuple[int, ...]


def even_points(bits: int, like: "torch.Tensor") -> "torch.Tensor":
    """The 2^bits points of uniform quantisation, both ends among them."""
    import torch

    return torch.arange(2**bits, dtype=like.dtype, device=like.device) / (2**bits - 1)


def quantiles(weight: "torch.Tensor", table: Quantize) -> "torch.Tensor":
    """Points to begin learning from: quantiles of the scaled weights, so that each serves as many (section 4)."""
    import torch

    unit_BK = _unit(*_scaled(weight, table.bucket_of(weight.numel())))
    ordered_N = unit_BK.flatten()[: weight.numel()].sort().values
    places_P = (torch.arange(2**table.bits, device=weight.device) + 0.5) / 2**table.bits * len(ordered_N)
    return ordered_N[places_P.long()].clone()


def encode(weight: "torch.Tensor", table: Quantize, learnt: Mapping[str, "torch.Tensor"] | None = None) -> Coded:
    """The codes of a tensor: each weight's nearest point.

    Without `learnt`, points are even and a bucket's ends its lowest and highest weight; a tensor that is encoded
    already comes back bit by bit. `learnt` has points and ends under POINTS, LOW and HIGH.
    """
    import torch

    bucket = table.bucket_of(weight.numel())
    weight_BK, low_B, high_B = _scaled(weight, bucket)
    if learnt is not None:
        low_B, high_B, points_P = learnt[LOW], learnt[HIGH], learnt[POINTS].detach()
        ordered_P, place_P = points_P.sort()
        middle_P = (ordered_P[1:] + ordered_P[:-1]) / 2
        codes_BK = place_P[torch.bucketize(_unit(weight_BK, low_B, high_B), middle_P)]
    else:
        points_P = even_points(table.bits, weight)
        codes_BK = (_unit(weight_BK, low_B, high_B) * (2**table.bits - 1)).round().long()
    return Coded(codes_BK.flatten()[: weight.numel()], low_B, high_B, points_P, bucket, tuple(weight.shape))


def decode(coded: Coded) -> "torch.Tensor":
    """The tensor that codes stand for; differentiable by its points.

    Each half of a bucket is reckoned from its own end, so that the ends themselves come back exactly.
    """
    import torch

    low_N = coded.low_B.repeat_interleave(coded.bucket)[: coded.codes_N.numel()]
    high_N = coded.high_B.repeat_interleave(coded.bucket)[: coded.codes_N.numel()]
    unit_N = coded.points_P[coded.codes_N]
    span_N = high_N - low_N
    return torch.where(unit_N < 0.5, low_N + span_N * unit_N, high_N - span_N * (1 - unit_N)).view(coded.shape)


def project(weight: "torch.Tensor", table: Quantize) -> "torch.Tensor":
    """The nearest tensor of `table.bits` bits; its own projection is itself, bit by bit."""
    return decode(encode(weight, table))


def quantized_weights(model: Any, table: Quantize) -> dict[str, "torch.Tensor"]:
    """The parameters that get few bits, by name, tied ones once: all matrices, or all but the embeddings.

    Raises ConfigError for a model that has none.
    """
    layers = [] if table.embeddings else [model.get_input_embeddings(), model.get_output_embeddings()]
    spared = {id(layer.weight) for layer in layers if layer is not None}
    found = {
        name: value
        for name, value in model.named_parameters()
        if value.ndim == 2 and name.endswith("weight") and id(value) not in spared
    }
    if not found:
        raise ConfigError(
            f"{type(model).__name__} has no matrix to quantize",
            hint="set quantize.embeddings = true, or drop the table",
        )
    return found


def with_points(model: Any, table: Quantize) -> Any:
    """The same model with learnable points beside each of its matrices, which go to the nearest of them.

    The points are the only parameters that are trained: the others keep no gradient, but for the matrices, whose
    gradients are the way to that of the points.
    """
    import torch

    weights = quantized_weights(model, table)
    for value in model.parameters():
        value.requires_grad_(False)
    for name, value in weights.items():
        module = model.get_submodule(name.rpartition(".")[0])
        _, low_B, high_B = _scaled(value.detach(), table.bucket_of(value.numel()))
        module.register_parameter(POINTS, torch.nn.Parameter(quantiles(value.detach(), table)))
        module.register_buffer(LOW, low_B, persistent=False)
        module.register_buffer(HIGH, high_B, persistent=False)
        value.requires_grad_(True)
    return model


def learnt_by(model: Any, name: str) -> dict[str, "torch.Tensor"] | None:
    """Points and ends that stand beside the parameter `name`; None where no points are learnt."""
    module = model.get_submodule(name.rpartition(".")[0])
    return {key: getattr(module, key) for key in (POINTS, LOW, HIGH)} if hasattr(module, POINTS) else None


def seal(model: Any, table: Quantize) -> dict[str, Coded]:
    """Leave every matrix of the model at its points and take the points out; returns the codes, by name.

    What the model holds then is what the codes stand for, bit by bit.
    """
    import torch

    found = {}
    for name, value in quantized_weights(model, table).items():
        coded = encode(value.detach(), table, learnt_by(model, name))
        with torch.no_grad():
            value.copy_(decode(coded))
        found[name] = coded
    for module in model.modules():
        for kept in (module._parameters, module._buffers):
            for key in (POINTS, LOW, HIGH):
                kept.pop(key, None)
        module._non_persistent_buffers_set.difference_update((LOW, HIGH))
    for value in model.parameters():
        value.requires_grad_(True)
    return found


def _scaled(weight: "torch.Tensor", bucket: int) -> tuple["torch.Tensor", "torch.Tensor", "torch.Tensor"]:
    """The weights in rows [B, K] of a bucket each, with the lowest and highest [B] of each.

    The last bucket is filled up with its last weight, which changes neither.
    """
    import torch

    flat_N = weight.flatten()
    missing = -len(flat_N) % bucket
    weight_BK = torch.cat([flat_N, flat_N[-1:].expand(missing)]).view(-1, bucket)
    low_B, high_B = weight_BK.aminmax(dim=1)
    return weight_BK, low_B, high_B


def _unit(weight_BK: "torch.Tensor", low_B: "torch.Tensor", high_B: "torch.Tensor") -> "torch.Tensor":
    """The weights scaled to the interval from 0 to 1; 0 in a bucket of equal weights."""
    import torch

    span_B1 = (high_B - low_B)[:, None]
    return torch.where(span_B1 > 0, (weight_BK - low_B[:, None]) / span_B1, torch.zeros_like(weight_BK))

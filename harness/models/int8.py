"""Linear layers that multiply whole numbers of 8 bits: how a student of 8 bits is run where its speed is measured.

Each output row of a matrix has one scale, and so has each input as it comes (dynamic quantisation); sums are kept in 32
bits. The product is torch's `_int_mm`, which no deprecated quantised tensor type is needed for.
"""

from typing import Any

import torch

SMALLEST = 1 << 18
"""Weights of the smallest matrix that is worth it: below, for one input, what surrounds the product costs more than it
saves (measured in docs/quantize.md)."""


class Int8Linear(torch.nn.Module):
    """A linear layer on whole numbers; its outputs are float32."""

    def __init__(self, linear: torch.nn.Linear):
        super().__init__()
        weight_OI = linear.weight.detach()
        scale_O = weight_OI.abs().amax(1).clamp(min=1e-12) / 127
        self.register_buffer("codes_OI", (weight_OI / scale_O[:, None]).round().to(torch.int8))
        self.register_buffer("scale_O", scale_O)
        self.register_buffer("bias_O", None if linear.bias is None else linear.bias.detach())
        self.in_features, self.out_features = linear.in_features, linear.out_features

    def forward(self, given: torch.Tensor) -> torch.Tensor:
        rows_NI = given.reshape(-1, self.in_features)
        step_N1 = rows_NI.abs().amax(1, keepdim=True).clamp(min=1e-12) / 127
        sums_NO = torch._int_mm((rows_NI / step_N1).round().to(torch.int8), self.codes_OI.t())
        out_NO = sums_NO.to(torch.float32).mul_(step_N1).mul_(self.scale_O)
        out_NO = out_NO if self.bias_O is None else out_NO.add_(self.bias_O)
        return out_NO.view(*given.shape[:-1], self.out_features)


def int8(model: Any, smallest: int = SMALLEST) -> list[str]:
    """Swap the model's linear layers of at least `smallest` weights for Int8Linear, in place; returns their names.

    The embedding stays float32: looking a row up costs nothing. A head that is tied to it gets numbers of its own.
    """
    found = [
        name
        for name, module in model.named_modules()
        if isinstance(module, torch.nn.Linear) and module.weight.numel() >= smallest
    ]
    for name in found:
        parent, _, leaf = name.rpartition(".")
        setattr(model.get_submodule(parent), leaf, Int8Linear(model.get_submodule(name)))
    return found

"""Training behind few-bit weights: optimisers that leave the model at its rounded weights after every step.

Whatever runs the model sees the rounded weights, and its gradients are those at the rounded weights: the loop, its
evaluations and its checkpoints need to know nothing. Source: Polino et al. 2018, arXiv 1802.05668.
"""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import torch

from harness.config import Quantize
from harness.models.quantize import POINTS, decode, encode, learnt_by, project, quantized_weights

FULL = "full"  # in the optimiser's state: the full-precision weights, so that checkpoints have them


class Projected(torch.optim.AdamW):
    """Quantised distillation (algorithm 1): AdamW moves full-precision weights by the gradients at rounded ones."""

    def __init__(self, groups: Any, model: Any, table: Quantize, **settings: Any):
        super().__init__(groups, **settings)
        self.table = table
        self.weights = list(quantized_weights(model, table).values())
        self.begun = {value: value.detach().clone() for value in self.weights}  # until a first step has been made
        with torch.no_grad():
            for value in self.weights:
                value.copy_(project(value, table))

    @torch.no_grad()
    def step(self, closure: Any = None) -> None:
        for value in self.weights:
            value.copy_(self.state[value][FULL] if self.state.get(value) else self.begun[value])
        super().step()
        for value in self.weights:
            if self.state.get(value):  # it has a gradient, and so moments
                self.state[value][FULL] = value.detach().clone()
            value.copy_(project(value, self.table))


class LearntPoints(torch.optim.AdamW):
    """Differentiable quantisation (algorithm 2): AdamW moves the points, and each weight goes to its nearest one."""

    def __init__(self, model: Any, table: Quantize, **settings: Any):
        self.weights: Mapping[str, torch.Tensor] = quantized_weights(model, table)
        self.learnt = {name: learnt_by(model, name) or {} for name in self.weights}
        self.full = {name: value.detach().clone() for name, value in self.weights.items()}
        self.table = table
        super().__init__([{"params": [one[POINTS] for one in self.learnt.values()], "weight_decay": 0.0}], **settings)
        self.round()

    @torch.no_grad()
    def round(self) -> None:
        """Put every weight on its nearest point."""
        for name, value in self.weights.items():
            value.copy_(decode(encode(self.full[name], self.table, self.learnt[name])))

    def step(self, closure: Any = None) -> None:
        for name, value in self.weights.items():
            if value.grad is not None:
                one = self.learnt[name]
                one[POINTS].grad = points_slope(self.full[name], one, self.table, value.grad)
        super().step()
        self.round()

    def zero_grad(self, set_to_none: bool = True) -> None:
        super().zero_grad(set_to_none)
        for value in self.weights.values():
            if value.grad is not None:
                value.grad.zero_()


def points_slope(
    full: torch.Tensor, learnt: Mapping[str, torch.Tensor], table: Quantize, slope: torch.Tensor
) -> torch.Tensor:
    """The gradient by the points [2^b], from `slope`, that by the rounded weights.

    A point's is the sum over the weights at it, each times the width of its bucket (paper, equation 6).
    """
    coded = encode(full, table, learnt)
    points_P = learnt[POINTS].detach().requires_grad_()
    with torch.enable_grad():
        rounded = decode(replace(coded, points_P=points_P))
    return torch.autograd.grad(rounded, points_P, slope)[0]

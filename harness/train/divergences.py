"""Divergences between teacher and student distributions: (student_logp_NV, teacher_logp_NV) -> nats per token [N].

Both arguments are natural-log probabilities over the same vocabulary. Adding one is adding a function and its name.
"""

from collections.abc import Callable
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch

Divergence = Callable[["torch.Tensor", "torch.Tensor"], "torch.Tensor"]


def forward_kl(student_logp_NV: "torch.Tensor", teacher_logp_NV: "torch.Tensor") -> "torch.Tensor":
    """KL(teacher || student), Hinton et al. 2015: the student must cover all that the teacher finds possible."""
    return (teacher_logp_NV.exp() * (teacher_logp_NV - student_logp_NV)).sum(-1)


DIVERGENCES: dict[str, Divergence] = {"forward_kl": forward_kl}

"""Divergences between teacher P and student Q: (student_logp_NV, teacher_logp_NV) -> nats per token [N].

Both arguments are natural-log probabilities over the same vocabulary. Where a divergence has a knob, its ends are the
two KLs, so that turning the knob goes from one to the other without a jump.
"""

import math
from collections.abc import Callable
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch

Divergence = Callable[["torch.Tensor", "torch.Tensor"], "torch.Tensor"]


def forward_kl(student_logp_NV: "torch.Tensor", teacher_logp_NV: "torch.Tensor") -> "torch.Tensor":
    """KL(P || Q), Hinton et al. 2015: the student must cover all that the teacher finds possible."""
    return (teacher_logp_NV.exp() * (teacher_logp_NV - student_logp_NV)).sum(-1)


def reverse_kl(student_logp_NV: "torch.Tensor", teacher_logp_NV: "torch.Tensor") -> "torch.Tensor":
    """KL(Q || P), MiniLLM (Gu et al. 2024): the student must not say what the teacher finds impossible."""
    return forward_kl(teacher_logp_NV, student_logp_NV)


def jsd(
    student_logp_NV: "torch.Tensor", teacher_logp_NV: "torch.Tensor", beta: float = 0.5, normalise: bool = True
) -> "torch.Tensor":
    """Generalised Jensen-Shannon divergence, GKD (Agarwal et al. 2024).

    beta KL(P || M) + (1 - beta) KL(Q || M) with M = beta P + (1 - beta) Q. As it stands it fades to nothing as beta
    nears 0 or 1. Normalised, it is divided by beta (1 - beta): its limits are forward_kl at 0 and reverse_kl at 1.
    Not normalised, it is the published form, with a jump to the KLs at 0 and 1 as in TRL.
    """
    if beta == 0:
        return forward_kl(student_logp_NV, teacher_logp_NV)
    if beta == 1:
        return reverse_kl(student_logp_NV, teacher_logp_NV)
    middle_logp_NV = _mixture(teacher_logp_NV, student_logp_NV, beta)
    of_teacher_N = forward_kl(middle_logp_NV, teacher_logp_NV)
    of_student_N = forward_kl(middle_logp_NV, student_logp_NV)
    if normalise:
        return of_teacher_N / (1 - beta) + of_student_N / beta
    return beta * of_teacher_N + (1 - beta) * of_student_N


def skew_kl(student_logp_NV: "torch.Tensor", teacher_logp_NV: "torch.Tensor", skew: float = 0.1) -> "torch.Tensor":
    """KL(P || skew P + (1 - skew) Q), DistiLLM (Ko et al. 2024); forward_kl at skew 0."""
    return forward_kl(_mixture(teacher_logp_NV, student_logp_NV, skew), teacher_logp_NV)


def skew_reverse_kl(
    student_logp_NV: "torch.Tensor", teacher_logp_NV: "torch.Tensor", skew: float = 0.1
) -> "torch.Tensor":
    """KL(Q || skew Q + (1 - skew) P), DistiLLM (Ko et al. 2024); reverse_kl at skew 0."""
    return forward_kl(_mixture(student_logp_NV, teacher_logp_NV, skew), student_logp_NV)


def tvd(student_logp_NV: "torch.Tensor", teacher_logp_NV: "torch.Tensor") -> "torch.Tensor":
    """Total variation distance, half the L1 distance (f-distill, Wen et al. 2023); between 0 and 1, not in nats."""
    return 0.5 * (teacher_logp_NV.exp() - student_logp_NV.exp()).abs().sum(-1)


def akl(student_logp_NV: "torch.Tensor", teacher_logp_NV: "torch.Tensor", head: float = 0.5) -> "torch.Tensor":
    """Adaptive KL (Wu et al. 2024): more forward_kl where the head differs, more reverse_kl where the tail does.

    The head are the teacher's likeliest tokens up to the probability `head`. The weights are the shares of the L1
    distance that lie in head and tail; no gradient flows through them.
    """
    import torch

    with torch.no_grad():
        share_N = head_share(student_logp_NV.exp(), teacher_logp_NV.exp(), head)
    forward_N = forward_kl(student_logp_NV, teacher_logp_NV)
    return share_N * forward_N + (1 - share_N) * reverse_kl(student_logp_NV, teacher_logp_NV)


def head_share(student_NV: "torch.Tensor", teacher_NV: "torch.Tensor", head: float) -> "torch.Tensor":
    """The share [N] of the L1 distance between two rows of probabilities that lies in the teacher's head."""
    import torch

    gap_NV = (teacher_NV - student_NV).abs()
    sorted_NV, index_NV = teacher_NV.sort(-1, descending=True)
    in_head_NV = sorted_NV.cumsum(-1) - sorted_NV < head
    head_gap_N = (gap_NV.gather(-1, index_NV) * in_head_NV).sum(-1)
    total_N = gap_NV.sum(-1)
    return torch.where(total_N > 0, head_gap_N / total_N.clamp(min=torch.finfo(total_N.dtype).tiny), 0.5)


def _mixture(first_logp_NV: "torch.Tensor", second_logp_NV: "torch.Tensor", share: float) -> "torch.Tensor":
    """log(share * first + (1 - share) * second); exactly the second at share 0."""
    import torch

    if share == 0:
        return second_logp_NV
    return torch.logaddexp(first_logp_NV + math.log(share), second_logp_NV + math.log1p(-share))


DIVERGENCES: dict[str, Divergence] = {
    function.__name__: function for function in (forward_kl, reverse_kl, jsd, skew_kl, skew_reverse_kl, tvd, akl)
}

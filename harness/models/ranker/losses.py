"""The losses of a ranker at each position of a history: on observed items, and on the teacher's best unobserved ones.

Scores are logits of 'this item comes next'. Sources: Tang and Wang 2018 (arXiv 1809.07428), "Ranking Distillation".
"""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch


def observed_loss(positive_N: "torch.Tensor", negative_NS: "torch.Tensor", drawn_NS: "torch.Tensor") -> "torch.Tensor":
    """Binary cross-entropy per position [N]: the item that came should score high, those drawn low.

    -log σ(positive) - Σ log(1 - σ(negative)), the sum over negatives that `drawn_NS` marks True (one that happens to
    be the item itself is none). Source: Tang and Wang 2018, Eq. 1 with its point-wise loss.
    """
    from torch.nn.functional import softplus

    return softplus(-positive_N) + (softplus(negative_NS) * drawn_NS).sum(-1)


def ranking_loss(scores_NK: "torch.Tensor", weight_NK: "torch.Tensor") -> "torch.Tensor":
    """-Σ_r w_r log σ(score of the teacher's r-th unobserved item), per position [N]: they are taken for relevant."""
    from torch.nn.functional import softplus

    return (softplus(-scores_NK) * weight_NK).sum(-1)


def place_weights(k: int, sharpness: float) -> "torch.Tensor":
    """Weights by the place r = 1..k in the teacher's list, exp(-r / λ), of sum 1 [K]."""
    import torch

    weight_K = torch.exp(-torch.arange(1, k + 1, dtype=torch.float64) / sharpness)
    return (weight_K / weight_K.sum()).float()


def discrepancy_weights(rank_NK: "torch.Tensor", mu: float) -> "torch.Tensor":
    """max(tanh(μ (rank - r)), 0) [N, K]: how far the student places the teacher's r-th item too low.

    `rank_NK`: its place in the student's list, from 1.
    """
    import torch

    place_K = torch.arange(1, rank_NK.shape[-1] + 1, device=rank_NK.device)
    return torch.tanh(mu * (rank_NK - place_K)).clamp(min=0)


def hybrid_weights(place_K: "torch.Tensor", discrepancy_NK: "torch.Tensor", normalise: bool) -> "torch.Tensor":
    """The product of both weights [N, K], of sum 1 with `normalise`; where the student errs nowhere all are 0."""
    weight_NK = place_K * discrepancy_NK
    if not normalise:
        return weight_NK
    total_N1 = weight_NK.sum(-1, keepdim=True)
    return weight_NK / total_N1.where(total_N1 > 0, 1.0)


def ranks_of(scores_NV: "torch.Tensor", item_NK: "torch.Tensor") -> "torch.Tensor":
    """The place of each item among all, from 1 [N, K]: one more than how many score higher."""
    import torch

    mine_NK = scores_NV.gather(-1, item_NK)
    columns = [(scores_NV > mine_NK[:, k : k + 1]).sum(-1) for k in range(item_NK.shape[-1])]
    return torch.stack(columns, -1) + 1


def sampled_ranks(scores_NS: "torch.Tensor", mine_NK: "torch.Tensor", items: int) -> "torch.Tensor":
    """The same [N, K] from scores of S items drawn by chance: ⌊(items - 1) · share of them that scores higher⌋ + 1."""
    share_NK = (scores_NS[:, None, :] > mine_NK[:, :, None]).float().mean(-1)
    return ((items - 1) * share_NK).floor() + 1

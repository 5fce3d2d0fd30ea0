"""Divergences with their gradients in closed form: few passes over the vocabulary, where autograd makes a dozen.

For logits s with log-probabilities lq = log_softmax(s) and a loss whose derivative by lq is g, the derivative by s is
g - q sum(g). Each function here takes lq, lp, q and p [n, V] (it may overwrite them), and gives the loss per position
[n] and its gradient with respect to the logits [n, V]. They are the divergences of divergences.py under the same names
and knobs; that file and autograd are what the tests hold them to.
"""

from collections.abc import Callable
from typing import TYPE_CHECKING

from harness.terms import KNOBS, Divergence

if TYPE_CHECKING:
    import torch

    from harness.train.signals import Coarse

Slope = Callable[..., tuple["torch.Tensor", "torch.Tensor"]]
BLOCK = 16  # positions that a divergence goes through at once: their arrays stay in the processor's cache
SMALLEST = 1e-38  # of a mixture: below it both sides are 0 in float32, and so is what they add


def forward_kl(
    lq: "torch.Tensor", lp: "torch.Tensor", q: "torch.Tensor", p: "torch.Tensor"
) -> tuple["torch.Tensor", "torch.Tensor"]:
    loss_n = dot(p, lp.sub_(lq))
    return loss_n, q.sub_(p)


def reverse_kl(
    lq: "torch.Tensor", lp: "torch.Tensor", q: "torch.Tensor", p: "torch.Tensor"
) -> tuple["torch.Tensor", "torch.Tensor"]:
    gap = lq.sub_(lp)
    loss_n = dot(q, gap)
    return loss_n, gap.sub_(loss_n[:, None]).mul_(q)


def jsd(
    lq: "torch.Tensor",
    lp: "torch.Tensor",
    q: "torch.Tensor",
    p: "torch.Tensor",
    beta: float = 0.5,
    normalise: bool = True,
) -> tuple["torch.Tensor", "torch.Tensor"]:
    if beta in (0, 1):
        return (reverse_kl if beta else forward_kl)(lq, lp, q, p)
    middle = _log_mixture(p, q, beta)
    of_teacher_n = dot(p, lp.sub_(middle))
    gap = lq.sub_(middle)
    of_student_n = dot(q, gap)
    scale = 1 / (beta * (1 - beta)) if normalise else 1.0
    loss_n = scale * (beta * of_teacher_n + (1 - beta) * of_student_n)
    return loss_n, gap.sub_(of_student_n[:, None]).mul_(q).mul_(scale * (1 - beta))


def skew_kl(
    lq: "torch.Tensor", lp: "torch.Tensor", q: "torch.Tensor", p: "torch.Tensor", skew: float = 0.1
) -> tuple["torch.Tensor", "torch.Tensor"]:
    if skew == 0:
        return forward_kl(lq, lp, q, p)
    middle = _mixture(p, q, skew)
    ratio = p / middle
    loss_n = dot(p, lp.sub_(middle.log_()))
    return loss_n, ratio.neg_().add_(dot(q, ratio).neg_()[:, None]).mul_(q).mul_(1 - skew)


def skew_reverse_kl(
    lq: "torch.Tensor", lp: "torch.Tensor", q: "torch.Tensor", p: "torch.Tensor", skew: float = 0.1
) -> tuple["torch.Tensor", "torch.Tensor"]:
    if skew == 0:
        return reverse_kl(lq, lp, q, p)
    middle = _mixture(q, p, skew)
    share = q / middle
    gap = lq.sub_(middle.log_())
    loss_n = dot(q, gap)
    slope = gap.sub_(share, alpha=skew)
    return loss_n, slope.sub_(dot(q, slope)[:, None]).mul_(q)


def tvd(
    lq: "torch.Tensor", lp: "torch.Tensor", q: "torch.Tensor", p: "torch.Tensor"
) -> tuple["torch.Tensor", "torch.Tensor"]:
    gap = p.sub_(q)
    loss_n = 0.5 * gap.abs().sum(-1)
    side = gap.sign_().neg_()
    return loss_n, side.sub_(dot(q, side)[:, None]).mul_(q).mul_(0.5)


def akl(
    lq: "torch.Tensor", lp: "torch.Tensor", q: "torch.Tensor", p: "torch.Tensor", head: float = 0.5
) -> tuple["torch.Tensor", "torch.Tensor"]:
    from harness.train.divergences import head_share

    share_n = head_share(q, p, head)
    gap = lq.sub_(lp)
    forward_n, reverse_n = dot(p, gap).neg_(), dot(q, gap)
    slope = gap.sub_(reverse_n[:, None]).mul_(q).mul_(1 - share_n[:, None])
    return share_n * forward_n + (1 - share_n) * reverse_n, slope.add_(q.sub_(p).mul_(share_n[:, None]))


SLOPES: dict[str, Slope] = {
    function.__name__: function for function in (forward_kl, reverse_kl, jsd, skew_kl, skew_reverse_kl, tvd, akl)
}


def dot(one: "torch.Tensor", other: "torch.Tensor") -> "torch.Tensor":
    """Row by row sum of products [n], in one pass and without an array in between."""
    import torch

    return torch.bmm(one[:, None, :], other[:, :, None])[:, 0, 0]


def _mixture(first: "torch.Tensor", second: "torch.Tensor", share: float) -> "torch.Tensor":
    """share * first + (1 - share) * second, never 0, so that it has a logarithm."""
    return first.mul(share).add_(second, alpha=1 - share).clamp_(min=SMALLEST)


def _log_mixture(first: "torch.Tensor", second: "torch.Tensor", share: float) -> "torch.Tensor":
    return _mixture(first, second, share).log_()


def knobs_of(table: Divergence) -> dict[str, float]:
    """The settings of the table's divergence that the study names."""
    return {name: getattr(table, name) for name in KNOBS.get(table.divergence, ()) if getattr(table, name) is not None}


def divergence_slope(
    logits_nV: "torch.Tensor", teacher_nV: "torch.Tensor", table: Divergence
) -> tuple["torch.Tensor", "torch.Tensor"]:
    """The table's divergence per position [n], times T² where it says so, and its gradient by the student's logits.

    `teacher_nV` are the teacher's logits; both are divided by the table's temperature here, and overwritten, the
    student's with the gradient: arrays of this size cost more to fetch from memory than to fill.
    """
    import torch

    loss_n = torch.empty(len(logits_nV), dtype=logits_nV.dtype, device=logits_nV.device)
    block = BLOCK if logits_nV.device.type == "cpu" else max(1, len(logits_nV))
    for start in range(0, len(logits_nV), block):
        some = slice(start, start + block)
        own_bV, teacher_bV = logits_nV[some], teacher_nV[some]
        lq, lp = (_tempered(logits, table.temperature).log_softmax(-1) for logits in (own_bV, teacher_bV))
        q, p = torch.exp(lq, out=own_bV), torch.exp(lp, out=teacher_bV)
        loss_b, grad_bV = SLOPES[table.divergence](lq, lp, q, p, **knobs_of(table))
        loss_n[some] = loss_b
        if grad_bV.data_ptr() != own_bV.data_ptr():
            own_bV.copy_(grad_bV)
    return _scaled(loss_n, logits_nV, table)


def coarse_slope(
    logits_nV: "torch.Tensor", coarse: "Coarse", table: Divergence
) -> tuple["torch.Tensor", "torch.Tensor"]:
    """The same against a coarsened teacher, whose signal is at the table's temperature already.

    The divergence and its derivative g are those of K + 1 events. A token of the tail shares the tail's in proportion
    to its probability, so the gradient is q times one number a position, mended at the K named tokens.
    """
    import torch

    from harness.train.divergences import DIVERGENCES
    from harness.train.signals import UNUSED

    q_nV = _tempered(logits_nV, table.temperature).softmax(-1)
    index_nK = coarse.index_NK.to(q_nV.device)
    teacher_nM = coarse.logp_NK.to(q_nV)
    unused_nK = teacher_nM == UNUSED
    # The slots' log-probabilities come from the logits: a softmax that is 0 in float32 has a logarithm all the same.
    lse_n1 = _tempered(logits_nV, table.temperature).logsumexp(-1, keepdim=True)
    named_nM = (_tempered(logits_nV.gather(1, index_nK), table.temperature) - lse_n1).masked_fill_(unused_nK, UNUSED)
    own_nK = q_nV.gather(1, index_nK)
    tail_n1 = None
    if coarse.tail_N is not None:
        q_nV.scatter_(1, torch.where(unused_nK, index_nK[:, :1], index_nK), 0.0)
        tail_n1 = q_nV.sum(-1, keepdim=True).clamp_(min=SMALLEST)
        named_nM = torch.cat([named_nM, tail_n1.log()], 1)
        teacher_nM = torch.cat([teacher_nM, coarse.tail_N.to(q_nV)[:, None]], 1)
    with torch.enable_grad():
        named_nM.requires_grad_()
        loss_n = DIVERGENCES[table.divergence](named_nM, teacher_nM, **knobs_of(table))
        (g_nM,) = torch.autograd.grad(loss_n.sum(), named_nM)
    g_nK = g_nM[:, : index_nK.shape[1]].masked_fill(unused_nK, 0.0)
    total_n1 = g_nK.sum(-1, keepdim=True)
    if tail_n1 is None:
        grad_nV = q_nV.mul_(-total_n1).scatter_add_(1, index_nK, g_nK)
    else:
        tail_g_n1 = g_nM[:, -1:]
        total_n1 = total_n1 + tail_g_n1
        grad_nV = q_nV.mul_(tail_g_n1 / tail_n1 - total_n1)
        grad_nV.scatter_add_(1, index_nK, (g_nK - own_nK * total_n1).masked_fill_(unused_nK, 0.0))
    return _scaled(loss_n.detach(), grad_nV, table)


def nll_slope(
    logits_nV: "torch.Tensor", label_n: "torch.Tensor", weight_n: "torch.Tensor"
) -> tuple["torch.Tensor", "torch.Tensor"]:
    """Cross-entropy per position [n], unweighted, and the gradient of its weighted sum by the logits."""
    logp_nV = logits_nV.log_softmax(-1)
    nll_n = -logp_nV.gather(1, label_n[:, None])[:, 0]
    grad_nV = logp_nV.exp_().mul_(weight_n[:, None])
    grad_nV.scatter_add_(1, label_n[:, None], -weight_n[:, None])
    return nll_n, grad_nV


def _tempered(logits: "torch.Tensor", temperature: float) -> "torch.Tensor":
    return logits if temperature == 1 else logits / temperature


def _scaled(
    loss_n: "torch.Tensor", grad_nV: "torch.Tensor", table: Divergence
) -> tuple["torch.Tensor", "torch.Tensor"]:
    factor = table.temperature**2 if table.t_squared else 1.0
    slope = factor / table.temperature
    return loss_n * factor, grad_nV if slope == 1 else grad_nV.mul_(slope)

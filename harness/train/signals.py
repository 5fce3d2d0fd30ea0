"""What a teacher says of the next token, coarsened to be kept: its likeliest tokens and one entry for all others.

Merging the others into one entry leaves a distribution, so a divergence over the K + 1 entries is a true divergence: of
coarsened distributions, never above the whole one. Dropping the others and dividing by what is left (renormalised
top-k) is another distribution, and the student learns that instead. Draws are unbiased in another way: the weights
counts / draws are the teacher's probabilities in expectation (random sampling KD, Anshumann et al. 2025, section 4),
and with them every gradient that is linear in these probabilities, which is that of the forward KL.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from harness.config import Cache

if TYPE_CHECKING:
    import torch

    from harness.train.divergences import Divergence

UNUSED = -100.0
"""The log-probability of a slot that holds no token."""

DEFAULT_K = 64
DEFAULT_DRAWS = 50
CHUNK = 128  # positions whose whole distributions are in memory at once
_HIDDEN = -1e4  # a log-probability that adds nothing to a sum and, unlike -inf, leaves no nan behind


@dataclass(frozen=True)
class Coarse:
    """The teacher's distribution at N positions: K named tokens and, unless None, one entry for all others.

    `index_NK` int64, 0 in unused slots; `logp_NK` float32, natural log, UNUSED in unused slots; `tail_N`, log of the
    remaining mass, None where nothing remains (the whole vocabulary) or draws stand for all of it; `unbiased`, of
    draws: only forward_kl is linear in the teacher and so has an unbiased gradient.
    """

    index_NK: "torch.Tensor"
    logp_NK: "torch.Tensor"
    tail_N: "torch.Tensor | None" = None
    unbiased: bool = False

    def __len__(self) -> int:
        return len(self.index_NK)

    def rows(self, start: int, stop: int) -> "Coarse":
        """Positions `start` to `stop`."""
        tail_N = None if self.tail_N is None else self.tail_N[start:stop]
        return Coarse(self.index_NK[start:stop], self.logp_NK[start:stop], tail_N, self.unbiased)

    def pair(self, student_logp_NV: "torch.Tensor") -> tuple["torch.Tensor", "torch.Tensor"]:
        """Student and teacher over the same events, natural log, [N, M] each: M = K, or K + 1 with the tail last.

        `student_logp_NV`: the student's log-probabilities over the whole vocabulary. Gradients flow into them.
        Unused slots are equal on both sides, so that every divergence gets exactly 0 from them.
        """
        import torch

        index_NK = self.index_NK.to(student_logp_NV.device)
        teacher_NK = self.logp_NK.to(student_logp_NV)
        in_order = self._whole(student_logp_NV.shape[1])
        student_NK = student_logp_NV if in_order else student_logp_NV.gather(1, index_NK)
        unused_NK = teacher_NK == UNUSED
        student_NK = student_NK.masked_fill(unused_NK, UNUSED)
        if self.tail_N is None:
            return student_NK, teacher_NK
        # The student's tail is summed over the tokens in it. 1 - (what is named) would lose all digits of a small tail,
        # and its gradient, divided by that tail, could be anything.
        named_NK = torch.where(unused_NK, index_NK[:, :1], index_NK)
        student_tail_N1 = student_logp_NV.scatter(1, named_NK, _HIDDEN).logsumexp(-1, keepdim=True)
        teacher_tail_N1 = self.tail_N.to(student_logp_NV)[:, None]
        return torch.cat([student_NK, student_tail_N1], 1), torch.cat([teacher_NK, teacher_tail_N1], 1)

    def _whole(self, vocabulary: int) -> bool:
        """Whether the slots are the vocabulary in its order: all rows share one index, and nothing is looked up."""
        import torch

        if not len(self) or self.index_NK.shape[1] != vocabulary or self.index_NK.stride(0) != 0:
            return False
        return torch.equal(self.index_NK[0].cpu(), torch.arange(vocabulary))


def whole(logp_NV: "torch.Tensor") -> Coarse:
    """The distribution as it is."""
    import torch

    index_V = torch.arange(logp_NV.shape[1], device=logp_NV.device)
    return Coarse(index_V.expand(logp_NV.shape), logp_NV.masked_fill(logp_NV.isneginf(), UNUSED))


def top_k(logp_NV: "torch.Tensor", k: int) -> Coarse:
    """The `k` likeliest tokens, likeliest first, and the mass of all others as the tail."""
    if k >= logp_NV.shape[1]:
        return whole(logp_NV)
    top_NK, index_NK = logp_NV.topk(k, dim=-1)
    tail_N = logp_NV.scatter(1, index_NK, float("-inf")).logsumexp(-1).clamp(min=UNUSED)
    return Coarse(index_NK, top_NK.masked_fill(top_NK.isneginf(), UNUSED), tail_N)


def renormalised(coarse: Coarse) -> Coarse:
    """The named tokens alone, scaled to a sum of 1: the usual mistake, for comparison."""
    total_N1 = coarse.logp_NK.logsumexp(-1, keepdim=True)
    logp_NK = (coarse.logp_NK - total_N1).masked_fill(coarse.logp_NK == UNUSED, UNUSED)
    return Coarse(coarse.index_NK, logp_NK)


def draw(logp_NV: "torch.Tensor", uniform_ND: "torch.Tensor") -> Coarse:
    """Draws with replacement, one for each uniform number in [0, 1): the distinct tokens, by id, and log(count / D)."""
    import torch

    # A sum of 50,000 float32 terms would leave out the least likely tokens.
    cumulative_NV = logp_NV.double().exp().cumsum(-1)
    point_ND = uniform_ND.to(cumulative_NV) * cumulative_NV[:, -1:]
    drawn_ND = torch.searchsorted(cumulative_NV, point_ND, right=True).clamp(max=logp_NV.shape[1] - 1).sort(-1).values
    slot_ND = torch.nn.functional.pad((drawn_ND.diff(dim=-1) > 0).cumsum(-1), (1, 0))
    count_ND = torch.zeros_like(drawn_ND).scatter_add(1, slot_ND, torch.ones_like(drawn_ND))
    index_ND = torch.zeros_like(drawn_ND).scatter(1, slot_ND, drawn_ND)
    width = 1 + int(slot_ND.max()) if slot_ND.numel() else 1
    logp_ND = (count_ND / drawn_ND.shape[1]).log().clamp(min=UNUSED).to(logp_NV.dtype)
    return Coarse(index_ND[:, :width], logp_ND[:, :width], unbiased=True)


def coarsen(
    logits_NV: "torch.Tensor", cache: Cache, temperature: float, uniform_ND: "torch.Tensor | None" = None
) -> Coarse:
    """Logits as the signal that `cache` asks for, at `temperature`; draws take the uniform numbers `uniform_ND`.

    Only CHUNK positions are spread over the whole vocabulary at once.
    """
    parts = []
    for start in range(0, len(logits_NV), CHUNK):
        logp_NV = (logits_NV[start : start + CHUNK].float() / temperature).log_softmax(-1)
        if cache.kind == "sampled":
            assert uniform_ND is not None, "draws need uniform numbers"
            parts.append(draw(logp_NV, uniform_ND[start : start + CHUNK]))
        else:
            parts.append(whole(logp_NV) if cache.k == "vocabulary" else top_k(logp_NV, cache.k or DEFAULT_K))
    return join(parts)


def join(parts: Sequence[Coarse]) -> Coarse:
    """Signals of one kind, one after the other; narrow ones are filled up with unused slots."""
    import torch

    if len(parts) == 1:
        return parts[0]
    if not parts:
        return Coarse(torch.zeros(0, 1, dtype=torch.long), torch.zeros(0, 1))
    width = max(part.index_NK.shape[1] for part in parts)

    def filled(tensor_NK: "torch.Tensor", value: float) -> "torch.Tensor":
        return torch.nn.functional.pad(tensor_NK, (0, width - tensor_NK.shape[1]), value=value)

    logp_NK = torch.cat([filled(part.logp_NK, UNUSED) for part in parts])
    if parts[0].tail_N is None and not parts[0].unbiased:
        return Coarse(parts[0].index_NK[0].expand(logp_NK.shape), logp_NK)
    tails = [part.tail_N for part in parts if part.tail_N is not None]
    index_NK = torch.cat([filled(part.index_NK, 0) for part in parts])
    return Coarse(index_NK, logp_NK, torch.cat(tails) if tails else None, parts[0].unbiased)


@dataclass
class _Gradients:
    """Sums of one signal against the whole distribution: divergence, gradients' products, and the summed gradient."""

    loss: float = 0.0
    dot: float = 0.0
    square: float = 0.0
    off: float = 0.0  # squared distance to the whole distribution's gradient
    sum_V: Any = 0.0


@dataclass
class Bias:
    """How far a student's training on coarsened signals is from training on the whole distribution.

    `add` positions, then read `facts`. Each gradient is with respect to the student's logits.
    """

    divergence: "Divergence"
    temperature: float = 1.0
    positions: int = 0
    named: int = 0
    _sums: dict[str, _Gradients] = field(default_factory=dict)

    def add(self, student_NV: "torch.Tensor", teacher_NV: "torch.Tensor", coarse: Coarse) -> None:
        """Compare at N positions, given both models' logits and the signal that was (or would be) kept."""
        import torch

        teacher_logp_NV = (teacher_NV.float() / self.temperature).log_softmax(-1)
        named = int((coarse.logp_NK != UNUSED).sum())
        # For draws, the top-k of as many tokens.
        rival = renormalised(top_k(teacher_logp_NV, max(1, round(named / len(coarse)))))
        truth_NV = None
        for name, signal in (("full", whole(teacher_logp_NV)), ("coarse", coarse), ("renormalised", rival)):
            leaf_NV = student_NV.detach().float().clone().requires_grad_()
            loss_N = self.divergence(*signal.pair((leaf_NV / self.temperature).log_softmax(-1)))
            (gradient_NV,) = torch.autograd.grad(loss_N.sum(), leaf_NV)
            truth_NV = gradient_NV if truth_NV is None else truth_NV
            sums = self._sums.setdefault(name, _Gradients())
            sums.loss += float(loss_N.detach().double().sum())
            sums.dot += float((gradient_NV * truth_NV).double().sum())
            sums.square += float(gradient_NV.double().square().sum())
            sums.off += float((gradient_NV - truth_NV).double().square().sum())
            sums.sum_V = sums.sum_V + gradient_NV.double().sum(0)
        self.positions += len(coarse)
        self.named += named

    @property
    def facts(self) -> dict[str, float]:
        """Divergences in nats per token, and for `coarse` and `renormalised` top-k, against the whole distribution:

        ratio of the divergences; cosine of the gradients; `error`, the norm of their difference over the norm of the
        whole one; and `mean_error`, the same for the gradient summed over all positions, in which the noise of draws
        averages out and a bias stays.
        """
        full = self._sums["full"]
        found = {"positions": self.positions, "named": self.named / self.positions, "full": full.loss / self.positions}
        for name in ("coarse", "renormalised"):
            sums = self._sums[name]
            start = "" if name == "coarse" else "renormalised_"
            found |= {
                name: sums.loss / self.positions,
                f"{start}ratio": _over(sums.loss, full.loss),
                f"{start}cosine": _over(sums.dot, (sums.square * full.square) ** 0.5),
                f"{start}error": _over(sums.off, full.square, 0.0) ** 0.5,
                f"{start}mean_error": _over(float((sums.sum_V - full.sum_V).norm()), float(full.sum_V.norm()), 0.0),
            }
        return found


def _over(part: float, all_of_it: float, of_nothing: float = 1.0) -> float:
    """A ratio; `of_nothing` where both are 0, as between a student and a teacher that agree."""
    if all_of_it:
        return part / all_of_it
    return float("inf") if part else of_nothing

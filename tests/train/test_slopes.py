"""Gradients in closed form against autograd through the divergences as they are written, in float64."""

from typing import Any

import pytest
import torch

from harness.terms import Kd
from harness.train.divergences import DIVERGENCES
from harness.train.objective import divergence_of, kd_loss
from harness.train.signals import draw, top_k
from harness.train.slopes import SLOPES, coarse_slope, divergence_slope, nll_slope

TABLES = [
    Kd(),
    Kd(temperature=2.0),
    Kd(temperature=0.5, t_squared=False),
    Kd(divergence="reverse_kl"),
    Kd(divergence="reverse_kl", temperature=3.0),
    *(Kd(divergence="jsd", beta=beta) for beta in (0.0, 0.2, 0.5, 1.0)),
    *(Kd(divergence="jsd", beta=beta, normalise=False) for beta in (0.0, 0.2, 0.5, 1.0)),
    *(Kd(divergence=name, skew=skew) for name in ("skew_kl", "skew_reverse_kl") for skew in (0.0, 0.1, 0.7)),
    Kd(divergence="tvd", temperature=1.5),
    *(Kd(divergence="akl", head=head) for head in (0.2, 0.5)),
]  # fmt: skip


def logits(spread: float, dtype: torch.dtype = torch.float64) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(3)
    student, teacher = spread * torch.randn(2, 6, 30, generator=generator, dtype=dtype)
    return student, teacher


def by_autograd(student: torch.Tensor, loss_of: Any) -> tuple[torch.Tensor, torch.Tensor]:
    student = student.clone().requires_grad_()
    loss = loss_of(student)
    return loss.detach(), torch.autograd.grad(loss.sum(), student)[0]


def test_every_divergence_has_its_slope() -> None:
    assert SLOPES.keys() == DIVERGENCES.keys()
    assert {table.divergence for table in TABLES} == set(SLOPES)


@pytest.mark.parametrize("spread", [0.1, 1.0, 6.0])
@pytest.mark.parametrize("table", TABLES, ids=str)
def test_slopes_are_autograds(table: Kd, spread: float) -> None:
    student, teacher = logits(spread)
    wanted_loss, wanted = by_autograd(student, lambda s: kd_loss(s, teacher, table))
    loss, slope = divergence_slope(student.clone(), teacher.clone(), table)
    torch.testing.assert_close(loss, wanted_loss, rtol=1e-9, atol=1e-12)
    torch.testing.assert_close(slope, wanted, rtol=1e-8, atol=1e-12)


@pytest.mark.parametrize("k", [1, 5, 29, 30])
@pytest.mark.parametrize("table", TABLES, ids=str)
def test_slopes_against_a_coarsened_teacher_are_autograds(table: Kd, k: int) -> None:
    student, teacher = logits(2.0)
    coarse = top_k((teacher / table.temperature).log_softmax(-1), k)
    wanted_loss, wanted = by_autograd(
        student, lambda s: divergence_of(*coarse.pair((s / table.temperature).log_softmax(-1)), table)
    )
    loss, slope = coarse_slope(student.clone(), coarse, table)
    torch.testing.assert_close(loss, wanted_loss, rtol=1e-6, atol=1e-8)
    torch.testing.assert_close(slope, wanted, rtol=1e-5, atol=1e-8)


def test_slopes_against_draws_are_autograds() -> None:
    student, teacher = logits(2.0)
    drawn = draw(teacher.log_softmax(-1), torch.rand(6, 20, generator=torch.Generator().manual_seed(0)))
    wanted_loss, wanted = by_autograd(student, lambda s: divergence_of(*drawn.pair(s.log_softmax(-1)), Kd()))
    loss, slope = coarse_slope(student.clone(), drawn, Kd())
    torch.testing.assert_close(loss, wanted_loss, rtol=1e-8, atol=1e-10)
    torch.testing.assert_close(slope, wanted, rtol=1e-6, atol=1e-9)


@pytest.mark.parametrize("table", TABLES, ids=str)
def test_far_apart_logits_stay_finite_in_float32(table: Kd) -> None:
    student, teacher = logits(60.0, torch.float32)
    for loss, slope in (
        divergence_slope(student.clone(), teacher.clone(), table),
        coarse_slope(student.clone(), top_k((teacher / table.temperature).log_softmax(-1), 4), table),
    ):
        assert torch.isfinite(loss).all()
        assert torch.isfinite(slope).all()


def test_cross_entropy_is_torchs_with_a_weight_for_each_position() -> None:
    student, _ = logits(3.0)
    label, weight = torch.arange(6) * 4, torch.rand(6, dtype=torch.float64)
    wanted_loss, wanted = by_autograd(
        student, lambda s: torch.nn.functional.cross_entropy(s, label, reduction="none") * weight
    )
    loss, slope = nll_slope(student.clone(), label, weight)
    torch.testing.assert_close(loss * weight, wanted_loss)
    torch.testing.assert_close(slope, wanted)

"""Divergences against plain formulas in Python floats, their gradients, and the ends at which they must meet."""

import math
from collections.abc import Callable

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from harness.terms import KNOBS, Kd
from harness.train.divergences import (
    DIVERGENCES,
    akl,
    forward_kl,
    jsd,
    reverse_kl,
    skew_kl,
    skew_reverse_kl,
    tvd,
)

P = [0.5, 0.3, 0.15, 0.05]  # teacher
Q = [0.1, 0.2, 0.3, 0.4]  # student


def kl(a: list[float], b: list[float]) -> float:
    return sum(x * math.log(x / y) for x, y in zip(a, b, strict=True))


def mix(share: float, a: list[float], b: list[float]) -> list[float]:
    return [share * x + (1 - share) * y for x, y in zip(a, b, strict=True)]


def value(function: Callable[..., torch.Tensor], **knobs: object) -> float:
    student, teacher = (torch.tensor([row], dtype=torch.float64).log() for row in (Q, P))
    return float(function(student, teacher, **knobs))


def logp(seed: int, dtype: torch.dtype = torch.float64) -> tuple[torch.Tensor, torch.Tensor]:
    student, teacher = torch.randn(2, 4, 9, dtype=dtype, generator=torch.Generator().manual_seed(seed)).log_softmax(-1)
    return student, teacher


def test_plain_formulas() -> None:
    assert value(forward_kl) == pytest.approx(kl(P, Q), rel=1e-12)
    assert value(reverse_kl) == pytest.approx(kl(Q, P), rel=1e-12)
    assert value(tvd) == pytest.approx(0.5 * sum(abs(p - q) for p, q in zip(P, Q, strict=True)), rel=1e-12)
    for skew in (0.1, 0.4):
        assert value(skew_kl, skew=skew) == pytest.approx(kl(P, mix(skew, P, Q)), rel=1e-12)
        assert value(skew_reverse_kl, skew=skew) == pytest.approx(kl(Q, mix(skew, Q, P)), rel=1e-12)
    for beta in (0.1, 0.5, 0.8):
        middle = mix(beta, P, Q)
        plain = beta * kl(P, middle) + (1 - beta) * kl(Q, middle)
        assert value(jsd, beta=beta, normalise=False) == pytest.approx(plain, rel=1e-12)
        assert value(jsd, beta=beta) == pytest.approx(plain / (beta * (1 - beta)), rel=1e-12)


def test_akl_weighs_the_kls_by_where_the_distance_lies() -> None:
    head = abs(0.5 - 0.1)  # the first token alone reaches the probability 0.5
    total = sum(abs(p - q) for p, q in zip(P, Q, strict=True))
    assert value(akl) == pytest.approx(head / total * kl(P, Q) + (1 - head / total) * kl(Q, P), rel=1e-12)
    head += abs(0.3 - 0.2)
    assert value(akl, head=0.6) == pytest.approx(head / total * kl(P, Q) + (1 - head / total) * kl(Q, P), rel=1e-12)


def test_jsd_is_what_torch_makes_of_its_parts() -> None:
    student, teacher = logp(3)
    middle = (0.3 * teacher.exp() + 0.7 * student.exp()).log()
    kl_div = torch.nn.functional.kl_div
    parts = 0.3 * kl_div(middle, teacher, reduction="none", log_target=True).sum(-1)
    parts += 0.7 * kl_div(middle, student, reduction="none", log_target=True).sum(-1)
    torch.testing.assert_close(jsd(student, teacher, 0.3, normalise=False), parts)


@pytest.mark.parametrize(("near", "end"), [(1e-4, forward_kl), (1 - 1e-4, reverse_kl)])
def test_the_normalised_jsd_meets_the_kls_at_its_ends(near: float, end: Callable[..., torch.Tensor]) -> None:
    student, teacher = logp(1)
    torch.testing.assert_close(jsd(student, teacher, near), end(student, teacher), rtol=2e-3, atol=0)
    torch.testing.assert_close(jsd(student, teacher, round(near)), end(student, teacher), rtol=0, atol=0)
    # The published form fades to nothing instead, and then jumps.
    assert (jsd(student, teacher, near, normalise=False) < 1e-3 * end(student, teacher)).all()


def test_the_ends_meet_in_float32_too_and_so_do_their_gradients() -> None:
    student, teacher = logp(1, torch.float32)
    gradients = []
    for function in (lambda s: jsd(s, teacher, 1e-3), lambda s: forward_kl(s, teacher)):
        leaf = student.clone().requires_grad_()
        function(leaf.log_softmax(-1)).sum().backward()
        assert leaf.grad is not None
        gradients.append(leaf.grad)
    torch.testing.assert_close(*gradients, rtol=0.02, atol=2e-3)


def test_no_skew_is_no_skew() -> None:
    student, teacher = logp(2)
    assert torch.equal(skew_kl(student, teacher, 0), forward_kl(student, teacher))
    assert torch.equal(skew_reverse_kl(student, teacher, 0), reverse_kl(student, teacher))
    torch.testing.assert_close(skew_kl(student, teacher, 1e-6), forward_kl(student, teacher), rtol=1e-4, atol=0)


@pytest.mark.parametrize("name", sorted(set(DIVERGENCES) - {"akl"}))
def test_gradients_are_right(name: str) -> None:
    student, teacher = logp(5)
    leaf = student.clone().requires_grad_()
    assert torch.autograd.gradcheck(lambda logits: DIVERGENCES[name](logits.log_softmax(-1), teacher), (leaf,))


def test_the_gradient_of_akl_is_that_of_its_parts_under_fixed_weights() -> None:
    student, teacher = logp(5)
    leaf = student.clone().requires_grad_()
    (whole,) = torch.autograd.grad(akl(leaf, teacher).sum(), leaf)
    forward_N, reverse_N = forward_kl(student, teacher), reverse_kl(student, teacher)
    share_N = (akl(student, teacher) - reverse_N) / (forward_N - reverse_N)
    assert ((share_N > 0) & (share_N < 1)).all()
    (parts,) = torch.autograd.grad(
        (share_N * forward_kl(leaf, teacher) + (1 - share_N) * reverse_kl(leaf, teacher)).sum(), leaf
    )
    torch.testing.assert_close(whole, parts)


@pytest.mark.parametrize("name", sorted(DIVERGENCES))
@given(seed=st.integers(0, 2**31))
def test_zero_at_the_teacher_and_positive_elsewhere(name: str, seed: int) -> None:
    student, teacher = logp(seed)
    assert DIVERGENCES[name](teacher, teacher).abs().max() < 1e-12
    assert (DIVERGENCES[name](student, teacher) > 0).all()


@pytest.mark.parametrize("name", sorted(DIVERGENCES))
def test_finite_when_the_two_are_far_apart(name: str) -> None:
    student = torch.tensor([[80.0, 0.0, -80.0]]).log_softmax(-1).requires_grad_()
    teacher = torch.tensor([[-80.0, 0.0, 80.0]]).log_softmax(-1)
    loss = DIVERGENCES[name](student, teacher).sum()
    loss.backward()
    assert torch.isfinite(loss)
    assert student.grad is not None
    assert torch.isfinite(student.grad).all()


def test_a_setting_that_would_do_nothing_is_refused() -> None:
    with pytest.raises(ValidationError, match="beta does nothing with forward_kl; it belongs to jsd"):
        Kd(beta=0.3)
    with pytest.raises(ValidationError, match="it belongs to skew_kl and skew_reverse_kl"):
        Kd(divergence="jsd", skew=0.3)
    assert {name for names in KNOBS.values() for name in names} == {"beta", "normalise", "skew", "head"}
    assert set(KNOBS) <= set(DIVERGENCES)
    assert set(DIVERGENCES) == set(Kd.model_fields["divergence"].annotation.__args__)  # type: ignore[union-attr]

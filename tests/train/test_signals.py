"""Coarsened signals of a teacher against plain float64 formulas, and their bias."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from harness.config import Cache
from harness.train.cache import decode, encode
from harness.train.divergences import DIVERGENCES, forward_kl
from harness.train.signals import UNUSED, Bias, Coarse, coarsen, draw, renormalised, top_k, whole

TRUE_DIVERGENCES = sorted(set(DIVERGENCES) - {"akl"})  # akl's weights are not those of an f-divergence


def logp(seed: int, positions: int, vocabulary: int, dtype: torch.dtype = torch.float32) -> torch.Tensor:
    logits_NV = 4 * torch.randn(positions, vocabulary, dtype=dtype, generator=torch.Generator().manual_seed(seed))
    return logits_NV.log_softmax(-1)


def uniform(seed: int, positions: int, draws: int) -> torch.Tensor:
    return torch.rand(positions, draws, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def plain_coarse(student: list[float], teacher: list[float], named: list[int]) -> tuple[list[float], list[float]]:
    """Probabilities of the named tokens and of all others together, from logits, in Python floats."""

    def merged(logits: list[float]) -> list[float]:
        exps = [math.exp(value) for value in logits]
        chance = [value / math.fsum(exps) for value in exps]
        rest = math.fsum(value for token, value in enumerate(chance) if token not in named)
        return [chance[token] for token in named] + [rest]

    return merged(student), merged(teacher)


def test_the_pair_is_a_coarsened_distribution_on_both_sides() -> None:
    student, teacher = [0.3, -1.0, 2.0, 0.5, -20.0], [1.0, 3.0, -0.5, 0.2, -3.0]
    logits_NV = torch.tensor([student], dtype=torch.float64)
    signal = top_k(torch.tensor([teacher], dtype=torch.float64).log_softmax(-1), 2)
    got_student, got_teacher = signal.pair(logits_NV.log_softmax(-1))
    want_student, want_teacher = plain_coarse(student, teacher, [1, 0])
    assert got_student.exp()[0].tolist() == pytest.approx(want_student, rel=1e-12)
    assert got_teacher.exp()[0].tolist() == pytest.approx(want_teacher, rel=1e-12)
    plain = sum(p * math.log(p / q) for p, q in zip(want_teacher, want_student, strict=True))
    assert float(forward_kl(got_student, got_teacher)) == pytest.approx(plain, rel=1e-12)


@pytest.mark.parametrize("low", [0.0, -10.0, -25.0])
def test_the_gradient_of_a_small_student_tail_is_right_in_float32(low: float) -> None:
    """d/dz_v of -p_tail log q_tail is p_tail (q_v - q_v / q_tail) for v in the tail, p_tail q_v for the named."""
    logits = [3.0, 2.0, low, low - 1, low + 0.5]
    teacher_logp = torch.tensor([[1.0, 0.5, 0.2, 0.1, 0.0]]).log_softmax(-1)
    signal = top_k(teacher_logp, 2)
    leaf = torch.tensor([logits], requires_grad=True)
    student_M, _ = signal.pair(leaf.log_softmax(-1))
    student_M[0, -1].backward()
    chance = [math.exp(z) / math.fsum(map(math.exp, logits)) for z in logits]
    tail = math.fsum(chance[2:])
    want = [-chance[0], -chance[1], *(q / tail - q for q in chance[2:])]
    assert leaf.grad is not None
    assert leaf.grad[0].tolist() == pytest.approx(want, rel=1e-5, abs=1e-7)
    assert float(student_M[0, -1].detach()) == pytest.approx(math.log(tail), rel=1e-5)


@pytest.mark.parametrize("name", TRUE_DIVERGENCES)
def test_gradients_through_the_pair_are_right(name: str) -> None:
    signal = top_k(logp(3, 3, 9, torch.float64), 4)
    leaf = logp(4, 3, 9, torch.float64).requires_grad_()
    assert torch.autograd.gradcheck(lambda z: DIVERGENCES[name](*signal.pair(z.log_softmax(-1))), (leaf,))


@pytest.mark.parametrize("name", TRUE_DIVERGENCES)
@given(seed=st.integers(0, 2**31), k=st.integers(1, 9))
def test_merging_tokens_never_adds_divergence(name: str, seed: int, k: int) -> None:
    student, teacher = logp(seed, 4, 10, torch.float64), logp(seed + 1, 4, 10, torch.float64)
    full = DIVERGENCES[name](student, teacher)
    coarse = DIVERGENCES[name](*top_k(teacher, k).pair(student))
    assert (coarse >= -1e-12).all()
    assert (coarse <= full + 1e-12).all()


@pytest.mark.parametrize("name", sorted(DIVERGENCES))
@pytest.mark.parametrize(("bits", "tolerance"), [(32, 1e-5), (16, 1e-3)])
def test_the_whole_vocabulary_is_the_whole_divergence(name: str, bits: int, tolerance: float) -> None:
    student, teacher = logp(5, 6, 50), logp(6, 6, 50)
    cache = Cache(k="vocabulary", bits=bits)
    kept = decode(encode(coarsen(teacher, cache, 1.0), cache, 50), 6)
    got = DIVERGENCES[name](*kept.pair(student))
    torch.testing.assert_close(got, DIVERGENCES[name](student, teacher), rtol=tolerance, atol=tolerance)
    torch.testing.assert_close(got[2:4], DIVERGENCES[name](*kept.rows(2, 4).pair(student[2:4])))


@pytest.mark.parametrize("name", sorted(DIVERGENCES))
def test_k_just_below_the_vocabulary_meets_it(name: str) -> None:
    student, teacher = logp(5, 6, 50), logp(6, 6, 50)
    got = DIVERGENCES[name](*top_k(teacher, 49).pair(student))
    torch.testing.assert_close(got, DIVERGENCES[name](student, teacher), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("name", sorted(DIVERGENCES))
@pytest.mark.parametrize("tail", [True, False])
def test_unused_slots_change_nothing(name: str, tail: bool) -> None:
    student = logp(7, 3, 20).requires_grad_()
    signal = top_k(logp(8, 3, 20), 5)
    if not tail:
        signal = Coarse(signal.index_NK, signal.logp_NK)
    pad = torch.nn.functional.pad
    padded = Coarse(pad(signal.index_NK, (0, 3)), pad(signal.logp_NK, (0, 3), value=UNUSED), signal.tail_N)
    losses, gradients = [], []
    for coarse in (signal, padded):
        loss = DIVERGENCES[name](*coarse.pair(student))
        losses.append(loss)
        gradients.append(torch.autograd.grad(loss.sum(), student)[0])
    assert torch.isfinite(losses[1]).all()
    torch.testing.assert_close(losses[0], losses[1], rtol=1e-6, atol=1e-7)
    torch.testing.assert_close(gradients[0], gradients[1], rtol=1e-5, atol=1e-7)
    alone = Coarse(padded.index_NK[:, 5:], padded.logp_NK[:, 5:])
    assert torch.equal(DIVERGENCES["forward_kl"](*alone.pair(student)), torch.zeros(3))


@pytest.mark.parametrize("name", sorted(DIVERGENCES))
def test_a_teacher_sure_of_its_tokens_leaves_everything_finite(name: str) -> None:
    teacher = torch.tensor([[0.0, -90.0, -200.0, -float("inf")]]).log_softmax(-1)
    student = torch.tensor([[-30.0, 40.0, 0.0, 1.0]], requires_grad=True)
    for signal in (top_k(teacher, 1), top_k(teacher, 3), whole(teacher)):
        loss = DIVERGENCES[name](*signal.pair(student.log_softmax(-1))).sum()
        (gradient,) = torch.autograd.grad(loss, student)
        assert torch.isfinite(loss)
        assert torch.isfinite(gradient).all()


def test_draws_are_unbiased_and_so_is_their_gradient() -> None:
    """The mean over many draws, within 5 standard errors of the truth at every entry."""
    teacher, rounds = logp(9, 1, 12), 4000
    many = draw(teacher.expand(rounds, 12), uniform(10, rounds, 20))
    student = logp(11, 1, 12)
    leaf = student.expand(rounds, 12).clone().requires_grad_()
    forward_kl(*many.pair(leaf.log_softmax(-1))).sum().backward()
    assert leaf.grad is not None
    true = student.exp() - teacher.exp()  # of KL(P || softmax(z)) with respect to z
    off = leaf.grad.mean(0) - true[0]
    assert (off.abs() <= 5 * leaf.grad.std(0) / rounds**0.5 + 1e-6).all()
    weight = torch.zeros(rounds, 12).scatter_add(1, many.index_NK, many.logp_NK.exp())
    assert (weight.mean(0) - teacher[0].exp()).abs().max() < 5 * 0.5 / (20 * rounds) ** 0.5
    # The renormalised top-k is not, however often it is taken.
    leaf = student.clone().requires_grad_()
    forward_kl(*renormalised(top_k(teacher, 3)).pair(leaf.log_softmax(-1))).sum().backward()
    assert leaf.grad is not None
    assert (leaf.grad - true).norm() > 5 * off.norm()


def test_draws_follow_plain_inversion() -> None:
    chance = [0.1, 0.0, 0.6, 0.3]
    points = [0.0, 0.05, 0.099, 0.1001, 0.5, 0.6999, 0.7001, 0.999]
    got = draw(torch.tensor([chance]).log(), torch.tensor([points], dtype=torch.float64))
    assert got.index_NK.tolist() == [[0, 2, 3]]
    assert got.logp_NK.exp()[0].tolist() == pytest.approx([3 / 8, 3 / 8, 2 / 8])


def test_the_temperature_divides_the_logits() -> None:
    logits = torch.randn(300, 15, generator=torch.Generator().manual_seed(3))
    got = coarsen(logits, Cache(k=4), 2.0)
    want = top_k((logits.double() / 2).log_softmax(-1), 4)
    assert torch.equal(got.index_NK, want.index_NK)
    torch.testing.assert_close(got.logp_NK.double(), want.logp_NK, rtol=1e-5, atol=1e-5)
    assert got.tail_N is not None
    assert want.tail_N is not None
    torch.testing.assert_close(got.tail_N.double(), want.tail_N, rtol=1e-5, atol=1e-5)


def test_the_bias_is_that_of_plain_gradients() -> None:
    student, teacher = logp(12, 5, 30), logp(13, 5, 30)
    bias = Bias(forward_kl)
    bias.add(student[:2], teacher[:2], top_k(teacher[:2], 4))
    bias.add(student[2:], teacher[2:], top_k(teacher[2:], 4))
    facts = bias.facts
    p, q = teacher.double().exp(), student.double().exp()
    top = p.topk(4).indices
    named = torch.zeros_like(p).scatter(1, top, 1.0)
    p_tail, q_tail = (p * (1 - named)).sum(-1, keepdim=True), (q * (1 - named)).sum(-1, keepdim=True)
    full = q - p
    coarse = q - named * p - (1 - named) * q * p_tail / q_tail  # the tail's mass, spread as the student has it
    renorm = q - named * p / (1 - p_tail)
    assert facts["positions"] == 5
    assert facts["named"] == 4
    assert facts["full"] == pytest.approx(float((p * (p / q).log()).sum() / 5), rel=1e-5)
    for start, other in (("", coarse), ("renormalised_", renorm)):
        cosine = (other * full).sum() / other.norm() / full.norm()
        assert facts[f"{start}cosine"] == pytest.approx(float(cosine), rel=1e-4)
        assert facts[f"{start}error"] == pytest.approx(float((other - full).norm() / full.norm()), rel=1e-3)
        mean = float((other - full).sum(0).norm() / full.sum(0).norm())
        assert facts[f"{start}mean_error"] == pytest.approx(mean, rel=1e-3)
    assert 0 < facts["ratio"] < 1


@pytest.mark.parametrize("name", sorted(DIVERGENCES))
def test_the_whole_distribution_has_no_bias(name: str) -> None:
    student, teacher = logp(12, 5, 30), logp(13, 5, 30)
    bias = Bias(DIVERGENCES[name], temperature=2.0)
    bias.add(student, teacher, coarsen(teacher, Cache(k="vocabulary"), 2.0))
    assert bias.facts["ratio"] == pytest.approx(1, abs=1e-6)
    assert bias.facts["cosine"] == pytest.approx(1, abs=1e-6)
    assert bias.facts["error"] < 1e-5


def test_a_likely_head_makes_the_tail_entry_better_than_dropping_it() -> None:
    """A student that differs from its teacher a little, as after a cut: the tail's mass is what matters."""
    teacher = logp(13, 200, 300)
    student = (teacher + 0.3 * logp(14, 200, 300) / 4).log_softmax(-1)
    bias = Bias(forward_kl)
    bias.add(student, teacher, top_k(teacher, 8))
    assert bias.facts["error"] < 0.7 * bias.facts["renormalised_error"]
    assert bias.facts["mean_error"] < 0.7 * bias.facts["renormalised_mean_error"]

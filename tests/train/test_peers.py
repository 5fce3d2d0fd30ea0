"""Our divergences against TRL's and torch's, where they mean the same; docs/training.md says where they do not."""

import importlib
import warnings
from typing import Any

import pytest
import torch
from torch.nn.functional import kl_div

from harness.terms import Kd
from harness.train.objective import kd_loss


def trl_loss() -> Any:
    pytest.importorskip("trl", reason="TRL is not installed")
    with pytest.MonkeyPatch.context() as patch, warnings.catch_warnings():
        warnings.simplefilter("ignore")  # its own, at import
        patch.setenv("TRL_EXPERIMENTAL_SILENCE", "1")
        return importlib.import_module("trl.experimental.gkd.gkd_trainer").GKDTrainer.generalized_jsd_loss


def logits() -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    student, teacher = 3 * torch.randn(2, 2, 5, 40, generator=generator, dtype=torch.float64)
    return student, teacher


def ours(table: Kd) -> float:
    student, teacher = logits()
    return float(kd_loss(student.flatten(0, 1), teacher.flatten(0, 1), table).sum())


def theirs(**options: Any) -> float:
    student, teacher = logits()
    return float(trl_loss()(student, teacher, reduction="sum", **options))


@pytest.mark.parametrize("beta", [0.0, 0.1, 0.5, 0.9, 1.0])
def test_the_published_jsd_is_trls(beta: float) -> None:
    assert ours(Kd(divergence="jsd", beta=beta, normalise=False)) == pytest.approx(theirs(beta=beta), rel=1e-6)


def test_trl_has_no_t_squared() -> None:
    assert ours(Kd(temperature=2.0, t_squared=False)) == pytest.approx(theirs(beta=0, temperature=2.0), rel=1e-6)
    assert ours(Kd(temperature=2.0)) == pytest.approx(4 * theirs(beta=0, temperature=2.0), rel=1e-6)


def test_near_its_ends_trls_knob_has_almost_no_signal_and_ours_is_near_the_kl() -> None:
    kl = theirs(beta=0)
    assert theirs(beta=1e-5) < 1e-4 * kl
    assert ours(Kd(divergence="jsd", beta=1e-5)) == pytest.approx(kl, rel=0.03)


def test_forward_and_reverse_kl_are_torchs() -> None:
    student, teacher = (values.log_softmax(-1) for values in logits())
    forward = float(kl_div(student, teacher, reduction="sum", log_target=True))
    assert ours(Kd()) == pytest.approx(forward, rel=1e-12)
    reverse = float(kl_div(teacher, student, reduction="sum", log_target=True))
    assert ours(Kd(divergence="reverse_kl")) == pytest.approx(reverse, rel=1e-12)

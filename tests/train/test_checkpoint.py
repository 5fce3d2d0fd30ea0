"""Checkpoints: what is in them, what happens when they cannot be written or read."""

import contextlib
import json
import resource
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from harness.errors import TrainingError
from harness.train import checkpoint
from harness.train.parallel import Learner
from tests.tiny import tiny_model


def learner(seed: int = 0) -> Learner:
    """A student of tied weights, a frozen layer and a projection beside it."""
    model = tiny_model(2, seed).model
    model.model.layers[0].requires_grad_(False)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        beside = torch.nn.Linear(3, 2)
    return Learner(model, beside)


def optimizer_of(learner: Learner, lr: float = 0.1) -> Any:
    trainable = list(learner.trainable().values())
    half = len(trainable) // 2
    return torch.optim.AdamW([{"params": trainable[:half], "weight_decay": 0.3}, {"params": trainable[half:]}], lr=lr,
                             betas=(0.8, 0.9), fused=True)  # fmt: skip


def steps(learner: Learner, optimizer: Any, count: int) -> None:
    """Steps on gradients of chance; the projection's bias never gets one."""
    for _ in range(count):
        for name, value in learner.trainable().items():
            value.grad = None if name == "beside.bias" else torch.randn_like(value)
        optimizer.step()


def same(ours: Learner, theirs: Learner) -> bool:
    return all(torch.equal(value, theirs.named()[name]) for name, value in ours.named().items())


@contextlib.contextmanager
def files_of_at_most(size: int) -> Iterator[None]:
    """As on a disk that is full: the system refuses to write more into a file."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def test_what_comes_back_goes_on_as_if_nothing_had_happened(tmp_path: Path) -> None:
    torch.manual_seed(1)
    whole = learner()
    optimizer = optimizer_of(whole)
    steps(whole, optimizer, 3)
    checkpoint.save(tmp_path, 3, whole, optimizer, "k")
    steps(whole, optimizer, 2)

    torch.manual_seed(99)
    other = learner(seed=7)
    again = optimizer_of(other, lr=0.7)
    saved = checkpoint.load(tmp_path, "k")
    assert saved is not None
    assert saved.restore(other, again) == 3
    assert not same(other, whole)
    steps(other, again, 2)
    assert same(other, whole)
    assert [group["lr"] for group in again.param_groups] == [0.1, 0.1]
    assert [group["weight_decay"] for group in again.param_groups] == [0.3, 0.01]
    assert other.model.lm_head.weight is other.model.model.embed_tokens.weight


def test_groups_may_be_cut_in_another_way(tmp_path: Path) -> None:
    """As they are where some parameters are split over processes."""
    torch.manual_seed(1)
    whole = learner()
    optimizer = optimizer_of(whole)
    steps(whole, optimizer, 3)
    checkpoint.save(tmp_path, 3, whole, optimizer, "k")
    other = learner(seed=7)
    half = len(other.trainable()) // 2
    parts = list(other.trainable().values())
    again = torch.optim.AdamW([{"params": parts[:1]}, {"params": parts[1:half]}, {"params": parts[half:]}], lr=0.7)
    saved = checkpoint.load(tmp_path, "k")
    assert saved is not None
    saved.restore(other, again)
    assert [group["weight_decay"] for group in again.param_groups] == [0.3, 0.3, 0.01]
    for name, value in whole.trainable().items():
        moments = again.state.get(other.trainable()[name], {})
        assert moments.keys() == optimizer.state.get(value, {}).keys()
        assert all(torch.equal(moments[kind], optimizer.state[value][kind]) for kind in moments)


def test_a_checkpoint_is_of_named_tensors_in_files_of_a_stated_size(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(checkpoint, "FILE_BYTES", 40_000)
    ours = learner()
    optimizer = optimizer_of(ours)
    steps(ours, optimizer, 1)
    checkpoint.save(tmp_path, 1, ours, optimizer, "k")
    folder = tmp_path / "step-000001"
    state = json.loads((folder / "state.json").read_text())
    files = sorted(path.name for path in folder.glob("*.safetensors"))
    assert files == sorted(state["files"])
    assert len(files) > 3
    tensors: dict[str, torch.Tensor] = {}
    for name in files:
        found = load_file(folder / name)
        assert len(found) == 1 or sum(value.nbytes for value in found.values()) <= 40_000
        assert not tensors.keys() & found.keys()
        tensors |= found
    assert tensors["model.model.embed_tokens.weight"].shape == (258, 32)
    assert tensors["exp_avg:model.model.embed_tokens.weight"].shape == (258, 32)
    assert "model.lm_head.weight" not in tensors  # tied
    assert "exp_avg:model.model.layers.0.mlp.up_proj.weight" not in tensors  # frozen
    assert "exp_avg:beside.bias" not in tensors  # never had a gradient
    assert state["counts"]["beside.weight"] == {"step": 1.0}
    assert state["counts"]["beside.bias"] == {}
    assert dict(checkpoint.Saved(1, folder, state).tensors()).keys() == tensors.keys()


def test_the_last_two_are_kept(tmp_path: Path) -> None:
    ours = learner()
    for step in (9, 10, 999_999, 1_000_000):
        checkpoint.save(tmp_path, step, ours, optimizer_of(ours), "k")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["step-1000000", "step-999999"]
    last = checkpoint.latest(tmp_path)
    assert last is not None
    assert checkpoint.step_of(last) == 1_000_000
    checkpoint.clear(tmp_path)
    assert not tmp_path.exists()


def flip_a_bit(folder: Path) -> None:
    path = folder / "tensors-00001.safetensors"
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data)


def cut(folder: Path) -> None:
    path = folder / "tensors-00001.safetensors"
    path.write_bytes(path.read_bytes()[:-1])


def lose(folder: Path) -> None:
    (folder / "tensors-00001.safetensors").unlink()


def garble(folder: Path) -> None:
    (folder / "state.json").write_text("{")


@pytest.mark.parametrize(
    ("damage", "said"),
    [(flip_a_bit, "is not what was written"), (cut, "bytes of"), (lose, "No such file"), (garble, "cannot be read")],
)
def test_a_damaged_checkpoint_is_passed_over_and_said_so(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], damage: Any, said: str
) -> None:
    ours = learner()
    optimizer = optimizer_of(ours)
    for step in (1, 2):
        checkpoint.save(tmp_path, step, ours, optimizer, "k")
    damage(tmp_path / "step-000002")
    saved = checkpoint.load(tmp_path, "k")
    assert saved is not None
    assert saved.step == 1
    text = capsys.readouterr().err
    assert "step-000002 cannot be read" in text
    assert said in text
    assert "trying the one before" in text


def test_checkpoints_of_other_trainings_are_nobodys(tmp_path: Path) -> None:
    ours = learner()
    checkpoint.save(tmp_path, 1, ours, optimizer_of(ours), "one")
    assert checkpoint.load(tmp_path, "another") is None
    assert checkpoint.load(tmp_path / "nowhere", "one") is None
    assert checkpoint.load(tmp_path, "one") is not None


def test_a_full_disk_leaves_the_earlier_checkpoint_and_no_half_one(tmp_path: Path) -> None:
    ours = learner()
    optimizer = optimizer_of(ours)
    steps(ours, optimizer, 1)
    checkpoint.save(tmp_path, 1, ours, optimizer, "k")
    with files_of_at_most(20_000), pytest.raises(TrainingError, match="the disk is full") as caught:
        checkpoint.save(tmp_path, 2, ours, optimizer, "k")
    assert "step 1 is kept" in str(caught.value)
    assert [path.name for path in tmp_path.iterdir()] == ["step-000001"]
    assert checkpoint.load(tmp_path, "k") is not None


def test_the_best_weights_are_replaced_whole_or_not_at_all(tmp_path: Path) -> None:
    target = tmp_path / "best"
    first, second, third = learner(1), learner(2), learner(3)
    for one in (first, second):
        checkpoint.save_weights(target, one)
    stray = target / "weights-a-00009.safetensors"  # of a run that was killed while it wrote
    stray.write_bytes(b"half")
    with files_of_at_most(20_000), pytest.raises(TrainingError, match="the disk is full"):
        checkpoint.save_weights(target, third)
    found = learner(4)
    checkpoint.load_weights(target, found)
    assert same(found, second)
    checkpoint.save_weights(target, third)
    checkpoint.load_weights(target, found)
    assert same(found, third)
    assert len(list(target.iterdir())) == 2  # the index and its file
    flip = next(target.glob("*.safetensors"))
    flip.write_bytes(flip.read_bytes()[:-1])
    with pytest.raises(TrainingError, match="best weights") as caught:
        checkpoint.load_weights(target, found)
    assert caught.value.hint is not None

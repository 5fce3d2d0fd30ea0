"""The training loop: what it must never change, how it resumes, how it stops."""

import errno
import itertools
import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch
from torch.nn.utils import clip_grad_norm_

from harness.config import Train
from harness.errors import TrainingError
from harness.models.load import LoadedModel, load_model
from harness.models.students import from_layers, scratch
from harness.progress import quiet
from harness.terms import Ce, Kd, Terms
from harness.train import checkpoint
from harness.train.batches import Row, plan_steps, to_document
from harness.train.loop import Place, learning_rate, train
from harness.train.objective import Objective
from harness.train.parallel import Learner
from tests.tiny import save_tiny, tiny_chats, tiny_corpus, tiny_model

KD = Terms(kd=Kd())
CE = Terms(ce=Ce())


def config(terms: Terms = KD, **changes: Any) -> Train:
    values: dict[str, Any] = {"corpus": "-", "tokens": 2500, "lr": 3e-3, "row_tokens": 200, "evaluate_every": 4}
    return Train(terms=terms, **(values | {"checkpoint_every": 3, "evaluate_chats": 4} | changes))


def plan(loaded: LoadedModel, wanted: Train) -> list[list[Row]]:
    documents = [to_document(loaded.tokenizer, chat, None) for chat in tiny_chats()]
    return plan_steps(
        documents, tokens=wanted.tokens, row_tokens=wanted.row_tokens, accumulate=wanted.accumulate, seed=1
    )


def run(
    student: LoadedModel, teacher: LoadedModel, folder: Path, wanted: Train, progress: Any = quiet
) -> dict[str, Any]:
    folder.mkdir(exist_ok=True)
    held_out = [to_document(teacher.tokenizer, chat, None) for chat in tiny_chats(4)]
    return train(
        student.model,
        teacher.model,
        plan(teacher, wanted),
        held_out,
        wanted,
        Objective(wanted.terms, len(teacher.tokenizer), wanted.chunk_tokens),
        Place(folder, "k"),
        seed=5,
        end_of_turn=teacher.tokenizer.eos_token_id,
        progress=progress,
    )


def weights(loaded: LoadedModel) -> dict[str, torch.Tensor]:
    return {name: tensor.clone() for name, tensor in loaded.model.state_dict().items()}


def same(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor]) -> bool:
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


def metrics(folder: Path) -> list[dict[str, Any]]:
    lines = [json.loads(text) for text in (folder / "metrics.jsonl").read_text().splitlines()]
    clocks = ("tokens_per_s", "seconds", "left_s", "memory_mb")
    return [{name: value for name, value in line.items() if name not in clocks} for line in lines]


def test_distillation_brings_the_student_nearer_and_leaves_the_teacher_alone(tmp_path: Path) -> None:
    teacher = tiny_model()
    before = weights(teacher)
    student = from_layers(teacher, [0, 3])
    run(student, teacher, tmp_path, config())
    lines = metrics(tmp_path)
    assert lines[-1]["eval"]["kl"] < 0.7 * lines[0]["eval"]["kl"]
    assert same(weights(teacher), before)
    assert all(parameter.grad is None for parameter in teacher.model.parameters())
    assert not same(weights(student), weights(from_layers(teacher, [0, 3])))


def test_kd_weight_zero_is_the_control_bit_for_bit(tmp_path: Path) -> None:
    teacher = tiny_model()
    ours, control = scratch(teacher, 2, 9), scratch(teacher, 2, 9)
    run(ours, teacher, tmp_path / "a", config(Terms(kd=Kd(weight=0), ce=Ce())))
    run(control, teacher, tmp_path / "b", config(CE))
    assert same(weights(ours), weights(control))


def test_eight_rows_at_once_are_eight_accumulated(tmp_path: Path) -> None:
    teacher = tiny_model()
    document = to_document(teacher.tokenizer, tiny_chats(1)[0], None)
    row, joined = Row((document,)), Row((document,) * 8)
    gradients = []
    for number, step in enumerate(([joined], [row] * 8)):
        student = from_layers(teacher, [0, 3])
        # Adam's first step knows only signs, so the gradients that reach it are compared, clipped as the loop does.
        kept: list[torch.Tensor] = []

        def spy(
            parameters: Any, clip: float, kept: list[torch.Tensor] = kept, real: Any = clip_grad_norm_
        ) -> torch.Tensor:
            wanted = list(parameters)
            norm = real(wanted, clip)
            kept.extend(parameter.grad.clone() for parameter in wanted)
            return norm

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(torch.nn.utils, "clip_grad_norm_", spy)
            (tmp_path / str(number)).mkdir()
            wanted = config()
            train(student.model, teacher.model, [step], [document], wanted, Objective(wanted.terms, 258),
                  Place(tmp_path / str(number), "k"), seed=1, end_of_turn=1, progress=quiet)  # fmt: skip
        gradients.append(kept)
    for one, eight in zip(*gradients, strict=True):
        torch.testing.assert_close(one, eight, rtol=1e-3, atol=1e-6)


@pytest.mark.parametrize("at", [2, 3, 7])
def test_a_killed_run_ends_as_if_it_had_not_been(tmp_path: Path, at: int) -> None:
    teacher = tiny_model()
    whole = from_layers(teacher, [0, 3])
    run(whole, teacher, tmp_path / "whole", config(accumulate=2))

    class KilledError(Exception):
        pass

    def kill(done: int, total: int, note: str) -> None:
        if done == at:
            raise KilledError

    with pytest.raises(KilledError):
        run(from_layers(teacher, [0, 3]), teacher, tmp_path / "killed", config(accumulate=2), kill)
    torch.randn(3)  # whatever happens between must not matter
    resumed = from_layers(teacher, [0, 3])
    run(resumed, teacher, tmp_path / "killed", config(accumulate=2))
    assert same(weights(resumed), weights(whole))
    assert metrics(tmp_path / "killed") == metrics(tmp_path / "whole")


def test_a_damaged_checkpoint_falls_back_to_the_one_before(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    teacher = tiny_model()
    whole = from_layers(teacher, [0, 3])
    run(whole, teacher, tmp_path / "whole", config())

    def kill(done: int, total: int, note: str) -> None:
        if done == 8:
            raise RuntimeError("killed")

    with pytest.raises(RuntimeError):
        run(from_layers(teacher, [0, 3]), teacher, tmp_path / "killed", config(), kill)
    last = checkpoint.latest(tmp_path / "killed" / "checkpoints")
    assert last is not None
    assert checkpoint.step_of(last) == 6
    (last / "tensors-00001.safetensors").write_bytes(b"half a file")
    resumed = from_layers(teacher, [0, 3])
    run(resumed, teacher, tmp_path / "killed", config())
    assert same(weights(resumed), weights(whole))
    assert "continuing after step 3" in capsys.readouterr().err


def test_a_checkpoint_of_another_training_is_not_resumed(tmp_path: Path) -> None:
    loaded = tiny_model()
    checkpoint.save(tmp_path, 4, Learner(loaded.model), torch.optim.AdamW(loaded.model.parameters()), "one")
    assert checkpoint.load(tmp_path, "another") is None
    assert checkpoint.load(tmp_path, "one") is not None


def test_a_loss_that_is_not_finite_stops_and_keeps_the_last_good_checkpoint(tmp_path: Path) -> None:
    teacher = tiny_model()
    student = from_layers(teacher, [0, 3])

    def spoil(done: int, total: int, note: str) -> None:
        if done == 4:
            with torch.no_grad():
                next(student.model.parameters())[:] = float("nan")

    with pytest.raises(TrainingError) as caught:
        run(student, teacher, tmp_path, config(), spoil)
    text = str(caught.value)
    assert "step 5: the loss is nan" in text
    assert "checkpoint of step 3 is kept" in text
    assert "lower train.lr" in text
    batch = json.loads((tmp_path / "bad-step-5.json").read_text())
    assert [tuple(row["ids"]) for row in batch["rows"]] == [row.ids for row in plan(teacher, config())[4]]
    saved = checkpoint.load(tmp_path / "checkpoints", "k")
    assert saved is not None
    assert all(torch.isfinite(tensor).all() for _, tensor in saved.tensors())


def test_bad_steps_are_skipped_up_to_the_stated_number_and_logged(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    teacher = tiny_model()
    student = from_layers(teacher, [0, 3])
    norms = iter([1.0, float("inf"), *[1.0] * 100])

    def spoilt(parameters: Any, clip: float) -> torch.Tensor:
        clip_grad_norm_(parameters, clip)
        return torch.tensor(next(norms))

    monkeypatch.setattr(torch.nn.utils, "clip_grad_norm_", spoilt)
    before: dict[int, dict[str, torch.Tensor]] = {}
    run(student, teacher, tmp_path, config(bad_steps=2), lambda done, *_: before.setdefault(done, weights(student)))
    assert same(before[1], before[2])  # the second step changed nothing
    assert not same(before[2], before[3])
    assert [line["step"] for line in metrics(tmp_path) if line.get("skipped")] == [2]
    assert "skipped, 1 of 2" in capsys.readouterr().err


def test_a_full_disk_while_writing_a_checkpoint_loses_nothing_finished(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    teacher = tiny_model()
    student = from_layers(teacher, [0, 3])
    real = safetensors.torch.save_file

    def full(tensors: dict[str, torch.Tensor], path: Path) -> None:
        if "step-000006" in str(path):
            path.write_bytes(b"half")
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        real(tensors, path)

    monkeypatch.setattr(safetensors.torch, "save_file", full)
    with pytest.raises(TrainingError, match="disk is full") as caught:
        run(student, teacher, tmp_path, config())
    assert "step 3 is kept" in str(caught.value)
    folders = sorted(path.name for path in (tmp_path / "checkpoints").iterdir())
    assert folders == ["step-000003"]


def test_the_rate_rises_and_falls() -> None:
    rates = [learning_rate(index, 20, config(lr=1.0, warmup=0.25, final_lr=0.1)) for index in range(20)]
    assert rates[:5] == pytest.approx([0.2, 0.4, 0.6, 0.8, 1.0])
    assert rates[-1] == pytest.approx(0.1)
    assert all(later <= earlier for earlier, later in itertools.pairwise(rates[5:]))


STUDY = """\
schema = 1
name = "tiny"
[teacher]
source = "teacher"
[[student]]
name = "distilled"
shape = {{ layers = 2 }}
[student.train]
corpus = "corpus.jsonl"
tokens = {tokens}
row_tokens = 200
checkpoint_every = 5
terms = {{ kd = {{}} }}
"""


def test_ctrl_c_finishes_the_step_and_the_same_command_continues(tmp_path: Path) -> None:
    save_tiny(tmp_path / "teacher")
    tiny_corpus(tmp_path / "corpus.jsonl", 200)
    command = [sys.executable, "-m", "harness.cli", "train", "study.toml", "--run"]
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])}
    (tmp_path / "study.toml").write_text(STUDY.format(tokens=9_000))

    first = subprocess.Popen(
        [*command, "run"], cwd=tmp_path, stderr=subprocess.PIPE, text=True, env=environment, start_new_session=True
    )
    log = tmp_path / "run" / "arms" / "distilled" / "metrics.jsonl"
    while first.poll() is None and not (log.exists() and len(log.read_text().splitlines()) > 8):
        pass
    os.killpg(first.pid, signal.SIGINT)
    _, text = first.communicate(timeout=60)
    assert first.returncode == 130, text
    assert "Traceback" not in text
    assert "the same command continues" in text

    second = subprocess.run([*command, "run"], cwd=tmp_path, capture_output=True, text=True, env=environment)
    assert second.returncode == 0, second.stderr
    assert "continuing after step" in second.stderr
    whole = subprocess.run([*command, "whole"], cwd=tmp_path, capture_output=True, text=True, env=environment)
    assert whole.returncode == 0, whole.stderr
    ours, other = (load_model(tmp_path / name / "arms" / "distilled" / "model") for name in ("run", "whole"))
    assert same(weights(ours), weights(other))

    third = subprocess.run([*command, "run"], cwd=tmp_path, capture_output=True, text=True, env=environment)
    assert "train distilled: finished" in third.stderr


def test_padded_vocabularies_of_different_sizes_train_as_if_they_were_not_padded(tmp_path: Path) -> None:
    """Qwen's smaller and larger models share a tokenizer, not the size of the embedding matrix."""
    teacher, padded = tiny_model(), tiny_model()
    padded.model.resize_token_embeddings(320, mean_resizing=False)
    with torch.no_grad():
        padded.model.get_input_embeddings().weight[258:] = 3.0  # would take most of the probability
    plain, other = from_layers(teacher, [0, 3]), from_layers(teacher, [0, 3])
    run(plain, teacher, tmp_path / "plain", config())
    run(other, padded, tmp_path / "padded", config())
    for ours, theirs in zip(metrics(tmp_path / "plain"), metrics(tmp_path / "padded"), strict=True):
        assert ours.get("loss", 0) == pytest.approx(theirs.get("loss", 0), rel=1e-4)
        assert ours.get("eval", {}) == pytest.approx(theirs.get("eval", {}), rel=1e-3)

"""Training in several processes, started by accelerate launch: the same steps as in one, and an end for all."""

import json
import math
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from harness.errors import ConfigError, TrainingError
from harness.models.load import load_model
from harness.models.students import from_layers
from harness.terms import Attention, Hidden, Kd, Terms
from harness.train import parallel, sharding
from harness.train.batches import pack, to_batch, to_document
from harness.train.layers import LayerTerms
from harness.train.objective import Objective, backward_row, counts, heads_of
from tests.tiny import save_tiny, tiny_chats, tiny_corpus, tiny_model
from tests.train.several import CASES, run_case

REPOSITORY = Path(__file__).parents[2]
DEALT = ["--multi_gpu"]
SHARDED = ["--use_fsdp", "--fsdp_version", "2"]


def launch(how: list[str], *arguments: str, cwd: Path = REPOSITORY) -> subprocess.CompletedProcess[str]:
    """Two processes on the CPU, by the launcher that users have. `--cpu` would start a single one."""
    command = [sys.executable, "-m", "accelerate.commands.launch", *how, "--num_processes", "2"]
    command += ["--num_machines", "1", "--mixed_precision", "no", "--dynamo_backend", "no", "--main_process_port", "0"]
    environment = {**os.environ, "PYTHONPATH": str(REPOSITORY), "ACCELERATE_USE_CPU": "true", "OMP_NUM_THREADS": "1"}
    return subprocess.run(
        [*command, "-m", *arguments], cwd=cwd, env=environment, capture_output=True, text=True, timeout=600
    )


@pytest.fixture(scope="module")
def one(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Every case, trained in this process; one is left with a checkpoint as well."""
    folder = tmp_path_factory.mktemp("one")
    for case in CASES:
        run_case(case, folder / case)
    run_case("plain", folder / "plain stopped", stop_after=3)
    return folder


@pytest.fixture(scope="module", params=["dealt", "sharded"])
def two(request: pytest.FixtureRequest, one: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Every case, trained in two processes; one continues from the checkpoint of one process, one is left."""
    folder = tmp_path_factory.mktemp(request.param)
    shutil.copytree(one / "plain stopped", folder / "plain stopped")
    how = {"dealt": DEALT, "sharded": SHARDED}[request.param]
    done = launch(how, "tests.train.several", str(folder), *CASES, "plain:again", "uneven:3", "layers:3")
    assert done.returncode == 0, done.stderr
    assert f"training in 2 processes, {'sharded' if how is SHARDED else 'the rows'}" in done.stderr
    assert "continuing after step 2 of 6" in done.stderr
    return folder


def assert_same_training(ours: Path, theirs: Path, tolerance: float = 1e-5) -> None:
    """The same curve, evaluations and weights."""
    lines, others = ([json.loads(text) for text in (at / "metrics.jsonl").read_text().splitlines()]
                     for at in (ours, theirs))  # fmt: skip
    assert [line["tokens"] for line in lines] == [line["tokens"] for line in others]
    for line, other in zip(lines, others, strict=True):
        for name in line.keys() - {"tokens_per_s", "seconds", "left_s", "memory_mb", "eval"}:
            assert line[name] == pytest.approx(other[name], rel=tolerance, abs=1e-9), name
        assert line.get("eval", {}) == pytest.approx(other.get("eval", {}), rel=10 * tolerance)
    weights, expected = (load_file(at / "model" / "model.safetensors") for at in (ours, theirs))
    assert weights.keys() == expected.keys()
    for name in expected:
        torch.testing.assert_close(weights[name], expected[name], rtol=tolerance, atol=10 * tolerance)


@pytest.mark.parametrize("case", CASES)
def test_two_processes_take_the_steps_of_one(one: Path, two: Path, case: str) -> None:
    # Sharded layers are gathered in bfloat16, their norms' weights included, which autocast leaves as they are.
    rounded = case == "bfloat16" and "sharded" in two.name
    assert_same_training(two / case, one / case, 1e-2 if rounded else 1e-5)


def test_a_saved_model_is_an_ordinary_one(two: Path) -> None:
    config = json.loads((two / "plain" / "model" / "config.json").read_text())
    assert config["architectures"] == ["LlamaForCausalLM"]
    names = load_file(two / "plain" / "model" / "model.safetensors")
    assert "model.embed_tokens.weight" in names
    assert "lm_head.weight" not in names  # tied, and still so
    assert not any("lora" in name for name in load_file(two / "lora" / "model" / "model.safetensors"))


def test_a_checkpoint_of_one_process_continues_in_two(one: Path, two: Path) -> None:
    assert_same_training(two / "plain stopped", one / "plain")


@pytest.mark.parametrize("case", ["uneven", "layers"])
def test_a_checkpoint_of_two_processes_continues_in_one(one: Path, two: Path, case: str, tmp_path: Path) -> None:
    shutil.copytree(two / f"{case} left", tmp_path / case)
    assert not (tmp_path / case / "model").exists()
    run_case(case, tmp_path / case)
    assert_same_training(tmp_path / case, one / case)


def test_after_the_launch_the_main_process_is_alone(two: Path) -> None:
    assert (two / "alone").read_text() == "1 False"


@pytest.mark.parametrize("how", [DEALT, SHARDED])
def test_an_error_in_one_process_ends_all(tmp_path: Path, how: list[str]) -> None:
    done = launch(how, "tests.train.several", str(tmp_path), "plain:fails")
    assert done.returncode != 0
    assert "RuntimeError: the second process fell over" in done.stderr
    assert not (tmp_path / "alone").exists()


STUDY = """\
schema = 1
name = "tiny"
[teacher]
source = "teacher"
[[student]]
name = "distilled"
shape = { layers = 2 }
[student.train]
corpus = "corpus.jsonl"
tokens = 3_000
row_tokens = 200
accumulate = 4
precision = "float32"
terms = { kd = {} }
"""


def test_viva_train_gives_the_same_model_in_two_processes(tmp_path: Path) -> None:
    save_tiny(tmp_path / "teacher")
    tiny_corpus(tmp_path / "corpus.jsonl")
    (tmp_path / "study.toml").write_text(STUDY)
    command = ["harness.cli", "train", "study.toml", "--run"]
    plain = subprocess.run(
        [sys.executable, "-m", *command, "one"], cwd=tmp_path, capture_output=True, text=True,
        env={**os.environ, "PYTHONPATH": str(REPOSITORY)},
    )  # fmt: skip
    assert plain.returncode == 0, plain.stderr
    done = launch(SHARDED, *command, "two", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert done.stderr.count("train distilled: done in") == 1
    ours, expected = (load_model(tmp_path / name / "arms" / "distilled" / "model").model for name in ("two", "one"))
    for value, other in zip(ours.parameters(), expected.parameters(), strict=True):
        torch.testing.assert_close(value, other, rtol=1e-5, atol=1e-5)
    manifest = json.loads((tmp_path / "two" / "arms" / "distilled" / "manifest.json").read_text())
    assert manifest["status"] == "finished"
    assert manifest["training"]["processes"] == 2
    assert not (tmp_path / "two" / "arms" / "distilled" / "checkpoints").exists()


def test_one_process_is_told_nothing_and_asked_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    parallel.start()
    parallel.stop()
    assert (parallel.world(), parallel.rank(), parallel.main()) == (1, 0, True)
    assert parallel.share([1, 2, 3]) == [1, 2, 3]
    assert parallel.add_up({"a": 1, "b": 2}, {"a": 3}, {}) == {"a": 4, "b": 2}
    assert not parallel.any_of(False)
    assert parallel.in_turn(lambda: 7) == parallel.by_main(lambda: 7) == 7
    assert capsys.readouterr().err == ""


def test_an_error_that_all_agree_on_is_raised_where_it_is_reported() -> None:
    def fail() -> None:
        raise TrainingError("it failed", hint="mend it")

    parallel.agree(None)
    for function in (parallel.in_turn, parallel.by_main):
        with pytest.raises(TrainingError, match="it failed"):
            function(fail)


@pytest.mark.parametrize(
    ("told", "way_out"),
    [
        ({"ACCELERATE_USE_DEEPSPEED": "true"}, "--use_fsdp --fsdp_version 2"),
        ({"ACCELERATE_USE_FSDP": "true", "FSDP_VERSION": "1"}, "--fsdp_version 2"),
        ({"ACCELERATE_USE_FSDP": "true", "FSDP_VERSION": "2", "FSDP_OFFLOAD_PARAMS": "true"}, "lora"),
        (
            {"ACCELERATE_USE_FSDP": "true", "FSDP_VERSION": "2", "FSDP_ACTIVATION_CHECKPOINTING": "true"},
            "gradient_checkpointing = true",
        ),
    ],
)
def test_a_launch_that_the_trainer_does_not_follow_is_refused(
    monkeypatch: pytest.MonkeyPatch, told: dict[str, str], way_out: str
) -> None:
    for name, value in {**told, "WORLD_SIZE": "2"}.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(ConfigError, match="accelerate launch was told") as caught:
        parallel.start()
    assert caught.value.hint is not None
    assert way_out in caught.value.hint


def test_the_launch_that_starts_one_process_only_is_pointed_out(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("ACCELERATE_USE_CPU", "True")
    monkeypatch.setenv("MASTER_ADDR", "127.0.0.1")
    parallel.start()
    assert "starts a single process" in capsys.readouterr().err


def test_gradients_travel_in_few_large_pieces(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(parallel, "BUCKET_BYTES", 4 * 100)
    sizes = [30, 60, 20, 200, 10, 10]
    values = [torch.zeros(size) for size in sizes] + [torch.zeros(10, dtype=torch.bfloat16)]
    runs = list(parallel._buckets(values))
    assert [[value.numel() for value in run] for run in runs] == [[30, 60], [20], [200], [10, 10], [10]]
    assert [value.dtype for value in runs[-1]] == [torch.bfloat16]
    assert len(list(parallel._buckets(tiny_model().model.parameters()))) > 1


def test_recomputed_layers_give_the_same_gradients() -> None:
    """With several documents in the row and attention looked at, which the recomputation must see as they were."""
    teacher = tiny_model()
    terms = Terms(kd=Kd(), hidden=Hidden(), attention=Attention())
    row = pack([to_document(teacher.tokenizer, chat, None) for chat in tiny_chats(4)], 200)[0]
    assert len(row.documents) > 1
    found = []
    for recompute in (False, True):
        student = from_layers(teacher, [0, 3]).model.train()
        if recompute:
            student.activation_checkpointing_enable()
        objective = Objective(terms, 258, layers=LayerTerms(student, teacher.model, terms, None, 3))
        heads = heads_of(student, teacher.model, objective.chunk)
        backward_row(student, teacher.model, to_batch(row), objective, counts(row, terms), heads)
        found.append({name: value.grad.clone() for name, value in student.named_parameters()})
    assert found[0].keys() == found[1].keys()
    for name, gradient in found[0].items():
        assert gradient.abs().max() > 0
        torch.testing.assert_close(found[1][name], gradient, rtol=1e-6, atol=1e-9)


def test_the_norm_of_the_gradients_is_that_of_all_of_them() -> None:
    model = torch.nn.Linear(3, 2)
    beside = torch.nn.Linear(2, 2, bias=False)
    learner = parallel.Learner(model, beside)
    for value in learner.trainable().values():
        value.grad = torch.full_like(value, 2.0)
    assert set(learner.trainable()) == {"model.weight", "model.bias", "beside.weight"}
    assert learner.clip(1.0) == pytest.approx(2.0 * math.sqrt(6 + 2 + 4))
    total = sum(float(value.grad.double().square().sum()) for value in learner.trainable().values())
    assert math.sqrt(total) == pytest.approx(1.0, rel=1e-5)
    assert learner.alike() == [list(learner.trainable().values())]
    assert not any(sharding.split(value) for value in learner.trainable().values())

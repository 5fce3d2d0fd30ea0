"""Training behind few bits: what is learnt, what is kept, and that it pays at two bits."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from harness.cli import main
from harness.config import Quantize, Student, Train
from harness.errors import ConfigError
from harness.models.load import LoadedModel, load_model
from harness.models.packed_weights import load_packed, packed_file
from harness.models.quantize import POINTS, project, quantized_weights, seal, with_points
from harness.models.students import from_layers
from harness.progress import quiet
from harness.study_file import load_study
from harness.terms import Ce, Kd, Terms
from harness.train.batches import pack, plan_steps, to_document
from harness.train.evaluate import evaluate
from harness.train.loop import Place, make_optimizer, train
from harness.train.objective import Objective, heads_of
from harness.train.parallel import Learner
from tests.tiny import save_tiny, tiny_chats, tiny_corpus, tiny_model

KD = Terms(kd=Kd())
TABLES = {
    "projected": Quantize(bits=2, bucket=64),
    "points": Quantize(bits=2, bucket=64, method="points"),
    "uniform": Quantize(bits=4, scheme="uniform"),
}


def config(terms: Terms = KD, **changes: Any) -> Train:
    values: dict[str, Any] = {"corpus": "-", "tokens": 2500, "lr": 3e-3, "row_tokens": 200, "evaluate_every": 4}
    return Train(terms=terms, **(values | {"checkpoint_every": 3, "evaluate_chats": 4} | changes))


def run(
    student: LoadedModel,
    teacher: LoadedModel,
    folder: Path,
    wanted: Train,
    table: Quantize | None,
    progress: Any = quiet,
) -> None:
    folder.mkdir(exist_ok=True)
    documents = [to_document(teacher.tokenizer, chat, None) for chat in tiny_chats()]
    train(
        student.model, teacher.model,
        plan_steps(documents, tokens=wanted.tokens, row_tokens=wanted.row_tokens, accumulate=1, seed=1),
        documents[:4], wanted, Objective(wanted.terms, len(teacher.tokenizer), wanted.chunk_tokens), Place(folder, "k"),
        seed=5, end_of_turn=teacher.tokenizer.eos_token_id, progress=progress, quantize=table,
    )  # fmt: skip


def student(teacher: LoadedModel, table: Quantize) -> LoadedModel:
    made = from_layers(teacher, [0, 3])
    return LoadedModel(with_points(made.model, table), made.tokenizer) if table.method == "points" else made


def held_out_kl(model: Any, teacher: LoadedModel) -> float:
    rows = pack([to_document(teacher.tokenizer, chat, None) for chat in tiny_chats(8)], 200)
    objective = Objective(KD, len(teacher.tokenizer))
    found: dict[str, float] = evaluate(model, teacher.model, rows, objective, heads_of(model, teacher.model, 512))
    return found["kl"]


def test_gradients_at_rounded_weights_move_full_ones() -> None:
    """Straight through: a step is that of AdamW on the full weights with the rounded weights' gradients."""
    table, wanted = TABLES["projected"], config(Terms(ce=Ce()), weight_decay=0.1)
    ours, theirs = (torch.nn.Sequential(torch.nn.Linear(20, 9), torch.nn.Tanh(), torch.nn.Linear(9, 4)) for _ in "ab")
    theirs.load_state_dict(ours.state_dict())
    given = torch.randn(16, 20, generator=torch.Generator().manual_seed(0))
    optimizer, plain = make_optimizer(Learner(ours), wanted, table), make_optimizer(Learner(theirs), wanted)
    full = {name: value.detach().clone() for name, value in theirs.named_parameters()}
    matrices = quantized_weights(theirs, table).keys()
    for _ in range(4):
        for name, value in theirs.named_parameters():
            with torch.no_grad():
                value.copy_(project(full[name], table) if name in matrices else full[name])
        for model, its in ((ours, optimizer), (theirs, plain)):
            its.zero_grad(set_to_none=False)
            model(given).square().sum().backward()
        for name, value in theirs.named_parameters():
            assert torch.equal(value, ours.get_parameter(name))
            assert torch.equal(value.grad, ours.get_parameter(name).grad)  # type: ignore[arg-type]
            with torch.no_grad():
                value.copy_(full[name])
        optimizer.step()
        plain.step()
        full = {name: value.detach().clone() for name, value in theirs.named_parameters()}


@pytest.mark.parametrize("kind", TABLES)
def test_every_pass_and_the_end_run_on_few_bits(tmp_path: Path, kind: str) -> None:
    teacher, table = tiny_model(), TABLES[kind]
    made = student(teacher, table)
    seen: list[int] = []

    def look(done: int, total: int, note: str) -> None:
        for value in quantized_weights(made.model, table).values():
            seen.append(value.flatten()[: table.bucket_of(value.numel())].unique().numel())

    points = [value.detach().clone() for name, value in made.model.named_parameters() if name.endswith(POINTS)]
    run(made, teacher, tmp_path, config(keep="best"), table, look)
    assert 0 < max(seen) <= 2**table.bits
    moved = [value for name, value in made.model.named_parameters() if name.endswith(POINTS)]
    assert len(moved) == (0 if kind != "points" else len(quantized_weights(made.model, table)))
    assert all(not torch.equal(*pair) for pair in zip(points, moved, strict=True))
    before = {name: value.clone() for name, value in made.model.state_dict().items() if not name.endswith(POINTS)}
    seal(made.model, table)
    for name, value in made.model.state_dict().items():
        torch.testing.assert_close(value, before[name], rtol=1e-6, atol=1e-7)


@pytest.mark.parametrize("kind", ["projected", "points"])
def test_a_killed_run_ends_as_if_it_had_not_been(tmp_path: Path, kind: str) -> None:
    teacher, table = tiny_model(), TABLES[kind]
    whole = student(teacher, table)
    run(whole, teacher, tmp_path / "whole", config(), table)

    def kill(done: int, total: int, note: str) -> None:
        if done == 8:
            raise RuntimeError("killed")

    with pytest.raises(RuntimeError, match="killed"):
        run(student(teacher, table), teacher, tmp_path / "killed", config(), table, kill)
    resumed = student(teacher, table)
    run(resumed, teacher, tmp_path / "killed", config(), table)
    wanted = whole.model.state_dict()
    assert all(torch.equal(value, wanted[name]) for name, value in resumed.model.state_dict().items())


def test_split_weights_are_refused() -> None:
    with pytest.raises(ConfigError, match="rounds whole matrices"):
        make_optimizer(Learner(torch.nn.Linear(8, 8), sharded=True), config(), TABLES["projected"])


def test_training_behind_two_bits_beats_rounding_after_training(tmp_path: Path) -> None:
    """The recipe in short: the same start, tokens and teacher; only when the weights are rounded differs."""
    teacher = tiny_model()
    wanted = config(tokens=7000, lr=1e-2, final_lr=0.05, evaluate_every=1000)
    full = from_layers(teacher, [0, 3])
    run(full, teacher, tmp_path / "full", wanted, None)
    kl = {"full": held_out_kl(full.model, teacher)}
    for bits in (2, 4, 8):
        for scheme in ("bucketed", "uniform"):
            rounded = from_layers(teacher, [0, 3]).model
            rounded.load_state_dict(full.model.state_dict())
            seal(rounded, Quantize(bits=bits, scheme=scheme))  # type: ignore[arg-type]
            kl[f"rounded-{bits}-{scheme}"] = held_out_kl(rounded, teacher)
    for bits in (2, 8):
        made = from_layers(teacher, [0, 3])
        run(made, teacher, tmp_path / f"trained-{bits}", wanted, Quantize(bits=bits))  # type: ignore[arg-type]
        kl[f"trained-{bits}"] = held_out_kl(made.model, teacher)
    points = LoadedModel(with_points(full.model, TABLES["points"]), teacher.tokenizer)
    run(points, teacher, tmp_path / "points", wanted, TABLES["points"])
    kl["points-2"] = held_out_kl(points.model, teacher)
    assert kl["trained-2"] < 0.7 * kl["rounded-2-bucketed"]
    assert kl["points-2"] < 0.9 * kl["rounded-2-bucketed"]
    assert kl["trained-8"] < 1.1 * kl["full"]
    assert kl["rounded-8-bucketed"] < 1.1 * kl["full"]
    for bits in (2, 4):
        assert kl[f"rounded-{bits}-bucketed"] < kl[f"rounded-{bits}-uniform"]


HEAD = """\
schema = 1
name = "tiny"
[teacher]
source = "teacher"
licence = "MIT"
[[student]]
name = "full"
shape = { layers = 2 }
[student.train]
corpus = "corpus.jsonl"
tokens = 600
row_tokens = 200
terms = { kd = {} }
"""
REST = """\
[[student]]
name = "trained"
shape = { layers = 2 }
quantize = { bits = 4 }
[student.train]
corpus = "corpus.jsonl"
tokens = 600
row_tokens = 200
terms = { kd = {} }
[[student]]
name = "alone"
control_of = "trained"
[[student]]
name = "points"
start = "arm:full"
quantize = { bits = 2, method = "points" }
[student.train]
corpus = "corpus.jsonl"
tokens = 600
row_tokens = 200
terms = { kd = {} }
[[student]]
name = "rounded"
start = "arm:full"
quantize = { bits = 2, scheme = "uniform" }
"""


def test_from_study_file_to_packed_models(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    save_tiny(tmp_path / "teacher")
    tiny_corpus(tmp_path / "corpus.jsonl")
    (tmp_path / "study.toml").write_text(HEAD + REST)
    assert main(["train", "study.toml", "--run", "run", "--plan"]) == 0
    assert main(["train", "study.toml", "--run", "run"]) == 0
    arms = tmp_path / "run" / "arms"
    facts = {arm: json.loads((arms / arm / "manifest.json").read_text()) for arm in ("trained", "points", "rounded")}
    for arm, manifest in facts.items():
        model = load_model(arms / arm / "model").model
        packed = load_packed(packed_file(arms / arm / "model"))
        assert all(torch.equal(value, packed[name]) for name, value in model.named_parameters())
        its = manifest["student"]["quantized"]
        assert its["bytes"] == manifest["outputs"]["model/packed/weights.safetensors"]["bytes"]
        assert f"{its['bits']} bits" in (arms / arm / "model" / "README.md").read_text()
    rounded = facts["rounded"]["student"]["quantized"]
    assert rounded["bytes"] < 0.25 * rounded["float32_bytes"]
    alone = load_study(tmp_path / "study.toml").student[2]
    assert alone.quantize == Quantize(bits=4)
    assert packed_file(arms / "alone" / "model").is_file()
    assert not packed_file(arms / "full" / "model").exists()
    capsys.readouterr()
    assert main(["train", "study.toml", "--run", "run"]) == 0
    assert capsys.readouterr().err.count("finished") == 5


@pytest.mark.parametrize(
    ("given", "says"),
    [
        ({"quantize": {"bits": 3}}, "bits"),
        ({"quantize": {"bits": 4, "scheme": "uniform", "bucket": 64}}, "bucket does nothing"),
        ({"quantize": {"bits": 4}, "source": "x"}, "does nothing with a source"),
        ({"quantize": {"bits": 4}}, "rounds a finished model"),
        ({"quantize": {"bits": 4}, "start": "x", "shape": {"layers": 2}}, "rounds a finished model"),
        ({"quantize": {"bits": 4, "method": "points"}, "start": "x"}, "there is no train"),
        ({"quantize": {"bits": 4}, "start": "x", "train": {"corpus": "c", "tokens": 9, "lora": {}}}, "train.lora"),
    ],
)
def test_settings_that_make_no_sense_are_refused(given: dict[str, Any], says: str) -> None:
    if "train" in given:
        given["train"]["terms"] = {"kd": {}}
    with pytest.raises(ValueError, match=says):
        Student.model_validate({"name": "few", **given})

"""Trainings that go on from another arm, or learn from one: whose weights, whose words, and what trains anew."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from harness.cli import main
from harness.models.load import load_model
from harness.stages import open_run
from harness.train.plan import Machine
from harness.train.plan_study import plan_run
from tests.tiny import save_tiny, tiny_corpus

HEAD = 'schema = 1\nname = "tiny"\n[teacher]\nsource = "teacher"\nlicence = "MIT"\n'
TRAIN = """\
[student.train]
corpus = "corpus.jsonl"
tokens = 600
row_tokens = 200
lr = 3e-3
evaluate_every = 2
evaluate_chats = 3
"""
LAST = f'[[student]]\nname = "last"\nstart = "arm:first"\n{TRAIN}terms = {{ sequence = {{ max_tokens = 8 }} }}\n'
EASY = f'[[student]]\nname = "easy"\nshape = {{ layers = 3 }}\n{TRAIN}terms = {{ kd = {{}} }}\n'
FIRST = (
    f'[[student]]\nname = "first"\nteacher = "easy"\nshape = {{ layers = 2 }}\nstart = "teacher-layers"\n{TRAIN}'
    "terms = { sequence = { max_tokens = 8 }, kd = {} }\n"
)


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    save_tiny(tmp_path / "teacher")
    tiny_corpus(tmp_path / "corpus.jsonl")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def train(*students: str, only: str | None = None) -> dict[str, dict[str, Any]]:
    """Run `viva train`; returns the arms' manifests."""
    Path("study.toml").write_text(HEAD + "".join(students))
    assert main(["train", "study.toml", "--run", "run", *(["--only", only] if only else [])]) == 0
    found = {path.parent.name: json.loads(path.read_text()) for path in Path("run/arms").glob("*/manifest.json")}
    assert all(manifest["status"] == "finished" for manifest in found.values())
    return found


def weights(arm: str) -> dict[str, torch.Tensor]:
    return load_model(Path("run/arms") / arm / "model").model.state_dict()


def test_a_chain_of_arms_from_an_easier_to_a_harder_teacher(folder: Path) -> None:
    arms = train(LAST, FIRST, EASY)  # written in the wrong order
    begun = {name: arms[name]["started"] for name in ("easy", "first", "last")}
    assert list(begun) == sorted(begun, key=lambda name: begun[name])
    # The two teachers wrote different texts, each for its own student.
    files = sorted(Path("run/teacher-text").glob("sequence-*.jsonl"))
    assert len(files) == 2
    assert files[0].read_text() != files[1].read_text()
    # 'first' was cut from the arm that teaches it, not from the study's teacher.
    assert arms["first"]["student"]["layers_kept"] == [0, 2]
    assert "teacher: `arm:easy`" in Path("run/arms/first/model/README.md").read_text()
    assert "teacher: `arm:" not in Path("run/arms/last/model/README.md").read_text()
    assert arms["last"]["student"]["start"] == "arm:first"
    assert weights("last").keys() == weights("first").keys()


def test_a_rate_of_nearly_nothing_leaves_the_weights_of_the_arm_it_starts_from(folder: Path) -> None:
    train(EASY, LAST.replace("arm:first", "arm:easy").replace("lr = 3e-3", "lr = 1e-12\nweight_decay = 0"))
    easy, last = weights("easy"), weights("last")
    assert all(torch.allclose(easy[name], last[name], atol=1e-8) for name in easy)
    whole = load_model(Path("teacher")).model.state_dict()
    assert not torch.allclose(easy["lm_head.weight"], whole["lm_head.weight"])


def test_what_trains_anew_when_an_arm_changes(folder: Path) -> None:
    def written() -> dict[str, int]:
        return {name: Path(f"run/arms/{name}/manifest.json").stat().st_mtime_ns for name in ("easy", "first", "last")}

    train(EASY, FIRST, LAST)
    before = written()
    train(EASY, FIRST, LAST)
    assert written() == before
    slower = EASY.replace("lr = 3e-3", "lr = 1e-3")
    train(slower, FIRST, LAST)
    after = written()
    assert all(after[name] > before[name] for name in after)
    train(slower, FIRST, LAST.replace("lr = 3e-3", "lr = 1e-3"))  # those before it stay
    assert [name for name, when in written().items() if when > after[name]] == ["last"]


def test_one_arm_alone_is_trained_with_what_it_needs(folder: Path) -> None:
    other = EASY.replace('"easy"', '"other"')
    assert set(train(other, LAST, FIRST, EASY, only="first")) == {"easy", "first"}


def test_a_finished_model_teaches_under_its_own_licence(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    save_tiny(folder / "helper", seed=5)
    helper = '[[student]]\nname = "easy"\nsource = "helper"\nlicence = "llama3"\n'
    Path("study.toml").write_text(HEAD + helper + FIRST + LAST)
    assert main(["train", "study.toml", "--run", "run"]) == 2
    assert "states no purpose" in capsys.readouterr().err
    Path("study.toml").write_text('purpose = "research"\n' + HEAD + helper + FIRST + LAST)
    assert main(["train", "study.toml", "--run", "run"]) == 0
    for arm in ("first", "last"):  # the second has the first one's weights
        notes = json.loads(Path(f"run/arms/{arm}/manifest.json").read_text())["licence_notes"]
        assert any("Llama 3" in note for note in notes)


def test_the_plan_knows_arms_that_are_not_trained_yet(folder: Path) -> None:
    Path("study.toml").write_text(HEAD + LAST + FIRST + EASY)
    machine = Machine({"float32": 1e9, "bfloat16": 1e9}, 1e9, watts=10.0, watts_from="assumed", name="test")
    run = open_run(Path("study.toml"), Path("run"))
    plans = {arm.arm: arm for arm in plan_run(run, machine=machine).arms}
    assert list(plans) == ["easy", "first", "last"]
    arms = train(LAST, FIRST, EASY)
    for name, plan in plans.items():
        assert plan.parameters == arms[name]["student"]["parameters"], name


def test_the_plan_counts_texts_once_that_students_share(folder: Path) -> None:
    twin, other = (LAST.replace('"last"', f'"{name}"') for name in ("twin", "other"))
    Path("study.toml").write_text(HEAD + EASY + FIRST + LAST + twin + other.replace("8 }", "9 }"))
    machine = Machine({"float32": 1e9, "bfloat16": 1e9}, 1e9, watts=10.0, watts_from="assumed", name="test")
    arms = plan_run(open_run(Path("study.toml"), Path("run")), machine=machine).arms
    texts = {arm.arm: arm.flops.get("texts", 0) for arm in arms}
    assert texts["first"] > 0  # written by the easier teacher, whatever the other one writes
    assert texts["last"] > 0
    assert texts["twin"] == 0
    assert texts["other"] > texts["last"]

"""`viva train --plan`: against what the same trainings then do."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from harness.cli import main
from harness.errors import ConfigError, SourceError
from harness.records import write_jsonl
from harness.rundir import read_manifest
from harness.stages import Run, open_run, train_stage
from harness.texts import Text
from harness.train.plan import Machine
from harness.train.plan_study import Plan, measure_machine, plan_run, si
from tests.tiny import save_tiny, tiny_corpus

MACHINE = Machine({"float32": 1e9, "bfloat16": 1e9}, bytes_per_s=1e9, watts=10.0, watts_from="assumed", name="test")
TEACHER = '[teacher]\nsource = "teacher"\n'
HERE = """\
[teacher]
vocabulary = 300
shape = { layers = 2, hidden = 32, heads = 2, mlp = 64 }
[teacher.train]
corpus = "texts.jsonl"
tokens = 600
row_tokens = 64
terms = { ce = {} }
"""
STUDENT = """\
[[student]]
name = "distilled"
shape = { layers = 2 }
start = "scratch"
[student.train]
corpus = "corpus.jsonl"
tokens = 900
row_tokens = 200
evaluate_every = 3
evaluate_chats = 2
"""
CONTROL = '[[student]]\nname = "control"\ncontrol_of = "distilled"\n'


@pytest.fixture
def run_of(tmp_path: Path) -> Any:
    """A function that opens the run of a study of tiny models."""
    save_tiny(tmp_path / "teacher")
    tiny_corpus(tmp_path / "corpus.jsonl")
    write_jsonl(tmp_path / "texts.jsonl", [Text(id=f"{n}", text=f"After {n} comes {n + 1}.") for n in range(60)])

    def opened(*tables: str) -> Run:
        shutil.rmtree(tmp_path / "run", ignore_errors=True)
        (tmp_path / "study.toml").write_text('schema = 1\nname = "tiny"\n' + "\n".join(tables))
        return open_run(tmp_path / "study.toml", tmp_path / "run")

    return opened


def facts_of(run: Run, arm: str) -> dict[str, Any]:
    manifest = read_manifest(run.dir.arm(arm) / "manifest.json")
    assert manifest is not None
    return manifest


@pytest.mark.parametrize(
    "rest",
    [
        "terms = { kd = {} }",
        "terms = { kd = {} }\ncache = { k = 8 }",
        "terms = { kd = {}, hidden = {} }\naccumulate = 2",
        "terms = { ce = { tokens = 'all' } }",
        "terms = { kd = {} }\nlora = { rank = 2 }",
    ],
)
def test_the_plan_is_what_training_then_does(run_of: Any, rest: str) -> None:
    run = run_of(TEACHER, STUDENT + rest, CONTROL)
    plan = plan_run(run, machine=MACHINE)
    assert not run.dir.arm("distilled").exists()
    train_stage(run)
    assert [arm.arm for arm in plan.arms] == ["distilled", "control"]
    for arm in plan.arms:
        manifest = facts_of(run, arm.arm)
        assert (arm.steps, arm.tokens) == (manifest["training"]["steps"], manifest["training"]["tokens"])
        assert arm.parameters == manifest["student"]["parameters"]
        assert (arm.trained < arm.parameters) == ("lora" in rest)
    distilled, control = plan.arms
    kept = sum(path.stat().st_size for path in (run.dir.root / "teacher-cache").rglob("*") if path.is_file())
    assert distilled.cache_bytes == pytest.approx(kept, rel=0.05, abs=500)
    assert control.cache_bytes == 0
    assert distilled.seconds > control.seconds or "teacher" not in distilled.flops


def test_seeds_share_what_their_teacher_said(run_of: Any) -> None:
    seeded = STUDENT.replace('start = "scratch"', 'start = "scratch"\nseeds = [1, 2]')
    run = run_of(TEACHER, seeded + "terms = { kd = {} }\ncache = { k = 8 }")
    first, second = plan_run(run, machine=MACHINE).arms
    assert (first.arm, second.arm) == ("distilled-s1", "distilled-s2")
    assert 0 < second.cache_bytes < first.cache_bytes  # what the first had not met
    train_stage(run)
    assert second.tokens == facts_of(run, second.arm)["training"]["tokens"]
    kept = sum(path.stat().st_size for path in (run.dir.root / "teacher-cache").rglob("*") if path.is_file())
    assert first.cache_bytes + second.cache_bytes == pytest.approx(kept, rel=0.05, abs=800)


def test_a_teacher_trained_here_is_planned_before_its_students(run_of: Any) -> None:
    texts = STUDENT.replace("corpus.jsonl", "texts.jsonl").replace("200", "64") + "terms = { kd = {} }"
    run = run_of(HERE, texts)
    teacher, student = plan_run(run, machine=MACHINE).arms
    assert teacher.arm == "teacher"
    assert teacher.flops.keys() == {"student", "evaluation"}
    train_stage(run)
    for arm in (teacher, student):
        training = facts_of(run, arm.arm)["training"]
        assert (arm.steps, arm.tokens) == (training["steps"], training["tokens"])
        assert arm.parameters == facts_of(run, arm.arm)["student"]["parameters"]


def test_what_the_teacher_has_yet_to_write_is_bounded(run_of: Any) -> None:
    sequence = "terms = { sequence = { max_tokens = 12 }, ce = {} }"
    (planned,) = plan_run(run_of(TEACHER, STUDENT + sequence), machine=MACHINE).arms
    (plain,) = plan_run(run_of(TEACHER, STUDENT + "terms = { ce = {} }"), machine=MACHINE).arms
    assert planned.flops["texts"] > 0
    assert planned.seconds > plain.seconds
    assert any("max_tokens" in note for note in planned.notes)


def test_a_student_may_start_from_a_model_of_its_own(run_of: Any, tmp_path: Path) -> None:
    save_tiny(tmp_path / "small", layers=1)
    own = STUDENT.replace("shape = { layers = 2 }\n", "").replace('"scratch"', '"./small"')
    (planned,) = plan_run(run_of(TEACHER, own + "terms = { kd = {} }"), machine=MACHINE).arms
    (larger,) = plan_run(run_of(TEACHER, STUDENT + "terms = { kd = {} }"), machine=MACHINE).arms
    assert planned.parameters < larger.parameters
    assert planned.flops["teacher"] == larger.flops["teacher"]


def test_importance_is_measured_on_some_texts(run_of: Any) -> None:
    important = STUDENT.replace('"scratch"', '"importance"') + "terms = { ce = {} }"
    (planned,) = plan_run(run_of(TEACHER, important), machine=MACHINE).arms
    assert planned.flops["start"] > 0


def test_the_command_prints_tables_that_fit_and_json(run_of: Any, capsys: pytest.CaptureFixture[str]) -> None:
    run = run_of(TEACHER, STUDENT + "terms = { kd = {} }\ncache = { k = 8 }", CONTROL)
    given = ["train", str(run.dir.root), "--plan"]
    assert main(given) == 0
    text = capsys.readouterr().out
    assert all(len(line) <= 100 for line in text.splitlines()), text
    for word in ("parameters", "tokens", "FLOP", "time", "energy", "cache", "memory", "distilled", "control", "W,"):
        assert word in text
    assert main([*given, "--json", "--only", "control"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert [arm["arm"] for arm in found["arms"]] == ["control"]
    assert found["machine"]["flops_per_s"]["float32"] > 0
    assert not (run.dir.root / "arms").exists()
    assert main(["train", str(run.dir.root), "--json"]) == 2
    assert "--plan" in capsys.readouterr().err


def test_mistakes_are_named_before_anything_starts(run_of: Any) -> None:
    with pytest.raises(ConfigError, match="larger than its teacher"):
        plan_run(run_of(TEACHER, STUDENT.replace("layers = 2", "layers = 9") + "terms = { kd = {} }"), machine=MACHINE)
    with pytest.raises(ConfigError, match="has a source and no train"):
        plan_run(run_of(TEACHER, '[[student]]\nname = "ready"\nsource = "teacher"'), ["ready"], MACHINE)
    with pytest.raises(ConfigError, match="trains nothing"):
        plan_run(run_of(TEACHER, '[[student]]\nname = "ready"\nsource = "teacher"'), machine=MACHINE)
    with pytest.raises(SourceError, match="no-such/model"):
        plan_run(run_of('[teacher]\nsource = "no-such/model"\n', STUDENT + "terms = { kd = {} }"), machine=MACHINE)


def test_a_machine_is_measured_with_all_that_a_plan_needs() -> None:
    machine = measure_machine(16, 32, 64, ["float32", "bfloat16"], seconds=0.01)
    assert machine.flops_per_s.keys() == {"float32", "bfloat16"}
    assert min(*machine.flops_per_s.values(), machine.bytes_per_s, machine.watts) > 0
    assert machine.watts_from
    assert json.loads(Plan([], machine).json())["machine"]["watts"] == machine.watts


def test_numbers_have_three_digits_and_a_prefix() -> None:
    assert [si(value, "B") for value in (0, 12.345, 999.6, 1234567, 3.09e15)] == [
        "0 B",
        "12.3 B",
        "1 kB",
        "1.23 MB",
        "3.09 PB",
    ]
    assert si(135e6) == "135 M"

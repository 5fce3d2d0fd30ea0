"""The recipes after DistilBERT and TinyBERT, shortened: tiny encoders through the stages of a real study."""

import json
import math
from pathlib import Path
from typing import Any

import pytest

from harness import stages
from harness.bench.costs import Settings, measure
from harness.errors import ConfigError, RatingError, RunError
from harness.rating import prepare
from harness.stages import Run, answer_stage, bench_stage, open_run, report_stage, train_stage
from tests.models.encoders import corpus, opinions, save_bert

STUDY = """schema = 1
name = "{name}"
family = "encoder"
seed = 1
purpose = "research"

[teacher]
source = "bert"
[teacher.train]
corpus = "texts.txt"
tokens = {teacher}
row_tokens = 128
accumulate = 2
lr = 3e-3
terms = {{ ce = {{}} }}
evaluate_every = 200
checkpoint_every = 200
precision = "float32"

[[student]]
name = "distilled"
shape = {{ layers = 2, keep = [1, 3] }}
start = "teacher-layers"
[student.train]
corpus = "texts.txt"
tokens = {tokens}
row_tokens = 128
lr = 2e-3
terms = {{ kd = {{ weight = 5.0, temperature = 2.0 }}, ce = {{ weight = 2.0 }}, hidden = {{ distance = "cosine" }} }}
evaluate_every = 200
checkpoint_every = 200
precision = "float32"

[[student]]
name = "scratch"
control_of = "distilled"
start = "scratch"

[[student]]
name = "tiny"
shape = {{ layers = 2, hidden = 16, mlp = 32 }}
start = "scratch"
[student.train]
corpus = "texts.txt"
tokens = {tokens}
row_tokens = 128
lr = 1e-2
terms = {{ embedding = {{}}, hidden = {{}}, attention = {{}} }}
evaluate_every = 200
checkpoint_every = 200
precision = "float32"
[[student.tune]]
tokens = 4000
lr = 1e-2
terms = {{ embedding = {{}}, hidden = {{}}, attention = {{}} }}
augment = {{ copies = 1 }}
[[student.tune]]
tokens = 4000
lr = 1e-2
terms = {{ kd = {{}} }}
augment = {{ copies = 1 }}

[[student]]
name = "tiny-scratch"
control_of = "tiny"
[[student.tune]]
tokens = 8000
lr = 1e-2
[[task]]
name = "opinion"
data = "opinions.csv"
held_out = 40
tokens = 16000
row_tokens = 128
lr = 4e-3
metric = "f1"
labels = {{ good = ["pos"], bad = ["neg"] }}

[bench]
held_out = 20
cost_rounds = 1
cost_prompts = [16]
cost_batches = [1]
"""


def study(folder: Path, name: str = "encoders", teacher: int = 40_000, tokens: int = 12_000) -> Run:
    save_bert(folder / "bert")
    corpus(folder / "texts.txt")
    opinions(folder / "opinions.csv")
    path = folder / "study.toml"
    path.write_text(STUDY.format(name=name, teacher=teacher, tokens=tokens), encoding="utf-8")
    return open_run(path, folder / "run")


def scores(run: Run, arm: str) -> dict[str, float]:
    found = {}
    for path in run.dir.bench(arm).glob("*.json"):
        if path.name not in ("manifest.json", "costs.json"):
            for one in json.loads(path.read_text())["viva"]["scores"]:
                found[one["metric"] if one["suite"] == "masked" else f"{one['suite']} {one['metric']}"] = one["value"]
    return found


def report(run: Run) -> dict[str, Any]:
    report_stage(run, "viva rate")
    found: dict[str, Any] = json.loads((run.dir.report / "report.json").read_text())
    return found


@pytest.fixture(scope="module")
def ran(tmp_path_factory: pytest.TempPathFactory) -> Run:
    run = study(tmp_path_factory.mktemp("study"))
    train_stage(run)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(stages, "_costs", lambda run, arms: None)  # a process for each arm; measured below for one
        bench_stage(run)
    return run


def test_the_distilled_student_is_nearer_its_teacher_than_the_control(ran: Run) -> None:
    teacher, distilled, scratch = (scores(ran, arm) for arm in ("teacher", "distilled", "scratch"))
    assert teacher["masked_kl"] == pytest.approx(0, abs=1e-6)
    assert distilled["masked_kl"] < 0.8 * scratch["masked_kl"]
    assert distilled["masked_perplexity"] < scratch["masked_perplexity"]


def classes_kl(run: Run, arm: str) -> float:
    """Mean KL from the fine-tuned teacher's classes to an arm's, over the task's held-out texts."""
    theirs, ours = (
        [[float(value) for value, _ in json.loads(line)["filtered_resps"]] for line in path.read_text().splitlines()]
        for path in (run.dir.bench(name) / "samples_opinion.jsonl" for name in ("teacher", arm))
    )
    pairs = [zip(p, q, strict=True) for p, q in zip(theirs, ours, strict=True)]
    return sum(math.exp(p) * (p - q) for pair in pairs for p, q in pair) / len(pairs)


def test_the_narrow_student_of_two_stages_is_nearer_than_its_control(ran: Run) -> None:
    for part in ("opinion-1", "opinion"):
        manifest = json.loads((ran.dir.arm("tiny") / "tasks" / part / "manifest.json").read_text())
        assert manifest["student"]["new_texts"] > 100
    assert "masked_kl" not in scores(ran, "tiny")  # terms between layers have not taught it to predict tokens
    assert classes_kl(ran, "tiny") < 0.8 * classes_kl(ran, "tiny-scratch")
    for arm in ("teacher", "distilled", "tiny"):
        assert scores(ran, arm)["opinion acc"] > 0.8


def test_every_arm_is_fine_tuned_and_scored_on_the_task(ran: Run) -> None:
    for arm in ran.study.arms:
        assert scores(ran, arm).keys() >= {"opinion acc", "opinion f1"}
        samples = [json.loads(line) for line in (ran.dir.bench(arm) / "samples_opinion.jsonl").read_text().splitlines()]
        assert len(samples) == 40
        assert {one["doc"]["label"] for one in samples} == {"good", "bad"}
        assert (ran.dir.arm(arm) / "tasks/opinion/model/config.json").is_file()


def test_the_report_pairs_the_arms_item_by_item(ran: Run) -> None:
    found = report(ran)
    text = json.dumps(found)
    assert "opinion" in text
    assert "masked" in text
    assert "satisfaction" not in found["headline"]
    assert "no_ratings" not in {one["code"] for one in found["warnings"]}
    assert "viva rate" not in (ran.dir.report / "report.md").read_text()


def test_an_encoder_costs_one_reading_of_a_text(ran: Run) -> None:
    settings = Settings(prompts=(16,), batches=(2,), output=0, rounds=2, family="encoder")
    costs = measure(ran.model_dir("distilled"), settings)
    assert costs["time_to_first_token_seconds"]["median"] > 0
    assert [one["tokens"] for one in costs["rounds"]] == [16, 16]  # eight readings of two texts; a text counts as one
    assert costs["cells"][0]["prompt"] == 16
    assert (
        costs["parameters"]
        == json.loads((ran.dir.arm("distilled") / "manifest.json").read_text())["student"]["parameters"]
    )


def test_a_finished_study_does_nothing_again(ran: Run, capsys: pytest.CaptureFixture[str]) -> None:
    train_stage(ran)
    assert "done in" not in capsys.readouterr().err


def test_encoders_do_not_chat(ran: Run, capsys: pytest.CaptureFixture[str]) -> None:
    answer_stage(ran)
    assert "do not chat" in "".join(capsys.readouterr())
    with pytest.raises((ConfigError, RatingError, RunError), match="do not chat"):
        prepare(ran)

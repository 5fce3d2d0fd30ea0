"""Ranking distillation from the study file to the report: the one loop, its resume, and the effect in miniature."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from harness.config import Student, Study, Train
from harness.errors import ConfigError
from harness.models.ranker.family import FAMILY
from harness.progress import quiet
from harness.ranker_table import RankerTable
from harness.rundir import RunDir, read_manifest
from harness.stages import bench_stage, open_run, train_stage
from harness.study_file import load_study
from harness.train.plan_study import study_cases
from harness.train.stage import Job, train_arm
from reports.load import bench_results
from tests.models.rankers import write_interactions

STUDY = """schema = 1
name = "small"
seed = 1
family = "ranker"
[teacher]
shape = {{ layers = 1, hidden = 32, heads = 1, mlp = 32 }}
[teacher.train]
corpus = "{corpus}"
tokens = 60_000
row_tokens = 300
lr = 1e-2
precision = "float32"
terms = {{ ce = {{}} }}
ranker = {{ window = 12, dropout = 0.1 }}
evaluate_every = 1000
[[student]]
name = "distilled"
shape = {{ layers = 1, hidden = 16, heads = 1, mlp = 16 }}
start = "scratch"
[student.train]
corpus = "{corpus}"
tokens = 12_000
row_tokens = 300
lr = 1e-2
precision = "float32"
terms = {{ ce = {{}}, ranking = {{}} }}
ranker = {{ window = 12, dropout = 0.1 }}
evaluate_every = 10
evaluate_chats = 120
checkpoint_every = 6
[[student]]
name = "alone"
control_of = "distilled"
[bench]
cost_rounds = 1
cost_prompts = [8]
cost_batches = [1]
"""


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run directory: teacher and both students are trained and scored."""
    folder = tmp_path_factory.mktemp("ranking")
    corpus = write_interactions(folder / "interactions.csv")
    (folder / "study.toml").write_text(STUDY.format(corpus=corpus.name))
    run = open_run(folder / "study.toml", folder / "run")
    train_stage(run)
    bench_stage(run)
    return run.dir.root


def scores(run: Path, arm: str) -> dict[str, float]:
    found = json.loads((run / "bench" / arm / "ranking.json").read_text())
    return {score["metric"]: score["value"] for score in found["viva"]["scores"]}


def test_the_distilled_student_beats_the_same_size_alone_and_keeps_most_of_its_teacher(finished: Path) -> None:
    teacher, distilled, alone = (scores(finished, arm) for arm in ("teacher", "distilled", "alone"))
    for metric in ("ndcg@10", "map", "recall@10"):
        assert distilled[metric] > alone[metric], metric
    assert teacher["ndcg@10"] > alone["ndcg@10"]
    assert distilled["ndcg@10"] > 0.7 * teacher["ndcg@10"]


def test_student_and_control_read_the_same_in_the_same_order(finished: Path) -> None:
    plans = [read_manifest(finished / "arms" / arm / "manifest.json") for arm in ("distilled", "alone")]
    assert plans[0] is not None
    assert plans[1] is not None
    assert plans[0]["training"]["plan"] == plans[1]["training"]["plan"]
    assert plans[0]["student"]["parameters"] == plans[1]["student"]["parameters"]


def test_items_of_the_samples_give_the_scores_again_so_that_the_report_can_pair_them(finished: Path) -> None:
    found, frames = bench_results(finished / "bench" / "distilled")
    (frame,) = frames
    assert found[0]["metric"] == "ndcg@10"
    assert set(frame.columns) == {score["metric"] for score in found}
    assert len(frame.keys) == 120
    other = bench_results(finished / "bench" / "teacher")[1][0]
    assert (frame.keys, frame.hashes) == (other.keys, other.hashes)
    assert frame.choices is None  # lists of items are no answers to choose from


def test_what_a_ranker_costs_is_in_the_files_of_all_families(finished: Path) -> None:
    ours, theirs = (
        json.loads((finished / "bench" / arm / "costs.json").read_text()) for arm in ("distilled", "teacher")
    )
    assert ours["parameters"] < 0.6 * theirs["parameters"]
    assert ours["bytes_on_disk"] < theirs["bytes_on_disk"]
    (cell,) = ours["cells"]
    assert cell["time_to_first_token_seconds"]["median"] > 0
    assert ours["conditions"]["decoding"] == "the 10 best of all items"


def test_a_killed_training_ends_as_if_it_had_not_been(finished: Path, tmp_path: Path) -> None:
    study = load_study(finished / "study.toml")
    student = study.student[0]
    assert student.train is not None
    teacher_dir = finished / "arms" / "teacher" / "model"

    class KilledError(Exception):
        pass

    def kill(done: int, total: int, note: str) -> None:
        if done == 20:
            raise KilledError

    job = Job(study, student, teacher_dir, Path(student.train.corpus), tmp_path)
    stage = job.stage(RunDir(tmp_path))
    with pytest.raises(KilledError):
        train_arm(job, stage, kill)
    torch.randn(3)  # whatever happens between must not matter
    train_arm(job, stage, quiet)
    whole, resumed = (load_file(at / "arms/distilled/model/model.safetensors") for at in (finished, tmp_path))
    assert all(torch.equal(resumed[name], value) for name, value in whole.items())


def refused(folder: Path, **changes: Any) -> str:
    """What a student's training is refused for."""
    corpus = write_interactions(folder / "interactions.csv", users=20, items=20)
    values: dict[str, Any] = {"corpus": str(corpus), "tokens": 100, "terms": {"ce": {}}, "row_tokens": 50}
    train = Train.model_validate(values | {"ranker": RankerTable(window=10)} | changes)
    arm = Student.model_validate(
        {"name": "s", "start": "scratch", "shape": {"layers": 1, "hidden": 8, "heads": 1, "mlp": 8}, "train": train}
    )
    study = Study.model_validate(
        {"schema": 1, "name": "x", "family": "ranker", "teacher": {"source": "a/b"}, "student": [arm]}
    )
    job = Job(study, arm, None, corpus, folder)

    def begin() -> None:
        student, teacher, stuff, how = FAMILY.prepare(job, quiet)
        FAMILY.objective(job, student, teacher, how, [], stuff, "float32", quiet)

    with pytest.raises(ConfigError) as caught:
        begin()
    return str(caught.value)


def test_settings_that_mean_nothing_to_a_ranker_are_refused(tmp_path: Path) -> None:
    assert "train.text_column does nothing for a ranker" in refused(tmp_path, text_column="text")
    assert "train.lora does nothing for a ranker" in refused(tmp_path, lora={})
    assert "row_tokens = 16 has no room for a window of 100" in refused(tmp_path, row_tokens=16, ranker={})
    assert "ranking.k = 10, and of 19 items as few as 8 are not observed" in refused(
        tmp_path, terms={"ce": {}, "ranking": {}}
    )


def test_a_plan_of_rankers_is_refused(finished: Path) -> None:
    with pytest.raises(ConfigError, match="family = 'ranker' cannot be planned"):
        study_cases(open_run(finished))


def test_a_rankers_study_names_what_does_not_belong_to_it(tmp_path: Path) -> None:
    path = tmp_path / "study.toml"
    text = STUDY.format(corpus=write_interactions(tmp_path / "some.csv").name)
    for old, new, said in [
        ("[teacher]\n", "[teacher]\nvocabulary = 500\n", "vocabulary does nothing for a ranker"),
        ('family = "ranker"\n', "", "needs vocabulary and shape"),
        ("[bench]\n", '[bench]\nsuites = ["hellaswag"]\n', "'hellaswag' asks models to write"),
        ("window = 12,", "windows = 12,", "did you mean 'window'?"),
    ]:
        path.write_text(text.replace(old, new))
        with pytest.raises(ConfigError, match=r"study\.toml") as caught:
            load_study(path)
        assert said in str(caught.value)
    path.write_text(text.replace("[bench]\n", '[bench]\nsuites = ["ranking"]\n'))
    assert load_study(path).bench.suites == ("ranking",)

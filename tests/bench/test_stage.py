"""The stage for one arm: its files, its resumption, its failures."""

import json

import pytest

from harness.bench import stage, tasks
from harness.bench.job import Held, Job
from harness.benchmarks import SuiteTable
from harness.errors import ConfigError, RunError
from harness.records import Chat, Message, Score

FILES = {"facts.json", "samples_facts.jsonl", "words.json", "samples_words.jsonl"}
SUITES = ("words", "facts")


@pytest.fixture
def texts():
    messages = (Message(role="user", content="What is it?"), Message(role="assistant", content="an eraser"))
    chats = [Chat(id=f"c{k}", kind="fact", messages=messages) for k in range(5)]
    return Held(chats=chats, human=["The spider waited quietly."] * 6)


def bench(folder, model_dir, teacher_dir, suites, progress=None, shared=None, **options):
    tables = tuple(SuiteTable.of(suite) if isinstance(suite, str) else suite for suite in suites)
    return stage.bench_arm(Job(folder, model_dir, teacher_dir, tables, **options), progress, shared)


def test_every_file_is_there_and_progress_reaches_its_end(tmp_path, other_dir, model_dir, texts):
    seen = []
    found = bench(
        tmp_path / "arm",
        other_dir,
        model_dir,
        SUITES,
        held=texts,
        limit=4,
        progress=lambda done, total, note: seen.append((done, total, note)),
        key="k",
    )
    assert {path.name for path in found} == FILES == {path.name for path in (tmp_path / "arm").iterdir()}
    assert seen[-1][0] == seen[-1][1] == 4 + 4 + 4
    dones = [done for done, _, _ in seen]
    assert dones == sorted(dones)
    words = json.loads((tmp_path / "arm/words.json").read_text())
    scores = {one["metric"]: Score.model_validate(one) for one in words["viva"]["scores"]}
    assert set(scores) == {
        "teacher_text_perplexity",
        "teacher_text_kl",
        "teacher_text_top1",
        "human_text_perplexity",
        "human_text_bits_per_byte",
        "human_text_word_perplexity",
        "human_text_byte_perplexity",
    }
    assert scores["teacher_text_kl"].value > 0.01
    assert scores["human_text_perplexity"].n == 4
    assert words["results"]["words"]["teacher_text_kl,none"] == scores["teacher_text_kl"].value
    samples = [json.loads(line) for line in (tmp_path / "arm/samples_words.jsonl").read_text().splitlines()]
    assert [one["part"] for one in samples] == ["teacher_text"] * 4 + ["human_text"] * 4
    assert len((tmp_path / "arm/samples_facts.jsonl").read_text().splitlines()) == 4


def test_finished_suites_are_skipped_until_the_key_changes(tmp_path, other_dir, model_dir, texts, monkeypatch):
    def once(key):
        return bench(tmp_path, other_dir, model_dir, SUITES, held=texts, limit=2, key=key)

    once("one")
    before = {path: path.read_bytes() for path in tmp_path.iterdir()}
    (tmp_path / "facts.json").unlink()
    loads = []
    load_model = stage.load_model
    monkeypatch.setattr(stage, "load_model", lambda path, **how: loads.append(path) or load_model(path, **how))
    once("one")
    assert loads == [other_dir]  # no teacher: words was finished
    unchanged = [path for path in before if path.name != "facts.json"]
    assert all(path.read_bytes() == before[path] for path in unchanged)
    assert (tmp_path / "facts.json").is_file()
    once("one")
    assert loads == [other_dir]
    once("two")
    assert loads == [other_dir, other_dir, model_dir]


def test_the_teachers_own_arm_is_not_read_twice(tmp_path, model_dir, texts, monkeypatch):
    loads = []
    load_model = stage.load_model
    monkeypatch.setattr(stage, "load_model", lambda path, **how: loads.append(path) or load_model(path, **how))
    bench(tmp_path, model_dir, model_dir, ["words"], held=texts)
    assert loads == [model_dir]
    scores = json.loads((tmp_path / "words.json").read_text())["viva"]["scores"]
    assert {one["metric"]: one["value"] for one in scores}["teacher_text_kl"] == 0


def test_one_broken_suite_does_not_stop_the_others(tmp_path, other_dir, model_dir, texts, monkeypatch):
    run_tasks = tasks.run_tasks

    def sometimes(lm, suite, *rest):
        if suite.name == "sense":
            raise ValueError("the suite is upset")
        return run_tasks(lm, suite, *rest)

    monkeypatch.setattr(tasks, "run_tasks", sometimes)
    with pytest.raises(RunError, match="sense: the suite is upset") as caught:
        bench(tmp_path, other_dir, model_dir, ["sense", *SUITES], held=texts, limit=2)
    assert "run the command again" in caught.value.hint
    assert {path.name for path in tmp_path.iterdir()} == FILES | {".sense.answers.jsonl"}


def test_an_unknown_suite_stops_before_any_work(tmp_path, other_dir, model_dir, texts):
    with pytest.raises(ConfigError, match="no such suite"):
        bench(tmp_path, other_dir, model_dir, ["words", "./gone.yaml"], held=texts)
    assert not list(tmp_path.iterdir())
    with pytest.raises(ConfigError, match="two results would be called facts"):
        bench(tmp_path, other_dir, model_dir, ["facts", "other/facts.yaml"], held=texts)


def test_no_texts(tmp_path, other_dir):
    found = bench(tmp_path, other_dir, None, ["facts"], limit=1)
    assert {path.name for path in found} == {"facts.json", "samples_facts.jsonl"}
    with pytest.raises(RunError, match="words: the suite words has no text to score"):
        bench(tmp_path, other_dir, None, ["words"])

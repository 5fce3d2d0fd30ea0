"""`viva bench STUDY`: all arms, resumption, and what breaks on the way, with real models and the real command."""

import json

import pytest

from harness.bench import packed, stage
from harness.bench.job import Job
from harness.benchmarks import Bench, SuiteTable
from harness.cli import main
from harness.errors import ConfigError
from harness.rundir import read_manifest

STUDY = """
schema = 1
name = "small"
[teacher]
source = "{teacher}"
[[student]]
name = "student"
source = "{student}"
[bench]
suites = ["facts"]
cost_rounds = 1
cost_prompts = [8]
cost_batches = [1]
cost_output = 2
limit = 3
[[bench.suite]]
name = "three"
task = "mine"
limit = 2
few_shot = 1
[[bench.suite]]
name = "tales"
texts = "tales.txt"
"""
TASK = """
task: three
dataset_path: items.jsonl
test_split: test
output_type: multiple_choice
doc_to_text: "{{question}}"
doc_to_choice: ["waited", "is Paris."]
doc_to_target: 1
"""


@pytest.fixture
def study(tmp_path, monkeypatch, model_dir, other_dir):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "three.yaml").write_text(TASK)
    (tmp_path / "mine" / "items.jsonl").write_text("".join(f'{{"question": "The spider {k}"}}\n' for k in range(5)))
    (tmp_path / "tales.txt").write_text("The spider waited.\n\nWater boils.\n\nIt was hungry.\n\nMore.\n")
    text = STUDY.format(teacher=model_dir, student=other_dir).replace('"mine"', '"mine/three.yaml"')
    (tmp_path / "study.toml").write_text(text)
    return tmp_path


def read(study, arm, name):
    return json.loads((study / "runs/small/bench" / arm / f"{name}.json").read_text())


def test_every_arm_goes_through_every_suite_and_its_costs_are_measured(study):
    assert main(["bench", "study.toml"]) == 0
    for arm in ("teacher", "student"):
        assert read(study, arm, "three")["n-samples"]["three"]["effective"] == 2
        assert read(study, arm, "three")["n-shot"]["three"] == 1
        assert read(study, arm, "facts")["n-samples"]["facts"]["effective"] == 3
        assert read(study, arm, "tales")["configs"]["tales"]["documents"] == 3
        assert read(study, arm, "costs")["parameters"] > 0
        assert read_manifest(study / "runs/small/bench" / arm / "manifest.json")["status"] == "finished"
    distance = {arm: {s["metric"]: s["value"] for s in read(study, arm, "tales")["viva"]["scores"]} for arm in ARMS}
    assert distance["teacher"]["text_kl"] == 0
    assert distance["student"]["text_kl"] > 0.01
    # Only what changed is done again.
    files = {path: path.stat().st_mtime_ns for path in study.glob("runs/small/bench/*/*.json")}
    (study / "study.toml").write_text((study / "study.toml").read_text().replace("few_shot = 1", "few_shot = 2"))
    assert main(["bench", "study.toml"]) == 0
    changed = {path.name for path, before in files.items() if path.stat().st_mtime_ns != before}
    assert changed == {"three.json", "manifest.json"}
    assert read(study, "student", "three")["n-shot"]["three"] == 2


ARMS = ("teacher", "student")


def test_a_broken_task_leaves_the_others_and_says_so_everywhere(study, capsys):
    bad = TASK.replace("task: three", "task: bad").replace(
        "{{question}}", "{{question if question[-1] == '0' else gone}}"
    )
    (study / "mine" / "bad.yaml").write_text(bad)
    text = (
        (study / "study.toml")
        .read_text()
        .replace("mine/three.yaml", "mine/")
        .replace('name = "three"', 'name = "both"')
    )
    (study / "study.toml").write_text(text)
    assert main(["bench", "study.toml"]) == 1
    error = capsys.readouterr().err
    for arm in ARMS:
        reason = f"the bench of {arm} is not complete. both, bad: 'gone' is undefined"
        assert reason in error
        manifest = read_manifest(study / "runs/small/bench" / arm / "manifest.json")
        assert manifest["status"] == "failed"
        assert reason in manifest["error"]
        assert set(read(study, arm, "both")["results"]) == {"three"}
        assert read(study, arm, "both")["viva"]["broken"] == {"bad": "'gone' is undefined"}
        assert read(study, arm, "facts")["viva"]["key"]
        assert read(study, arm, "costs")["parameters"] > 0
    kept = (study / "runs/small/bench/student/facts.json").stat().st_mtime_ns
    (study / "mine" / "bad.yaml").write_text(TASK.replace("task: three", "task: bad"))
    assert main(["bench", "study.toml"]) == 0
    assert set(read(study, "student", "both")["results"]) == {"three", "bad"}
    assert (study / "runs/small/bench/student/facts.json").stat().st_mtime_ns == kept


def test_a_stopped_suite_goes_on_at_the_next_item(tmp_path, model_dir, monkeypatch):
    job = Job(tmp_path, model_dir, None, (SuiteTable(name="facts", limit=20),))
    whole = job.results(job.suites[0])

    def stop(done, total, note):
        if 5 <= done < 20:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        stage.bench_arm(job, stop)
    assert not whole.exists()
    kept = len(job.answers(job.suites[0]).read_text().splitlines()) - 1
    assert 20 <= kept < 80
    read = []
    score = packed.score

    def counted(reader, spans, **options):
        read.append(sum(options["wanted"]))
        return score(reader, spans, **options)

    monkeypatch.setattr(packed, "score", counted)
    stage.bench_arm(job)
    assert read == [80 - kept]
    assert not job.answers(job.suites[0]).exists()
    fresh = Job(tmp_path / "fresh", model_dir, None, job.suites)
    stage.bench_arm(fresh)
    samples = [one.samples(job.suites[0]).read_text() for one in (job, fresh)]
    assert samples[0] == samples[1]


def test_a_model_without_a_chat_template_is_refused_before_any_work(tmp_path, model, tokenizer, monkeypatch):
    import copy

    bare = copy.deepcopy(tokenizer)
    bare.chat_template = None
    model.save_pretrained(tmp_path / "bare")
    bare.save_pretrained(tmp_path / "bare")
    suites = (SuiteTable(name="facts"), SuiteTable(name="chatty", task="sense", chat_template=True))
    with pytest.raises(
        ConfigError, match=r"the suite chatty asks for a chat template, and the model in .*bare has none"
    ):
        stage.bench_arm(Job(tmp_path / "arm", tmp_path / "bare", None, suites))
    assert not (tmp_path / "arm").exists()


def test_contexts_beyond_the_window_are_counted_and_empty_documents_do_no_harm(tmp_path, model_dir):
    long = "The spider waited quietly for an insect. " * 60
    rows = [{"question": text} for text in (long, "", "short")]
    (tmp_path / "items.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (tmp_path / "three.yaml").write_text(TASK)
    pages = "".join(json.dumps({"page": text}) + "\n" for text in ("", "The spider.", long))
    (tmp_path / "pages.jsonl").write_text(pages)
    rolling = "task: rolling\ndataset_path: pages.jsonl\ntest_split: test\noutput_type: loglikelihood_rolling\n"
    rolling += 'doc_to_text: ""\ndoc_to_target: "{{page}}"\nmetric_list: [{metric: bits_per_byte}]\n'
    (tmp_path / "rolling.yaml").write_text(rolling)
    suites = tuple(SuiteTable(name=name, task=str(tmp_path / f"{name}.yaml")) for name in ("three", "rolling"))
    job = Job(tmp_path / "arm", model_dir, None, suites)
    stage.bench_arm(job)
    three, pages = (json.loads(job.results(table).read_text()) for table in suites)
    assert three["viva"]["truncated"] == 2  # both answers to the long question
    assert pages["results"]["rolling"]["bits_per_byte,none"] > 0
    assert pages["n-samples"]["rolling"]["effective"] == 3


def test_results_say_how_they_came_about_in_lm_evals_words(tmp_path, model_dir):
    import lm_eval

    suites = (SuiteTable(name="facts", limit=2, chat_template=True, system="Be kind."),)
    job = Job(tmp_path / "arm", model_dir, None, suites, seed=5)
    stage.bench_arm(job)
    results = json.loads(job.results(suites[0]).read_text())
    lm_evals = {
        *("results", "group_subtasks", "configs", "versions", "n-shot", "higher_is_better", "n-samples", "config"),
        *("git_hash", "date", "transformers_version", "lm_eval_version", "upper_git_hash", "tokenizer_pad_token"),
        *("tokenizer_eos_token", "tokenizer_bos_token", "eot_token_id", "max_length", "task_hashes", "model_source"),
        *("model_name", "model_name_sanitized", "system_instruction", "system_instruction_sha", "fewshot_as_multiturn"),
        *("chat_template", "chat_template_sha", "start_time", "end_time", "total_evaluation_time_seconds"),
    }
    assert lm_evals <= results.keys()
    assert results["lm_eval_version"] == lm_eval.__version__
    seeds = {key: value for key, value in results["config"].items() if key.endswith("_seed")}
    assert seeds == {"random_seed": 0, "numpy_seed": 1234, "torch_seed": 1234, "fewshot_seed": 1234}
    assert results["model_name"] == "arm"
    samples = [json.loads(line) for line in job.samples(suites[0]).read_text().splitlines()]
    wanted = {"doc_id", "doc", "target", "arguments", "resps", "filtered_resps", "doc_hash", "prompt_hash", "acc"}
    assert all(wanted <= one.keys() for one in samples)


def test_the_docs_example_is_a_bench_table():
    import tomllib
    from pathlib import Path

    page = (Path(__file__).parents[2] / "docs" / "bench.md").read_text(encoding="utf-8")
    example = next(block.split("```")[0] for block in page.split("```toml\n")[1:] if "[[bench.suite]]" in block)
    bench = Bench.model_validate(tomllib.loads(example)["bench"])
    assert [suite.name for suite in bench.all_suites] == ["words", "sense", "hellaswag-5", "gsm8k", "wiki"]
    assert bench.all_suites[2].what == "hellaswag"

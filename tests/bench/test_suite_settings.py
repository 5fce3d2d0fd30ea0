"""A suite's own settings reach lm-eval, settings without effect are refused, and local data takes the hub's place."""

import json

import pytest

from harness.bench.evaluate import run_suite
from harness.bench.packed import PackedLM
from harness.bench.suites import load_suite
from harness.bench.tasks import run_tasks
from harness.benchmarks import SuiteTable
from harness.errors import ConfigError, SourceError

CHOICE = """
task: mine
dataset_path: json
dataset_kwargs:
  data_files: {test: test.jsonl, train: train.jsonl}
test_split: test
training_split: train
output_type: multiple_choice
doc_to_text: "{{question}}"
doc_to_choice: "{{choices}}"
doc_to_target: "{{answer}}"
"""
WRITTEN = """
task: written
dataset_path: items.jsonl
test_split: test
output_type: generate_until
doc_to_text: "{{question}}"
doc_to_target: "{{choices[answer]}}"
generation_kwargs: {until: ["web"], max_new_tokens: 7}
metric_list:
  - metric: exact_match
    aggregation: mean
    higher_is_better: true
    ignore_case: true
filter_list:
  - name: first-word
    filter:
      - {function: regex, regex_pattern: "(\\\\w+)"}
      - {function: take_first}
"""


def items(count, name):
    rows = [{"question": f"The {name} {k}", "choices": ["waited", "is Paris."], "answer": k % 2} for k in range(count)]
    return "".join(json.dumps(row) + "\n" for row in rows)


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "test.jsonl").write_text(items(6, "spider"))
    (tmp_path / "items.jsonl").write_text(items(6, "spider"))
    (tmp_path / "train.jsonl").write_text(items(9, "butter"))
    (tmp_path / "mine.yaml").write_text(CHOICE)
    (tmp_path / "written.yaml").write_text(WRITTEN)
    return tmp_path


def table(folder, name="mine", **settings):
    return SuiteTable(name=name, task=str(folder / f"{name}.yaml"), **settings)


def prompts(samples):
    return [one["arguments"]["gen_args_0"]["arg_0"] for one in samples]


MODEL = {"name": "arm", "backend": "viva", "args": {}}


def run(model, tokenizer, suite, limit=None):
    results, samples, broken = run_tasks(PackedLM(model, tokenizer), suite, limit, MODEL)
    assert not broken
    return results, samples


def test_few_shot_examples_come_from_the_training_split_and_are_the_same_for_every_arm(folder, model, tokenizer):
    suite = load_suite(table(folder, few_shot=2))
    results, samples = run(model, tokenizer, suite)
    assert results["n-shot"] == {"mine": 2}
    assert all(prompt.count("The butter") == 2 for prompt in prompts(samples))
    again = run(model, tokenizer, suite)[1]
    assert prompts(again) == prompts(samples)
    assert all("butter" not in prompt for prompt in prompts(run(model, tokenizer, load_suite(table(folder)))[1]))


def test_chat_template_and_system_message_are_lm_evals(folder, model, tokenizer):
    settings = {"few_shot": 1, "chat_template": True, "system": "Be kind."}
    results, samples = run(model, tokenizer, load_suite(table(folder, **settings)), limit=1)
    (prompt,) = prompts(samples)
    assert prompt.startswith("<s>system\nBe kind.</s>\n<s>user\nThe butter")
    assert prompt.endswith("</s>\n<s>user\nThe spider 0</s>\n<s>assistant\n")
    assert results["chat_template"] == tokenizer.chat_template
    assert results["system_instruction"] == "Be kind."
    assert results["fewshot_as_multiturn"]
    one = run(model, tokenizer, load_suite(table(folder, multi_turn=False, **settings)), limit=1)
    assert not one[0]["fewshot_as_multiturn"]
    assert prompts(one[1])[0].count("<s>user") == 1


def test_settings_of_writing_replace_the_tasks_own(folder, model, tokenizer):
    plain = load_suite(table(folder, "written")).tasks["tasks"]["written"]
    assert plain.config.generation_kwargs == {"until": ["web"], "max_new_tokens": 7}
    suite = load_suite(table(folder, "written", max_tokens=3, temperature=0.5, top_p=0.9, until=("\n",)))
    changed = {"until": ["\n"], "max_gen_toks": 3, "temperature": 0.5, "top_p": 0.9, "do_sample": True}
    assert suite.tasks["tasks"]["written"].config.generation_kwargs == changed
    results, samples = run(model, tokenizer, load_suite(table(folder, "written", max_tokens=3)), limit=2)
    longer = run(model, tokenizer, load_suite(table(folder, "written", max_tokens=30)), limit=2)[1]
    lengths = [[len(one["resps"][0][0]) for one in many] for many in (samples, longer)]
    assert all(short < long for short, long in zip(*lengths, strict=True))
    assert {one["filter"] for one in samples} == {"first-word"}
    (score,) = results["viva"]["scores"]
    assert (score["suite"], score["metric"], score["n"]) == ("written", "exact_match,first-word", 2)
    assert results["config"]["gen_kwargs"] == {"max_gen_toks": 3}


@pytest.mark.parametrize(
    ("name", "settings", "message"),
    [
        ("mine", {"max_tokens": 3}, "max_tokens does nothing with .*mine.yaml: its tasks write no text"),
        ("mine", {"until": ("x",)}, "until does nothing"),
        ("sense", {"few_shot": 3}, "few_shot = 3 does nothing with sense: its tasks fix num_fewshot = 0"),
    ],
)
def test_a_setting_without_effect_is_refused(folder, name, settings, message):
    suite = SuiteTable(name=name, **settings) if name == "sense" else table(folder, name, **settings)
    with pytest.raises(ConfigError, match=message):
        load_suite(suite)


def test_a_file_takes_the_place_of_the_hub_and_no_item_is_its_own_example(tmp_path, model, tokenizer):
    rows = [
        {"ctx_a": f"A spider {k}.", "ctx_b": "it", "activity_label": "Web", "endings": ["waits.", "is"], "label": "1"}
        for k in range(4)
    ]
    (tmp_path / "hs.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    suite = load_suite(SuiteTable(name="hs", task="hellaswag", data=str(tmp_path / "hs.jsonl"), few_shot=3))
    results, samples = run(model, tokenizer, suite)
    assert suite.size(None) == 4
    for k, prompt in enumerate(prompts(samples)):
        assert prompt.count(f"A spider {k}.") == 1
        assert prompt.count("Web:") == 4
    config = results["configs"]["hellaswag"]
    assert config["dataset_path"] == "Rowan/hellaswag"
    assert str(tmp_path) not in json.dumps([results, samples])


def test_a_folder_has_a_file_for_each_split_and_each_part(tmp_path, model, tokenizer):
    import pandas as pd

    rows = [
        {"id": str(k), "question": f"What is {k}?", "choices": {"text": ["a web", "an eraser"], "label": ["A", "B"]}}
        | {"answerKey": "B"}
        for k in range(3)
    ]
    for part in ("ARC-Easy", "ARC-Challenge"):
        (tmp_path / part).mkdir()
        for split in ("train", "validation", "test"):
            pd.DataFrame(rows).to_parquet(tmp_path / part / f"{split}-00000-of-00001.parquet")
    suite = load_suite(SuiteTable(name="ai2_arc", data=str(tmp_path)))
    results, _ = run(model, tokenizer, suite)
    assert set(results["results"]) == {"arc_easy", "arc_challenge"}
    assert suite.size(None) == 6
    suites = {(score["suite"], score["metric"]) for score in results["viva"]["scores"]}
    assert {("ai2_arc/arc_easy", "acc"), ("ai2_arc/arc_challenge", "acc_norm"), ("ai2_arc", "ece")} <= suites


def test_without_the_hub_the_error_names_task_data_and_the_way_out(tmp_path):
    with pytest.raises(
        SourceError, match=r"hellaswag: the task hellaswag could not get its data set Rowan/hella"
    ) as no:
        load_suite("hellaswag")
    assert 'name = "hellaswag" data = "FOLDER"' in no.value.hint
    with pytest.raises(SourceError, match="the task arc_easy could not get its data set allenai/ai2_arc/ARC-Easy"):
        load_suite("arc_easy")
    (tmp_path / "hs.jsonl").write_text('{"question": "?"}\n')
    with pytest.raises(SourceError, match="its data has no field"):
        load_suite(SuiteTable(name="hellaswag", data=str(tmp_path / "hs.jsonl")))
    with pytest.raises(SourceError, match=r"holds no validation\.jsonl or .parquet for the task hellaswag"):
        load_suite(SuiteTable(name="hellaswag", data=str(tmp_path)))
    with pytest.raises(ConfigError, match="no such file or folder"):
        load_suite(SuiteTable(name="hellaswag", data=str(tmp_path / "gone")))


def test_dataset_path_may_be_a_file_beside_the_yaml(folder, model, tokenizer):
    results, samples = run_suite(PackedLM(model, tokenizer), load_suite(table(folder, "written")))
    assert len(samples) == 6
    assert results["configs"]["written"]["dataset_path"] == "items.jsonl"
    (folder / "written.yaml").write_text(WRITTEN.replace("items.jsonl", "part"))
    (folder / "part").mkdir()
    (folder / "part" / "test.csv").write_text("question,choices,answer\nWhat?,ab,0\n")
    assert load_suite(table(folder, "written")).size(None) == 1


def test_a_group_of_ones_own_has_a_score_of_its_own(folder, model, tokenizer):
    (folder / "twin.yaml").write_text(
        "include: mine.yaml\ntask: twin\nmetric_list: [{metric: acc, aggregation: mean}]\n"
    )
    text = "group: both\ntask: [mine, twin]\naggregate_metric_list: [{metric: acc, weight_by_size: true}]\n"
    (folder / "both.yaml").write_text(text)
    results, samples = run(model, tokenizer, load_suite(table(folder, "both")))
    assert len(samples) == 12
    assert results["group_subtasks"] == {"both": ["mine", "twin"]}
    scores = {(score["suite"], score["metric"]): score for score in results["viva"]["scores"]}
    assert scores["both", "acc"]["n"] == scores["both", "ece"]["n"] == 12
    whole = load_suite(str(folder))
    assert set(whole.tasks["tasks"]) == {"mine", "twin", "written"}
    assert set(whole.tasks["groups"]) == {"both"}


def test_a_broken_task_of_a_folder_leaves_the_others(folder, model, tokenizer):
    (folder / "bad.yaml").write_text(CHOICE.replace("task: mine", "task: bad").replace("test.jsonl", "gone.jsonl"))
    (folder / "odd.yaml").write_text(CHOICE.replace("task: mine", "task: odd").replace("{{choices}}", "{{options}}"))
    late = CHOICE.replace("task: mine", "task: late").replace(
        "{{question}}", "{{question if answer == 0 else nothing}}"
    )
    (folder / "late.yaml").write_text(late)
    suite = load_suite(str(folder))
    assert set(suite.broken) == {"bad", "odd"}
    assert all(isinstance(error, SourceError) for error in suite.broken.values())
    results, samples, broken = run_tasks(PackedLM(model, tokenizer), suite, None, MODEL)
    assert set(broken) == {"late"}
    assert "nothing" in str(broken["late"])
    assert set(results["results"]) == {"mine", "written"}
    assert len(samples) == 12

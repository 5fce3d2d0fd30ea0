"""Suites are found, loaded alone, refused when they must be, and run to lm-eval's own numbers."""

import json
import socket

import pytest
from lm_eval.evaluator import evaluate
from lm_eval.models.huggingface import HFLM

from harness.bench.evaluate import run_suite
from harness.bench.packed import PackedLM
from harness.bench.suites import load_suite, shipped_suites, suite_name
from harness.errors import ConfigError, SourceError
from harness.records import Score, dump_json

TASK = """
task: {name}
dataset_path: json
dataset_kwargs:
  data_files: {{test: items.jsonl}}
test_split: test
output_type: multiple_choice
doc_to_text: "{{{{question}}}}"
doc_to_choice: "{{{{choices}}}}"
doc_to_target: "{{{{answer}}}}"
metadata: {{version: 1.0, chance: 0.5}}
"""


@pytest.fixture
def folder(tmp_path):
    items = [{"question": f"The spider {k}", "choices": ["waited", "is Paris."], "answer": k % 2} for k in range(6)]
    (tmp_path / "items.jsonl").write_text("".join(json.dumps(item) + "\n" for item in items))
    (tmp_path / "mine.yaml").write_text(TASK.format(name="mine"))
    return tmp_path


@pytest.fixture
def no_network(monkeypatch):
    def refuse(*_):
        raise AssertionError("a connection was attempted")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)


@pytest.mark.parametrize("name", ["sense", "facts"])
def test_a_shipped_suite_equals_lm_eval(name, model, tokenizer, no_network):
    suite = load_suite(name)
    results, samples = run_suite(PackedLM(model, tokenizer), suite, limit=24)
    hflm = HFLM(pretrained=model, tokenizer=tokenizer, backend="causal", batch_size=8)
    theirs = evaluate(hflm, load_suite(name).tasks, limit=24, bootstrap_iters=100)
    for key, value in theirs["results"][name].items():
        if key != "alias":
            assert results["results"][name][key] == pytest.approx(value) if isinstance(value, float) else value
    for ours, sample in zip(samples, theirs["samples"][name], strict=True):
        pairs = zip(ours["resps"], sample["resps"], strict=True)
        assert all(abs(float(mine[0][0]) - peer[0][0]) < 1e-4 for mine, peer in pairs)
        assert (ours["acc"], ours["acc_norm"]) == (sample["acc"], sample["acc_norm"])
    acc, acc_norm = [Score.model_validate(score) for score in results["viva"]["scores"]]
    assert (acc.suite, acc.metric, acc.unit, acc.chance, acc.n) == (name, "acc", "share", 0.25, 24)
    assert acc_norm.value == results["results"][name]["acc_norm,none"]
    assert acc.stderr == results["results"][name]["acc_stderr,none"]
    assert suite.size(24) == 24
    dump_json([results, samples])


def test_a_local_folder_is_read_without_a_cache(folder, model, tokenizer, no_network):
    (folder / "twin.yaml").write_text("include: mine.yaml\ntask: twin\n")
    suite = load_suite(str(folder))
    results, samples = run_suite(PackedLM(model, tokenizer), suite)
    assert {score["suite"] for score in results["viva"]["scores"]} == {f"{folder.name}/mine", f"{folder.name}/twin"}
    assert len(samples) == 12
    assert results["configs"]["mine"]["dataset_kwargs"] == {"data_files": {"test": "items.jsonl"}}
    assert str(folder) not in dump_json(results)
    # A changed file is seen at once, although nothing but its content changed.
    (folder / "items.jsonl").write_text((folder / "items.jsonl").read_text() * 2)
    assert load_suite("mine.yaml", folder).size(None) == 12
    assert suite_name("some/where/mine.yaml") == "mine"


def test_python_code_is_refused_unless_trusted(folder):
    (folder / "code.py").write_text("def text(doc):\n    return doc['question']\n")
    (folder / "base.yaml").write_text(TASK.format(name="base").replace('"{{question}}"', "!function code.text"))
    (folder / "mine.yaml").write_text("include: base.yaml\ntask: mine\n")
    with pytest.raises(ConfigError, match=r"Python code of its own: !function code.text"):
        load_suite(str(folder / "mine.yaml"))
    assert load_suite(str(folder / "mine.yaml"), trust_code=True).size(None) == 6


def test_an_unknown_suite_names_the_nearest():
    with pytest.raises(ConfigError, match="no suite is called 'sence'") as caught:
        load_suite("sence")
    assert "sense" in caught.value.hint
    with pytest.raises(ConfigError, match="no such suite"):
        load_suite("./nowhere.yaml")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("task: [", "cannot read the task"),
        ("group: mine\ntask: [a]\n", "names 'a', which is no task"),
        ("some: thing\n", "holds no task"),
        (TASK.format(name="mine").replace("items.jsonl", "gone.jsonl"), "cannot be loaded"),
    ],
)
def test_a_bad_yaml_is_named(folder, text, message):
    (folder / "mine.yaml").write_text(text)
    with pytest.raises((ConfigError, SourceError), match=message):
        load_suite(str(folder))


def test_shipped_suites_are_listed():
    assert {"sense", "facts"} <= set(shipped_suites())

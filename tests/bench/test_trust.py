"""A stranger's task runs no code."""

import json
from pathlib import Path

import pytest

from harness.bench.suites import load_suite
from harness.benchmarks import SuiteTable
from harness.errors import ConfigError, SourceError

TASK = """
task: mine
dataset_path: items.jsonl
test_split: test
output_type: multiple_choice
doc_to_text: "{{question}}"
doc_to_choice: ["yes", "no"]
doc_to_target: 0
"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "items.jsonl").write_text(json.dumps({"question": "Is it?"}) + "\n")
    return tmp_path


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (TASK + "process_docs: !function code.run\n", "!function code.run"),
        (TASK + "metric_list:\n  - {metric: acc}\n  - {metric: ./code}\n", "metric ./code"),
        (TASK + "metric_list:\n  - {metric: acc, hf_evaluate: true}\n", "hf_evaluate"),
        (TASK + "include: other.yml\n", "!function code.run"),
    ],
)
def test_code_is_refused_unless_trusted(folder: Path, text: str, message: str) -> None:
    mark = folder / "ran"
    (folder / "code.py").write_text(f"open({str(mark)!r}, 'w').close()\ndef run(docs):\n    return docs\n")
    (folder / "other.yml").write_text("process_docs: !function code.run\n")
    (folder / "mine.yaml").write_text(text)
    with pytest.raises(ConfigError, match="runs Python code of its own: ") as caught:
        load_suite("mine.yaml", folder)
    assert message in caught.value.what
    assert "trust_code = true" in caught.value.hint
    assert not mark.exists()


def test_trusted_code_runs(folder: Path) -> None:
    (folder / "code.py").write_text("def run(docs):\n    return docs.select([])\n")
    (folder / "mine.yaml").write_text(TASK + "process_results: !function code.run\n")
    assert load_suite("mine.yaml", folder, trust_code=True).size(None) == 1


def test_a_template_reaches_no_python(folder: Path) -> None:
    reach = TASK.replace("{{question}}", "{{ ''.__class__.__mro__ }}")
    (folder / "mine.yaml").write_text(reach)
    with pytest.raises(SourceError, match="unsafe"):
        load_suite("mine.yaml", folder)
    assert load_suite("mine.yaml", folder, trust_code=True).size(None) == 1


def test_code_that_models_write_needs_trust(folder: Path) -> None:
    (folder / "mine.yaml").write_text(TASK + "unsafe_code: true\n")
    with pytest.raises(ConfigError, match="the task mine runs code that the model writes"):
        load_suite("mine.yaml", folder)
    assert load_suite("mine.yaml", folder, trust_code=True).run_code


def test_a_missing_package_is_named_with_the_command(folder: Path) -> None:
    (folder / "code.py").write_text("import sqlitedict_that_nobody_has\n")
    (folder / "mine.yaml").write_text(TASK + "process_docs: !function code.run\n")
    with pytest.raises(ConfigError, match="needs the Python package sqlitedict_that_nobody_has") as caught:
        load_suite("mine.yaml", folder, trust_code=True)
    assert caught.value.hint == "pip install sqlitedict_that_nobody_has"


def test_lm_evals_own_tasks_name_the_extra_that_they_need() -> None:
    try:
        import langdetect  # noqa: F401
    except ImportError:
        with pytest.raises(ConfigError, match="ifeval needs the Python package langdetect") as caught:
            load_suite(SuiteTable(name="ifeval"))
        assert caught.value.hint == "pip install 'lm-eval[ifeval]'"
        with pytest.raises(ConfigError, match="ifeval needs the Python package langdetect"):
            load_suite(SuiteTable(name="ifeval", data="here.jsonl"))
    else:
        with pytest.raises(SourceError, match="could not get its data set google/IFEval"):
            load_suite(SuiteTable(name="ifeval"))

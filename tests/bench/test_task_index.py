"""The quick index finds what lm-eval's own finds."""

import json
from pathlib import Path

import pytest
from lm_eval.tasks import TaskManager

from harness.bench import task_index

FOLDERS = ("arc", "glue", "hellaswag", "bbh", "llama3", "mmlusr", "agieval", "wikitext", "ifeval", "leaderboard")
YAML = """
include: base.yml
"task": 'one' # a comment
"""


@pytest.mark.parametrize("folder", FOLDERS)
def test_every_name_of_lm_eval_is_found_in_its_files(folder: str) -> None:
    root = task_index.lm_eval_root() / folder
    theirs = TaskManager(include_path=root, include_defaults=False).task_index
    names = task_index.search(root)
    assert theirs
    assert theirs.keys() <= names.keys()
    for name, entry in theirs.items():
        mine = task_index.entries([name], names, root)[name]
        assert (mine.kind, mine.yaml_path, mine.tags) == (entry.kind, entry.yaml_path, entry.tags)


def test_a_name_brings_what_it_leads_to_and_nothing_else() -> None:
    names, root = task_index.lm_eval_names(), task_index.lm_eval_root()
    assert set(task_index.entries(["arc_easy"], names, root)) == {"arc_easy"}
    assert set(task_index.entries(["ai2_arc"], names, root)) == {"ai2_arc", "arc_easy", "arc_challenge"}
    mmlu = task_index.entries(["mmlu"], names, root)
    assert {"mmlu", "mmlu_stem", "mmlu_stem_tasks", "mmlu_astronomy"} <= mmlu.keys()
    assert sum(entry.kind.name == "TASK" for entry in mmlu.values()) == 57
    assert task_index.entries(["no such name"], names, root) == {}


def test_the_search_is_kept_in_the_cache(cache: Path) -> None:
    found = task_index.lm_eval_names()
    (kept,) = cache.glob("lm-eval-*.json")
    kept.write_text(json.dumps({"marked": ["file.yaml"]}))
    assert task_index.lm_eval_names() == {"marked": ["file.yaml"]}
    kept.write_text("{torn")
    assert task_index.lm_eval_names() == found


def test_names_are_read_in_every_form_of_yaml(tmp_path: Path) -> None:
    (tmp_path / "base.yml").write_text('tag:\n  - first\n  - "second"\ninclude: base.yml\n')
    (tmp_path / "one.yaml").write_text(YAML)
    (tmp_path / "group.yaml").write_text("group: all\ntask: [one, {task: two, num_fewshot: 1}]\ntag: [third]\n")
    names = task_index.search(tmp_path)
    assert {name: names[name] for name in ("first", "second", "third", "all")} == {
        "first": ["one.yaml"],
        "second": ["one.yaml"],
        "third": ["group.yaml"],
        "all": ["group.yaml"],
    }
    assert "one.yaml" in names["one"]

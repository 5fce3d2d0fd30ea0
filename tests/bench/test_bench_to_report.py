"""From real benchmark runs to the report: every score is read back from its items, paired, and checked for overlap."""

import json
from pathlib import Path

import pytest

from harness.cli import main
from harness.corpus import is_held_out
from tests.tiny import save_tiny, tiny_chats, tiny_corpus

STUDY = """
schema = 1
name = "small"
[teacher]
source = "teacher"
licence = "Apache-2.0"
[[student]]
name = "student"
shape = { layers = 2 }
start = "teacher-layers"
train = { corpus = "corpus.jsonl", tokens = 600, row_tokens = 128, terms = { ce = { weight = 1.0 } } }
[bench]
suites = ["quiz/quiz.yaml"]
cost_rounds = 3
cost_prompts = [8]
cost_batches = [1, 2]
cost_output = 4
grid_g_per_kwh = 400
[[bench.suite]]
name = "tales"
texts = "tales.txt"
"""
TASK = """
task: quiz
dataset_path: items.jsonl
test_split: test
output_type: multiple_choice
doc_to_text: "{{question}}"
doc_to_choice: "{{choices}}"
doc_to_target: "{{answer}}"
metric_list: [{metric: acc}, {metric: acc_norm}, {metric: brier_score}]
metadata: {chance: 0.5, version: 1.0}
"""
TALES = ["The spider waited in its web for a fly.", "Water boils at one hundred degrees.", "It was late in the day."]


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("study")
    save_tiny(folder / "teacher")
    tiny_corpus(folder / "corpus.jsonl")
    chats = tiny_chats()
    trained = next(chat for chat in chats if not is_held_out(chat.messages[0].content))
    held_out = next(chat for chat in chats if is_held_out(chat.messages[0].content))
    (folder / "quiz").mkdir()
    (folder / "quiz" / "quiz.yaml").write_text(TASK)
    items = [
        {"question": f"What came {k} days before the feast", "choices": ["the rain", "the sun"], "answer": k % 2}
        | {"passage": f"story {k // 4}"}
        for k in range(24)
    ]
    for place, chat in ((5, trained), (6, held_out)):
        items[place] |= {"question": f"{chat.messages[0].content} {chat.messages[1].content}"}
    (folder / "quiz" / "items.jsonl").write_text("".join(json.dumps(item) + "\n" for item in items))
    (folder / "tales.txt").write_text("\n\n".join(TALES * 2))
    (folder / "study.toml").write_text(STUDY)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        for command in ("train", "bench", "report"):
            assert main([command, "study.toml"]) == 0, command
    return folder / "runs" / "small"


def test_every_score_has_an_interval_from_its_items(run: Path) -> None:
    report = json.loads((run / "report" / "report.json").read_text())
    for arm in ("teacher", "student"):
        scores = {(one["suite"], one["metric"]): one for one in report["arms"][arm]["scores"]}
        wanted = {("quiz", "acc"), ("quiz", "acc_norm"), ("quiz", "brier_score")}
        wanted |= {("tales", f"text_{unit}") for unit in ("perplexity", "word_perplexity", "bits_per_byte")}
        assert wanted <= scores.keys()
        for key, score in scores.items():
            if score["metric"] != "ece":
                assert score["interval"] == "bootstrap", key
                assert score["low"] <= score["value"] <= score["high"], key
        assert scores["quiz", "acc"]["clustered_by"] == "passage"
        assert scores["quiz", "acc"]["clusters"] == 6
        assert scores["tales", "text_perplexity"]["settings"]["documents"] == 6


def test_arms_are_paired_on_the_same_items(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (pair,) = json.loads((run / "report" / "report.json").read_text())["paired"]
    rows = {(row["suite"], row["metric"]): row for row in pair["rows"]}
    assert rows["quiz", "acc"]["n"] == 24
    assert rows["tales", "text_bits_per_byte"]["n"] == 6
    assert rows["tales", "text_bits_per_byte"]["retained"]["estimate"] > 0
    assert not any(row["different"] or row["unpaired"] for row in rows.values())
    assert ("tales", "text_kl") not in rows
    assert {one["suite"] for one in pair["same_choice"]} == {"quiz"}
    assert main(["bench", str(run), "--compare", "teacher", "student"]) == 0
    assert "quiz: accuracy" in capsys.readouterr().out


def test_an_item_from_the_training_corpus_is_marked(run: Path) -> None:
    overlap = json.loads((run / "bench" / "student" / "contamination.json").read_text())
    assert "quiz/5" in overlap["suites"]["quiz"]["found"]
    assert "quiz/0" not in overlap["suites"]["quiz"]["found"]
    assert overlap["suites"]["quiz"]["found"].get("quiz/6", 0) < 1  # held out; neighbours share most of its words
    assert overlap["suites"]["tales"]["items"] == 6
    assert not (run / "bench" / "teacher" / "contamination.json").exists()
    (pair,) = json.loads((run / "report" / "report.json").read_text())["paired"]
    row = next(row for row in pair["rows"] if row["metric"] == "acc")
    assert row["without_overlap"]["left_out"] == len(overlap["suites"]["quiz"]["found"])
    assert "that overlap" in (run / "report" / "report.html").read_text()


def test_costs_stand_beside_the_teachers(run: Path) -> None:
    report = json.loads((run / "report" / "report.json").read_text())
    costs = report["arms"]["student"]["costs"]
    assert costs["of_teacher"]["parameters"] < 1
    assert costs["of_teacher_interval"]["tokens_per_second"]["n"] == 3
    assert [(cell["prompt"], cell["batch"]) for cell in costs["cells"]] == [(8, 1), (8, 2)]
    assert costs["co2_g_per_1000_tokens"] > 0
    text = (run / "report" / "report.md").read_text()
    assert "smaller (parameters)" in text
    assert "tokens, context" in text  # which perplexity it is

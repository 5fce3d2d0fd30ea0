"""Samples as lm-eval writes them become frames whose columns give the reported scores again."""

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from reports.items import Frame, read_frames


def written(folder: Path, lines: list[dict[str, Any]], tail: str = "") -> Path:
    path = folder / "samples_quiz.jsonl"
    path.write_text("".join(json.dumps(line) + "\n" for line in lines) + tail)
    return path


def results(scores: dict[tuple[str, str], float], **more: Any) -> dict[str, Any]:
    listed = [{"suite": suite, "metric": metric, "value": value} for (suite, metric), value in scores.items()]
    return {"viva": {"scores": listed}, **more}


def line(doc_id: int, task: str = "quiz", kept: str = "none", doc: Any = None, **metrics: Any) -> dict[str, Any]:
    base = {"task": task, "doc_id": doc_id, "doc": doc or {}, "doc_hash": f"h{doc_id}", "filter": kept}
    return base | {"metrics": list(metrics), **metrics}


def frames(folder: Path, lines: list[dict[str, Any]], found: dict[str, Any], tail: str = "") -> list[Frame]:
    return read_frames(found, written(folder, lines, tail), "quiz")


def test_metrics_of_every_form(tmp_path: Path) -> None:
    p = [[0.7, 0.3], [0.2, 0.8], [0.5, 0.5]]
    lines = [
        line(k, acc=float(k > 0), perplexity=-2.0 - k, word_perplexity=[-30.0 - k, 10 + k], mcc=[1, k % 2])
        | {"brier_score": [1, p[k] if k else "[0.7 0.3]"]}
        for k in range(3)
    ]
    for one in lines:
        one["metrics"].append("brier_score")
    brier = np.mean([0.7**2 + 0.7**2, 0.2**2 + 0.2**2, 0.5**2 + 0.5**2])
    scores = {
        ("quiz", "acc"): 2 / 3,
        ("quiz", "perplexity"): math.exp(3.0),
        ("quiz", "word_perplexity"): math.exp(93 / 33),
        ("quiz", "brier_score"): float(brier),
        ("quiz", "mcc"): 0.31,
    }
    (frame,) = frames(tmp_path, lines, results(scores), tail='{"task": "quiz", "doc_')
    assert {metric: column.score for metric, column in frame.columns.items()} == pytest.approx(
        {metric: value for (_, metric), value in scores.items() if metric != "mcc"}
    )
    assert frame.columns["acc"].binary
    assert not frame.columns["brier_score"].binary
    assert frame.hashes == ("h0", "h1", "h2")


def test_a_score_that_its_items_do_not_give_is_no_column(tmp_path: Path) -> None:
    (frame,) = frames(
        tmp_path,
        [line(0, acc=1.0, f1=0.2), line(1, acc=0.0, f1=0.4)],
        results({("quiz", "acc"): 0.5, ("quiz", "f1"): 0.9}),
    )
    assert list(frame.columns) == ["acc"]


def test_filters_are_metrics_of_their_own(tmp_path: Path) -> None:
    lines = [line(k, kept="strict", exact_match=0.0) for k in range(4)]
    lines += [line(k, kept="loose", exact_match=float(k < 3)) for k in range(4)]
    scores = {("quiz", "exact_match,strict"): 0.0, ("quiz", "exact_match,loose"): 0.75}
    (frame,) = frames(tmp_path, lines, results(scores))
    assert frame.columns["exact_match,loose"].score == 0.75
    assert len(frame.keys) == 4


def test_items_of_one_document_are_a_group(tmp_path: Path) -> None:
    lines = [line(k, doc={"passage": f"text {k // 3}", "topic": "sea"}, acc=float(k % 2)) for k in range(6)]
    (frame,) = frames(tmp_path, lines, results({("quiz", "acc"): 0.5}))
    assert frame.grouped_by == "passage"
    assert frame.clusters().tolist() == [0, 0, 0, 1, 1, 1]
    assert frame.clusters(np.array([5, 0])).tolist() == [1, 0]
    named = results({("quiz", "acc"): 0.5}, configs={"quiz": {"metadata": {"cluster": "topic"}}})
    assert frames(tmp_path, lines, named)[0].grouped_by == "topic"
    unnamed = results({("quiz", "acc"): 0.5}, configs={"quiz": {"metadata": {"cluster": False}}})
    assert frames(tmp_path, lines, unnamed)[0].grouped_by is None


@pytest.mark.parametrize("by_size", [True, False])
def test_groups_of_tasks(tmp_path: Path, by_size: bool) -> None:
    lines = [line(k, task="a", acc=1.0) for k in range(2)] + [line(k, task="b", acc=float(k < 2)) for k in range(8)]
    whole = 0.4 if by_size else (1.0 + 0.25) / 2
    scores = {("quiz/a", "acc"): 1.0, ("quiz/b", "acc"): 0.25, ("quiz", "acc"): whole}
    found = frames(tmp_path, lines, results(scores, group_subtasks={"quiz": ["half", "b"], "half": ["a"]}))
    assert [(one.suite, one.columns["acc"].score, one.tasks) for one in found] == [
        ("quiz/a", 1.0, 1),
        ("quiz/b", 0.25, 1),
        ("quiz", whole, 2),
    ]
    assert len(set(found[-1].keys)) == 10


def test_the_chosen_answers(tmp_path: Path) -> None:
    lines = [
        line(0, acc=1.0) | {"filtered_resps": [["-3.0", "False"], ["-1.5", "True"]]},
        line(1, acc=0.0) | {"filtered_resps": [["-0.1", "False"], ["-1.5", "True"]]},
    ]
    (frame,) = frames(tmp_path, lines, results({("quiz", "acc"): 0.5}))
    assert frame.choices == (1, 0)
    (written_text,) = frames(
        tmp_path, [line(0, acc=1.0) | {"filtered_resps": ["Paris"]}], results({("quiz", "acc"): 1.0})
    )
    assert written_text.choices is None


def test_texts_of_words(tmp_path: Path) -> None:
    lines = [
        {"part": "human_text", "id": str(k), "loglikelihood": -10.0 - k, "tokens": 4 + k, "bytes": 20, "words": 4}
        for k in range(3)
    ]
    lines += [{"part": "teacher_text", "id": "c0.0", "loglikelihood": -6.0, "tokens": 3, "kl": 1.5, "top1": 2}]
    scores = {
        ("words", "human_text_perplexity"): math.exp(33 / 15),
        ("words", "human_text_bits_per_byte"): 33 / math.log(2) / 60,
        ("words", "human_text_word_perplexity"): math.exp(33 / 12),
        ("words", "teacher_text_kl"): 0.5,
        ("words", "teacher_text_top1"): 2 / 3,
    }
    found = read_frames(results(scores), written(tmp_path, lines), "words")
    assert {(one.suite, name): column.score for one in found for name, column in one.columns.items()} == pytest.approx(
        scores
    )
    assert found[0].keys == ("human_text/0", "human_text/1", "human_text/2")


def test_no_samples(tmp_path: Path) -> None:
    assert read_frames(results({}), tmp_path / "absent.jsonl", "quiz") == []

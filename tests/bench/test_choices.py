"""Calibration against formulas written out, against lm-eval's own Brier score, and through a whole suite."""

import json

import numpy as np
import pytest
from lm_eval.models.huggingface import HFLM

from harness.bench.choices import brier, calibration, calibration_error, choice_probabilities
from harness.bench.suites import load_suite
from harness.bench.tasks import run_tasks

TASK = """
task: mine
dataset_path: items.jsonl
test_split: test
output_type: multiple_choice
doc_to_text: "{{question}}"
doc_to_choice: "{{choices}}"
doc_to_target: "{{answer}}"
metric_list:
  - {metric: acc}
  - {metric: brier_score}
"""


def test_probabilities_are_normalised_over_the_choices():
    found = choice_probabilities([-1000.0, -1001.0, -1003.0])
    expected = np.exp([0, -1, -3]) / np.exp([0, -1, -3]).sum()
    np.testing.assert_allclose(found, expected, rtol=1e-12)


def test_brier_goes_from_nothing_to_two():
    assert brier(np.array([0.0, 1.0]), 1) == 0
    assert brier(np.array([1.0, 0.0]), 1) == 2
    assert brier(np.array([0.25] * 4), 2) == pytest.approx(0.75**2 + 3 * 0.25**2)


def test_calibration_error_equals_a_plain_loop():
    rng = np.random.default_rng(0)
    confidence, right = rng.uniform(0.25, 1, 300), rng.random(300) < 0.6
    expected = 0.0
    for k in range(10):
        inside = [i for i in range(300) if k / 10 < confidence[i] <= (k + 1) / 10]
        if inside:
            gap = np.mean([right[i] for i in inside]) - np.mean([confidence[i] for i in inside])
            expected += len(inside) / 300 * abs(gap)
    assert calibration_error(confidence, right) == pytest.approx(expected)
    assert calibration_error(np.array([1.0, 1.0]), np.array([True, True])) == 0
    assert calibration_error(np.array([1.0, 1.0]), np.array([False, False])) == 1


def test_errors_shrink_with_the_number_of_items():
    rng = np.random.default_rng(1)
    found = []
    for n in (100, 1600):
        confidence = rng.uniform(0.3, 1, n)
        found.append(calibration("s", list(confidence), list(rng.random(n) < confidence / 2), list(rng.random(n))))
    for few, many in zip(*found, strict=True):
        assert few.stderr / many.stderr == pytest.approx(4, rel=0.35)
    again = calibration("s", [0.5, 0.7], [True, False], [0.1, 0.2])
    assert again == calibration("s", [0.5, 0.7], [True, False], [0.1, 0.2])
    (alone,) = calibration("s", [0.5], [True], [])
    assert (alone.metric, alone.stderr, alone.value) == ("ece", None, 0.5)


def test_a_suite_gets_calibration_and_its_items_what_it_is_made_of(tmp_path, model, tokenizer):
    rows = [
        {"question": f"The spider {k}", "choices": ["waited", "is Paris.", "x"], "answer": k % 3} for k in range(12)
    ]
    (tmp_path / "items.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (tmp_path / "mine.yaml").write_text(TASK)
    lm = HFLM(pretrained=model, tokenizer=tokenizer, backend="causal", batch_size=4)
    suite = load_suite(str(tmp_path / "mine.yaml"))
    results, samples, _ = run_tasks(lm, suite, None, {"name": "a", "backend": "hf", "args": {}})
    scores = {score["metric"]: score for score in results["viva"]["scores"]}
    assert scores["brier"]["value"] == pytest.approx(results["results"]["mine"]["brier_score,none"])
    assert scores["brier"]["value"] == pytest.approx(np.mean([one["brier"] for one in samples]))
    assert scores["brier"]["stderr"] == pytest.approx(np.std([one["brier"] for one in samples], ddof=1) / 12**0.5)
    right = np.array([one["choice"] == k % 3 for k, one in enumerate(samples)])
    assert right.mean() == pytest.approx(scores["acc"]["value"])
    assert scores["ece"]["value"] == pytest.approx(
        calibration_error(np.array([one["confidence"] for one in samples]), right)
    )
    assert results["results"]["mine"]["ece,none"] == scores["ece"]["value"]
    assert all("brier" in one["metrics"] for one in samples)


def test_several_right_answers_have_no_brier_score(tmp_path, model, tokenizer):
    rows = [{"question": f"The spider {k}", "choices": ["a", "b", "c"], "answer": [0, 2]} for k in range(4)]
    (tmp_path / "items.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (tmp_path / "mine.yaml").write_text(TASK.replace("  - {metric: brier_score}\n", ""))
    lm = HFLM(pretrained=model, tokenizer=tokenizer, backend="causal", batch_size=4)
    results, samples, _ = run_tasks(
        lm, load_suite(str(tmp_path / "mine.yaml")), None, {"name": "a", "backend": "hf", "args": {}}
    )
    scores = {score["metric"]: score for score in results["viva"]["scores"]}
    assert set(scores) == {"acc", "ece"}
    assert scores["acc"]["value"] == np.mean([one["choice"] in (0, 2) for one in samples])

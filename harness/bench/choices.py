"""How well a model's choices are calibrated: what it gives each answer against how often it is right."""

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from harness.records import Score

BINS = 10
RESAMPLES = 500


def choice_probabilities(loglikelihoods_C: Sequence[float]) -> np.ndarray:
    """Probabilities [C] of an item's answers from their log-likelihoods in nats, normalised over the answers."""
    shifted_C = np.asarray(loglikelihoods_C, dtype=np.float64)
    shifted_C = np.exp(shifted_C - shifted_C.max())
    return np.asarray(shifted_C / shifted_C.sum())


def brier(probabilities_C: np.ndarray, right: int) -> float:
    """Squared distance of an item's probabilities from the truth, 0 to 2 (Brier 1950, eq. 2)."""
    truth_C = np.arange(len(probabilities_C)) == right
    return float(((probabilities_C - truth_C) ** 2).sum())


def calibration_error(confidence_N: np.ndarray, right_N: np.ndarray, bins: int = BINS) -> float:
    """Expected calibration error (Guo et al. 2017, eq. 3): mean over items of |accuracy - confidence| of their bin.

    `confidence_N`: probability of the chosen answer, in `bins` equal bins of (0, 1]; `right_N`: whether it is right.
    """
    bin_N = np.clip(np.ceil(confidence_N * bins).astype(int) - 1, 0, bins - 1)
    gap_N = np.asarray(right_N, dtype=np.float64) - confidence_N
    return float(np.abs(np.bincount(bin_N, weights=gap_N, minlength=bins)).sum() / len(confidence_N))


def calibration(suite: str, confidence: Sequence[float], right: Sequence[bool], briers: Sequence[float]) -> list[Score]:
    """Scores `brier` (only where every item has one right answer) and `ece` over items.

    The standard error of `ece`, which is no mean over items, comes from resampling them with a fixed generator.
    """
    n = len(confidence)
    scores = []
    if len(briers) == n:
        stderr = float(np.std(briers, ddof=1) / math.sqrt(n)) if n > 1 else None
        scores.append(_score(suite, "brier", float(np.mean(briers)), stderr, n, "squared error"))
    confidence_N, right_N = np.asarray(confidence), np.asarray(right, dtype=bool)
    rng = np.random.default_rng(0)
    drawn = rng.integers(0, n, (RESAMPLES, n)) if n > 1 else np.zeros((0, 0), dtype=int)
    errors = [calibration_error(confidence_N[index], right_N[index]) for index in drawn]
    stderr = float(np.std(errors, ddof=1)) if errors else None
    return [*scores, _score(suite, "ece", calibration_error(confidence_N, right_N), stderr, n, "share")]


def _score(suite: str, metric: str, value: float, stderr: float | None, n: int, unit: str) -> Score:
    return Score(suite=suite, metric=metric, value=value, stderr=stderr, n=n, unit=unit, higher_is_better=False)


def add_calibration(suite: str, tasks: dict[str, Any], results: dict[str, Any], samples: dict[str, Any]) -> None:
    """Add calibration to lm-eval's results and samples (by task) of multiple-choice tasks, over all items of a suite.

    Each sample gets `choice` (the likeliest answer), `confidence` (its probability) and, where one answer is right,
    the metric `brier`.
    """
    confidence: list[float] = []
    right: list[bool] = []
    briers: list[float] = []
    for name, task in tasks.items():
        if task.OUTPUT_TYPE != "multiple_choice" or getattr(task.config, "doc_to_choice", None) is None:
            continue
        for sample in samples[name]:
            gold = _right_answers(task, sample["doc"])
            count = len(task.doc_to_choice(sample["doc"]))  # acc_mutual_info asks more than the choices
            loglikelihoods = [float(one[0][0]) for one in sample["resps"][:count]]
            if not gold or not all(map(math.isfinite, loglikelihoods)):
                continue
            probabilities_C = choice_probabilities(loglikelihoods)
            choice = int(np.argmax(loglikelihoods))
            sample |= {"choice": choice, "confidence": float(probabilities_C[choice])}
            confidence.append(sample["confidence"])
            right.append(choice in gold)
            if len(gold) == 1:
                briers.append(brier(probabilities_C, gold[0]))
                sample |= {"brier": briers[-1], "metrics": [*sample["metrics"], "brier"]}
    if not confidence:
        return
    scores = calibration(suite, confidence, right, briers)
    results["viva"]["scores"] += [score.model_dump() for score in scores]
    whole = next(iter(tasks)) if len(tasks) == 1 else suite
    for score in scores if whole in results["results"] else ():
        results["results"][whole] |= {
            f"{score.metric},none": score.value,
            f"{score.metric}_stderr,none": "N/A" if score.stderr is None else score.stderr,
        }


def _right_answers(task: Any, doc: Any) -> list[int]:
    """Places of the right answers as lm-eval finds them; empty where a label leads nowhere."""
    gold = task.doc_to_text(doc) if task.multiple_input else task.doc_to_target(doc)
    choices = task.doc_to_choice(doc)
    found = []
    for one in gold if isinstance(gold, list) else [gold]:
        place = choices.index(one) if isinstance(one, str) and one in choices else one
        if isinstance(place, int) and 0 <= place < len(choices):
            found.append(place)
    return found

"""Benchmark scores of every arm side by side, each also as a fraction of the teacher's."""

from dataclasses import dataclass
from typing import Any

from reports.kept import at_chance
from reports.load import Source
from reports.numbers import NBSP, NONE, of_teacher, percent, plain_number, span, times
from reports.paired import overlapping, score_parts

METRICS = {
    "acc": "accuracy",
    "acc_norm": "accuracy, length-normalised",
    "brier": "squared error of probabilities (Brier)",
    "ece": "calibration error (ECE)",
    "map": "mean average precision",
}
TEXTS = {
    "teacher_text": "the teacher's own text",
    "held_out_text": "held-out text of the corpus",
    "human_text": "human text",
}
OF_TEXTS = {
    "perplexity": "Perplexity",
    "word_perplexity": "Perplexity by word",
    "byte_perplexity": "Perplexity by byte",
    "bits_per_byte": "Bits per byte",
    "kl": "KL to the teacher, nats a token",
    "top1": "Same likeliest token as the teacher",
}
METRICS |= {
    f"{part}_{metric}": f"{label}, {text}" for part, text in TEXTS.items() for metric, label in OF_TEXTS.items()
}


@dataclass(frozen=True)
class Cell:
    """One arm's number as text, its ratio to the teacher's, and a remark such as its error."""

    text: str
    ratio: str = ""
    note: str = ""


@dataclass(frozen=True)
class Row:
    """One line of the table of arms; `note` holds the n and the chance level, `better` is 'higher' or 'lower'."""

    label: str
    note: str
    better: str
    cells: tuple[Cell, ...]


def scores_json(source: Source, arm: str) -> list[dict[str, Any]]:
    """An arm's scores with their intervals, and the fraction of the teacher's that is retained; see docs/report.md.

    The interval is that of the score's items, else 1.96 standard errors.
    """
    teachers = {(score["suite"], score["metric"]): score for score in source.scores.get(source.teacher, [])}
    parts = score_parts(source.frames.get(arm, []), source.seed, overlapping(source, arm))
    found = []
    for score in source.scores.get(arm, []):
        key = score["suite"], score["metric"]
        other = teachers.get(key, {})
        chance = score.get("chance")
        above = None
        if chance is not None and other and not at_chance(other):
            above = (score["value"] - chance) / (other["value"] - chance)
        retained = of_teacher(score["value"], other.get("value"))
        interval = parts.get(key) or _by_stderr(score)
        found.append({**score, **interval, "retained": retained, "retained_above_chance": above})
    return found


def _by_stderr(score: dict[str, Any]) -> dict[str, Any]:
    half = None if score.get("stderr") is None else 1.96 * score["stderr"]
    low, high = (None, None) if half is None else (score["value"] - half, score["value"] + half)
    rest = {"clusters": None, "clustered_by": None, "without_overlap": None}
    return {"low": low, "high": high, "interval": "none" if half is None else "stderr", **rest}


def score_rows(source: Source, arms: dict[str, Any]) -> list[Row]:
    """Every suite's scores of all arms, in the order in which the suites came; `arms` as in report.json."""
    by_arm = {arm: {(s["suite"], s["metric"]): s for s in arms[arm]["scores"]} for arm in source.arms}
    keys = dict.fromkeys(key for scores in by_arm.values() for key in scores)
    rows = []
    for key in keys:
        scores = [by_arm[arm].get(key) for arm in source.arms]
        first = next(score for score in scores if score)
        label = score_label(first)
        remarks = []
        if first.get("chance") is not None:
            remarks.append(f"chance {percent(first['chance'])}")
        remarks.append(f"n{NBSP}={NBSP}{first['n']:,}")
        remarks += _reading(first)
        cells = tuple(_score_cell(score, index) for index, score in enumerate(scores))
        rows.append(Row(label, ", ".join(remarks), _direction(first), cells))
    return rows


def _reading(score: dict[str, Any]) -> list[str]:
    """How much text a perplexity was computed on, and how it was read."""
    settings = score.get("settings") or {}
    found = [f"{settings['tokens']:,} tokens"] if isinstance(settings.get("tokens"), int) else []
    context = settings.get("context", settings.get("window"))
    if isinstance(context, int) and isinstance(settings.get("stride"), int):
        found.append(f"context {context:,}, stride {settings['stride']:,}")
    return found


def score_label(score: dict[str, Any]) -> str:
    """What a score is called: in words where the metric is known, else by its own name; with its suite."""
    plain = score["metric"].removeprefix(f"{score['suite']}_").replace("_", " ").replace("ndcg@", "nDCG@")
    label = METRICS.get(score["metric"], plain)
    return f"{score['suite']}: {label}" if label[0].islower() else label


def _direction(score: dict[str, Any]) -> str:
    return "higher" if score.get("higher_is_better") else "lower"


def is_share(score: dict[str, Any]) -> bool:
    """Whether a score is a share of items, shown in percent."""
    if score["metric"].startswith("brier"):  # lm-eval's unit is not told; it goes up to 2
        return False
    return score.get("unit") in ("share", "fraction", "accuracy", "proportion") or score.get("chance") is not None


def _score_cell(score: dict[str, Any] | None, index: int) -> Cell:
    if score is None:
        return Cell(NONE)
    share = is_share(score)
    text = percent(score["value"], 1) if share else plain_number(score["value"])
    note = ""
    if score["low"] is not None and score["low"] < score["high"]:
        note = interval_text(score, score)
    ratio = ""
    if index and score["retained"] is not None:
        ratio = percent(score["retained"]) if score.get("higher_is_better") else times(score["retained"])
        above = score["retained_above_chance"]
        if above is not None:
            note += f"{'; ' if note else ''}above chance {percent(above)}"
    return Cell(text, ratio, note)


def interval_text(limits: dict[str, Any], score: dict[str, Any]) -> str:
    """The ends of an interval in the units of a score: '41.7 to 54.8' for shares in percent."""
    if limits["low"] is None:
        return NONE
    if is_share(score):
        return span(limits["low"], limits["high"], 1).replace("-", "−")
    return f"{plain_number(limits['low'])} to {plain_number(limits['high'])}".replace("-", "−")

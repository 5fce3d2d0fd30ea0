"""What an arm keeps of another's benchmark scores as one number: the first score of each task, then their mean.

A score counts where higher is better and the other arm is clearly above 0. Where the items of every score are known,
the mean has an interval from the same draws as the comparisons; a score that no items give again (a correlation, an F1)
counts with its ratio alone, and takes the interval away.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from reports.numbers import of_teacher
from reports.stats import paired
from reports.stats.bootstrap import percentile
from reports.stats.cells import Floats

First = tuple[Mapping[str, Any], Floats, Floats]
"""A row of a comparison, and the bootstrap scores of the other arm and of the arm in the same draws."""
BY_DEFINITION = ("_kl", "_top1")
"""Ends of the names of scores that a text's teacher has by definition: 0 and 1."""


def kept_json(
    firsts: Sequence[First],
    rows: Sequence[Mapping[str, Any]],
    scores: Sequence[Mapping[str, Any]],
    others: Sequence[Mapping[str, Any]],
) -> dict[str, Any] | None:
    """The mean of what is retained of each task's first score; docs/report.md names the fields. None without any.

    `firsts` are those that their items give, `rows` all that was compared item by item; `scores` and `others` are all
    scores of the arm and of the other.
    """
    each = [(row, row["retained"]["estimate"]) for row, _, _ in firsts]
    alone = _without_items({_top(row["suite"]) for row in rows}, scores, others)
    if not each and not alone:
        return None
    low, high = (None, None) if alone else _limits(firsts)
    told = [
        {"suite": one["suite"], "metric": one["metric"], "unit": one.get("unit"), "n": one["n"], "estimate": ratio}
        for one, ratio in [*each, *alone]
    ]
    mean = float(np.mean([one["estimate"] for one in told]))
    above = [row["above_chance"]["estimate"] for row, _, _ in firsts if row["above_chance"]]
    return {
        **{"estimate": mean, "low": low, "high": high, "n": sum(one["n"] for one in told)},
        "above_chance": float(np.mean(above)) if above and len(above) == len(told) else None,
        "scores": told,
    }


def _limits(firsts: Sequence[First]) -> tuple[float | None, float | None]:
    if len(firsts) == 1:
        alone = firsts[0][0]["retained"]
        return alone["low"], alone["high"]
    draws = [paired.ratio_draws(ours, theirs) for _, theirs, ours in firsts]
    known = [one for one in draws if one is not None]
    if len(known) < len(firsts) or any(row["retained"]["low"] is None for row, _, _ in firsts):
        return None, None
    size = min(len(one) for one in known)
    return percentile(np.mean([one[:size] for one in known], axis=0))


def _without_items(
    done: set[str], scores: Sequence[Mapping[str, Any]], others: Sequence[Mapping[str, Any]]
) -> list[tuple[Mapping[str, Any], float]]:
    """The first score of every suite that is not `done`, and its ratio."""
    known = {(one["suite"], one["metric"]): one for one in others}
    found: dict[str, tuple[Mapping[str, Any], float]] = {}
    for one in scores:
        suite, other = _top(one["suite"]), known.get((one["suite"], one["metric"]))
        if suite in done or suite in found or other is None or not one.get("higher_is_better"):
            continue
        ratio = of_teacher(one["value"], other["value"])
        if ratio is not None and other["value"] > 0 and not at_chance(other) and not by_definition(one["metric"]):
            found[suite] = one, ratio
    return list(found.values())


def by_definition(metric: str) -> bool:
    """Whether a score of a text is measured against the teacher, whose own is known beforehand."""
    return metric.endswith(BY_DEFINITION)


def at_chance(score: Mapping[str, Any]) -> bool:
    """Whether a score is not clearly above its chance level, so that nothing can be kept of it."""
    chance = score.get("chance")
    return chance is not None and bool(score["value"] - 1.96 * (score.get("stderr") or 0.0) <= chance)


def _top(suite: str) -> str:
    return suite.split("/")[0]

"""Which figures a report shows, and with which rows."""

from typing import Any

from reports import figure_costs, figures
from reports.compare import score_label
from reports.cost_tables import COSTS
from reports.load import Source
from reports.tidy import MEASURES
from reports.wording import MEASURE_NAMES

LEFT_OUT = ("parameters_without_embeddings", "bytes_in_memory", "flops_per_token")  # they follow the parameters
MARKS = {"judge": "ratings by models", "simulated": "simulated raters"}


def page_pictures(source: Source, report: dict[str, Any], people: dict[str, Any] | None) -> list[figures.Picture]:
    """The figures of the page; the first one stands on the first screen."""
    index = {arm: at for at, arm in enumerate(source.arms)}
    found: list[figures.Picture] = []
    multiples = _multiples(source, index, report["arms"])
    if people:
        found += _rating_pictures(source, report["arms"], report["by_scenario"], source.margin, "")
        points = []
        for arm in source.students:
            fraction = report["arms"][arm].get("satisfaction", {}).get("fraction")
            size = report["arms"][arm]["costs"].get("of_teacher", {}).get("parameters")
            if fraction and size is not None:
                points.append((arm, index[arm], size, fraction))
        if points:
            found.append(figures.frontier(points, "parameters"))
    if multiples:
        found.append(figures.retained(multiples, source.arms))
    if points := _smaller_faster(source, index, report["arms"]):
        found.append(figure_costs.smaller_faster(points))
    logs = [(arm, index[arm], log) for arm, log in source.training.items() if log]
    if logs:
        found.append(figures.training(logs))
    if any(one["control"] for one in report["seeds"]):
        found.append(figures.over_seeds(report["seeds"]))
    return found


def _rating_pictures(
    source: Source, arms: dict[str, Any], scenarios: dict[str, Any], margin: float, marked: str
) -> list[figures.Picture]:
    index = {arm: at for at, arm in enumerate(source.arms)}
    found = []
    rows = []
    for measure in MEASURES:
        for arm in source.students:
            fraction = arms.get(arm, {}).get(measure, {}).get("fraction")
            if fraction:
                rows.append((f"{arm}\n{MEASURE_NAMES[measure]}", index[arm], fraction))
    if rows:
        found.append(figures.forest(rows, margin, marked=marked))
    bars = []
    for measure in MEASURES:
        for arm in source.arms:
            block = arms.get(arm, {}).get(measure, {})
            if block.get("n"):
                bars.append((f"{arm}\n{MEASURE_NAMES[measure]}", block["counts"]))
    if bars:
        found.append(figures.distributions(bars, marked=marked))
    lines = [(arm, index[arm], [each["difference"] for each in by.values()]) for arm, by in scenarios.items() if by]
    if lines and not marked:
        found.append(figures.by_scenario(lines))
    return found


def kind_pictures(source: Source, kind: str, block: dict[str, Any]) -> list[figures.Picture]:
    """Figures of ratings that are not by people, marked as such in their titles."""
    return _rating_pictures(source, block["arms"], {}, source.margin, f" ({MARKS[kind]})")


def _multiples(
    source: Source, index: dict[str, int], arms: dict[str, Any]
) -> list[tuple[str, list[tuple[int, float]]]]:
    """Rows of the figure of multiples: every score and cost that has one, with an arrow for the better direction."""
    rows: dict[str, list[tuple[int, float]]] = {}
    for arm in source.students:
        costs = arms[arm]["costs"].get("of_teacher", {})
        for item in COSTS:
            if item.key in costs and item.key not in LEFT_OUT and costs[item.key] > 0:
                arrow = "↑" if item.better == "higher" else "↓"
                rows.setdefault(f"{item.label} {arrow}", []).append((index[arm], costs[item.key]))
        for score in arms[arm]["scores"]:
            if score["retained"] is not None and score["retained"] > 0:
                arrow = "↑" if score.get("higher_is_better") else "↓"
                rows.setdefault(f"{score_label(score)} {arrow}", []).append((index[arm], score["retained"]))
    return list(rows.items())


def _smaller_faster(
    source: Source, index: dict[str, int], arms: dict[str, Any]
) -> list[tuple[str, int, float, dict[str, Any]]]:
    """Students with a size and a speed: name, index, times smaller, speed ratio with its limits."""
    points = []
    for arm in source.students:
        costs = arms[arm]["costs"]
        size, speed = (costs.get("of_teacher", {}).get(key) for key in ("parameters", "tokens_per_second"))
        if size and speed:
            limits = costs.get("of_teacher_interval", {}).get("tokens_per_second") or {"low": None, "high": None}
            points.append((arm, index[arm], 1 / size, {**limits, "estimate": speed}))
    return points

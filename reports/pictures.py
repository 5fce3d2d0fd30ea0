"""Which figures a report shows, and with which rows."""

from collections.abc import Callable, Mapping
from typing import Any

from reports import figure_checks, figure_costs, figure_frontier, figures
from reports.compare import score_label
from reports.cost_tables import COSTS, label_of, no_writing
from reports.costs import size_of, speed_of
from reports.load import Source
from reports.tidy import MEASURES
from reports.wording_kept import kept_of, likelihood_kept
from reports.wording_warnings import MEASURE_NAMES

LEFT_OUT = ("parameters_without_embeddings", "bytes_in_memory", "flops_per_token")  # they follow the parameters
MARKS = {"judge": "ratings by models", "simulated": "simulated raters"}


def page_pictures(source: Source, report: dict[str, Any], people: dict[str, Any] | None) -> list[figures.Picture]:
    """The figures of the page; the first one stands on the first screen."""
    index = {arm: at for at, arm in enumerate(source.arms)}
    found: list[figures.Picture] = []
    multiples = _multiples(source, index, report["arms"])
    if people:
        found += _rating_pictures(source, {**people, "arms": report["arms"]}, "")
    if multiples:
        found.append(figures.retained(multiples, source.arms, first=not found))
    if frontier := _frontier(source, index, report):
        found.append(frontier)
    if points := _smaller_faster(source, index, report["arms"]):
        found.append(figure_costs.smaller_faster(points))
    if report["calibration"]:
        found.append(figure_checks.calibration(report["calibration"], index))
    logs = [(arm, index[arm], log) for arm, log in source.training.items() if log]
    if logs:
        found.append(figures.training(logs))
    if any(one["control"] for one in report["seeds"]):
        found.append(figures.over_seeds(report["seeds"]))
    return found


def _rating_pictures(source: Source, block: dict[str, Any], marked: str) -> list[figures.Picture]:
    index = {arm: at for at, arm in enumerate(source.arms)}
    arms, found = block["arms"], []
    rows = []
    for measure in MEASURES:
        for arm in source.students:
            fraction = arms.get(arm, {}).get(measure, {}).get("fraction")
            if fraction:
                rows.append((f"{arm}\n{MEASURE_NAMES[measure]}", index[arm], fraction))
    if rows:
        found.append(figures.forest(rows, source.margin, marked=marked))
    bars = []
    for measure in MEASURES:
        for arm in source.arms:
            one = arms.get(arm, {}).get(measure, {})
            if one.get("n"):
                bars.append((f"{arm}\n{MEASURE_NAMES[measure]}", one["counts"]))
    if bars:
        found.append(figures.distributions(bars, marked=marked))
    if preference := block.get("preference"):
        found.append(figure_checks.preferences(preference, index, marked=marked))
    if marked:
        return found
    by = block.get("by_scenario", {})
    lines = [(arm, index[arm], [one["difference"] for one in all_.values()]) for arm, all_ in by.items() if all_]
    if lines:
        found.append(figures.by_scenario(lines))
    found += _parts(source, arms, index)
    paths = [
        (arm, index[arm], one["path"])
        for arm in source.students
        if (one := arms.get(arm, {}).get("satisfaction", {}).get("confidence_sequence"))
    ]
    if paths:
        found.append(figure_checks.sequence(paths))
    return found


def _parts(source: Source, arms: Mapping[str, Any], index: Mapping[str, int]) -> list[figures.Picture]:
    """Forests of satisfaction by category and by language, of the students that are no controls."""
    found = []
    for key, what in (("category", "category"), ("language", "language")):
        rows = [
            (f"{name}\n{arm}", index[arm], fraction)
            for arm in source.students
            if arm not in source.controls
            for name, fraction in arms.get(arm, {}).get("satisfaction", {}).get(key, {}).items()
        ]
        if len(rows) > 1:
            title = f"Fraction of the teacher's satisfaction by {what} (exploratory)"
            found.append(figures.forest(rows[:24], source.margin, key=f"forest-{key}", title=title))
    return found


def kind_pictures(source: Source, kind: str, block: dict[str, Any]) -> list[figures.Picture]:
    """Figures of ratings that are not by people, marked as such in their titles."""
    return _rating_pictures(source, block, f" ({MARKS[kind]})")


def mode_pictures(source: Source, mode: str, block: dict[str, Any]) -> list[figures.Picture]:
    """Figures of people's ratings in another mode than the study's own."""
    return _rating_pictures(source, {**block, "preference": None}, f" ({mode})")


def _frontier(source: Source, index: Mapping[str, int], report: dict[str, Any]) -> figures.Picture | None:
    """Quality against cost: of satisfaction where people rated, else of scores, else of the likelihood of a text."""
    ways: tuple[tuple[str, Callable[[str], dict[str, Any] | None]], ...] = (
        ("satisfaction", lambda arm: report["arms"][arm].get("satisfaction", {}).get("fraction")),
        ("score", lambda arm: kept_of(report, arm)),
        ("likelihood of a token", lambda arm: likelihood_kept(report, arm)),
    )
    pools = list(dict.fromkeys(source.pools.values()))
    for of, way in ways:
        points = []
        for arm in source.students:
            fraction, pool = way(arm), source.pools.get(arm)
            if fraction:
                at = index[arm] if pool is None else 1 + pools.index(pool)
                points.append(figure_frontier.point(pool or arm, at, fraction, report["arms"][arm]["costs"]))
        if any(point.costs for point in points):
            there = [point for point in points if point.costs]
            return figure_frontier.frontier(there, of, published=of in ("satisfaction", "score"))
    return None


def _multiples(
    source: Source, index: dict[str, int], arms: dict[str, Any]
) -> list[tuple[str, list[tuple[int, float]]]]:
    """Rows of the figure of multiples: every score and cost that has one, with an arrow for the better direction."""
    rows: dict[str, list[tuple[int, float]]] = {}
    reading = no_writing([one["costs"] for one in arms.values()])
    for arm in source.students:
        costs = arms[arm]["costs"].get("of_teacher", {})
        for item in COSTS:
            if item.key in costs and item.key not in LEFT_OUT and costs[item.key] > 0:
                arrow = "↑" if item.better == "higher" else "↓"
                rows.setdefault(f"{label_of(item, reading)} {arrow}", []).append((index[arm], costs[item.key]))
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
        size, speed = size_of(costs), speed_of(costs)
        if size and speed:
            points.append((arm, index[arm], 1 / size[0], speed))
    return points

"""Do ratings hang on order: the place in a rater's order (tiring, learning), the place on a page, time on an item."""

from dataclasses import asdict
from typing import Any

import numpy as np

from reports.stats.cells import Floats, aligned
from reports.stats.order import place_in_order, slope
from reports.tidy import Tidy

CLEAR = 0.01  # p below which an order effect is warned of; several are looked at
POINTS = 0.2  # and how large it has to be, in points of the scale


def order_effects(tidy: Tidy) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """Satisfaction by place in the order and on the page, and warnings; empty where places are unknown."""
    value = tidy.values["satisfaction"]
    keep = ~np.isnan(value) & ~np.isnan(tidy.position)
    found: dict[str, Any] = {"quarters": [], "trend": None, "trend_by_arm": {}, "page": None}
    warnings: list[dict[str, Any]] = []
    if not keep.any():
        return found, warnings
    rater, arm, value = tidy.rater[keep], tidy.arm[keep], value[keep]
    place = place_in_order(rater, tidy.position[keep])
    found["quarters"] = _quarters(place, value, tidy.seconds[keep])
    trend = slope(value, place, [rater, arm], rater)
    found["trend"] = asdict(trend) if trend else None
    for code, name in enumerate(tidy.arms):
        mine = arm == code
        one = slope(value[mine], place[mine], [rater[mine]], rater[mine])
        if one:
            found["trend_by_arm"][name] = asdict(one)
    if trend and trend.p is not None and trend.p < CLEAR and abs(trend.estimate) >= POINTS:
        warnings.append({"code": "order_effect", "change": trend.estimate, "p": trend.p, "n": trend.n})
    page = tidy.place[keep]
    if np.nanmax(page, initial=1) > 1:
        position = tidy.position[keep].astype(np.int64)
        pages = rater * (int(position.max()) + 1) + position
        there = ~np.isnan(page)
        effect = slope(value[there], page[there], [pages[there], arm[there]], rater[there])
        found["page"] = asdict(effect) if effect else None
        if effect and effect.p is not None and effect.p < CLEAR and abs(effect.estimate) >= POINTS:
            warnings.append({"code": "page_effect", "change": effect.estimate, "p": effect.p, "n": effect.n})
    return found, warnings


def _quarters(place: Floats, value: Floats, seconds: Floats) -> list[dict[str, Any]]:
    """Mean and SD of satisfaction and the median time by quarter of each rater's own order."""
    quarter = np.minimum((4 * place).astype(np.int64), 3)
    found = []
    for index in range(4):
        mine = quarter == index
        n, time = int(mine.sum()), seconds[mine]
        time = time[~np.isnan(time)]
        found.append(
            {
                "quarter": index + 1,
                "n": n,
                "mean": value[mine].mean() if n else None,
                "sd": value[mine].std(ddof=1) if n > 1 else None,
                "median_seconds": float(np.median(time)) if len(time) else None,
            }
        )
    return found


def by_scenario(tidy: Tidy) -> dict[str, dict[str, Any]]:
    """Mean satisfaction difference of each student in each scenario, on common cells."""
    ratings, _ = tidy.measure("satisfaction")
    found: dict[str, dict[str, Any]] = {}
    for code, arm in enumerate(tidy.arms[1:], 1):
        cells = aligned(ratings, code, 0)
        n, student, teacher = (np.bincount(cells.scenario, weights) for weights in (None, cells.student, cells.teacher))
        found[arm] = {
            tidy.scenarios[at]: {
                "n": int(n[at]),
                "category": tidy.category[at],
                "student": student[at] / n[at],
                "teacher": teacher[at] / n[at],
                "difference": (student[at] - teacher[at]) / n[at],
            }
            for at in np.flatnonzero(n)
        }
    return found

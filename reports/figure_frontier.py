"""Quality against cost: what each student keeps of the teacher's quality at which size, time and energy."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from reports.costs import size_of, speed_of
from reports.figures import INK, MARKERS, Picture, _colour, _figure, _svg
from reports.published import PUBLISHED

Costs = dict[str, float]
"""Cost of a student as a fraction of the teacher's, by axis."""


@dataclass(frozen=True)
class Point:
    """A student: its name, index of its arm, fraction as in report.json, and costs as fractions of the teacher's."""

    name: str
    arm: int
    fraction: dict[str, Any]
    costs: Costs


AXES = {"size": "size", "time": "time", "energy": "energy"}
"""Axis -> what it is called; all are better to the left."""


def frontier(points: Sequence[Point], of: str = "satisfaction", *, published: bool = True) -> Picture:
    """Fraction kept (of what, says `of`) against size, time and energy, those that are known.

    Points of one name are seeds of one student. Published students stand beside, by size, where `published`.
    """
    axes_there = [name for name in AXES if any(name in one.costs for one in points)]
    figure, grid = _figure(2.9, 1, len(axes_there), width=2.6 * len(axes_there) + 0.6, sharey=True)
    for ax, axis in zip(grid[0], axes_there, strict=True):
        if axis == "size" and published:
            for one, below in zip(PUBLISHED, (False, True, True), strict=True):
                ax.plot(100 / one.smaller, 100 * one.kept, "+", color=INK, markersize=6, markeredgewidth=1, alpha=0.6)
                place = {"textcoords": "offset points", "xytext": (0, -11 if below else 5), "color": INK, "fontsize": 7,
                         "ha": "center"}  # fmt: skip
                ax.annotate(one.name.split(",")[0], (100 / one.smaller, 100 * one.kept), **place)
        ax.plot(100, 100, MARKERS[0], color=_colour(0), markersize=7)
        ax.annotate(
            "teacher", (100, 100), textcoords="offset points", xytext=(-5, 6), ha="right", color=INK, fontsize=8
        )
        named: set[str] = set()
        for one in points:
            if axis not in one.costs:
                continue
            x, y = 100 * one.costs[axis], 100 * one.fraction["estimate"]
            if one.fraction["low"] is not None:
                ax.plot([x, x], [100 * one.fraction["low"], 100 * one.fraction["high"]], color=_colour(one.arm))
            ax.plot(x, y, MARKERS[one.arm % len(MARKERS)], color=_colour(one.arm), markersize=7)
            if one.name not in named:
                ax.annotate(one.name, (x, y), textcoords="offset points", xytext=(6, 5), color=INK, fontsize=8)
            named.add(one.name)
        ax.set_xlabel(f"{AXES[axis]}, % of the teacher's")
        ax.margins(y=0.12)
        ax.set_xlim(0, 112 * max(1.0, *(one.costs.get(axis, 0.0) for one in points)))
        ax.grid(linewidth=0.5)
        ax.set_axisbelow(True)
    grid[0, 0].set_ylabel(f"{of} kept, %")
    title = "What is kept against what it costs"
    caption = (
        "Up and to the left is better. Bars: 95 % intervals. Size: parameters, or bytes on disk of arms with fewer "
        "bits. Time and energy: of a token, or of a reading where nothing is written."
    )
    data = [
        (one.name, *(one.costs.get(axis) for axis in axes_there), one.fraction["estimate"], one.fraction["low"],
         one.fraction["high"])
        for one in points
    ]  # fmt: skip
    if published:
        caption += " Crosses: published students by size; Gemma 2 of satisfaction, the others of GLUE."
        data += [
            (one.name, *(1 / one.smaller if axis == "size" else None for axis in axes_there), one.kept, None, None)
            for one in PUBLISHED
        ]
    header = ("arm", *(AXES[axis] for axis in axes_there), "fraction", "low", "high")
    svg = _svg(figure, "frontier", title)
    return Picture("frontier", title, caption, svg, header, tuple(data), wide=len(axes_there) > 1)


def point(name: str, arm: int, fraction: dict[str, Any], costs: dict[str, Any]) -> Point:
    """A student's place from its block `costs` in report.json."""
    size, speed = size_of(costs), speed_of(costs)
    found = {
        "size": size[0] if size else None,
        "time": 1 / speed["estimate"] if speed else None,
        "energy": (costs.get("of_teacher") or {}).get("joules_per_1000_tokens"),
    }
    return Point(name, arm, fraction, {axis: value for axis, value in found.items() if value is not None})

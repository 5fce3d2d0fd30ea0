"""The figure of 'x smaller, y faster', beside what two well-known students claim."""

from collections.abc import Mapping, Sequence
from typing import Any

from reports.cost_tables import CLAIMS, CLAIMS_NOTE
from reports.figures import GRID, INK, MARKERS, Picture, _colour, _decades, _figure, _legend, _svg


def smaller_faster(points: Sequence[tuple[str, int, float, Mapping[str, Any]]]) -> Picture:
    """Times faster against times smaller; a point is (student, its index, times smaller, speed ratio with limits)."""
    figure, axes = _figure(3.0)
    ax = axes[0, 0]
    for claim in CLAIMS:
        ax.axhline(claim.faster, color=GRID, linewidth=0.8, linestyle=(0, (4, 3)))
        ax.axvline(claim.smaller, color=GRID, linewidth=0.8, linestyle=(0, (4, 3)))
        ax.plot(claim.smaller, claim.faster, "+", color=INK, markersize=8)
        place = {"textcoords": "offset points", "xytext": (-6, 4), "ha": "right", "color": INK, "fontsize": 8}
        ax.annotate(f"{claim.name} (claimed)", (claim.smaller, claim.faster), **place)
    ax.plot(1, 1, MARKERS[0], color=_colour(0), markersize=7)
    ax.annotate("teacher", (1, 1), textcoords="offset points", xytext=(7, -10), color=INK)
    for name, arm, smaller, speed in points:
        if speed["low"] is not None:
            ax.plot([smaller, smaller], [speed["low"], speed["high"]], color=_colour(arm))
        style = {"color": _colour(arm), "markersize": 6, "linestyle": "none", "label": name}
        ax.plot(smaller, speed["estimate"], marker=MARKERS[arm % len(MARKERS)], **style)
    ax.set_xscale("log")
    ax.set_yscale("log")
    _decades(ax, [1.0, *(claim.smaller for claim in CLAIMS), *(one[2] for one in points)], axis="x", sign="×")
    _decades(ax, [1.0, *(claim.faster for claim in CLAIMS), *(one[3]["estimate"] for one in points)], sign="×")
    ax.set_xlabel("times smaller than the teacher: parameters (log)")
    ax.set_ylabel("times faster: tokens a second (log)")
    ax.margins(x=0.15, y=0.12)
    _legend(figure, 4, handletextpad=0.2)
    title = "Smaller and faster"
    caption = f"Bars: 95 % intervals over paired rounds. Dashed: published claims. {CLAIMS_NOTE}"
    data = [(name, smaller, one["estimate"], one["low"], one["high"]) for name, _, smaller, one in points]
    data += [(f"{claim.name} (claimed)", claim.smaller, claim.faster, None, None) for claim in CLAIMS]
    header = ("arm", "times smaller", "times faster", "low", "high")
    return Picture("smaller-faster", title, caption, _svg(figure, "smaller-faster", title), header, tuple(data))

"""Figures of the validity checks: calibration of answers, the always-valid interval, ratings over a session."""

from collections.abc import Mapping, Sequence
from typing import Any

from reports.figures import GRID, INK, MARKERS, Picture, _colour, _figure, _legend, _mark, _svg

FEW = 5  # items of a bin below which its point is left out of the drawing, not of the table


def calibration(suites: Mapping[str, Mapping[str, Any]], index: Mapping[str, int]) -> Picture:
    """Accuracy against confidence in bins, one panel a suite (four at most); `suites` as in report.json."""
    shown = list(suites)[:4]
    figure, grid = _figure(2.7, 1, len(shown), width=2.5 * len(shown) + 0.6, sharey=True)
    data: list[tuple[Any, ...]] = []
    for ax, suite in zip(grid[0], shown, strict=True):
        ax.plot([0, 100], [0, 100], color=GRID, linewidth=1)
        for arm, found in suites[suite].items():
            bins = [one for one in found["bins"] if one["n"] >= FEW]
            x, y = [100 * one["confidence"] for one in bins], [100 * one["accuracy"] for one in bins]
            style = {"color": _colour(index[arm]), "markersize": 4.5}
            ax.plot(x, y, MARKERS[index[arm] % len(MARKERS)] + "-", **style)
        ax.set_xlim(0, 100)
        ax.set_ylim(0, 100)
        ax.set_title(suite, fontsize=9, color=INK)
        ax.set_xlabel("confidence, %")
        ax.grid(linewidth=0.5)
        ax.set_axisbelow(True)
    grid[0, 0].set_ylabel("right, %")
    for arm in dict.fromkeys(arm for suite in shown for arm in suites[suite]):
        grid[0, 0].plot([], [], MARKERS[index[arm] % len(MARKERS)] + "-", color=_colour(index[arm]), label=arm)
    _legend(figure, 4, handletextpad=0.4)
    for suite, by_arm in suites.items():
        for arm, found in by_arm.items():
            data += [(suite, arm, one["n"], one["confidence"], one["accuracy"]) for one in found["bins"]]
    title = "Calibration: how sure an arm is, and how often it is right"
    caption = f"On the line an arm is as right as it is sure. Bins of fewer than {FEW} items are in the table only."
    header = ("suite", "arm", "items", "confidence", "accuracy")
    svg = _svg(figure, "calibration", title)
    return Picture("calibration", title, caption, svg, header, tuple(data), wide=len(shown) > 2)


def sequence(rows: Sequence[tuple[str, int, Sequence[Mapping[str, Any]]]], *, marked: str = "") -> Picture:
    """The always-valid interval of the mean difference as raters finish; a row is (student, its index, its path)."""
    figure, axes = _figure(2.6)
    ax = axes[0, 0]
    for name, arm, path in rows:
        n = [one["n"] for one in path]
        ax.fill_between(n, [one["low"] for one in path], [one["high"] for one in path], color=_colour(arm), alpha=0.18,
                        linewidth=0)  # fmt: skip
        ax.plot(n, [one["mean"] for one in path], color=_colour(arm), label=name)
        if len(path) == 1:
            only = path[0]
            ax.errorbar(n, [only["mean"]], [[only["mean"] - only["low"]], [only["high"] - only["mean"]]],
                        fmt=MARKERS[arm % len(MARKERS)], color=_colour(arm))  # fmt: skip
    ax.axhline(0, color=INK, linewidth=0.8)
    ax.set_xlabel("raters who had finished")
    ax.set_ylabel("points, student − teacher")
    ax.xaxis.set_major_locator(_whole())
    ax.grid(linewidth=0.5)
    ax.set_axisbelow(True)
    _legend(figure, 4)
    title = f"Looking early: the always-valid 95 % interval{marked}"
    caption = "The whole band holds at once: look after every rater, and stop when you like. These scenarios only."
    data = [(name, one["n"], one["mean"], one["low"], one["high"]) for name, _, path in rows for one in path]
    key = _mark(figure, "sequence", marked)
    return Picture(key, title, caption, _svg(figure, key, title), ("arm", "raters", "mean", "low", "high"),
                   tuple(data))  # fmt: skip


def preferences(found: Mapping[str, Any], index: Mapping[str, int], *, marked: str = "") -> Picture:
    """Net preference of each student over the teacher side by side; `found` as report.json's `preference`."""
    rows = list(found["arms"].items())
    figure, axes = _figure(0.85 + 0.36 * len(rows))
    ax = axes[0, 0]
    at = list(range(len(rows)))[::-1]
    for y, (arm, one) in zip(at, rows, strict=True):
        colour = _colour(index[arm])
        if one["low"] is not None:
            ax.plot([100 * one["low"], 100 * one["high"]], [y, y], color=colour)
        ax.plot(100 * one["net"], y, MARKERS[index[arm] % len(MARKERS)], color=colour, markersize=7)
    ax.axvline(0, color=INK, linewidth=0.8)
    ax.set_yticks(at, [arm for arm, _ in rows])
    ax.set_ylim(-0.6, len(rows) - 0.4)
    ax.set_xlabel("% of pages that prefer the student, minus % that prefer the teacher")
    ax.tick_params(axis="y", length=0)
    ax.grid(axis="x", linewidth=0.5)
    ax.set_axisbelow(True)
    ax.spines["left"].set_visible(False)
    title = f"Side by side: preferred over the teacher{marked}"
    data = tuple((arm, one["chosen"], one["neither"], one["other"], one["net"], one["low"], one["high"], one["n"])
                 for arm, one in rows)  # fmt: skip
    header = ("arm", "preferred", "neither", "teacher preferred", "net", "low", "high", "pages")
    key = _mark(figure, "preferences", marked)
    caption = "Bars: 95 % intervals, raters and scenarios as samples."
    return Picture(key, title, caption, _svg(figure, key, title), header, data)


def _whole() -> Any:
    from matplotlib.ticker import MaxNLocator

    return MaxNLocator(7, integer=True)

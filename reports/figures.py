"""Figures as inline SVG: the same input gives the same bytes, and light and dark pages share one drawing.

Colours are drawn as placeholders and replaced by CSS variables, so that the page's style sheet decides. Arms differ by
colour and by marker, rating levels by lightness. matplotlib is imported on the first figure, without pyplot.
"""

import io
import re
import textwrap
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from reports.numbers import scaled

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

LABEL = 34  # characters of a row's label before it goes on below
WIDTH, FIRST = 5.2, 4.4  # inches, of any figure and of those for the first screen: readable on a phone
MARKERS = "osD^vPX*"
# placeholder -> CSS variable and its value where the style sheet is missing (Okabe and Ito's palette for arms)
INK, GRID, PAPER = "#010101", "#020202", "#030303"
ARMS = tuple(f"#0400{index:02x}" for index in range(8))
LEVELS = tuple(f"#0500{index:02x}" for index in range(1, 6))
ON_LEVELS = tuple(f"#0600{index:02x}" for index in range(1, 6))
_VARIABLES = {
    INK: "var(--ink, #1c2024)",
    GRID: "var(--grid, #d5d9de)",
    PAPER: "var(--paper, #ffffff)",
    **{
        colour: f"var(--arm{index}, {fallback})"
        for index, (colour, fallback) in enumerate(
            zip(
                ARMS,
                ("#4d5560", "#0072b2", "#d55e00", "#009e73", "#b3589a", "#a07800", "#3a9bd0", "#7a4a1e"),
                strict=True,
            )
        )
    },
    **dict(zip(LEVELS, ("#a6611a", "#dfc27d", "#c9ccd1", "#80cdc1", "#018571"), strict=True)),
    **dict(zip(ON_LEVELS, ("#ffffff", "#1c2024", "#1c2024", "#1c2024", "#ffffff"), strict=True)),
}


@dataclass(frozen=True)
class Picture:
    """A figure: what it shows in one line, the SVG, its data as a table, and whether it takes a whole row."""

    key: str
    title: str
    caption: str
    svg: str
    header: tuple[str, ...]
    rows: tuple[tuple[Any, ...], ...]
    wide: bool = False


def _figure(
    height: float, rows: int = 1, columns: int = 1, *, width: float = WIDTH, **options: Any
) -> "tuple[Figure, Any]":
    import matplotlib
    from matplotlib.figure import Figure

    settings = {
        "svg.fonttype": "none",  # text stays text: searchable, and in the page's own font
        "font.family": "sans-serif",
        "font.size": 9,
        "axes.edgecolor": GRID,
        "axes.labelcolor": INK,
        "text.color": INK,
        "xtick.color": INK,
        "ytick.color": INK,
        "grid.color": GRID,
        "axes.spines.top": False,
        "axes.spines.right": False,
        "axes.facecolor": "none",
        "figure.facecolor": "none",
        "legend.frameon": False,
        "lines.linewidth": 1.6,
    }
    with matplotlib.rc_context(settings):
        figure = Figure(figsize=(width, height), layout="constrained")
        axes = figure.subplots(rows, columns, squeeze=False, **options)
    return figure, axes


def _svg(figure: "Figure", key: str, title: str) -> str:
    import matplotlib
    from matplotlib.backends.backend_svg import FigureCanvasSVG

    FigureCanvasSVG(figure)
    if engine := figure.get_layout_engine():  # once: left in place, it would lay out, and draw, twice
        engine.execute(figure)
        figure.set_layout_engine(None)
    buffer = io.StringIO()
    # The salt makes ids differ between figures of one page and stay the same between runs.
    with matplotlib.rc_context({"svg.hashsalt": f"viva-{key}", "svg.fonttype": "none"}):
        figure.savefig(buffer, format="svg", metadata={"Date": None, "Creator": None}, transparent=True)
    text = buffer.getvalue()
    text = text[text.index("<svg") :]
    text = re.sub(r"<metadata>.*?</metadata>", "", text, flags=re.DOTALL)
    text = re.sub(r' id="(?:figure|axes|patch|text|line2d|matplotlib\.axis|xtick|ytick|legend)[\w.]*_\d+"', "", text)
    text = re.sub(r"<!--.*?-->\s*", "", text)
    for colour, variable in _VARIABLES.items():
        text = text.replace(colour, variable)
    text = re.sub(r"font: ([\d.]+)px [^;\"]*", r"font-size: \1px", text)
    label = title.replace("&", "&amp;").replace('"', "&quot;").replace("<", "&lt;")
    box = re.search(r'viewBox="([^"]+)"', text)
    head = f'<svg viewBox="{box.group(1) if box else ""}" role="img" aria-label="{label}">'
    text = head + text[text.index(">") + 1 :]
    return "\n".join(line.rstrip() for line in text.strip().splitlines())


def _mark(figure: "Figure", key: str, marked: str) -> str:
    """Write into a figure what it is not (people's ratings, the study's own mode), and give its key a name apart."""
    if not marked:
        return key
    figure.axes[0].set_title(marked.strip(" ()"), fontsize=8, color=INK, loc="left")
    return f"{key}-{re.sub(r'[^a-z0-9]+', '-', marked.lower()).strip('-')}"


def _legend(figure: "Figure", columns: int, **options: Any) -> None:
    figure.legend(loc="outside upper center", ncols=columns, frameon=False, fontsize=9, labelcolor=INK, **options)


def _colour(index: int) -> str:
    return ARMS[index % len(ARMS)]


def forest(
    rows: Sequence[tuple[str, int, dict[str, Any]]],
    margin: float,
    *,
    marked: str = "",
    key: str = "forest",
    title: str = "Fraction of the teacher's rating that each student keeps",
) -> Picture:
    """Fractions with their 95 % intervals; a row is (label, index of its arm, fraction as in report.json)."""
    figure, axes = _figure(0.85 + 0.34 * len(rows), width=FIRST if key == "forest" and not marked else WIDTH)
    ax: Axes = axes[0, 0]
    at = list(range(len(rows)))[::-1]
    for y, (_, arm, fraction) in zip(at, rows, strict=True):
        colour = _colour(arm)
        if fraction["low"] is not None:
            low, high = 100 * fraction["low"], 100 * fraction["high"]
            ax.plot([low, high], [y, y], color=colour, solid_capstyle="butt")
            ax.plot([low, high], [y, y], "|", color=colour, markersize=7, markeredgewidth=1.6)
        hollow = fraction["low"] is None
        style = {"markerfacecolor": PAPER if hollow else colour, "markeredgecolor": colour, "markersize": 7}
        ax.plot(100 * fraction["estimate"], y, MARKERS[arm % len(MARKERS)], **style)
    ax.axvline(100, color=INK, linewidth=0.8)
    ax.axvline(100 * margin, color=INK, linewidth=0.8, linestyle=(0, (3, 3)))
    ax.set_yticks(at, [label for label, _, _ in rows])
    ax.set_ylim(-0.6, len(rows) - 0.4)
    ax.set_xlabel(f"% of the teacher's rating (dashed: margin {100 * margin:.0f} %)")
    ax.tick_params(axis="y", length=0)
    ax.grid(axis="x", linewidth=0.5)
    ax.set_axisbelow(True)
    ax.spines["left"].set_visible(False)
    title = f"{title}{marked}"
    key = _mark(figure, key, marked)
    data = tuple((label, f["estimate"], f["low"], f["high"], f["n_cells"], f["n_raters"]) for label, _, f in rows)
    return Picture(
        key,
        title,
        "Point: ratio of mean ratings. Bar: 95 % interval, raters and scenarios as samples. Hollow point: no interval.",
        _svg(figure, key, title),
        ("measure", "fraction", "low", "high", "common cells", "raters"),
        data,
    )


def distributions(rows: Sequence[tuple[str, Sequence[int]]], *, marked: str = "") -> Picture:
    """Diverging stacked bars of the ratings 1 to 5, centred on 3; a row is (label, five counts)."""
    figure, axes = _figure(0.95 + 0.36 * len(rows))
    ax: Axes = axes[0, 0]
    at = list(range(len(rows)))[::-1]
    for y, (_, counts) in zip(at, rows, strict=True):
        share = [100 * count / max(1, sum(counts)) for count in counts]
        left = -(share[0] + share[1] + share[2] / 2)
        for level, width in enumerate(share):
            ax.barh(y, width, left=left, height=0.72, color=LEVELS[level], linewidth=0)
            if width >= 7:
                ax.text(
                    left + width / 2,
                    y,
                    f"{width:.0f}",
                    ha="center",
                    va="center",
                    fontsize=8,
                    color=ON_LEVELS[level],
                )
            left += width
    ax.axvline(0, color=INK, linewidth=0.8)
    ax.set_yticks(at, [label for label, _ in rows])
    ax.set_xlim(-100, 100)
    ax.set_xticks([-100, -50, 0, 50, 100], ["100", "50", "0", "50", "100"])
    ax.set_xlabel("% of ratings: below the middle on the left, above on the right")
    ax.tick_params(axis="y", length=0)
    ax.spines["left"].set_visible(False)
    for level in range(5):
        ax.barh([0], [0], color=LEVELS[level], label=str(level + 1))
    _legend(figure, 5, handlelength=1, handletextpad=0.4, columnspacing=1.2)
    title = f"How often each rating was given{marked}"
    key = _mark(figure, "distributions", marked)
    return Picture(
        key,
        title,
        "1 is the lowest and 5 the highest rating; half of the 3s lie on either side of the line.",
        _svg(figure, key, title),
        ("arm", "1", "2", "3", "4", "5", "n"),
        tuple((label, *counts, sum(counts)) for label, counts in rows),
    )


def by_scenario(rows: Sequence[tuple[str, int, Sequence[float]]]) -> Picture:
    """Differences in points, one dot a scenario, ordered; a row is (student, index of its arm, differences)."""
    figure, axes = _figure(2.6)
    ax: Axes = axes[0, 0]
    for label, arm, differences in rows:
        ordered = sorted(differences)
        share = [100 * (place + 0.5) / len(ordered) for place in range(len(ordered))]
        ax.plot(
            share,
            ordered,
            MARKERS[arm % len(MARKERS)],
            color=_colour(arm),
            markersize=3.5,
            label=label,
            linestyle="none",
        )
    ax.axhline(0, color=INK, linewidth=0.8)
    ax.set_xlabel("% of scenarios, from the worst for the student to the best")
    ax.set_ylabel("points, student − teacher")
    ax.grid(axis="y", linewidth=0.5)
    ax.set_axisbelow(True)
    _legend(figure, 4, handletextpad=0.2)
    title = "Difference of mean satisfaction in each scenario"
    data = tuple((label, place, value) for label, _, values in rows for place, value in enumerate(sorted(values), 1))
    caption = "Dots below the line: scenarios in which the teacher was rated higher."
    return Picture("scenarios", title, caption, _svg(figure, "scenarios", title), ("arm", "rank", "difference"), data)


def training(logs: Sequence[tuple[str, int, Sequence[dict[str, Any]]]]) -> Picture:
    """Training loss and held-out perplexity against tokens; a log is (arm, its index, lines of metrics.jsonl)."""
    evaluated = [
        (name, arm, [line for line in log if (line.get("eval") or {}).get("perplexity")]) for name, arm, log in logs
    ]
    two = any(lines for _, _, lines in evaluated)
    figure, axes = _figure(2.2 + 2.0 * two, 1 + two, sharex=True)
    data: list[tuple[Any, ...]] = []
    for name, arm, log in logs:
        x = [line.get("tokens", line["step"]) for line in log]
        axes[0, 0].plot(x, [_number(line.get("loss")) for line in log], color=_colour(arm), label=name)
    for name, arm, lines in evaluated if two else ():
        x = [line.get("tokens", line["step"]) for line in lines]
        y = [line["eval"]["perplexity"] for line in lines]
        axes[1, 0].plot(x, y, MARKERS[arm % len(MARKERS)] + "-", color=_colour(arm), markersize=3.5)
        data += [(name, at, value, line["eval"].get("kl")) for at, value, line in zip(x, y, lines, strict=True)]
    axes[0, 0].set_ylabel("training loss")
    if two:
        axes[1, 0].set_yscale("log")
        axes[1, 0].set_ylabel("held-out perplexity")
        _decades(axes[1, 0], [row[2] for row in data])
    axes[-1, 0].set_xlabel("tokens")
    for ax in axes[:, 0]:
        ax.grid(axis="y", linewidth=0.5)
        ax.set_axisbelow(True)
    axes[-1, 0].xaxis.set_major_formatter(lambda value, _: f"{value:,.0f}")
    _legend(figure, 4)
    title = "Training"
    caption = "Losses of different objectives are on different scales; compare held-out perplexities (log scale)."
    return Picture(
        "training",
        title,
        caption,
        _svg(figure, "training", title),
        ("arm", "tokens", "held-out perplexity", "KL to the teacher"),
        tuple(data),
    )


def retained(
    rows: Sequence[tuple[str, Sequence[tuple[int, float]]]], names: Sequence[str], *, first: bool = True
) -> Picture:
    """Each benchmark as a multiple of the teacher's number; a row is (label, [(index of its arm, ratio)])."""
    figure, axes = _figure(1.05 + 0.36 * len(rows), width=FIRST if first else WIDTH)
    ax: Axes = axes[0, 0]
    at = list(range(len(rows)))[::-1]
    for y, (_, points) in zip(at, rows, strict=True):
        for place, (arm, ratio) in enumerate(points):
            y_of = y + 0.22 * ((len(points) - 1) / 2 - place)  # arms of the same size must not hide each other
            ax.plot(ratio, y_of, MARKERS[arm % len(MARKERS)], color=_colour(arm), markersize=6)
    for arm in sorted({arm for _, points in rows for arm, _ in points}):
        ax.plot([], [], MARKERS[arm % len(MARKERS)], color=_colour(arm), markersize=6, label=names[arm])
    ax.axvline(1, color=INK, linewidth=0.8)
    ax.set_xscale("log")
    _decades(ax, [1.0, *(ratio for _, points in rows for _, ratio in points)], axis="x", sign="×")
    ax.set_yticks(at, [textwrap.fill(label, LABEL) for label, _ in rows])
    ax.set_ylim(-0.6, len(rows) - 0.4)
    ax.tick_params(axis="y", length=0)
    ax.spines["left"].set_visible(False)
    ax.grid(linewidth=0.5)
    ax.set_axisbelow(True)
    ax.set_xlabel("× teacher's number (log)")
    _legend(figure, 4, handletextpad=0.2)
    title = "Every measure as a multiple of the teacher's"
    caption = "The line is the teacher. Arrows say which direction is better."
    data = tuple((label, names[arm], ratio) for label, points in rows for arm, ratio in points)
    return Picture("retained", title, caption, _svg(figure, "retained", title), ("measure", "arm", "ratio"), data)


def over_seeds(pools: Sequence[dict[str, Any]]) -> Picture:
    """Held-out perplexity by size with its interval over seeds, and by tokens; `pools` as report.json's `seeds`."""
    sizes = len({one["parameters"] for one in pools} - {None})
    figure, axes = _figure(2.4 + 2.2 * (sizes > 1), 1 + (sizes > 1))
    by_tokens: Axes = axes[-1, 0]
    data: list[tuple[Any, ...]] = []
    for role, arm, style in (("control", 2, "--"), ("student", 1, "-")):
        mine = [one for one in pools if one["role"] == role]
        for one in mine:
            along = one["by_tokens"]
            x, y = [at["tokens"] for at in along], [at["perplexity"] for at in along]
            by_tokens.plot(x, y, MARKERS[arm] + style, color=_colour(arm), markersize=3.5)
            data += [(one["pool"], one["parameters"], at["tokens"], at["perplexity"], None, None) for at in along[:-1]]
            end = one["perplexity"]
            data.append((one["pool"], one["parameters"], one["tokens"], end["estimate"], end["low"], end["high"]))
            if role == "student" and one["parameters"] and along:
                size = {"textcoords": "offset points", "xytext": (5, -3), "color": INK, "fontsize": 8}
                by_tokens.annotate(scaled(one["parameters"]), (x[-1], y[-1]), **size)
        by_tokens.plot([], [], MARKERS[arm] + style, color=_colour(arm), label=role)
        sized = [one for one in mine if one["parameters"]]
        if sizes > 1:
            for one in sized:
                if one["perplexity"]["low"] is not None:
                    limits = [one["perplexity"]["low"], one["perplexity"]["high"]]
                    axes[0, 0].plot([one["parameters"]] * 2, limits, color=_colour(arm))
            x, y = [one["parameters"] for one in sized], [one["perplexity"]["estimate"] for one in sized]
            axes[0, 0].plot(x, y, MARKERS[arm] + style, color=_colour(arm), markersize=5)
            axes[0, 0].set_xscale("log")
            axes[0, 0].set_xlabel("parameters (log)")
    for ax in axes[:, 0]:
        ax.set_yscale("log")
        ax.set_ylabel("held-out perplexity (log)")
        ends = [one["perplexity"][key] for one in pools for key in ("estimate", "low", "high")]
        _decades(ax, ends if ax is not by_tokens else [row[3] for row in data])
        ax.grid(linewidth=0.5)
        ax.set_axisbelow(True)
    if sizes > 1:
        _decades(axes[0, 0], [one["parameters"] for one in pools], axis="x")
        axes[0, 0].xaxis.set_major_formatter(lambda value, _: scaled(value))
    by_tokens.set_xlabel("tokens; one line a pool of seeds")
    by_tokens.margins(x=0.12)
    by_tokens.xaxis.set_major_formatter(lambda value, _: f"{value:,.0f}")
    _legend(figure, 4)
    title = "Held-out perplexity over seeds"
    caption = "Geometric means over seeds; bars: 95 % intervals over seeds. A control learns without the teacher."
    header = ("pool", "parameters", "tokens", "held-out perplexity", "low", "high")
    return Picture("seeds", title, caption, _svg(figure, "seeds", title), header, tuple(data))


def _number(value: Any) -> float:
    return float(value) if isinstance(value, (int, float)) else float("nan")


def _decades(ax: "Axes", values: Sequence[float], axis: str = "y", sign: str = "") -> None:
    """Readable ticks on a log axis: even ones within a factor of 4, then 1, 2, 5, and powers of ten beyond."""
    from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator, NullLocator

    good = [value for value in values if value and value > 0]
    spread = max(good) / min(good) if good else 1.0
    which = ax.yaxis if axis == "y" else ax.xaxis
    subs = (1.0, 2.0, 5.0) if spread < 30 else (1.0, 3.0) if spread < 1000 else (1.0,)
    which.set_major_locator(MaxNLocator(6) if spread < 4 else LogLocator(base=10, subs=subs, numticks=12))
    which.set_minor_locator(NullLocator())
    which.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.6g}{sign}"))

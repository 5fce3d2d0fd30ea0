"""Comparisons of two arms as text: a table for each suite, for the page, for Markdown and for a terminal."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from reports.compare import interval_text, is_share, score_label
from reports.numbers import NBSP, NONE, joined, p_value, percent, plain_number, plural, span, times

HEADER = ("score", "arm", "against", "arm’s", "other’s", "difference", "p (Holm)", "retained", "above chance", "n")
OVERLAP_HEADER = ("suite", "corpus", "items", "overlap", "share", "as a whole", "too short", "which")
SHOWN = 12  # keys of overlapping items that are listed
HELP = (
    "Each line compares two arms on the very same items. The difference is the arm’s score minus the other’s, in "
    "points where scores are in percent; in brackets its 95 % interval, from 10,000 draws of the items (2,000 where "
    "there are thousands; whole documents or groups where several items share one). p tests for no difference: "
    "McNemar’s exact test where items are right or wrong, else the same draws. Holm’s adjustment goes over everything "
    "that is tested about one pair of arms; the perplexities of one text are one test. Retained is the arm’s score "
    "divided by the other’s; for perplexities, where less is better, it is their ratio. Above chance, what guessing "
    "would reach is taken off both first: 25 % right of four choices is nothing retained. A large p is no proof that "
    "nothing was lost: look at the interval."
)


@dataclass(frozen=True)
class Line:
    """One comparison as the cells of HEADER, and whether it repeats the line above without overlapping items."""

    cells: tuple[str, ...]
    again: bool = False


@dataclass(frozen=True)
class Table:
    """The comparisons of one suite, and what is to be said about its items."""

    suite: str
    lines: tuple[Line, ...]
    notes: tuple[str, ...]


def tables(pairs: Sequence[Mapping[str, Any]]) -> list[Table]:
    """A table for each suite, score by score, all pairs of arms under each other; `pairs` as in report.json."""
    by_suite: dict[str, dict[str, list[tuple[Mapping[str, Any], Mapping[str, Any]]]]] = {}
    for pair in pairs:
        for row in pair["rows"]:
            scores = by_suite.setdefault(row["suite"].split("/")[0], {})
            scores.setdefault(f"{row['suite']} {row['metric']}", []).append((pair, row))
    found = []
    for suite, scores in by_suite.items():
        entries = [entry for group in scores.values() for entry in group]
        lines = [line for pair, row in entries for line in _lines(pair, row)]
        found.append(Table(suite, tuple(lines), tuple(_notes(entries))))
    return found


def _lines(pair: Mapping[str, Any], row: Mapping[str, Any]) -> list[Line]:
    label = score_label({**row, "suite": row["suite"]})
    head = (label, pair["arm"], pair["against"])
    lines = [Line((*head, *_numbers(row, row, p_value(row["p_holm"]))))]
    if row["without_overlap"]:
        rest = row["without_overlap"]
        lines.append(
            Line((f"… without {rest['left_out']:,} that overlap", *head[1:], *_numbers(rest, row, NONE)), True)
        )
    return lines


def _numbers(values: Mapping[str, Any], row: Mapping[str, Any], p: str) -> tuple[str, ...]:
    """Scores of both arms, difference, p, retained, above chance, n."""
    show = (lambda value: percent(value, 1)) if is_share(dict(row)) else plain_number
    difference = NONE
    if values["difference"]:
        difference = f"{_signed(values['difference']['estimate'], row)} ({_limits(values['difference'], row)})"
    higher = row["higher_is_better"]
    retained, above = (_ratio(values[key], higher) for key in ("retained", "above_chance"))
    return (show(values["arm"]), show(values["against"]), difference, p, retained, above, f"{values['n']:,}")


def _signed(value: float, row: Mapping[str, Any]) -> str:
    text = f"{100 * value:.1f}" if is_share(dict(row)) else plain_number(value)
    return (text if value < 0 else f"+{text}").replace("-", "−")


def _limits(limits: Mapping[str, Any], row: Mapping[str, Any]) -> str:
    return "no interval" if limits["low"] is None else interval_text(dict(limits), dict(row))


def _ratio(limits: Mapping[str, Any] | None, higher: bool) -> str:
    if not limits:
        return NONE
    if higher:
        inner = "no interval" if limits["low"] is None else span(limits["low"], limits["high"]).replace("-", "−")
        return f"{percent(limits['estimate'])} ({inner})"
    inner = "no interval" if limits["low"] is None else f"{_times(limits['low'])} to {_times(limits['high'])}"
    return f"{_times(limits['estimate'])} ({inner})"


def _times(value: float) -> str:
    return times(value) if value >= 0.1 else f"{plain_number(value)}×"


def _notes(entries: Sequence[tuple[Mapping[str, Any], Mapping[str, Any]]]) -> list[str]:
    """What keeps items or scores of a suite from being compared, each once."""
    found: dict[str, None] = {}
    for pair, row in entries:
        who = f"{pair['arm']} and {pair['against']}"
        if row["different"]:
            found[f"{who}: {plural(row['different'], 'item')} of one name but different content are left out."] = None
        if row["unpaired"]:
            found[f"{who}: {plural(row['unpaired'], 'item')} that only one of them has are left out."] = None
        if row["reason"]:
            found[f"{who}, {row['metric'].replace('_', ' ')}: {row['reason']}."] = None
        if row["clustered_by"]:
            found[
                f"{plural(row['n'], 'item')} in {plural(row['clusters'], 'group')} by {row['clustered_by']}: "
                "whole groups are drawn."
            ] = None
    return list(found)


def overlap_lines(arms: Mapping[str, Any]) -> list[tuple[str, ...]]:
    """Suite, corpus, items, overlapping, share, looked for as a whole, too short to look for, the items' keys.

    Arms with one corpus share their lines; `arms` as in report.json.
    """
    found: dict[tuple[str, ...], list[str]] = {}
    for arm, block in arms.items():
        overlap = block.get("overlap") or {}
        for name, one in (overlap.get("suites") or {}).items():
            keys = list(one["found"])
            shown = ", ".join(keys[:SHOWN]) + (f" and {len(keys) - SHOWN:,} more" if len(keys) > SHOWN else "")
            counts = (f"{one[key]:,}" for key in ("items", "overlapping"))
            rest = (percent(one["share"], 1), f"{one['whole']:,}", f"{one['unchecked']:,}", shown or NONE)
            found.setdefault((name, overlap["corpus"]["name"], *counts, *rest), []).append(arm)
    return [(line[0], f"{line[1]} ({joined(arms)})", *line[2:]) for line, arms in found.items()]


def said_of_pairs(pairs: Sequence[Mapping[str, Any]], teacher: str) -> list[str]:
    """What each student retains over tasks, and how often it chooses as the teacher does."""
    said = []
    for pair in pairs:
        if pair["against"] != teacher:
            continue
        mean = pair["retained_mean"] or {}
        for key, words in (("retained", "accuracy"), ("above_chance", "accuracy above chance")):
            if one := mean.get(key):
                said.append(
                    f"{pair['arm']}, mean over {one['n']} tasks of the {words} retained: {percent(one['estimate'])} "
                    f"({span(one['low'], one['high']).replace('-', '−')}), least on {one['lowest']['suite']} "
                    f"({percent(one['lowest']['estimate'])}). The interval speaks of these tasks."
                )
        if same := pair["same_choice"]:
            each = [f"{one['suite']} {percent(one['estimate'])} ({span(one['low'], one['high'])})" for one in same]
            said.append(f"{pair['arm']} chooses the same answer as the {teacher} on {joined(each)} of the items.")
    return said


def terminal(table: Table) -> str:
    """A table in fixed-width letters."""
    rows = [HEADER, *(line.cells for line in table.lines)]
    rows = [tuple(cell.replace(NBSP, " ") for cell in row) for row in rows]
    widths = [max(len(row[at]) for row in rows) for at in range(len(HEADER))]
    lines = []
    for row in rows:
        cells = [
            cell.ljust(width) if at < 3 else cell.rjust(width)
            for at, (cell, width) in enumerate(zip(row, widths, strict=True))
        ]
        lines.append("  ".join(cells).rstrip())
    return "\n".join([table.suite, *lines, *table.notes])

"""Validity in sentences: blinding, order, repeats, known answers, what is missing, and results under every rule."""

from collections.abc import Mapping
from typing import Any

from reports.analysis_raters import RULES
from reports.numbers import NONE, fraction_text, joined, p_value, percent, plain_number, plural, signed

VERDICTS = {
    "held": "blinding held",
    "failed": "blinding failed",
    "unclear": "unclear: more guesses are needed",
    "reversed": "raters took the smaller arm for the larger one",
    "too few": "too few guesses to tell",
}


def rule_name(rule: str) -> str:
    """'without_constant_raters' -> what was left out, in words."""
    name = rule.removeprefix("without_")
    return f"without {RULES[name]}" if name in RULES else "without all of these"


def sensitivity_lines(arms: Mapping[str, Any], students: tuple[str, ...], measure: str) -> list[tuple[str, ...]]:
    """Rows of the table of results with and without: rule, student, fraction, moved to zero, difference, p, n."""
    lines: list[tuple[str, ...]] = []
    rules = [key for arm in students for key in arms.get(arm, {}).get(measure, {}).get("sensitivity", {})]
    for rule in dict.fromkeys(rules):
        for arm in students:
            one = arms.get(arm, {}).get(measure, {}).get("sensitivity", {}).get(rule)
            if one:
                lines.append((rule_name(rule), arm, *_results(one), _left(one)))
    if lines:
        whole = [
            ("all ratings", arm, *_results(arms[arm][measure]), "")
            for arm in students
            if arms.get(arm, {}).get(measure, {}).get("fraction")
        ]
        lines = whole + lines
    return lines


SENSITIVITY_HEADER = (
    *("ratings", "student", "fraction kept", "moved to zero", "difference, points", "not inferior: p", "n", "left out"),
)


def _results(block: Mapping[str, Any]) -> tuple[str, ...]:
    fraction, diff, test = block.get("fraction"), block.get("difference"), block.get("non_inferiority")
    if not fraction or not diff or not test:
        return (NONE,) * 5
    n = f"{plural(fraction['n_raters'], 'rater')}, {plural(fraction['n_cells'], 'cell')}"
    limits = "" if diff["low"] is None else f" ({signed(diff['low'])} to {signed(diff['high'])})"
    return (
        fraction_text(fraction),
        fraction_text(block.get("fraction_rescaled")),
        f"{signed(diff['estimate'])}{limits}",
        p_value(test["p"]),
        n,
    )


def _left(one: Mapping[str, Any]) -> str:
    return f"{plural(one['raters_left_out'], 'rater')}, {plural(one['ratings_left_out'], 'rating')}"


def blinding_lines(people: Mapping[str, Any]) -> list[tuple[str, ...]]:
    """Rows: arm, guesses right, wrong, unsure, index with interval, p, verdict, n."""
    return [
        (
            arm,
            *(str(one[name]) for name in ("correct", "wrong", "unsure")),
            f"{one['index']:.2f} ({one['low']:.2f} to {one['high']:.2f})".replace("-", "−"),
            p_value(one["p"]),
            VERDICTS[one["verdict"]],
            plural(one["n"], "rater"),
        )
        for arm, one in people.get("blinding", {}).items()
    ]


def validity_texts(people: Mapping[str, Any], students: tuple[str, ...], names: Mapping[str, str]) -> list[str]:
    """One sentence or two for each thing that was checked."""
    said = []
    for measure, one in people.get("repeats", {}).items():
        exact, within = one["exact"]["estimate"], one["within_one"]["estimate"]
        said.append(
            f"Hidden repeats, {names[measure]}: {percent(exact)} got the same rating and {percent(within)} one at most "
            f"a point away; one rating strays by {plain_number(one['sd'])} points around the rater's own mean (n = "
            f"{plural(one['n'], 'repeat')} by {plural(one['n_raters'], 'rater')})."
        )
    checks = people.get("checks")
    if checks:
        share = checks["passed"]
        said.append(f"Known answers: {percent(share['estimate'])} were rated as expected "
                    f"(n = {checks['n']:,} by {plural(checks['n_raters'], 'rater')}).")  # fmt: skip
    said += _order(people.get("order") or {})
    raters = people.get("raters")
    if raters:
        spread = raters["severity"]
        apart = "" if spread["sd"] is None else f"; on the same units they differ by an SD of {spread['sd']:.2f} points"
        said.append(
            f"Raters' mean satisfaction ratings lie between {plain_number(spread['lowest'])} and "
            f"{plain_number(spread['highest'])} (n = {plural(people['n']['raters'], 'rater')}){apart}."
        )
    return said + _missing(people) + _looking(people, students)


def _order(order: Mapping[str, Any]) -> list[str]:
    said = []
    quarters = [one for one in order.get("quarters", []) if one["n"]]
    if quarters:
        means = [f"{plain_number(one['mean'])} (n = {one['n']:,})" for one in quarters]
        text = f"Mean satisfaction by quarter of each rater's own order: {', '.join(means)}."
        seconds = [one["median_seconds"] for one in quarters if one["median_seconds"] is not None]
        if len(seconds) == len(quarters) > 1:
            text += f" Median time on an item: {', '.join(f'{one:.0f}' for one in seconds)} s."
        trend = order.get("trend")
        if trend and trend["low"] is not None:
            text += (
                f" From first to last {signed(trend['estimate'])} points ({signed(trend['low'])} to "
                f"{signed(trend['high'])}, raters and arms held constant)."
            )
        said.append(text)
    page = order.get("page")
    if page and page["low"] is not None:
        said.append(
            f"One place further to the right on a page: {signed(page['estimate'])} points ({signed(page['low'])} to "
            f"{signed(page['high'])}, n = {plural(page['n'], 'rating')})."
        )
    return said


def _missing(people: Mapping[str, Any]) -> list[str]:
    found = people.get("missing") or {}
    if not found.get("arms"):
        return []
    each = [f"{arm} {one['missing']:,} of {one['given']:,}" for arm, one in found["arms"].items()]
    text = f"Items given out and not rated: {joined(each)}."
    left = found["left_early"]
    if left["raters"]:
        after = [f"{arm} {n}" for arm, n in left["after"].items()]
        p = "" if left["p"] is None else f"; p that arms are alike {p_value(left['p'])}"
        text += (
            f" {plural(left['raters'], 'rater')} have not finished; last rated before they left: {joined(after)}{p}."
        )
    return [text]


def _looking(people: Mapping[str, Any], students: tuple[str, ...]) -> list[str]:
    said = []
    for arm in students:
        found = people["arms"].get(arm, {}).get("satisfaction", {}).get("confidence_sequence")
        if not found:
            continue
        d, ratio = found["asymptotic"], found["ratio"]
        whole = (
            "no bounded interval" if ratio["low"] is None else f"{percent(ratio['low'])} to {percent(ratio['high'])}"
        )
        said.append(
            f"{arm}, always-valid 95 % intervals, which allow for a look after every rater and for an early stop: "
            f"{signed(d['low'])} to {signed(d['high'])} points, fraction {whole} (n = "
            f"{plural(found['n_raters'], 'rater')}; these scenarios only)."
        )
    return said


def gap_lines(arms: Mapping[str, Any], students: tuple[str, ...], measure: str) -> list[str]:
    """Cells with one arm only, for students that have any."""
    said = []
    for arm in students:
        gaps = arms.get(arm, {}).get(measure, {}).get("unpaired")
        if gaps and gaps["student_only"] + gaps["teacher_only"]:
            said.append(
                f"{arm}: {plural(gaps['both'], 'cell')} of both arms, {gaps['student_only']:,} with the student only, "
                f"{gaps['teacher_only']:,} with the teacher only (p that neither is preferred: {p_value(gaps['p'])})."
            )
    return said


LIVE_HEADER = (
    *("arm", "chats", "answers", "behind the pace", "chats marked unpaced", "failed", "cut at the limit", "empty"),
    "ended by rater / limit / failure",
)
ANSWER_HEADER = ("arm", "prepared chats", "cut at the limit", "without text")


def live_lines(report: Mapping[str, Any]) -> list[tuple[str, ...]]:
    """Rows about live chats by arm, under LIVE_HEADER; none without live chats."""
    found = report.get("live") or next((one["live"] for one in report.get("modes", {}).values() if one["live"]), {})
    lines = []
    for arm, one in found.items():
        ended = " / ".join(str(one["ended_by"][who]) for who in ("rater", "limit", "failure"))
        late = f"{one['late_turns']:,} ({one['underruns']:,} pauses, {one['late_seconds']:.1f} s)"
        counts = (one["unpaced"], one["failures"], one["cut"], one["empty"])
        lines.append((arm, f"{one['chats']:,}", f"{one['turns']:,}", late, *(f"{n:,}" for n in counts), ended))
    return [LIVE_HEADER, *lines] if lines else []


def answer_lines(report: Mapping[str, Any]) -> list[tuple[str, ...]]:
    """Rows about prepared chats by arm, under ANSWER_HEADER; none where nothing was cut or empty."""
    found = report.get("answers", {})
    if not any(one["cut"] or one["empty"] for one in found.values()):
        return []
    lines = [(arm, f"{one['n']:,}", f"{one['cut']:,}", f"{one['empty']:,}") for arm, one in found.items()]
    return [ANSWER_HEADER, *lines]

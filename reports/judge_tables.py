"""The judges' block of report.json as tables of text, for the page, for Markdown and for a terminal."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from reports.numbers import NBSP, NONE, fraction_text, joined, percent, plural, signed, span

MEASURES = {"satisfaction": "satisfaction", "goal_achievement": "goal achievement"}
NOTE = (
    "A judge is a model. Its marks are no ratings by people and are pooled with none. The interval of a judge’s own "
    "fraction takes scenarios as a sample and the judge as given: another judge may say something else."
)


@dataclass(frozen=True)
class Table:
    """One table with its title, and sentences that belong under it."""

    title: str
    header: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    notes: tuple[str, ...] = ()


def judge_tables(judges: Mapping[str, Any] | None) -> list[Table]:
    """All tables about judges, in the order in which they are read; none without a judge."""
    if not judges:
        return []
    made = [
        _side_by_side(judges), _with_people(judges), _pairs(judges), _positions(judges), _bias(judges),
        _combined(judges), _who(judges),
    ]  # fmt: skip
    return [table for table in made if table.rows]


def _side_by_side(judges: Mapping[str, Any]) -> Table:
    names = list(dict.fromkeys(name for row in judges["side_by_side"] for name in row["judges"]))
    rows = [
        (
            row["arm"],
            MEASURES[row["measure"]],
            row["texts"],
            fraction_text(row["people"]),
            *(_judged(row["judges"].get(name)) for name in names),
        )
        for row in judges["side_by_side"]
    ]
    header = ("arm", "measure", "mode", "people", *(f"{name} (judge)" for name in names))
    return Table("Fraction kept, by people and by judges alone", header, tuple(rows), (NOTE,))


def _judged(one: Mapping[str, Any] | None) -> str:
    if not one or one["estimate"] is None:
        return NONE
    ends = "no interval" if one["low"] is None else span(one["low"], one["high"])
    n = one.get("n", one.get("n_cells"))
    return f"{percent(one['estimate'])} ({ends}), n = {n}"


def _with_people(judges: Mapping[str, Any]) -> Table:
    rows = []
    for block in judges["single"]:
        for measure, found in block["people"].items():
            if not found:
                continue
            mine, theirs = found["judge_to_person"], found["person_to_person"]
            rows.append(
                (
                    block["judge"],
                    MEASURES[measure],
                    _number(found["ranks"]["spearman"]),
                    _number(found["ranks"]["kendall"]),
                    _agreement(mine),
                    _agreement(theirs),
                    _share(found["preference"]["same"]),
                    f"{found['n_texts']:,} / {found['n_ratings']:,}",
                )
            )
    header = ("judge", "measure", "Spearman", "Kendall", "judge and person", "person and person", "same preference",
              "answers / ratings")  # fmt: skip
    note = (
        "Correlations are between the judge’s mark of an answer and the people’s mean. Agreement is the share of equal "
        "marks, in brackets that within one point, and the quadratic weighted kappa; two people who rated the same "
        "answer are the yardstick. Preference: of two arms’ answers that both judge and people tell apart, how often "
        "they prefer the same one."
    )
    return Table("Judges beside people", header, tuple(rows), (note,))


def _pairs(judges: Mapping[str, Any]) -> Table:
    rows = []
    for block in judges["pairwise"]:
        for pair in block["pairs"]:
            people = pair["people"]
            rows.append(
                (
                    block["judge"],
                    f"{pair['arm']} against {pair['against']}",
                    f"{percent(pair['win'])} / {percent(pair['tie'])} / {percent(pair['loss'])}",
                    _judged(pair["fraction"]),
                    percent(pair["orders"]["shown_first"]["fraction"]["estimate"]),
                    percent(pair["orders"]["shown_second"]["fraction"]["estimate"]),
                    NONE if not people else f"{_share(people['same'])} of {people['same']['n']}",
                )
            )
    header = ("judge", "pair", "win / tie / loss", "fraction of scores", "shown first", "shown second", "as people")
    note = "A win counts where both orders agree on it; all else is a tie. Scores are averaged over both orders."
    return Table("Comparisons in pairs", header, tuple(rows), (note,))


def _positions(judges: Mapping[str, Any]) -> Table:
    rows = []
    for block in judges["pairwise"]:
        swap = block["swap"]
        if swap:
            shares = (percent(swap[key]) for key in ("consistent", "first", "second", "partly"))
            rows.append((block["judge"], *shares, _share(swap["preference"], sign=True), _points(swap["advantage"]),
                         f"{swap['n']:,}"))  # fmt: skip
    header = ("judge", "same verdict", "always the first", "always the second", "one tie", "first place preferred",
              "points for the first place", "n")  # fmt: skip
    return Table("What swapping positions does", header, tuple(rows))


def _bias(judges: Mapping[str, Any]) -> Table:
    rows = []
    for block in judges["single"]:
        bias = block["bias"]
        head = (block["judge"], block["texts"])
        for arm, one in (bias["severity"] or {}).items():
            rows.append((*head, f"milder than people on {arm}", _points(one), f"{one['n']:,}"))
        for key, words in (("judge", "its marks"), ("people", "people’s marks"), ("gap", "what it adds to people’s")):
            if one := bias["length"].get(key):
                rows.append((*head, f"twice the length, {words}", _points(one), f"{one['n']:,}"))
        for key, words in (("own", "its own arm"), ("family", "its own family")):
            if one := bias[key]:
                rows.append((*head, f"favour for {words} ({joined(one['arms'])})", _points(one), f"{one['n']:,}"))
    for block in judges["pairwise"]:
        if one := block["own"]:
            words = f"wins it gives its own arm ({joined(one['arms'])}) beyond people’s"
            rows.append((block["judge"], "pairs", words, _share(one, sign=True), f"{one['n']:,}"))
    note = (
        "Points of satisfaction on the scale of 1 to 5, with 95 % intervals over scenarios, and over people where n "
        "counts ratings."
    )
    return Table("What draws a judge", ("judge", "mode", "effect", "size", "n"), tuple(rows), (note,))


def _combined(judges: Mapping[str, Any]) -> Table:
    rows = []
    for texts, arms in ((judges["combined"] or {}).get("texts") or {}).items():
        for arm, measures in arms.items():
            for measure, one in measures.items():
                head = (arm, MEASURES[measure], texts)
                if one["reason"]:
                    rows.append((*head, NONE, NONE, NONE, NONE, one["reason"]))
                    continue
                ends = "no bounded interval" if one["unbounded"] else span(one["low"], one["high"])
                rows.append(
                    (
                        *head,
                        f"{percent(one['people'])} ({span(one['people_low'], one['people_high'])})",
                        f"{percent(one['estimate'])} ({ends})",
                        f"{one['weight']:.2f}",
                        percent(one["gain"]),
                        f"{plural(one['n_rated'], 'scenario')} with {plural(one['n_raters'], 'rater')}, "
                        f"{one['n_others']:,} more by judges",
                    )
                )
    header = ("arm", "measure", "mode", "people alone", "people and judges", "weight of judges", "variance saved", "n")
    note = (
        "Prediction-powered inference (Angelopoulos et al. 2023): the judges’ marks of scenarios that nobody rated, "
        "corrected by the judges’ error where people rated. It holds if the rated scenarios are a random part of all; "
        "the judges may be wrong in any way. The people’s own fraction stays the main result."
    )
    return Table("People and judges combined", header, tuple(rows), (note,))


def _who(judges: Mapping[str, Any]) -> Table:
    rows = []
    for one in judges["judges"]:
        tokens = "not counted" if one["tokens_in"] is None else f"{one['tokens_in']:,} / {one['tokens_out'] or 0:,}"
        problems = [f"{n:,} {name.replace('_', ' ')}" for name, n in one["problems"].items()]
        rows.append(
            (
                one["name"],
                one["mode"],
                f"{one['model']} at {one['host']}" if one["host"] else str(one["model"]),
                one["rubric"],
                f"{one['verdicts']:,} of {one['replies']:,}",
                joined(problems) if problems else NONE,
                f"{one['unanswered']:,}",
                tokens,
            )
        )
    header = (
        "judge",
        "mode",
        "model",
        "rubric",
        "verdicts of replies",
        "unreadable",
        "items without",
        "tokens in / out",
    )
    return Table("The judges", header, tuple(rows))


def terminal(table: Table) -> str:
    """A table in fixed-width letters."""
    lines = [tuple(cell.replace(NBSP, " ") for cell in row) for row in (table.header, *table.rows)]
    widths = [max(len(row[at]) for row in lines) for at in range(len(table.header))]
    body = ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in lines]
    return "\n".join([table.title, *body, *(note.replace(NBSP, " ") for note in table.notes)])


def _number(one: Mapping[str, Any]) -> str:
    if one["estimate"] is None:
        return NONE
    ends = "" if one["low"] is None else f" ({one['low']:.2f} to {one['high']:.2f})"
    return f"{one['estimate']:.2f}{ends}".replace("-", "−")


def _points(one: Mapping[str, Any]) -> str:
    if one["estimate"] is None:
        return NONE
    ends = "" if one["low"] is None else f" ({signed(one['low'])} to {signed(one['high'])})"
    return f"{signed(one['estimate'])}{ends}"


def _share(one: Mapping[str, Any], sign: bool = False) -> str:
    if one["estimate"] is None:
        return NONE
    low, high = (one[key] if one[key] is None or sign else min(1.0, max(0.0, one[key])) for key in ("low", "high"))
    ends = "" if low is None else f" ({span(low, high)})"
    return f"{percent(one['estimate'])}{ends}".replace("-", "−")


def _agreement(one: Mapping[str, Any] | None) -> str:
    if not one:
        return NONE
    kappa = "" if one["kappa"] is None else f", kappa {one['kappa']:.2f}".replace("-", "−")
    return f"{percent(one['exact'])} ({percent(one['within_one'])}){kappa}"


def lines(judges: Mapping[str, Any] | None) -> Sequence[str]:
    """All tables for a terminal, and what is to be said against them."""
    if not judges:
        return []
    return [*(terminal(table) for table in judge_tables(judges)), *(said["text"] for said in judges["warnings"])]

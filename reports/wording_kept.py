"""What students keep of the teacher's scores, in words: 'keeps x of the score (interval), y smaller, z faster'."""

from collections.abc import Mapping
from typing import Any

from reports.compare import score_label
from reports.cost_tables import times_more
from reports.costs import size_of, speed_of
from reports.load import Source
from reports.numbers import NBSP, fraction_text, joined, percent, plural, span

LIKELIHOOD = "likelihood of a token (the teacher's perplexity ÷ the student's)"
MOST = 4
"""Students of whom the first sentence speaks; tables hold all."""


def kept_of(report: Mapping[str, Any], arm: str) -> dict[str, Any] | None:
    """What a student keeps of the teacher's scores (`paired.kept` of report.json); None where nothing tells."""
    pairs = (one for one in report["paired"] if (one["arm"], one["against"]) == (arm, report["study"]["teacher"]))
    return next((one["kept"] for one in pairs), None)


def likelihood_kept(report: Mapping[str, Any], arm: str) -> dict[str, Any] | None:
    """The teacher's perplexity divided by the student's, of text that neither wrote where there is some; with limits.

    It is the geometric mean probability of a token as a fraction of the teacher's.
    """
    pairs = (one for one in report["paired"] if (one["arm"], one["against"]) == (arm, report["study"]["teacher"]))
    rows = {row["metric"]: row for one in pairs for row in one["rows"] if row["retained"]}
    for metric in ("human_text_perplexity", "held_out_text_perplexity", "teacher_text_perplexity"):
        if metric in rows and rows[metric]["retained"]["estimate"] > 0:
            found = rows[metric]["retained"]
            low, high = (1 / found[end] if found[end] else None for end in ("high", "low"))
            return {"estimate": 1 / found["estimate"], "low": low, "high": high, "metric": metric,
                    "n": rows[metric]["n"]}  # fmt: skip
    return None


def of_what(kept: Mapping[str, Any]) -> str:
    """'sense: accuracy', or 'the mean of 2 scores'."""
    scores = kept["scores"]
    return score_label(dict(scores[0])) if len(scores) == 1 else f"the mean of {plural(len(scores), 'score')}"


def scores_sentence(source: Source, report: Mapping[str, Any]) -> str:
    """What students (no controls) keep of the teacher's scores, how small and how fast they are; '' if unknown."""
    mains = [arm for arm in source.students if arm not in source.controls]
    known = {arm: kept for arm in mains if (kept := kept_of(report, arm))}
    if not known:
        return ""
    first, kept = next(iter(known.items()))
    what = f"{of_what(kept)}; n = {plural(kept['n'], 'item')}"
    if len(known) == 1:
        interval = "" if kept["low"] is None else f" (95{NBSP}% interval {span(kept['low'], kept['high'])})"
        cheaper = smaller_faster(report["arms"][first]["costs"])
        text = f"The {first} student keeps {percent(kept['estimate'])}{interval} of the teacher's score"
        text += f", {joined(cheaper)}" if cheaper else ""
        beside = [f"{name} keeps {short(one)}" for name, student in source.controls.items()
                  if student == first and (one := kept_of(report, name))]  # fmt: skip
        if kept["above_chance"] is not None:
            what = f"{what}; above chance {percent(kept['above_chance'])}"
        return f"{text} ({what})." + (f" Its control {joined(beside)}." if beside else "")
    each = [
        f"{arm} {short(one)}" + "".join(f", {word}" for word in smaller_faster(report["arms"][arm]["costs"]))
        for arm, one in list(known.items())[:MOST]
    ]
    more = len(known) - len(each)
    rest = f"; {more} more below" if more > 0 else ""
    return (
        f"Of the teacher's score ({what}; in brackets 95{NBSP}% intervals) the students keep: {'; '.join(each)}{rest}."
    )


def methods_sentence(source: Source, report: Mapping[str, Any]) -> str:
    """How scores were compared and what was kept, for the methods paragraph; '' without any."""
    known = {arm: kept for arm in source.students if (kept := kept_of(report, arm))}
    if not known:
        return ""
    first = next(iter(known.values()))
    each = joined([f"{arm} {short(one)}" for arm, one in known.items()])
    return (
        f"Benchmark scores were compared on the same items (n = {plural(first['n'], 'item')}); of the teacher's "
        f"({of_what(first)}) were kept: {each}, with 95{NBSP}% percentile intervals of paired bootstrap draws of the "
        "items, or of whole documents where items share one."
    )


def short(kept: Mapping[str, Any]) -> str:
    """'87 % (83 to 92)'."""
    return fraction_text({**kept, "unbounded": False})


def smaller_faster(costs: Mapping[str, Any]) -> list[str]:
    """['1.36× smaller', '1.40× faster'] from a block `costs` of report.json; what is not known is left out."""
    said = []
    if size := size_of(costs):
        where = " on disk" if size[1] == "bytes_on_disk" else ""
        said.append(times_more(1 / size[0], f"smaller{where}", f"larger{where}"))
    speed = speed_of(costs)
    if speed and speed["low"] is not None and speed["low"] < 1 < speed["high"]:
        said.append("not clearly faster or slower")
    elif speed:
        said.append(times_more(speed["estimate"], "faster", "slower"))
    return said

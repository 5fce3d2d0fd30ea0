"""Published reviews as text for a terminal."""

from collections.abc import Mapping
from typing import Any

from reports.numbers import NBSP, joined, percent, plural


def text(found: Mapping[str, Any]) -> str:
    """What `analyse_reviews` found, a paragraph for each pair of models."""
    lines: list[str] = []
    run = None
    for pair in found["pairs"]:
        if pair["run"] != run:
            run = pair["run"]
            by = f", by {joined(pair['reviewers'])}" if pair["reviewers"] and pair["reviewers"] != [run] else ""
            lines += ["", f"{run}{by}"]
        lines += [f"  {line}" for line in _pair(pair)]
    if found["invalid"]:
        lines += ["", f"{plural(found['invalid'], 'review')} without a score or a winner left out."]
    lines += ["", NOTE]
    return "\n".join(lines).strip().replace(NBSP, " ")


NOTE = (
    "Fractions are sums of one judge's scores: no person rated. Intervals take the questions as a sample of questions\n"
    "(Fieller's; in square brackets the bootstrap's), and this judge as given."
)


def _pair(pair: Mapping[str, Any]) -> list[str]:
    lines = [f"{pair['model']} of {pair['base']}: {fraction_text(pair['fraction'])}"]
    counts = f"wins {pair['win']}, ties {pair['tie']}, losses {pair['loss']}"
    lines.append(f"  {plural(pair['n_questions'], 'question')}, {plural(pair['n_reviews'], 'review')}: {counts}")
    lines.append(f"  {_order(pair)}")
    if pair["longer_wins"] and pair["longer_wins"]["estimate"] is not None:
        one = pair["longer_wins"]
        lines.append(f"  the longer answer won {_share(one)} of {one['n']} decided")
    for name, one in pair["category"].items():
        lines.append(f"  {name}: {fraction_text(one)}, n = {one['n']}")
    return lines


def fraction_text(one: Mapping[str, Any] | None) -> str:
    """'638 of 693 = 92.1 % (88.0 to 96.2) [87.8 to 95.8]', or what is missing."""
    if one is None or one["estimate"] is None:
        return "no scores, so no fraction"
    sums = f"{one['student']:g} of {one['teacher']:g} = {percent(one['estimate'], 1)}"
    fieller = "no bounded interval" if one["low"] is None else f"{_ends(one['low'], one['high'])}"
    boot = "" if one["bootstrap_low"] is None else f" [{_ends(one['bootstrap_low'], one['bootstrap_high'])}]"
    return f"{sums} ({fieller}){boot}"


def _order(pair: Mapping[str, Any]) -> str:
    swap = pair["swap"]
    if swap:
        place = swap["preference"]
        return (
            f"both orders for {swap['n']}: {percent(swap['consistent'])} keep their verdict, "
            f"{percent(swap['first'])} name whatever came first, {percent(swap['second'])} whatever came second; "
            f"the first place is preferred by {_points(place)}"
        )
    if pair["single"]:
        return "scored one by one: no position"
    if pair["base_first"] in (0, pair["n_reviews"]):
        first = pair["base"] if pair["base_first"] else pair["model"]
        return f"{first} was always shown first, so its lead and the judge's taste for a place cannot be told apart"
    return f"{pair['base']} was shown first in {pair['base_first']} of {pair['n_reviews']}; no question in both orders"


def _ends(low: float, high: float) -> str:
    return f"{100 * low:.1f} to {100 * high:.1f}"


def _share(one: Mapping[str, Any]) -> str:
    ends = "" if one["low"] is None else f" ({_ends(max(0.0, one['low']), min(1.0, one['high']))})"
    return f"{percent(one['estimate'])}{ends}"


def _points(one: Mapping[str, Any]) -> str:
    ends = "" if one["low"] is None else f" ({_ends(one['low'], one['high'])})"
    return f"{100 * one['estimate']:.0f} points{ends}"

"""The methods paragraph, ready to paste into a paper, and the limitations that the study's own data show."""

from typing import Any

from reports.load import Source
from reports.numbers import fraction_text, joined, percent, plural, signed
from reports.wording import MODE_NAMES

LOW_ALPHA = 0.4
HOW = {
    "live": "held a chat of their own with each model towards the scenario's goal",
    "fixed": "read a prepared chat of each model",
    "side-by-side": "read the models' answers side by side",
}


def methods(source: Source, people: dict[str, Any] | None) -> str:
    """A paragraph for a paper, with the numbers in it; nothing where the models do not chat."""
    if not source.chats:
        return ""
    if people is None or not source.students:
        return (
            "Raters judge each answer from 1 to 5 for satisfaction and for reaching the goal, without knowing which "
            "model wrote it. No rating has been given yet; this paragraph will hold the numbers."
        )
    n, mode = people["n"], people.get("mode", "")
    paired = source.facts.crossing == "within"
    how = f"Raters {HOW[mode]}. " if mode in HOW else ""
    text = [
        f"{plural(n['raters'], 'rater')} judged {plural(len(people['arms']), 'model')} on "
        f"{plural(n['scenarios'], 'scenario')} ({plural(n['ratings'], 'rating')}), each answer from 1 to 5 for "
        "satisfaction and, separately, for reaching the goal, without knowing which model wrote it. "
        f"{how}{_estimator(paired)}"
    ]
    text += [_result(people, arm) for arm in source.students]
    text += _further(source, people)
    return " ".join(part for part in text if part)


def _estimator(paired: bool) -> str:
    over = (
        "over common cells (rater and scenario with both arms rated)"
        if paired
        else "over all ratings of each arm, since no rater met a scenario twice"
    )
    return (
        f"The satisfaction fraction is the student's mean rating divided by the teacher's {over}. Its 95 % interval is "
        "Fieller's (1954) with a two-way clustered variance (Cameron, Gelbach, Miller 2011), floored at the one-way "
        "variances, and Satterthwaite's degrees of freedom, so that raters and scenarios both count as samples; a "
        "pigeonhole bootstrap (Owen 2007, 10,000 draws) checks it."
    )


def _result(people: dict[str, Any], arm: str) -> str:
    block = people["arms"].get(arm, {}).get("satisfaction", {})
    if not block.get("fraction"):
        return ""
    fraction, p, diff = block["fraction"], block["non_inferiority"], block["difference"]
    df = "" if fraction["df"] is None else f", df = {fraction['df']:.1f}"
    cells = "common cell" if block.get("pairs") else "cell"
    said = f"{arm}: {fraction_text(fraction)} on {plural(fraction['n_cells'], cells)}{df}"
    if diff["low"] is not None:
        said += f"; difference {signed(diff['estimate'])} points ({signed(diff['low'])} to {signed(diff['high'])})"
    if p["p"] is not None:
        said += (
            f"; one-sided test against the margin of {percent(p['margin'])}: p = {p['p']:.3f}, "
            f"after Holm's adjustment {p['p_holm']:.3f}"
        )
    return said + "."


def _further(source: Source, people: dict[str, Any]) -> list[str]:
    """When the margin was fixed, agreement, blinding and repeats, where they are known."""
    said = []
    if source.facts.margin_at:
        said.append(f"The margin was fixed on {source.facts.margin_at[:16].replace('T', ' ')}.")
    alpha = people["reliability"].get("satisfaction", {}).get("krippendorff_ordinal")
    if alpha is not None:
        units = people["reliability"]["satisfaction"]["n_units"]
        said.append(f"Krippendorff's ordinal alpha was {alpha:.2f} (n = {plural(units, 'unit')}).")
    index = [
        f"{one['index']:.2f} for {arm} ({one['low']:.2f} to {one['high']:.2f}, n = {one['n']})"
        for arm, one in people.get("blinding", {}).items()
    ]
    if index:
        said.append(f"Bang's blinding index was {joined(index)}.")
    repeats = people.get("repeats", {}).get("satisfaction")
    if repeats:
        said.append(
            f"Of {plural(repeats['n'], 'hidden repeat')} {percent(repeats['exact']['estimate'])} got the same rating."
        )
    return said


def limitations(source: Source, people: dict[str, Any] | None) -> list[str]:
    """What this study cannot show, as far as its own data tell."""
    found = []
    if people is not None:
        found += [
            "The fraction starts at 20 %: 1 is the lowest rating, so even an arm rated 1 throughout keeps 1/5 of a 5.",
            "Raters and scenarios are those of this study; the interval speaks of others like them, not of all.",
        ]
        found += _of_ratings(source, people)
    mode = (people or {}).get("mode") or source.mode
    if mode in ("fixed", "side-by-side") and source.chats:
        found.append("Raters read prepared chats; a chat of their own might have gone another way.")
    if mode == "live" and source.chats:
        found.append("Every rater had a chat of their own, so raters of one scenario did not judge the same text.")
    if source.controls:
        pairs = [f"{control} for {student}" for control, student in source.controls.items()]
        found.append(f"Only the controls ({joined(pairs)}) tell what the teacher added beyond the training text.")
    if people is not None and not source.mode:
        found.append("The margin is Viva's default. One that was not fixed before the first rating proves nothing.")
    if not source.controls:
        found.append("Without a control, nothing here tells what the teacher added beyond the training text.")
    return found


def _of_ratings(source: Source, people: dict[str, Any]) -> list[str]:
    found = []
    block = people["reliability"].get("satisfaction", {})
    alpha = block.get("krippendorff_ordinal")
    if alpha is not None and alpha < LOW_ALPHA:
        found.append(
            f"Raters agree little with each other (ordinal alpha {alpha:.2f}, n = {plural(block['n_units'], 'unit')}): "
            "single ratings are noisy, means less so."
        )
    if not people.get("blinding") and source.mode:
        found.append("Raters' guesses were not asked, so nothing here shows that blinding held.")
    if len(source.facts.language.split()) == 1 and source.facts.language:
        found.append(f"The study was held in one language ({source.facts.language}).")
    if people.get("modes"):
        others = [MODE_NAMES.get(mode, mode) for mode in people["modes"]]
        found.append(f"Ratings of {joined(others)} are shown apart: modes are not comparable with each other.")
    categories = {
        name: one
        for arm in source.students[:1]
        for name, one in people["arms"].get(arm, {}).get("satisfaction", {}).get("category", {}).items()
    }
    few = [
        f"{name} ({plural(one['n_scenarios'], 'scenario')})"
        for name, one in categories.items()
        if one["n_scenarios"] < 10
    ]
    if few:
        found.append(f"Categories with few scenarios say little: {joined(few)}.")
    return found

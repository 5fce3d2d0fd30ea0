"""The report in words: one sentence for the first screen, every warning, the methods paragraph.

The text adapts to what is there. A fraction never stands without its n, and never without what is missing.
"""

from typing import Any

from reports.costs import costs_json
from reports.load import Source
from reports.numbers import (
    NBSP,
    fraction_text,
    joined,
    of_teacher,
    p_value,
    percent,
    plain_number,
    plural,
    signed,
    span,
    times,
)

NOTES = {"variance_floor", "missing_ratings", "separation", "coarse_cache"}
"""Codes of what a reader may like to know but need not weigh."""

MEASURE_NAMES = {"satisfaction": "satisfaction", "goal_achievement": "goal achievement"}
KIND_NAMES = {"person": "people", "judge": "model judges", "simulated": "simulated raters"}


def headline(source: Source, people: dict[str, Any] | None) -> str:
    """The report in one sentence (two where the ratings cannot carry one)."""
    if not source.students:
        return "The study names no student, so there is nothing to compare with the teacher."
    arm = source.students[0]
    size, speed = _size_and_speed(source, arm)
    against = f" with {percent(size)} of its parameters" if size is not None else ""
    against += f", at {times(speed)} the speed" if speed is not None else ""
    if people is None:
        others = [KIND_NAMES[kind] for kind in source.ratings if kind != "person"]
        beside = f" (the ratings of {joined(others)} below are no substitute)" if others else ""
        return f"No person has rated yet, so nothing is known about satisfaction{beside}. {_what_is_known(source, arm)}"
    several = [name for name in source.students if name not in source.controls]
    kept = {name: people["arms"].get(name, {}).get("satisfaction", {}).get("fraction") for name in several}
    if len(several) > 1 and all(kept.values()):
        each = [f"{name} {fraction_text(kept[name])}" for name in several]
        return (
            f"Of the teacher's satisfaction the students keep: {joined(each)}, in brackets the 95{NBSP}% intervals; "
            f"{_n_clause(people)}."
        )
    fraction = people["arms"].get(arm, {}).get("satisfaction", {}).get("fraction")
    if not fraction:
        texts = {warning["code"]: warning["text"] for warning in people["warnings"]}
        missing = ("no_teacher_ratings", "no_student_ratings", "no_common_cells")
        why = next((texts[code] for code in missing if code in texts), "")
        return f"The ratings do not yet compare the {arm} student with the teacher. {why}".strip()
    n = _n_clause(people)
    if min(fraction["n_raters"], fraction["n_scenarios"]) < 2:
        lacking = "second rater" if fraction["n_raters"] < 2 else "second scenario"
        counts = f"{plural(fraction['n_raters'], 'rater')} and {plural(fraction['n_scenarios'], 'scenario')}"
        return (
            f"The {arm} student was rated at {percent(fraction['estimate'])} of the teacher's satisfaction{against}, "
            f"but by {counts} only: without a {lacking} there is no interval, and this says nothing about others; {n}."
        )
    if fraction["unbounded"]:
        interval = "no bounded 95 % interval"
    else:
        interval = f"95{NBSP}% interval {span(fraction['low'], fraction['high'])}"
    text = f"{percent(fraction['estimate'])} ({interval})"
    return f"The {arm} student keeps {text} of the teacher's satisfaction{against}; {n}."


def _n_clause(people: dict[str, Any]) -> str:
    n = people["n"]
    return f"n = {plural(n['raters'], 'rater')}, {plural(n['scenarios'], 'scenario')}, {plural(n['ratings'], 'rating')}"


def _size_and_speed(source: Source, arm: str) -> tuple[float | None, float | None]:
    """Parameters and tokens a second as fractions of the teacher's, None where they were not measured."""
    ratios = costs_json(source, arm).get("of_teacher", {})
    return ratios.get("parameters"), ratios.get("tokens_per_second")


def _what_is_known(source: Source, arm: str) -> str:
    """What benchmarks and costs say of a student as long as nobody has rated it."""
    size, speed = _size_and_speed(source, arm)
    facts = [f"{percent(size)} of the teacher's parameters"] if size is not None else []
    if speed is not None:
        facts.append(f"{times(speed)} its speed")
    mine, teachers = ({s["metric"]: s["value"] for s in source.scores.get(name, [])} for name in (arm, source.teacher))
    for metric, text in (("teacher_text_perplexity", "its own text"), ("human_text_perplexity", "human text")):
        ratio = of_teacher(mine.get(metric), teachers.get(metric))
        if ratio is not None:
            facts.append(f"{times(ratio)} its perplexity on {text}")
    if not facts:
        return "Nothing has been measured yet either: run the study first."
    return f"The {arm} student has {joined(facts)}."


def warning_text(warning: dict[str, Any]) -> str:
    """What a warning means for the reader, and what to do next."""
    arm, measure = warning.get("arm"), MEASURE_NAMES.get(warning.get("measure", ""), "")
    who = f"{arm}, {measure}: " if arm else f"{measure}: " if measure else ""
    return who + str(WARNINGS[warning["code"]](warning))


def gathered(warnings: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The same warning about several arms and measures as one: what a page lists."""
    about: dict[str, dict[str, list[str]]] = {}
    level = {}
    for warning in warnings:
        text = WARNINGS[warning["code"]](warning)
        level[text] = warning["level"]
        arms = about.setdefault(text, {}).setdefault(MEASURE_NAMES.get(warning.get("measure", ""), ""), [])
        if warning.get("arm"):
            arms.append(warning["arm"])
    lines = []
    for text, by_measure in about.items():
        measures_of: dict[tuple[str, ...], list[str]] = {}
        for name, arms in by_measure.items():
            measures_of.setdefault(tuple(arms), []).append(name)
        parts = [
            f"{joined(list(arms))} ({joined(names)})" if arms and any(names) else joined(list(arms) or names)
            for arms, names in measures_of.items()
        ]
        who = joined([part for part in parts if part]) if any(parts) else ""
        lines.append({"text": f"{who}: {text}" if who else text, "level": level[text]})
    return lines


def verdicts(source: Source, people: dict[str, Any], measure: str) -> list[str]:
    """For each student what its ratings allow to say about the margin, after Holm's adjustment."""
    said = []
    for arm in source.students:
        block = people["arms"].get(arm, {}).get(measure, {})
        fraction, test = block.get("fraction"), block.get("non_inferiority")
        if not fraction or not test or test["p"] is None:
            continue
        name, margin = MEASURE_NAMES[measure], percent(test["margin"])
        p = f"one-sided p = {p_value(test['p_holm'])} after Holm"
        if test["p_holm"] < 0.05:
            said.append(f"{arm} keeps more than {margin} of the teacher's {name} ({p}).")
        elif fraction["high"] is not None and fraction["high"] < test["margin"]:
            said.append(f"{arm} keeps less than {margin} of the teacher's {name}: the whole interval lies below.")
        else:
            said.append(
                f"Whether {arm} keeps {margin} of the teacher's {name} is open ({p}): the interval includes the "
                "margin. More raters and more scenarios would narrow it."
            )
        control = block.get("control")
        if control and control["low"] is not None:
            interval = f"{signed(control['low'])} to {signed(control['high'])}"
            said.append(
                f"{arm} against its control {control['arm']}, which saw the same tokens without the teacher: "
                f"{signed(control['estimate'])} points ({interval}, n = {plural(control['n_cells'], 'common cell')})."
            )
    return said


def _cache_kind(warning: dict[str, Any]) -> str:
    if warning["kind"] == "sampled":
        return f"{warning['draws'] or 50} draws a position"
    return f"top {warning['k'] or 64}" if warning["k"] != "vocabulary" else "the whole vocabulary"


WARNINGS: dict[str, Any] = {
    "no_ratings": lambda w: "There is no rating yet. Open the rating page and invite raters.",
    "no_teacher_ratings": lambda w: "Nobody has rated the teacher yet, so there is nothing to compare with.",
    "no_student_ratings": lambda w: "Nobody has rated this student yet.",
    "no_common_cells": lambda w: (
        "No rater has rated both this student and the teacher on one scenario, so the paired fraction cannot be "
        "computed. The all-data ratio in report.json compares different people on different scenarios. Let raters "
        "finish their scenarios."
    ),
    "one_cluster": lambda w: (
        f"{plural(w['n_raters'], 'rater')} and {plural(w['n_scenarios'], 'scenario')}: the fraction describes these "
        "ratings only. An interval or a test needs at least two raters and two scenarios; "
        + ("a second rater is missing." if w["n_raters"] < 2 else "a second scenario is missing.")
    ),
    "few_clusters": lambda w: (
        f"Only {plural(w['n_raters'], 'rater')} and {plural(w['n_scenarios'], 'scenario')}. The interval holds but is "
        "wide, and the bootstrap cannot check it; ten of each is the least to aim at."
    ),
    "zero_variance": lambda w: (
        "The ratings do not vary around the fraction, so the interval is a point and no test is possible. Such ratings "
        "say more about the raters or the task than about the arms."
    ),
    "teacher_at_floor": lambda w: (
        "The teacher's mean is the lowest rating, so the fraction on the scale moved to zero does not exist."
    ),
    "unbounded_interval": lambda w: (
        f"The {'fraction' if w['which'] == 'fraction' else 'fraction on the scale moved to zero'} has no bounded 95 % "
        "interval: the teacher's mean is too close to zero on that scale for the number of ratings. Do not quote it."
    ),
    "ceiling": lambda w: (
        f"{percent(w['share'])} of the common cells are 5 for both arms. The scale has no room to show a difference "
        "there; harder scenarios would."
    ),
    "variance_floor": lambda w: (
        "The two-way variance was smaller than a one-way variance, so the larger one was used (a cautious choice)."
    ),
    "interval_check": lambda w: (
        f"The bootstrap interval is {times(w['width_ratio'])} as wide as the default one; about 1.1 is usual. "
        "Treat the interval with care."
    ),
    "duplicate_ratings": lambda w: f"{plural(w['count'], 'repeated rating')} averaged with the first of its cell.",
    "missing_ratings": lambda w: f"{plural(w['count'], 'rating')} missing; they leave this measure only.",
    "separation": lambda w: (
        "One arm never (or always) wins its comparisons, so its strength in the paired model is infinite and not shown."
    ),
    "constant_raters": lambda w: (
        f"{joined(w['raters'])} gave one and the same rating at least ten times. All are counted; the fraction without "
        "them stands under Validity."
    ),
    "disagreeing_raters": lambda w: (
        f"{joined(w['raters'])} hardly agree with the others (correlation below 0.2). All are counted; the fraction "
        "without them stands under Validity."
    ),
    "unblinded_open": lambda w: (
        "This report opened the blinding while the study was still open. People who know its content should not rate, "
        "and should not stop the study because of what they see here."
    ),
    "licence": lambda w: f"{w['note'][:1].upper()}{w['note'][1:]}.",
    "coarse_cache": lambda w: (
        f"It was trained on a cache of its teacher ({_cache_kind(w)}, {plain_number(w['bytes_per_token'])} bytes a "
        "token). "
        f"On held-out texts, before training, its divergence was {percent(w['ratio'])} of the whole one and its mean "
        f"gradient off by {percent(w['mean_error'], 1)}."
    ),
    "looked_before": lambda w: (
        f"{plural(w['later'], 'rating')} came after an earlier report had already shown results "
        f"({plural(w['at'], 'rating')} then). If the study stops because of a result, use the always-valid interval, "
        "not the plain one."
    ),
    "teacher_at_chance": lambda w: (
        f"The teacher itself is not clearly above chance on {joined(w['suites'])}: what a student keeps of that says "
        "nothing."
    ),
    "costs_failed": lambda w: (
        f"Its costs could not be measured: {w['reason']}. Run viva bench again to measure it alone."
    ),
    "energy_mixed": lambda w: (
        "Its energy and the teacher's are not known in the same way (measured here, estimated there, or by another "
        "model), so no ratio of them is given."
    ),
    "items_differ": lambda w: (
        f"Some items of {joined(w['suites'])} are not the same as those of {w['against']}: they are left out of the "
        "comparison. Bench both arms on the same suites."
    ),
    "overlap": lambda w: (
        f"Texts of the suites occur in its training corpus ({w['n']} words in a row, or a whole shorter item): "
        f"{joined(w['counts'])} items. Scores without them stand beside the scores."
    ),
    "not_people": lambda w: "These ratings are not by people. They are never pooled with people's.",
}
"""Code of a warning -> its words, given the warning."""


def makings(provenance: list[dict[str, Any]]) -> list[str]:
    """How each student was made, from the manifest of its training."""
    said = []
    for line in provenance:
        student = line.get("student")
        if not student:
            continue
        facts = [f"start: {student['start']}"] if student.get("start") else []
        if student.get("layers"):
            facts.append(plural(student["layers"], "layer"))
        if student.get("layers_kept"):
            facts.append(f"the teacher's layers {', '.join(str(layer) for layer in student['layers_kept'])}")
        said.append(f"{line['stage'].split('/')[-1]}: {'; '.join(facts)}.")
    return said


def methods(source: Source, people: dict[str, Any] | None) -> str:
    """A paragraph for a paper, with the numbers in it."""
    if people is None or not source.students:
        return (
            "Raters judge each answer from 1 to 5 for satisfaction and for reaching the goal, without knowing which "
            "model wrote it. No rating has been given yet; this paragraph will hold the numbers."
        )
    n = people["n"]
    text = [
        f"{plural(n['raters'], 'rater')} judged {plural(len(people['arms']), 'model')} on "
        f"{plural(n['scenarios'], 'scenario')} ({plural(n['ratings'], 'rating')}), each answer from 1 to 5 for "
        "satisfaction and, separately, for reaching the goal, without knowing which model wrote it. "
        "The satisfaction fraction is the student's mean rating divided by the teacher's over common cells (rater and "
        "scenario with both arms rated). Its 95 % interval is Fieller's (1954) with a two-way clustered variance "
        "(Cameron, Gelbach, Miller 2011), floored at the one-way variances, and Satterthwaite's degrees of freedom, so "
        "that raters and scenarios both count as samples; a pigeonhole bootstrap (Owen 2007, 10,000 draws) checks it."
    ]
    for arm in source.students:
        block = people["arms"].get(arm, {}).get("satisfaction", {})
        if not block.get("fraction"):
            continue
        fraction, p = block["fraction"], block["non_inferiority"]
        df = "" if fraction["df"] is None else f", df = {fraction['df']:.1f}"
        text.append(f"{arm}: {fraction_text(fraction)} on {plural(fraction['n_cells'], 'common cell')}{df}")
        if p["p"] is not None:
            text[-1] += (
                f"; one-sided test against the margin of {percent(p['margin'])}: p = {p['p']:.3f}, "
                f"after Holm's adjustment {p['p_holm']:.3f}"
            )
        text[-1] += "."
    return " ".join(text)


def limitations(source: Source, people: dict[str, Any] | None) -> list[str]:
    """What this study cannot show, as far as its own data tell."""
    found = []
    if people is not None:
        found += [
            "The fraction starts at 20 %: 1 is the lowest rating, so even an arm rated 1 throughout keeps 1/5 of a 5.",
            "Raters and scenarios are those of this study; the interval speaks of others like them, not of all.",
        ]
        alpha = people["reliability"].get("satisfaction", {}).get("krippendorff_ordinal")
        if alpha is not None and alpha < 0.4:
            found.append(
                f"Raters agree little with each other (ordinal alpha {alpha:.2f}): single ratings are noisy, "
                "means less so."
            )
    if source.mode == "fixed":
        found.append("Raters read prepared chats; a chat of their own might have gone another way.")
    if source.controls:
        pairs = [f"{control} for {student}" for control, student in source.controls.items()]
        found.append(f"Only the controls ({joined(pairs)}) tell what the teacher added beyond the training text.")
    if people is not None and not source.mode:
        found.append("The margin is Viva's default. One that was not fixed before the first rating proves nothing.")
    if not source.controls:
        found.append("Without a control, nothing here tells what the teacher added beyond the training text.")
    return found

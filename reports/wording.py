"""The report in words: one sentence for the first screen, every warning, the methods paragraph.

The text adapts to what is there. A fraction never stands without its n, and never without what is missing.
"""

from typing import Any

from reports.costs import costs_json, speed_of
from reports.load import Source
from reports.numbers import (
    NBSP,
    fraction_text,
    joined,
    of_teacher,
    p_value,
    percent,
    plural,
    signed,
    span,
    times,
)
from reports.wording_kept import scores_sentence
from reports.wording_warnings import MEASURE_NAMES

KIND_NAMES = {"person": "people", "judge": "model judges", "simulated": "simulated raters"}


MODE_NAMES = {"live": "live chats", "fixed": "prepared chats", "side-by-side": "answers side by side"}


def headline(source: Source, people: dict[str, Any] | None, report: dict[str, Any]) -> str:
    """The report in one sentence (two where the ratings cannot carry one)."""
    if not source.students:
        return (
            "There is no student, so there is nothing to compare with the teacher: a fraction needs a second arm. Name "
            "one in the study file, or bring ratings of one."
        )
    arm = source.students[0]
    size, speed = _size_and_speed(source, arm)
    against = f" with {percent(size)} of its parameters" if size is not None else ""
    against += f", at {times(speed)} the speed" if speed is not None else ""
    if people is None:
        others = not_people(source)
        beside = f" (the ratings of {joined(others)} below are no substitute)" if others else ""
        nobody = f"No person has rated yet, so nothing is known about satisfaction{beside}."
        kept = scores_sentence(source, report)
        if not source.chats:
            return kept or _what_is_known(source, arm)
        return f"{kept} {nobody}" if kept else f"{nobody} {_what_is_known(source, arm)}"
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


def not_people(source: Source) -> list[str]:
    """Who rated beside people, in words."""
    kinds = [kind for kind in source.ratings if kind != "person"]
    if source.judging is not None and "judge" not in kinds:
        kinds.append("judge")
    return [KIND_NAMES[kind] for kind in kinds]


def _n_clause(people: dict[str, Any]) -> str:
    """The numbers behind a fraction, the mode where there are several, and whether blinding held, if that was asked."""
    n = people["n"]
    said = f"n = {plural(n['raters'], 'rater')}, {plural(n['scenarios'], 'scenario')}, {plural(n['ratings'], 'rating')}"
    if people.get("modes"):
        said += f" of {MODE_NAMES.get(people['mode'], people['mode'])}"
    held = blinding_verdict(people)
    said += f"; blinding {held}" if held else ""
    return said + ("; stopped early" if any(one["code"] == "stopped_early" for one in people["warnings"]) else "")


def blinding_verdict(people: dict[str, Any]) -> str:
    """What raters' guesses say of all arms together: held, failed, unclear; '' where they were not asked."""
    verdicts = {one["verdict"] for one in people.get("blinding", {}).values()}
    if not verdicts:
        return ""
    return "failed" if "failed" in verdicts else "held" if verdicts == {"held"} else "unclear"


def _size_and_speed(source: Source, arm: str) -> tuple[float | None, float | None]:
    """Parameters and speed as fractions of the teacher's, None where they were not measured."""
    costs = costs_json(source, arm)
    speed = speed_of(costs)
    return costs.get("of_teacher", {}).get("parameters"), speed["estimate"] if speed else None


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


def verdicts(source: Source, people: dict[str, Any], measure: str) -> list[str]:
    """For each student what its ratings allow to say about the margin, after Holm's adjustment."""
    said = []
    for arm in source.students:
        block = people["arms"].get(arm, {}).get(measure, {})
        fraction, test = block.get("fraction"), block.get("non_inferiority")
        if not fraction or not test or test["p"] is None:
            continue
        name, margin = MEASURE_NAMES[measure], percent(test["margin"])
        n = f"n = {plural(fraction['n_raters'], 'rater')}, {plural(fraction['n_cells'], 'cell')}"
        p = f"one-sided p = {p_value(test['p_holm'])} after Holm, {n}"
        if test["p_holm"] < 0.05:
            said.append(f"{arm} keeps more than {margin} of the teacher's {name} ({p}).")
        elif fraction["high"] is not None and fraction["high"] < test["margin"]:
            said.append(f"{arm} keeps less than {margin} of the teacher's {name}: the whole interval lies below ({n}).")
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


def margin_text(source: Source, report: dict[str, Any]) -> str:
    """Where the margin comes from and when it was fixed."""
    margin, facts = percent(source.margin), source.facts
    if facts.margin_at:
        when = facts.margin_at[:16].replace("T", " ")
        before = report["study"]["margin_before_ratings"]
        return f"the margin of {margin}, fixed on {when}, {'before' if before else 'after'} the first rating"
    return f"the margin of {margin}" + (", as the study file states it" if source.mode else "")


def preference_texts(found: dict[str, Any] | None) -> list[str]:
    """What people preferred where they saw answers side by side."""
    said = []
    for arm, one in (found or {}).get("arms", {}).items():
        net = f"{100 * one['net']:+.0f}".replace("-", "−")
        interval = (
            "no interval"
            if one["low"] is None or one["low"] == one["high"]
            else f"{100 * one['low']:+.0f} to {100 * one['high']:+.0f}"
        )
        strength = ""
        if one["log_strength"] is not None:
            strength = f"; log strength {signed(one['log_strength'])}"
            limits = one["strength_interval"]
            strength += f" ({signed(limits['low'])} to {signed(limits['high'])})" if limits else ""
        said.append(
            f"{arm} was preferred on {percent(one['chosen'])} of pages, {one['against']} on {percent(one['other'])}, "
            f"neither on {percent(one['neither'])}: net {net} points of a hundred ({interval.replace('-', '−')}), p = "
            f"{p_value(one['p'])}{strength}; n = {plural(one['n'], 'page')}, {plural(one['n_raters'], 'rater')}, "
            f"{plural(one['n_scenarios'], 'scenario')}."
        )
    return said

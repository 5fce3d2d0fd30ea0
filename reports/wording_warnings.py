"""Every warning in words: what it means for the reader, and what to do next."""

from typing import Any

from reports.numbers import joined, p_value, percent, plain_number, plural, signed, times

MEASURE_NAMES = {"satisfaction": "satisfaction", "goal_achievement": "goal achievement"}

NOTES = {
    *("variance_floor", "missing_ratings", "separation", "coarse_cache", "between", "several_modes", "mixed_left_out"),
    *("fast_raters", "margin_unstamped"),
}
"""Codes of what a reader may like to know but need not weigh."""


def warning_text(warning: dict[str, Any]) -> str:
    """What a warning means for the reader, and what to do next."""
    arm, measure = warning.get("arm"), MEASURE_NAMES.get(warning.get("measure", ""), "")
    who = ", ".join(part for part in (arm, measure) if part)
    who = f"{who}: " if who else ""
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
        "say more about the raters or the task than about the arms: look at them one by one, and choose scenarios on "
        "which answers differ."
    ),
    "teacher_at_floor": lambda w: (
        "The teacher's mean is the lowest rating, so the fraction on the scale moved to zero does not exist, and the "
        "plain one compares two arms that nobody likes. Choose a better teacher or easier scenarios."
    ),
    "unbounded_interval": lambda w: (
        f"The {'fraction' if w['which'] == 'fraction' else 'fraction on the scale moved to zero'} has no bounded 95 % "
        "interval: the teacher's mean is too close to zero on that scale for the number of ratings. Do not quote "
        "it; quote the difference in points, or rate more."
    ),
    "ceiling": lambda w: (
        f"{percent(w['share'])} of the {plural(w['n'], 'common cell')} are 5 for both arms. The scale has no room "
        "to show a difference there; harder scenarios would."
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
    "teacher_near_floor": lambda w: (
        f"The teacher's mean is {plain_number(w['mean'])} (n = {w['n']:,}), close to the lowest rating. The fraction "
        "on the scale moved to zero divides by next to nothing, and one of a teacher that nobody likes says little: "
        "quote the difference in points, and choose a better teacher or easier scenarios."
    ),
    "between": lambda w: (
        "No rater met a scenario twice (crossing between), so arms are compared over all their ratings; win, tie, loss "
        "and paired effect sizes do not exist."
    ),
    "one_sided_gaps": lambda w: (
        f"{plural(w['teacher_only'], 'cell')} have the teacher's rating only and {w['student_only']:,} the student's "
        f"only, of {w['both'] + w['student_only'] + w['teacher_only']:,} (p = {p_value(w['p'])}): ratings are missing "
        "where an arm is. The paired fraction leaves such cells out; ask why they are missing before you rely on it."
    ),
    "missing_by_arm": lambda w: (
        f"Its items were left unrated {'more' if w['gap'] > 0 else 'less'} often than the teacher's, by "
        f"{percent(abs(w['gap']), 1)} of the items (p = {p_value(w['p'])}, n = {plural(w['n'], 'rater')}). Answers "
        "that people do not rate are seldom the best ones: the fraction may be too high."
    ),
    "constant_raters": lambda w: (
        f"{joined(w['raters'])} gave one and the same rating at least ten times. All are counted; the results without "
        "them stand beside (with and without)."
    ),
    "disagreeing_raters": lambda w: (
        f"{joined(w['raters'])} hardly agree with the others (correlation below 0.2). All are counted; the results "
        "without them stand beside (with and without)."
    ),
    "failed_checks": lambda w: (
        f"{joined(w['raters'])} missed more than half of the known answers. All are counted; the results without them "
        "stand beside (with and without)."
    ),
    "fast_raters": lambda w: (
        f"{joined(w['raters'])} gave a fifth or more of their ratings in less than two seconds. All are counted; the "
        "results without them stand beside (with and without)."
    ),
    "unpaced": lambda w: (
        f"{plural(w['count'], 'rating')} of {w['n']:,} belong to chats that fell behind the common pace, so that the "
        "arm could be known by its speed. The results without them stand beside (with and without)."
    ),
    "broken": lambda w: (
        f"{plural(w['count'], 'rating')} of {w['n']:,} belong to chats in which an answer failed. The results without "
        "them stand beside (with and without)."
    ),
    "named_itself": lambda w: (
        f"In {w['count']:,} of {w['n']:,} rated chats the model names itself. Raters may have known the arm; the "
        "results without these chats stand beside (with and without)."
    ),
    "order_effect": lambda w: (
        f"Satisfaction moves by {signed(w['change'])} points from a rater's first item to the last (p = "
        f"{p_value(w['p'])}, n = {plural(w['n'], 'rating')}): tiring or learning. Arms are balanced over the order, so "
        "the fraction hardly feels it; shorter sessions would."
    ),
    "page_effect": lambda w: (
        f"An answer one place further to the right on its page is rated {signed(w['change'])} points (p = "
        f"{p_value(w['p'])}, n = {plural(w['n'], 'rating')}). Places are drawn at random, so the fraction hardly feels "
        "it; single preferences do."
    ),
    "inconsistent": lambda w: (
        f"The same item gets ratings that stray by {plain_number(w['sd'])} points around a rater's own mean (n = "
        f"{plural(w['n'], 'repeat')}): half of what looks like a difference may be mood. More scenarios for each "
        "rater, or clearer instructions, would help."
    ),
    "blinding_failed": lambda w: (
        f"Raters could tell which arm is the larger one (Bang's index {w['index']:.2f}, {w['low']:.2f} to "
        f"{w['high']:.2f}, n = {plural(w['n'], 'rater')}; 0 is blind). They may have guessed from quality alone, but "
        "ratings may also follow the guess: say so beside the fraction, and look for what gave the arm away."
    ),
    "margin_late": lambda w: (
        f"The margin of {percent(w['margin'])} was fixed on {w['at'][:16].replace('T', ' ')}, after the first rating "
        f"({w['first'][:16].replace('T', ' ')}). A margin chosen with ratings at hand proves nothing: report the "
        "fraction and its interval instead."
    ),
    "margin_changed": lambda w: (
        f"The study file now says {percent(w['file'])}, but {percent(w['margin'])} was fixed before the ratings and is "
        "the margin that counts here."
    ),
    "margin_unstamped": lambda w: (
        f"When the margin of {percent(w['margin'])} was fixed is not on record, so nothing here shows that it came "
        "before the first rating."
    ),
    "stopped_early": lambda w: (
        f"The study was closed at {w['ratings']:,} of {plural(w['planned'], 'planned rating')}. If what was seen led "
        "to it, the plain interval claims too much"
        + (
            "; the always-valid interval under Validity allows for it."
            if w["sequence"]
            else ", and with fewer than ten finished raters there is no always-valid interval to take its place."
        )
    ),
    "several_modes": lambda w: (
        f"Ratings were given in several modes ({joined(w['modes'])}). They are never put together: this page shows "
        f"{w['shown']}, the others stand in sections of their own."
    ),
    "mixed_left_out": lambda w: (
        f"The mixed ordinal model was left out: {plural(w['n'], 'rating')} are too many for it."
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

"""Model judges in the report: beside people, never among them. Every number here is marked as a judge's."""

from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

import numpy as np

from reports.analysis_student import fraction_json
from reports.judge_pairs import over_pairings
from reports.judge_records import LIVE, Judging, beside, units
from reports.judge_singles import judge_fraction, mean_of_judges, over_singles
from reports.load import Source
from reports.stats import ppi
from reports.stats.agreement import krippendorff
from reports.stats.cells import CannotEstimateError, aligned, common_cells, plain
from reports.stats.fraction import fraction
from reports.stats.judges import rank_correlation
from reports.tidy import MEASURES, Tidy

INVALID_SHARE = 0.05  # of replies that could not be read, above which the report says so
WEAK = 0.3  # rank correlation with people below which a judge says little

TEXTS = {
    "judge_only": "Marks by models are no ratings by people. Their intervals speak of other scenarios, not of other "
    "judges, and say nothing of what people would have thought.",
    "judge_invalid": "{judge} ({mode}): {invalid:,} of {replies:,} replies could not be read.",
    "judge_unanswered": "{judge} ({mode}): {unanswered:,} items have no verdict, so the rest may not stand for all. "
    "viva judge --again asks for them once more.",
    "judge_unsure": "{judge}: its marks hardly follow the people's (Spearman {estimate:.2f}, {n:,} answers).",
    "judge_constant": "{judge}: it gave every answer the same mark ({mark}), so it tells nothing apart, and a fraction "
    "of 100 % by it means nothing.",
    "judge_unchecked": "{judge}: no person has rated what it judged, so nothing is known about its worth here.",
    "judge_position": "{judge}: the place of an answer decides: it prefers the {place} one in {share:.0%} more of its "
    "verdicts ({low:.0%} to {high:.0%}). Outcomes here count a win only where both orders agree.",
    "judge_length": "{judge}: it likes long answers better than people do: {estimate:+.2f} points for twice the "
    "length ({low:+.2f} to {high:+.2f}).",
    "judge_own": "{judge}: it exceeds people's marks by {estimate:+.2f} points more on its own arm than on the others "
    "({low:+.2f} to {high:+.2f}).",
    "judge_family": "{judge}: it exceeds people's marks by {estimate:+.2f} points more on its own family than on the "
    "others ({low:+.2f} to {high:+.2f}).",
    "judge_is_arm": "{judge} is one of the arms that it judges.",
}
"""Code of a warning -> its words."""


def over_judges(source: Source) -> dict[str, Any] | None:
    """What report.json holds under `judges`; None where no judge has begun. docs/judge.md names the fields."""
    judging: Judging | None = getattr(source, "judging", None)
    if judging is None:
        return None
    return judge_blocks(judging, source.ratings.get("person"), source.arms, source.seed)


def judge_blocks(judging: Judging, people: Tidy | None, arms: tuple[str, ...], seed: int = 0) -> dict[str, Any]:
    """All blocks about judges as plain JSON values; the teacher is the first of `arms`."""
    singles = over_singles(judging, people, arms, seed)
    pairwise = over_pairings(judging, people, arms, seed)
    found: dict[str, Any] = {
        "judges": list(judging.facts),
        "single": singles,
        "pairwise": pairwise,
        "mean": _mean(judging, people, arms, seed),
        "between_judges": _between(judging),
        "combined": _combined(judging, people, arms) if judging.combine else None,
        "side_by_side": _side_by_side(judging, people, arms, singles),
    }
    found["warnings"] = _warnings(judging, singles, pairwise, people)
    return dict(plain(found))


def _mean(judging: Judging, people: Tidy | None, arms: tuple[str, ...], seed: int) -> dict[str, Any] | None:
    """The judges' mean mark of each prepared answer as a judge of its own, by kind of text; None with one judge."""
    if len(judging.judges("single")) < 2:
        return None
    found: dict[str, Any] = {"n_judges": len(judging.judges("single")), "texts": {}}
    for texts in judging.texts():
        marks = mean_of_judges(judging, texts)
        if not marks:
            continue
        rng = np.random.default_rng([seed, len(marks)])
        block: dict[str, Any] = {"fraction": {arm: {} for arm in arms[1:]}, "people": {}}
        for measure in MEASURES:
            columns = units(marks, measure, arms)
            for code, arm in enumerate(arms[1:], 1):
                block["fraction"][arm][measure] = judge_fraction(marks, columns, code, rng)
            rows = None if people is None else beside(marks, people, measure, arms)
            if rows is not None:
                mark, mean, _, scenario, _ = rows.by_unit()
                block["people"][measure] = {"ranks": asdict(rank_correlation(mark, mean, scenario, rng))}
        found["texts"][texts] = block
    return found if found["texts"] else None


def _between(judging: Judging) -> dict[str, Any] | None:
    """Whether judges agree with each other: Krippendorff's ordinal alpha over prepared answers."""
    names = judging.judges("single")
    if len(names) < 2:
        return None
    marks = [mark for mark in judging.marks if not mark.rater]
    texts = {text: at for at, text in enumerate(sorted({(mark.scenario, mark.arm) for mark in marks}))}
    unit = np.array([texts[mark.scenario, mark.arm] for mark in marks], dtype=np.int64)
    found: dict[str, Any] = {"judges": names}
    for measure in MEASURES:
        found[measure] = krippendorff(unit, np.array([mark.values[measure] for mark in marks]))
    return found


def _combined(judging: Judging, people: Tidy | None, arms: tuple[str, ...]) -> dict[str, Any]:
    """Prediction-powered fractions: people's ratings with the judges' mean marks of prepared answers."""
    found: dict[str, Any] = {"judges": judging.judges("single"), "texts": {}}
    for texts in judging.texts():
        if texts == LIVE:
            continue  # every live chat has its rater's own marks: there is nothing to fill in
        table = {(mark.scenario, mark.arm): mark.values for mark in mean_of_judges(judging, texts)}
        found["texts"][texts] = {
            arm: {measure: _combine(people, table, arm, arms[0], measure) for measure in MEASURES} for arm in arms[1:]
        }
    return found


def _combine(
    people: Tidy | None, table: Mapping[tuple[str, str], Mapping[str, float]], arm: str, teacher: str, measure: str
) -> dict[str, Any]:
    """One fraction, or why there is none (`reason`)."""
    judged = sorted(one for one, name in table if name == teacher and (one, arm) in table)
    if people is None or not people.has(measure) or not {arm, teacher} <= set(people.arms):
        return {"reason": "no person has rated both arms"}
    ratings, codes = people.measure(measure)[0], (people.arms.index(arm), people.arms.index(teacher))
    ratings = ratings.where(np.isin(np.array(people.scenarios), judged)[ratings.scenario])
    try:
        cells = common_cells(ratings, *codes)
        rated = [people.scenarios[code] for code in np.unique(aligned(ratings, *codes).scenario)]
        marks = [
            np.array([[table[one, name][measure] for name in (arm, teacher)] for one in scenarios]).reshape(-1, 2)
            for scenarios in (rated, [one for one in judged if one not in set(rated)])
        ]
        return {"reason": None, **_limits(ppi.combine(cells, ppi.Marks(*marks)))}
    except (CannotEstimateError, ppi.CannotCombineError) as error:
        return {"reason": str(error)}


def _limits(found: ppi.Combined) -> dict[str, Any]:
    return {**asdict(found), "unbounded": not np.isfinite(found.low)}


def _side_by_side(
    judging: Judging, people: Tidy | None, arms: tuple[str, ...], singles: list[dict[str, Any]]
) -> list[dict[str, Any]]:
    """For every kind of text, student and measure: the people's fraction and each judge's.

    The people's is that over the scenarios that were judged: what the report says of all stands elsewhere.
    """
    rows = []
    for texts in judging.texts():
        judged = sorted({mark.scenario for mark in judging.marks if mark.texts == texts})
        for arm in arms[1:]:
            for measure in MEASURES:
                found = {
                    one["judge"]: kept
                    for one in singles
                    if one["texts"] == texts and (kept := one["fraction"][arm][measure])
                }
                if found:
                    theirs = _people(people, judged, arm, arms[0], measure)
                    rows.append({"texts": texts, "arm": arm, "measure": measure, "people": theirs, "judges": found})
    return rows


def _people(people: Tidy | None, judged: list[str], arm: str, teacher: str, measure: str) -> dict[str, Any] | None:
    if people is None or not people.has(measure) or not {arm, teacher} <= set(people.arms):
        return None
    ratings = people.measure(measure)[0]
    ratings = ratings.where(np.isin(np.array(people.scenarios), judged)[ratings.scenario])
    try:
        return fraction_json(fraction(common_cells(ratings, people.arms.index(arm), people.arms.index(teacher))))
    except CannotEstimateError:
        return None


def _warnings(
    judging: Judging, singles: list[dict[str, Any]], pairwise: list[dict[str, Any]], people: Tidy | None
) -> list[dict[str, Any]]:
    said = [_said("judge_only", level="note")]
    for facts in judging.facts:
        head = {"judge": facts["name"], "mode": facts["mode"]}
        counts = {key: facts[key] for key in ("invalid", "replies", "unanswered")}
        if facts["replies"] and facts["invalid"] > INVALID_SHARE * facts["replies"]:
            said.append(_said("judge_invalid", level="note", **head, **counts))
        if facts["unanswered"]:
            said.append(_said("judge_unanswered", **head, **counts))
    for name in dict.fromkeys(facts["name"] for facts in judging.facts):
        if judging.own.get(name):
            said.append(_said("judge_is_arm", judge=name))
    for block in singles:
        said += _about_single(block, people)
    for block in pairwise:
        preference = (block["swap"] or {}).get("preference") or {}
        if _apart(preference):
            place = "first" if preference["estimate"] > 0 else "second"
            ends = sorted(abs(preference[key]) for key in ("low", "high"))
            said.append(_said("judge_position", judge=block["judge"], place=place, share=abs(preference["estimate"]),
                              low=ends[0], high=ends[1]))  # fmt: skip
    return said


def _about_single(block: dict[str, Any], people: Tidy | None) -> list[dict[str, Any]]:
    judge, bias = block["judge"], block["bias"]
    counts = np.sum([one["satisfaction"]["counts"] for one in block["arms"].values()], axis=0)
    said = []
    if np.count_nonzero(counts) == 1:
        said.append(_said("judge_constant", judge=judge, mark=int(np.flatnonzero(counts)[0]) + 1))
    beside_people = block["people"].get("satisfaction")
    if beside_people is None:
        return [*said, _said("judge_unchecked", judge=judge)] if people is not None else said
    rho = beside_people["ranks"]["spearman"]
    if rho["estimate"] is not None and rho["estimate"] < WEAK:
        said.append(_said("judge_unsure", judge=judge, **rho))
    if _apart(bias["length"]["gap"]) and bias["length"]["gap"]["estimate"] > 0:
        said.append(_said("judge_length", judge=judge, **bias["length"]["gap"]))
    for key in ("own", "family"):
        if bias[key] and _apart(bias[key]) and bias[key]["estimate"] > 0:
            said.append(_said(f"judge_{key}", judge=judge, **{k: v for k, v in bias[key].items() if k != "arms"}))
    return said


def _apart(interval: Mapping[str, Any]) -> bool:
    """Whether an interval leaves 0 out."""
    return interval.get("low") is not None and (interval["low"] > 0 or interval["high"] < 0)


def _said(code: str, level: str = "warning", **facts: Any) -> dict[str, Any]:
    return {"code": code, "level": level, **facts, "text": TEXTS[code].format(**facts)}

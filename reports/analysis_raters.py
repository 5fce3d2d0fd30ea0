"""Raters: how they agree, how severe each is, and every result without those that a pre-stated rule leaves out."""

import contextlib
from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

import numpy as np

from reports.analysis_student import Options, estimate_of, fraction_json, tests_json
from reports.database import fast_raters
from reports.stats import agreement
from reports.stats.cells import Bools, CannotEstimateError, Floats, Ints, Ratings
from reports.tidy import MEASURES, Tidy

MANY = 500  # raters above which report.json does not list each

RULES = {
    "constant_raters": "raters who gave one and the same rating at least ten times",
    "disagreeing_raters": "raters whose correlation with the others is below 0.2 over ten shared units",
    "failed_checks": "raters who missed more than half of at least two known answers",
    "fast_raters": "raters with a fifth of their ratings given in less than two seconds",
    "unfinished_raters": "raters who have not rated all that they were given",
    "unpaced": "chats that fell behind the common pace",
    "broken": "chats in which an answer failed",
    "named_itself": "chats in which the model names itself",
}
"""Rule -> what it leaves out. They are stated here, before any study, and no other rule is applied."""
WARNED = ("constant_raters", "disagreeing_raters", "failed_checks", "fast_raters", "unpaced", "broken", "named_itself")


def reliability(ratings: Ratings, n_arms: int) -> dict[str, Any]:
    """Krippendorff's alpha and the intraclass correlation of one measure."""
    unit = agreement.units_of(ratings)
    table = agreement.complete_table(ratings, n_arms)
    icc = None if table is None else agreement.icc(table)
    return {
        "krippendorff_ordinal": agreement.krippendorff(unit, ratings.value, "ordinal"),
        "krippendorff_interval": agreement.krippendorff(unit, ratings.value, "interval"),
        "icc": None if icc is None else asdict(icc),
        "n_units": int(unit.max()) + 1,
        "n_ratings": len(ratings.value),
    }


def raters(tidy: Tidy, left_out: Mapping[str, Bools]) -> dict[str, Any]:
    """Severity, agreement and flags of raters by their satisfaction ratings."""
    ratings, _ = tidy.measure("satisfaction")
    facts = agreement.rater_facts(ratings, len(tidy.raters))
    severity = relative_severity(ratings, len(tidy.raters))
    rated = facts.n > 0
    flagged = {
        rule.removesuffix("_raters"): [tidy.raters[code] for code in np.unique(tidy.rater[left_out[rule]])]
        if rule in left_out
        else []
        for rule in ("constant_raters", "disagreeing_raters", "failed_checks", "fast_raters")
    }
    columns = (tidy.raters, facts.n, facts.mean, facts.sd, facts.agreement, severity)
    return {
        "flagged": flagged,
        "severity": {
            "lowest": facts.mean[rated].min(),
            "highest": facts.mean[rated].max(),
            "sd": np.nanstd(severity, ddof=1) if np.isfinite(severity).sum() > 1 else None,
        },
        "each": {
            name: {"n": n, "mean": mean, "sd": sd, "agreement": corr, "severity": own}
            for name, n, mean, sd, corr, own in zip(*columns, strict=True)
        }
        if len(tidy.raters) <= MANY
        else None,
    }


def relative_severity(ratings: Ratings, n_raters: int) -> Floats:
    """Mean over a rater's units of the rating minus the others' mean of the same unit [R]; NaN without shared units.

    Below 0: stricter than others who saw the same.
    """
    unit = agreement.units_of(ratings)
    count, total = np.bincount(unit), np.bincount(unit, ratings.value)
    shared = count[unit] > 1
    rater, own = ratings.rater[shared], ratings.value[shared]
    gap = own - (total[unit][shared] - own) / (count[unit][shared] - 1)
    with np.errstate(invalid="ignore"):
        return np.asarray(np.bincount(rater, gap, minlength=n_raters) / np.bincount(rater, minlength=n_raters))


def exclusions(tidy: Tidy, unfinished: frozenset[str] = frozenset()) -> dict[str, Bools]:
    """Rows [N] that each pre-stated rule leaves out; rules that leave out nothing, or everything, are not there."""
    ratings, _ = tidy.measure("satisfaction")
    facts = agreement.rater_facts(ratings, len(tidy.raters))

    def of(codes: Ints | list[int]) -> Bools:
        return np.isin(tidy.rater, codes)

    found = {
        "constant_raters": of(facts.constant()),
        "disagreeing_raters": of(facts.disagreeing()),
        "failed_checks": tidy.marks.get("failed_checks", of([])),
        "fast_raters": of(fast_raters(tidy)),
        "unfinished_raters": of([at for at, who in enumerate(tidy.raters) if who in unfinished]),
        **{rule: tidy.marks.get(rule, of([])) for rule in ("unpaced", "broken", "named_itself")},
    }
    return {rule: rows for rule, rows in found.items() if rows.any()}


def sensitivity(tidy: Tidy, left_out: Mapping[str, Bools], arms: dict[str, dict[str, Any]], options: Options) -> None:
    """Every student's results without what each rule leaves out, and without all of it, into `arms`."""
    rows = dict(left_out)
    if len(rows) > 1:
        rows["all_rules"] = np.any(list(rows.values()), axis=0)
    for measure in MEASURES:
        if not tidy.has(measure):
            continue
        for rule, without in rows.items():
            ratings, _ = tidy.measure(measure, ~without)
            for code, arm in enumerate(tidy.arms[1:], 1):
                block = arms[arm].get(measure, {})
                if "fraction" in block:
                    one = _without(ratings, code, options)
                    one |= {
                        "ratings_left_out": int(np.sum(without & ~np.isnan(tidy.values[measure]))),
                        "raters_left_out": int(len(tidy.raters) - len(np.unique(tidy.rater[~without]))),
                    }
                    block.setdefault("sensitivity", {})[f"without_{rule}"] = one


def _without(ratings: Ratings, code: int, options: Options) -> dict[str, Any]:
    nothing = {"fraction": None, "fraction_rescaled": None, "difference": None, "non_inferiority": None}
    try:
        estimate = estimate_of(ratings, code, options)
    except CannotEstimateError:
        return nothing
    tests = tests_json(estimate, options.margin)
    found = {"fraction": fraction_json(estimate), "fraction_rescaled": None}
    with contextlib.suppress(CannotEstimateError):
        found["fraction_rescaled"] = fraction_json(estimate_of(ratings, code, options, shift=1))
    return found | {key: tests[key] for key in ("difference", "non_inferiority")}


def rule_warnings(tidy: Tidy, left_out: Mapping[str, Bools]) -> list[dict[str, Any]]:
    """One warning for each rule that leaves something out, with who or how much."""
    said: list[dict[str, Any]] = []
    for rule in WARNED:
        if rule not in left_out:
            continue
        rows = left_out[rule]
        if rule in ("unpaced", "broken", "named_itself"):
            said.append({"code": rule, "count": int(rows.sum()), "n": len(rows)})
        else:
            said.append({"code": rule, "raters": [tidy.raters[code] for code in np.unique(tidy.rater[rows])]})
    return said

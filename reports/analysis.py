"""Tidy ratings -> the numbers of report.json: every student against the teacher, and whether to believe it.

Everything that keeps a number from being computed, or from being believed, is a warning with a code; the words for
codes are in `reports.wording_warnings`.
"""

import zlib
from typing import Any

import numpy as np

from reports.analysis_order import by_scenario, order_effects
from reports.analysis_raters import exclusions, raters, reliability, rule_warnings, sensitivity
from reports.analysis_student import Options, Warning_, languages, student_block
from reports.stats import effects
from reports.stats.cells import CannotEstimateError, Cells, Floats, Ratings, common_cells, plain
from reports.stats.fraction import fraction
from reports.stats.mixed_ordinal import mixed_logit
from reports.stats.ordinal import ordered_logit
from reports.stats.tests import benjamini_hochberg, difference, holm
from reports.tidy import MEASURES, Tidy

MIXED_ROWS, MIXED_GROUPS = 20_000, 1_500  # above, the mixed model would take longer than the rest of the report


def analyse(
    tidy: Tidy,
    *,
    margin: float = 0.90,
    seed: int = 0,
    draws: int = 10_000,
    controls: dict[str, str] | None = None,
    crossing: str = "within",
    unfinished: frozenset[str] = frozenset(),
) -> dict[str, Any]:
    """All statistics of one kind of rater in one mode, as plain JSON values; the teacher is the first arm of `tidy`.

    `controls` maps a control to the student whose teacher it lacks; the student is compared with it as well. With
    crossing "between" the all-data estimator is the one that counts. `unfinished` names raters who left before their
    end. Random numbers depend on `seed`, arm and measure only, so adding an arm changes no other arm's numbers.
    """
    options = Options(margin, crossing, draws)
    warnings: list[Warning_] = []
    measures = [measure for measure in MEASURES if tidy.has(measure)]
    arms: dict[str, dict[str, Any]] = {arm: {} for arm in tidy.arms}
    result: dict[str, Any] = {"arms": arms, "reliability": {}, "bradley_terry": {}, "warnings": warnings}
    if not measures:
        warnings.append({"code": "no_ratings"})
    for measure in measures:
        ratings, repeats = tidy.measure(measure)
        if repeats:
            warnings.append({"code": "duplicate_ratings", "measure": measure, "count": repeats})
        missing = int(np.isnan(tidy.values[measure]).sum())
        if missing:
            warnings.append({"code": "missing_ratings", "measure": measure, "count": missing})
        for code, arm in enumerate(tidy.arms):
            arms[arm][measure] = _summary(ratings.value[ratings.arm == code])
        if not np.any(ratings.arm == 0):
            warnings.append({"code": "no_teacher_ratings", "measure": measure})
            continue
        for code, arm in enumerate(tidy.arms[1:], 1):
            rng = np.random.default_rng([seed, zlib.crc32(arm.encode()), zlib.crc32(measure.encode())])
            found, said = student_block(tidy, ratings, code, options, rng)
            if "fraction" in found:
                found["language"] = languages(tidy, measure, code, options)
            arms[arm][measure] |= found
            warnings += [{**warning, "measure": measure, "arm": arm} for warning in said]
        for control, arm in (controls or {}).items():
            if control in tidy.arms and arm in tidy.arms:
                arms[arm][measure]["control"] = _against_control(tidy, ratings, arm, control)
        _adjust(arms, tidy.arms[1:], measure)
        result["bradley_terry"][measure] = _strengths(tidy, ratings, warnings, measure)
        _logit(tidy, measure, arms)
        _mixed(tidy, measure, arms, warnings)
        result["reliability"][measure] = reliability(ratings, len(tidy.arms))
    if "satisfaction" in measures:
        left_out = exclusions(tidy, unfinished)
        result["raters"] = raters(tidy, left_out)
        sensitivity(tidy, left_out, arms, options)
        warnings += rule_warnings(tidy, left_out)
        result["order"], said = order_effects(tidy)
        warnings += said
        result["by_scenario"] = by_scenario(tidy)
    result["n"] = {"ratings": tidy.n, "raters": len(tidy.raters), "scenarios": len(tidy.scenarios)}
    return plain(result)


def _summary(value: Floats) -> dict[str, Any]:
    n = len(value)
    counts = np.bincount(np.floor(value + 0.5).astype(np.int64), minlength=6)[1:6]
    return {
        "n": n,
        "mean": value.mean() if n else None,
        "sd": value.std(ddof=1) if n > 1 else None,
        "top_share": np.mean(value == 5) if n else None,
        "counts": counts.tolist(),
    }


def _against_control(tidy: Tidy, ratings: Ratings, arm: str, control: str) -> dict[str, Any] | None:
    """Difference in points of a student and its control on their own common cells: what the teacher added."""
    try:
        estimate = fraction(common_cells(ratings, tidy.arms.index(arm), tidy.arms.index(control)))
    except CannotEstimateError:
        return None
    diff = difference(estimate)
    limits = {"estimate": diff.estimate, "low": diff.low, "high": diff.high, "p": diff.p}
    return {"arm": control, **limits, "n_cells": estimate.n_cells, "n_raters": estimate.n_raters}


def _adjust(arms: dict[str, dict[str, Any]], students: tuple[str, ...], measure: str) -> None:
    """Adjust p values over the students: one family for each measure and test."""
    for test in ("non_inferiority", "difference", "equivalence"):
        blocks = [arms[arm][measure][test] for arm in students if test in arms[arm][measure]]
        p = [block["p"] for block in blocks]
        for block, by_holm, by_bh in zip(blocks, holm(p), benjamini_hochberg(p), strict=True):
            block |= {"p_holm": by_holm, "p_bh": by_bh}


def _strengths(tidy: Tidy, ratings: Ratings, warnings: list[Warning_], measure: str) -> dict[str, Any]:
    """Davidson's model over all pairs of arms on common cells; the teacher's log strength is 0."""
    k = len(tidy.arms)
    cells_of: dict[tuple[int, int], Cells] = {}
    for i in range(k):
        for j in range(i + 1, k):
            try:
                cells_of[i, j] = common_cells(ratings, i, j)
            except CannotEstimateError:
                continue
    if not cells_of:
        return {}
    wins, ties = effects.pair_counts(cells_of, k)
    davidson, half_ties = effects.davidson(wins, ties), effects.bradley_terry(wins, ties)
    if davidson.separation:
        warnings.append({"code": "separation", "measure": measure, "which": "bradley_terry"})
    found: dict[str, Any] = {"nu": davidson.nu}
    for code, arm in enumerate(tidy.arms):
        found[arm] = {
            "log_strength": davidson.log_strength[code] if davidson.log_strength else None,
            "half_ties": half_ties.log_strength[code] if half_ties.log_strength else None,
        }
    return found


def _logit(tidy: Tidy, measure: str, arms: dict[str, dict[str, Any]]) -> None:
    rows = tidy.rows(measure)
    fit = ordered_logit(rows.arm, rows.value, rows.rater, len(tidy.arms))
    for code, arm in enumerate(tidy.arms[1:], 1):
        arms[arm][measure]["ordered_logit"] = {
            "coef": fit.coef[code] if fit.coef else None,
            "se": fit.se_clustered[code] if fit.se_clustered else None,
            "se_model": fit.se_model[code] if fit.se_model else None,
            "separation": fit.separation,
        }


def _mixed(tidy: Tidy, measure: str, arms: dict[str, dict[str, Any]], warnings: list[Warning_]) -> None:
    """The cumulative-link mixed model of all arms: raters, scenarios, and how arms differ between both, as random."""
    from scipy.special import ndtr

    rows, k = tidy.rows(measure), len(tidy.arms)
    present = [code for code in range(1, k) if np.any(rows.arm == code)]
    by_arm = [rows.rater * k + rows.arm, rows.scenario * k + rows.arm]
    n_groups = sum(len(np.unique(one)) for one in (rows.rater, rows.scenario, *by_arm))
    for code in present:
        arms[tidy.arms[code]][measure]["mixed_logit"] = None
    if not present or len(rows.value) > MIXED_ROWS or n_groups > MIXED_GROUPS:
        if present:
            warnings.append({"code": "mixed_left_out", "measure": measure, "n": len(rows.value)})
        return
    x = np.stack([rows.arm == code for code in present], axis=1).astype(np.float64)
    fit = mixed_logit(rows.value, x, [rows.rater, rows.scenario, *by_arm])
    if fit is None:
        return
    sd = dict(zip(("rater", "scenario", "rater_arm", "scenario_arm"), fit.sd, strict=True))
    for code, coef, se in zip(present, fit.coef, fit.se, strict=True):
        limits = {"low": coef - 1.959963984540054 * se, "high": coef + 1.959963984540054 * se}
        p = float(2 * ndtr(-abs(coef / se)))
        arms[tidy.arms[code]][measure]["mixed_logit"] = {
            **{"coef": coef, "se": se, **limits, "p": p, "sd": sd},
            **{"n": len(rows.value), "n_raters": len(np.unique(rows.rater))},
        }

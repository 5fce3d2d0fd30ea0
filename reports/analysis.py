"""Tidy ratings -> the numbers of report.json: every student against the teacher, and whether to believe it.

Everything that keeps a number from being computed, or from being believed, is a warning with a code; the words for
codes are in `reports.wording`.
"""

import zlib
from dataclasses import asdict
from typing import Any

import numpy as np

from reports.stats import agreement, effects, sequence
from reports.stats.bootstrap import pigeonhole
from reports.stats.cells import CannotEstimateError, Cells, Floats, Ratings, aligned, common_cells, plain
from reports.stats.fraction import Estimate, fraction, fraction_all
from reports.stats.ordinal import ordered_logit
from reports.stats.tests import (
    benjamini_hochberg,
    difference,
    equivalence,
    holm,
    non_inferiority,
    rater_differences,
    sign_flip,
    wilcoxon,
)
from reports.tidy import MEASURES, Tidy

EQUIVALENCE_HIGH = 1.11
FEW = 10  # raters or scenarios below which the bootstrap proves nothing and the interval is wide
CEILING = 0.20  # share of common cells at 5 in both arms above which the scale hides a difference; a convention
WIDTHS = (0.9, 1.8)  # bootstrap width over Fieller width; outside, one of both is wrong

Warning_ = dict[str, Any]


def analyse(
    tidy: Tidy,
    *,
    margin: float = 0.90,
    seed: int = 0,
    draws: int = 10_000,
    controls: dict[str, str] | None = None,
) -> dict[str, Any]:
    """All statistics of one kind of rater, as plain JSON values; the teacher is the first arm of `tidy`.

    `controls` maps a control to the student whose teacher it lacks; the student is compared with it as well.
    Random numbers depend on `seed`, arm and measure only, so adding an arm changes no other arm's numbers.
    """
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
            found, said = _student(tidy, ratings, code, margin, rng, draws)
            arms[arm][measure] |= found
            warnings += [{**warning, "measure": measure, "arm": arm} for warning in said]
        for control, arm in (controls or {}).items():
            if control in tidy.arms and arm in tidy.arms:
                arms[arm][measure]["control"] = _against_control(tidy, ratings, arm, control)
        _adjust(arms, tidy.arms[1:], measure)
        result["bradley_terry"][measure] = _strengths(tidy, ratings, warnings, measure)
        _logit(tidy, measure, arms)
        result["reliability"][measure] = _reliability(tidy, ratings)
    if "satisfaction" in measures:
        result["raters"] = _raters(tidy, arms, warnings)
        result["order"] = _by_quarter(tidy)
        result["by_scenario"] = _by_scenario(tidy)
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


def _student(
    tidy: Tidy, ratings: Ratings, code: int, margin: float, rng: np.random.Generator, draws: int
) -> tuple[dict[str, Any], list[Warning_]]:
    """One student on one measure, and the warnings about it."""
    warnings: list[Warning_] = []
    found: dict[str, Any] = {"fraction_all": None}
    try:
        found["fraction_all"] = fraction_json(fraction_all(ratings, code, 0))
        cells = common_cells(ratings, code, 0)
    except CannotEstimateError as error:
        return found, [{"code": "no_student_ratings" if error.code == "no_ratings" else error.code}]
    estimate = fraction(cells)
    found |= {
        "common": {"mean_student": estimate.m1, "mean_teacher": estimate.m0},
        "both_at_5": np.mean((cells.student == 5) & (cells.teacher == 5)),
        "fraction": fraction_json(estimate),
        "fraction_rescaled": None,
        "category": _categories(tidy, ratings, code),
        "pairs": asdict(effects.pairs(cells)),
        "effect": asdict(effects.effects(cells)),
    }
    try:
        found["fraction_rescaled"] = fraction_json(fraction(cells, shift=1))
    except CannotEstimateError as error:
        warnings.append({"code": error.code})
    found |= _tests(estimate, margin)
    if estimate.n_raters > 1:
        d = rater_differences(cells)
        found["permutation"] = asdict(sign_flip(d, rng, 100_000 if len(d) <= 200 else 20_000))
        found["wilcoxon"] = asdict(wilcoxon(d))
        found["confidence_sequence"] = _sequence(tidy, ratings, code)
    if estimate.contrast is not None and estimate.contrast.v > 0:
        _bootstrap(found, cells, rng, draws)
    return found, warnings + _warnings(found, estimate)


def fraction_json(estimate: Estimate) -> dict[str, Any]:
    """An estimate as report.json holds it; an unbounded interval has null limits and says so."""
    whole = not estimate.unbounded
    return {
        "estimate": estimate.ratio,
        "se": estimate.se,
        "df": estimate.df,
        "low": estimate.low if whole else None,
        "high": estimate.high if whole else None,
        "unbounded": not whole,
        "delta": None if estimate.delta_low is None else {"low": estimate.delta_low, "high": estimate.delta_high},
        "bootstrap": None,
        "floor_used": bool(estimate.contrast and estimate.contrast.floor_used),
        "n_cells": estimate.n_cells,
        "n_raters": estimate.n_raters,
        "n_scenarios": estimate.n_scenarios,
    }


def _tests(estimate: Estimate, margin: float) -> dict[str, Any]:
    diff = difference(estimate)
    return {
        "difference": {
            "estimate": diff.estimate,
            "se": diff.contrast.se if diff.contrast else None,
            "df": diff.contrast.df if diff.contrast else None,
            "low": diff.low,
            "high": diff.high,
            "p": diff.p,
        },
        "non_inferiority": {"margin": margin, "p": non_inferiority(estimate, margin).p},
        "equivalence": {
            "low": margin,
            "high": EQUIVALENCE_HIGH,
            "p": equivalence(estimate, margin, EQUIVALENCE_HIGH),
        },
    }


def _bootstrap(found: dict[str, Any], cells: Cells, rng: np.random.Generator, draws: int) -> None:
    drawn = pigeonhole(cells, rng, draws)
    for key, shift in (("fraction", 0.0), ("fraction_rescaled", 1.0)):
        limits = drawn.ratio(shift) if found[key] else None
        if limits:
            found[key]["bootstrap"] = {"low": limits[0], "high": limits[1], "draws": draws}
    low, high = drawn.difference()
    found["difference"]["bootstrap"] = {"low": low, "high": high, "draws": draws}


def _categories(tidy: Tidy, ratings: Ratings, code: int) -> dict[str, Any]:
    """The fraction in every category, exploratory: its own cells, raters, scenarios and df."""
    found: dict[str, Any] = {}
    for name in tidy.categories:
        try:
            cells = common_cells(ratings.where(tidy.in_category(name)[ratings.scenario]), code, 0)
        except CannotEstimateError:
            continue
        found[name] = fraction_json(fraction(cells))
    return found


def _sequence(tidy: Tidy, ratings: Ratings, code: int) -> dict[str, Any] | None:
    """The always-valid interval of the mean rater difference now, raters taken in the order in which they finished."""
    cells = aligned(ratings, code, 0)
    count = np.bincount(cells.rater)
    with np.errstate(invalid="ignore"):
        mean = np.bincount(cells.rater, cells.student - cells.teacher) / count
    order = sorted(np.flatnonzero(count).tolist(), key=lambda who: (tidy.finished[who], tidy.raters[who]))
    if len(order) < sequence.LEAST:
        return None
    d = mean[order]
    working, check = sequence.asymptotic(d), sequence.empirical_bernstein(d)
    return {
        "n_raters": len(d),
        "asymptotic": {"mean": working.centre[-1], "low": working.low[-1], "high": working.high[-1]},
        "empirical_bernstein": {"centre": check.centre[-1], "low": check.low[-1], "high": check.high[-1]},
    }


def _warnings(found: dict[str, Any], estimate: Estimate) -> list[Warning_]:
    said: list[Warning_] = []
    least = min(estimate.n_raters, estimate.n_scenarios)
    counts = {"n_raters": estimate.n_raters, "n_scenarios": estimate.n_scenarios}
    if least < 2:
        said.append({"code": "one_cluster", **counts})
    elif least < FEW:
        said.append({"code": "few_clusters", **counts})
    if estimate.zero_variance:
        said.append({"code": "zero_variance"})
    for key in ("fraction", "fraction_rescaled"):
        if found[key] and found[key]["unbounded"]:
            said.append({"code": "unbounded_interval", "which": key})
    if found["both_at_5"] > CEILING:
        said.append({"code": "ceiling", "share": found["both_at_5"]})
    if found["fraction"]["floor_used"]:
        said.append({"code": "variance_floor"})
    bootstrap = found["fraction"]["bootstrap"]
    if bootstrap and found["fraction"]["low"] is not None and least >= FEW:
        width = (bootstrap["high"] - bootstrap["low"]) / (found["fraction"]["high"] - found["fraction"]["low"])
        if not WIDTHS[0] <= width <= WIDTHS[1]:
            said.append({"code": "interval_check", "width_ratio": width})
    return said


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
    for test in ("non_inferiority", "difference"):
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


def _reliability(tidy: Tidy, ratings: Ratings) -> dict[str, Any]:
    unit = agreement.units_of(ratings)
    table = agreement.complete_table(ratings, len(tidy.arms))
    icc = None if table is None else agreement.icc(table)
    return {
        "krippendorff_ordinal": agreement.krippendorff(unit, ratings.value, "ordinal"),
        "krippendorff_interval": agreement.krippendorff(unit, ratings.value, "interval"),
        "icc": None if icc is None else asdict(icc),
        "n_units": int(unit.max()) + 1,
        "n_ratings": len(ratings.value),
    }


def _raters(tidy: Tidy, arms: dict[str, dict[str, Any]], warnings: list[Warning_]) -> dict[str, Any]:
    """Severity and flags of raters, and every student's fraction without the flagged; nobody is left out silently."""
    ratings, _ = tidy.measure("satisfaction")
    facts = agreement.rater_facts(ratings, len(tidy.raters))
    flagged = {"constant": facts.constant(), "disagreeing": facts.disagreeing()}
    for name, codes in flagged.items():
        if not len(codes):
            continue
        warnings.append({"code": f"{name}_raters", "raters": [tidy.raters[code] for code in codes]})
        kept = ratings.where(~np.isin(ratings.rater, codes))
        for code, arm in enumerate(tidy.arms[1:], 1):
            try:
                without = fraction_json(fraction(common_cells(kept, code, 0)))
            except CannotEstimateError:
                without = None
            arms[arm]["satisfaction"].setdefault("sensitivity", {})[f"without_{name}_raters"] = without
    rated = facts.n > 0
    return {
        "flagged": {name: [tidy.raters[code] for code in codes] for name, codes in flagged.items()},
        "severity": {"lowest": facts.mean[rated].min(), "highest": facts.mean[rated].max()},
        "each": {
            name: {"n": n, "mean": mean, "sd": sd, "agreement": corr}
            for name, n, mean, sd, corr in zip(tidy.raters, facts.n, facts.mean, facts.sd, facts.agreement, strict=True)
        }
        if len(tidy.raters) <= 500
        else None,
    }


def _by_quarter(tidy: Tidy) -> list[dict[str, Any]]:
    """Mean satisfaction by quarter of a rater's own order: a trend means tiring or learning."""
    value = tidy.values["satisfaction"]
    there = ~np.isnan(value) & ~np.isnan(tidy.position)
    if not there.any():
        return []
    rater, position, value = tidy.rater[there], tidy.position[there], value[there]
    order = np.lexsort((position, rater))
    count = np.bincount(rater)
    start = np.cumsum(count) - count
    place = np.arange(len(order)) - start[rater[order]]
    quarter = 4 * place // count[rater[order]]
    n, total = np.bincount(quarter, minlength=4), np.bincount(quarter, value[order], minlength=4)
    return [
        {"quarter": index + 1, "n": int(n[index]), "mean": total[index] / n[index] if n[index] else None}
        for index in range(4)
    ]


def _by_scenario(tidy: Tidy) -> dict[str, dict[str, Any]]:
    """Mean satisfaction difference of each student in each scenario, on common cells."""
    ratings, _ = tidy.measure("satisfaction")
    found: dict[str, dict[str, Any]] = {}
    for code, arm in enumerate(tidy.arms[1:], 1):
        cells = aligned(ratings, code, 0)
        n, student, teacher = (np.bincount(cells.scenario, weights) for weights in (None, cells.student, cells.teacher))
        found[arm] = {
            tidy.scenarios[at]: {
                "n": int(n[at]),
                "category": tidy.category[at],
                "student": student[at] / n[at],
                "teacher": teacher[at] / n[at],
                "difference": (student[at] - teacher[at]) / n[at],
            }
            for at in np.flatnonzero(n)
        }
    return found

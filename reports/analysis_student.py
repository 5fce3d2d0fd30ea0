"""One student against the teacher on one measure: fraction, tests, effects, looks, and what to warn of.

Two estimators: on common cells (crossing "within", the default) or over all cells of each arm (crossing "between",
where no rater meets a scenario twice). All that follows from an estimate is the same for both.
"""

from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from reports.stats import effects, missing, sequence
from reports.stats.bootstrap import pigeonhole, pigeonhole_all
from reports.stats.cells import CannotEstimateError, Floats, Ratings, aligned, common_cells
from reports.stats.fraction import Estimate, fraction, fraction_all
from reports.stats.tests import difference, equivalence, non_inferiority, sign_flip, wilcoxon
from reports.tidy import Tidy

EQUIVALENCE_HIGH = 1.11
FEW = 10  # raters or scenarios below which the bootstrap proves nothing and the interval is wide
CEILING = 0.20  # share of common cells at 5 in both arms above which the scale hides a difference; a convention
WIDTHS = (0.9, 1.8)  # bootstrap width over Fieller width; outside, one of both is wrong
NEAR_FLOOR = 0.5  # points above the lowest rating below which the rescaled fraction divides by next to nothing
GAP = 0.05  # p below which cells with one arm only count as preferring an arm
PATH_POINTS = 120  # of a confidence sequence that report.json keeps

Warning_ = dict[str, Any]


@dataclass(frozen=True)
class Options:
    """How a study is analysed: its margin, its crossing, and draws of the bootstrap."""

    margin: float = 0.90
    crossing: str = "within"
    draws: int = 10_000

    @property
    def paired(self) -> bool:
        return self.crossing == "within"


def estimate_of(ratings: Ratings, code: int, options: Options, shift: float = 0.0) -> Estimate:
    """The estimate that the study's crossing asks for; raises CannotEstimateError as the two estimators do."""
    if options.paired:
        return fraction(common_cells(ratings, code, 0), shift=shift)
    if not np.any(ratings.arm == code):
        raise CannotEstimateError("no_student_ratings", "nobody rated the student")
    return fraction_all(ratings, code, 0, shift=shift)


def student_block(
    tidy: Tidy, ratings: Ratings, code: int, options: Options, rng: np.random.Generator
) -> tuple[dict[str, Any], list[Warning_]]:
    """Everything report.json holds of one student on one measure, and the warnings about it."""
    warnings: list[Warning_] = []
    found: dict[str, Any] = {"fraction_all": None}
    try:
        found["fraction_all"] = fraction_json(fraction_all(ratings, code, 0))
        estimate = estimate_of(ratings, code, options)
    except CannotEstimateError as error:
        return found, [{"code": "no_student_ratings" if error.code == "no_ratings" else error.code}]
    found |= {
        "fraction": fraction_json(estimate),
        "fraction_rescaled": None,
        "category": _parts(tidy, ratings, code, options),
        "language": {},
        **_by_cells(ratings, code, options),
    }
    if options.paired:
        found["common"] = {"mean_student": estimate.m1, "mean_teacher": estimate.m0}
    try:
        found["fraction_rescaled"] = fraction_json(estimate_of(ratings, code, options, shift=1))
    except CannotEstimateError as error:
        warnings.append({"code": error.code})
    found |= tests_json(estimate, options.margin)
    if estimate.n_raters > 1:
        _by_raters(tidy, ratings, code, options, rng, found)
    if estimate.contrast is not None and estimate.contrast.v > 0:
        _bootstrap(found, ratings, code, options, rng)
    return found, warnings + _warnings(found, estimate, options)


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


def tests_json(estimate: Estimate, margin: float) -> dict[str, Any]:
    """Difference in points, non-inferiority and equivalence."""
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


def _by_cells(ratings: Ratings, code: int, options: Options) -> dict[str, Any]:
    """Pairs, effect sizes and what is missing; without common cells only what compares the arms as wholes."""
    student, teacher = ratings.value[ratings.arm == code], ratings.value[ratings.arm == 0]
    if not options.paired:
        whole = {"cohen_d": _cohen_d(student, teacher), "cohen_dz": None}
        delta = effects.cliffs_delta(student, teacher)
        return {"pairs": None, "both_at_5": None, "unpaired": None, "effect": {**whole, "cliffs_delta": delta}}
    cells = common_cells(ratings, code, 0)
    return {
        "both_at_5": np.mean((cells.student == 5) & (cells.teacher == 5)),
        "pairs": asdict(effects.pairs(cells)),
        "effect": asdict(effects.effects(cells)),
        "unpaired": asdict(missing.unpaired(ratings, code, 0)),
    }


def _cohen_d(student: Floats, teacher: Floats) -> float | None:
    if min(len(student), len(teacher)) < 2:
        return None
    pooled = float(np.sqrt((student.var(ddof=1) + teacher.var(ddof=1)) / 2))
    return float(student.mean() - teacher.mean()) / pooled if pooled > 0 else None


def _parts(tidy: Tidy, ratings: Ratings, code: int, options: Options) -> dict[str, Any]:
    """The fraction in every category, exploratory: its own cells, raters, scenarios and df."""
    found: dict[str, Any] = {}
    for name in tidy.categories:
        try:
            part = ratings.where(tidy.in_category(name)[ratings.scenario])
            found[name] = fraction_json(estimate_of(part, code, options))
        except CannotEstimateError:
            continue
    return found


def languages(tidy: Tidy, measure: str, code: int, options: Options) -> dict[str, Any]:
    """The fraction among raters of every language, exploratory; empty where there is one language only."""
    found: dict[str, Any] = {}
    for at, name in enumerate(tidy.languages if len(tidy.languages) > 1 else ()):
        try:
            ratings, _ = tidy.measure(measure, tidy.language == at)
            found[name or "unknown"] = fraction_json(estimate_of(ratings, code, options))
        except CannotEstimateError:
            continue
    return found


def _by_raters(
    tidy: Tidy, ratings: Ratings, code: int, options: Options, rng: np.random.Generator, found: dict[str, Any]
) -> None:
    """What goes by raters' own means: sign flips, signed ranks, and the always-valid intervals."""
    student, teacher = _rater_means(ratings, code, options, len(tidy.raters))
    there = np.flatnonzero(np.isfinite(student) & np.isfinite(teacher))
    if not len(there):
        return
    d = (student - teacher)[there]
    found["permutation"] = asdict(sign_flip(d, rng, 100_000 if len(d) <= 200 else 20_000))
    found["wilcoxon"] = asdict(wilcoxon(d))
    order = sorted(there.tolist(), key=lambda who: (tidy.finished[who], tidy.raters[who]))
    found["confidence_sequence"] = _sequence(student[order], teacher[order])


def _rater_means(ratings: Ratings, code: int, options: Options, n_raters: int) -> tuple[Floats, Floats]:
    """Each rater's mean rating of both arms [R], on common cells where they are what counts; NaN without."""
    with np.errstate(invalid="ignore"):
        if options.paired:
            cells = aligned(ratings, code, 0)
            n = np.bincount(cells.rater, minlength=n_raters)
            sums = (np.bincount(cells.rater, value, minlength=n_raters) for value in (cells.student, cells.teacher))
            student, teacher = (total / n for total in sums)
            return student, teacher
        means = []
        for arm in (code, 0):
            rows = ratings.where(ratings.arm == arm)
            n = np.bincount(rows.rater, minlength=n_raters)
            means.append(np.bincount(rows.rater, rows.value, minlength=n_raters) / n)
        return means[0], means[1]


def _sequence(student: Floats, teacher: Floats) -> dict[str, Any] | None:
    """Always-valid intervals of the mean difference and of the ratio, raters in the order in which they finished."""
    if len(student) < sequence.LEAST:
        return None
    d = student - teacher
    working, check = sequence.asymptotic(d), sequence.empirical_bernstein(d)
    ratio = sequence.asymptotic_ratio(student, teacher)
    looks = np.arange(sequence.LEAST - 1, len(d))
    if len(looks) > PATH_POINTS:
        looks = np.unique(np.linspace(looks[0], looks[-1], PATH_POINTS).round().astype(np.int64))
    return {
        "n_raters": len(d),
        "asymptotic": {"mean": working.centre[-1], "low": working.low[-1], "high": working.high[-1]},
        "ratio": {"estimate": ratio.centre[-1], "low": ratio.low[-1], "high": ratio.high[-1]},
        "empirical_bernstein": {"centre": check.centre[-1], "low": check.low[-1], "high": check.high[-1]},
        "path": [
            {"n": int(at) + 1, "mean": working.centre[at], "low": working.low[at], "high": working.high[at]}
            for at in looks
        ],
    }


def _bootstrap(found: dict[str, Any], ratings: Ratings, code: int, options: Options, rng: np.random.Generator) -> None:
    if options.paired:
        drawn = pigeonhole(common_cells(ratings, code, 0), rng, options.draws)
    else:
        drawn = pigeonhole_all(ratings, code, 0, rng, options.draws)
    for key, shift in (("fraction", 0.0), ("fraction_rescaled", 1.0)):
        limits = drawn.ratio(shift) if found[key] else None
        if limits:
            found[key]["bootstrap"] = {"low": limits[0], "high": limits[1], "draws": options.draws}
    low, high = drawn.difference()
    found["difference"]["bootstrap"] = {"low": low, "high": high, "draws": options.draws}


def _warnings(found: dict[str, Any], estimate: Estimate, options: Options) -> list[Warning_]:
    said: list[Warning_] = []
    least = min(estimate.n_raters, estimate.n_scenarios)
    counts = {"n_raters": estimate.n_raters, "n_scenarios": estimate.n_scenarios}
    if least < 2:
        said.append({"code": "one_cluster", **counts})
    elif least < FEW:
        said.append({"code": "few_clusters", **counts})
    if not options.paired:
        said.append({"code": "between"})
    if estimate.zero_variance:
        said.append({"code": "zero_variance"})
    for key in ("fraction", "fraction_rescaled"):
        if found[key] and found[key]["unbounded"]:
            said.append({"code": "unbounded_interval", "which": key})
    if found["fraction_rescaled"] and 1 < estimate.m0 < 1 + NEAR_FLOOR:
        said.append({"code": "teacher_near_floor", "mean": estimate.m0, "n": estimate.n_teacher})
    if found["both_at_5"] is not None and found["both_at_5"] > CEILING:
        said.append({"code": "ceiling", "share": found["both_at_5"], "n": estimate.n_cells})
    if found["fraction"]["floor_used"]:
        said.append({"code": "variance_floor"})
    gaps = found["unpaired"]
    if gaps and gaps["p"] < GAP:
        said.append({"code": "one_sided_gaps", **gaps})
    bootstrap = found["fraction"]["bootstrap"]
    if bootstrap and found["fraction"]["low"] is not None and least >= FEW:
        width = (bootstrap["high"] - bootstrap["low"]) / (found["fraction"]["high"] - found["fraction"]["low"])
        if not WIDTHS[0] <= width <= WIDTHS[1]:
            said.append({"code": "interval_check", "width_ratio": width})
    return said

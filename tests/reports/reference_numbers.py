"""The numbers of shared/reference/stats recomputed: a flat dict with the keys of expected.json."""

import csv
import json
from pathlib import Path
from typing import Any

import numpy as np

from reports.analysis import analyse
from reports.stats import agreement, benchmarks, blinding, effects, planning, sequence
from reports.stats.bootstrap import percentile, pigeonhole
from reports.stats.cells import Cells, Ratings, common_cells
from reports.stats.fraction import Estimate, fieller, fraction, fraction_all, t_quantile
from reports.stats.ordinal import ordered_logit
from reports.stats.tests import (
    benjamini_hochberg,
    difference,
    equivalence,
    holm,
    non_inferiority,
    non_superiority,
    rater_differences,
    sign_flip,
    wilcoxon,
)
from reports.tidy import MEASURES, Tidy, UnusableRatingsError, make_tidy
from reports.tidy_csv import read_csv

FOLDER = Path(__file__).resolve().parents[2].parent / "shared" / "reference" / "stats"


def ratings_numbers(name: str) -> dict[str, Any]:
    """Every number of a ratings file."""
    tidy = read_csv(FOLDER / f"{name}.csv", "teacher")
    found: dict[str, Any] = {}
    for measure in MEASURES:
        found |= {f"{measure}.{key}": value for key, value in _measure(tidy, measure).items()}
    ratings = tidy.measure("satisfaction")[0]
    facts = agreement.rater_facts(ratings, len(tidy.raters))
    found["flags.zero_variance_raters"] = [tidy.raters[code] for code in facts.constant()]
    found["flags.low_agreement_raters"] = [tidy.raters[code] for code in facts.disagreeing()]
    found |= {f"flags.agreement.{name}": value for name, value in zip(tidy.raters, facts.agreement, strict=True)}
    if "distilled" in tidy.arms:
        kept = ratings.where(~np.isin(ratings.rater, facts.constant()))
        estimate = fraction(common_cells(kept, tidy.arms.index("distilled"), 0))
        found |= _named(
            "satisfaction.distilled.sensitivity.without_zero_variance_raters",
            ratio=estimate.ratio,
            n_raters=estimate.n_raters,
            n_cells=estimate.n_cells,
            fieller_low=estimate.low,
            fieller_high=estimate.high,
        )
    table = _columns("icc_table.csv")
    units = np.array([table[rater] for rater in table if rater != "unit"], float).T
    found |= {f"satisfaction.icc.{key}": value for key, value in vars(agreement.icc(units)).items()}
    return found


def _named(prefix: str, **numbers: Any) -> dict[str, Any]:
    return {f"{prefix}.{key}": value for key, value in numbers.items()}


def _measure(tidy: Tidy, measure: str) -> dict[str, Any]:
    ratings, _ = tidy.measure(measure)
    found: dict[str, Any] = {}
    for code, arm in enumerate(tidy.arms):
        values = ratings.value[ratings.arm == code]
        top = float(np.mean(values == 5))
        found |= _named(f"arms.{arm}", n=len(values), mean=values.mean(), sd=values.std(ddof=1), top_share=top)
    p_ni, p_diff = {}, {}
    for code, arm in enumerate(tidy.arms[1:], 1):
        cells = common_cells(ratings, code, 0)
        estimate = fraction(cells)
        p_ni[arm], p_diff[arm] = non_inferiority(estimate).p, difference(estimate).p
        found |= {f"{arm}.{key}": value for key, value in _student(tidy, ratings, code, cells, estimate).items()}
    for test, p in (("non_inferiority", p_ni), ("difference", p_diff)):
        for method, adjust in (("holm", holm), ("bh", benjamini_hochberg)):
            adjusted = dict(zip(p, adjust(list(p.values())), strict=True))
            found |= {f"multiplicity.{test}.{method}.{arm}": value for arm, value in adjusted.items()}

    k = len(tidy.arms)
    every_pair = {(i, j): common_cells(ratings, i, j) for i in range(k) for j in range(i + 1, k)}
    wins, ties = effects.pair_counts(every_pair, k)
    davidson, half_ties = effects.davidson(wins, ties), effects.bradley_terry(wins, ties)
    found["bradley_terry.davidson.nu"] = davidson.nu
    logit = ordered_logit(ratings.arm, ratings.value, ratings.rater, k)
    for code, arm in enumerate(tidy.arms):
        found[f"bradley_terry.davidson.log_strength.{arm}"] = davidson.log_strength[code]
        found[f"bradley_terry.half_ties.log_strength.{arm}"] = half_ties.log_strength[code]
        found |= _named(
            f"ordered_logit.{arm}",
            coef=logit.coef[code],
            se_model=logit.se_model[code],
            se_rater_clustered=logit.se_clustered[code],
        )
    units = agreement.units_of(ratings)
    for metric in ("ordinal", "interval"):
        found[f"krippendorff.{metric}"] = agreement.krippendorff(units, ratings.value, metric)
    return found


def _student(tidy: Tidy, ratings: Ratings, code: int, cells: Cells, estimate: Estimate) -> dict[str, Any]:
    found = _paired(estimate)
    found["both_at_5"] = float(np.mean((cells.student == 5) & (cells.teacher == 5)))
    for name, other in (("rescaled", fraction(cells, shift=1)), ("all", fraction_all(ratings, code, 0))):
        found |= _named(
            name,
            ratio=other.ratio,
            se=other.se,
            df=other.df,
            delta_low=other.delta_low,
            delta_high=other.delta_high,
            fieller_low=other.low,
            fieller_high=other.high,
            mean_student=other.m1,
            mean_teacher=other.m0,
            n_student=other.n_student,
            n_teacher=other.n_teacher,
        )
    diff = difference(estimate)
    found |= _named(
        "difference",
        diff=diff.estimate,
        se=diff.contrast.se,
        df=diff.contrast.df,
        low=diff.low,
        high=diff.high,
        floor_used=diff.contrast.floor_used,
        t=diff.t,
        p=diff.p,
    )
    draws = pigeonhole(cells, np.random.default_rng(7), 10_000)
    limits = {"ratio": draws.ratio(), "diff": draws.difference(), "rescaled": draws.ratio(shift=1)}
    for name, (low, high) in limits.items():
        found |= {f"pigeonhole.{name}_low": low, f"pigeonhole.{name}_high": high}
    d = rater_differences(cells)
    flip, rank = sign_flip(d, np.random.default_rng(11)), wilcoxon(d)
    found |= _named("permutation", n_raters=flip.n, mean=flip.mean, p=flip.p)
    found |= {f"wilcoxon.{key}": value for key, value in vars(rank).items()}
    found |= {f"pairs.{key}": value for key, value in vars(effects.pairs(cells)).items()}
    found |= {f"effect.{key}": value for key, value in vars(effects.effects(cells)).items()}
    for category in tidy.categories:
        inside = ratings.where(tidy.in_category(category)[ratings.scenario])
        part = fraction(common_cells(inside, code, 0))
        found |= _named(
            f"category.{category}",
            ratio=part.ratio,
            n_cells=part.n_cells,
            n_scenarios=part.n_scenarios,
            fieller_low=part.low,
            fieller_high=part.high,
        )
    working, check = sequence.asymptotic(d), sequence.empirical_bernstein(d)
    found["confidence_sequence.asymptotic.rho_squared"] = sequence.rho_squared()
    for n in range(sequence.LEAST, len(d) + 1):
        for name, seq in (("asymptotic", working), ("empirical_bernstein", check)):
            where = f"confidence_sequence.{name}.n{n}"
            centre = {"mean": seq.centre[n - 1], "centre": seq.centre[n - 1]}
            found |= _named(where, low=seq.low[n - 1], high=seq.high[n - 1], **centre)
    return found


def _paired(estimate: Estimate) -> dict[str, Any]:
    parts = estimate.contrast
    df_min = float(min(estimate.n_raters, estimate.n_scenarios) - 1)
    half = t_quantile(df_min, 0.95) * parts.se
    simple = fieller(estimate.m1, estimate.m0, estimate.sums, df_min)
    lower, upper = non_inferiority(estimate), non_superiority(estimate)
    return _named(
        "paired",
        mean_student=estimate.m1,
        mean_teacher=estimate.m0,
        ratio=estimate.ratio,
        var_rater=parts.v_rater,
        var_scenario=parts.v_scenario,
        var_cell=parts.v_cell,
        var_two_way_raw=parts.v_raw,
        floor_used=parts.floor_used,
        se=estimate.se,
        df=estimate.df,
        df_min=df_min,
        n_raters=estimate.n_raters,
        n_scenarios=estimate.n_scenarios,
        n_cells=estimate.n_cells,
        delta_low=estimate.delta_low,
        delta_high=estimate.delta_high,
        fieller_low=estimate.low,
        fieller_high=estimate.high,
        delta_low_dfmin=estimate.ratio - half,
        delta_high_dfmin=estimate.ratio + half,
        fieller_low_dfmin=simple[0],
        fieller_high_dfmin=simple[1],
        ni_t=lower.t,
        ni_p=lower.p,
        eq_upper_t=upper.t,
        eq_upper_p=upper.p,
        tost_p=equivalence(estimate),
    )


def _columns(name: str) -> dict[str, list[str]]:
    with (FOLDER / name).open(newline="") as file:
        rows = list(csv.DictReader(file))
    return {key: [row[key] for row in rows] for key in rows[0]}


# Shrout and Fleiss 1979, table 2: six targets, four judges.
SHROUT_FLEISS = [[9, 2, 5, 8], [6, 1, 3, 2], [8, 4, 6, 8], [7, 1, 2, 6], [10, 5, 6, 9], [6, 2, 4, 7]]
# Krippendorff 2011, section C: four observers, twelve units, 0 = missing.
KRIPPENDORFF = [
    [1, 2, 3, 3, 2, 1, 4, 1, 2, 0, 0, 0],
    [1, 2, 3, 3, 2, 2, 4, 1, 2, 5, 0, 3],
    [0, 3, 3, 3, 2, 3, 4, 2, 2, 5, 1, 0],
    [1, 2, 3, 3, 2, 4, 4, 1, 2, 5, 1, 0],
]
# Hollander and Wolfe 1973, page 29: Hamilton depression scale, first and second visit.
FIRST = [1.83, 0.50, 1.62, 2.48, 1.68, 1.88, 1.55, 3.06, 1.30]
SECOND = [0.878, 0.647, 0.598, 2.05, 1.06, 1.29, 1.06, 3.14, 1.29]
# Stigler's citations (Agresti 1990, page 448): row cites column is a win of the column.
JOURNALS = ("biometrika", "comm_statist", "jasa", "jrss_b")
CITED_BY = [[714, 730, 498, 221], [33, 425, 68, 17], [320, 813, 1072, 142], [284, 276, 325, 188]]


def other_numbers() -> dict[str, Any]:
    """Textbook checks, benchmarks, blinding and planning."""
    found = _textbook()
    items = _columns("items.csv")
    teacher, student = np.array(items["teacher"], float), np.array(items["distilled"], float)
    acc = benchmarks.accuracy(teacher, student, np.random.default_rng(3))
    found |= _named(
        "items",
        n=acc.n,
        teacher_accuracy=acc.teacher,
        distilled_accuracy=acc.student,
        teacher_only=acc.teacher_only,
        distilled_only=acc.student_only,
        difference=acc.difference,
        mcnemar_exact_p=acc.mcnemar_p,
        retained=acc.retained,
    )
    found |= _named(
        "items.bootstrap",
        difference_low=acc.difference_low,
        difference_high=acc.difference_high,
        retained_low=acc.retained_low,
        retained_high=acc.retained_high,
    )
    found |= _perplexity()
    guesses = _columns("guesses.csv")
    for arm, correct, wrong, unsure in zip(*guesses.values(), strict=True):
        bang = blinding.bang(int(correct), int(wrong), int(unsure))
        found |= _named(f"blinding.{arm}", bi=bang.index, se=bang.se, low=bang.low, high=bang.high, p_one_sided=bang.p)
    return found | _planning()


def _textbook() -> dict[str, Any]:
    icc = agreement.icc(np.array(SHROUT_FLEISS, float))
    found = {"textbook.shrout_fleiss.icc_2_1": icc.single, "textbook.shrout_fleiss.icc_2_k": icc.average}
    table = np.array(KRIPPENDORFF)
    unit, value = np.nonzero(table)[1], table[table > 0].astype(float)
    for metric in ("nominal", "ordinal", "interval"):
        found[f"textbook.krippendorff.{metric}"] = agreement.krippendorff(unit, value, metric)
    p = [0.01, 0.02, 0.03, 0.04, 0.05]
    for index in range(5):
        found[f"textbook.multiplicity.holm.{index}"] = holm(p)[index]
        found[f"textbook.multiplicity.bh.{index}"] = benjamini_hochberg(p)[index]
    rank = wilcoxon(np.array(FIRST) - np.array(SECOND), exact=True)
    found |= _named(
        "textbook.wilcoxon_hollander_wolfe", w_plus=rank.w_plus, p_greater=rank.p_greater, p_two_sided=rank.p
    )
    wins = np.array(CITED_BY, float)
    np.fill_diagonal(wins, 0)
    strengths = effects.bradley_terry(wins).log_strength
    found |= {f"textbook.bradley_terry_citations.{name}": s for name, s in zip(JOURNALS, strengths, strict=True)}
    return found | {"textbook.mcnemar_exact.b6_c16": benchmarks.mcnemar_exact(6, 16)}


def _perplexity() -> dict[str, Any]:
    table = _columns("nll.csv")
    arm = np.array(table["arm"])
    found: dict[str, Any] = {}
    bits, bits_draws = {}, {}
    for name in ("teacher", "distilled"):
        nll, tokens, size = (np.array(table[key], float)[arm == name] for key in ("nll", "tokens", "bytes"))
        result = benchmarks.perplexity(nll, tokens, size)
        found |= {f"perplexity.{name}.{key}": value for key, value in vars(result).items()}
        token_draws, bits_draws[name] = benchmarks.perplexity_draws(nll, tokens, size, np.random.default_rng(5))
        bits[name] = result.bits_per_byte
        for key, draws in (("token_perplexity", token_draws), ("bits_per_byte", bits_draws[name])):
            low, high = percentile(draws)
            found |= _named(f"perplexity.bootstrap.{name}.{key}", low=low, high=high)
    found["perplexity.bpb_ratio"] = bits["distilled"] / bits["teacher"]
    low, high = percentile(bits_draws["distilled"] / bits_draws["teacher"])
    return found | _named("perplexity.bootstrap.bpb_ratio", low=low, high=high)


MODEL = planning.Components(mu_t=3.9, true_ratio=0.96, s_r=0.45, s_s=0.4, s_ra=0.2, s_sa=0.25, s_e=0.8)


def _planning() -> dict[str, Any]:
    keys = ("mu_t", "true_ratio", "margin", "s_r", "s_s", "s_ra", "s_sa", "s_e")
    inputs = {key: (vars(MODEL) | {"margin": 0.9})[key] for key in keys}
    found: dict[str, Any] = {"planning.inputs": json.dumps(inputs)}
    for raters, scenarios, each in ((20, 20, 20), (40, 50, 25), (30, 40, 10), (12, 60, 20)):
        power = planning.power(MODEL, 0.9, raters, scenarios, each)
        found |= {f"planning.power.r{raters}_s{scenarios}_k{each}.{key}": value for key, value in vars(power).items()}
    for scenarios, each in ((50, 20), (8, 8), (20, 20)):
        needed = planning.raters_needed(MODEL, 0.9, scenarios, each)
        found[f"planning.raters_for_80_percent.s{scenarios}_k{each}"] = needed or "unreachable"
    found["planning.power_limit.s8"] = planning.power(MODEL, 0.9, float("inf"), 8, 8).power
    return found


def edge_case(rows: list[dict[str, Any]]) -> dict[str, Any]:
    """What `reports.analysis` says of one edge case, under the names of edge_cases.json."""
    found: dict[str, Any] = {"error": None, "warnings": [], "interval": None, "rescaled": None}
    columns = [[row[key] for row in rows] for key in ("rater", "scenario", "arm")]
    try:
        values = {"satisfaction": [row["satisfaction"] for row in rows]}
        tidy = make_tidy(*columns, values, teacher="teacher")
    except UnusableRatingsError as error:
        return found | {"error": error.code}
    result = analyse(tidy, margin=0.9, draws=200)
    found["warnings"] = [warning["code"] for warning in result["warnings"]]
    errors = {"no_ratings", "no_teacher_ratings", "no_common_cells"}
    found["error"] = next((code for code in found["warnings"] if code in errors), None)
    student = result["arms"].get("distilled", {}).get("satisfaction", {})
    fraction, rescaled = student.get("fraction"), student.get("fraction_rescaled")
    if student.get("fraction_all"):
        found["all_data_ratio"] = student["fraction_all"]["estimate"]
    if fraction:
        found |= _limits(fraction) | {key: fraction[key] for key in ("se", "df", "n_cells")}
        found["interval"] = None if fraction["low"] is None and not fraction["unbounded"] else fraction
        if fraction["delta"]:
            found |= {"delta_low": fraction["delta"]["low"], "delta_high": fraction["delta"]["high"]}
        found["ni_p"] = student["non_inferiority"]["p"]
    if rescaled:
        found["rescaled"] = _limits(rescaled)
    return found


def _limits(fraction: dict[str, Any]) -> dict[str, Any]:
    infinite = fraction["unbounded"]
    return {
        "ratio": fraction["estimate"],
        "fieller_low": float("-inf") if infinite else fraction["low"],
        "fieller_high": float("inf") if infinite else fraction["high"],
    }

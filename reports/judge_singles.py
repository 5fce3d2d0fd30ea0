"""A judge's marks of single answers: what it gave, how it stands beside people, and what draws it."""

import zlib
from dataclasses import asdict, replace
from typing import Any

import numpy as np

from reports.analysis_student import fraction_json
from reports.judge_records import Beside, Judging, Mark, Units, beside, units
from reports.stats import judges as stats
from reports.stats.cells import CannotEstimateError, Ratings, common_cells
from reports.stats.fraction import fraction
from reports.tidy import MEASURES, Tidy


def over_singles(judging: Judging, people: Tidy | None, arms: tuple[str, ...], seed: int) -> list[dict[str, Any]]:
    """One block for each judge and kind of text (fixed, side-by-side, live): `judges.single` of report.json."""
    found = []
    for judge in judging.judges("single"):
        for texts in judging.texts():
            marks = [one for one in judging.marks if one.judge == judge and one.texts == texts]
            if marks:
                rng = np.random.default_rng([seed, zlib.crc32(judge.encode()), zlib.crc32(texts.encode())])
                found.append({"judge": judge, "texts": texts, **_block(judging, judge, marks, people, arms, rng)})
    return found


def mean_of_judges(judging: Judging, texts: str) -> list[Mark]:
    """Marks of prepared answers of one kind averaged over all judges, of those that every judge has marked."""
    names = judging.judges("single")
    by_text: dict[tuple[str, str], list[Mark]] = {}
    for mark in judging.marks:
        if not mark.rater and mark.texts == texts:
            by_text.setdefault((mark.scenario, mark.arm), []).append(mark)
    found = []
    for _, marks in sorted(by_text.items()):
        if len(marks) == len(names):
            values = {measure: float(np.mean([one.values[measure] for one in marks])) for measure in MEASURES}
            found.append(replace(marks[0], judge="", values=values))
    return found


def _block(
    judging: Judging,
    judge: str,
    marks: list[Mark],
    people: Tidy | None,
    arms: tuple[str, ...],
    rng: np.random.Generator,
) -> dict[str, Any]:
    found: dict[str, Any] = {"arms": {arm: {} for arm in arms}, "fraction": {arm: {} for arm in arms[1:]}, "people": {}}
    found |= {"category": {arm: {} for arm in arms[1:]}, "bias": None}
    for measure in MEASURES:
        columns = units(marks, measure, arms)
        for code, arm in enumerate(arms):
            given = columns.mark[columns.arm == code]
            found["arms"][arm][measure] = {
                "n": len(given),
                "mean": given.mean() if len(given) else None,
                "counts": np.bincount(given.astype(np.int64), minlength=6)[1:6].tolist(),
            }
        for code, arm in enumerate(arms[1:], 1):
            found["fraction"][arm][measure] = judge_fraction(marks, columns, code, rng)
        together = None if people is None else beside(marks, people, measure, arms)
        found["people"][measure] = None if together is None else _beside_people(together, rng)
        if measure == "satisfaction":
            for name in sorted({mark.category for mark in marks}):
                part = [mark for mark in marks if mark.category == name]
                chosen = units(part, measure, arms)
                for code, arm in enumerate(arms[1:], 1):
                    found["category"][arm][name] = judge_fraction(part, chosen, code, rng)
            found["bias"] = _bias(columns, together, arms, judging.own.get(judge, ()), judging.family.get(judge, ()))
    return found


def judge_fraction(marks: list[Mark], columns: Units, code: int, rng: np.random.Generator) -> dict[str, Any] | None:
    """The fraction by judges' marks alone, of arm `code`, on scenarios (live: cells) where both arms were marked.

    For prepared answers scenarios are the sample; for live chats their raters are one too, as in the people's own.
    """
    if marks[0].rater:
        raters = sorted({mark.rater for mark in marks})
        rater = np.array([raters.index(mark.rater) for mark in marks], dtype=np.int64)
        try:
            estimate = fraction(common_cells(Ratings(rater, columns.scenario, columns.arm, columns.mark), code, 0))
        except CannotEstimateError:
            return None
        return {"judge_only": True, **fraction_json(estimate)}
    table = np.full((2, len(columns.scenarios)), np.nan)
    for row, arm in enumerate((code, 0)):
        chosen = columns.arm == arm
        table[row, columns.scenario[chosen]] = columns.mark[chosen]
    table = table[:, ~np.isnan(table).any(axis=0)]
    if not table.shape[1]:
        return None
    plain, moved = (stats.sum_fraction(table[0], table[1], rng, shift=shift) for shift in (0.0, 1.0))
    found = {"judge_only": True, **asdict(plain)}
    return {**found, "rescaled": {key: getattr(moved, key) for key in ("estimate", "low", "high")}}


def _beside_people(rows: Beside, rng: np.random.Generator) -> dict[str, Any]:
    mark, mean, _, scenario, arm = rows.by_unit()
    pairs = stats.person_pairs(rows.rater, rows.unit, rows.person)
    weight = 1.0 / np.bincount(rows.unit)[rows.unit]
    each_text_once = stats.agreement(rows.mark, rows.person, weight)
    return {
        "n_texts": len(mark),
        "n_ratings": len(rows.person),
        "n_raters": int(np.unique(rows.rater).size),
        "ranks": asdict(stats.rank_correlation(mark, mean, scenario, rng)),
        "judge_to_person": None if each_text_once is None else asdict(each_text_once),
        "person_to_person": asdict(found) if (found := stats.agreement(*pairs)) else None,
        "preference": _preference(mark, mean, scenario, arm),
    }


def _preference(mark: Any, mean: Any, scenario: Any, arm: Any) -> dict[str, Any]:
    """Of scenarios with both arms' answers: how often judge and people prefer the same one, over all pairs of arms."""
    same, n, ties, where = [], 0, 0, []
    for one in np.unique(scenario):
        rows = np.flatnonzero(scenario == one)
        rows = rows[np.argsort(arm[rows], kind="stable")]
        for i in range(len(rows)):
            for j in range(i + 1, len(rows)):
                if arm[rows[i]] == arm[rows[j]]:
                    continue  # live: two chats with one arm
                n += 1
                a, b = np.sign(mark[rows[i]] - mark[rows[j]]), np.sign(mean[rows[i]] - mean[rows[j]])
                if a == 0 or b == 0:
                    ties += 1
                else:
                    same.append(float(a == b))
                    where.append(one)
    share = stats.clustered_mean(np.array(same), np.array(where, dtype=np.int64))
    return {"n_pairs": n, "undecided": ties, "same": asdict(share)}


def _bias(
    columns: Units, rows: Beside | None, arms: tuple[str, ...], own: tuple[str, ...], family: tuple[str, ...]
) -> dict[str, Any]:
    """Severity by arm, taste for length, and favour for its own arm or family, in points of satisfaction.

    All but the judge's own slope are differences to people's ratings of the same texts, so that an answer that is
    better, and known to be, is no bias.
    """
    found: dict[str, Any] = {
        "severity": None,
        "length": {"judge": asdict(stats.length_slope(columns.mark, columns.length, columns.scenario))},
        "own": None,
        "family": None,
    }
    if rows is None:
        return found
    gap = rows.mark - rows.person
    found["severity"] = {
        arm: asdict(stats.crossed_mean(gap[chosen], rows.rater[chosen], rows.scenario[chosen]))
        for code, arm in enumerate(arms)
        if (chosen := rows.arm == code).any()
    }
    mark, mean, length, scenario, _ = rows.by_unit()
    found["length"]["people"] = asdict(stats.length_slope(mean, length, scenario))
    found["length"]["gap"] = asdict(stats.length_slope(mark - mean, length, scenario))
    for key, names in (("own", own), ("family", family)):
        favoured = [arms.index(name) for name in names if name in arms]
        if favoured and len(favoured) < len(arms):
            found[key] = {"arms": list(names), **asdict(favour(rows, favoured))}
    return found


def favour(rows: Beside, favoured: list[int]) -> stats.Interval:
    """By how much more a judge exceeds people on some arms than on the others, in points.

    Over cells (rater, scenario) with both kinds of arms; raters and scenarios are samples.
    """
    size = int(rows.scenario.max()) + 1
    cell = np.unique(rows.rater * size + rows.scenario, return_inverse=True)[1]
    gap = rows.mark - rows.person
    chosen = np.isin(rows.arm, favoured)
    means = []
    n_cells = int(cell.max()) + 1
    for part in (chosen, ~chosen):
        n = np.bincount(cell[part], minlength=n_cells)
        with np.errstate(invalid="ignore", divide="ignore"):
            means.append(np.bincount(cell[part], gap[part], minlength=n_cells) / n)
    first = np.unique(cell, return_index=True)[1]
    both = ~np.isnan(means[0]) & ~np.isnan(means[1])
    return stats.crossed_mean((means[0] - means[1])[both], rows.rater[first][both], rows.scenario[first][both])

"""Arm against arm on the same benchmark items: differences, what is retained, and which of it is real.

Items are aligned by task and document and compared only where both arms' content is the same; the others are counted.
A comparison of one pair of arms is one family: Holm's adjustment goes over its claims, where the perplexities of one
text are one claim, since they are one likelihood in different units.
"""

import zlib
from collections.abc import Mapping, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from reports.items import Frame
from reports.kept import First, by_definition, kept_json
from reports.load import Source
from reports.stats import paired
from reports.stats.bootstrap import percentile
from reports.stats.cells import Floats, Ints
from reports.stats.paired import Column, Interval
from reports.stats.tests import holm

CLAIM_ORDER = ("bits_per_byte", "byte_perplexity", "word_perplexity")  # which unit of one likelihood is tested


@dataclass(frozen=True)
class Bench:
    """One arm's benchmark results: its name, scores as dicts of `Score`, and its items."""

    name: str
    scores: Sequence[Mapping[str, Any]]
    frames: Sequence[Frame]


def over_pairs(source: Source) -> list[dict[str, Any]]:
    """Every student against the teacher, and against its control, as report.json holds it under `paired`."""
    arms = {arm: Bench(arm, source.scores.get(arm, []), source.frames.get(arm, [])) for arm in source.arms}
    pairs = [(source.teacher, arm) for arm in source.students]
    pairs += [(control, student) for control, student in source.controls.items() if {control, student} <= arms.keys()]
    found = []
    for against, arm in pairs:
        marked = overlapping(source, against) | overlapping(source, arm)
        one = compare_arms(arms[against], arms[arm], seed=source.seed, teacher=source.teacher, marked=marked)
        if one["rows"]:
            found.append(one)
    return found


def overlapping(source: Source, arm: str) -> frozenset[str]:
    """Keys of the items that overlap with an arm's training corpus."""
    suites = (source.overlaps.get(arm) or {}).get("suites") or {}
    return frozenset(key for suite in suites.values() for key in suite.get("found") or {})


def compare_arms(
    against: Bench,
    arm: Bench,
    *,
    seed: int = 0,
    teacher: str | None = None,
    marked: AbstractSet[str] = frozenset(),
    draws: int | None = None,
) -> dict[str, Any]:
    """Compare two arms score by score, paired on the items that both have; docs/report.md names the fields.

    `marked` items are left out of a second comparison. Random numbers depend on `seed`, suite and number of items only:
    another arm changes nothing.
    """
    facts = {(score["suite"], score["metric"]): score for bench in (arm, against) for score in bench.scores}
    others = {(frame.suite, metric): frame for frame in against.frames for metric in frame.columns}
    rows: list[dict[str, Any]] = []
    same_choice: list[dict[str, Any]] = []
    firsts: list[First] = []
    for frame in arm.frames:
        other = next((others[frame.suite, one] for one in frame.columns if (frame.suite, one) in others), None)
        if other is None:
            continue
        metrics = [one for one in frame.columns if one in other.columns]
        if teacher == against.name and frame.tasks == 0:
            metrics = [one for one in metrics if not by_definition(one)]
        if not metrics:
            continue
        match = _align(other, frame)
        rng = np.random.default_rng([seed, zlib.crc32(f"{frame.suite} {metrics[0]}".encode())])
        fresh, drawn = _rows(other, frame, match, metrics, facts, rng, draws)
        _without(fresh, other, frame, match, marked, facts, np.random.default_rng([seed, len(marked)]), draws)
        rows += fresh
        same_choice += _same_choice(other, frame, match)
        first = next((row for row in fresh if row["retained"] and row["higher_is_better"]), None)
        if first and frame.tasks == 1:
            firsts.append((first, *drawn[first["metric"]]))
    _adjust(rows)
    return {
        "arm": arm.name,
        "against": against.name,
        "rows": rows,
        "same_choice": same_choice,
        "retained_mean": _mean([one for one in firsts if row_is_share(one[0])]),
        "kept": kept_json(firsts, rows, arm.scores, against.scores),
    }


def row_is_share(row: Mapping[str, Any]) -> bool:
    """Whether a row's score is a share of items."""
    return row["unit"] == "share" or row["chance"] is not None


@dataclass(frozen=True)
class _Match:
    """Places of the paired items in both frames, and how many were not paired, and why."""

    other: Ints
    mine: Ints
    different: int
    unpaired: int


def _align(other: Frame, mine: Frame) -> _Match:
    place = {key: at for at, key in enumerate(other.keys)}
    both = [(place[key], at) for at, key in enumerate(mine.keys) if key in place]
    same = [(a, b) for a, b in both if other.hashes[a] == mine.hashes[b]]
    pairs = np.array(same, dtype=np.int64).reshape(-1, 2)
    unpaired = len(other.keys) + len(mine.keys) - 2 * len(both)
    return _Match(pairs[:, 0], pairs[:, 1], len(both) - len(same), unpaired)


def _rows(
    other: Frame,
    mine: Frame,
    match: _Match,
    metrics: Sequence[str],
    facts: Mapping[Any, Mapping[str, Any]],
    rng: np.random.Generator,
    draws: int | None,
) -> tuple[list[dict[str, Any]], dict[str, tuple[Floats, Floats]]]:
    """A row for each metric of the paired items, and the bootstrap scores (theirs, mine) by metric."""
    if not len(match.mine):
        return [_empty(mine.suite, one, facts, match, "no item is the same in both arms") for one in metrics], {}
    theirs = [other.columns[one].at(match.other) for one in metrics]
    ours = [mine.columns[one].at(match.mine) for one in metrics]
    cluster = mine.clusters(match.mine)
    clusters = len(match.mine) if cluster is None else int(cluster.max()) + 1
    drawn_all = paired.draw([*theirs, *ours], cluster, rng, draws)
    drawn = {one: (drawn_all[at], drawn_all[at + len(metrics)]) for at, one in enumerate(metrics)}
    rows = []
    for metric, their, our in zip(metrics, theirs, ours, strict=True):
        row = _empty(mine.suite, metric, facts, match, None)
        row |= {"against": their.score, "arm": our.score, "clusters": clusters, "clustered_by": mine.grouped_by}
        if not np.array_equal(their.weight, our.weight):
            row["reason"] = "the arms' tokenizers differ: compare bits per byte"
        else:
            found = paired.compare(their, our, drawn[metric], clusters, row["chance"])
            row |= {key: _interval(getattr(found, key)) for key in ("difference", "retained", "above_chance")}
            row |= {key: getattr(found, key) for key in ("p", "test")}
            row |= {"against_only": found.teacher_only, "arm_only": found.student_only}
        rows.append(row)
    _one_claim(rows, ours)
    return rows, drawn


def _empty(
    suite: str, metric: str, facts: Mapping[Any, Mapping[str, Any]], match: _Match, reason: str | None
) -> dict[str, Any]:
    fact = facts.get((suite, metric), {})
    row: dict[str, Any] = {"suite": suite, "metric": metric, "claim": f"{suite}: {metric}", "reason": reason}
    row |= {key: fact.get(key) for key in ("unit", "chance")}
    row |= {"higher_is_better": bool(fact.get("higher_is_better"))}
    row |= {"n": len(match.mine), "different": match.different, "unpaired": match.unpaired}
    names = ("against", "arm", "clusters", "clustered_by", "difference", "retained", "above_chance", "p", "test")
    row |= dict.fromkeys((*names, "against_only", "arm_only", "p_holm", "without_overlap"))
    return row


def _one_claim(rows: list[dict[str, Any]], columns: Sequence[Column]) -> None:
    """Rows that are one likelihood in different units become one claim, tested in the first unit of CLAIM_ORDER."""
    likelihoods = [at for at, column in enumerate(columns) if column.transform != "mean"]
    tested = [at for unit in CLAIM_ORDER for at in likelihoods if rows[at]["metric"].endswith(unit)]
    if not tested or rows[tested[0]]["p"] is None:
        return
    head = rows[tested[0]]
    for at in likelihoods:
        if rows[at]["p"] is not None and np.array_equal(columns[at].value, columns[tested[0]].value):
            rows[at] |= {key: head[key] for key in ("claim", "p", "test")}


def _without(
    rows: list[dict[str, Any]],
    other: Frame,
    mine: Frame,
    match: _Match,
    marked: AbstractSet[str],
    facts: Mapping[Any, Mapping[str, Any]],
    rng: np.random.Generator,
    draws: int | None,
) -> None:
    """The same comparison once more without the marked items, where there are any."""
    keep = np.array([mine.keys[at] not in marked for at in match.mine], dtype=bool)
    if keep.all():
        return
    rest = _Match(match.other[keep], match.mine[keep], match.different, match.unpaired)
    fresh, _ = _rows(other, mine, rest, [row["metric"] for row in rows], facts, rng, draws)
    wanted = ("n", "against", "arm", "difference", "retained", "above_chance", "p")
    for row, again in zip(rows, fresh, strict=True):
        row["without_overlap"] = {key: again[key] for key in wanted} | {"left_out": int((~keep).sum())}


def _same_choice(other: Frame, mine: Frame, match: _Match) -> list[dict[str, Any]]:
    """The share of items at which both arms choose the same answer; none where nothing is chosen."""
    if other.choices is None or mine.choices is None or not len(match.mine):
        return []
    same = np.array(other.choices)[match.other] == np.array(mine.choices)[match.mine]
    low, high = paired.wilson(float(same.sum()), len(same))
    return [{"suite": mine.suite, "n": len(same), "estimate": float(same.mean()), "low": low, "high": high}]


def _adjust(rows: list[dict[str, Any]]) -> None:
    """Holm's adjustment over the claims of one pair of arms."""
    claims = {row["claim"]: row["p"] for row in rows if row["p"] is not None}
    adjusted = dict(zip(claims, holm(list(claims.values())), strict=True))
    for row in rows:
        row["p_holm"] = adjusted.get(row["claim"]) if row["p"] is not None else None


def _mean(shares: Sequence[First]) -> dict[str, Any] | None:
    """What is retained of the first accuracy of each task, and the mean over tasks after that, never before."""
    found: dict[str, Any] = {}
    for name, of_chance in (("retained", False), ("above_chance", True)):
        known = [one for one in shares if one[0][name] and one[0][name]["low"] is not None]
        drawn = [paired.ratio_draws(ours, theirs, row["chance"] if of_chance else 0.0) for row, theirs, ours in known]
        size = min((len(draws) for draws in drawn if draws is not None), default=0)
        if len(known) < 2 or not size:
            continue
        each = [row[name]["estimate"] for row, _, _ in known]
        low, high = percentile(np.mean([draws[:size] for draws in drawn if draws is not None], axis=0))
        least = known[int(np.argmin(each))][0]
        found[name] = _interval(Interval(float(np.mean(each)), low, high)) | {"n": len(each)}
        found[name] |= {"lowest": {"suite": least["suite"], "metric": least["metric"], "estimate": min(each)}}
    return found or None


def _interval(value: Interval | None) -> Any:
    return None if value is None else asdict(value)


def score_parts(frames: Sequence[Frame], seed: int, marked: AbstractSet[str]) -> dict[tuple[str, str], dict[str, Any]]:
    """Each score's own interval from its items, and the score without marked items: (suite, metric) -> fields."""
    found: dict[tuple[str, str], dict[str, Any]] = {}
    for frame in frames:
        keep = np.array([key not in marked for key in frame.keys], dtype=bool)
        for metric, column in frame.columns.items():
            label = zlib.crc32(f"{frame.suite} {metric}".encode())
            interval, how, clusters = _own(column, frame.clusters(), [seed, label])
            one: dict[str, Any] = {"low": interval.low, "high": interval.high, "interval": how, "clusters": clusters}
            one |= {"clustered_by": frame.grouped_by, "without_overlap": None}
            if keep.any() and not keep.all():
                rest = np.flatnonzero(keep)
                inner, _, _ = _own(column.at(rest), frame.clusters(rest), [seed, label])
                one["without_overlap"] = {"value": inner.estimate, "low": inner.low, "high": inner.high}
                one["without_overlap"] |= {"n": len(rest), "left_out": int((~keep).sum())}
            found[frame.suite, metric] = one
    return found


def _own(column: Column, cluster: Ints | None, seed: list[int]) -> tuple[Interval, str, int]:
    clusters = len(column.value) if cluster is None else int(cluster.max()) + 1
    simple = column.binary and clusters == len(column.value)  # Wilson's interval needs no draws
    drawn = np.empty(0) if simple or clusters < 2 else paired.draw([column], cluster, np.random.default_rng(seed))[0]
    interval, how = paired.score_interval(column, drawn, clusters)
    return interval, how, clusters

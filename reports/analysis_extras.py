"""What raters were asked beside ratings: repeats, known answers, guesses, preferences; what was given out and lost."""

import zlib
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

import numpy as np

from reports.database import Extras, Row, missed_checks
from reports.stats import blinding, missing, preference
from reports.stats.cells import plain
from reports.stats.repeats import consistency, share_by_rater
from reports.tidy import MEASURES

INCONSISTENT = 1.0  # SD of a rating around the rater's own mean, in points, above which the report warns
LEAST_REPEATS = 10
GAP_P, GAP = 0.01, 0.05  # a difference of missing shares that is warned of

Warning_ = dict[str, Any]


def repeats_json(extras: Extras, mode: str) -> dict[str, Any]:
    """Self-consistency of raters in one mode, by measure; measures without repeats are not there."""
    rows = [row for row in extras.repeats if (row.get("mode") or mode) == mode]
    found: dict[str, Any] = {}
    for measure in MEASURES:
        pairs = [
            (row["rater"], row[measure], row[f"again_{measure}"])
            for row in rows
            if row.get(measure) is not None and row.get(f"again_{measure}") is not None
        ]
        if not pairs:
            continue
        who, first, second = zip(*pairs, strict=True)
        rater = np.unique(who, return_inverse=True)[1].astype(np.int64)
        one = consistency(rater, np.array(first, dtype=np.float64), np.array(second, dtype=np.float64))
        if one:
            found[measure] = asdict(one)
    return dict(plain(found))


def checks_json(extras: Extras) -> dict[str, Any] | None:
    """How many known answers were found; None where none was asked."""
    rows = [row for row in extras.checks if row.get("item", "check") == "check"]
    if not rows:
        return None
    rater = np.unique([row["rater"] for row in rows], return_inverse=True)[1].astype(np.int64)
    passed = np.array([bool(row["passed"]) for row in rows], dtype=np.float64)
    share = share_by_rater(passed, rater)
    facts = {"n": len(rows), "n_raters": int(rater.max()) + 1, "passed": asdict(share)}
    return dict(plain(facts | {"missed": sorted(missed_checks(extras.checks))}))


def blinding_json(
    extras: Extras, arms: Sequence[str], size: Mapping[str, float | None]
) -> tuple[dict[str, Any], list[Warning_]]:
    """Bang's index with its verdict for every arm that was guessed about, and a warning where blinding failed.

    `arms` begins with the teacher; `size` holds parameters where they are known. A guess counts where one of the two
    arms is the larger one: the teacher, or that with more parameters. An arm in several pairs has one score for each
    rater.
    """
    right: dict[str, dict[str, list[int]]] = {}
    for row in extras.guesses:
        larger = _larger(row["arm_a"], row["arm_b"], arms[0], size)
        if larger is None:
            continue
        score = 0 if row["larger"] is None else 1 if row["larger"] == larger else -1
        for arm in (row["arm_a"], row["arm_b"]):
            right.setdefault(arm, {}).setdefault(row["rater"], []).append(score)
    found: dict[str, Any] = {}
    for arm in arms:
        by_rater = right.get(arm)
        if not by_rater:
            continue
        flat = [one for scores in by_rater.values() for one in scores]
        single = all(len(scores) == 1 for scores in by_rater.values())
        bang = (
            blinding.bang(flat.count(1), flat.count(-1), flat.count(0))
            if single
            else blinding.bang_of_raters(np.array([np.mean(scores) for scores in by_rater.values()]))
        )
        if bang:
            counts = {"correct": flat.count(1), "wrong": flat.count(-1), "unsure": flat.count(0)}
            found[arm] = {**asdict(bang), **counts, "verdict": blinding.verdict(bang)}
    failed = [arm for arm, one in found.items() if one["verdict"] == "failed" and arm != arms[0]]
    failed = failed or [arm for arm, one in found.items() if one["verdict"] == "failed"]
    said = [{"code": "blinding_failed", "arm": arm, **{k: found[arm][k] for k in ("index", "low", "high", "n")}}
            for arm in failed]  # fmt: skip
    return dict(plain(found)), said


def _larger(a: str, b: str, teacher: str, size: Mapping[str, float | None]) -> str | None:
    """Which of two arms is the larger model; None where both are as large, or nobody knows."""
    sizes = size.get(a), size.get(b)
    if sizes[0] is not None and sizes[1] is not None:
        return None if sizes[0] == sizes[1] else a if sizes[0] > sizes[1] else b
    return teacher if teacher in (a, b) else None


def preference_json(extras: Extras, arms: Sequence[str], seed: int) -> dict[str, Any] | None:
    """Preferences on side-by-side pages: students against the teacher, strengths of all arms; None without any."""
    code = {arm: at for at, arm in enumerate(arms)}
    rows: list[tuple[str, str, int, int, int]] = []
    pages = 0
    for row in extras.preferences:
        on_page = [code[arm] for arm in row["arms"] if arm in code]
        chosen = code.get(row["preferred"]) if row["preferred"] else None
        pages += 1
        for at, one in enumerate(on_page):
            for other in on_page[at + 1 :]:
                if chosen is None or chosen in (one, other):
                    outcome = 0 if chosen is None else 1 if chosen == one else -1
                    rows.append((row["rater"], row["scenario"], one, other, outcome))
    if not rows:
        return None
    rater, scenario = (np.unique([row[at] for row in rows], return_inverse=True)[1].astype(np.int64) for at in (0, 1))
    one, other, outcome = (np.array([row[at] for row in rows], dtype=np.int64) for at in (2, 3, 4))
    choices = preference.Choices(rater, scenario, one, other, outcome)
    found: dict[str, Any] = {"n_pages": pages, "n_raters": int(rater.max()) + 1, "arms": {}}
    present = [at for at in range(len(arms)) if np.any((one == at) | (other == at))]
    strengths = None
    if 0 in present and len(present) > 1:
        place = np.full(len(arms), -1)
        place[present] = np.arange(len(present))
        packed = preference.Choices(rater, scenario, place[one], place[other], outcome)
        strengths = preference.strengths(packed, len(present))
        limits: list[tuple[float, float] | None] = [None] * len(present)
        if strengths.log_strength and min(int(rater.max()), int(scenario.max())) > 0:
            rng = np.random.default_rng([seed, zlib.crc32(b"preference")])
            limits = preference.strength_intervals(packed, len(present), rng)
        found |= {"nu": strengths.nu, "separation": strengths.separation}
    for at in range(1, len(arms)):
        net = preference.preference(choices.of(at, 0))
        if net is None:
            continue
        block: dict[str, Any] = {"against": arms[0], **asdict(net), "log_strength": None, "strength_interval": None}
        if strengths and strengths.log_strength:
            block["log_strength"] = strengths.log_strength[present.index(at)]
            interval = limits[present.index(at)]
            block["strength_interval"] = {"low": interval[0], "high": interval[1]} if interval else None
        found["arms"][arms[at]] = block
    found["first_place"] = _first_place(extras.preferences)
    return dict(plain(found))


def _first_place(rows: Sequence[Row]) -> dict[str, Any] | None:
    """Of pages with two answers and a preference: how often the one on the left was preferred."""
    left = [
        (row["rater"], row["preferred"] == row["arms"][0]) for row in rows if row["preferred"] and len(row["arms"]) == 2
    ]
    if not left:
        return None
    who, first = zip(*left, strict=True)
    rater = np.unique(who, return_inverse=True)[1].astype(np.int64)
    return {"n": len(left), **asdict(share_by_rater(np.array(first, dtype=np.float64), rater))}


def live_json(extras: Extras, arms: Sequence[str]) -> dict[str, Any]:
    """Pace and failures of live chats by arm: what an arm could have given itself away by."""
    found: dict[str, Any] = {}
    for arm in arms:
        rows = [row for row in extras.live if row.get("arm") == arm and row.get("item", "rated") == "rated"]
        if not rows:
            continue
        names = ("turns", "underruns", "late_turns", "failures", "cut", "empty", "unpaced", "rated")
        found[arm] = {"chats": len(rows), **{name: sum(int(row.get(name) or 0) for row in rows) for name in names}}
        found[arm]["late_seconds"] = sum(float(row.get("late_s") or 0) for row in rows)
        found[arm]["ended_by"] = {who: sum(row.get("ended_by") == who for row in rows)
                                  for who in ("rater", "limit", "failure")}  # fmt: skip
    return found


def missing_json(extras: Extras, arms: Sequence[str], mode: str) -> tuple[dict[str, Any], list[Warning_]]:
    """Items given out, rated and not, by arm; where raters left; and a warning where an arm is missing more often."""
    rows = [row for row in extras.given if row.get("arm") in arms and (row.get("mode") or mode) == mode]
    if not rows:
        return {}, []
    code = {arm: at for at, arm in enumerate(arms)}
    rater = np.unique([row["rater"] for row in rows], return_inverse=True)[1].astype(np.int64)
    arm = np.array([code[row["arm"]] for row in rows], dtype=np.int64)
    lost = np.array([not row["rated"] for row in rows], dtype=np.float64)
    found: dict[str, Any] = {"arms": {}}
    said: list[Warning_] = []
    for at, name in enumerate(arms):
        mine = arm == at
        if not mine.any():
            continue
        n, gone = int(mine.sum()), int(lost[mine].sum())
        block: dict[str, Any] = {"given": n, "rated": n - gone, "missing": gone, "share_missing": gone / n, "gap": None}
        if at:
            gap = missing.missing_gap(rater, arm, lost, at, 0)
            block["gap"] = asdict(gap) if gap else None
            if gap and gap.p is not None and gap.p < GAP_P and abs(gap.estimate) > GAP:
                said.append({"code": "missing_by_arm", "arm": name, "gap": gap.estimate, "p": gap.p, "n": gap.n_raters})
        found["arms"][name] = block
    left = _left(rows)
    counts, p = missing.leaving(np.array([code[one] for one in left], dtype=np.int64), len(arms))
    found["left_early"] = {"raters": len(left), "after": dict(zip(arms, counts, strict=True)), "p": p}
    return dict(plain(found)), said


def _left(rows: Sequence[Row]) -> list[str]:
    """For each rater with items left, the arm of the last one that was rated."""
    last: dict[str, tuple[float, str]] = {}
    for row in rows:
        if row["rated"]:
            last[row["rater"]] = max(last.get(row["rater"], (0.0, "")), (float(row["position"]), row["arm"]))
    return [last[who][1] for who in sorted(unfinished(rows)) if who in last]


def unfinished(rows: Sequence[Row]) -> frozenset[str]:
    """Raters who have not rated all that they were given."""
    return frozenset(row["rater"] for row in rows if not row["rated"])


def inconsistent(found: Mapping[str, Any]) -> list[Warning_]:
    """A warning for each measure in which raters differ from themselves by a point or more."""
    return [
        {"code": "inconsistent", "measure": measure, "sd": one["sd"], "n": one["n"]}
        for measure, one in found.items()
        if one["n"] >= LEAST_REPEATS and one["sd"] >= INCONSISTENT
    ]

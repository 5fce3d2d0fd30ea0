"""What a new rater gets: the plan of the study, what others hold of it, and who has to give back what.

An item that is not rated is its rater's as long as its lease lasts, which every visit renews. After that it still is,
until a new rater needs it: then it is released, in the same transaction that gives it away, so no open item is ever
with two raters.
"""

import json
from collections.abc import Sequence
from itertools import groupby
from typing import Any

from sqlite_utils import Database

from studyapp import design
from studyapp.db import one
from studyapp.records import Kind, RefusedError


def plan(db: Database) -> design.Plan:
    """What the study asks for."""
    facts = one(db, "SELECT * FROM study")
    assert facts is not None
    scenarios = {row["id"]: row["mode"] for row in db.query("SELECT id, mode FROM scenario ORDER BY ord")}
    together = facts["side"] if set(scenarios.values()) == {"side-by-side"} else 1
    return design.Plan(
        scenarios,
        tuple(row["key"] for row in db.query("SELECT key FROM arm ORDER BY key")),
        crossing=facts["crossing"],
        per_rater=facts["scenarios_per_rater"],
        ratings_per_cell=facts["ratings_per_cell"],
        side=facts["side"],
        training=_groups(db, "training", together),
        checks=_groups(db, "check", together),
        check_every=facts["check_every"],
        repeats=facts["repeats"],
        seed=facts["seed"],
    )


def deal(db: Database, planned: design.Plan, rater: int, kind: Kind, slot: int, at: str, until: str | None) -> None:
    """Give a new rater codes and items, leased `until` then (None: for good).

    Raises RefusedError where every cell is full, or every one that is not is held by somebody.
    """
    held = _held(db, kind, at, len(planned.arms) if planned.crossing == "within" else 1)
    pages = design.session(planned, held, slot)
    if not pages:
        waiting = one(
            db,
            "SELECT 1 FROM assignment JOIN rater ON rater.id = assignment.rater WHERE rater.kind = 'person'"
            " AND assignment.kind = 'rated' AND released_at IS NULL AND done_at IS NULL",
        )
        if waiting:
            raise RefusedError("busy", "every chat of this study is with a rater just now", hint="try again later")
        raise RefusedError("full", "this study has all the ratings that it needs", hint="thank you all the same")
    codes = design.codes(planned.labels, slot, seed=planned.seed)
    db.conn.executemany(
        "INSERT INTO code (rater, arm_key, code) VALUES (?, ?, ?)", [(rater, arm, codes[arm]) for arm in planned.arms]
    )
    rows = []
    for position, page in enumerate(pages, 1):
        for place, name in enumerate(page.arms or page.extras, 1):
            code = codes[name if page.arms else f"{design.EXTRA}{place - 1}"]
            arm, extra = (name, None) if page.arms else (None, name)
            rows.append((rater, page.kind, page.mode, page.scenario, arm, extra, code, position, place, until))
    db.conn.executemany(
        "INSERT INTO assignment (rater, kind, mode, scenario, arm_key, extra, code, position, place, leased_until)"
        " VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
        rows,
    )
    if kind == "person" and planned.ratings_per_cell is not None:
        _release(db, {page.scenario for page in pages if page.kind == "rated"}, planned.ratings_per_cell, at)


def release(db: Database, rater: int, scenario: str, why: str, at: str, only: int | None = None) -> None:
    """Take what a rater has not rated of a scenario back, repeats included; or `only` one assignment."""
    db.conn.execute(
        "UPDATE assignment SET released_at = :at, released_why = :why"
        " WHERE rater = :rater AND scenario = :scenario AND done_at IS NULL AND released_at IS NULL"
        " AND (:only IS NULL OR id = :only)",
        {"at": at, "why": why, "rater": rater, "scenario": scenario, "only": only},
    )


def _groups(db: Database, kind: str, together: int) -> tuple[tuple[str, ...], ...]:
    """Known answers by page: those to one request stand together where every page has several chats."""
    rows = list(db.query("SELECT id, goal, opening, reached FROM extra WHERE kind = ? ORDER BY ord", [kind]))
    if together == 1:
        return tuple((row["id"],) for row in rows)
    alike: dict[tuple[str, ...], list[str]] = {}
    for row in rows:
        alike.setdefault((row["goal"], row["opening"], row["reached"]), []).append(row["id"])
    return tuple(tuple(ids[:together]) for ids in alike.values())


def _held(db: Database, kind: Kind, at: str, arms: int) -> list[list[design.Page]]:
    """The rated pages that raters of a kind have rated or hold, by rater.

    What counts is a rater's visit to a scenario as a whole, of at least so many `arms`: where a rater left in the
    middle of one, or an arm failed, somebody else is asked for all of it. What was rated stays.
    """
    rows = list(
        db.query(
            "SELECT rater, position, scenario, arm_key, mode,"
            " done_at IS NOT NULL OR leased_until IS NULL OR leased_until > :at AS held"
            " FROM assignment JOIN rater ON rater.id = assignment.rater"
            " WHERE rater.kind = :kind AND assignment.kind = 'rated' AND released_at IS NULL"
            " ORDER BY rater, position, place",
            {"at": at, "kind": kind},
        )
    )
    visits: dict[tuple[int, str], list[bool]] = {}
    for row in rows:
        visits.setdefault((row["rater"], row["scenario"]), []).append(bool(row["held"]))
    whole = {visit for visit, held in visits.items() if all(held) and len(held) >= arms}
    found = []
    for _, own in groupby((row for row in rows if (row["rater"], row["scenario"]) in whole), key=lambda r: r["rater"]):
        found.append([_page(list(page)) for _, page in groupby(own, key=lambda row: row["position"])])
    return found


def _page(rows: Sequence[dict[str, Any]]) -> design.Page:
    return design.Page("rated", rows[0]["mode"], rows[0]["scenario"], tuple(row["arm_key"] for row in rows))


def _release(db: Database, scenarios: set[str | None], most: int, at: str) -> None:
    """Take back what has run out where more than `most` hold a cell, the longest gone first."""
    wanted = json.dumps(sorted(scenario for scenario in scenarios if scenario))
    rows = list(
        db.query(
            "SELECT rater, scenario, arm_key, done_at IS NULL AND leased_until <= :at AS over, leased_until"
            " FROM assignment JOIN rater ON rater.id = assignment.rater"
            " WHERE rater.kind = 'person' AND assignment.kind = 'rated' AND released_at IS NULL"
            " AND scenario IN (SELECT value FROM json_each(:wanted)) ORDER BY leased_until, rater",
            {"at": at, "wanted": wanted},
        )
    )
    cells: dict[tuple[str, str], set[int]] = {}
    for row in rows:
        cells.setdefault((row["scenario"], row["arm_key"]), set()).add(row["rater"])
    visits: dict[tuple[int, str], list[str]] = {}
    for row in rows:
        if row["over"]:
            visits.setdefault((row["rater"], row["scenario"]), []).append(row["arm_key"])
    for (rater, scenario), arms in visits.items():
        if any(len(cells[scenario, arm]) > most for arm in arms):
            release(db, rater, scenario, "lease", at)
            for arm in arms:
                cells[scenario, arm].discard(rater)
    # checks without anything between them are no checks, and nobody should have to come back for them
    db.conn.execute(
        "UPDATE assignment SET released_at = :at, released_why = 'lease' WHERE done_at IS NULL AND released_at IS NULL"
        " AND kind <> 'rated' AND leased_until <= :at AND NOT EXISTS (SELECT 1 FROM assignment AS item"
        " WHERE item.rater = assignment.rater AND item.kind = 'rated' AND item.done_at IS NULL"
        " AND item.released_at IS NULL) AND rater IN (SELECT value FROM json_each(:raters))",
        {"at": at, "raters": json.dumps(sorted({rater for rater, _ in visits}))},
    )

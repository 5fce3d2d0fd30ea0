"""The study as a whole: what it is, how far it is, whether its database answers. All SQL is in the store's modules.

store_raters: who takes part, and tokens; store_deal: what a new rater gets; store_pages: what a rater sees; store_rate:
what a rater says; store_live: chats; store_owner: what the owner sees and does; store_setup: putting a study in.

Every call has a connection to itself (see db.py), so any thread may call. A function that returns after a write returns
after the commit.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from harness.errors import RatingError
from studyapp import design
from studyapp.db import connect, one, prepare, write
from studyapp.pacing import Pace
from studyapp.records import Kind, Rater
from studyapp.store_deal import plan
from studyapp.store_setup import create

__all__ = [
    "Counts",
    "Kind",
    "Rater",
    "Study",
    "alive",
    "counts",
    "create",
    "margin",
    "pace",
    "prepare",
    "set_pace",
    "study",
]


@dataclass(frozen=True)
class Study:
    """What the page needs to know of the study as a whole.

    `items` is how many pages a new rater gets, `panels` the most chats on one page, `live` whether any chat is live.
    """

    uid: str
    consent: str
    consent_version: int
    language: str
    state: str
    open_join: bool
    items: int
    panels: int
    live: bool


@dataclass(frozen=True)
class Counts:
    """How far a study is. `assignments` has the rated items by state: waiting, shown (but not rated), done.

    A cell is one scenario with one arm; it is full when it has `ratings_per_cell` ratings by people.
    """

    raters: int
    ratings: int
    assignments: dict[str, int]
    cells: int
    full_cells: int
    ratings_per_cell: int
    state: str


def study(path: Path) -> Study:
    """The study as a whole. Raises RatingError where the database holds none."""
    with connect(path) as db:
        row = one(db, "SELECT uid, consent, consent_version, language, state, open_join FROM study")
        if row is None:
            raise RatingError(f"{path} holds no study", hint="prepare the answers first, with viva answer")
        planned = plan(db)
    row["open_join"] = bool(row["open_join"])
    live = "live" in planned.scenarios.values()
    return Study(**row, items=design.pages_per_rater(planned), panels=design.panels(planned), live=live)


def counts(path: Path) -> Counts:
    """How many raters and ratings there are, and how many cells are full.

    Raises RatingError where there is no study.
    """
    with connect(path) as db:
        row = one(
            db,
            """
            WITH own AS (SELECT * FROM assignment WHERE kind = 'rated' AND released_at IS NULL), cell AS (
                SELECT count(rating.assignment) AS n FROM scenario CROSS JOIN arm
                LEFT JOIN own ON own.scenario = scenario.id AND own.arm_key = arm.key
                    AND own.rater IN (SELECT id FROM rater WHERE kind = 'person')
                LEFT JOIN rating ON rating.assignment = own.id
                GROUP BY scenario.id, arm.key
            )
            SELECT state, ratings_per_cell,
                (SELECT count(*) FROM rater) AS raters,
                (SELECT count(*) FROM rating JOIN own ON own.id = rating.assignment) AS ratings,
                (SELECT count(*) FROM own WHERE shown_at IS NULL AND done_at IS NULL) AS waiting,
                (SELECT count(*) FROM own WHERE shown_at IS NOT NULL AND done_at IS NULL) AS shown,
                (SELECT count(*) FROM own WHERE done_at IS NOT NULL) AS done,
                (SELECT count(*) FROM cell) AS cells,
                (SELECT count(*) FROM cell WHERE n >= ratings_per_cell) AS full_cells
            FROM study
            """,
        )
    if row is None:
        raise RatingError(f"{path} holds no study", hint="prepare the answers first, with viva answer")
    states = {state: row.pop(state) for state in ("waiting", "shown", "done")}
    return Counts(assignments=states, **row)


def margin(path: Path) -> tuple[float | None, str | None]:
    """The non-inferiority margin that holds, and when it was fixed."""
    with connect(path) as db:
        row = one(db, "SELECT margin, margin_at FROM study")
    return (row["margin"], row["margin_at"]) if row else (None, None)


def alive(path: Path) -> bool:
    """Whether the database answers."""
    with connect(path) as db:
        return bool(db.conn.execute("SELECT 1 FROM study").fetchone())


def pace(path: Path) -> Pace:
    """The one pace of all live chats. Raises RatingError while it has not been chosen."""
    with connect(path) as db:
        row = one(db, "SELECT pace FROM study")
    if row is None or row["pace"] is None:
        raise RatingError("the pace of live chats is not set", hint="start the study with viva rate, which measures it")
    facts = json.loads(row["pace"])
    return Pace(cps=facts["cps"], tick=facts["tick"], delay=facts["delay"])


def set_pace(path: Path, facts: Mapping[str, Any]) -> None:
    """Store the pace of all live chats with what it was made from: cps, tick, delay, and whatever was measured."""
    missing = [name for name in ("cps", "tick", "delay") if name not in facts]
    if missing:
        raise RatingError(f"a pace needs {', '.join(missing)}")
    with write(path) as db:
        db.conn.execute("UPDATE study SET pace = ?", [json.dumps(dict(facts), sort_keys=True)])

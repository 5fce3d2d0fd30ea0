"""What the owner of a study reads: how far it is, who rated with care, what raters wrote, what was done to it.

Until a study is closed nothing here tells arms apart: counts are by scenario, by rater, and by code, which is another
arm for each rater. Afterwards arms are numbered in the order of their random keys. All reading happens in one
transaction, so that the numbers of one page fit each other.
"""

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from statistics import median
from typing import Any

from sqlite_utils import Database

from harness.errors import RatingError
from studyapp.db import connect
from studyapp.flags import Flag, Marks, Page, flags
from studyapp.schema import migrations


@dataclass(frozen=True)
class Overview:
    """The study as a whole.

    `ratings`, `cells` and `full_cells` are about people; a cell is one scenario with one arm, full with
    `ratings_per_cell` ratings. `fewest` and `most` are the ratings of an arm, whichever it is.
    """

    name: str
    uid: str
    state: str
    created_at: str
    closed_at: str | None
    unblinded_at: str | None
    open_join: bool
    max_raters: int | None
    ratings_per_cell: int
    raters: int
    finished: int
    others: int
    withdrawn: int
    invites: int
    claimed: int
    ratings: int
    cells: int
    full_cells: int
    fewest: int
    most: int


@dataclass(frozen=True)
class Code:
    """What is rated and what is still to rate under one code, over all people."""

    code: str
    rated: int
    waiting: int


@dataclass(frozen=True)
class ScenarioProgress:
    """How far one scenario is."""

    id: str
    goal: str
    mode: str
    ratings: int
    full_cells: int
    cells: int


@dataclass(frozen=True)
class Person:
    """How far one rater is, and what speaks against their care. `seconds` is the median over pages."""

    label: str
    kind: str
    joined_at: str
    last_seen: str
    done: int
    total: int
    seconds: float | None
    comments: int
    problems: int
    flags: tuple[Flag, ...]


@dataclass(frozen=True)
class ArmMeans:
    """One arm of a closed study under its number: the ratings by people, and their means."""

    number: int
    ratings: int
    satisfaction: float | None
    goal_achievement: float | None


@dataclass(frozen=True)
class Progress:
    """All of a study's progress; `arms` is empty until the study is closed."""

    overview: Overview
    codes: tuple[Code, ...]
    scenarios: tuple[ScenarioProgress, ...]
    people: tuple[Person, ...]
    arms: tuple[ArmMeans, ...]


@dataclass(frozen=True)
class Note:
    """Something a rater wrote: a comment on an item, or a problem, which may be about no item."""

    rater: str
    at: str
    scenario: str | None
    code: str | None
    text: str


@dataclass(frozen=True)
class Notes:
    """What raters wrote, the newest first."""

    comments: tuple[Note, ...]
    problems: tuple[Note, ...]


# what a rater still has or has rated of the study's own items; what was released is somebody else's now
_ITEMS = "assignment.kind = 'rated' AND assignment.released_at IS NULL"
_PEOPLE = "rater.kind = 'person'"

_CELLS = f"""
SELECT scenario.id AS scenario, arm.key AS arm_key, count(rating.assignment) AS ratings
FROM scenario CROSS JOIN arm
LEFT JOIN assignment ON assignment.scenario = scenario.id AND assignment.arm_key = arm.key AND {_ITEMS}
    AND assignment.rater IN (SELECT id FROM rater WHERE {_PEOPLE})
LEFT JOIN rating ON rating.assignment = assignment.id
GROUP BY scenario.id, arm.key
"""

_OVERVIEW = f"""
WITH cell AS ({_CELLS}), arm_total AS (SELECT sum(ratings) AS ratings FROM cell GROUP BY arm_key),
left_to_do AS (
    SELECT rater, sum(done_at IS NULL) AS waiting FROM assignment WHERE released_at IS NULL GROUP BY rater
)
SELECT study.name, study.uid, study.state, study.created_at, study.closed_at, study.open_join, study.max_raters,
    study.ratings_per_cell,
    (SELECT max(at) FROM log WHERE action = 'unblind') AS unblinded_at,
    (SELECT count(*) FROM rater WHERE {_PEOPLE}) AS raters,
    (SELECT count(*) FROM rater JOIN left_to_do ON left_to_do.rater = rater.id WHERE {_PEOPLE} AND waiting = 0)
        AS finished,
    (SELECT count(*) FROM rater WHERE NOT {_PEOPLE}) AS others,
    (SELECT count(*) FROM withdrawal) AS withdrawn,
    (SELECT count(*) FROM invite) AS invites,
    (SELECT count(used_at) FROM invite) AS claimed,
    (SELECT coalesce(sum(ratings), 0) FROM cell) AS ratings,
    (SELECT count(*) FROM cell) AS cells,
    (SELECT count(*) FROM cell WHERE ratings >= ratings_per_cell) AS full_cells,
    (SELECT coalesce(min(ratings), 0) FROM arm_total) AS fewest,
    (SELECT coalesce(max(ratings), 0) FROM arm_total) AS most
FROM study
"""

_CODES = f"""
SELECT code, count(done_at) AS rated, count(*) - count(done_at) AS waiting FROM assignment
JOIN rater ON rater.id = assignment.rater WHERE {_ITEMS} AND {_PEOPLE} GROUP BY code ORDER BY length(code), code
"""

_SCENARIOS = f"""
WITH cell AS ({_CELLS})
SELECT scenario.id, goal, scenario.mode, sum(ratings) AS ratings, count(*) AS cells,
    sum(ratings >= (SELECT ratings_per_cell FROM study)) AS full_cells
FROM cell JOIN scenario ON scenario.id = cell.scenario GROUP BY scenario.id ORDER BY ord
"""

_RATERS = """
SELECT rater.id, label, rater.kind, joined_at, last_seen, count(done_at) AS done, count(assignment.id) AS total,
    (SELECT count(*) FROM problem WHERE problem.rater = rater.id) AS problems,
    count(nullif(rating.comment, '')) AS comments
FROM rater
LEFT JOIN assignment ON assignment.rater = rater.id AND released_at IS NULL
LEFT JOIN rating ON rating.assignment = assignment.id
GROUP BY rater.id ORDER BY rater.id
"""

# Seconds of the longest look: whoever comes back to change a mark has read the chat already.
_PAGES = """
SELECT rater, position, rating.satisfaction, rating.goal_achievement,
    (SELECT max(seconds) FROM rating_event AS look WHERE look.assignment = rating.assignment) AS seconds,
    CASE mode WHEN 'live' THEN (SELECT sum(length(content)) FROM turn WHERE turn.assignment = assignment.id)
    ELSE (SELECT sum(length(json_extract(message.value, '$.content'))) FROM answer, json_each(messages) AS message
        WHERE answer.scenario = assignment.scenario AND answer.arm_key = assignment.arm_key) END AS characters
FROM rating JOIN assignment ON assignment.id = rating.assignment
WHERE assignment.kind IN ('rated', 'repeat')
ORDER BY rater, position, place
"""

_CHECKS = "SELECT rater, passed FROM tidy_checks WHERE item = 'check'"

_REPEATS = """
SELECT rater, satisfaction, goal_achievement, again_satisfaction, again_goal_achievement FROM tidy_repeats
"""

_ARMS = """
SELECT row_number() OVER (ORDER BY arm.key) AS number, count(tidy.arm_key) AS ratings,
    avg(satisfaction) AS satisfaction, avg(goal_achievement) AS goal_achievement
FROM arm LEFT JOIN (SELECT * FROM tidy_ratings WHERE kind = 'person') AS tidy ON tidy.arm_key = arm.key
GROUP BY arm.key ORDER BY arm.key
"""

_COMMENTS = """
SELECT label AS rater, rating.updated_at AS at, coalesce(scenario, assignment.extra) AS scenario, code, comment AS text
FROM rating JOIN assignment ON assignment.id = rating.assignment JOIN rater ON rater.id = assignment.rater
WHERE comment <> '' ORDER BY rating.updated_at DESC, rater.id, position, place
"""

_PROBLEMS = """
SELECT label AS rater, problem.at, coalesce(scenario, assignment.extra) AS scenario, code, text
FROM problem JOIN rater ON rater.id = problem.rater LEFT JOIN assignment ON assignment.id = problem.assignment
ORDER BY problem.at DESC, problem.id DESC
"""


def progress(path: Path, *, people: bool = True) -> Progress:
    """How far the study in `path` is; `people` can be left out, since their flags look at every rating.

    Raises RatingError where there is no study.
    """
    with reading(path) as db:
        overview = overview_in(db, path)
        closed = overview.state == "closed"
        return Progress(
            overview,
            tuple(Code(**row) for row in db.query(_CODES)),
            tuple(ScenarioProgress(**row) for row in db.query(_SCENARIOS)),
            tuple(people_in(db)) if people else (),
            tuple(ArmMeans(**row) for row in db.query(_ARMS)) if closed else (),
        )


def overview(path: Path) -> Overview:
    """The study as a whole. Raises RatingError where there is none."""
    with reading(path) as db:
        return overview_in(db, path)


def notes(path: Path) -> Notes:
    """What raters wrote."""
    with reading(path) as db:
        comments = tuple(Note(**row) for row in db.query(_COMMENTS))
        return Notes(comments, tuple(Note(**row) for row in db.query(_PROBLEMS)))


def log(path: Path) -> list[dict[str, Any]]:
    """What was done to the study, the newest first: at, actor, action, detail."""
    with reading(path) as db:
        return list(db.query("SELECT at, actor, action, detail FROM log ORDER BY id DESC"))


def invites(path: Path) -> list[dict[str, Any]]:
    """Every invitation, the newest first: when made and used, its note, and its rater. The links are not kept."""
    with reading(path) as db:
        return list(
            db.query(
                "SELECT invite.id, created_at, used_at, note, label AS rater FROM invite"
                " LEFT JOIN rater ON rater.id = invite.rater ORDER BY invite.id DESC"
            )
        )


@contextlib.contextmanager
def reading(path: Path) -> Iterator[Database]:
    """A connection on which everything read is of one moment. Raises RatingError for a database of an older schema."""
    with connect(path) as db:
        if migrations.pending(db):
            raise RatingError(
                f"{path} was made by an older version of Viva", hint="bring it up to date with: viva rate RUN"
            )
        db.conn.execute("BEGIN")
        try:
            yield db
        finally:
            db.conn.execute("COMMIT")


def overview_in(db: Database, path: Path) -> Overview:
    """The study as a whole, on a connection that is open already."""
    row = next(iter(list(db.query(_OVERVIEW))), None)
    if row is None:
        raise RatingError(f"{path} holds no study", hint="prepare the answers first, with viva answer")
    return Overview(**{**row, "open_join": bool(row["open_join"])})


def people_in(db: Database) -> Iterator[Person]:
    """Every rater, in the order of joining."""
    pages: dict[int, list[Page]] = {}
    for (rater, _), rows in groupby(db.query(_PAGES), key=lambda row: (row["rater"], row["position"])):
        panels = list(rows)
        marks = tuple((panel["satisfaction"], panel["goal_achievement"]) for panel in panels)
        seconds = max(panel["seconds"] for panel in panels)
        pages.setdefault(rater, []).append(Page(marks, seconds, sum(panel["characters"] or 0 for panel in panels)))
    checks: dict[str, list[bool]] = {}
    for row in db.query(_CHECKS):
        checks.setdefault(row["rater"], []).append(bool(row["passed"]))
    repeats: dict[str, list[tuple[Marks, Marks]]] = {}
    for label, *marks in db.conn.execute(_REPEATS):
        repeats.setdefault(label, []).append(((marks[0], marks[1]), (marks[2], marks[3])))
    for row in list(db.query(_RATERS)):
        rater, label = row.pop("id"), row["label"]
        own = pages.get(rater, [])
        # only people can be careless: a program's ratings take no time, and a judge's are looked at in the report
        found = flags(own, checks.get(label, []), repeats.get(label, [])) if row["kind"] == "person" else ()
        yield Person(**row, seconds=median(page.seconds for page in own) if own else None, flags=found)

"""Model judges in study.db: which there are, what each has said, and its marks among the ratings. All SQL of theirs.

A judge knows arm keys no better than the page does: what is handed out here are goals and chats under keys. Each reply
is committed when it comes, so a killed run loses none.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from sqlite_utils import Database

from harness.errors import RatingError
from harness.records import Message
from studyapp.db import connect, moment, one, write
from studyapp.schema import MAX_COMMENT

Mode = Literal["single", "pairwise"]


@dataclass(frozen=True)
class Judge:
    """A judge in one mode. `host` is '' for a model that runs here; `settings` are whatever shapes its replies."""

    name: str
    mode: Mode
    model: str
    host: str
    rubric: str
    settings: Mapping[str, Any]


@dataclass(frozen=True)
class Item:
    """What a judge is asked about: one answer, or two with `first` shown first; arms by their keys.

    `chat` is the assignment of a rater's live chat, None for the prepared answer.
    """

    scenario: str
    first: str
    second: str | None = None
    chat: int | None = None


@dataclass(frozen=True)
class Reply:
    """One reply: its text, what it was read as (marks, or a problem), and what it cost."""

    raw: str
    problem: str | None
    marks: Mapping[str, Any] = field(default_factory=dict)
    reason: str = ""
    tokens_in: int | None = None
    tokens_out: int | None = None
    seconds: float = 0.0


@dataclass(frozen=True)
class Texts:
    """Goals with when they count as reached, by scenario; chats by (scenario, arm key, live chat or None)."""

    goals: dict[str, tuple[str, str]]
    chats: dict[tuple[str, str, int | None], tuple[Message, ...]]


def texts(path: Path, *, live: bool = False) -> Texts:
    """All prepared answers of a study, in its order, and with `live` the finished chats that people rated."""
    with connect(path) as db:
        rows = list(db.query("SELECT id, goal, reached FROM scenario ORDER BY ord"))
        goals = {row["id"]: (row["goal"], row["reached"]) for row in rows}
        chats: dict[tuple[str, str, int | None], tuple[Message, ...]] = {}
        for row in db.query(
            "SELECT scenario, arm_key, messages FROM answer JOIN scenario ON scenario.id = scenario"
            " ORDER BY ord, arm_key"
        ):
            messages = tuple(Message(**message) for message in json.loads(row["messages"]))
            chats[row["scenario"], row["arm_key"], None] = messages
        if live:
            chats |= _live(db)
    return Texts(goals, chats)


def _live(db: Database) -> dict[tuple[str, str, int | None], tuple[Message, ...]]:
    """Live chats that a person ended and rated, with the turns that got an answer."""
    found: dict[tuple[str, str, int | None], list[Message]] = {}
    for row in db.query(
        "SELECT assignment.scenario, assignment.arm_key, turn.assignment, turn.role, turn.content"
        " FROM turn JOIN assignment ON assignment.id = turn.assignment JOIN rater ON rater.id = assignment.rater"
        " JOIN rating ON rating.assignment = assignment.id"
        " WHERE rater.kind = 'person' AND assignment.kind = 'rated' AND EXISTS ("
        "   SELECT 1 FROM turn AS answer WHERE answer.assignment = turn.assignment AND answer.number = turn.number"
        "   AND answer.role = 'assistant' AND answer.finish IS NOT NULL)"
        " ORDER BY turn.assignment, turn.number, turn.role DESC"
    ):
        key = row["scenario"], row["arm_key"], row["assignment"]
        found.setdefault(key, []).append(Message(role=row["role"], content=row["content"]))
    return {key: tuple(messages) for key, messages in found.items()}


def said(path: Path, judge: Judge) -> dict[Item, list[Reply]]:
    """What a judge has said so far, attempt by attempt; nothing for one that is not entered.

    Raises RatingError where replies are there that came under other settings.
    """
    with connect(path) as db:
        row = _entered(db, judge)
        if row is None:
            return {}
        found: dict[Item, list[Reply]] = {}
        for reply in db.query("SELECT * FROM verdict WHERE judge = ? ORDER BY id", [row["rater"]]):
            _same(row, judge)
            item = Item(reply["scenario"], reply["first"], reply["second"], reply["chat"])
            found.setdefault(item, []).append(
                Reply(
                    reply["raw"],
                    reply["problem"],
                    reason=reply["reason"],
                    tokens_in=reply["tokens_in"],
                    tokens_out=reply["tokens_out"],
                    seconds=reply["seconds"],
                )
            )
    return found


def enter(path: Path, judge: Judge) -> int:
    """The id of a judge among the raters, made if it is new. Raises RatingError as `said` does."""
    settings = _settings(judge)
    with write(path) as db:
        row = _entered(db, judge)
        if row is not None:
            if one(db, "SELECT 1 FROM verdict WHERE judge = ? LIMIT 1", [row["rater"]]):
                _same(row, judge)
            db.conn.execute(
                "UPDATE judge SET model = ?, host = ?, rubric = ?, settings = ? WHERE rater = ?",
                (judge.model, judge.host, judge.rubric, settings, row["rater"]),
            )
            return int(row["rater"])
        number = _number(db)
        at = moment()
        db.conn.execute(
            "INSERT INTO rater (id, label, kind, slot, joined_at, last_seen) VALUES (?, ?, 'judge',"
            " (SELECT coalesce(max(slot), -1) + 1 FROM rater WHERE kind = 'judge'), ?, ?)",
            (number, f"R{number:02d}", at, at),
        )
        arms = [row["key"] for row in db.query("SELECT key FROM arm ORDER BY key")]
        db.conn.executemany(
            "INSERT INTO code (rater, arm_key, code) VALUES (?, ?, ?)",
            [(number, arm, f"{index:02d}") for index, arm in enumerate(arms, 1)],
        )
        db.conn.execute(
            "INSERT INTO judge (rater, name, mode, model, host, rubric, settings) VALUES (?, ?, ?, ?, ?, ?, ?)",
            (number, judge.name, judge.mode, judge.model, judge.host, judge.rubric, settings),
        )
    return number


def keep(path: Path, rater: int, item: Item, reply: Reply, lengths: tuple[int, int | None]) -> None:
    """Store one reply; marks of a prepared answer become a rating as well. Once this returns, both are on the disk.

    `lengths` are the characters of the one or two answers. A second readable reply about one item is left out: another
    process was faster.
    """
    at = moment()
    with write(path) as db:
        where = "judge = :judge AND scenario = :scenario AND first = :first AND second IS :second AND chat IS :chat"
        row = {
            "judge": rater,
            **{"scenario": item.scenario, "first": item.first, "second": item.second, "chat": item.chat},
            **{"problem": reply.problem, "reason": reply.reason, "raw": reply.raw},
            **{key: reply.marks.get(key) for key in
               ("satisfaction", "goal_achievement", "score_first", "score_second", "winner")},
            **{"length_first": lengths[0], "length_second": lengths[1]},
            **{"tokens_in": reply.tokens_in, "tokens_out": reply.tokens_out, "seconds": reply.seconds, "at": at},
        }  # fmt: skip
        if one(db, f"SELECT 1 FROM verdict WHERE {where} AND problem IS NULL", row):
            return
        number = db.conn.execute(f"SELECT coalesce(max(attempt), 0) + 1 FROM verdict WHERE {where}", row).fetchone()[0]
        row["attempt"] = number
        db.conn.execute(f"INSERT INTO verdict ({', '.join(row)}) VALUES ({', '.join(f':{name}' for name in row)})", row)
        db.conn.execute("UPDATE rater SET last_seen = ? WHERE id = ?", (at, rater))
        if reply.problem is None and item.second is None and item.chat is None:
            _rate(db, rater, item, reply, at)


def _rate(db: Database, rater: int, item: Item, reply: Reply, at: str) -> None:
    """A judge's marks as a rating: the same record as a person's, of another kind of rater."""
    row = {"rater": rater, "scenario": item.scenario, "arm": item.first, "at": at, "seconds": reply.seconds}
    row |= {key: reply.marks[key] for key in ("satisfaction", "goal_achievement")}
    row["comment"] = reply.reason[:MAX_COMMENT]
    row["assignment"] = db.conn.execute(
        "INSERT INTO assignment (rater, kind, mode, scenario, arm_key, code, position, place, opened_at, shown_at,"
        " done_at) SELECT :rater, 'rated', scenario.mode, scenario.id, :arm,"
        " (SELECT code FROM code WHERE rater = :rater AND arm_key = :arm),"
        " (SELECT coalesce(max(position), 0) + 1 FROM assignment WHERE rater = :rater), 1, :at, :at, :at"
        " FROM scenario WHERE id = :scenario",
        row,
    ).lastrowid
    for table, moments in (("rating", "created_at, updated_at"), ("rating_event", "at")):
        values = ":at, :at" if table == "rating" else ":at"
        db.conn.execute(
            f"INSERT INTO {table} (assignment, satisfaction, goal_achievement, comment, seconds, revision, {moments})"
            f" VALUES (:assignment, :satisfaction, :goal_achievement, :comment, :seconds, 1, {values})",
            row,
        )


def _entered(db: Database, judge: Judge) -> dict[str, Any] | None:
    return one(db, "SELECT * FROM judge WHERE name = ? AND mode = ?", [judge.name, judge.mode])


def _same(row: Mapping[str, Any], judge: Judge) -> None:
    now = {"model": judge.model, "host": judge.host, "rubric": judge.rubric, "settings": _settings(judge)}
    changed = [key for key, value in now.items() if row[key] != value]
    if changed:
        raise RatingError(
            f"the judge {judge.name!r} ({judge.mode}) has verdicts under another {' and '.join(changed)}",
            hint="give the changed judge another name in [[judge.by]]; the earlier one's verdicts stay",
        )


def _settings(judge: Judge) -> str:
    return json.dumps(dict(judge.settings), sort_keys=True, ensure_ascii=False)


def _number(db: Database) -> int:
    """The next rater's number, as for people: one that nobody has had, also nobody who withdrew."""
    sql = "SELECT coalesce(max(cast(substr(label, 2) AS INTEGER)), 0) + 1 FROM"
    return int(db.conn.execute(f"{sql} (SELECT label FROM rater UNION ALL SELECT label FROM withdrawal)").fetchone()[0])

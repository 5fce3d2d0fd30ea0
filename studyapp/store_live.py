"""Live chats: what the rater writes is on the disk before a model is asked, the answer before the page goes on."""

from pathlib import Path
from typing import Any

from sqlite_utils import Database

from studyapp.db import moment, one, write
from studyapp.records import RefusedError, Turn, View
from studyapp.schema import MAX_MESSAGE
from studyapp.store_deal import release
from studyapp.store_pages import Chat, chat, progress, touch, view
from studyapp.store_rate import own_page, require_open

MOST_FAILURES = 5
"""A turn that failed so often ends its chat: there is no answer to wait for."""


def say(path: Path, rater: int, position: int, text: str) -> Turn:
    """Store the next message of a rater's live chat; returns the turn that waits for its answer.

    A turn whose answer failed or never came is asked anew, with the text that is there already unless a new one is
    given. Raises RefusedError for a chat that has ended, and for a text that is empty or too long.
    """
    text = text.strip()
    if len(text) > MAX_MESSAGE:
        raise RefusedError(
            "long",
            f"the text has {len(text)} characters",
            hint=f"keep it within {MAX_MESSAGE}",
            count=len(text),
            most=MAX_MESSAGE,
        )
    at = moment()
    with write(path) as db:
        require_open(db)
        row, now = _live(db, rater, position)
        if now.ended_by is not None or row["done_at"] is not None or now.answered >= row["turns"]:
            raise RefusedError("chat", "this chat has ended", hint="rate it")
        waiting = now.asked > now.answered
        number = now.answered + 1
        if not text and not waiting:
            raise RefusedError("write", "please write something first")
        if now.asked == 0:
            db.conn.execute("INSERT INTO chat (assignment, started_at) VALUES (?, ?)", (row["id"], at))
        if waiting:
            db.conn.execute(
                "UPDATE turn SET attempt = attempt + 1, content = coalesce(nullif(?, ''), content)"
                " WHERE assignment = ? AND number = ? AND role = 'user'",
                (text, row["id"], number),
            )
        else:
            db.conn.execute(
                "INSERT INTO turn (assignment, number, role, content, at) VALUES (?, ?, 'user', ?, ?)",
                (row["id"], number, text, at),
            )
        _stay(db, rater, at)
        now = chat(db, row["id"])
    attempt = next(turn["attempt"] for turn in now.turns if turn["role"] == "user" and turn["number"] == number)
    return Turn(row["id"], number, now.messages, attempt)


def heard(
    path: Path, rater: int, turn: Turn, text: str, *, finish: str, underruns: int, late_s: float, failed: bool
) -> View:
    """Store the answer to a turn as it was shown; returns the page, or the next one if this chat cannot go on.

    An answer that is there already stays, and one to an attempt that is not the latest does not count: the rater has
    asked again meanwhile. The last turn's answer ends the chat, as does a turn that fails too often; with no answer at
    all, the item is given up.
    """
    at = moment()
    with write(path) as db:
        row = one(
            db,
            "SELECT assignment.id, rater, position, scenario, turns FROM assignment"
            " JOIN scenario ON scenario.id = scenario WHERE assignment.id = ? AND rater = ? AND released_at IS NULL",
            [turn.assignment, rater],
        )
        if row is None:
            raise RefusedError("gone", "this chat is not yours now", hint="reload the page")
        if _waits(chat(db, row["id"]), turn):
            # of several attempts, what fell behind or failed adds up; the text is the last one's
            db.conn.execute(
                "INSERT INTO turn (assignment, number, role, content, at, finish, underruns, late_s, failed)"
                " VALUES (:assignment, :number, 'assistant', :text, :at, :finish, :underruns, :late_s, :failed)"
                " ON CONFLICT (assignment, number, role) DO UPDATE SET content = excluded.content, at = excluded.at,"
                " finish = excluded.finish, underruns = underruns + excluded.underruns,"
                " late_s = late_s + excluded.late_s, failed = failed + excluded.failed",
                {
                    "assignment": row["id"],
                    "number": turn.number,
                    "text": text,
                    "at": at,
                    "finish": None if failed else finish,
                    "underruns": underruns,
                    "late_s": late_s,
                    "failed": int(failed),
                },
            )
            _settle(db, row, at)
        _stay(db, rater, at)
        return view(db, rater, row["position"] if row["position"] in progress(db, rater) else None)


def end_chat(path: Path, rater: int, position: int) -> View:
    """End a live chat at the rater's wish. Raises RefusedError for one without an answer; twice is no error."""
    at = moment()
    with write(path) as db:
        require_open(db)
        row, now = _live(db, rater, position)
        if now.answered == 0:
            raise RefusedError("write", "there is no answer to rate yet", hint="write something first")
        if now.ended_by is None:
            _end(db, row["id"], "rater" if now.asked == now.answered else "failure", at)
        return view(db, rater, position)


def _live(db: Database, rater: int, position: int) -> tuple[dict[str, Any], Chat]:
    row = own_page(db, rater, position)[0]
    if row["mode"] != "live":
        raise RefusedError("gone", f"item {position} is no live chat", hint="reload the page")
    return row, chat(db, row["id"])


def _waits(now: Chat, turn: Turn) -> bool:
    """Whether a turn still waits for the answer to this attempt."""
    attempts = {said["number"]: said["attempt"] for said in now.turns if said["role"] == "user"}
    return now.ended_by is None and turn.number == now.answered + 1 and attempts.get(turn.number) == turn.attempt


def _settle(db: Database, row: dict[str, Any], at: str) -> None:
    """End a chat that has come to its limit, or whose arm fails."""
    now = chat(db, row["id"])
    if now.answered >= row["turns"]:
        _end(db, row["id"], "limit", at)
    elif any(turn["finish"] is None and turn["failed"] >= MOST_FAILURES for turn in now.turns if turn["failed"]):
        _end(db, row["id"], "failure", at)
        if now.answered == 0:
            release(db, row["rater"], row["scenario"], "failure", at, row["id"])


def _end(db: Database, assignment: int, by: str, at: str) -> None:
    db.conn.execute("UPDATE chat SET ended_at = ?, ended_by = ? WHERE assignment = ?", (at, by, assignment))


def _stay(db: Database, rater: int, at: str) -> None:
    touch(db, rater, at, db.conn.execute("SELECT lease_minutes FROM study").fetchone()[0])

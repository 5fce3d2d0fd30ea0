"""What a rater says: marks and preferences with their history, the end questions, problems."""

from collections.abc import Sequence
from datetime import datetime
from pathlib import Path
from typing import Any

from sqlite_utils import Database

from studyapp.db import moment, one, write
from studyapp.records import NOT_SAID, Marks, RefusedError, View
from studyapp.schema import MAX_COMMENT
from studyapp.store_pages import chat, first_open, pairs, preference, progress, rows, version, view


def rate(path: Path, rater: int, position: int, marks: Sequence[Marks], said: str | None, seen: int) -> View:
    """Store a page's marks by place and its preference; returns what comes next, after the commit.

    `seen` is the version of the page that the rater looked at. The same values again change nothing, so that a double
    click is one rating; other values are a new revision, and the old one stays. Raises RefusedError.
    """
    marks = [_checked(mark) for mark in marks]
    at = moment()
    with write(path) as db:
        require_open(db)
        found = own_page(db, rater, position)
        live = chat(db, found[0]["id"]) if found[0]["mode"] == "live" else None
        if live is not None and (live.ended_by is None or live.answered == 0):
            raise RefusedError("chat", "this chat has not ended yet", hint="end it, then rate it")
        if len(marks) != len(found):
            raise RefusedError("missing", f"item {position} has {len(found)} chats to rate, not {len(marks)}")
        held = preference(db, found)
        said = _preferred(found, said, held)
        prefers = said != NOT_SAID and (held is None or held["code"] != said)
        changed = [(row, mark) for row, mark in zip(found, marks, strict=True) if _of(row) != mark]
        if (changed or prefers) and version(found, live, held) != seen:
            raise RefusedError(
                "changed",
                f"item {position} has been rated in another window meanwhile",
                hint="reload the page to see that rating",
            )
        for row, mark in changed:
            _store(db, row, mark, at)
        if prefers:
            db.conn.execute(
                "INSERT INTO preference (rater, position, revision, code, at) VALUES (?, ?, ?, ?, ?)",
                (rater, position, (held["revision"] if held else 0) + 1, said, at),
            )
        db.conn.execute(
            "UPDATE assignment SET done_at = coalesce(done_at, ?) WHERE rater = ? AND position = ?",
            (at, rater, position),
        )
        if found[0]["kind"] == "training":
            return view(db, rater, position)
        return _onward(db, rater, position)


def answer_questions(path: Path, rater: int, guesses: Sequence[str | None]) -> View:
    """Store a guess for each pair of codes; what was guessed before is replaced. Raises RefusedError."""
    at = moment()
    with write(path) as db:
        require_open(db)
        asked = pairs(db, rater)
        if first_open(progress(db, rater)) is not None or not asked:
            raise RefusedError("questions", "there is nothing to be answered yet", hint="rate the chats first")
        fits = len(guesses) == len(asked) and all(
            guess is None or guess in pair for guess, pair in zip(guesses, asked, strict=True)
        )
        if not fits:
            raise RefusedError("questions", "please answer each question with one of its two codes, or with neither")
        db.conn.executemany(
            "INSERT INTO guess (rater, code_a, code_b, larger, at) VALUES (?, ?, ?, ?, ?)"
            " ON CONFLICT (rater, code_a, code_b) DO UPDATE SET larger = excluded.larger, at = excluded.at",
            [(rater, *pair, guess, at) for pair, guess in zip(asked, guesses, strict=True)],
        )
        db.conn.execute("UPDATE rater SET questions_at = ? WHERE id = ?", (at, rater))
        return view(db, rater)


def report_problem(path: Path, rater: int, position: int | None, text: str) -> None:
    """Store what a rater says is wrong with a page, or in general. Raises RefusedError."""
    text = text.strip()
    if not text:
        raise RefusedError("write", "please say what is wrong")
    _within(text)
    with write(path) as db:
        found = own_page(db, rater, position) if position is not None else []
        if one(db, "SELECT 1 FROM rater WHERE id = ?", [rater]) is None:
            raise RefusedError("gone", "there is no such rater", hint="join again, if you like")
        db.conn.execute(
            "INSERT INTO problem (rater, assignment, text, at) VALUES (?, ?, ?, ?)",
            (rater, found[0]["id"] if found else None, text, moment()),
        )


def require_open(db: Database) -> None:
    """Raise RefusedError unless the study takes ratings."""
    facts = one(db, "SELECT state FROM study")
    if facts is None or facts["state"] != "open":
        reason = "paused" if facts and facts["state"] == "paused" else "closed"
        raise RefusedError(reason, "this study takes no ratings now", hint="what you have saved is kept")  # type: ignore[arg-type]


def own_page(db: Database, rater: int, position: int) -> list[dict[str, Any]]:
    """The assignments of a page that a rater has come to. Raises RefusedError."""
    pages = progress(db, rater)
    first = first_open(pages)
    if position not in pages or (first is not None and position > first):
        raise RefusedError("gone", f"item {position} is not yours to rate now", hint="reload the page")
    return rows(db, rater, position)


def _checked(marks: Marks) -> Marks:
    values = {"satisfaction": marks.satisfaction, "goal achievement": marks.goal_achievement}
    for what, value in values.items():
        if type(value) is not int or not 1 <= value <= 5:
            raise RefusedError("mark", f"{what} is {value!r}", hint="give a whole number from 1 to 5")
    comment = marks.comment.strip()
    _within(comment)
    return Marks(marks.satisfaction, marks.goal_achievement, comment)


def _within(text: str) -> None:
    if len(text) > MAX_COMMENT:
        raise RefusedError(
            "long",
            f"the text has {len(text)} characters",
            hint=f"keep it within {MAX_COMMENT}",
            count=len(text),
            most=MAX_COMMENT,
        )


def _preferred(found: Sequence[dict[str, Any]], said: str | None, held: dict[str, Any] | None) -> str | None:
    """The preference to hold for a page; NOT_SAID where it has one already, or none to give."""
    if len(found) == 1:
        return NOT_SAID
    if said == NOT_SAID and held is None:
        raise RefusedError("preference", "please say which one you prefer, or that you have no preference")
    codes = [row["code"] for row in found]
    if said is not None and said != NOT_SAID and said not in codes:
        raise RefusedError("preference", f"there is no {said!r} on this page", hint=f"name one of {', '.join(codes)}")
    return said


def _of(row: dict[str, Any]) -> Marks | None:
    return Marks(row["satisfaction"], row["goal_achievement"], row["comment"]) if row["revision"] else None


def _store(db: Database, row: dict[str, Any], marks: Marks, at: str) -> None:
    """A rating as it is now, and the revision in its history."""
    values = {
        "assignment": row["id"],
        "satisfaction": marks.satisfaction,
        "goal_achievement": marks.goal_achievement,
        "comment": marks.comment,
        # an item rated without having been shown (a program's rating) took no time that we know of
        "seconds": _seconds(row["shown_at"] or at, at),
        "revision": row["revision"] + 1,
        "at": at,
    }
    db.conn.execute(
        "INSERT INTO rating (assignment, satisfaction, goal_achievement, comment, seconds, revision, created_at,"
        " updated_at)"
        " VALUES (:assignment, :satisfaction, :goal_achievement, :comment, :seconds, :revision, :at, :at)"
        " ON CONFLICT (assignment) DO UPDATE SET satisfaction = excluded.satisfaction,"
        " goal_achievement = excluded.goal_achievement, comment = excluded.comment, seconds = excluded.seconds,"
        " revision = excluded.revision, updated_at = excluded.updated_at",
        values,
    )
    db.conn.execute(
        "INSERT INTO rating_event (assignment, revision, satisfaction, goal_achievement, comment, seconds, at)"
        " VALUES (:assignment, :revision, :satisfaction, :goal_achievement, :comment, :seconds, :at)",
        values,
    )


def _onward(db: Database, rater: int, position: int) -> View:
    """The page after a position that is rated now."""
    sql = "SELECT min(position) FROM assignment WHERE rater = ? AND position > ? AND released_at IS NULL"
    return view(db, rater, db.conn.execute(sql, [rater, position]).fetchone()[0])


def _seconds(start: str, end: str) -> float:
    return max(0.0, (datetime.fromisoformat(end) - datetime.fromisoformat(start)).total_seconds())

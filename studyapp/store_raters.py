"""Who takes part: joining, invitations, tokens, other devices, crowd platforms, withdrawal."""

import hashlib
import secrets
import sqlite3
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from sqlite_utils import Database

from studyapp.db import connect, moment, one, write
from studyapp.records import Kind, Rater, RefusedError
from studyapp.store_deal import deal, plan

CROWD = ("platform", "person", "study", "session")
MAX_CROWD = 200

_TABLES_OF_A_RATER = (
    *("rating_event", "rating", "turn", "chat", "problem", "preference", "assignment"),
    *("guess", "code", "token", "crowd"),
)  # children before what they refer to


def add_rater(
    path: Path,
    kind: Kind = "person",
    *,
    invite: str | None = None,
    crowd: Mapping[str, str] | None = None,
    language: str | None = None,
) -> str:
    """Enter a rater who has just consented, deal them their items, and return their cookie's token.

    Only the token's sha256 is stored. Judges and simulated raters have no lease, and their items are balanced among
    themselves. Who joined before but never came back with the cookie (a double click, a lost connection) joins anew.
    Raises RefusedError.
    """
    token = secrets.token_urlsafe(32)
    at = moment()
    with write(path) as db:
        facts = _open_study(db)
        if kind == "person":
            _forget_unseen(db, invite, crowd)
        invitation = _invitation(db, facts, invite) if kind == "person" else None
        number, slot = _number(db), _slot(db, kind)
        consented = (at, facts["consent_version"]) if kind == "person" else (None, None)
        db.conn.execute(
            "INSERT INTO rater (id, label, kind, slot, language, joined_at, consented_at, consent_version, last_seen)"
            " VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)",
            (number, f"R{number:02d}", kind, slot, language or facts["language"], at, *consented, at),
        )
        _keep(db, number, token, "cookie", at)
        if invitation is not None:
            db.conn.execute("UPDATE invite SET used_at = ?, rater = ? WHERE id = ?", (at, number, invitation))
        if crowd:
            _enter_crowd(db, number, crowd)
        planned = plan(db)
        if kind != "person":
            planned = replace(planned, ratings_per_cell=None)
        deal(db, planned, number, kind, slot, at, moment(facts["lease_minutes"]) if kind == "person" else None)
    return token


def rater_by_token(path: Path, token: str) -> Rater | None:
    """The rater whom a cookie belongs to, None for a stranger."""
    with connect(path) as db:
        return _by_token(db, token, "cookie")


def rater_by_label(path: Path, label: str) -> Rater | None:
    """The rater with this pseudonym."""
    with connect(path) as db:
        row = one(db, "SELECT id, label, language FROM rater WHERE label = ?", [label])
    return Rater(**row) if row else None


def new_device(path: Path, return_token: str) -> str:
    """A new cookie token for whoever holds a return link. Raises RefusedError for one that is none."""
    token = secrets.token_urlsafe(32)
    with write(path) as db:
        rater = _by_token(db, return_token, "return")
        if rater is None:
            raise RefusedError("return", "this link is not valid", hint="make a new one in the browser you began in")
        _keep(db, rater.id, token, "cookie", moment())
    return token


def return_token(path: Path, rater: int) -> str:
    """A new return link's token; the one before stops working. Raises RefusedError for a rater who has withdrawn."""
    token = secrets.token_urlsafe(32)
    with write(path) as db:
        if one(db, "SELECT 1 FROM rater WHERE id = ?", [rater]) is None:
            raise RefusedError("gone", "there is no such rater", hint="join again, if you like")
        db.conn.execute("DELETE FROM token WHERE rater = ? AND purpose = 'return'", [rater])
        _keep(db, rater, token, "return", moment())
    return token


def withdraw(path: Path, rater: int) -> None:
    """Delete a rater and everything of theirs; label and time stay, and the log says that it happened.

    Free pages and the write-ahead log are overwritten too, so that nothing is left in the files either. A rater who is
    gone already is no error.
    """
    at = moment()
    with write(path) as db:
        row = one(db, "SELECT label FROM rater WHERE id = ?", [rater])
        if row is None:
            return
        db.conn.execute("INSERT INTO withdrawal (label, at) VALUES (?, ?)", (row["label"], at))
        db.conn.execute("UPDATE invite SET rater = NULL, note = '' WHERE rater = ?", [rater])
        _delete(db, rater)
        db.conn.execute("INSERT INTO log (at, actor, action) VALUES (?, ?, 'withdraw')", (at, f"rater:{row['label']}"))
    with connect(path) as db:
        db.conn.execute("PRAGMA wal_checkpoint(TRUNCATE)")


def _delete(db: Database, rater: int) -> None:
    for table in _TABLES_OF_A_RATER:
        by_item = table in ("rating_event", "rating", "turn", "chat")
        where = "assignment IN (SELECT id FROM assignment WHERE rater = ?)" if by_item else "rater = ?"
        db.conn.execute(f"DELETE FROM {table} WHERE {where}", [rater])
    db.conn.execute("DELETE FROM rater WHERE id = ?", [rater])


def _forget_unseen(db: Database, invite: str | None, crowd: Mapping[str, str] | None) -> None:
    """Take back a joining with this invitation, or as this participant, whose rater has not seen any page.

    The page opens with the cookie, so that cookie was lost on its way, and with it the only way back in.
    """
    who = [str((crowd or {}).get(name, ""))[:MAX_CROWD] for name in ("platform", "person", "study")]
    lost = db.conn.execute(
        "SELECT id FROM rater WHERE (id IN (SELECT rater FROM invite WHERE hash = ?)"
        " OR id IN (SELECT rater FROM crowd WHERE platform = ? AND person = ? AND study = ? AND ?))"
        " AND NOT EXISTS (SELECT 1 FROM assignment WHERE rater = rater.id AND opened_at IS NOT NULL)",
        (_hash(invite or ""), *who, bool(crowd)),
    ).fetchall()
    for (rater,) in lost:
        db.conn.execute("UPDATE invite SET rater = NULL, used_at = NULL WHERE rater = ?", [rater])
        _delete(db, rater)


def _open_study(db: Database) -> dict[str, Any]:
    facts = one(db, "SELECT * FROM study")
    if facts is None or facts["state"] != "open":
        reason = "closed" if facts is None or facts["state"] == "closed" else "paused"
        raise RefusedError(reason, "this study takes no raters now", hint="ask whoever sent you here")  # type: ignore[arg-type]
    return facts


def _invitation(db: Database, facts: Mapping[str, Any], invite: str | None) -> int | None:
    """The row of an invitation that can be claimed; None for someone who needs none."""
    if invite is not None:
        row = one(db, "SELECT id FROM invite WHERE hash = ? AND used_at IS NULL", [_hash(invite)])
        if row is None:
            raise RefusedError("invite", "this invitation is not valid, or was used already", hint="ask for another")
        return int(row["id"])
    if not facts["open_join"]:
        raise RefusedError("invite", "this study is by invitation", hint="open the link that you were sent")
    if facts["max_raters"] is not None:
        joined = db.conn.execute(
            "SELECT count(*) FROM rater WHERE kind = 'person' AND id NOT IN"
            " (SELECT rater FROM invite WHERE rater IS NOT NULL)"
        ).fetchone()[0]
        if joined >= facts["max_raters"]:
            raise RefusedError("full", "this study has all the raters that it needs", hint="thank you all the same")
    return None


def _number(db: Database) -> int:
    """The next rater's number: one that nobody has had, also nobody who withdrew."""
    sql = "SELECT coalesce(max(cast(substr(label, 2) AS INTEGER)), 0) + 1 FROM"
    return int(db.conn.execute(f"{sql} (SELECT label FROM rater UNION ALL SELECT label FROM withdrawal)").fetchone()[0])


def _slot(db: Database, kind: str) -> int:
    """The first place in the turns of codes and orders that is free, for this kind of rater."""
    taken = {row["slot"] for row in db.query("SELECT slot FROM rater WHERE kind = ?", [kind])}
    return next(slot for slot in range(len(taken) + 1) if slot not in taken)


def _enter_crowd(db: Database, rater: int, crowd: Mapping[str, str]) -> None:
    values = [str(crowd.get(name, ""))[:MAX_CROWD] for name in CROWD]
    try:
        db.conn.execute(f"INSERT INTO crowd (rater, {', '.join(CROWD)}) VALUES (?, ?, ?, ?, ?)", (rater, *values))
    except sqlite3.IntegrityError:
        raise RefusedError(
            "again", "somebody with this participant number takes part already", hint="go on where you began"
        ) from None


def _keep(db: Database, rater: int, token: str, purpose: str, at: str) -> None:
    db.conn.execute(
        "INSERT INTO token (hash, rater, purpose, at) VALUES (?, ?, ?, ?)", (_hash(token), rater, purpose, at)
    )


def _by_token(db: Database, token: str, purpose: str) -> Rater | None:
    row = one(
        db,
        "SELECT rater.id, label, language FROM token JOIN rater ON rater.id = token.rater"
        " WHERE hash = ? AND purpose = ?",
        [_hash(token), purpose],
    )
    return Rater(**row) if row else None


def _hash(token: str) -> str:
    return hashlib.sha256(token.encode("utf-8", "surrogatepass")).hexdigest()

"""What the owner of a study does to it: pause, open, close, extend, invite, unblind. Each act is in the log with it.

An act and its entry in the log are one transaction: there is never one without the other.
"""

import hashlib
import secrets
from pathlib import Path
from typing import Literal

from sqlite_utils import Database

from harness.errors import RatingError
from harness.rundir import now
from studyapp.db import write
from studyapp.store_owner import Overview, overview_in

Action = Literal["pause", "open", "close"]
STATES: dict[Action, str] = {"pause": "paused", "open": "open", "close": "closed"}

MAX_INVITES = 1000
MAX_NOTE = 200
MAX_MORE = 100_000


def set_state(path: Path, action: Action, actor: str) -> bool:
    """Pause, open or close the study; False if it is in that state already.

    While it is paused nobody can join or rate; what is there is kept. A closed study can be opened again until it is
    unblinded. Raises RatingError for what is not possible any more.
    """
    state = STATES[action]
    with write(path) as db:
        facts = overview_in(db, path)
        if facts.state == state:
            return False
        if facts.unblinded_at:
            raise RatingError(
                f"the study was unblinded at {facts.unblinded_at} and stays closed",
                hint="rate in another run directory: those who have seen the arms' names would not be blind",
            )
        if action == "pause" and facts.state == "closed":
            raise RatingError("the study is closed, so there is nothing to pause", hint="open it first")
        db.conn.execute("UPDATE study SET state = ?, closed_at = ?", (state, now() if action == "close" else None))
        _log(db, actor, action, f"was {facts.state}")
    return True


def extend(path: Path, actor: str, *, raters: int = 0, ratings: int = 0) -> Overview:
    """Let `raters` more join without an invitation, and want `ratings` more of each cell; returns what holds now.

    Raises RatingError where nothing is added, or a limit that does not exist would be raised.
    """
    for what, more in (("raters", raters), ("ratings", ratings)):
        if not 0 <= more <= MAX_MORE:
            raise RatingError(f"cannot add {more} {what}", hint=f"name a number from 1 to {MAX_MORE}")
    if not raters and not ratings:
        raise RatingError("extend by what?", hint="name how many raters more, or how many ratings of each cell")
    with write(path) as db:
        facts = overview_in(db, path)
        if facts.state == "closed":
            raise RatingError("the study is closed", hint="open it first")
        if raters and facts.max_raters is None:
            raise RatingError("there is no limit to how many raters may join", hint="leave the number of raters out")
        db.conn.execute(
            "UPDATE study SET max_raters = max_raters + ?, ratings_per_cell = ratings_per_cell + ?", [raters, ratings]
        )
        words = [
            f"{more} more {what}" for what, more in (("raters", raters), ("ratings of each cell", ratings)) if more
        ]
        _log(db, actor, "extend", ", ".join(words))
        return overview_in(db, path)


def invite(path: Path, count: int, actor: str, note: str = "") -> list[str]:
    """Make `count` invitations; returns their tokens, of which only sha256 is kept.

    Raises RatingError for a closed study, an impossible number or a note that is too long.
    """
    if not 1 <= count <= MAX_INVITES:
        raise RatingError(f"cannot make {count} invitations", hint=f"name a number from 1 to {MAX_INVITES}")
    if len(note) > MAX_NOTE:
        raise RatingError(f"the note has {len(note)} characters", hint=f"keep it within {MAX_NOTE}")
    tokens = [secrets.token_urlsafe(24) for _ in range(count)]
    with write(path) as db:
        if overview_in(db, path).state == "closed":
            raise RatingError("the study is closed and takes no raters", hint="open it first")
        db.conn.executemany(
            "INSERT INTO invite (hash, created_at, note) VALUES (?, ?, ?)",
            [(hashlib.sha256(token.encode()).hexdigest(), now(), note) for token in tokens],
        )
        _log(db, actor, "invite", f"{count}")  # not the note: it may say a name, and goes with whoever withdraws
    return tokens


def unblind(path: Path, actor: str) -> bool:
    """Note that the arms' names are known from now on; False if they are already.

    Raises RatingError while the study is not closed.
    """
    with write(path) as db:
        facts = overview_in(db, path)
        if facts.unblinded_at:
            return False
        if facts.state != "closed":
            raise RatingError(
                f"the study is {facts.state}, and names would end its blindness",
                hint="close it first: viva study RUN close",
            )
        _log(db, actor, "unblind", "")
    return True


def record(path: Path, actor: str, action: str, detail: str = "") -> None:
    """Enter something into the log that changes nothing, such as an export."""
    with write(path) as db:
        _log(db, actor, action, detail)


def _log(db: Database, actor: str, action: str, detail: str) -> None:
    db.conn.execute("INSERT INTO log (at, actor, action, detail) VALUES (?, ?, ?, ?)", (now(), actor, action, detail))

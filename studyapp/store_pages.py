"""What a rater sees: where they are, and one page with all that is shown of it.

Looking at a page is a write as well: it starts the clock, and renews the rater's lease on what is not rated yet.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import combinations
from pathlib import Path
from typing import Any

from sqlite_utils import Database

from harness.records import Message
from studyapp.db import moment, one, write
from studyapp.records import Item, Panel, RefusedError, View

RENEW_MINUTES = 1.0
"""A lease is written anew only if that gains so much: most requests of a rater leave it as it is."""
ALL_PAIRS = 4
"""Up to so many codes the end questions ask about every pair, beyond that about a ring of pairs."""

_ITEMS = """
SELECT assignment.id, assignment.position, place, code, assignment.mode, assignment.kind, assignment.scenario,
    coalesce(scenario.goal, extra.goal) AS goal, coalesce(scenario.reached, extra.reached) AS reached,
    coalesce(scenario.opening, extra.opening) AS opening, coalesce(scenario.turns, 1) AS turns,
    coalesce(extra.messages, answer.messages) AS messages, feedback, shown_at, done_at,
    coalesce(rating.revision, 0) AS revision, satisfaction, goal_achievement, coalesce(comment, '') AS comment
FROM assignment
LEFT JOIN scenario ON scenario.id = assignment.scenario
LEFT JOIN extra ON extra.id = assignment.extra
LEFT JOIN answer ON answer.scenario = assignment.scenario AND answer.arm_key = assignment.arm_key
LEFT JOIN rating ON rating.assignment = assignment.id
WHERE rater = ? AND position = ? AND released_at IS NULL ORDER BY place
"""


@dataclass(frozen=True)
class Chat:
    """A live chat as it is stored: turns from the first one, and when and how it ended."""

    turns: tuple[Mapping[str, Any], ...] = ()
    ended_by: str | None = None

    @property
    def messages(self) -> tuple[Message, ...]:
        """What was said, without answers that failed."""
        said = [turn for turn in self.turns if turn["role"] == "user" or turn["finish"] is not None]
        return tuple(Message(role=turn["role"], content=turn["content"]) for turn in said)

    @property
    def answered(self) -> int:
        """How many turns have their answer."""
        return sum(turn["role"] == "assistant" and turn["finish"] is not None for turn in self.turns)

    @property
    def asked(self) -> int:
        """How many turns the rater has begun."""
        return sum(turn["role"] == "user" for turn in self.turns)

    @property
    def version(self) -> int:
        """A number that grows with everything that is stored of the chat."""
        told = sum(turn["attempt"] for turn in self.turns if turn["role"] == "user")
        heard = sum(turn["failed"] + (turn["finish"] is not None) for turn in self.turns if turn["role"] == "assistant")
        return int(told + heard + (self.ended_by is not None))


def look(path: Path, rater: int, position: int | None = None) -> View:
    """Where a rater is, or the page at a position; see `view`."""
    with write(path, durable=False) as db:
        return view(db, rater, position)


def step(path: Path, rater: int, position: int, by: int) -> View:
    """The page before (`by` -1) or after (+1) a position; the first one, or the first unrated one, where it ends."""
    with write(path, durable=False) as db:
        pages = progress(db, rater)
        if by < 0:
            before = [at for at in pages if at < position]
            return view(db, rater, before[-1] if before else next(iter(pages), None))
        first = first_open(pages)
        behind = [at for at in pages if at > position and (first is None or at <= first)]
        return view(db, rater, behind[0] if behind else first)


def view(db: Database, rater: int, position: int | None = None) -> View:
    """What a rater sees at a position (None: where they left off), noting that it is shown now.

    Raises RefusedError for a position that is not the rater's, or not reached yet.
    """
    at = moment()
    facts = one(db, "SELECT * FROM study")
    assert facts is not None
    pages = progress(db, rater)
    first = first_open(pages)
    done, total, last = sum(pages.values()), len(pages), max(pages, default=0)
    touch(db, rater, at, facts["lease_minutes"])
    here = View("end", done, total, item=None, position=last + 1, released=_released(db, rater))
    position = first if position is None else position
    if position is None or (position > last and first is None):
        return _end(db, rater, facts, here)
    if position not in pages or (first is not None and position > first):
        raise RefusedError("gone", f"item {position} is not yours to rate now", hint="reload the page")
    if facts["state"] != "open":
        return replace(here, state=facts["state"], position=position)
    # a live chat shows itself anew with every answer: its clock goes on until it is rated
    db.conn.execute(
        "UPDATE assignment SET opened_at = coalesce(opened_at, :at),"
        " shown_at = CASE WHEN mode = 'live' AND done_at IS NULL THEN coalesce(shown_at, :at) ELSE :at END"
        " WHERE rater = :rater AND position = :position",
        {"at": at, "rater": rater, "position": position},
    )
    before = any(page < position for page in pages)
    shown = item(rows(db, rater, position), db)
    return replace(here, state="item", item=shown, position=position, can_go_back=before)


def rows(db: Database, rater: int, position: int) -> list[dict[str, Any]]:
    """The assignments of a page by place, with all that is shown of them."""
    return list(db.query(_ITEMS, [rater, position]))


def item(found: Sequence[dict[str, Any]], db: Database) -> Item:
    """A page as the rater sees it."""
    head = found[0]
    live = chat(db, head["id"]) if head["mode"] == "live" else None
    preferred = preference(db, found)
    panels = tuple(
        Panel(
            place=row["place"],
            code=row["code"],
            messages=live.messages if live else _messages(row["messages"]),
            revision=row["revision"],
            satisfaction=row["satisfaction"],
            goal_achievement=row["goal_achievement"],
            comment=row["comment"],
        )
        for row in found
    )
    rated = head["done_at"] is not None
    training = head["kind"] == "training"
    feedback = "\n".join(dict.fromkeys(row["feedback"] for row in found if row["feedback"])) if training else ""
    return Item(
        position=head["position"],
        mode=head["mode"],
        training=training,
        goal=head["goal"],
        reached=head["reached"],
        opening=head["opening"],
        turns=head["turns"],
        panels=panels,
        preference=preferred["code"] if preferred else None,
        preferred=preferred is not None,
        writing=live is not None and not rated and live.ended_by is None and live.answered < head["turns"],
        rateable=live is None or (live.ended_by is not None and live.answered > 0),
        feedback=feedback if training and rated else None,
        version=version(found, live, preferred),
    )


def version(found: Sequence[Mapping[str, Any]], live: Chat | None, preferred: Mapping[str, Any] | None) -> int:
    """A number that grows with everything that is stored of a page."""
    said = sum(row["revision"] for row in found) + (preferred["revision"] if preferred else 0)
    return int(said) + (live.version if live else 0)


def preference(db: Database, found: Sequence[Mapping[str, Any]]) -> dict[str, Any] | None:
    """The preference that holds for a page: its code and revision."""
    return one(
        db,
        "SELECT preference.code, preference.revision FROM preference JOIN assignment USING (rater, position)"
        " WHERE assignment.id = ? ORDER BY preference.revision DESC",
        [found[0]["id"]],
    )


def chat(db: Database, assignment: int) -> Chat:
    """A live chat; an empty one where nothing has been said."""
    turns = db.query("SELECT * FROM turn WHERE assignment = ? ORDER BY number, role = 'assistant'", [assignment])
    head = one(db, "SELECT ended_by FROM chat WHERE assignment = ?", [assignment])
    return Chat(tuple(turns), head["ended_by"] if head else None)


def progress(db: Database, rater: int) -> dict[int, bool]:
    """The positions that are a rater's, in order, and whether each is rated."""
    found = db.conn.execute(
        "SELECT position, min(done_at IS NOT NULL) FROM assignment WHERE rater = ? AND released_at IS NULL"
        " GROUP BY position ORDER BY position",
        [rater],
    )
    return {position: bool(done) for position, done in found}


def first_open(pages: Mapping[int, bool]) -> int | None:
    """The first position that is not rated."""
    return next((position for position, done in pages.items() if not done), None)


def pairs(db: Database, rater: int) -> tuple[tuple[str, str], ...]:
    """The pairs of codes that the end questions ask about: of arms that the rater has rated."""
    codes = [
        row["code"]
        for row in db.query(
            "SELECT DISTINCT code FROM assignment WHERE rater = ? AND kind = 'rated' AND done_at IS NOT NULL"
            " ORDER BY length(code), code",
            [rater],
        )
    ]
    if len(codes) <= ALL_PAIRS:
        return tuple(combinations(sorted(codes), 2))
    ring = zip(codes, [*codes[1:], codes[0]], strict=True)
    return tuple(sorted((min(pair), max(pair)) for pair in ring))


def touch(db: Database, rater: int, at: str, lease_minutes: float) -> None:
    """Note that a rater is there, which renews their lease. Raises RefusedError for one who has withdrawn."""
    if not db.conn.execute("UPDATE rater SET last_seen = ? WHERE id = ?", (at, rater)).rowcount:
        raise RefusedError("gone", "there is no such rater", hint="join again, if you like")
    db.conn.execute(
        "UPDATE assignment SET leased_until = :until WHERE rater = :rater AND done_at IS NULL AND released_at IS NULL"
        " AND leased_until < :soon",
        {
            "until": moment(lease_minutes),
            "soon": moment(lease_minutes - min(RENEW_MINUTES, lease_minutes / 10)),
            "rater": rater,
        },
    )


def _end(db: Database, rater: int, facts: Mapping[str, Any], here: View) -> View:
    """What comes behind the last page: the questions, then thanks and, for all of it, the completion code."""
    own = one(db, "SELECT questions_at FROM rater WHERE id = ?", [rater])
    asked = pairs(db, rater) if facts["questions"] and own and own["questions_at"] is None else ()
    if asked and facts["state"] == "paused":
        return replace(here, state="paused")
    here = replace(here, can_go_back=here.total > 0 and facts["state"] == "open")
    if asked and facts["state"] == "open":
        return replace(here, state="questions", pairs=asked)
    whole = here.done > 0 and not here.released
    return replace(here, completion=facts["completion_url"] or facts["completion_code"] if whole else None)


def _released(db: Database, rater: int) -> int:
    """Pages that went to other raters. Those given up because a model failed are nobody's fault."""
    sql = "SELECT count(DISTINCT position) FROM assignment WHERE rater = ? AND released_why = 'lease'"
    return int(db.conn.execute(sql, [rater]).fetchone()[0])


def _messages(text: str) -> tuple[Message, ...]:
    return tuple(Message(**message) for message in json.loads(text))

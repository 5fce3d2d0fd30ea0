"""A study with something of everything for its owner to look at, written into a real database row by row.

Twelve rated items for each rater (four scenarios, three arms), a known-answer item, a repeat; fixed chats, one
side-by-side page and one live chat. R01 is careful, R02 always says 3 and 3, R03 reads nothing, R04 misses the check
and rates repeats otherwise, R05 is a judge.
"""

import hashlib
import itertools
import json
from collections.abc import Callable, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from studyapp.db import prepare, write

KEYS = ("0canary11", "1canary22", "2canary33")
SCENARIOS = ("s1", "s2", "s3", "s4")
CROWD = "PROLIFIC-CANARY"
EVIL = '<img src="http://evil.example/x.png"> =HYPERLINK("http://evil.example") \u202e ![x](http://evil.example/y)'

Mark = Callable[[int, int, int], tuple[int, int]]
"""Marks by rater, position and number of the arm, in the order of the keys."""


def marks_of(rater: int, position: int, arm: int) -> tuple[int, int]:
    if rater == 2:
        return 3, 3
    return 1 + (position * (arm + 1) + rater) % 5, 1 + (position + 2 * arm + rater) % 5


def at(minutes: float) -> str:
    return (datetime(2026, 11, 1, 9, tzinfo=UTC) + timedelta(minutes=minutes)).isoformat(timespec="milliseconds")


def make_owned(path: Path, keys: Sequence[str] = KEYS, marks: Mark = marks_of, state: str = "open") -> Path:
    """Write the study to `path`. Texts are given out by `keys` as they come, everything else by their order."""
    prepare(path)
    with write(path) as db:
        fill = Filler(db, keys, marks)
        fill.study(state)
        for rater in range(1, 6):
            fill.rater(rater)
        fill.rest()
    return path


class Filler:
    def __init__(self, db: Any, keys: Sequence[str], marks: Mark) -> None:
        self.db, self.keys, self.marks = db, keys, marks
        self.order = sorted(keys)

    def insert(self, table: str, **values: Any) -> int:
        names = ", ".join(values)
        slots = ", ".join(f":{name}" for name in values)
        return self.db.conn.execute(f"INSERT INTO {table} ({names}) VALUES ({slots})", values).lastrowid

    def study(self, state: str) -> None:
        self.insert(
            "study", id=1, uid="0badcafe", name="owned", mode="fixed", seed=7, ratings_per_cell=2,
            scenarios_per_rater=4, consent="Please.", consent_version=1, content="x", state=state, created_at=at(0),
            closed_at=at(900) if state == "closed" else None, open_join=1, max_raters=10, repeats=1, questions=1,
        )  # fmt: skip
        for number, name in enumerate(SCENARIOS):
            self.insert(
                "scenario", id=name, category="ab"[number % 2], goal=f"Goal {name} <b>", opening=f"Please, {name}.",
                turns=2, reached=f"It says {name}.", ord=number, mode="fixed",
            )  # fmt: skip
        for key in self.order:
            self.insert("arm", key=key)
        for arm, key in enumerate(self.keys):
            for name in SCENARIOS:
                chat = [
                    {"role": "user", "content": f"Please, {name}."},
                    {"role": "assistant", "content": f"Text {arm} for {name}. " + "word " * 100},
                ]
                self.insert("answer", scenario=name, arm_key=key, messages=json.dumps(chat))
        self.insert(
            "extra", id="c1", kind="check", ord=0, goal="Check", opening="Say 1 and 1.", reached="You gave 1.",
            messages="[]", satisfaction_from=1, satisfaction_to=1, goal_from=1, goal_to=1, feedback="",
        )  # fmt: skip

    def rater(self, rater: int) -> None:
        kind = "judge" if rater == 5 else "person"
        consent = {"consented_at": at(rater), "consent_version": 1} if kind == "person" else {}
        self.insert(
            "rater", id=rater, label=f"R{rater:02d}", kind=kind, slot=(rater - 1) % 4, joined_at=at(rater),
            last_seen=at(rater + 60), **consent,
        )  # fmt: skip
        self.insert(
            "token", hash=hashlib.sha256(b"%d" % rater).hexdigest(), rater=rater, purpose="cookie", at=at(rater)
        )
        self.codes = {key: "ABC"[(arm + rater) % 3] for arm, key in enumerate(self.order)}
        for key, code in self.codes.items():
            self.insert("code", rater=rater, arm_key=key, code=code)
        cells = [(name, (block + number) % 3) for block in range(3) for number, name in enumerate(SCENARIOS)]
        for position, (name, arm) in enumerate(cells, 1):
            if rater == 4 and position > 10:  # has two items left
                self.assign(rater, position, name, arm, None)
            else:
                self.assign(rater, position, name, arm, self.marks(rater, position, arm))
        self.check(rater, 13)
        if rater in (1, 4):
            for again, position in enumerate((1, 2)):
                name, arm = cells[position - 1]
                first = self.marks(rater, position, arm)
                second = first if rater == 1 else tuple(6 - mark if mark != 3 else 5 for mark in first)
                self.assign(rater, 14 + again, name, arm, second, kind="repeat")

    def assign(
        self, rater: int, position: int, scenario: str, arm: int, marks: Any, kind: str = "rated", **changes: Any
    ) -> int:
        key = self.order[arm]
        values = {"mode": "fixed", "place": 1, **changes}
        done = {"shown_at": at(rater + position), "done_at": at(rater + position + 1)} if marks else {}
        item = self.insert(
            "assignment", rater=rater, kind=kind, scenario=scenario, arm_key=key, code=self.codes[key],
            position=position, **values, **done,
        )  # fmt: skip
        if marks:
            self.rate(item, rater, position, marks)
        return item

    def rate(self, item: int, rater: int, position: int, marks: Any) -> None:
        comment = {(1, 1): EVIL, (1, 2): "=1+1", (4, 3): "fine"}.get((rater, position), "")
        values = {"satisfaction": marks[0], "goal_achievement": marks[1], "comment": comment}
        seconds = 0.5 if rater == 3 else 30.0 + position
        revisions = 2 if (rater, position) == (1, 5) else 1
        for revision in range(1, revisions + 1):  # a second look is short, and no sign of haste
            self.insert(
                "rating_event", assignment=item, revision=revision, seconds=seconds if revision == 1 else 0.1,
                at=at(rater + position + revision), **values,
            )  # fmt: skip
        self.insert(
            "rating", assignment=item, seconds=seconds if revisions == 1 else 0.1, revision=revisions,
            created_at=at(rater + position + 1), updated_at=at(rater + position + revisions), **values,
        )  # fmt: skip

    def check(self, rater: int, position: int) -> None:
        item = self.insert(
            "assignment", rater=rater, kind="check", mode="fixed", extra="c1", code="A", position=position, place=1,
            shown_at=at(rater + position), done_at=at(rater + position + 1),
        )  # fmt: skip
        self.rate(item, rater, position, (5, 5) if rater == 4 else (1, 1))

    def rest(self) -> None:
        """A side-by-side page and a live chat for R01, guesses, notes, invitations, and what is exported never."""
        self.codes = {key: "ABC"[(arm + 1) % 3] for arm, key in enumerate(self.order)}
        self.db.conn.execute("UPDATE assignment SET place = 1, mode = 'side-by-side' WHERE rater = 1 AND position = 12")
        self.db.conn.execute("UPDATE assignment SET position = 12, place = 2, mode = 'side-by-side'"
                             " WHERE rater = 1 AND position = 8")  # fmt: skip
        for revision, code in ((1, "A"), (2, None)):
            self.insert("preference", rater=1, position=12, revision=revision, code=code, at=at(30 + revision))
        live = self.db.conn.execute("SELECT id FROM assignment WHERE rater = 1 AND position = 10").fetchone()[0]
        self.db.conn.execute("UPDATE assignment SET mode = 'live' WHERE id = ?", [live])
        self.insert("chat", assignment=live, started_at=at(20), ended_at=at(25), ended_by="rater")
        for number, role, text in ((1, "user", "Hello?"), (1, "assistant", "Live words.")):
            finish = {"finish": "stop", "underruns": 2, "late_s": 0.5} if role == "assistant" else {}
            self.insert("turn", assignment=live, number=number, role=role, content=text, at=at(21), **finish)
        for one, two in itertools.combinations("ABC", 2):
            self.insert("guess", rater=1, code_a=one, code_b=two, larger=one if two == "B" else None, at=at(50))
        self.insert("problem", rater=1, assignment=live, text=EVIL, at=at(40))
        self.insert("problem", rater=3, text="I cannot scroll", at=at(41))
        self.insert("crowd", rater=1, platform="prolific", person=CROWD, study="x", session="y")
        self.insert("withdrawal", label="R00", at=at(2))
        self.insert("invite", hash="h1", created_at=at(0), used_at=at(1), rater=1, note="first <i>wave</i>")
        self.insert("invite", hash="h2", created_at=at(0))
        self.insert("log", at=at(0), actor="cli", action="invite", detail="2")

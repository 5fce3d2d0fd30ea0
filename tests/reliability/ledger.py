"""What raters have been told is saved, and whether the database has all of it, once.

Every text in it is unique, so that a row of the database says which request it came from.
"""

import sqlite3
import threading
from collections import Counter, defaultdict
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path


@dataclass
class Submit:
    """One set of marks for a page; `comment` is its name. `preference` is a code, None for none, "" where not asked."""

    page: str
    comment: str
    marks: tuple[int, int]
    panels: int
    preference: str | None
    saved: bool = False


@dataclass
class Message:
    """One message of a live chat. `saved`: the page took it; `answered`, `ended`: the page showed the chat so."""

    text: str
    saved: bool = False
    answered: bool = False
    ended: bool = False


@dataclass
class Ledger:
    """What was sent, in the order of each page, and what was acknowledged; shared by all raters' threads."""

    submits: list[Submit] = field(default_factory=list)
    messages: list[Message] = field(default_factory=list)
    surprises: list[str] = field(default_factory=list)
    answers: int = 0
    pressed: int = 0
    cut: int = 0
    turned_away: int = 0
    too_late: int = 0
    replayed: int = 0
    lock: threading.RLock = field(default_factory=threading.RLock)
    moved: threading.Condition = field(default_factory=threading.Condition)

    def arrived(self) -> None:
        """Count an answer of the server."""
        with self.moved:
            self.answers += 1
            self.moved.notify_all()

    def announce(self, submit: Submit | None = None) -> None:
        """Enter a set of marks, or that somebody joins, before it is sent."""
        if submit is not None:
            with self.lock:
                self.submits.append(submit)
        with self.moved:
            self.pressed += 1
            self.moved.notify_all()

    def count(self, what: str) -> None:
        """Count a request that was cut off, somebody turned away, ..."""
        with self.lock:
            setattr(self, what, getattr(self, what) + 1)

    def has_all_kinds(self) -> bool:
        """Whether anything was acknowledged that could have been lost: a rating, a live answer."""
        with self.lock:
            saved, answered = (submit.saved for submit in self.submits), (told.answered for told in self.messages)
            return bool(self.surprises) or (any(saved) and any(answered))

    def faults(self, db: Path) -> list[str]:
        """What the database lacks of all that is acknowledged by now, has twice, or has in the wrong order.

        Nobody can announce a request meanwhile, so whatever is in the database is known here.
        """
        with self.lock, closing(sqlite3.connect(db, timeout=60, isolation_level=None)) as connection:
            connection.execute("BEGIN")  # one picture of all the tables
            faults = list(self.surprises)
            faults += [f"integrity: {row}" for row in connection.execute("PRAGMA integrity_check") if row != ("ok",)]
            faults += [f"foreign key: {row}" for row in connection.execute("PRAGMA foreign_key_check")]
            faults += _ratings(connection, self.submits)
            faults += _turns(connection, self.messages)
            faults += _handed(connection)
            connection.execute("COMMIT")
        return faults

    def committed(self, db: Path) -> tuple[int, int, int]:
        """Ratings acknowledged, ratings committed whose acknowledgement was cut off, ratings that never arrived."""
        with closing(sqlite3.connect(db)) as connection:
            held = {comment for (comment,) in connection.execute("SELECT comment FROM rating_event")}
        saved = sum(submit.saved for submit in self.submits)
        silent = sum(not submit.saved and submit.comment in held for submit in self.submits)
        return saved, silent, len(self.submits) - saved - silent


def _ratings(connection: sqlite3.Connection, submits: list[Submit]) -> list[str]:
    faults = []
    events: dict[int, list[tuple[int, str, int, int]]] = defaultdict(list)
    for assignment, *event in connection.execute(
        "SELECT assignment, revision, comment, satisfaction, goal_achievement FROM rating_event"
        " ORDER BY assignment, revision"
    ):
        events[assignment].append(tuple(event))
    held: dict[str, list[int]] = defaultdict(list)  # comment -> assignments
    for assignment, rows in events.items():
        for _, comment, *_ in rows:
            held[comment].append(assignment)
        if [row[0] for row in rows] != list(range(1, len(rows) + 1)):
            faults.append(f"revisions of assignment {assignment}: {rows}")
    now = {row[0]: row[1:] for row in connection.execute(
        "SELECT assignment, revision, comment, satisfaction, goal_achievement FROM rating"
    )}  # fmt: skip
    if now != {assignment: rows[-1] for assignment, rows in events.items()}:
        faults.append("ratings and their history differ")
    done = {row for (row,) in connection.execute("SELECT id FROM assignment WHERE done_at IS NOT NULL")}
    if done != set(now):
        faults.append(f"rated but not done, or done but not rated: {sorted(done ^ set(now))}")
    known = {submit.comment: submit for submit in submits}
    for comment, assignments in held.items():
        if len(assignments) != len(set(assignments)):
            faults.append(f"duplicated: {comment} in {assignments}")
        if comment not in known:
            faults.append(f"from nowhere: {comment} in {assignments}")
        elif len(assignments) != known[comment].panels:
            faults.append(f"half a page: {comment} in {assignments}, of {known[comment].panels}")
    pages: dict[str, list[Submit]] = defaultdict(list)
    for submit in submits:
        pages[submit.page].append(submit)
        if submit.saved and submit.comment not in held:
            faults.append(f"lost: {submit.comment}, acknowledged")
    for page, sent in pages.items():
        faults += _in_order(connection, page, sent, held, events)
    return faults


def _in_order(
    connection: sqlite3.Connection,
    page: str,
    sent: list[Submit],
    held: dict[str, list[int]],
    events: dict[int, list[tuple[int, str, int, int]]],
) -> list[str]:
    """Whether each assignment of a page has its submits in the order in which they were sent, with their values."""
    here = [submit for submit in sent if submit.comment in held]
    faults = []
    for assignment in {assignment for submit in here for assignment in held[submit.comment]}:
        wanted = [(submit.comment, *submit.marks) for submit in here]
        if [event[1:] for event in events[assignment]] != wanted:
            faults.append(f"page {page}: {events[assignment]}, sent {wanted}")
    if here and here[-1].preference != "":
        rater, position = connection.execute(
            "SELECT rater, position FROM assignment WHERE id = ?", [held[here[-1].comment][0]]
        ).fetchone()
        said = connection.execute(
            "SELECT code FROM preference WHERE rater = ? AND position = ? ORDER BY revision", [rater, position]
        ).fetchall()
        if not said or said[-1] != (here[-1].preference,):
            faults.append(f"page {page}: prefers {said}, sent {here[-1].preference}")
    return faults


def _turns(connection: sqlite3.Connection, messages: list[Message]) -> list[str]:
    faults = []
    texts = Counter(text for (text,) in connection.execute("SELECT content FROM turn WHERE role = 'user'"))
    faults += [f"duplicated turn: {text}" for text, count in texts.items() if count > 1]
    answered = {
        text: (answer, ended)
        for text, answer, ended in connection.execute(
            "SELECT asked.content, answer.content, ended_by FROM turn AS asked JOIN chat USING (assignment)"
            " LEFT JOIN turn AS answer ON answer.assignment = asked.assignment AND answer.number = asked.number"
            " AND answer.role = 'assistant' AND answer.finish IS NOT NULL WHERE asked.role = 'user'"
        )
    }
    for message in messages:
        answer, ended = answered.get(message.text, (None, None))
        if message.saved and message.text not in texts:
            faults.append(f"lost turn: {message.text}, acknowledged")
        if message.answered and not (answer and whole(message.text) in answer):
            faults.append(f"lost answer to {message.text}: {answer!r}")
        if message.ended and ended is None:
            faults.append(f"the chat of {message.text} had ended")
    gaps = connection.execute(
        "SELECT assignment FROM turn WHERE role = 'user' GROUP BY assignment HAVING max(number) != count(*)"
    ).fetchall()
    return faults + [f"turns missing: assignment {row[0]}" for row in gaps]


def _handed(connection: sqlite3.Connection) -> list[str]:
    """Cells that more raters hold or have rated than are wanted.

    A rater's scenario counts as a whole: where a part of it was taken back, somebody else does all of it, and what had
    been rated stays.
    """
    return [
        f"handed to {count} raters: {scenario}, {arm}"
        for scenario, arm, count in connection.execute(
            "SELECT scenario, arm_key, count(*) FROM assignment AS item WHERE kind = 'rated' AND released_at IS NULL"
            " AND NOT EXISTS (SELECT 1 FROM assignment AS other WHERE other.rater = item.rater"
            " AND other.scenario = item.scenario AND other.released_at IS NOT NULL)"
            " GROUP BY scenario, arm_key HAVING count(*) > (SELECT ratings_per_cell FROM study)"
        )
    ]


def whole(text: str) -> str:
    """How every arm's answer to a message goes on, to its end."""
    return f"to: {text} It goes on for a while."

"""The ledger sees what is lost, doubled, out of order or handed to two: what `kill` looks for can be found."""

import sqlite3
from contextlib import closing
from pathlib import Path

import pytest

from studyapp import session
from studyapp.records import Marks
from tests.reliability.ledger import Ledger, Message, Submit, whole
from tests.studyapp.small_study import make, scenarios


@pytest.fixture
def rated(tmp_path: Path) -> tuple[Path, Ledger]:
    """Two items rated, the first of them twice, and one message of a live chat answered: all as acknowledged."""
    db, ledger = tmp_path / "study.db", Ledger()
    modes = ("fixed", "fixed", "live")  # s1, s2, ... in turn, beginning with the second
    make(db, crossing="between", items=scenarios(3, turns=2, modes=modes), ratings_per_cell=1)
    rater = session.who(db, session.join(db))
    assert rater is not None
    view = session.current(db, rater)
    while view.item:
        at, version = view.item.position, view.item.version
        if view.item.mode == "live":
            turn = session.say(db, rater, at, "Hello.")
            session.heard(db, rater, turn, f"Answer {whole('Hello.')}", finish="stop", underruns=0, late_s=0.0,
                          failed=False)  # fmt: skip
            version = session.end_chat(db, rater, at).item.version  # type: ignore[union-attr]
            ledger.messages.append(Message("Hello.", saved=True, answered=True, ended=True))
        for again in range(1 + (at == 1)):
            marks = (at + again, 5)
            view = session.rate(db, rater, at, [Marks(*marks, f"{at}, {again}")], version=version + again)
            ledger.submits.append(Submit(str(at), f"{at}, {again}", marks, 1, "", saved=True))
    return db, ledger


def test_what_is_as_it_should_be_is_no_fault(rated: tuple[Path, Ledger]) -> None:
    db, ledger = rated
    assert ledger.faults(db) == []
    assert ledger.committed(db) == (4, 0, 0)
    ledger.submits.append(Submit("1", "cut off on its way", (1, 1), 1, ""))
    assert ledger.faults(db) == []
    assert ledger.committed(db) == (4, 0, 1)


TRIGGERS = "SELECT name FROM sqlite_master WHERE type = 'trigger'"
EVENT = "INSERT INTO rating_event SELECT NULL, assignment, revision + 1, {}, at FROM rating_event WHERE revision = 1"
OTHER = "3, 3, 'new', 4"
SAME = "satisfaction, goal_achievement, comment, seconds"


@pytest.mark.parametrize(
    ("change", "found"),
    [
        ("DELETE FROM rating_event WHERE comment = '1, 1'", "lost: 1, 1, acknowledged"),
        ("DELETE FROM rating WHERE assignment = 1", "rated but not done"),
        ("UPDATE rating SET satisfaction = 5", "ratings and their history differ"),
        ("UPDATE rating_event SET satisfaction = 4 WHERE comment = '1, 0'", "page 1:"),
        (f"{EVENT.format(SAME)} AND assignment = 2", "duplicated: 2, 0"),
        (f"{EVENT.format(OTHER)} AND assignment = 2", "from nowhere: new"),
        ("DELETE FROM turn WHERE role = 'assistant'", "lost answer to Hello."),
        ("DELETE FROM turn WHERE role = 'user'", "lost turn: Hello."),
        ("UPDATE turn SET number = 2 WHERE role = 'user'", "turns missing"),
        ("UPDATE chat SET ended_by = NULL, ended_at = NULL", "the chat of Hello. had ended"),
        ("UPDATE study SET ratings_per_cell = 0", "handed to 1 raters"),
        ("UPDATE rating SET assignment = 99 WHERE assignment = 2", "foreign key"),
    ],
)
def test_whatever_goes_wrong_is_found(rated: tuple[Path, Ledger], change: str, found: str) -> None:
    db, ledger = rated
    with closing(sqlite3.connect(db)) as connection, connection:
        connection.execute("PRAGMA ignore_check_constraints = ON")
        for (name,) in connection.execute(TRIGGERS).fetchall():
            connection.execute(f"DROP TRIGGER {name}")
        assert connection.execute(change).rowcount > 0
    assert any(found in fault for fault in ledger.faults(db)), ledger.faults(db)


def test_a_page_of_several_chats_is_stored_as_a_whole(tmp_path: Path) -> None:
    db, ledger = tmp_path / "study.db", Ledger()
    make(db, mode="side-by-side", side=3)
    rater = session.who(db, session.join(db))
    assert rater is not None
    marks = [Marks(2, 2, "all of it"), Marks(2, 2, "all of it"), Marks(2, 2, "another")]
    session.rate(db, rater, 1, marks, preference="B", version=0)
    ledger.submits.append(Submit("1", "all of it", (2, 2), 3, "A", saved=True))
    assert {fault.split(":")[0] for fault in ledger.faults(db)} == {"half a page", "from nowhere", "page 1"}

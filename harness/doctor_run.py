"""`viva doctor RUN`: whether a study's database is whole, says what it should, and can be unblinded.

Everything is opened for reading only, and the state of the WAL is looked at first: opening a database may tidy it up.
"""

import contextlib
import json
import sqlite3
import stat
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

from harness.rundir import RunDir

Result = tuple[bool | None, str]
"""True: as it should be; False: a fault; None: worth knowing."""

NAMED = 3
"""How many faulty rows a line names."""

WAL_MAGIC = (0x377F0682, 0x377F0683)
WAL_HEADER = 32

# title -> rows that should not be there, one column of text each
ROWS = {
    "codes": """
        SELECT DISTINCT label FROM assignment JOIN rater ON rater.id = assignment.rater
        LEFT JOIN code ON code.rater = assignment.rater AND code.arm_key = assignment.arm_key
        WHERE assignment.arm_key IS NOT NULL AND code.code IS NOT assignment.code
        UNION SELECT label FROM rater JOIN code ON code.rater = rater.id GROUP BY rater.id
            HAVING count(DISTINCT code) <> count(*)
        UNION SELECT label FROM rater JOIN assignment ON assignment.rater = rater.id WHERE assignment.arm_key IS NULL
            AND assignment.extra IS NULL
    """,
    "duplicates": """
        SELECT label || ' ' || scenario FROM assignment JOIN rater ON rater.id = assignment.rater
        WHERE scenario IS NOT NULL GROUP BY rater, assignment.kind, scenario, arm_key HAVING count(*) > 1
        UNION SELECT label || ' item ' || position FROM assignment JOIN rater ON rater.id = assignment.rater
        GROUP BY rater, position, place HAVING count(*) > 1
        UNION SELECT 'assignment ' || assignment FROM rating GROUP BY assignment HAVING count(*) > 1
    """,
    "pages": """
        SELECT label || ' item ' || position FROM assignment JOIN rater ON rater.id = assignment.rater
        GROUP BY rater, position HAVING max(place) <> count(*) OR count(DISTINCT assignment.mode) > 1
            OR count(DISTINCT coalesce(scenario, '')) > 1
    """,
    "history": """
        SELECT 'assignment ' || rating.assignment FROM rating
        LEFT JOIN rating_event AS event ON event.assignment = rating.assignment AND event.revision = rating.revision
        WHERE event.id IS NULL OR event.satisfaction <> rating.satisfaction
            OR event.goal_achievement <> rating.goal_achievement OR event.comment <> rating.comment
        UNION SELECT 'assignment ' || event.assignment FROM rating_event AS event
        LEFT JOIN rating ON rating.assignment = event.assignment
        GROUP BY event.assignment HAVING count(DISTINCT event.revision) <> max(event.revision)
            OR coalesce(max(rating.revision), 0) <> max(event.revision)
    """,
    "done": """
        SELECT label || ' item ' || position FROM assignment JOIN rater ON rater.id = assignment.rater
        LEFT JOIN rating ON rating.assignment = assignment.id
        WHERE (done_at IS NULL) <> (rating.assignment IS NULL) OR (released_at IS NOT NULL AND done_at IS NOT NULL)
    """,
    "answers": """
        SELECT assignment.scenario || ' for ' || label FROM assignment JOIN rater ON rater.id = assignment.rater
        LEFT JOIN answer ON answer.scenario = assignment.scenario AND answer.arm_key = assignment.arm_key
        WHERE assignment.scenario IS NOT NULL AND assignment.mode <> 'live' AND answer.id IS NULL
    """,
    "withdrawn": "SELECT withdrawal.label FROM withdrawal JOIN rater ON rater.label = withdrawal.label",
}

# to the second: the log is not written finer than that
LATE = """
SELECT count(*) FROM rating_event JOIN assignment ON assignment.id = rating_event.assignment
JOIN rater ON rater.id = assignment.rater WHERE rater.kind = 'person' AND substr(at, 1, 19) > substr(?, 1, 19)
"""

FAULTS = {
    "codes": "every item stands under its rater's own code",
    "duplicates": "no item is there twice",
    "pages": "every page is whole",
    "history": "every rating is the last of its history",
    "done": "what is rated is marked as done, and nothing else",
    "answers": "every item has its chat",
    "withdrawn": "of those who withdrew nothing is left",
}


def examine_run(run: RunDir) -> int:
    """Print one line per check of a run directory; returns 1 if something is wrong."""
    failed = False
    for name, good, text in check_run(run):
        failed |= good is False
        sign = {True: "ok  ", False: "FAIL", None: "note"}[good]
        print(f"{sign} {name}: {text}", flush=True)
    return 1 if failed else 0


def check_run(run: RunDir) -> Iterator[tuple[str, bool | None, str]]:
    """Name, verdict and words of every check; those that need the database end where it cannot be read."""
    yield "wal", *_wal(run)
    if not run.db.is_file():
        yield "database", *(_no_database(run))
        return
    with contextlib.closing(sqlite3.connect(f"{run.db.absolute().as_uri()}?mode=ro", uri=True, timeout=10)) as db:
        good, text = _guarded(_integrity, db)
        yield "integrity", good, text
        if good is False:
            return
        yield "foreign keys", *_guarded(_foreign_keys, db)
        good, text = _guarded(_schema, db)
        yield "schema", good, text
        if good is True:
            for name in ROWS:
                yield name, *_guarded(partial(_rows, name), db)
            yield "state", *_guarded(_state, db)
        yield "blinding", *_guarded(partial(_blinding, run), db)
    yield "owner", *_owner(run)


def _guarded(check: Callable[[sqlite3.Connection], Result], db: sqlite3.Connection) -> Result:
    """A check's result; what SQLite cannot do is a fault."""
    try:
        return check(db)
    except sqlite3.Error as error:
        return False, f"cannot be read: {error}"


def _no_database(run: RunDir) -> Result:
    begun = run.blinding.exists()
    return (False if begun else None), f"there is no {run.db}" + (
        ", though arms have their keys; restore it from a copy" if begun else " yet; viva rate makes it"
    )


def _wal(run: RunDir) -> Result:
    wal = run.db.with_name(f"{run.db.name}-wal")
    if not wal.exists() or not wal.stat().st_size:
        return True, "nothing waits outside the database"
    size = wal.stat().st_size
    if not run.db.exists():
        return False, f"{wal.name} has {size} bytes of a database that is gone; put {run.db.name} back beside it"
    head = wal.read_bytes()[:WAL_HEADER] if size >= WAL_HEADER else b""
    if int.from_bytes(head[:4], "big") not in WAL_MAGIC:
        return False, f"{wal.name} is no write-ahead log of SQLite; SQLite will not read what should be in it"
    page, wanted = int.from_bytes(head[8:12], "big"), _page_size(run.db)
    if page != wanted:
        return False, f"{wal.name} belongs to another database: pages of {page} bytes, not {wanted}"
    if _served(run):
        return True, f"{size} bytes wait for the running page to write them"
    return (
        None,
        f"{size} bytes wait to be written, as after a crash; the next viva rate does it. Copy both files or none",
    )


def _page_size(db: Path) -> int:
    with db.open("rb") as file:
        size = int.from_bytes(file.read(18)[16:18], "big")
    return 65536 if size == 1 else size


def _served(run: RunDir) -> bool:
    """Whether a rating page holds the run directory."""
    import fcntl

    try:
        with (run.root / ".rate.lock").open() as file:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    except OSError:
        return False
    return False


def _integrity(db: sqlite3.Connection) -> Result:
    found = [text for (text,) in db.execute("PRAGMA integrity_check(10)")]
    if found == ["ok"]:
        return True, "the database is whole"
    return False, f"{_some(found)}; restore a copy, or save what is left with sqlite3's .recover"


def _foreign_keys(db: sqlite3.Connection) -> Result:
    found: dict[str, int] = {}
    for table, _, parent, _ in db.execute("PRAGMA foreign_key_check"):
        found[f"{table} without {parent}"] = found.get(f"{table} without {parent}", 0) + 1
    if not found:
        return True, "every row has what it refers to"
    return False, _some([f"{count} of {what}" for what, count in found.items()])


def _schema(db: sqlite3.Connection) -> Result:
    from sqlite_utils import Database

    from studyapp.schema import migrations

    with contextlib.closing(sqlite3.connect(":memory:")) as empty:
        known = [migration.name for migration in migrations.pending(Database(empty))]
    applied = [migration.name for migration in migrations.applied(Database(db))]
    if newer := [name for name in applied if name not in known]:
        return False, f"made by a newer version of Viva ({_some(newer)}); update this one"
    if pending := [name for name in known if name not in applied]:
        return None, f"{_some(pending)} still to come; the next viva rate does it"
    if db.execute("SELECT count(*) FROM study").fetchone()[0] != 1:
        return False, "it holds no study; run viva rate to put one in"
    return True, f"{len(applied)} steps done, none to come"


def _rows(name: str, db: sqlite3.Connection) -> Result:
    found = [str(text) for (text,) in db.execute(ROWS[name])]
    return (True, FAULTS[name]) if not found else (False, f"not so that {FAULTS[name]}: {_some(found)}")


def _state(db: sqlite3.Connection) -> Result:
    state, closed_at = db.execute("SELECT state, closed_at FROM study").fetchone()
    unblinded = db.execute("SELECT max(at) FROM log WHERE action = 'unblind'").fetchone()[0]
    if (state == "closed") != (closed_at is not None):
        return False, f"the study is {state}, but its time of closing is {closed_at or 'missing'}"
    if unblinded and state != "closed":
        return False, f"the study is {state}, but it was unblinded at {unblinded}"
    late = db.execute(LATE, [unblinded or "9999"]).fetchone()[0]
    if late:
        return False, f"{late} ratings are younger than the unblinding at {unblinded}"
    return True, f"the study is {state}" + (f", unblinded at {unblinded}" if unblinded else "")


def _blinding(run: RunDir, db: sqlite3.Connection) -> Result:
    keys = {key for (key,) in db.execute("SELECT key FROM arm")}
    if not run.blinding.exists():
        return False, "blinding.json is missing: no rating can be attributed; restore it from a copy"
    try:
        names: dict[Any, Any] = dict(json.loads(run.blinding.read_text(encoding="utf-8"))["arms"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        return False, f"blinding.json cannot be read ({error}); restore it from a copy"
    if missing := len(keys - set(names)):
        return False, f"{missing} of {len(keys)} arm keys of study.db are not in blinding.json; restore it from a copy"
    if len(set(names.values())) < len(names):
        return False, "two keys of blinding.json have one name; restore it from a copy"
    if mode := stat.S_IMODE(run.blinding.stat().st_mode) & 0o077:
        return False, f"others can reach blinding.json (mode {0o600 | mode:o}); chmod 600 it"
    return True, f"blinding.json names all {len(keys)} arms, for its owner's eyes only"


def _owner(run: RunDir) -> Result:
    path = run.root / "owner.json"
    if not path.exists():
        return None, "no password has been made; the owner's pages do not exist until viva rate makes one"
    if stat.S_IMODE(path.stat().st_mode) & 0o077:
        return False, "others can read owner.json, the hash of the owner's password; chmod 600 it"
    return True, "the owner's pages have a password"


def _some(values: list[str]) -> str:
    rest = len(values) - NAMED
    return ", ".join(values[:NAMED]) + (f" and {rest} more" if rest > 0 else "")

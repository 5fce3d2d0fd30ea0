"""`viva doctor RUN`: each planted fault is found, and a healthy study has none."""

import fcntl
import os
import shutil
import sqlite3

import pytest
from owned_run import make_run
from owned_study import KEYS

from harness.cli import main
from harness.doctor_run import check_run
from harness.rundir import RunDir
from studyapp import owner_lock


@pytest.fixture(scope="module")
def healthy(tmp_path_factory):
    root = make_run(tmp_path_factory.mktemp("healthy"))
    (root / "owner.json").write_text("{}")
    (root / "owner.json").chmod(0o600)
    return root


@pytest.fixture
def run(healthy, tmp_path):
    return shutil.copytree(healthy, tmp_path / "run")


def verdicts(root):
    return {name: (good, text) for name, good, text in check_run(RunDir(root))}


def faults(root):
    return {name: text for name, (good, text) in verdicts(root).items() if good is False}


def sql(root, *statements, keys=False):
    connection = sqlite3.connect(root / "study.db")
    connection.execute(f"PRAGMA foreign_keys = {'ON' if keys else 'OFF'}")
    for statement in statements:
        connection.execute(statement)
    connection.commit()
    connection.close()


def test_a_healthy_study_is_well_and_the_command_says_so(healthy, capsys):
    found = verdicts(healthy)
    assert set(found) == {
        *("wal", "integrity", "foreign keys", "schema", "codes", "duplicates", "pages", "history", "done", "answers"),
        *("withdrawn", "state", "blinding", "owner"),
    }
    assert {good for good, _ in found.values()} == {True}
    assert main(["doctor", str(healthy)]) == 0
    out = capsys.readouterr().out
    assert out.count("ok  ") == 14
    assert not any(key in out for key in KEYS)


PLANTED = [
    ("foreign keys", ["DELETE FROM code WHERE rater = 2"], "assignment without code"),
    ("foreign keys", ["UPDATE rating SET assignment = 9999 WHERE assignment = 1"], "1 of rating without assignment"),
    ("codes", ["DELETE FROM code WHERE rater = 2"], "R02"),
    ("codes", ["UPDATE assignment SET code = 'Z' WHERE rater = 3 AND position = 1"], "R03"),
    ("duplicates", ["DROP INDEX assignment_once", "UPDATE assignment SET (scenario, arm_key, code) = (SELECT scenario,"
     " arm_key, code FROM assignment WHERE rater = 2 AND position = 1) WHERE rater = 2 AND position = 2"], "R02 s1"),
    ("pages", ["UPDATE assignment SET place = 3 WHERE rater = 1 AND position = 12 AND place = 2"], "R01 item 12"),
    ("pages", ["UPDATE assignment SET mode = 'live' WHERE rater = 1 AND position = 12 AND place = 2"], "R01 item 12"),
    ("history", ["UPDATE rating SET satisfaction = 6 - satisfaction WHERE satisfaction = 1"], "assignment"),
    ("history", ["UPDATE rating SET revision = 1 WHERE revision = 2"], "assignment"),
    ("history", ["INSERT INTO rating_event (assignment, revision, satisfaction, goal_achievement, comment, seconds, at)"
     " SELECT assignment, 3, 1, 1, '', 1, at FROM rating_event WHERE id = 1"], "assignment 1"),
    ("done", ["UPDATE assignment SET done_at = NULL WHERE rater = 2 AND position = 3"], "R02 item 3"),
    ("done", ["UPDATE assignment SET done_at = '2026' WHERE done_at IS NULL"], "R04 item 11, R04 item 12"),
    ("answers", ["DELETE FROM answer WHERE scenario = 's2'"], "s2 for R01"),
    ("withdrawn", ["INSERT INTO withdrawal VALUES ('R03', '2026')"], "R03"),
    ("state", ["UPDATE study SET state = 'closed'"], "time of closing is missing"),
    ("state", ["INSERT INTO log (at, actor, action) VALUES ('2026-11-01T08:00', 'cli', 'unblind')"], "unblinded at"),
    ("state", ["UPDATE study SET state = 'closed', closed_at = '2026'", "INSERT INTO log (at, actor, action)"
     " VALUES ('2026-11-01T08:00', 'cli', 'unblind')"], "younger than the unblinding"),
    ("schema", ["INSERT INTO _sqlite_migrations (migration_set, name, applied_at) VALUES ('viva', 'm999_new', '')"],
     "newer version"),
    ("schema", ["DELETE FROM study"], "no study"),
    ("blinding", ["INSERT INTO arm VALUES ('another')"], "1 of 4 arm keys"),
]  # fmt: skip


@pytest.mark.parametrize(("name", "statements", "says"), PLANTED, ids=[f"{n}-{i}" for i, (n, *_) in enumerate(PLANTED)])
def test_a_planted_fault_is_found(run, name, statements, says):
    sql(run, *statements)
    assert says in faults(run)[name]


def test_a_fault_makes_the_command_fail(run, capsys):
    sql(run, "DELETE FROM code WHERE rater = 2")
    assert main(["doctor", str(run)]) == 1
    assert "FAIL codes: not so that every item stands under its rater's own code: R02" in capsys.readouterr().out


def test_a_damaged_file_is_found_and_ends_the_search(run):
    sql(run, "PRAGMA wal_checkpoint(TRUNCATE)")
    content = bytearray((run / "study.db").read_bytes())
    middle = len(content) // 2
    content[middle : middle + 8192] = os.urandom(8192)
    (run / "study.db").write_bytes(content)
    found = verdicts(run)
    assert found["integrity"][0] is False
    assert "codes" not in found
    (run / "study.db").write_bytes(b"no database at all, but long enough to look at" * 100)
    assert verdicts(run)["integrity"][0] is False


def test_a_database_of_an_older_version_is_worth_a_note(run):
    sql(run, "DELETE FROM _sqlite_migrations WHERE name <> 'm001_first_tables'")
    good, text = verdicts(run)["schema"]
    assert good is None
    assert "still to come" in text
    assert not faults(run)


def crashed(run):
    """Leave a write-ahead log behind, as a killed process does."""
    connection = sqlite3.connect(run / "study.db")
    connection.execute("PRAGMA journal_mode = WAL")
    connection.execute("UPDATE rater SET last_seen = '2027'")
    connection.commit()
    left = {name: (run / name).read_bytes() for name in ("study.db", "study.db-wal")}
    connection.close()
    for name, content in left.items():
        (run / name).write_bytes(content)
    return run / "study.db-wal"


def test_a_log_left_by_a_crash_is_worth_a_note_and_is_not_touched(run):
    wal = crashed(run)
    before = wal.read_bytes()
    good, text = verdicts(run)["wal"]
    assert (good, "as after a crash" in text) == (None, True)
    assert wal.read_bytes() == before
    with (run / ".rate.lock").open("a+") as file:  # the page runs
        fcntl.flock(file, fcntl.LOCK_EX)
        assert verdicts(run)["wal"][0] is True


def test_an_orphan_log_is_a_fault(run):
    wal = crashed(run)
    (run / "study.db").rename(run / "elsewhere.db")
    assert "of a database that is gone" in faults(run)["wal"]
    assert "restore it" in faults(run)["database"]
    (run / "elsewhere.db").rename(run / "study.db")
    wal.write_bytes(b"x" * 4096)
    assert "no write-ahead log" in faults(run)["wal"]
    connection = sqlite3.connect(run / "other.db")
    connection.execute("PRAGMA page_size = 8192")
    connection.execute("PRAGMA journal_mode = WAL")
    connection.execute("CREATE TABLE x (y)")
    connection.commit()
    wal.write_bytes((run / "other.db-wal").read_bytes())
    connection.close()
    assert "another database" in faults(run)["wal"]


def test_blinding_has_to_be_there_whole_private_and_of_this_study(run):
    path = run / "blinding.json"
    whole = path.read_text()
    path.chmod(0o640)
    assert "mode 640" in faults(run)["blinding"]
    path.chmod(0o600)
    path.write_text(whole.replace(KEYS[1], "f" * 16))
    assert "1 of 3 arm keys" in faults(run)["blinding"]
    path.write_text(whole.replace("studentname", "teachername"))
    assert "one name" in faults(run)["blinding"]
    path.write_text("{")
    assert "cannot be read" in faults(run)["blinding"]
    path.unlink()
    assert "missing" in faults(run)["blinding"]


def test_the_hash_of_the_owners_password_is_private(run):
    (run / "owner.json").chmod(0o644)
    assert "chmod 600" in faults(run)["owner"]
    (run / "owner.json").unlink()
    assert verdicts(run)["owner"][0] is None
    assert not owner_lock.sealed(run / "study.db")


def test_a_run_without_ratings_yet_is_no_fault(tmp_path):
    assert verdicts(tmp_path)["database"][0] is None
    assert not faults(tmp_path)
    assert list(tmp_path.iterdir()) == []

"""What the owner does from the terminal: invite, study, ratings, unblind, status."""

import hashlib
import json
import sqlite3
import sys

import pandas as pd
import pytest
from owned_run import ARMS, make_run
from owned_study import KEYS

from harness import cli_owner
from harness.cli import main
from studyapp import export, owner_lock, store_owner


@pytest.fixture
def run(tmp_path):
    return make_run(tmp_path)


@pytest.fixture
def viva(capsys):
    """Runs a command; returns its exit code, stdout and stderr."""

    def call(*words):
        capsys.readouterr()
        try:
            code = main([str(word) for word in words])
        except SystemExit as error:  # argparse
            code = error.code
        out, err = capsys.readouterr()
        assert "Traceback" not in err
        return code, out, err

    return call


def test_the_parsers_know_what_can_be_exported():
    assert tuple(export.FORMATS) == cli_owner.FORMATS
    assert tuple(export.TABLES) == cli_owner.TABLES


def test_invitations_are_links_whose_hashes_are_kept(run, viva):
    code, out, err = viva("invite", run, 3, "--note", "wave 2", "--url", "https://study.example/viva/")
    links = out.split()
    assert (code, len(links)) == (0, 3)
    assert "never again" in err
    assert all(link.startswith("https://study.example/viva/join/") for link in links)
    connection = sqlite3.connect(run / "study.db")
    hashes = {row[0] for row in connection.execute("SELECT hash FROM invite WHERE note = 'wave 2'")}
    connection.close()
    assert hashes == {hashlib.sha256(link.rsplit("/", 1)[1].encode()).hexdigest() for link in links}
    assert viva("invite", run, 1)[1].startswith("http://127.0.0.1:7860/join/")


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (("0",), "cannot make 0 invitations"),
        (("5000",), "from 1 to 1000"),
        (("many",), "invalid int"),
        (("1", "--url", "study.example"), "no address of a page"),
        (("1", "--note", "x" * 300), "300 characters"),
    ],
)
def test_impossible_invitations_are_named(run, viva, words, says):
    code, out, err = viva("invite", run, *words)
    assert code in (1, 2)
    assert out == ""
    assert says in err


def test_a_study_is_paused_opened_extended_and_closed(run, viva):
    assert viva("study", run, "pause")[1] == "the study is paused\n"
    assert viva("study", run, "pause")[1] == "the study is paused already\n"
    assert viva("study", run, "open")[1] == "the study is open\n"
    assert viva("study", run, "extend", "--raters", 5, "--ratings", 1)[1] == (
        "3 ratings of each cell, 15 raters at most\n"
    )
    assert viva("study", run, "close")[1] == "the study is closed\n"
    code, _, err = viva("study", run, "extend", "--ratings", 1)
    assert (code, "the study is closed" in err, "open it first" in err) == (1, True, True)
    assert viva("study", run, "explode")[0] == 2
    code, _, err = viva("study", run, "open", "--raters", 3)
    assert (code, "do nothing with open" in err) == (2, True)
    assert [entry["actor"] for entry in store_owner.log(run / "study.db")][:-1] == ["cli"] * 4


def test_ratings_are_written_by_ending_or_format(run, viva, tmp_path):
    for name, read in (("r.csv", pd.read_csv), ("r.parquet", pd.read_parquet)):
        code, out, _ = viva("ratings", run, "--out", tmp_path / name)
        assert (code, out) == (0, f"58 rows of ratings: {tmp_path / name}\n")
        assert len(read(tmp_path / name)) == 58
    assert viva("ratings", run, "--out", tmp_path / "h", "--table", "history", "--format", "jsonl")[0] == 0
    assert len((tmp_path / "h").read_text().splitlines()) == store_owner_events(run)
    assert not [path for path in tmp_path.iterdir() if path.name.endswith(".part")]


def store_owner_events(run):
    connection = sqlite3.connect(run / "study.db")
    count = connection.execute("SELECT count(*) FROM rating_event").fetchone()[0]
    connection.close()
    return count


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (("--out", "x.xlsx"), "which format"),
        (("--out", "x.json", "--format", "argilla"), "closed study only"),
        (("--out", "x.csv", "--table", "chats"), "closed study only"),
        (("--out", "x.json", "--format", "argilla", "--table", "guesses"), "not the table guesses"),
        (("--out", "x.csv", "--arms"), "viva unblind"),
        (("--out", "none/x.csv"), "cannot write"),
    ],
)
def test_impossible_exports_are_named_and_leave_nothing(run, viva, tmp_path, monkeypatch, words, says):
    monkeypatch.chdir(tmp_path)
    before = set(tmp_path.iterdir())
    code, out, err = viva("ratings", run, *words)
    assert code in (1, 2)
    assert out == ""
    assert says in err
    assert set(tmp_path.iterdir()) == before


def test_names_come_out_after_closing_and_a_confirmation(run, viva, tmp_path, monkeypatch):
    code, _, err = viva("unblind", run, "--yes")
    assert (code, "the study is open" in err) == (1, True)
    viva("study", run, "close")
    code, _, err = viva("unblind", run)  # no terminal to ask at
    assert (code, "--yes" in err) == (2, True)
    monkeypatch.setattr(sys.stdin, "isatty", lambda: True, raising=False)
    monkeypatch.setattr("builtins.input", lambda prompt: "no")
    assert viva("unblind", run)[0] == 1
    assert store_owner.overview(run / "study.db").unblinded_at is None

    code, out, _ = viva("unblind", run, "--yes")
    assert code == 0
    assert out.splitlines() == [f"arm {number}: {arm}, {count} ratings" for number, arm, count in
                                zip((1, 2, 3), ARMS, (16, 15, 15), strict=True)]  # fmt: skip
    code, again, err = viva("unblind", run)
    assert (code, again, "already" in err) == (0, out, True)
    actions = [entry["action"] for entry in store_owner.log(run / "study.db")]
    assert actions.count("unblind") == 1

    assert viva("ratings", run, "--out", tmp_path / "named.csv", "--arms")[0] == 0
    frame = pd.read_csv(tmp_path / "named.csv")
    connection = sqlite3.connect(run / "study.db")
    keys = [row[0] for row in connection.execute("SELECT arm_key FROM tidy_ratings")]
    connection.close()
    assert frame["arm"].tolist() == [dict(zip(KEYS, ARMS, strict=True))[key] for key in keys]
    assert store_owner.log(run / "study.db")[0]["detail"] == "ratings as csv, with names"
    code, _, err = viva("study", run, "open")
    assert (code, "stays closed" in err) == (1, True)


def test_chats_of_a_closed_study_go_to_other_tools(run, viva, tmp_path):
    viva("study", run, "close")
    for form in ("argilla", "label-studio"):
        code, out, _ = viva("ratings", run, "--out", tmp_path / "c.json", "--format", form)
        assert (code, out.split()[0]) == (0, "58")
        assert len(json.loads((tmp_path / "c.json").read_text())) == 13


@pytest.mark.parametrize("content", [None, "{}", "not json", '{"arms": []}'])
def test_without_blinding_nothing_is_unblinded(run, viva, content):
    viva("study", run, "close")
    (run / "blinding.json").unlink()
    if content is not None:
        (run / "blinding.json").write_text(content)
    code, _, err = viva("unblind", run, "--yes")
    assert code == 1
    assert "restore it from a copy" in err
    assert store_owner.overview(run / "study.db").unblinded_at is None


def test_status_shows_what_the_page_shows_and_no_arm_by_name_or_key(run, viva):
    code, out, _ = viva("status", run)
    assert code == 0
    assert "ratings: 46 by 4 raters, 3 finished; 12 of 12 cells have 2 or more; each arm has 15 to 16 (open)" in out
    assert "1 of 2 invitations used; 1 judge or simulated; 1 withdrew" in out
    rows = {line.split()[0]: line for line in out.splitlines() if line.startswith("  ")}
    assert "3 of 3" in rows["s1"]
    assert "13 of 15" in rows["R04"]
    assert "failed checks: 1 of 1 known answers missed" in rows["R04"]
    assert "straight-lining" in rows["R02"]
    ratings = out[out.index("ratings:") :]
    assert not any(word in ratings for word in (*KEYS, *ARMS, "satisfaction"))
    viva("study", run, "close")
    assert "arm 3" in viva("status", run)[1]


def test_status_and_the_page_say_the_same(run, viva):
    rows = [line for line in viva("status", run)[1].splitlines() if line.startswith("  ")]
    progress = store_owner.progress(run / "study.db")
    for part in progress.scenarios:
        assert any(
            line.split() == f"{part.id} {part.ratings} {part.full_cells} of {part.cells}".split() for line in rows
        )
    for person in progress.people:
        assert any(person.label in line and f"{person.done} of {person.total}" in line for line in rows)
    for code in progress.codes:
        assert f"  {code.code} {code.rated} {code.waiting}".split() in [line.split() for line in rows]


def test_the_owners_password_is_drawn_or_read_and_kept_as_a_hash(run, capsys, tmp_path, monkeypatch):
    from harness.errors import ConfigError, RatingError
    from harness.owner import seal_password
    from harness.stages import open_run

    monkeypatch.setitem(owner_lock.SCRYPT, "n", 2**4)
    opened = open_run(run)
    seal_password(opened, None)
    password = capsys.readouterr().err.split()[-1]
    assert owner_lock.matches(run / "study.db", password)
    assert password not in (run / "owner.json").read_text()
    file = tmp_path / "password"
    file.write_text("a long password\n")
    file.chmod(0o644)
    seal_password(opened, file)
    err = capsys.readouterr().err
    assert "chmod 600" in err
    assert "a long password" not in err
    assert owner_lock.matches(run / "study.db", "a long password")
    assert not owner_lock.matches(run / "study.db", password)
    file.write_text("short\n")
    with pytest.raises(RatingError, match="5 characters"):
        seal_password(opened, file)
    with pytest.raises(ConfigError, match="cannot read the owner's password"):
        seal_password(opened, tmp_path / "none")

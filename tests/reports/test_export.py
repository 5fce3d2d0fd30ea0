"""The files beside the page: tidy ratings with names, as CSV and Parquet, and the LaTeX table."""

import csv
import json
from pathlib import Path

import pyarrow.parquet as pq
from fixture_run import make_run

from reports.document import build
from reports.export import COLUMNS, latex, ratings_table
from reports.load import load
from reports.render import from_csv, make


def test_ratings_are_written_with_names_and_can_be_read_again(tmp_path: Path) -> None:
    root = make_run(tmp_path / "run")
    make(root, rate_command="viva rate x")
    folder = root / "report"
    with (folder / "ratings.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 504
    assert {row["arm"] for row in rows} == {"teacher", "distilled", "scratch"}
    table = pq.read_table(folder / "ratings.parquet")
    assert table.column_names == list(COLUMNS)
    assert table.column("satisfaction").to_pylist() == [int(row["satisfaction"]) for row in rows]
    # the same numbers again from the file
    again = from_csv(folder / "ratings.csv", "teacher", tmp_path / "again")
    one, two = (json.loads(path.read_text()) for path in (folder / "report.json", again.json))
    for arm in ("distilled", "scratch"):
        a, b = (report["arms"][arm]["satisfaction"]["fraction"] for report in (one, two))
        assert (a["estimate"], a["low"], a["df"]) == (b["estimate"], b["low"], b["df"])


def test_kinds_of_raters_stay_apart_in_the_file(tmp_path: Path) -> None:
    source = load(make_run(tmp_path / "run", kind="judge"))
    assert set(ratings_table(source.ratings).column("kind").to_pylist()) == {"judge"}
    assert not (tmp_path / "run" / "report").exists()


def test_latex_escapes_and_counts(tmp_path: Path) -> None:
    source = load(make_run(tmp_path / "run"))
    text = latex(source, build(source))
    assert r"\toprule" in text
    assert "14 raters, 24 scenarios, 504 ratings" in text
    assert text.count(r"\\") == 1 + 2 * 3
    for one in ("distilled", "scratch"):
        assert f"\n{one} & " in text
    assert latex(source, {**build(source), "arms": {}}) == ""


def test_nothing_is_written_without_ratings(tmp_path: Path) -> None:
    root = make_run(tmp_path / "run", raters=0)
    make(root, rate_command="viva rate x")
    assert sorted(path.name for path in (root / "report").iterdir()) == ["report.html", "report.json", "report.md"]

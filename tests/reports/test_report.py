"""The report of a run directory: what a reader finds in its three files."""

import json
import re
import socket
import sqlite3
from html import unescape
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from fixture_run import KEYS, make_run, ratings

from harness.errors import ConfigError, RunError
from harness.rundir import RunDir
from reports.document import build
from reports.load import load
from reports.render import from_csv, make, write_report
from reports.wording_kept import likelihood_kept

COMMAND = "viva rate data/studies/fixture.toml"


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = make_run(tmp_path_factory.mktemp("run"))
    make(root, rate_command=COMMAND)
    return root


def read(root: Path) -> tuple[str, str, dict[str, Any]]:
    folder = root / "report"
    return (
        (folder / "report.html").read_text(),
        (folder / "report.md").read_text(),
        json.loads((folder / "report.json").read_text(), parse_constant=pytest.fail),
    )


def test_fraction_is_that_of_the_database(run: Path) -> None:
    rows = sqlite3.connect(run / "study.db").execute("SELECT rater, scenario, arm_key, satisfaction FROM tidy_ratings")
    given = {(rater, scenario, KEYS[key]): value for rater, scenario, key, value in rows}
    cells = {key[:2] for key in given}
    means = {arm: np.mean([given[(*cell, arm)] for cell in cells]) for arm in KEYS.values()}
    html, md, report = read(run)
    for arm in ("distilled", "scratch"):
        kept = report["arms"][arm]["satisfaction"]["fraction"]
        assert kept["estimate"] == pytest.approx(means[arm] / means["teacher"])
        assert kept["low"] < kept["estimate"] < kept["high"]
        text = f"{100 * kept['estimate']:.0f}\u00a0% ({100 * kept['low']:.0f} to {100 * kept['high']:.0f})"
        assert text in html
        assert text in md


def test_headline_has_its_n(run: Path) -> None:
    _, _, report = read(run)
    assert report["headline"].startswith("The distilled student keeps ")
    headline = report["headline"].replace("\u00a0", " ")
    for part in ("95 % interval", "74 % of its parameters", "14 raters", "24 scenarios", "504 ratings"):
        assert part in headline


def test_json_layout(run: Path) -> None:
    _, _, report = read(run)
    block = report["arms"]["distilled"]["satisfaction"]
    assert set(block) >= {"n", "mean", "sd", "category", "pairs", "effect", "permutation", "wilcoxon", "ordered_logit"}
    assert set(block) >= {"fraction", "fraction_rescaled", "fraction_all", "non_inferiority", "equivalence"}
    assert set(block["fraction"]) >= {"estimate", "se", "df", "low", "high", "delta", "bootstrap"}
    assert set(block["fraction"]) >= {"n_cells", "n_raters", "n_scenarios"}
    assert set(block["difference"]) >= {"estimate", "low", "high", "p", "p_holm", "p_bh"}
    assert set(block["category"]) == {"advice", "explain", "writing"}
    assert {"krippendorff_ordinal", "krippendorff_interval", "icc"} <= set(report["reliability"]["satisfaction"])
    assert report["bradley_terry"]["satisfaction"]["teacher"]["log_strength"] == 0
    assert report["arms"]["distilled"]["costs"]["of_teacher"]["parameters"] == pytest.approx(0.7367, abs=1e-4)
    scores = {(score["suite"], score["metric"]): score for score in report["arms"]["distilled"]["scores"]}
    assert scores["sense", "acc"]["retained"] == pytest.approx(0.51 / 0.62)
    assert scores["sense", "acc"]["retained_above_chance"] == pytest.approx(0.26 / 0.37)
    assert scores["words", "teacher_text_kl"]["retained"] is None


def test_calibration_is_that_of_the_items(run: Path) -> None:
    html, _, report = read(run)
    lines = [
        json.loads(line) for line in (run / "bench" / "distilled" / "samples_sense.jsonl").read_text().splitlines()
    ]
    found = report["calibration"]["sense"]["distilled"]
    assert sum(one["n"] for one in found["bins"]) == found["n"] == len(lines)
    inside = [line for line in lines if 0.5 < line["confidence"] <= 0.6]
    one = next(one for one in found["bins"] if one["low"] == 0.5)
    assert one["accuracy"] == pytest.approx(np.mean([line["acc"] for line in inside]))
    gaps = [one["n"] * abs(one["accuracy"] - one["confidence"]) for one in found["bins"]]
    assert found["error"] == pytest.approx(sum(gaps) / found["n"])
    assert "figure-calibration" in html


def test_student_against_its_control(run: Path) -> None:
    html, _, report = read(run)
    control = report["arms"]["distilled"]["satisfaction"]["control"]
    assert control["arm"] == "scratch"
    assert control["low"] > 0
    assert "distilled against its control scratch" in html


def test_what_a_teacher_at_chance_teaches(tmp_path: Path) -> None:
    root = make_run(tmp_path / "run", raters=0)
    path = root / "bench" / "teacher" / "facts.json"
    path.write_text(path.read_text().replace("0.48", "0.29"))
    report = build(load(root))
    assert "teacher_at_chance" in {warning["code"] for warning in report["warnings"]}
    facts = next(score for score in report["arms"]["distilled"]["scores"] if score["suite"] == "facts")
    assert facts["retained_above_chance"] is None


def test_provenance_tells_how_students_were_made(run: Path) -> None:
    html, _, _ = read(run)
    assert "distilled: start: importance; 3\u00a0layers; the teacher&#39;s layers 0, 2, 5." in html
    assert "2.13.0" in html


class Links(HTMLParser):
    """Collects what a browser would load, and checks that elements are closed."""

    def __init__(self) -> None:
        super().__init__()
        self.loads: list[str] = []
        self.open: list[str] = []
        self.ids: list[str] = []

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        if tag not in ("meta", "br", "link", "img", "use", "path", "rect", "circle"):
            self.open.append(tag)
        for name, value in attributes:
            if name in ("src", "href", "xlink:href", "data") and value:
                self.loads.append(value)
            if name == "id" and value:
                self.ids.append(value)

    def handle_endtag(self, tag: str) -> None:
        if tag not in ("use", "path", "rect", "circle"):
            assert self.open.pop() == tag


def test_html_is_self_contained_and_whole(run: Path) -> None:
    html, _, _ = read(run)
    page = Links()
    page.feed(html)
    assert page.open == []
    assert all(link.startswith(("#", "data:text/csv")) for link in page.loads)
    assert not re.search(r"url\(['\"]?(?!#)", html)
    assert "<script" not in html
    assert len(html) < 3_000_000
    assert len(page.ids) == len(set(page.ids))


def test_chats_cannot_inject_markup(run: Path) -> None:
    html, _, _ = read(run)
    assert "<b>Air it</b>" not in html
    assert "&lt;b&gt;Air it&lt;/b&gt; &amp; keep" in html


def test_examples_follow_their_rule(run: Path) -> None:
    html, _, report = read(run)
    differences = {name: facts["difference"] for name, facts in report["by_scenario"]["distilled"].items()}
    best = min(differences, key=lambda name: (-differences[name], name))
    worst = max(differences, key=lambda name: (-differences[name], name))
    assert f"<h3>{best} <small>best for the student" in html
    assert f"<h3>{worst} <small>worst for the student" in html


def test_same_input_same_bytes(tmp_path: Path) -> None:
    found = []
    for name, times in (("a", 1), ("b", 2)):
        root = make_run(tmp_path / name)
        for _ in range(times):  # its own earlier report is no reason to say something else
            make(root, rate_command=COMMAND)
        found.append([path.read_bytes() for path in sorted((root / "report").iterdir())])
    assert found[0] == found[1]


def test_no_ratings_yet(tmp_path: Path) -> None:
    root = make_run(tmp_path / "run", raters=0)
    outputs = write_report(RunDir(root), rate_command=COMMAND)
    assert sorted(path.name for path in outputs) == ["report.html", "report.json", "report.md"]
    html, md, report = read(root)
    said = report["headline"].replace("\u00a0", " ")
    assert said.startswith(
        "The distilled student keeps 79 % (95 % interval 73 to 84) of the teacher's score, 1.36× smaller"
    )
    assert "1.40× faster" in said
    assert "n = 400 items" in said
    assert "Its control scratch keeps 46 %" in said
    assert "No person has rated yet" in said
    assert [warning["code"] for warning in report["warnings"]] == ["no_ratings"]
    for text in (html, md):
        assert COMMAND in text
        assert "134.5\u00a0M" in text
        assert "of the teacher's satisfaction" not in text
        assert "scratch, control of distilled (this study)" in text
    assert "figure-retained" in html
    assert "figure-frontier" in html
    assert "were kept: distilled 79 % (73 to 84) and scratch 46 % (37 to 56)" in report["methods"].replace(
        "\u00a0", " "
    )
    assert "figure-training" in html


def test_perplexity_alone_has_a_frontier_too(tmp_path: Path) -> None:
    root = make_run(tmp_path / "run", raters=0)
    for path in [*root.glob("bench/*/*sense*"), *root.glob("bench/*/*facts*")]:
        path.unlink()
    make(root, rate_command=COMMAND)
    html, _, report = read(root)
    assert all(pair["kept"] is None for pair in report["paired"])
    assert report["headline"].startswith("No person has rated yet")
    assert "likelihood of a token kept, %" in html
    assert "DistilBERT</text>" not in html.split('id="figure-frontier"')[1].split("</figure>")[0]
    kept = likelihood_kept(report, "distilled")
    assert kept["estimate"] == pytest.approx(31.0 / 58.2)
    assert kept["low"] < kept["estimate"] < kept["high"]


def test_no_database_yet(tmp_path: Path) -> None:
    root = make_run(tmp_path / "run", raters=0)
    for name in ("study.db", "blinding.json", "answers/answers.jsonl", "bench/scratch/costs.json"):
        (root / name).unlink()
    make(root, rate_command=COMMAND)
    assert "No person has rated yet" in read(root)[2]["headline"]


def test_nothing_but_a_study_file(tmp_path: Path) -> None:
    (tmp_path / "study.toml").write_text(
        'schema = 1\nname = "bare"\n[teacher]\nsource = "x"\n[[student]]\nname = "s"\n'
    )
    make(tmp_path, rate_command=COMMAND)
    assert "Nothing has been measured yet" in read(tmp_path)[0]


def test_one_rater_says_what_is_missing(tmp_path: Path) -> None:
    root = make_run(tmp_path / "run", raters=1)
    make(root, rate_command=COMMAND)
    html, md, report = read(root)
    fraction = report["arms"]["distilled"]["satisfaction"]["fraction"]
    assert fraction["estimate"] > 0
    assert fraction["low"] is None
    assert "one_cluster" in {warning["code"] for warning in report["warnings"]}
    assert "without a second rater there is no interval" in report["headline"]
    for text in (html, md):
        assert "a second rater is missing" in text
        assert re.search(r"\d+\u00a0% \(no interval\)", text)


@pytest.mark.parametrize("kind", ["judge", "simulated"])
def test_other_kinds_are_apart_and_marked(tmp_path: Path, kind: str) -> None:
    root = make_run(tmp_path / "run", kind=kind)
    make(root, rate_command=COMMAND)
    html, md, report = read(root)
    assert report["n"]["ratings"] == 0
    assert "satisfaction" not in report["arms"]["distilled"]
    assert report["kinds"][kind]["arms"]["distilled"]["satisfaction"]["fraction"]["estimate"] > 0
    assert "No person has rated yet" in report["headline"]
    assert "Not by people" in html
    assert "Not by people" in md


def test_kinds_are_never_pooled(tmp_path: Path) -> None:
    alone, mixed = make_run(tmp_path / "alone"), make_run(tmp_path / "mixed")
    machine = [(f"J{row[0]}", "judge", *row[2:7], 5, 5, *row[9:]) for row in ratings(3, 24, "judge", 9)]
    with sqlite3.connect(mixed / "study.db") as connection:
        connection.executemany(f"INSERT INTO tidy_ratings VALUES ({', '.join('?' * 14)})", machine)
    connection.close()
    a, b = build(load(alone)), build(load(mixed))
    assert a["arms"] == b["arms"]
    assert b["n"]["raters"] == 14
    assert b["kinds"]["judge"]["n"]["raters"] == 3


def test_looking_twice_is_told(tmp_path: Path) -> None:
    root = make_run(tmp_path / "run", raters=5)
    make(root, rate_command=COMMAND)
    make_run(root, raters=12)
    make(root, rate_command=COMMAND)
    report = read(root)[2]
    assert [look["ratings"] for look in report["looks"]] == [180, 432]
    warning = next(warning for warning in report["warnings"] if warning["code"] == "looked_before")
    assert warning["later"] == 252


def test_the_licence_and_the_bias_of_a_cache_reach_the_reader(tmp_path: Path) -> None:
    root = make_run(tmp_path / "run")
    path = next((root / "arms").glob("*/manifest.json"))
    manifest = json.loads(path.read_text())
    manifest["licence_notes"] = ["the teacher's licence is not stated"]
    bias = {"ratio": 0.965, "mean_error": 0.023, "bytes_per_token": 258.0}
    manifest.setdefault("training", {})["cache"] = {"kind": "top-k", "k": 64, "bias": bias}
    path.write_text(json.dumps(manifest))
    make(root, rate_command=COMMAND)
    html, markdown, report = read(root)
    texts = {warning["code"]: warning["text"] for warning in report["warnings"]}
    assert texts["licence"] == "The teacher's licence is not stated."
    assert "top 64" in texts["coarse_cache"]
    assert "96 %" in texts["coarse_cache"].replace("\u202f", " ").replace("\xa0", " ")
    assert "licence is not stated" in html
    assert "licence is not stated" in markdown


def test_closed_study_is_not_accused(tmp_path: Path) -> None:
    root = make_run(tmp_path / "run", state="closed")
    make(root, rate_command=COMMAND)
    assert "unblinded_open" not in {warning["code"] for warning in read(root)[2]["warnings"]}


def test_ratings_without_blinding(tmp_path: Path) -> None:
    root = make_run(tmp_path / "run")
    (root / "blinding.json").unlink()
    with pytest.raises(RunError, match=r"blinding\.json is missing"):
        make(root, rate_command=COMMAND)
    (root / "blinding.json").write_text(json.dumps({"created": "", "arms": {"1f0a": "teacher"}}))
    with pytest.raises(RunError, match="does not know"):
        make(root, rate_command=COMMAND)


def test_no_run_directory(tmp_path: Path) -> None:
    with pytest.raises(RunError, match="no run directory"):
        make(tmp_path, rate_command=COMMAND)


def test_no_network(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(socket, "socket", None)
    assert make(make_run(tmp_path / "run"), rate_command=COMMAND).html.exists()


def test_ratings_of_other_studies(tmp_path: Path) -> None:
    table = tmp_path / "mine.csv"
    lines = ["rater,scenario,arm,satisfaction"]
    rng = np.random.default_rng(3)
    for rater in range(12):
        for scenario in range(11):
            for arm, mean in (("big", 4.2), ("small", 3.6), ("tiny", 2.2)):
                lines.append(f"p{rater},q{scenario},{arm},{int(np.clip(round(rng.normal(mean, 0.8)), 1, 5))}")
    table.write_text("\n".join(lines))
    paths = from_csv(table, "big", tmp_path / "out")
    report = json.loads(paths.json.read_text())
    assert report["study"]["teacher"] == "big"
    assert report["headline"].startswith("Of the teacher's satisfaction the students keep: small")
    assert "Viva's default" in unescape(paths.html.read_text())
    assert COMMAND not in paths.html.read_text()
    with pytest.raises(ConfigError, match="no such file"):
        from_csv(tmp_path / "absent.csv", "big", tmp_path)


def test_the_rating_pages_own_database(tmp_path: Path) -> None:
    """The columns that the report asks for are those of the rating page's view."""
    from studyapp.db import prepare

    root = make_run(tmp_path / "run")
    (root / "study.db").unlink()
    prepare(root / "study.db")
    assert load(root).ratings == {}
    with sqlite3.connect(root / "study.db") as connection:
        connection.execute("DROP VIEW tidy_ratings")
        connection.execute("CREATE VIEW tidy_ratings AS SELECT 1 AS rater")
    connection.close()
    with pytest.raises(RunError, match="no such column"):
        load(root)

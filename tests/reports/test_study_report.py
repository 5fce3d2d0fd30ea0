"""The report of a study.db of the rating page's own schema: modes, repeats, guesses, preferences, gaps, margins."""

import json
import sqlite3
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from fixture_run import ARMS
from fixture_study import FIRST, KEY, MARGIN_AT, execute, make_study

from harness.stages import ratings_digest
from reports.document import build
from reports.load import load
from reports.render import make
from reports.report_schema import Report
from reports.stats import blinding

MODES = ("fixed", "live", "side-by-side")


@pytest.fixture(scope="module")
def mixed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_study(tmp_path_factory.mktemp("mixed") / "run", modes=MODES)


@pytest.fixture(scope="module")
def report(mixed: Path) -> dict[str, Any]:
    return build(load(mixed))


def codes(report: dict[str, Any]) -> set[str]:
    return {warning["code"] for warning in report["warnings"]}


def rows(root: Path, sql: str) -> list[tuple[Any, ...]]:
    with sqlite3.connect(root / "study.db") as db:
        found = db.execute(sql).fetchall()
    db.close()
    return found


def fraction_of(root: Path, where: str) -> float:
    """The paired fraction of `distilled` computed from the database by hand."""
    given = {
        (rater, scenario, key): value
        for rater, scenario, key, value in rows(
            root, f"SELECT rater, scenario, arm_key, satisfaction FROM tidy_ratings WHERE {where}"
        )
    }
    s, t = KEY["distilled"], KEY["teacher"]
    cells = [cell[:2] for cell in given if cell[2] == s and (*cell[:2], t) in given]
    return float(np.mean([given[(*cell, s)] for cell in cells]) / np.mean([given[(*cell, t)] for cell in cells]))


def test_modes_are_never_pooled(mixed: Path, report: dict[str, Any]) -> None:
    assert report["mode"] == "fixed"
    assert set(report["modes"]) == {"live", "side-by-side"}
    assert "several_modes" in codes(report)
    for mode, block in (("fixed", report), *report["modes"].items()):
        kept = block["arms"]["distilled"]["satisfaction"]["fraction"]
        assert kept["estimate"] == pytest.approx(fraction_of(mixed, f"mode = '{mode}'")), mode
        assert block["n"]["ratings"] == rows(mixed, f"SELECT count(*) FROM tidy_ratings WHERE mode = '{mode}'")[0][0]
    assert "of prepared chats" in report["headline"].replace("\u00a0", " ")


def test_the_study_s_own_mode_comes_first(tmp_path: Path) -> None:
    root = make_study(tmp_path / "run", modes=("live", "fixed"))
    (root / "study.toml").write_text((root / "study.toml").read_text() + '\n[rate]\nmode = "live"\n')
    assert build(load(root))["mode"] == "live"


def test_languages_of_raters(mixed: Path, report: dict[str, Any]) -> None:
    found = report["arms"]["distilled"]["satisfaction"]["language"]
    assert set(found) == {"de", "en"}
    german = "mode = 'fixed' AND rater IN (SELECT label FROM rater WHERE language = 'de')"
    assert found["de"]["estimate"] == pytest.approx(fraction_of(mixed, german))
    assert found["de"]["n_raters"] + found["en"]["n_raters"] == 16


def test_repeats_never_enter_the_fraction(mixed: Path, report: dict[str, Any]) -> None:
    found = rows(mixed, "SELECT satisfaction, again_satisfaction FROM tidy_repeats WHERE mode = 'fixed'")
    assert report["repeats"]["satisfaction"]["n"] == len(found) > 0
    share = np.mean([a == b for a, b in found])
    assert report["repeats"]["satisfaction"]["exact"]["estimate"] == pytest.approx(share)
    assert "duplicate_ratings" not in codes(report)


def test_blinding_counts_guesses_about_the_larger_model(mixed: Path, report: dict[str, Any]) -> None:
    """Parameters say that the teacher is the largest; the two students are alike, so their pair counts for nothing."""
    right = {arm: [0, 0, 0] for arm in ARMS}
    t = KEY["teacher"]
    for a, b, larger in rows(mixed, "SELECT arm_key_a, arm_key_b, larger FROM tidy_guesses"):
        if t in (a, b):
            for arm in ARMS:
                if KEY[arm] in (a, b):
                    right[arm][2 if larger is None else 0 if larger == t else 1] += 1
    for arm in ("distilled", "scratch"):
        want, got = blinding.bang(*right[arm]), report["blinding"][arm]
        assert (got["index"], got["low"], got["n"]) == pytest.approx((want.index, want.low, want.n))
        assert got["verdict"] == blinding.verdict(want)
    assert report["blinding"]["teacher"]["n"] == 16
    assert report["blinding"]["teacher"]["correct"] == right["teacher"][0]
    assert ("blinding_failed" in codes(report)) == any(
        one["verdict"] == "failed" for one in report["blinding"].values()
    )
    assert "blinding failed" in report["headline"]


def test_preferences(mixed: Path, report: dict[str, Any]) -> None:
    s, t = KEY["distilled"], KEY["teacher"]
    outcome = [
        0 if chosen is None else 1 if chosen == s else -1
        for keys, chosen in rows(mixed, "SELECT arm_keys, preferred FROM tidy_preferences")
        if set(json.loads(keys)) == {s, t}
    ]
    found = report["preference"]["arms"]["distilled"]
    assert found["n"] == len(outcome) > 0
    assert found["net"] == pytest.approx(np.mean(outcome))
    assert report["preference"]["n_pages"] == rows(mixed, "SELECT count(*) FROM tidy_preferences")[0][0]


def test_pace_of_live_chats_and_results_without_late_ones(mixed: Path, report: dict[str, Any]) -> None:
    live = report["modes"]["live"]
    late = rows(mixed, "SELECT count(*) FROM tidy_live WHERE unpaced AND item = 'rated'")[0][0]
    assert live["live"]["scratch"]["unpaced"] == late > 0
    assert live["live"]["teacher"]["unpaced"] == 0
    assert "unpaced" in {warning["code"] for warning in live["warnings"]}
    without = live["arms"]["scratch"]["satisfaction"]["sensitivity"]["without_unpaced"]
    assert without["ratings_left_out"] == late
    assert without["fraction"]["n_cells"] < live["arms"]["scratch"]["satisfaction"]["fraction"]["n_cells"]


def test_a_model_that_names_itself(mixed: Path, report: dict[str, Any]) -> None:
    naming = rows(mixed, f"SELECT count(*) FROM tidy_ratings WHERE arm_key = '{KEY['scratch']}' AND scenario = 's00'")[
        0
    ][0]
    warning = next(warning for warning in report["warnings"] if warning["code"] == "named_itself")
    assert warning["count"] == naming > 0
    assert "without_named_itself" in report["arms"]["scratch"]["satisfaction"]["sensitivity"]


def test_missing_items_by_arm_and_where_raters_left(tmp_path: Path) -> None:
    root = make_study(tmp_path / "run")
    lost = [
        row[0]
        for row in rows(
            root,
            f"SELECT id FROM assignment WHERE arm_key = '{KEY['scratch']}' AND rater <= 12"
            " AND kind = 'rated' ORDER BY id",
        )[::2]
    ]
    for one in lost:
        execute(root, "DELETE FROM rating WHERE assignment = ?", one)
        execute(root, "UPDATE assignment SET done_at = NULL WHERE id = ?", one)
    report = build(load(root))
    found = report["missing"]["arms"]
    assert found["scratch"]["missing"] == len(lost)
    assert found["teacher"]["missing"] == 0
    assert report["missing"]["left_early"]["raters"] == 12
    assert "missing_by_arm" in codes(report)
    assert "without_unfinished_raters" in report["arms"]["distilled"]["satisfaction"]["sensitivity"]
    gaps = report["arms"]["scratch"]["satisfaction"]["unpaired"]
    assert gaps["teacher_only"] == len(lost)
    assert "one_sided_gaps" in codes(report)


def test_known_answers(tmp_path: Path) -> None:
    root = make_study(tmp_path / "run")
    execute(root, "INSERT INTO extra VALUES ('k', 'check', 1, 'g', 'o', 'r', '[]', 1, 2, 1, 2, '')")
    code = {
        rater: code for rater, code in rows(root, f"SELECT rater, code FROM code WHERE arm_key = '{KEY['teacher']}'")
    }
    for rater in range(1, 17):
        for turn in (1, 2):
            values = (rater, code[rater], 100 + turn, FIRST, FIRST, FIRST)
            execute(
                root,
                "INSERT INTO assignment (rater, kind, mode, extra, code, position, place, opened_at, shown_at,"
                " done_at)"
                " VALUES (?, 'check', 'fixed', 'k', ?, ?, 1, ?, ?, ?)",
                *values,
            )
            mark = 5 if rater == 3 else 1
            execute(
                root,
                "INSERT INTO rating VALUES ((SELECT max(id) FROM assignment), ?, ?, '', 9, 1, ?, ?)",
                mark,
                mark,
                FIRST,
                FIRST,
            )
    report = build(load(root))
    assert report["checks"]["n"] == 32
    assert report["checks"]["passed"]["estimate"] == pytest.approx(30 / 32)
    assert report["checks"]["missed"] == ["R03"]
    assert report["raters"]["flagged"]["failed_checks"] == ["R03"]
    without = report["arms"]["distilled"]["satisfaction"]["sensitivity"]["without_failed_checks"]
    assert without["raters_left_out"] == 1
    assert without["fraction"]["estimate"] == pytest.approx(fraction_of(root, "rater <> 'R03'"))
    assert without["difference"]["p"] is not None


def test_the_margin_and_its_time_stamp(tmp_path: Path) -> None:
    root = make_study(tmp_path / "run")
    report = build(load(root))
    assert report["study"]["margin_at"] == MARGIN_AT
    assert report["study"]["margin_before_ratings"] is True
    assert not codes(report) & {"margin_late", "margin_changed", "margin_unstamped"}
    make(root, rate_command="viva rate x")
    assert "fixed on 2026-01-05 09:00, before the first rating" in (root / "report" / "report.html").read_text()

    execute(root, "UPDATE study SET margin_at = '2026-02-01T00:00:00.000+00:00', margin = 0.85")
    late = build(load(root))
    assert {"margin_late", "margin_changed"} <= codes(late)
    assert late["arms"]["distilled"]["satisfaction"]["non_inferiority"]["margin"] == 0.85

    execute(root, "UPDATE study SET margin_at = NULL, margin = NULL")
    assert "margin_unstamped" in codes(build(load(root)))


def test_an_early_stop_is_marked(tmp_path: Path) -> None:
    root = make_study(
        tmp_path / "run", raters=16, state="closed", ratings_per_cell=9, closed_at="2026-03-01T00:00:00+00:00"
    )
    report = build(load(root))
    warning = next(warning for warning in report["warnings"] if warning["code"] == "stopped_early")
    assert warning["planned"] == 24 * 3 * 9
    assert "always-valid interval under Validity" in warning["text"]
    assert report["headline"].endswith("stopped early.")
    sequence = report["arms"]["distilled"]["satisfaction"]["confidence_sequence"]
    assert sequence["n_raters"] == 16
    assert sequence["path"][-1]["low"] == sequence["asymptotic"]["low"]
    assert sequence["ratio"]["low"] < sequence["ratio"]["estimate"] < sequence["ratio"]["high"]
    few = build(load(make_study(tmp_path / "few", raters=8, state="closed", ratings_per_cell=9)))
    warning = next(warning for warning in few["warnings"] if warning["code"] == "stopped_early")
    assert "no always-valid interval" in warning["text"]


def test_a_study_crossed_between_takes_all_data(tmp_path: Path) -> None:
    root = make_study(tmp_path / "run", raters=16, crossing="between")
    of_two = f"kind = 'rated' AND arm_key <> '{KEY['scratch']}'"
    keep = f"(SELECT min(id) FROM assignment WHERE {of_two} GROUP BY rater, scenario)"
    execute(root, f"DELETE FROM rating WHERE assignment NOT IN {keep}")
    report = build(load(root))
    block = report["arms"]["distilled"]["satisfaction"]
    means = {
        arm: np.mean(
            [row[0] for row in rows(root, f"SELECT satisfaction FROM tidy_ratings WHERE arm_key = '{KEY[arm]}'")]
        )
        for arm in ("teacher", "distilled")
    }
    assert block["fraction"]["estimate"] == pytest.approx(means["distilled"] / means["teacher"])
    assert block["fraction"]["low"] < block["fraction"]["estimate"] < block["fraction"]["high"]
    assert block["fraction"]["bootstrap"]["low"] < block["fraction"]["estimate"]
    assert block["difference"]["p"] is not None
    assert block["pairs"] is None
    assert "between" in codes(report)
    assert "over all ratings of each arm" in report["methods"]
    make(root, rate_command="viva rate x")
    assert "since no rater met a scenario twice" in (root / "report" / "report.html").read_text()


def test_order_effects_are_found(tmp_path: Path) -> None:
    root = make_study(tmp_path / "run")
    execute(
        root,
        "UPDATE rating SET satisfaction = CASE WHEN assignment IN"
        " (SELECT id FROM assignment WHERE position > 12)"
        " THEN max(1, satisfaction - 1) ELSE min(5, satisfaction + 1) END",
    )
    report = build(load(root))
    assert report["order"]["trend"]["estimate"] < -1
    assert "order_effect" in codes(report)
    assert [one["quarter"] for one in report["order"]["quarters"]] == [1, 2, 3, 4]
    assert report["order"]["quarters"][0]["median_seconds"] == 20


def test_fast_raters_are_a_rule(tmp_path: Path) -> None:
    root = make_study(tmp_path / "run")
    execute(root, "UPDATE rating SET seconds = 1 WHERE assignment IN (SELECT id FROM assignment WHERE rater = 2)")
    report = build(load(root))
    assert report["raters"]["flagged"]["fast"] == ["R02"]
    assert report["arms"]["scratch"]["goal_achievement"]["sensitivity"]["without_fast_raters"]["raters_left_out"] == 1


@pytest.mark.parametrize(
    "sql",
    [
        "UPDATE guess SET larger = NULL WHERE rater = 1",
        "INSERT INTO preference SELECT rater, position, revision + 1, NULL, at FROM preference",
        "UPDATE rating SET satisfaction = 1 + satisfaction % 5 WHERE assignment = "
        "(SELECT id FROM assignment WHERE kind = 'repeat' LIMIT 1)",
        "UPDATE turn SET underruns = 9 WHERE rowid = (SELECT max(rowid) FROM turn WHERE role = 'assistant')",
        "UPDATE assignment SET done_at = NULL WHERE id = 1",
        "UPDATE study SET margin = 0.8",
    ],
)
def test_whatever_a_report_reads_renews_it(mixed: Path, tmp_path: Path, sql: str) -> None:
    (tmp_path / "study.db").write_bytes((mixed / "study.db").read_bytes())
    before = ratings_digest(tmp_path / "study.db")
    assert before == ratings_digest(mixed / "study.db")
    execute(tmp_path, sql)
    assert ratings_digest(tmp_path / "study.db") != before


def test_json_follows_its_schema(mixed: Path, tmp_path: Path) -> None:
    make(mixed, rate_command="viva rate x")
    read = Report.model_validate_json((mixed / "report" / "report.json").read_text())
    assert read.modes["live"].n.ratings > 0
    bare = make_study(tmp_path / "bare", raters=1)
    make(bare, rate_command="viva rate x")
    assert Report.model_validate_json((bare / "report" / "report.json").read_text()).n.raters == 1


def test_the_page_of_everything(mixed: Path) -> None:
    make(mixed, rate_command="viva rate x")
    html, md = ((mixed / "report" / name).read_text() for name in ("report.html", "report.md"))
    for text in (
        "Live chats, apart",
        "Answers side by side, apart",
        "Preferred side by side",
        "Satisfaction by language",
        "Pace of live chats",
        "With and without",
        "Beside published students",
        "figure-frontier",
        "figure-preferences",
        "figure-sequence",
        "figure-forest-live",
    ):
        assert text in html, text
    assert "Bang's index" in md
    assert len(html) < 3_000_000

"""Judges in the report: a run that a real judge's server rated, beside people whose tastes are known."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from harness.judging.stage import judge_all, prepare
from harness.stages import Run
from reports.database import Database
from reports.judge_records import Judging, Mark, Pairing, read_judging
from reports.judge_tables import judge_tables, lines
from reports.judges import judge_blocks
from reports.tidy import Tidy, make_tidy
from tests.judging.judge_server import first_wins, garbage, good, judging_server
from tests.judging.judged_run import ARMS, by_server, make_run

Tree = dict[str, Any]


def judging_of(run: Run) -> Judging:
    names = json.loads(run.dir.blinding.read_text())["arms"]
    study = run.study.model_dump(mode="json", by_alias=True, exclude_none=True)
    found = read_judging(Database(run.dir.db), names, study)
    assert found is not None
    return found


def judged(folder: Path, behave: Callable[..., Any], table: str, count: int = 8, more: str = "") -> Judging:
    with judging_server(behave) as server:
        run = make_run(folder, table + by_server(server.url, more=more), count=count)
        judge_all(run, prepare(run))
    return judging_of(run)


def people(scenarios: int, raters: int = 6, liking: dict[str, float] | None = None, seed: int = 1) -> Tidy:
    """Ratings of q0, q1, ...: everybody rates every arm; `liking` is an arm's mean."""
    rng = np.random.default_rng(seed)
    liking = liking or {"teacher": 4.2, "distilled": 3.2, "scratch": 1.5}
    ease = rng.normal(0, 0.4, scenarios)
    rows = [
        (f"R{r}", f"q{s}", arm, float(np.clip(round(liking[arm] + ease[s] + rng.normal(0, 0.6)), 1, 5)))
        for r in range(raters)
        for s in range(scenarios)
        for arm in ARMS
    ]
    rater, scenario, arm, value = zip(*rows, strict=True)
    return make_tidy(rater, scenario, arm, {"satisfaction": value, "goal_achievement": value}, teacher="teacher")


def block_of(found: Tree, judge: str = "strict") -> Tree:
    return next(block for block in found["single"] if block["judge"] == judge)


def codes(found: Tree) -> list[str]:
    return [said["code"] for said in found["warnings"]]


def test_a_judge_stands_beside_people_and_is_marked_as_a_judge(tmp_path: Path) -> None:
    judging = judged(tmp_path, good, '[judge]\nmodes = ["single", "pairwise"]\n')
    found = judge_blocks(judging, people(8), ARMS)
    json.dumps(found, allow_nan=False)
    one = block_of(found)
    fraction = one["fraction"]["distilled"]["satisfaction"]
    assert fraction["judge_only"] is True
    marks = {arm: [m.values["satisfaction"] for m in judging.marks if m.arm == arm] for arm in ARMS}
    assert fraction["estimate"] == pytest.approx(sum(marks["distilled"]) / sum(marks["teacher"]))
    beside = one["people"]["satisfaction"]
    assert (beside["n_texts"], beside["n_ratings"], beside["n_raters"]) == (24, 144, 6)
    assert beside["ranks"]["spearman"]["estimate"] > 0.7
    assert beside["preference"]["same"]["estimate"] > 0.9
    assert beside["judge_to_person"]["n"] == 144
    assert beside["person_to_person"]["exact"] > 0.2
    row = next(row for row in found["side_by_side"] if (row["arm"], row["measure"]) == ("distilled", "satisfaction"))
    assert row["people"]["estimate"] == pytest.approx(3.2 / 4.2, abs=0.08)
    assert row["judges"]["strict"] == fraction
    assert found["combined"] is None
    assert codes(found)[0] == "judge_only"
    assert "judge_position" not in codes(found)
    pairs = found["pairwise"][0]
    assert pairs["swap"]["consistent"] == 1.0
    assert pairs["swap"]["preference"]["estimate"] == 0.0
    assert [(pair["arm"], pair["against"], pair["n"]) for pair in pairs["pairs"]] == [
        ("distilled", "teacher", 8),
        ("scratch", "teacher", 8),
    ]
    assert pairs["pairs"][0]["loss"] == 1.0
    assert pairs["pairs"][0]["people"]["same"]["estimate"] == 1.0


def test_a_judge_that_looks_at_places_is_found_out_and_wins_nothing_for_an_arm(tmp_path: Path) -> None:
    judging = judged(tmp_path, first_wins, '[judge]\nmodes = ["pairwise"]\n')
    found = judge_blocks(judging, None, ARMS)
    pair = found["pairwise"][0]["pairs"][0]
    assert (pair["win"], pair["tie"], pair["loss"]) == (0.0, 1.0, 0.0)
    assert pair["fraction"]["estimate"] == 1.0
    assert pair["orders"]["shown_first"]["fraction"]["estimate"] == pytest.approx(5 / 3)
    assert pair["orders"]["shown_second"]["fraction"]["estimate"] == pytest.approx(3 / 5)
    swap = found["pairwise"][0]["swap"]
    assert (swap["first"], swap["preference"]["estimate"], swap["advantage"]["estimate"]) == (1.0, 1.0, 2.0)
    assert "judge_position" in codes(found)
    assert "prefers the first one in 100%" in found["warnings"][-1]["text"]


def test_what_could_not_be_read_is_said(tmp_path: Path) -> None:
    def half(request: str, before: int) -> str:
        return garbage(request, before) if "thing 1" in request else good(request, before)

    found = judge_blocks(judged(tmp_path, half, "[judge]\nattempts = 2\n"), None, ARMS)
    facts = found["judges"][0]
    assert (facts["replies"], facts["invalid"], facts["verdicts"], facts["unanswered"]) == (27, 6, 21, 3)
    assert facts["problems"] == {"no_marks": 6}
    assert {"judge_invalid", "judge_unanswered"} <= set(codes(found))
    text = "\n".join(lines(found))
    assert "21 of 27" in text
    assert "3 items have no verdict" in text


def test_no_judge_no_block(tmp_path: Path) -> None:
    run = make_run(tmp_path, by_server("http://127.0.0.1:9/v1"), count=2)
    prepare(run)
    assert read_judging(Database(run.dir.db), {}, {}) is None
    assert judge_tables(None) == []


def mark(judge: str, scenario: int, arm: str, value: float, length: int = 100, **more: Any) -> Mark:
    values = {"satisfaction": value, "goal_achievement": value}
    return Mark(judge, f"q{scenario}", "facts", arm, more.get("rater", ""), more.get("texts", "fixed"), values, length)


def facts(*names: str, mode: str = "single") -> tuple[Tree, ...]:
    usual = {"model": "m", "host": "", "rubric": "1", "settings": {}, "replies": 1, "invalid": 0, "verdicts": 1}
    usual |= {"late": 0, "unanswered": 0, "tokens_in": None, "tokens_out": None, "problems": {}, "cost": None}
    return tuple({"name": name, "mode": mode, **usual} for name in names)


def test_favour_for_its_own_arm_is_what_people_do_not_share() -> None:
    """The judge is a point milder than people everywhere, and one more on its own arm."""
    tidy = people(20)
    mean = {"teacher": 4.2, "distilled": 3.2, "scratch": 1.5}
    rng = np.random.default_rng(2)
    marks = [
        mark(
            "m",
            s,
            arm,
            float(np.clip(round(mean[arm] + (1.2 if arm == "distilled" else 0.2) + rng.normal(0, 0.3)), 1, 5)),
        )
        for s in range(20)
        for arm in ARMS
    ]
    own, family = {"m": ("distilled",)}, {"m": ("distilled", "scratch")}
    found = judge_blocks(Judging(facts("m"), tuple(marks), own=own, family=family), tidy, ARMS)
    bias = block_of(found, "m")["bias"]
    assert bias["own"]["low"] > 0.4
    assert bias["own"]["low"] < 1.0 < bias["own"]["high"] + 0.3
    assert bias["severity"]["distilled"]["estimate"] == pytest.approx(1.0, abs=0.35)
    assert bias["family"]["arms"] == ["distilled", "scratch"]
    assert {"judge_own", "judge_is_arm"} <= set(codes(found))
    text = "\n".join(lines(found))
    assert "favour for its own arm (distilled)" in text


def test_a_taste_for_length_is_what_people_do_not_share() -> None:
    tidy = people(30)
    mean = {"teacher": 4.0, "distilled": 3.0, "scratch": 2.0}
    rng = np.random.default_rng(3)
    marks = []
    for s in range(30):
        for arm in ARMS:
            doubled = int(rng.integers(0, 4))
            marks.append(mark("m", s, arm, float(np.clip(mean[arm] - 1 + 0.6 * doubled, 1, 5)), 100 * 2**doubled))
    length = block_of(judge_blocks(Judging(facts("m"), tuple(marks)), tidy, ARMS), "m")["bias"]["length"]
    assert length["gap"]["low"] > 0.3
    assert abs(length["people"]["estimate"]) < 0.3
    assert "judge_length" in codes(judge_blocks(Judging(facts("m"), tuple(marks)), tidy, ARMS))


def test_several_judges_are_averaged_and_compared_with_each_other() -> None:
    marks = [mark("a", s, arm, 3.0 + (arm == "teacher")) for s in range(9) for arm in ARMS]
    marks += [mark("b", s, arm, 2.0 + (arm == "teacher")) for s in range(9) for arm in ARMS if s < 8]
    found = judge_blocks(Judging(facts("a", "b"), tuple(marks)), None, ARMS)
    kept = found["mean"]["texts"]["fixed"]["fraction"]["distilled"]["satisfaction"]
    assert (kept["n"], kept["estimate"]) == (8, pytest.approx(2.5 / 3.5))
    assert found["between_judges"]["satisfaction"] < 1
    assert found["between_judges"]["judges"] == ["a", "b"]


def test_people_and_judges_are_combined_when_asked_for() -> None:
    tidy = people(12, raters=8)
    rng = np.random.default_rng(4)
    mean = {"teacher": 4.2, "distilled": 3.2, "scratch": 1.5}
    marks = [
        mark("m", s, arm, float(np.clip(round(mean[arm] + rng.normal(0, 0.5)), 1, 5)))
        for s in range(90)
        for arm in ARMS
    ]
    found = judge_blocks(Judging(facts("m"), tuple(marks), combine=True), tidy, ARMS)
    one = found["combined"]["texts"]["fixed"]["distilled"]["satisfaction"]
    assert (one["reason"], one["n_rated"], one["n_others"], one["n_raters"]) == (None, 12, 78, 8)
    assert one["low"] < one["estimate"] < one["high"]
    assert one["people"] == pytest.approx(one["estimate"], abs=0.05)
    nothing_left = judge_blocks(Judging(facts("m"), tuple(marks[:36]), combine=True), tidy, ARMS)
    reason = nothing_left["combined"]["texts"]["fixed"]["distilled"]["satisfaction"]["reason"]
    assert "people rated every scenario" in reason
    nobody = judge_blocks(Judging(facts("m"), tuple(marks), combine=True), None, ARMS)
    assert (
        nobody["combined"]["texts"]["fixed"]["distilled"]["satisfaction"]["reason"] == "no person has rated both arms"
    )
    assert "Prediction-powered inference" in "\n".join(lines(found))


def test_live_chats_stand_beside_their_own_raters_marks_and_are_not_pooled_with_prepared_ones() -> None:
    tidy = people(6, raters=4)
    marks = [
        mark("m", s, arm, float(1 + (r + s + len(arm)) % 5), rater=f"R{r}", texts="live")
        for r in range(4)
        for s in range(6)
        for arm in ARMS
    ]
    marks += [mark("m", s, arm, 3.0) for s in range(50, 55) for arm in ARMS]
    found = judge_blocks(Judging(facts("m"), tuple(marks), combine=True), tidy, ARMS)
    assert [block["texts"] for block in found["single"]] == ["fixed", "live"]
    live = found["single"][1]
    beside = live["people"]["satisfaction"]
    assert (beside["n_texts"], beside["n_ratings"]) == (72, 72)
    assert beside["person_to_person"] is None
    assert live["fraction"]["distilled"]["satisfaction"]["n_cells"] == 24
    assert found["single"][0]["people"]["satisfaction"] is None, "nobody rated the prepared answers"
    assert "judge_unchecked" in codes(found)
    assert list(found["combined"]["texts"]) == ["fixed"]


def pairing(scenario: int, first: str, second: str, winner: str) -> Pairing:
    scores = {"first": (4.0, 2.0), "second": (2.0, 4.0), "tie": (3.0, 3.0)}[winner]
    return Pairing("m", f"q{scenario}", "facts", first, second, *scores, winner, 50, 100)


def test_a_pair_seen_in_one_order_only_is_left_out_and_counted() -> None:
    pairs = [pairing(0, "teacher", "distilled", "second"), pairing(0, "distilled", "teacher", "first"),
             pairing(1, "teacher", "distilled", "first")]  # fmt: skip
    found = judge_blocks(Judging(facts("m", mode="pairwise"), pairings=tuple(pairs)), None, ARMS)["pairwise"][0]
    assert found["one_order_only"] == 1
    assert (found["pairs"][0]["n"], found["pairs"][0]["win"]) == (1, 1.0)
    assert found["pairs"][0]["fraction"]["student"] == 4.0


def test_more_wins_for_its_own_arm_than_people_give_show() -> None:
    tidy = people(10)  # people prefer the teacher everywhere
    pairs = [
        one
        for s in range(10)
        for one in (pairing(s, "teacher", "distilled", "second"), pairing(s, "distilled", "teacher", "first"))
    ]
    own = {"m": ("distilled",)}
    found = judge_blocks(Judging(facts("m", mode="pairwise"), pairings=tuple(pairs), own=own), tidy, ARMS)
    assert found["pairwise"][0]["own"]["estimate"] > 1.5
    assert found["pairwise"][0]["pairs"][0]["people"]["same"]["estimate"] < 0.2


def test_every_table_has_as_many_cells_as_its_header(tmp_path: Path) -> None:
    judging = judged(
        tmp_path, good, '[judge]\nmodes = ["single", "pairwise"]\ncombine = true\n', more='own = ["teacher"]'
    )
    tables = judge_tables(judge_blocks(judging, people(8), ARMS))
    assert [table.title for table in tables] == [
        "Fraction kept, by people and by judges alone", "Judges beside people", "Comparisons in pairs",
        "What swapping positions does", "What draws a judge", "People and judges combined", "The judges",
    ]  # fmt: skip
    for table in tables:
        assert table.rows
        assert all(len(row) == len(table.header) for row in table.rows), table.title


def test_the_same_input_gives_the_same_numbers(tmp_path: Path) -> None:
    judging = judged(tmp_path, good, '[judge]\nmodes = ["single", "pairwise"]\n', count=6)
    one, other = (json.dumps(judge_blocks(judging, people(6), ARMS, seed=5), sort_keys=True) for _ in "ab")
    assert one == other


def test_the_report_of_a_run_shows_its_judges_in_a_section_of_their_own(tmp_path: Path) -> None:
    from reports.render import make

    with judging_server(good) as server:
        table = '[judge]\nmodes = ["single", "pairwise"]\n'
        run = make_run(tmp_path, table + by_server(server.url, more="price_in = 10.0\nprice_out = 20.0"), count=6)
        judge_all(run, prepare(run))
    paths = make(run.dir.root, rate_command="viva rate")
    found = json.loads(paths.json.read_text())["judges"]
    counted = found["judges"][0]
    assert counted["cost"] == pytest.approx((counted["tokens_in"] * 10 + counted["tokens_out"] * 20) / 1e6)
    assert found["single"][0]["fraction"]["distilled"]["satisfaction"]["judge_only"] is True
    for path in (paths.html, paths.md):
        text = path.read_text()
        assert "Model judges" in text
        assert "Comparisons in pairs" in text
    assert "No person has rated yet" in paths.md.read_text()


def test_a_judge_that_gives_one_mark_to_all_is_told_so() -> None:
    marks = tuple(mark("m", s, arm, 1.0) for s in range(8) for arm in ARMS)
    found = judge_blocks(Judging(facts("m"), marks, combine=True), people(8), ARMS)
    json.dumps(found, allow_nan=False)
    assert block_of(found, "m")["fraction"]["distilled"]["satisfaction"]["estimate"] == 1.0
    assert codes(found) == ["judge_only", "judge_constant"]
    assert "the same mark (1)" in found["warnings"][-1]["text"]
    assert found["combined"]["texts"]["fixed"]["distilled"]["satisfaction"]["reason"]
    assert "100 % by it means nothing" in "\n".join(lines(found))

"""Arm against arm: only the same items are paired, every claim is tested once, and a reader sees it."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from fixture_run import make_run

from harness.cli import main
from harness.errors import RunError
from reports.document import build
from reports.items import Frame
from reports.load import load
from reports.pair_tables import HELP, tables
from reports.paired import Bench, compare_arms, over_pairs
from reports.render import make
from reports.stats.paired import Column
from reports.stats.tests import holm
from reports.terminal import compare


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_run(tmp_path_factory.mktemp("run"))


def arm(name: str, *frames: Frame, chance: float | None = None) -> Bench:
    scores = [
        {"suite": frame.suite, "metric": metric, "value": column.score, "unit": "share", "chance": chance}
        | {"higher_is_better": column.transform == "mean"}
        for frame in frames
        for metric, column in frame.columns.items()
    ]
    return Bench(name, scores, frames)


def quiz(answers: list[float], keys: list[str] | None = None, hashes: list[str] | None = None) -> Frame:
    keys = keys or [f"q/{k}" for k in range(len(answers))]
    column = Column(np.array(answers), np.ones(len(answers)))
    return Frame("quiz", tuple(keys), tuple(hashes or keys), {"acc": column})


def test_only_the_same_items_are_paired() -> None:
    teacher = quiz([1, 1, 0, 1, 0, 1], hashes=["a", "b", "c", "d", "e", "f"])
    student = quiz([0, 1, 1, 0, 1], keys=["q/3", "q/1", "q/0", "q/9", "q/2"], hashes=["d", "b", "changed", "z", "c"])
    (row,) = compare_arms(arm("t", teacher), arm("s", student))["rows"]
    assert (row["n"], row["different"], row["unpaired"]) == (3, 1, 3)
    assert row["against"] == pytest.approx(2 / 3)  # q/3 right, q/1 right, q/2 wrong
    assert row["arm"] == pytest.approx(2 / 3)
    assert (row["against_only"], row["arm_only"]) == (1, 1)


def test_nothing_in_common_is_said() -> None:
    one, other = quiz([1, 0], hashes=["a", "b"]), quiz([1, 0], hashes=["x", "y"])
    pair = compare_arms(arm("t", one), arm("s", other))
    (row,) = pair["rows"]
    assert row["difference"] is None
    assert row["reason"] == "no item is the same in both arms"
    notes = tables([pair])[0].notes
    assert any("different content" in note for note in notes)
    assert compare_arms(arm("t", one), arm("s", replace(other, suite="else")))["rows"] == []


def test_perplexities_of_one_text_are_one_claim_and_other_tokens_none() -> None:
    nll = np.linspace(40, 60, 20)

    def text(tokens: float, extra: float) -> Frame:
        value = nll + extra * np.linspace(0.9, 1.1, 20)
        columns = {
            "text_perplexity": Column(value, np.full(20, tokens), "exp"),
            "text_bits_per_byte": Column(value, np.full(20, 99.0), "bits"),
            "text_top1": Column(np.linspace(0, 9, 20) + extra, np.full(20, 10.0)),
        }
        keys = tuple(f"text/{k}" for k in range(20))
        return Frame("words", keys, keys, columns)

    pair = compare_arms(arm("t", text(10, 0)), arm("s", text(10, 0.3)))
    claims = {row["claim"]: row["p"] for row in pair["rows"]}
    assert len(pair["rows"]) == 3
    assert len(claims) == 2
    assert {row["p_holm"] for row in pair["rows"]} == set(holm(list(claims.values())))
    rows = {row["metric"]: row for row in compare_arms(arm("t", text(10, 0)), arm("s", text(12, 0.3)))["rows"]}
    assert rows["text_perplexity"]["difference"] is None
    assert "tokenizers differ" in rows["text_perplexity"]["reason"]
    assert rows["text_bits_per_byte"]["p"] is not None


def test_marked_items_are_left_out_of_a_second_comparison() -> None:
    teacher, student = quiz([1.0] * 30 + [0.0] * 10), quiz([1.0] * 30 + [0.0, 1.0] * 5)
    marked = {f"q/{k}" for k in range(20)} | {"other/1"}
    (row,) = compare_arms(arm("t", teacher, chance=0.25), arm("s", student), marked=marked)["rows"]
    rest = row["without_overlap"]
    assert (rest["n"], rest["left_out"]) == (20, 20)
    assert rest["against"] == 0.5
    assert rest["arm"] == 0.75
    assert row["n"] == 40
    (again,) = compare_arms(arm("t", teacher, chance=0.25), arm("s", student))["rows"]
    assert again["without_overlap"] is None
    assert again["difference"] == row["difference"]


def test_means_come_after_the_ratios(run: Path) -> None:
    pairs = {(pair["arm"], pair["against"]): pair for pair in over_pairs(load(run))}
    assert set(pairs) == {("distilled", "teacher"), ("scratch", "teacher"), ("distilled", "scratch")}
    mean = pairs["distilled", "teacher"]["retained_mean"]
    assert mean["retained"]["n"] == 2
    assert mean["retained"]["estimate"] == pytest.approx((0.51 / 0.62 + 0.36 / 0.48) / 2)
    assert mean["above_chance"]["estimate"] == pytest.approx((0.26 / 0.37 + 0.11 / 0.23) / 2)
    assert mean["retained"]["lowest"]["suite"] == "facts"
    assert mean["retained"]["low"] < mean["retained"]["estimate"] < mean["retained"]["high"]
    rows = {row["metric"] for row in pairs["distilled", "teacher"]["rows"]}
    assert "teacher_text_kl" not in rows  # the teacher's is 0 by definition
    assert "teacher_text_kl" in {row["metric"] for row in pairs["distilled", "scratch"]["rows"]}
    same = {one["suite"]: one["estimate"] for one in pairs["distilled", "teacher"]["same_choice"]}
    assert same["sense"] == pytest.approx(1 - (0.62 - 0.51))


def test_what_is_kept_is_one_number(run: Path) -> None:
    pairs = {(pair["arm"], pair["against"]): pair for pair in over_pairs(load(run))}
    pair = pairs["distilled", "teacher"]
    assert {key: pair["kept"][key] for key in ("estimate", "low", "high")} == {
        key: pair["retained_mean"]["retained"][key] for key in ("estimate", "low", "high")
    }
    assert pair["kept"]["n"] == 400
    assert pair["kept"]["above_chance"] == pytest.approx((0.26 / 0.37 + 0.11 / 0.23) / 2)
    assert [one["suite"] for one in pair["kept"]["scores"]] == ["sense", "facts"], "no text's likeliest token"


def test_a_ranking_is_kept_with_an_interval_and_a_correlation_without() -> None:
    rng = np.random.default_rng(3)
    of_users = [rng.uniform(0, 1, 60), rng.uniform(0, 0.8, 60)]
    keys = tuple(f"r/{k}" for k in range(60))
    benches = []
    for name, values in zip("ts", of_users, strict=True):
        frame = Frame("ranking", keys, keys, {"ndcg@10": Column(values, np.ones(60))})
        bench = arm(name, frame)
        benches.append(replace(bench, scores=[{**one, "unit": "nDCG"} for one in bench.scores]))
    kept = compare_arms(*benches)["kept"]
    assert kept["estimate"] == pytest.approx(of_users[1].mean() / of_users[0].mean())
    assert kept["low"] < kept["estimate"] < kept["high"]
    assert (kept["n"], kept["above_chance"]) == (60, None)
    same = {"suite": "pairs", "metric": "spearman", "unit": "correlation", "n": 40, "higher_is_better": True}
    both = [
        replace(bench, scores=[*bench.scores, {**same, "value": value}])
        for bench, value in zip(benches, (0.8, 0.6), strict=True)
    ]
    wide = compare_arms(*both)["kept"]
    assert wide["estimate"] == pytest.approx((kept["estimate"] + 0.75) / 2)
    assert (wide["low"], wide["high"], wide["n"]) == (None, None, 100)
    assert [one["metric"] for one in wide["scores"]] == ["ndcg@10", "spearman"]


def test_nothing_is_kept_of_other_items() -> None:
    one, other = quiz([1, 0], hashes=["a", "b"]), quiz([1, 0], hashes=["x", "y"])
    assert compare_arms(arm("t", one), arm("s", other))["kept"] is None


def test_another_arm_changes_nothing(run: Path) -> None:
    source = load(run)
    fewer = replace(source, arms=("teacher", "distilled"), controls={})
    assert over_pairs(fewer)[0] == over_pairs(source)[0]


def test_every_score_has_an_interval(run: Path) -> None:
    report = build(load(run))
    for name, block in report["arms"].items():
        for score in block["scores"]:
            assert score["low"] <= score["value"] <= score["high"], (name, score)
    assert {score["interval"] for score in report["arms"]["scratch"]["scores"]} == {"wilson", "bootstrap"}


def test_readers_see_the_comparison(run: Path, tmp_path: Path) -> None:
    paths = make(run, rate_command="viva rate x")
    report = json.loads(paths.json.read_text())
    row = next(row for row in report["paired"][0]["rows"] if row["suite"] == "sense")
    low, high = 100 * row["difference"]["low"], 100 * row["difference"]["high"]
    text = f"−11.0 (−{-low:.1f} to −{-high:.1f})"
    for page in (paths.html.read_text(), paths.md.read_text()):
        assert text in page
        assert HELP.split(".")[0] in page
        assert "mean over 2 tasks" in page


def test_different_items_are_a_warning(tmp_path: Path) -> None:
    root = make_run(tmp_path / "run", raters=0)
    path = root / "bench" / "scratch" / "samples_facts.jsonl"
    path.write_text(path.read_text().replace('"h7"', '"h7 changed"'))
    warning = next(one for one in build(load(root))["warnings"] if one["code"] == "items_differ")
    assert warning["arm"] == "scratch"
    assert warning["suites"] == ["facts"]
    assert "left out" in warning["text"]


def test_overlap_with_the_corpus_is_shown_with_the_score_without_it(tmp_path: Path) -> None:
    root = make_run(tmp_path / "run", raters=0)
    suite = {"key": "k", "items": 200, "overlapping": 15, "share": 0.075, "whole": 3, "unchecked": 1}
    found = {"n": 13, "corpus": {"name": "chats.jsonl", "digest": "d"}, "suites": {"sense": suite}}
    suite["found"] = {f"sense/{item}": 1.0 for item in range(15)}
    for arm in ("distilled", "scratch"):
        (root / "bench" / arm / "contamination.json").write_text(json.dumps(found))
    paths = make(root, rate_command="viva rate x")
    report = json.loads(paths.json.read_text())
    (score,) = (one for one in report["arms"]["distilled"]["scores"] if one["suite"] == "sense")
    assert score["without_overlap"]["value"] == pytest.approx((102 - 15) / 185)  # the first items are all answered
    assert (score["without_overlap"]["n"], score["without_overlap"]["left_out"]) == (185, 15)
    row = next(one for one in report["paired"][0]["rows"] if one["suite"] == "sense")
    assert row["without_overlap"]["against"] == pytest.approx((124 - 15) / 185)
    (warning,) = (one for one in report["warnings"] if one["code"] == "overlap" and one["arm"] == "distilled")
    assert "sense 15 of 200 items" in warning["text"]
    for page in (paths.html.read_text(), paths.md.read_text()):
        assert "… without 15 that overlap" in page
        assert "chats.jsonl (distilled and scratch)" in page
        assert "sense/11 and 3 more" in page


def test_the_table_for_a_terminal(run: Path, tmp_path: Path) -> None:
    table = compare(run, "teacher", "distilled")
    assert "−11.0 (" in table
    assert "sense: accuracy" in table
    folder = compare(run, "teacher", str(run / "bench" / "distilled"))
    assert sorted(folder.splitlines()) == sorted(table.splitlines())
    elsewhere = make_run(tmp_path / "other")
    across = compare(run, "distilled", str(elsewhere / "bench" / "distilled"))
    assert "+0.0 (0.0 to 0.0)" in across
    assert table.index("words") < table.index("sense") < table.index("facts")  # as the study names them
    with pytest.raises(RunError, match="no benchmark results of 'nobody'"):
        compare(run, "teacher", "nobody")
    (tmp_path / "empty").mkdir()
    with pytest.raises(RunError, match="holds no samples"):
        compare(run, "teacher", str(tmp_path / "empty"))


def test_the_command_prints_the_table(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = make_run(tmp_path / "run")
    study = run / "study.toml"
    study.write_text(study.read_text().replace('source = "nowhere"', f'source = "{run}"'))
    text = study.read_text()
    for name in ("distilled", "scratch"):
        text = text.replace(f'name = "{name}"', f'name = "{name}"\nsource = "{run}"')
    study.write_text(text.replace('control_of = "distilled"\n', ""))
    assert main(["bench", str(run), "--compare", "teacher", "distilled"]) == 0
    assert "−11.0 (" in capsys.readouterr().out
    assert main(["bench", str(run), "--compare", "teacher", "distilled", "--only", "teacher"]) == 2
    assert "--only does nothing" in capsys.readouterr().err

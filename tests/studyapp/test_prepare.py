"""From study file and answers to study.db: what `viva rate` does before the page opens."""

import json
import os
from pathlib import Path

import pytest
from raters import rows

from harness.answers import answer_stage
from harness.errors import ConfigError, RatingError, RunError
from harness.rating import prepare
from harness.records import Answer, Message, Scenario, read_jsonl, write_jsonl
from harness.rundir import RunDir
from harness.stages import Run
from harness.stages import answer_stage as let_arms_answer
from harness.study_file import load_study
from studyapp import session, store
from tests.tiny import save_tiny

ARMS = ("teacher", "otto")
STUDY = """\
schema = 1
name = "small"
seed = 5
[teacher]
source = "org/Big-Model"
[[student]]
name = "otto"
source = "org/small"
[rate]
scenarios = "scenarios.jsonl"
"""


def run_of(folder: Path, rate: str = "", modes: tuple[str | None, ...] = (None, None), answers: bool = True) -> Run:
    """A run with finished answers to every scenario, whatever its mode."""
    scenarios = [
        Scenario(id=f"s{n}", category="a", goal="g", opening="o", turns=2, reached="r", mode=mode)  # type: ignore[arg-type]
        for n, mode in enumerate(modes)
    ]
    write_jsonl(folder / "scenarios.jsonl", scenarios)
    (folder / "study.toml").write_text(STUDY + rate)
    run = Run(load_study(folder / "study.toml"), RunDir(folder / "run"))
    run.dir.answers.mkdir(parents=True, exist_ok=True)
    if answers:
        messages = (Message(role="user", content="o"), Message(role="assistant", content="a"))
        facts = {"messages": messages, "tokens": 1, "finish": "stop", "seed": 0}
        lines = [Answer(arm=arm, scenario=one.id, **facts) for arm in ARMS for one in scenarios]  # type: ignore[arg-type]
        write_jsonl(run.dir.answers / "answers.jsonl", lines)
        (run.dir.answers / "manifest.json").write_text(json.dumps({"status": "finished"}))
    return run


def test_every_setting_arrives(tmp_path):
    rate = """\
mode = "side-by-side"
crossing = "between"
ratings_per_cell = 4
language = "de"
training = "data:rating/training.jsonl"
checks = "data:rating/checks.jsonl"
check_every = 5
questions = false
open = true
max_raters = 9
lease_minutes = 30
completion_code = "DONE"
[report]
margin = 0.85
"""
    run = run_of(tmp_path, rate)
    prepare(run)
    (row,) = rows(
        run.dir.db,
        "SELECT mode, crossing, ratings_per_cell, scenarios_per_rater, side, language, check_every, repeats, questions,"
        " open_join, max_raters, lease_minutes, completion_code, completion_url, margin FROM study",
    )
    assert row == ("side-by-side", "between", 4, 2, 2, "de", 5, 0, 0, 1, 9, 30.0, "DONE", None, 0.85)
    ((words,),) = rows(run.dir.db, "SELECT self_words FROM study")
    assert {"ChatGPT", "otto", "Big-Model"} <= set(json.loads(words))
    assert "teacher" not in json.loads(words)
    assert rows(run.dir.db, "SELECT kind, count(*) FROM extra GROUP BY kind") == [("check", 12), ("training", 4)]
    assert [len(item.panels) for item in items_of(run.dir.db)] == [2] * 5  # two of practice, two rated, a check


def items_of(path):
    rater = session.who(path, session.join(path))
    with_all = rows(path, f"SELECT DISTINCT position FROM assignment WHERE rater = {rater.id}")
    found = []
    for _ in with_all:
        item = session.current(path, rater).item
        found.append(item)
        marks = [session.Marks(3, 3)] * len(item.panels)
        preference = None if len(item.panels) > 1 else session.NOT_SAID
        session.rate(path, rater, item.position, marks, preference=preference, version=item.version)
    return found


def test_no_arm_is_named_in_the_database(tmp_path):
    run = run_of(tmp_path)
    prepare(run)
    keys = json.loads(run.dir.blinding.read_text())["arms"]
    assert set(keys.values()) == set(ARMS)
    assert {key for (key,) in rows(run.dir.db, "SELECT key FROM arm")} == set(keys)
    assert run.dir.blinding.stat().st_mode & 0o777 == 0o600 or os.name != "posix"


def test_answers_are_needed_for_what_is_not_live(tmp_path):
    with pytest.raises(RunError, match="no finished answers"):
        prepare(run_of(tmp_path, answers=False))
    with pytest.raises(RunError, match="no finished answers"):
        prepare(run_of(tmp_path, modes=("live", None), answers=False))
    run = run_of(tmp_path, modes=("live", "live"), answers=False)
    prepare(run)
    assert store.study(run.dir.db).live
    assert rows(run.dir.db, "SELECT count(*) FROM answer") == [(0,)]


def test_a_scenario_may_have_a_mode_of_its_own(tmp_path):
    run = run_of(tmp_path, modes=("live", None, "side-by-side"))
    prepare(run)
    assert rows(run.dir.db, "SELECT id, mode FROM scenario ORDER BY ord") == [
        ("s0", "live"),
        ("s1", "fixed"),
        ("s2", "side-by-side"),
    ]
    assert rows(run.dir.db, "SELECT DISTINCT scenario FROM answer ORDER BY 1") == [("s1",), ("s2",)]


@pytest.mark.parametrize(
    ("rate", "message"),
    [
        ("cps = 20\n", "cps under [rate] does nothing: no scenario is live"),
        ("side = 2\n", "side under [rate] does nothing: no scenario is side-by-side"),
        ('language = "xx"\n', "no texts in the language 'xx'"),
        ('training = "none.jsonl"\n', "none.jsonl"),
    ],
)
def test_what_does_nothing_is_said(tmp_path, rate, message):
    with pytest.raises((ConfigError, RatingError, RunError)) as error:
        prepare(run_of(tmp_path, rate))
    assert message in error.value.what
    assert not (tmp_path / "run" / "study.db").exists()


def test_a_margin_that_changes_after_the_first_rating_is_told(tmp_path, capsys):
    run = run_of(tmp_path)
    prepare(run)
    items_of(run.dir.db)
    later = run_of(tmp_path, "[report]\nmargin = 0.8\n")
    prepare(later)
    assert "the margin stays 0.9" in "".join(capsys.readouterr())
    assert store.margin(run.dir.db)[0] == 0.9


def test_scenarios_without_a_mode_leave_finished_answers_finished(tmp_path):
    """Their digest is that of the time before scenarios had modes."""
    run = run_of(tmp_path)
    stage = answer_stage(run.study, run.dir, run.scenarios, {})
    old = [{key: value for key, value in one.model_dump().items() if key != "mode"} for one in run.scenarios]
    assert [one.model_dump() for one in run.scenarios] == old
    live = answer_stage(run.study, run.dir, [one.model_copy(update={"mode": "live"}) for one in run.scenarios], {})
    assert stage.inputs["scenarios"] != live.inputs["scenarios"]


def test_arms_do_not_answer_what_raters_chat_about_live(tmp_path, monkeypatch, capsys):
    save_tiny(tmp_path / "model", layers=1)
    rate = "[answer]\nmax_tokens = 2\n"
    run = run_of(tmp_path, rate, ("live", None), answers=False)
    monkeypatch.setattr(Run, "model_dir", lambda self, arm: tmp_path / "model")
    let_arms_answer(run)
    assert {answer.scenario for answer in read_jsonl(run.dir.answers / "answers.jsonl", Answer)} == {"s1"}
    (tmp_path / "live").mkdir()
    live = run_of(tmp_path / "live", rate, ("live", "live"), answers=False)
    let_arms_answer(live)
    assert "nothing to prepare" in "".join(capsys.readouterr())
    assert not (live.dir.answers / "manifest.json").exists()
    prepare(live)
    assert set(rows(live.dir.db, "SELECT mode FROM scenario")) == {("live",)}

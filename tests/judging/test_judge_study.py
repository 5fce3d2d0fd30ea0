"""`viva judge` on a real run directory, with a real server as judge."""

import json
import os
import signal
import sqlite3
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from harness.cli import main
from harness.errors import ConfigError, RatingError, RunError, VivaError
from harness.judging import server as server_module
from harness.judging.stage import check_limits, judge_all, prepare
from harness.rating import prepare as prepare_ratings
from tests.judging.judge_server import first_wins, garbage, good, judging_server, second_try
from tests.judging.judged_run import ARMS, by_server, make_run

BOTH = '[judge]\nmodes = ["single", "pairwise"]\n'


@pytest.fixture(autouse=True)
def _no_waiting(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(server_module, "PAUSE", 0.01)


def rows(db: Path, sql: str) -> list[tuple[Any, ...]]:
    with sqlite3.connect(db) as connection:
        return connection.execute(sql).fetchall()


def test_a_judge_marks_every_answer_and_its_marks_are_ratings_of_their_own_kind(tmp_path: Path) -> None:
    with judging_server(good) as server:
        run = make_run(tmp_path, BOTH + by_server(server.url))
        said = judge_all(run, prepare(run))
    assert "strict, single: 12 of 12 verdicts, 0 of 12 replies unreadable" in said
    assert "strict, pairwise: 16 of 16 verdicts" in said  # 4 scenarios x 2 students against the teacher x 2 orders
    keys = {key: arm for key, arm in json.loads(run.dir.blinding.read_text())["arms"].items()}
    marks = rows(
        run.dir.db, "SELECT kind, scenario, arm_key, satisfaction, goal_achievement, comment FROM tidy_ratings"
    )
    assert len(marks) == 12
    wanted = {"teacher": (4, 3), "distilled": (3, 2), "scratch": (1, 1)}  # 1 + how often the answer says 'good'
    for kind, scenario, key, satisfaction, goal, comment in marks:
        assert (kind, comment) == ("judge", "counted")
        if scenario != "q0" and scenario != "q3":
            assert (satisfaction, goal) == wanted[keys[key]]
    pairs = rows(run.dir.db, "SELECT arm_key, arm_key_second, winner, score_first, score_second FROM tidy_verdicts"
                             " WHERE mode = 'pairwise'")  # fmt: skip
    for first, second, winner, one, two in pairs:
        assert winner == ("first" if one > two else "second")
        assert "teacher" in (keys[first], keys[second])
    assert {(one[1], one[0]) for one in pairs} == {(one[0], one[1]) for one in pairs}, "both orders"


def test_judges_are_told_texts_and_never_a_name_or_a_key(tmp_path: Path) -> None:
    with judging_server(good) as server:
        run = make_run(tmp_path, BOTH + by_server(server.url, more='own = ["distilled"]'))
        judge_all(run, prepare(run))
    sent = json.dumps(server.payloads)
    keys = json.loads(run.dir.blinding.read_text())["arms"]
    assert not [word for word in (*ARMS, *keys) if word in sent]
    assert all(one["temperature"] == 0 and one["model"] == "some-judge" for one in server.payloads)
    stored = rows(run.dir.db, "SELECT name, model, host, settings FROM judge")
    assert stored[0][2] == server.url.split("/")[2], "the host alone, no path"
    assert not [word for word in ARMS if word in json.dumps(stored)]


def test_a_second_run_asks_nothing(tmp_path: Path) -> None:
    with judging_server(good) as server:
        run = make_run(tmp_path, BOTH + by_server(server.url))
        judge_all(run, prepare(run))
        asked, before = len(server.payloads), rows(run.dir.db, "SELECT * FROM verdict")
        judge_all(run, prepare(run))
        assert len(server.payloads) == asked == 28
    assert rows(run.dir.db, "SELECT * FROM verdict") == before


def test_unreadable_replies_are_kept_told_of_and_asked_again(tmp_path: Path) -> None:
    with judging_server(second_try) as server:
        run = make_run(tmp_path, by_server(server.url), count=2)
        said = judge_all(run, prepare(run))
    assert "6 of 6 verdicts, 6 of 12 replies unreadable" in said
    bad = rows(run.dir.db, "SELECT raw, problem, attempt FROM verdict WHERE problem IS NOT NULL")
    assert bad == [("I cannot put a number on that.", "no_marks", 1)] * 6
    again = [one["messages"] for one in server.payloads if len(one["messages"]) == 3]
    assert len(again) == 6
    assert again[0][1]["content"] == "I cannot put a number on that."
    assert "cannot be used" in again[0][2]["content"]


def test_a_judge_that_never_answers_is_given_up_and_asked_again_only_on_request(tmp_path: Path) -> None:
    with judging_server(garbage) as server:
        run = make_run(tmp_path, by_server(server.url), count=2)
        assert "0 of 6 verdicts, 18 of 18 replies unreadable; 6 items without" in judge_all(run, prepare(run))
        judge_all(run, prepare(run))
        assert len(server.payloads) == 18
        judging = prepare(run)
        assert (judging.costs()[0].unanswered, judging.costs()[0].requests, judging.costs(again=True)[0].requests) == (
            6, 0, 6,
        )  # fmt: skip
        server.behave = good
        assert "6 of 6 verdicts, 18 of 24" in judge_all(run, judging, again=True)
    assert len(rows(run.dir.db, "SELECT 1 FROM tidy_ratings")) == 6
    assert rows(run.dir.db, "SELECT DISTINCT attempt FROM tidy_verdicts") == [(4,)]


@pytest.mark.parametrize("fault", [500, 429, "html", "drop", "late"])
def test_a_server_that_fails_for_a_moment_is_asked_once_more(tmp_path: Path, fault: object) -> None:
    with judging_server(good) as server:
        more = "seconds = 2.0" if fault == "late" else ""
        run = make_run(tmp_path, by_server(server.url, more=more), count=2)
        server.faults = [None, fault, fault]
        assert "6 of 6 verdicts, 0 of 6 replies unreadable" in judge_all(run, prepare(run))
        assert len(server.payloads) >= 8  # a busy machine may be late on its own


def test_a_server_that_stays_away_or_refuses_all_is_an_error_and_what_came_is_kept(tmp_path: Path) -> None:
    with judging_server(good) as server:
        run = make_run(tmp_path, by_server(server.url, more="parallel = 1"), count=2)
        server.faults = [None, None, *[503] * 6]
        with pytest.raises(RunError, match="did not answer in 6 attempts"):
            judge_all(run, prepare(run))
        assert len(rows(run.dir.db, "SELECT 1 FROM tidy_ratings")) == 2
        server.faults = [400, 401]
        with pytest.raises(RunError, match="status 401"):
            judge_all(run, prepare(run))
        server.faults = [400, 422, 400]
        with pytest.raises(RunError, match="refuses: status 400"):
            judge_all(run, prepare(run))
        assert "6 of 6 verdicts" in judge_all(run, prepare(run))


def test_one_refused_request_among_others_is_an_item_without_a_verdict(tmp_path: Path) -> None:
    def picky(request: str, before: int) -> Any:
        return 400 if "thing 1" in request else good(request, before)

    with judging_server(picky) as server:
        run = make_run(tmp_path, by_server(server.url), count=3)
        said = judge_all(run, prepare(run))
        assert "6 of 9 verdicts" in said
        assert len(server.payloads) == 9, "a refusal is not repeated"
    assert rows(run.dir.db, "SELECT DISTINCT problem FROM verdict WHERE problem IS NOT NULL") == [("refused",)]


def test_position_bias_shows_in_the_verdicts(tmp_path: Path) -> None:
    with judging_server(first_wins) as server:
        run = make_run(tmp_path, '[judge]\nmodes = ["pairwise"]\npairs = "all"\n' + by_server(server.url))
        judge_all(run, prepare(run))
    assert rows(run.dir.db, "SELECT winner, count(*) FROM tidy_verdicts GROUP BY winner") == [("first", 24)]
    assert rows(run.dir.db, "SELECT count(*) FROM tidy_ratings") == [(0,)], "comparisons are no ratings"


def test_changed_settings_need_another_name(tmp_path: Path) -> None:
    with judging_server(good) as server:
        run = make_run(tmp_path, by_server(server.url), count=2)
        judge_all(run, prepare(run))
        changed = make_run(tmp_path, by_server(server.url, more="max_tokens = 99"), count=2)
        with pytest.raises(RatingError, match=r"'strict' .* has verdicts under another settings"):
            prepare(changed)
        (tmp_path / "mine.txt").write_text("All that counts is brevity.")
        text = f'[judge]\nrubric = "{tmp_path / "mine.txt"}"\n'
        with pytest.raises(RatingError, match="another rubric"):
            prepare(make_run(tmp_path, text + by_server(server.url), count=2))
        other = make_run(tmp_path, text + by_server(server.url, name="brief"), count=2)
        judge_all(other, prepare(other))
    assert "All that counts is brevity." in server.payloads[-1]["messages"][0]["content"]
    assert rows(run.dir.db, "SELECT name, verdicts FROM tidy_judges") == [("strict", 6), ("brief", 6)]


def test_what_it_costs_is_shown_and_limited(tmp_path: Path) -> None:
    prices = "price_in = 1000.0\nprice_out = 5000.0"
    with judging_server(second_try) as server:
        run = make_run(tmp_path, "[judge]\nlimit = 3.0\n" + by_server(server.url, more=prices), count=2)
        judging = prepare(run)
        cost = judging.costs()[0]
        assert (cost.requests, cost.items, cost.done) == (6, 6, 0)
        assert cost.expected == pytest.approx((cost.tokens_in * 1000 + cost.tokens_out * 5000) / 1e6)
        assert cost.most is not None
        assert cost.expected < cost.most
        with pytest.raises(RunError, match=r"about 5\.\d\d USD, more than the limit of 3\.00"):
            check_limits(judging, judging.costs(), yes=False)
        check_limits(judging, judging.costs(), yes=True)
        with pytest.raises(RunError, match="all replies so far are kept"):
            judge_all(run, judging)
        kept = rows(run.dir.db, "SELECT count(*) FROM verdict")[0][0]
        assert 0 < kept < 12
        assert "6 of 6 verdicts" in judge_all(run, prepare(run), yes=True)
        assert len(server.payloads) - kept <= 12 - kept + 4, "what was under way at the limit may be lost, no more"


def test_requests_have_a_limit_too(tmp_path: Path) -> None:
    run = make_run(tmp_path, "[judge]\nlimit_requests = 5\n" + by_server("http://127.0.0.1:9/v1"), count=2)
    judging = prepare(run)
    with pytest.raises(RunError, match="6 requests, more than the limit of 5"):
        check_limits(judging, judging.costs(), yes=False)


def test_the_plan_prints_costs_and_asks_nothing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with judging_server(good) as server:
        run = make_run(tmp_path, BOTH + by_server(server.url))
        words = ["judge", str(tmp_path / "study.toml"), "--run", str(run.dir.root), "--plan"]
        assert main(words) == 0
        text = capsys.readouterr().out
        assert "0 of 12 items done" in text
        assert "28 requests in all" in text
        assert "money unknown" in text
        assert main([*words, "--json"]) == 0
        assert json.loads(capsys.readouterr().out)["requests"] == 28
        assert server.payloads == []
        assert rows(run.dir.db, "SELECT * FROM judge") == []


def test_a_key_comes_from_the_environment_and_stays_out_of_every_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with judging_server(good) as server:
        run = make_run(tmp_path, by_server(server.url, more='key_variable = "SOME_KEY"'), count=2)
        with pytest.raises(ConfigError, match="SOME_KEY is empty"):
            judge_all(run, prepare(run))
        monkeypatch.setenv("SOME_KEY", "sesame-4711")
        judge_all(run, prepare(run))
        assert set(server.keys) == {"Bearer sesame-4711"}
    for path in run.dir.root.rglob("*"):
        assert path.is_dir() or b"sesame-4711" not in path.read_bytes(), path


def test_more_fields_of_the_body_are_sent(tmp_path: Path) -> None:
    with judging_server(good) as server:
        more = 'body = { max_completion_tokens = 77, reasoning_effort = "low" }'
        run = make_run(tmp_path, by_server(server.url, more=more), count=2)
        judge_all(run, prepare(run))
    assert server.payloads[0]["reasoning_effort"] == "low"
    assert server.payloads[0]["max_completion_tokens"] == 77
    assert "max_tokens" not in server.payloads[0]


@pytest.mark.parametrize(
    ("judges", "message"),
    [
        ("", "names no judge"),
        ('[[judge.by]]\nname = "x"', "one of endpoint, source and arm"),
        ('[[judge.by]]\nname = "x"\nendpoint = "localhost"\nmodel = "m"', "not a URL"),
        ('[[judge.by]]\nname = "x"\nendpoint = "http://h/v1"', "name its model"),
        ('[[judge.by]]\nname = "x"\narm = "teacher"\nparallel = 3', "parallel does nothing"),
        ('[[judge.by]]\nname = "x"\narm = "teacher"\nbody = { top_k = 1 }', "body does nothing"),
        (
            by_server("http://h/v1", more='form = "forced"'),
            "form does nothing here; it belongs to a model that runs here",
        ),
        ('[[judge.by]]\nname = "x"\narm = "nobody"', "an arm 'nobody'"),
        (by_server("http://h/v1") + by_server("http://h/v1"), "two judges are called 'strict'"),
        (by_server("http://h/v1", more="price_in = 1.0"), "give both price_in and price_out"),
        ("[judge]\nmodes = []\n" + by_server("http://h/v1"), "modes lists"),
    ],
)
def test_mistakes_in_the_table_are_named(tmp_path: Path, judges: str, message: str) -> None:
    with pytest.raises(VivaError, match=message):
        prepare(make_run(tmp_path, judges, count=2))


def test_unknown_judges_and_idle_options_are_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = make_run(tmp_path, by_server("http://127.0.0.1:9/v1"), count=2)
    with pytest.raises(ConfigError, match="no judge 'mild'"):
        prepare(run, ["mild"])
    for words in ("", "x --reviews y", "x --json", "x --teacher t", "--reviews y --plan"):
        assert main(["judge", *words.split()]) == 2
        assert capsys.readouterr().err.startswith("viva: ")


def test_a_resolved_study_file_with_judges_can_be_read_again(tmp_path: Path) -> None:
    from harness.study_file import load_study

    run = make_run(tmp_path, BOTH + by_server("http://127.0.0.1:9/v1", more="body = { top_k = 1 }"), count=2)
    assert load_study(run.dir.study) == run.study
    local = make_run(tmp_path / "local", '[[judge.by]]\nname = "here"\narm = "teacher"\n', count=2)
    assert load_study(local.dir.study) == local.study


def test_people_and_judges_do_not_disturb_each_other(tmp_path: Path) -> None:
    from studyapp import session

    with judging_server(good) as server:
        run = make_run(tmp_path, by_server(server.url), count=2)
        prepare_ratings(run)
        first = session.who(run.dir.db, session.join(run.dir.db))
        judge_all(run, prepare(run))
        second = session.who(run.dir.db, session.join(run.dir.db))
    assert first is not None
    assert second is not None
    assert (first.label, second.label) == ("R01", "R03")
    assert rows(run.dir.db, "SELECT label, kind FROM rater ORDER BY id") == [
        ("R01", "person"), ("R02", "judge"), ("R03", "person"),
    ]  # fmt: skip


def test_a_killed_run_goes_on_with_what_is_not_answered(tmp_path: Path) -> None:
    """kill -9 in the middle: no reply on the disk is asked for again, none is stored twice."""
    with judging_server(good, delay=0.15) as server:
        run = make_run(tmp_path, BOTH + by_server(server.url, more="parallel = 2"), count=4)
        command = [sys.executable, "-m", "harness.cli", "judge", str(run.dir.root)]
        environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])}
        process = subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        until = time.monotonic() + 300
        while len(server.payloads) < 7 and time.monotonic() < until and process.poll() is None:
            time.sleep(0.01)
        os.kill(process.pid, signal.SIGKILL)
        process.communicate()
        kept = rows(run.dir.db, "SELECT scenario, first, second FROM verdict")
        asked = len(server.payloads)
        assert 0 < len(kept) < 28
        assert asked - len(kept) <= 3, "what is not on the disk was under way"
        server.delay = 0.0
        done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=300)
        assert done.returncode == 0, done.stderr
        assert "12 of 12 verdicts" in done.stdout
        assert "16 of 16 verdicts" in done.stdout
        assert len(server.payloads) - asked == 28 - len(kept)
    found = rows(run.dir.db, "SELECT scenario, first, second FROM verdict WHERE problem IS NULL")
    assert len(found) == len(set(found)) == 28
    assert rows(run.dir.db, "PRAGMA integrity_check") == [("ok",)]

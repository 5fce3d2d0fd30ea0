"""`viva plan`, `viva report --ratings` and `viva report A B` as a user calls them."""

import json
from pathlib import Path

import numpy as np
import pytest
from fixture_run import make_run
from fixture_study import make_study

from harness.cli import main
from reports.planning import DEFAULTS, Pilot, Wish, make_plan, plan_text
from reports.several import compare, write_several
from reports.stats.planning import power


def table(path: Path, *, raters: int = 12, scenarios: int = 11, extra: str = "") -> Path:
    rng = np.random.default_rng(3)
    lines = ["rater,scenario,arm,satisfaction,mode" if extra else "rater,scenario,arm,satisfaction"]
    for rater in range(raters):
        for scenario in range(scenarios):
            for arm, mean in (("big", 4.2), ("small", 3.9)):
                value = int(np.clip(round(rng.normal(mean, 0.8)), 1, 5))
                lines.append(f"p{rater},q{scenario},{arm},{value}" + (f",{extra}" if extra else ""))
    path.write_text("\n".join(lines), encoding="utf-8")
    return path


class TestReportOnATable:
    def test_writes_the_human_part(self, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
        out = tmp_path / "out"
        ratings = str(table(tmp_path / "mine.csv"))
        assert main(["report", "--ratings", ratings, "--teacher", "big", "--out", str(out), "--margin", "0.8"]) == 0
        assert "report.html" in capsys.readouterr().out
        report = json.loads((out / "report.json").read_text())
        assert report["study"]["margin"] == 0.8
        assert report["n"]["ratings"] == 264
        assert "The small student keeps" in report["headline"]

    @pytest.mark.parametrize(
        ("arguments", "said"),
        [
            (["--teacher", "bigg"], "did you mean --teacher big?"),
            ([], "--ratings needs the teacher's name"),
            (["--teacher", "big", "--margin", "90"], "--margin is 90"),
            (["study.toml", "--teacher", "big"], "--ratings takes no study"),
        ],
    )
    def test_mistakes_are_named(
        self, tmp_path: Path, capsys: pytest.CaptureFixture[str], arguments: list[str], said: str
    ) -> None:
        ratings = str(table(tmp_path / "mine.csv"))
        assert main(["report", *arguments, "--ratings", ratings]) in (1, 2)
        assert said in capsys.readouterr().err

    def test_a_file_that_is_no_table(self, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
        (tmp_path / "semi.csv").write_text("rater;scenario;arm;satisfaction\na;b;big;3\n")
        for name, said in (
            ("absent.csv", "no such file"),
            ("semi.csv", "separated by semicolons"),
            (".", "is a folder"),
        ):
            assert main(["report", "--ratings", str(tmp_path / name), "--teacher", "big"]) == 2
            assert said in capsys.readouterr().err

    def test_options_that_would_do_nothing(self, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
        for arguments, said in (
            (["report"], "takes a study, or a table"),
            (["report", "x", "--teacher", "big"], "belong to --ratings"),
            (["report", "x", "--out", str(tmp_path)], "--out does nothing for one study"),
            (["report", "x", "y", "--run", "z"], "--run is about one study"),
        ):
            assert main(arguments) == 2
            assert said in capsys.readouterr().err


class TestPlan:
    def test_the_plan_in_words(self, capsys: pytest.CaptureFixture[str]) -> None:
        assert main(["plan", "--scenarios", "40", "--simulate", "40"]) == 0
        text = capsys.readouterr().out
        for part in ("defaults, since there is no pilot", "within", "between", "Simulated within", "false alarms"):
            assert part in text

    def test_the_numbers_are_the_closed_forms(self) -> None:
        plan = make_plan(Pilot(), Wish(replications=0))
        for row in plan["rows"]:
            for crossing in ("within", "between"):
                one = row[crossing]
                shape = (0.9, one["raters"], row["scenarios"], one["per_rater"])
                if one["raters"]:
                    assert power(DEFAULTS, *shape, crossing=crossing).power == pytest.approx(one["power"])
                    assert one["power"] >= 0.8
                    assert one["ratings"] == one["raters"] * one["ratings_per_rater"]
                else:
                    assert one["limit"] < 0.8
        assert plan["rows"][0]["within"]["raters"] is None
        assert "never" in plan_text(plan)

    def test_simulation_checks_power_and_size(self) -> None:
        plan = make_plan(Pilot(), Wish(scenarios=40, replications=300))
        for one in plan["check"]:
            assert one["simulated"] == pytest.approx(one["closed"], abs=0.08)
            assert one["size"] <= 0.09

    def test_a_pilot_s_components_are_used(self, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
        ratings = str(table(tmp_path / "pilot.csv", raters=20, scenarios=20))
        command = ["plan", "--pilot", ratings, "--teacher", "big", "--simulate", "0", "--json"]
        assert main(command) == 0
        plan = json.loads(capsys.readouterr().out)
        assert plan["pilot"]["n_raters"] == 20
        assert plan["assumed"]["s_e"] == pytest.approx(0.75, abs=0.12)  # 0.8, rounded and clipped
        assert plan["assumed"]["s_r"] < 0.2
        assert main([*command, "--fraction", "0.99"]) == 0
        assert json.loads(capsys.readouterr().out)["assumed"]["true_ratio"] == 0.99

    def test_a_run_directory_as_pilot_brings_its_margin(
        self, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        from reports.planning import read_pilot

        root = make_study(tmp_path / "run")
        pilot = read_pilot(root, None, None, 0.97)
        assert (pilot.student, pilot.n_raters) == ("distilled", 16)
        assert "distilled against its teacher, 16 raters" in plan_text(make_plan(pilot, Wish(replications=0)))

    @pytest.mark.parametrize(
        ("arguments", "said"),
        [
            (["--fraction", "0.9"], "is not above the margin"),
            (["--margin", "1.2"], "--margin is 1.2"),
            (["--power", "80"], "--power is 80"),
            (["--teacher", "big"], "belong to --pilot"),
            (["--scenarios", "1"], "two scenarios"),
            (["--pilot", "absent.csv"], "no such file or folder"),
        ],
    )
    def test_mistakes_are_named(self, capsys: pytest.CaptureFixture[str], arguments: list[str], said: str) -> None:
        assert main(["plan", *arguments]) == 2
        assert said in capsys.readouterr().err

    def test_a_pilot_that_tells_nothing(self, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
        ratings = str(table(tmp_path / "one.csv", raters=1))
        assert main(["plan", "--pilot", ratings, "--teacher", "big"]) == 2
        assert "does not tell its variance components" in capsys.readouterr().err
        assert main(["plan", "--pilot", ratings, "--teacher", "big", "--student", "tiny"]) == 2
        assert "no ratings of an arm 'tiny'" in capsys.readouterr().err


class TestSeveral:
    def test_a_student_is_pooled_over_studies(self, tmp_path: Path) -> None:
        roots = [make_run(tmp_path / name, seed=seed) for name, seed in (("one", 1), ("two", 2), ("three", 3))]
        report = compare(roots)
        assert [study["label"] for study in report["studies"]] == ["one", "two", "three"]
        each = [study["students"]["distilled"]["satisfaction"]["fraction"] for study in report["studies"]]
        pooled = next(one for one in report["pooled"] if one["student"] == "distilled")
        assert min(one["estimate"] for one in each) < pooled["estimate"] < max(one["estimate"] for one in each)
        assert pooled["n"] == 3
        assert report["headline"].startswith("Over 3 studies distilled keeps")
        paths = write_several(roots, tmp_path / "out")
        html = paths.html.read_text()
        assert "Pooled over studies" in html
        assert "one" in paths.md.read_text()
        assert json.loads(paths.json.read_text())["pooled"]
        first = paths.html.read_bytes()
        write_several(roots, tmp_path / "out")
        assert paths.html.read_bytes() == first

    def test_modes_are_not_pooled(self, tmp_path: Path) -> None:
        fixed, live = make_run(tmp_path / "fixed"), make_study(tmp_path / "live", modes=("live",))
        (live / "study.toml").write_text((live / "study.toml").read_text() + '\n[rate]\nmode = "live"\n')
        assert compare([fixed, live])["pooled"] == []

    def test_one_study_twice_is_refused(self, tmp_path: Path) -> None:
        from harness.errors import ConfigError

        root = make_run(tmp_path / "one")
        with pytest.raises(ConfigError, match="named twice"):
            write_several([root, root], tmp_path / "out")

"""Stages that know when they are finished, and one process at a time."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from harness.errors import RunError
from harness.rundir import RunDir, Stage, now, read_manifest
from harness.stages import open_run
from tests.test_config import STUDY


def finished_stage(folder: Path, **config: object) -> Stage:
    stage = Stage("bench/teacher", folder, config, {"model": "abc"})
    folder.mkdir(exist_ok=True)
    (folder / "words.json").write_text("{}")
    stage.finish([folder / "words.json"], now())
    return stage


def test_a_finished_stage_is_skipped_and_any_change_undoes_that(tmp_path: Path) -> None:
    stage = finished_stage(tmp_path / "bench", limit=3)
    assert stage.finished()
    assert not Stage(stage.name, stage.folder, {"limit": 4}, stage.inputs).finished()
    assert not Stage(stage.name, stage.folder, stage.config, {"model": "abd"}).finished()
    (stage.folder / "words.json").unlink()
    assert not stage.finished()


def test_a_failed_stage_is_not_finished_and_says_why(tmp_path: Path) -> None:
    stage = Stage("answer", tmp_path / "answers", {}, {})
    stage.fail(now(), "the disk is full")
    assert not stage.finished()
    manifest = read_manifest(stage.manifest)
    assert manifest is not None
    assert manifest["error"] == "the disk is full"


def test_a_manifest_holds_what_a_reader_needs(tmp_path: Path) -> None:
    manifest = read_manifest(finished_stage(tmp_path / "bench").manifest)
    assert manifest is not None
    assert {"schema", "stage", "status", "started", "finished", "config", "config_digest", "inputs", "outputs"} <= set(
        manifest
    )
    assert {"git", "versions", "hardware", "error"} <= set(manifest)
    assert len(manifest["outputs"]["words.json"]["sha256"]) == 64


def test_two_processes_cannot_work_on_one_run(tmp_path: Path) -> None:
    run = RunDir(tmp_path / "run")
    code = (
        "import sys; from pathlib import Path; from harness.rundir import RunDir\n"
        "with RunDir(Path(sys.argv[1])).lock():\n    print('held', flush=True); sys.stdin.read()"
    )
    holder = subprocess.Popen(
        [sys.executable, "-c", code, str(run.root)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert holder.stdout is not None
    assert holder.stdout.readline() == "held\n"
    with pytest.raises(RunError, match=f"in use by process {holder.pid}"), run.lock():
        pass
    with run.lock("rate"):  # people can rate while a stage runs
        pass
    holder.kill()
    holder.communicate()
    with run.lock():  # the lock went with the process
        assert (run.root / ".work.lock").read_text() == f"process {os.getpid()}"


def test_a_run_directory_of_another_study(tmp_path: Path) -> None:
    (tmp_path / "one.toml").write_text(STUDY)
    (tmp_path / "two.toml").write_text(STUDY.replace('"small"', '"other"'))
    open_run(tmp_path / "one.toml", tmp_path / "run")
    with pytest.raises(RunError, match="another study: 'small'"):
        open_run(tmp_path / "two.toml", tmp_path / "run")
    assert open_run(tmp_path / "run").study.name == "small"


def test_a_folder_of_something_else_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "one.toml").write_text(STUDY)
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos" / "cat.jpg").touch()
    with pytest.raises(RunError, match=r"not a run directory"):
        open_run(tmp_path / "one.toml", tmp_path / "photos")
    with pytest.raises(RunError, match=r"no study\.toml"):
        open_run(tmp_path / "photos")

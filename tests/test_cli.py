"""The command line: what a user's mistakes look like."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from harness.cli import main
from harness.study_file import load_study
from tests.test_config import STUDY
from tests.tiny import save_tiny, tiny_corpus


def viva(*words: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[1])}
    command = [sys.executable, "-m", "harness.cli", *words]
    return subprocess.run(command, cwd=cwd, capture_output=True, text=True, env=environment, timeout=300)


def test_init_writes_a_study_that_is_valid_and_overwrites_nothing(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "my study.toml"
    assert main(["init", str(path)]) == 0
    assert load_study(path).name == "my-study"
    before = path.read_text()
    assert main(["init", str(path)]) == 2
    assert path.read_text() == before
    assert "exists already" in capsys.readouterr().err


@pytest.mark.parametrize("command", ["run", "train", "bench", "answer", "rate", "report", "status"])
def test_a_missing_study_file_is_two_lines_and_no_traceback(tmp_path: Path, command: str) -> None:
    done = viva(command, "none.toml", cwd=tmp_path)
    assert done.returncode == 2
    assert "no study file none.toml" in done.stderr
    assert len(done.stderr.strip().splitlines()) == 2


def test_an_unknown_key_is_named_with_its_line(tmp_path: Path) -> None:
    (tmp_path / "study.toml").write_text(STUDY.replace("tokens", "token"))
    done = viva("run", "study.toml", cwd=tmp_path)
    assert done.returncode == 2
    assert "line 10: unknown key" in done.stderr
    assert "did you mean 'tokens'" in done.stderr
    assert not (tmp_path / "runs").exists()


def test_a_missing_corpus_and_a_missing_teacher_are_named(tmp_path: Path) -> None:
    (tmp_path / "study.toml").write_text(STUDY.replace("pypi:thing==1.0/thing.gguf", "./nowhere"))
    done = viva("train", "study.toml", cwd=tmp_path)
    assert (done.returncode, "nowhere" in done.stderr) == (1, True)
    save_tiny(tmp_path / "nowhere")
    done = viva("train", "study.toml", cwd=tmp_path)
    assert (done.returncode, "chats.jsonl" in done.stderr) == (2, True)
    assert "Traceback" not in done.stderr


def test_a_student_with_another_vocabulary_is_refused_before_training(tmp_path: Path) -> None:
    save_tiny(tmp_path / "teacher")
    save_tiny(tmp_path / "own", layers=2, extra=3)
    tiny_corpus(tmp_path / "chats.jsonl")
    own = STUDY.replace("pypi:thing==1.0/thing.gguf", "teacher").replace("shape = { layers = 2 }", 'start = "own"')
    (tmp_path / "study.toml").write_text(own.split('[[student]]\nname = "scratch"')[0])
    done = viva("train", "study.toml", cwd=tmp_path)
    assert done.returncode == 2
    assert "teacher and student vocabularies differ: 258 and 261 tokens" in done.stderr
    assert "Traceback" not in done.stderr
    assert not (tmp_path / "runs" / "small" / "arms" / "distilled" / "model").exists()


def test_a_student_can_go_on_from_a_model_of_its_own(tmp_path: Path) -> None:
    save_tiny(tmp_path / "teacher")
    save_tiny(tmp_path / "own", layers=2, seed=4)
    tiny_corpus(tmp_path / "chats.jsonl")
    own = STUDY.replace("pypi:thing==1.0/thing.gguf", "teacher").replace("shape = { layers = 2 }", 'start = "own"')
    (tmp_path / "study.toml").write_text(own.split('[[student]]\nname = "scratch"')[0])
    done = viva("train", "study.toml", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "runs" / "small" / "arms" / "distilled" / "model" / "model.safetensors").exists()


def test_a_student_of_the_layers_that_the_study_names(tmp_path: Path) -> None:
    save_tiny(tmp_path / "teacher")
    tiny_corpus(tmp_path / "chats.jsonl")
    text = STUDY.replace("pypi:thing==1.0/thing.gguf", "teacher")
    text = text.replace("{ layers = 2 }", '{ layers = 2, keep = "last" }\nstart = "teacher-layers"')
    (tmp_path / "study.toml").write_text(text)
    done = viva("train", "study.toml", "--only", "distilled", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    manifest = json.loads((tmp_path / "runs" / "small" / "arms" / "distilled" / "manifest.json").read_text())
    assert manifest["student"]["layers_kept"] == [2, 3]
    assert not (tmp_path / "runs" / "small" / "arms" / "scratch").exists()


def test_rating_before_there_are_answers_says_what_to_run(tmp_path: Path) -> None:
    save_tiny(tmp_path / "teacher")
    tiny_corpus(tmp_path / "chats.jsonl")
    (tmp_path / "study.toml").write_text(STUDY.replace("pypi:thing==1.0/thing.gguf", "teacher"))
    done = viva("rate", "study.toml", cwd=tmp_path)
    assert done.returncode == 1
    assert "no finished answers" in done.stderr
    assert "viva run" in done.stderr


def test_status_of_a_new_study(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "study.toml").write_text(STUDY)
    assert main(["status", str(tmp_path / "study.toml"), "--run", str(tmp_path / "run")]) == 0
    out = capsys.readouterr().out
    assert "train distilled: not begun" in out
    assert "ratings: none yet" in out


def test_doctor_says_what_works(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("VIVA_CACHE", str(tmp_path))
    assert main(["doctor"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split(":")[0].split()[1] for line in lines][:3] == ["machine", "packages", "cache"]
    (tmp_path / "file").touch()
    monkeypatch.setenv("VIVA_CACHE", str(tmp_path / "file" / "cache"))
    assert main(["doctor"]) == 1
    assert "set VIVA_CACHE" in capsys.readouterr().out

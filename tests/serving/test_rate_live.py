"""`viva rate` with live chats, as the study's owner runs it: three processes, of which the page's knows no arm."""

import contextlib
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from harness.serving.study_db import known_pace
from harness.stages import Run
from tests.serving.live_study import make_run

ROOT = Path(__file__).parents[2]
PATIENCE = 300.0
PACE = "cps = 12\ndelay = 60"  # whatever this machine does, it keeps up


@contextlib.contextmanager
def viva_rate(run: Run, port: int = 0) -> Iterator[tuple[subprocess.Popen[str], list[str]]]:
    """The running command and what it prints; yields once the page is up or the command has ended."""
    process = subprocess.Popen(
        [sys.executable, "-m", "harness.cli", "rate", str(run.dir.root), "--port", str(port)],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        cwd=run.dir.root.parent,
        env={**os.environ, "PYTHONPATH": str(ROOT), "OPENAI_API_KEY": "sk-not-for-the-page"},
    )
    assert process.stdout is not None
    lines: list[str] = []
    ready = threading.Event()

    def read() -> None:
        assert process.stdout is not None
        for line in process.stdout:
            lines.append(line.rstrip())
            if line.startswith("rating page: "):
                ready.set()
        ready.set()

    reader = threading.Thread(target=read, daemon=True)
    reader.start()
    try:
        assert ready.wait(PATIENCE)
        yield process, lines
    finally:
        if process.poll() is None:
            process.send_signal(signal.SIGINT)
        try:
            process.wait(PATIENCE)
        except subprocess.TimeoutExpired:
            process.kill()
        reader.join(10)
        process.stdout.close()


def children(pid: int) -> dict[str, int]:
    """The processes that a process started, by the module that they run."""
    found = {}
    for folder in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError, IndexError):
            if int((folder / "stat").read_text().rpartition(")")[2].split()[1]) == pid:
                words = (folder / "cmdline").read_bytes().decode().split("\0")
                found[words[2]] = int(folder.name)
    return found


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    return make_run(tmp_path_factory.mktemp("rate"), settings=PACE)


@pytest.mark.skipif(not Path("/proc/self/environ").exists(), reason="looks into /proc")
def test_the_page_s_process_knows_no_arm_and_ends_with_the_others(run: Run) -> None:
    with viva_rate(run) as (process, lines):
        said = "\n".join(lines)
        assert "rating page: http" in said, said
        assert "live chats: 12 characters a second after 60 s" in said
        url = next(line for line in lines if line.startswith("rating page: ")).removeprefix("rating page: ")
        assert httpx.get(f"{url}healthz").status_code == 200
        assert "canary" not in httpx.get(f"{url}join").text
        ours = children(process.pid)
        assert set(ours) == {"harness.serving", "studyapp"}
        facts = Path(f"/proc/{ours['studyapp']}")
        known = (facts / "cmdline").read_bytes() + (facts / "environ").read_bytes()
        assert b"canary" not in known
        assert b"sk-not-for-the-page" not in known
        os.kill(ours["harness.serving"], signal.SIGKILL)
        end = time.monotonic() + PATIENCE
        while "the model server is back" not in lines:
            assert time.monotonic() < end
            time.sleep(0.1)
        again = children(process.pid)
        assert again["studyapp"] == ours["studyapp"]
        assert again["harness.serving"] != ours["harness.serving"]
    # its last words, after Ctrl-C, are the report's; nothing was rated, but nothing went wrong
    assert process.returncode == 0, "\n".join(lines)
    assert "canary" not in "\n".join(lines).replace(str(run.dir.root.parent), "")
    assert not any(Path(f"/proc/{pid}").exists() for pid in again.values())


def test_a_known_pace_is_kept_a_port_in_use_is_told_first_and_a_dead_page_ends_it_all(run: Run) -> None:
    before = known_pace(run.dir.db)
    assert before
    with viva_rate(run) as (first, lines):
        assert any(line.startswith("rating page: ") for line in lines)
        port = int(next(line for line in lines if line.startswith("rating page: ")).split(":")[-1].rstrip("/"))
        assert not any(line.startswith("pace") for line in lines)
        held = port
        other = make_run(run.dir.root.parent / "other", settings=PACE)
        with viva_rate(other, held) as (second, words):
            assert second.wait(PATIENCE) == 1
        assert f"port {held} is already in use" in "\n".join(words)
        assert not (other.dir.root / "model-server.log").exists()
        page = children(first.pid)["studyapp"]
        os.kill(page, signal.SIGKILL)
        assert first.wait(PATIENCE) == 1
        assert any("the rating page ended by itself" in line for line in lines)
        assert not children(first.pid)
    assert known_pace(run.dir.db) == before


def test_an_arm_that_is_too_slow_for_its_pace_is_refused_without_its_name(tmp_path: Path) -> None:
    run = make_run(tmp_path, settings="cps = 5000\ndelay = 0.1")
    with viva_rate(run) as (process, lines):
        assert process.wait(PATIENCE) == 1
    said = "\n".join(lines)
    assert "delay = 0.1 s is too short at 5000 characters a second" in said
    assert "canary" not in said.replace(str(tmp_path), "")
    assert known_pace(run.dir.db) is None

"""The model server as a real process over real models: started, asked, killed, started anew, gone with its owner."""

import asyncio
import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest

from harness.blinding import arm_keys
from harness.errors import RunError
from harness.records import Message
from harness.serving.process import LOG, Handle, calibrate, serving
from harness.stages import Run
from studyapp.broker import Broker, BrokerError
from tests.serving.live_study import ARMS, Place, join, make_run
from tests.serving.openai_server import chat_server

PATIENCE = 300.0  # the machine may be busy
ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    return make_run(tmp_path_factory.mktemp("live"))


@pytest.fixture(scope="module")
def places(run: Run) -> list[Place]:
    return join(run.dir.db)


@pytest.fixture(scope="module")
def handle(run: Run) -> Iterator[Handle]:
    with serving(run.dir.root, 3) as running:
        yield running


def answers(handle: Handle, places: Sequence[Place], messages: Sequence[Message] | None = None) -> list[str]:
    """What is answered at these places, all asked for at once."""
    broker = Broker(handle.address, handle.secret)

    async def one(place: Place) -> str:
        return "".join([piece async for piece in broker.stream(place.assignment, messages or place.opening)])

    async def together() -> list[str]:
        return list(await asyncio.gather(*map(one, places)))

    return asyncio.run(together())


def alive(handle: Handle) -> bool:
    return asyncio.run(Broker(handle.address, handle.secret).alive())


def runs(pid: int) -> bool:
    """Whether a process still runs; one that only waits to be reaped does not."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except (OSError, IndexError):
        return False


def kill(handle: Handle) -> None:
    """kill -9; returns once it is dead."""
    pid = handle.pid
    assert pid
    os.kill(pid, signal.SIGKILL)
    while runs(pid):
        time.sleep(0.01)


def wait_for_life(handle: Handle) -> None:
    end = time.monotonic() + PATIENCE
    while not alive(handle):
        assert time.monotonic() < end
        time.sleep(0.1)


def test_two_arms_answer_at_once_what_they_answer_alone(handle: Handle, run: Run, places: list[Place]) -> None:
    keys = arm_keys(run.dir.blinding, run.study.arms)
    assert {place.arm_key for place in places} == set(keys.values())
    together = answers(handle, places)
    assert len({*together}) == len(places) == 4
    follow_up = [Message(role="user", content="And then?")]
    long = [places[0].opening[0], Message(role="assistant", content="Well."), *follow_up]
    assert answers(handle, places[:1], long) != answers(handle, places[:1])
    kill(handle)  # what it remembered is gone
    wait_for_life(handle)
    assert [answers(handle, [place])[0] for place in places] == together


def test_a_killed_server_is_away_and_comes_back_by_itself(handle: Handle, places: list[Place]) -> None:
    before, text = handle.pid, answers(handle, places[:1])
    kill(handle)
    with pytest.raises(BrokerError):
        answers(handle, places[:1])
    assert not alive(handle)
    wait_for_life(handle)
    assert handle.pid != before
    assert answers(handle, places[:1]) == text


def test_a_server_killed_in_the_middle_of_an_answer_fails_it(handle: Handle, places: list[Place]) -> None:
    broker = Broker(handle.address, handle.secret)

    async def interrupted() -> None:
        stream = broker.stream(places[1].assignment, [Message(role="user", content="Tell me something new.")])
        await stream.admitted()
        os.kill(handle.pid or 0, signal.SIGKILL)
        async for _ in stream:
            pass

    with pytest.raises(BrokerError):
        asyncio.run(interrupted())
    wait_for_life(handle)


def raw(handle: Handle, request: bytes) -> bytes:
    """All bytes that come back for a request."""
    with socket.socket(socket.AF_UNIX) as connection:
        connection.connect(handle.address.removeprefix("unix:"))
        connection.sendall(request)
        found = b""
        while piece := connection.recv(65536):
            found += piece
    return found


def request(path: str, body: bytes = b"", secret: str = "") -> bytes:
    head = f"POST {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\nContent-Length: {len(body)}\r\n"
    return (head + (f"Authorization: Bearer {secret}\r\n" if secret else "") + "\r\n").encode() + body


def test_no_byte_that_it_sends_names_an_arm(
    handle: Handle, run: Run, places: list[Place], capfd: pytest.CaptureFixture[str]
) -> None:
    keys = arm_keys(run.dir.blinding, run.study.arms)
    sent = [raw(handle, request("/chat", b"{}")), raw(handle, request("/measure", secret=handle.secret))]
    for place in places:
        body = {"assignment": place.assignment, "messages": [{"role": "user", "content": "Who are you?"}]}
        sent.append(raw(handle, request("/chat", json.dumps(body).encode(), handle.secret)))
    sent += [raw(handle, request(path, b"junk", handle.secret)) for path in ("/chat", "/nothing", "/health")]
    assert b"200 OK" in sent[1]
    shown = b"".join(sent).lower() + "".join(capfd.readouterr()).encode()
    for name in (*ARMS, "canary", *keys.values(), str(run.dir.root), "uvicorn", handle.secret.lower()):
        assert name.encode() not in shown, name


def test_secret_and_names_stand_in_no_arguments_or_environment(handle: Handle, run: Run) -> None:
    facts = Path(f"/proc/{handle.pid}")
    if not facts.is_dir():
        pytest.skip("no /proc here")
    said = (facts / "cmdline").read_bytes() + (facts / "environ").read_bytes()
    assert handle.secret.encode() not in said
    assert b"canary" not in said.replace(str(run.dir.root.parent).encode(), b"")
    assert (run.dir.root / LOG).stat().st_mode & 0o777 == 0o600
    assert Path(handle.address.removeprefix("unix:")).parent.stat().st_mode & 0o777 == 0o700


def test_calibration_gives_a_pace_that_all_arms_keep(handle: Handle) -> None:
    told: list[tuple[int, int, str]] = []
    found = calibrate(handle, lambda *line: told.append(line))
    assert found["at_once"] == 3
    assert found["cps"] <= max(75, 0.8 * found["g"])
    assert found["delay"] >= found["F"] + found["tick"]
    assert told[-1][0] == told[-1][1] == 16
    assert "canary" not in str(told) + str(found)


def test_an_arm_behind_another_server_is_one_like_the_others(tmp_path: Path) -> None:
    with chat_server() as chats:
        chats.text = "Rome lies on the Tiber.<|im_end|>"
        table = f'[[rate.serve]]\narm = "{ARMS[1]}"\nendpoint = "{chats.url}"'
        run = make_run(tmp_path, serve=table)
        keys = arm_keys(run.dir.blinding, run.study.arms)
        places = join(run.dir.db)
        with serving(run.dir.root, 3) as handle:
            found = dict(zip([place.arm_key for place in places], answers(handle, places), strict=True))
    assert found[keys[ARMS[1]]] == "Rome lies on the Tiber."
    assert found[keys[ARMS[0]]] != "Rome lies on the Tiber."
    assert chats.asked[0]["max_tokens"] == 4  # to warm up
    assert chats.asked[-1]["messages"][0] == {"role": "system", "content": "Be brief."}


def test_an_arm_that_cannot_be_loaded_is_named_in_the_log_alone(tmp_path: Path) -> None:
    run = make_run(tmp_path)
    (tmp_path / f"{ARMS[1]}-files" / "model.safetensors").write_bytes(b"torn")
    with pytest.raises(RunError) as error, serving(run.dir.root, 3):
        pass
    assert "canary" not in str(error.value).replace(str(tmp_path), "")
    assert LOG in str(error.value)
    assert f"cannot load the model in {tmp_path / ARMS[1]}-files" in (run.dir.root / LOG).read_text()


OWNER = """
import os, sys
from harness.serving.process import Handle
handle = Handle(__import__("pathlib").Path(sys.argv[1]), 2)
handle.start()
print(handle.pid, flush=True)
os.kill(os.getpid(), 9)
"""


def test_it_does_not_outlive_who_started_it(run: Run) -> None:
    done = subprocess.run(
        [sys.executable, "-c", OWNER, str(run.dir.root)],
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        timeout=PATIENCE,
    )
    pid, end = int(done.stdout), time.monotonic() + PATIENCE
    while runs(pid):
        assert time.monotonic() < end
        time.sleep(0.05)
    assert done.returncode == -9

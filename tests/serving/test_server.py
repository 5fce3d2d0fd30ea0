"""The model server over a real socket: whom it answers, what it says, and what it never says."""

import asyncio
import contextlib
import json
import socket
import sqlite3
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import pytest
import uvicorn

from harness.chat import Sampling
from harness.records import Message
from harness.serving.endpoint import EndpointArm
from harness.serving.local import LocalArm
from harness.serving.measure import Pacing
from harness.serving.server import REFUSED, build
from harness.serving.study_db import BUDGET, known_pace, look_up
from harness.serving.turns import Turns
from studyapp import store
from studyapp.broker import Broker, BrokerError
from studyapp.pacing import Pace, Shown, paced
from tests.serving.live_study import KEYS, Place, join, make
from tests.serving.openai_server import ChatServer, chat_server
from tests.tiny import tiny_model

SECRET = "not-to-be-guessed"
SAMPLING = Sampling(24, 0.7, 0.9)


@dataclass
class Running:
    """A model server in a thread: a local arm under the first key, one behind `chats` under the second."""

    address: str
    db: Path
    chats: ChatServer
    places: list[Place]

    def place(self, key: int) -> Place:
        return next(place for place in self.places if place.arm_key == KEYS[key])

    def broker(self, secret: str = SECRET) -> Broker:
        return Broker(self.address, secret)

    def ask(self, path: str, method: str = "POST", secret: str | None = SECRET, **body: Any) -> httpx.Response:
        transport = httpx.HTTPTransport(uds=self.address.removeprefix("unix:"))
        headers = {} if secret is None else {"authorization": f"Bearer {secret}"}
        with httpx.Client(transport=transport, base_url="http://models", headers=headers, timeout=300) as client:
            return client.request(method, path, **body)

    def chat(self, place: Place, **changes: Any) -> httpx.Response:
        body = {"assignment": place.assignment, "messages": [one.model_dump() for one in place.opening], **changes}
        return self.ask("/chat", json=body)


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    folder = tmp_path_factory.mktemp("server")
    db = make(folder / "study.db")
    address = folder / "s"
    with chat_server() as chats, contextlib.closing(socket.socket(socket.AF_UNIX)) as listener:
        listener.bind(str(address))
        listener.listen(64)
        started = threading.Event()
        stop: list[Any] = []

        async def serve() -> None:
            local = LocalArm(tiny_model(), SAMPLING, None, 4)
            arms = {KEYS[0]: local, KEYS[1]: EndpointArm(chats.url, None, SAMPLING, None)}
            pacing = Pacing([("Please tell me a fact.", 2)], at_once=2)
            app = build(db, arms, Turns(7, 4, local.marks), SECRET, pacing)
            config = uvicorn.Config(app, log_config=None, lifespan="off", server_header=False, date_header=False)
            server = uvicorn.Server(config)
            stop.append(server)
            serving = asyncio.create_task(server.serve(sockets=[listener]))
            while not server.started:
                await asyncio.sleep(0.01)
            started.set()
            await serving

        thread = threading.Thread(target=lambda: asyncio.run(serve()), daemon=True)
        thread.start()
        assert started.wait(120)
        yield Running(f"unix:{address}", db, chats, join(db))
        stop[0].should_exit = stop[0].force_exit = True
        thread.join(20)


async def all_of(source: Any) -> list[Any]:
    return [one async for one in source]


def said(response: httpx.Response) -> str:
    lines = [json.loads(line) for line in response.text.splitlines()]
    return "".join(line.get("text", "") for line in lines)


def test_both_kinds_of_arms_answer_by_assignment(running: Running) -> None:
    assert said(running.chat(running.place(1))) == running.chats.text
    local = running.chat(running.place(0))
    assert local.status_code == 200
    assert said(local) not in ("", running.chats.text)
    assert said(running.chat(running.place(0))) == said(local)


@pytest.mark.parametrize("secret", [None, "wrong", SECRET + "x", SECRET[:-1], "sécret"])
@pytest.mark.parametrize("path", ["/health", "/chat", "/measure", "/nothing"])
def test_who_does_not_know_the_secret_learns_nothing(running: Running, secret: str | None, path: str) -> None:
    headers = {} if secret is None else {"authorization": f"Bearer {secret}".encode()}
    asked = len(running.chats.asked)
    for method in ("GET", "POST"):
        response = running.ask(path, method, None, headers=headers)
        assert (response.status_code, response.content) == (401, REFUSED)
    assert len(running.chats.asked) == asked


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"{",
        b'{"assignment": 1}',
        b'{"assignment": 1, "messages": []}',
        b'{"assignment": "1 OR 1=1", "messages": [{"role": "user", "content": "x"}]}',
        b'{"assignment": 999999, "messages": [{"role": "user", "content": "x"}]}',
        b'{"assignment": -3, "messages": [{"role": "user", "content": "x"}]}',
        b'{"assignment": 1, "messages": [{"role": "owner", "content": "x"}]}',
        b'{"assignment": 1, "messages": [{"role": "user", "content": "x"}], "arm": "teacher"}',
    ],
)
def test_whatever_is_wrong_with_a_request_has_one_answer(running: Running, body: bytes) -> None:
    response = running.ask("/chat", content=body)
    assert response.status_code >= 400
    assert response.content == REFUSED
    assert running.ask("/openapi.json", "GET").content == REFUSED


def test_answers_of_different_arms_differ_in_their_text_alone(running: Running) -> None:
    headers = []
    for key in (0, 1):
        response = running.chat(running.place(key))
        headers.append(sorted(response.headers.items()))
        keys = {tuple(json.loads(line)) for line in response.text.splitlines()}
        assert keys <= {("admitted",), ("text",), ("finish",), ("waiting",)}
    assert headers[0] == headers[1]
    assert {name for name, _ in headers[0]} <= {"content-type", "transfer-encoding"}
    running.chats.faults = [500, "error"]
    failed = running.chat(running.place(1), messages=[{"role": "user", "content": "fail"}])
    assert failed.text.splitlines()[-1] == '{"failed": true}'
    assert "canary" not in failed.text.lower()


def test_a_broker_streams_and_the_pace_lets_out(running: Running) -> None:
    async def watch() -> list[Shown]:
        place = running.place(1)
        return await all_of(paced(running.broker().stream(place.assignment, place.opening), Pace(300, 0.05, 0.1)))

    shown = asyncio.run(watch())
    assert str(shown[-1]) == running.chats.text
    assert shown[-1].ended
    assert shown[-1].ended.finish == "stop"


def test_several_chats_at_once_are_the_chats_alone(running: Running) -> None:
    questions = [(Message(role="user", content=f"Tell me about {n}."),) for n in range(6)]
    local, other = running.place(0), running.place(1)

    async def one(place: Place, messages: Any) -> str:
        return "".join(await all_of(running.broker().stream(place.assignment, messages)))

    async def together() -> list[str]:
        jobs = [one(place, messages) for messages in questions for place in (local, other)]
        return list(await asyncio.gather(*jobs))

    texts = asyncio.run(together())
    assert set(texts[1::2]) == {running.chats.text}
    loaded = LocalArm(tiny_model(), SAMPLING, None, 4)

    async def alone() -> list[str]:
        found = []
        for messages in questions:
            answer = Turns(7, 1, loaded.marks).answer(local.assignment, loaded, messages, 0.0)
            found.append("".join([line.get("text", "") async for line in answer.follow()]))
        await loaded.close()
        return found

    assert texts[::2] == asyncio.run(alone())


def test_a_broker_with_another_secret_or_nobody_there_has_one_error(running: Running, tmp_path: Path) -> None:
    place = running.place(0)

    async def alive() -> list[bool]:
        brokers = [running.broker(), running.broker("wrong"), Broker(f"unix:{tmp_path / 'none'}", SECRET)]
        return [await broker.alive() for broker in [*brokers, Broker("http://127.0.0.1:9", SECRET)]]

    assert asyncio.run(alive()) == [True, False, False, False]
    texts = set()
    for broker in (running.broker("wrong"), Broker(f"unix:{tmp_path / 'none'}", SECRET)):
        with pytest.raises(BrokerError) as error:
            asyncio.run(all_of(broker.stream(place.assignment, place.opening)))
        texts.add(str(error.value))
    with pytest.raises(BrokerError) as error:
        asyncio.run(all_of(running.broker().stream(10**6, place.opening)))
    assert {str(error.value)} == texts
    with pytest.raises(BrokerError):  # in paced, it goes to the caller
        asyncio.run(all_of(paced(running.broker("wrong").stream(1, place.opening), Pace(50))))


def test_a_failed_answer_is_one_sentence_for_the_rater(running: Running) -> None:
    running.chats.faults = [500, 500]
    messages = (Message(role="user", content="fail again"),)

    async def watch() -> list[Shown]:
        stream = running.broker().stream(running.place(1).assignment, messages)
        return await all_of(paced(stream, Pace(300, 0.05, 0.1), failure="Sorry."))

    (shown,) = asyncio.run(watch())
    assert shown == "Sorry."
    assert shown.ended
    assert shown.ended.failed


def test_the_arms_are_measured_over_the_wire_without_a_name(running: Running) -> None:
    running.chats.gap = 0.05  # 60 characters a second
    lines = [json.loads(line) for line in running.ask("/measure").text.splitlines()]
    running.chats.gap = 0.0
    done = [line for line in lines if "done" in line]
    assert done[-1]["done"] == done[-1]["of"] == 16
    (found,) = lines[len(done) :]
    assert set(found) in ({"pace"}, {"refused", "hint"})  # the second one on a very slow machine
    assert not any(key in str(lines) for key in (*KEYS, "canary"))
    if "pace" in found:
        assert 0 < found["pace"]["cps"] <= 0.8 * 60 + 1
        assert found["pace"]["delay"] >= found["pace"]["F"] + found["pace"]["tick"]


def test_the_arm_behind_an_assignment_and_the_pace_are_read_from_the_database(running: Running, tmp_path: Path) -> None:
    for place in running.places:
        assert look_up(running.db, place.assignment) == (place.arm_key, BUDGET)
    assert known_pace(running.db) is None
    db = make(tmp_path / "study.db")
    place = join(db)[0]
    store.set_pace(db, {"cps": 20.0, "tick": 0.2, "delay": 3.5, "key": "k"})
    assert look_up(db, place.assignment)[1] == 3.5
    pace = known_pace(db)
    assert pace
    assert pace["key"] == "k"
    with contextlib.closing(sqlite3.connect(db)) as connection, connection:
        connection.execute(
            "UPDATE assignment SET released_at = '2026', released_why = 'lease' WHERE id = ?", [place.assignment]
        )
    for nobodys in (10**6, place.assignment):  # one that never was, one that its rater has no more
        with pytest.raises(LookupError):
            look_up(db, nobodys)

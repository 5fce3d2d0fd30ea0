"""An arm behind an OpenAI-compatible server, whole and faulty."""

import asyncio
from collections.abc import Iterator, Sequence
from typing import Any

import pytest

from harness.chat import Sampling
from harness.records import Message
from harness.serving.arms import ArmError, Said
from harness.serving.endpoint import EndpointArm
from tests.serving.openai_server import ChatServer, chat_server

CHAT = (Message(role="user", content="Where is Paris?"),)


@pytest.fixture
def server() -> Iterator[ChatServer]:
    with chat_server() as running:
        yield running


def said_by(
    server: ChatServer, *, system: str | None = None, model: str | None = "m", url: str = "", **settings: Any
) -> list[Said]:
    async def ask() -> list[Said]:
        arm = EndpointArm(url or server.url, model, Sampling(20, 0.6, 0.9), system, **settings)
        try:
            return [said async for said in arm.write(CHAT, 2**62 + 5)]
        finally:
            await arm.close()

    return asyncio.run(ask())


def text_of(said: Sequence[Said]) -> str:
    return "".join(one.text for one in said)


def test_a_chat_is_streamed_with_the_studys_sampling(server: ChatServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "sk-test")
    said = said_by(server, system="Be brief.")
    assert text_of(said) == server.text
    assert len(said) > 10
    assert [one.finish for one in said] == [None] * (len(said) - 1) + ["stop"]
    (asked,) = server.asked
    assert asked == {
        "model": "m",
        "messages": [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Where is Paris?"}],
        "max_tokens": 20,
        "temperature": 0.6,
        "top_p": 0.9,
        "seed": 5,
        "stream": True,
    }
    assert server.keys == ["Bearer sk-test"]


def test_without_a_name_the_servers_first_model_is_asked(server: ChatServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    assert text_of(said_by(server, model=None)) == server.text
    assert server.asked[0]["model"] == "canary-model-7b"
    assert server.keys == [None]


def test_a_first_event_without_content_is_no_fault(server: ChatServer) -> None:
    server.faults = ["roles"]
    assert text_of(said_by(server)) == server.text


@pytest.mark.parametrize("fault", [500, 404, 429, "garbage", "html", "cut", "error"])
def test_faults_are_one_kind_of_error(server: ChatServer, fault: Any) -> None:
    server.faults = [fault]
    with pytest.raises(ArmError):
        said_by(server)
    assert text_of(said_by(server)) == server.text  # the next one is whole


def test_a_server_that_says_nothing_is_given_up(server: ChatServer) -> None:
    server.faults = ["silent"]
    with pytest.raises(ArmError, match="Timeout"):
        said_by(server, silence=0.5)


def test_a_server_that_does_not_stop_is_stopped(server: ChatServer) -> None:
    server.faults = ["babble"]
    said = said_by(server)
    assert said[-1].finish == "length"
    assert 20 * 16 <= len(text_of(said)) < 20 * 16 + 10


def test_a_server_that_is_not_there(server: ChatServer) -> None:
    with pytest.raises(ArmError, match="Connect"):
        said_by(server, url="http://127.0.0.1:9/v1")

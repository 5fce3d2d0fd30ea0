"""Whatever comes from the other side of the socket, the page has pieces of text or one error with one text."""

import asyncio
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest

from harness.records import Message
from studyapp.broker import AWAY, Broker, BrokerError
from studyapp.pacing import FAILURE, Ended, Pace, Piece, paced

CHAT = (Message(role="user", content="Hello?"),)
HEAD = b"HTTP/1.1 200 OK\r\ncontent-type: application/x-ndjson\r\nconnection: close\r\n\r\n"
ADMITTED = b'{"admitted": true}\n'
QUICK = Pace(cps=500, tick=0.02, delay=0.05)


def against(folder: Path, answer: bytes, work: Callable[[Broker], Awaitable[Any]], *, hang: bool = False) -> Any:
    """What `work` makes of a broker whose model server sends these bytes, then closes or says nothing more."""
    requests: list[bytes] = []
    serving: list[Any] = []
    left = asyncio.Event()

    async def served(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        serving.append(asyncio.current_task())
        try:
            requests.append(await reader.readuntil(b"\r\n\r\n"))
            writer.write(answer)
            await writer.drain()
            if hang:
                await left.wait()
        finally:
            writer.close()
            await writer.wait_closed()

    async def run() -> Any:
        server = await asyncio.start_unix_server(served, str(folder / "s"))
        try:
            return await work(Broker(f"unix:{folder / 's'}", "secret", silence=0.4 if hang else 60.0))
        finally:
            left.set()
            server.close()
            await asyncio.gather(*serving, return_exceptions=True)

    found = asyncio.run(run())
    assert all(b"authorization: bearer secret" in request.lower() for request in requests)
    return found


async def pieces(broker: Broker) -> list[str]:
    return [piece async for piece in broker.stream(17, CHAT)]


def test_pieces_come_as_they_are_sent_and_the_last_one_says_why_it_ends(tmp_path: Path) -> None:
    lines = ADMITTED + '{"text": "Grüße, "}\n{"waiting": true}\n{"text": "you"}\n{"finish": "length"}\n'.encode()
    found = against(tmp_path, HEAD + lines, pieces)
    assert found == ["Grüße, ", "", "you", ""]
    assert isinstance(found[-1], Piece)
    assert [piece.finish for piece in found] == [None, None, None, "length"]


def test_it_waits_until_the_chat_is_admitted(tmp_path: Path) -> None:
    async def admitted(broker: Broker) -> list[str]:
        stream = broker.stream(17, CHAT)
        await stream.admitted()
        await stream.admitted()  # the second time at once
        return [piece async for piece in stream]

    lines = b'{"waiting": true}\n' * 3 + ADMITTED + b'{"text": "x"}\n{"finish": "stop"}\n'
    assert against(tmp_path, HEAD + lines, admitted) == ["x", ""]


@pytest.mark.parametrize(
    "answer",
    [
        b"",
        b"SSH-2.0-OpenSSH\r\n",
        b"HTTP/1.1 500 Oh\r\ncontent-length: 6\r\n\r\ncanary",
        b"HTTP/1.1 401 No\r\ncontent-length: 6\r\n\r\ncanary",
        HEAD,
        HEAD + b"<html>canary</html>\n",
        HEAD + b'"canary"\n',
        HEAD + b'{"waiting": true}\n',
        HEAD + ADMITTED,
        HEAD + ADMITTED + b'{"failed": true}\n',
        HEAD + ADMITTED + b'{"text": "half',
        HEAD + ADMITTED + b'{"text": "whole"}\n',
        HEAD + ADMITTED + b'{"text": 7}\n',
        HEAD + ADMITTED + b'{"finish": ["canary"]}\n',
        HEAD + ADMITTED + b'["canary"]\n',
        HEAD + ADMITTED + b'{"text": "\xff"}\n',
    ],
)
def test_anything_else_is_one_error(tmp_path: Path, answer: bytes) -> None:
    with pytest.raises(BrokerError) as error:
        against(tmp_path, answer, pieces)
    assert error.value.what == AWAY
    assert error.value.__cause__ is None
    assert "canary" not in str(error.value)


@pytest.mark.parametrize("answer", [b"", HEAD, HEAD + ADMITTED, HEAD + ADMITTED + b'{"text": "x"}\n'])
def test_a_server_that_says_nothing_more_is_given_up(tmp_path: Path, answer: bytes) -> None:
    with pytest.raises(BrokerError):
        against(tmp_path, answer, pieces, hang=True)


def test_a_failure_after_admission_is_the_sentence_and_before_it_the_pause(tmp_path: Path) -> None:
    async def watch(broker: Broker) -> list[tuple[str, Ended | None]]:
        return [(str(shown), shown.ended) async for shown in paced(broker.stream(17, CHAT), QUICK)]

    ((shown, ended),) = against(tmp_path, HEAD + ADMITTED + b"junk\n", watch)
    assert shown == FAILURE
    assert ended
    assert ended.failed
    with pytest.raises(BrokerError):
        against(tmp_path, HEAD + b"junk\n", watch)


def test_alive_is_a_question_that_never_raises(tmp_path: Path) -> None:
    async def alive(broker: Broker) -> bool:
        return await broker.alive()

    assert against(tmp_path, b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\n{}", alive)
    assert not against(tmp_path, b"HTTP/1.1 401 No\r\ncontent-length: 0\r\n\r\n", alive)
    assert not against(tmp_path, b"junk", alive)
    assert not asyncio.run(Broker(f"unix:{tmp_path / 'gone'}", "secret").alive())


def test_no_proxy_is_asked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("HTTP_PROXY", "http_proxy", "ALL_PROXY", "all_proxy"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")
    lines = ADMITTED + b'{"text": "x"}\n{"finish": "stop"}\n'
    assert against(tmp_path, HEAD + lines, pieces) == ["x", ""]

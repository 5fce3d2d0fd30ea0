"""The web process asks the model server for the next piece of a chat, by the number of the assignment.

All that passes is a number and texts: which model answers, and where it runs, is known on the other side only. Whatever
goes wrong there is one error with one text here.
"""

import contextlib
import json
from collections.abc import AsyncIterator, Sequence
from typing import TYPE_CHECKING, Any

from harness.errors import VivaError
from harness.records import Message
from studyapp.pacing import Piece, last_piece

if TYPE_CHECKING:
    import httpx

AWAY = "the assistants cannot answer at the moment"
CONNECT_SECONDS = 5.0
SILENCE_SECONDS = 60.0
"""A model server that says nothing for so long has failed; while a chat waits to be admitted it says that it waits."""


class BrokerError(VivaError):
    """The model server is away or could not answer; the text is the same whatever happened."""

    def __init__(self) -> None:
        super().__init__(AWAY, hint="wait a little and try again; nothing you wrote is lost")


class Broker:
    """A model server at `unix:/path` or `http://127.0.0.1:port` that answers who knows its secret."""

    def __init__(self, address: str, secret: str, *, silence: float = SILENCE_SECONDS) -> None:
        self.address, self.secret, self.silence = address, secret, silence

    def stream(self, assignment: int, messages: Sequence[Message]) -> "Stream":
        """The answer to `messages`, which end with the rater's, in pieces as the model writes them.

        Raises BrokerError while it is read.
        """
        body = {"assignment": assignment, "messages": [message.model_dump() for message in messages]}
        return Stream(self._client(), body)

    async def alive(self) -> bool:
        """Whether the model server is there and all its models are ready."""
        async with self._client() as client:
            try:
                return (await client.get("/health")).status_code == 200
            except Exception:
                return False

    def _client(self) -> "httpx.AsyncClient":
        """A client for one conversation: one that lived longer would belong to one event loop."""
        import httpx

        path = self.address.removeprefix("unix:")
        local = path != self.address
        return httpx.AsyncClient(
            base_url="http://models" if local else self.address,
            # verify: no certificates are read for a connection that has none. trust_env: nor is a proxy asked.
            transport=httpx.AsyncHTTPTransport(uds=path if local else None, verify=False, trust_env=False),
            headers={"authorization": f"Bearer {self.secret}"},
            timeout=httpx.Timeout(self.silence, connect=CONNECT_SECONDS),
            trust_env=False,
        )


class Stream(AsyncIterator[str]):
    """One answer on its way: pieces of text, the last of which has a `finish`."""

    def __init__(self, client: "httpx.AsyncClient", body: dict[str, Any]) -> None:
        self._client, self._body = client, body
        self._response: httpx.Response | None = None
        self._lines: AsyncIterator[str] | None = None
        self._over = False

    async def admitted(self) -> None:
        """Wait until the model server takes up the chat; only then may a clock start.

        So many chats as were planned for are answered at once, the others wait in one row for all arms.
        """
        if self._lines is not None:
            return
        try:
            request = self._client.build_request("POST", "/chat", json=self._body)
            self._response = await self._client.send(request, stream=True)
            if self._response.status_code != 200:
                raise BrokerError
            self._lines = self._response.aiter_lines()
            while not (await self._next()).get("admitted"):
                pass
        except Exception:
            await self.aclose()
            raise BrokerError from None

    async def __anext__(self) -> Piece:
        await self.admitted()
        if self._over:
            raise StopAsyncIteration
        try:
            said = await self._next()
            text, finish = said.get("text", ""), said.get("finish")
            if said.get("failed") or not isinstance(text, str) or not isinstance(finish, str | None):
                raise BrokerError
        except Exception:
            await self.aclose()
            raise BrokerError from None
        if finish is None:
            return Piece(text)
        self._over = True
        await self.aclose()
        return last_piece(finish)

    async def _next(self) -> dict[str, Any]:
        assert self._lines is not None
        said = json.loads(await anext(self._lines))  # at the end without a finish: StopAsyncIteration, a failure
        if not isinstance(said, dict):
            raise BrokerError
        return said

    async def aclose(self) -> None:
        """Let go of the connection; the model server writes a begun answer to its end, for who asks again."""
        with contextlib.suppress(Exception):
            if self._response is not None:
                await self._response.aclose()
        with contextlib.suppress(Exception):
            await self._client.aclose()

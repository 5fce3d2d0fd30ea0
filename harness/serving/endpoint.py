"""An arm behind an OpenAI-compatible server: vLLM, llama.cpp, `transformers serve`, or any other that streams chats."""

import json
import os
from collections.abc import AsyncIterator, Sequence
from typing import TYPE_CHECKING, Any

from harness.chat import Sampling
from harness.records import Message
from harness.serving.arms import ArmError, Said

if TYPE_CHECKING:
    import httpx

CONNECT_SECONDS = 5.0
SILENCE_SECONDS = 110.0
CHARACTERS_PER_TOKEN = 16
"""A server that goes on beyond so many characters for each token allowed does not keep to `max_tokens`."""


class EndpointArm:
    """A chat model at `endpoint` ('http://host:8000/v1'); `model` None is the server's first.

    The key in the environment's OPENAI_API_KEY, if there is one, is sent along.
    """

    marks: frozenset[str] = frozenset()
    thinking = False

    def __init__(
        self,
        endpoint: str,
        model: str | None,
        sampling: Sampling,
        system: str | None,
        *,
        silence: float = SILENCE_SECONDS,
    ) -> None:
        import httpx

        self.model, self.sampling, self.system = model, sampling, system
        key = os.environ.get("OPENAI_API_KEY")
        self._client = httpx.AsyncClient(
            base_url=endpoint.rstrip("/") + "/",
            headers={"authorization": f"Bearer {key}"} if key else None,
            timeout=httpx.Timeout(silence, connect=CONNECT_SECONDS),
            limits=httpx.Limits(max_connections=None),
        )

    async def write(self, messages: Sequence[Message], seed: int, most: int | None = None) -> AsyncIterator[Said]:
        """See `Arm.write`."""
        import httpx

        most = most or self.sampling.max_tokens
        chat = [message.model_dump() for message in messages]
        if self.system is not None and chat[0]["role"] != "system":
            chat = [{"role": "system", "content": self.system}, *chat]
        try:
            asked = {
                "model": await self._name(),
                "messages": chat,
                "max_tokens": most,
                "temperature": self.sampling.temperature,
                "top_p": self.sampling.top_p,
                "seed": seed % (1 << 31),  # llama.cpp takes 32 bits
                "stream": True,
            }
            written, finish = 0, None
            async with self._client.stream("POST", "chat/completions", json=asked) as response:
                if response.status_code != 200:
                    raise ArmError(f"{response.url} answered with status {response.status_code}")
                async for text, said in _choices(response):
                    written += len(text)
                    finish = said or finish
                    if text:
                        yield Said(text)
                    if written > most * CHARACTERS_PER_TOKEN:
                        finish = "length"
                        break
        except (httpx.HTTPError, httpx.InvalidURL, httpx.StreamError) as error:
            raise ArmError(f"{self._client.base_url}: {type(error).__name__}: {error}") from error
        if finish is None:
            raise ArmError(f"{self._client.base_url} broke off")
        yield Said("", "length" if finish == "length" else "stop")

    async def close(self) -> None:
        await self._client.aclose()

    async def _name(self) -> str:
        if self.model is None:
            response = await self._client.get("models")
            try:
                self.model = str(response.raise_for_status().json()["data"][0]["id"])
            except (ValueError, LookupError, TypeError):
                raise ArmError(f"{response.url} names no model; give one as model under [[rate.serve]]") from None
        return self.model


async def _choices(response: "httpx.Response") -> AsyncIterator[tuple[str, str | None]]:
    """(text, finish reason) of each event of a stream, until its [DONE] or its end. Raises ArmError for garbage."""
    async for event in _events(response):
        if event.strip() == "[DONE]":
            return
        try:
            said: Any = json.loads(event)
            choices = said["choices"]
            if not choices:  # the count of tokens, which some servers send at the end
                continue
            text = choices[0].get("delta", {}).get("content") or ""
            finish = choices[0].get("finish_reason")
        except (ValueError, LookupError, TypeError, AttributeError):
            raise ArmError(f"{response.url} sent {event[:200]!r}") from None
        if not isinstance(text, str) or not isinstance(finish, str | None):
            raise ArmError(f"{response.url} sent {event[:200]!r}")
        yield text, finish


async def _events(response: "httpx.Response") -> AsyncIterator[str]:
    """The data of server-sent events. Lines that are no event's are passed over, as the standard wants it."""
    data: list[str] = []
    async for line in response.aiter_lines():
        if not line:
            if data:
                yield "\n".join(data)
            data = []
        elif line.startswith("data:"):
            data.append(line[5:].removeprefix(" "))
    if data:
        yield "\n".join(data)

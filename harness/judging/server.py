"""A judge behind an OpenAI-compatible server: `POST chat/completions`, several at once, at temperature 0."""

import os
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, as_completed
from itertools import islice
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from harness.errors import ConfigError, RunError
from harness.judge_table import DEFAULT_PARALLEL, JudgeBy
from harness.judging.asking import Answered, Ask, Conversation

if TYPE_CHECKING:
    import httpx

ATTEMPTS = 6  # for one request: waits of 1, 2, 4, 8, 16 times PAUSE between them, or what the server asks for
PAUSE = 1.0  # seconds
LONGEST_PAUSE = 60.0
REFUSALS = 3  # requests refused before any is answered, after which it is the judge's settings and not the request


def host_of(endpoint: str) -> str:
    """Host and port of an endpoint: no path, no user, no key."""
    parts = urlsplit(endpoint)
    return f"{parts.hostname}:{parts.port}" if parts.port else str(parts.hostname)


def open_server(by: JudgeBy) -> "httpx.Client":
    """A client for a judge's endpoint. Raises ConfigError for a key that is not in the environment."""
    import httpx

    assert by.endpoint is not None
    headers = {}
    if by.key_variable is not None:
        key = os.environ.get(by.key_variable)
        if not key:
            raise ConfigError(
                f"the environment variable {by.key_variable} is empty, but the judge {by.name!r} takes its key from it",
                hint=f"export {by.key_variable}=...",
            )
        headers["Authorization"] = f"Bearer {key}"
    return httpx.Client(base_url=by.endpoint.rstrip("/") + "/", headers=headers, timeout=by.seconds)


def ask_server(by: JudgeBy, client: "httpx.Client") -> Ask:
    """How to ask this judge. A request that fails by the network, by 429 or 5xx is sent again, with longer waits.

    A single request that the server refuses (status 400, 413 or 422: too long, or filtered) is a reply without marks.
    Raises RunError when the first three are refused, for any other refusal, and when a server stays away.
    """
    extra = dict(by.body.model_extra or {})
    limit = {} if "max_completion_tokens" in extra else {"max_tokens": by.max_tokens}

    def one(conversation: Conversation, stop: threading.Event) -> Answered:
        messages = [message.model_dump() for message in conversation]
        body = {"model": by.model, "messages": messages, "temperature": 0, **limit, **extra}
        begun = time.monotonic()
        answer = _request(client, body, by, stop)
        return answer if isinstance(answer, Answered) else _read(answer, time.monotonic() - begun)

    state = {"served": False}

    def ask(conversations: Sequence[Conversation]) -> Iterator[tuple[int, Answered]]:
        waiting, stop = list(range(len(conversations))), threading.Event()
        # One by one, before many are under way: a wrong key, model or body should cost few requests.
        refused: list[tuple[int, Answered]] = []
        while waiting and not state["served"]:
            index = waiting.pop(0)
            answered = one(conversations[index], stop)
            if answered.problem != "refused":
                state["served"] = True
                yield from refused
                yield index, answered
                continue
            refused.append((index, answered))
            if len(refused) == REFUSALS or not waiting:
                raise RunError(
                    f"the judge {by.name!r} refuses: {answered.text}", hint="check model and body in [[judge.by]]"
                )
        yield from _together(one, conversations, waiting, by.parallel or DEFAULT_PARALLEL, stop)

    return ask


def _together(
    one: Callable[[Conversation, threading.Event], Answered],
    conversations: Sequence[Conversation],
    waiting: list[int],
    parallel: int,
    stop: threading.Event,
) -> Iterator[tuple[int, Answered]]:
    """As many requests at once as `parallel`; the next is sent only when an earlier reply has been taken and stored."""
    with ThreadPoolExecutor(parallel) as pool:
        rest = iter(waiting)
        futures: dict[Future[Answered], int] = {}

        def send(count: int) -> None:
            for index in islice(rest, count):
                futures[pool.submit(one, conversations[index], stop)] = index

        try:
            send(parallel)
            while futures:
                done = next(as_completed(futures))
                index, answered = futures.pop(done), done.result()
                yield index, answered
                send(1)
        finally:
            # After an error, Ctrl-C, or a reader who has had enough, nothing more is sent.
            stop.set()
            pool.shutdown(wait=True, cancel_futures=True)


def _request(client: "httpx.Client", body: dict[str, Any], by: JudgeBy, stop: threading.Event) -> Any:
    """The server's JSON answer, or Answered with a problem for a request that it refuses."""
    import httpx

    failed = ""
    wait = 0.0
    for attempt in range(ATTEMPTS):
        if attempt:
            stop.wait(max(wait, PAUSE * 2 ** (attempt - 1)))
            if stop.is_set():
                break
        wait = 0.0
        try:
            response = client.post("chat/completions", json=body)
            if response.is_success:
                return response.json()
        except httpx.TransportError as error:
            failed = f"{type(error).__name__}: {error}"
            continue
        except ValueError:
            failed = "an answer that is not JSON"
            continue
        text = " ".join(response.text.split())[:300]
        if response.status_code == 429 or response.status_code >= 500:
            failed, wait = f"status {response.status_code}: {text}", _asked_to_wait(response.headers)
            continue
        if response.status_code in (400, 413, 422):
            return Answered(f"status {response.status_code}: {text}", problem="refused")
        raise RunError(
            f"{response.url} answered with status {response.status_code}: {text}",
            hint=f"check endpoint, model and key_variable of the judge {by.name!r}",
        )
    raise RunError(
        f"{client.base_url}chat/completions did not answer in {ATTEMPTS} attempts ({failed})",
        hint="check the server and run the command again: verdicts are kept, the rest is asked for",
    )


def _asked_to_wait(headers: Any) -> float:
    try:
        return min(LONGEST_PAUSE, float(headers.get("retry-after", 0)))
    except ValueError:
        return 0.0


def _read(answer: Any, seconds: float) -> Answered:
    """A completion's text and counts; a choice without text is an empty reply."""
    try:
        choice = answer["choices"][0]
        text = choice["message"]["content"] or ""
    except (KeyError, IndexError, TypeError):
        return Answered("", seconds=seconds)
    usage = answer.get("usage") or {}
    counts = [usage.get(key) for key in ("prompt_tokens", "completion_tokens")]
    numbers = [count if isinstance(count, int) else None for count in counts]
    return Answered(str(text), choice.get("finish_reason"), numbers[0], numbers[1], seconds)

"""A teacher behind an OpenAI-compatible server fills the cache: vLLM's completions endpoint with `prompt_logprobs`.

The server scores a prompt given as token ids and answers, for each of them, with the likeliest tokens and their
log-probabilities, the prompt's own token in addition. It scores at temperature 1 whatever is asked for.
"""

import math
import time
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Any

from harness.config import Cache
from harness.errors import ConfigError, TrainingError
from harness.progress import Report, quiet
from harness.train.batches import Document
from harness.train.cache import SHARD_BYTES, ShardWriter, encode, open_cache
from harness.train.fill import Filled, share, write_all
from harness.train.signals import DEFAULT_K, UNUSED, Coarse

if TYPE_CHECKING:
    import httpx

    from harness.train.cache import Stored

ATTEMPTS = 6  # waits of 1, 2, 4, 8, 16 seconds between them
PARALLEL = 8
SECONDS = 300.0  # for one answer


def fill_from_server(
    folder: Path,
    endpoint: str,
    model: str | None,
    documents: Sequence[Document],
    *,
    cache: Cache,
    temperature: float,
    vocabulary: int,
    key: str,
    headers: Mapping[str, str] | None = None,
    rank: int = 0,
    world: int = 1,
    parallel: int = PARALLEL,
    pause: float = 1.0,
    progress: Report = quiet,
    shard_bytes: int = SHARD_BYTES,
) -> Filled:
    """`fill`, with the teacher at `endpoint` ('http://host:8000/v1'); `model` None is the server's first.

    `parallel` requests run at once; one that fails by the network or the server is tried again after `pause` seconds,
    then twice as many. Raises ConfigError for what a server cannot give (another temperature than 1, draws, the whole
    vocabulary), TrainingError when it refuses or stays away: finished shards are kept.
    """
    import httpx

    _check(endpoint, cache, temperature, vocabulary)
    store = open_cache(folder, key)
    absent = store.missing(documents)
    mine = store.missing(share(documents, rank, world))
    if not mine:
        return Filled()
    k = int(cache.k or DEFAULT_K)
    with (
        httpx.Client(base_url=endpoint.rstrip("/") + "/", headers=headers, timeout=SECONDS) as client,
        ThreadPoolExecutor(parallel) as pool,
    ):
        name = model or _first_model(client, pause)

        def kept(document: Document) -> tuple[Document, "Stored"]:
            asked = {"model": name, "prompt": list(document.ids), "max_tokens": 1, "temperature": 0}
            answer = _ask(client, "POST", "completions", pause, {**asked, "prompt_logprobs": k})
            signal = read_answer(answer, document, k, vocabulary, str(client.base_url))
            return document, encode(signal, cache, vocabulary)

        def pieces() -> Iterator[list[tuple[Document, "Stored"]]]:
            # A few at a time: an error or Ctrl-C leaves little behind it that was asked for in vain.
            for start in range(0, len(mine), 4 * parallel):
                yield list(pool.map(kept, mine[start : start + 4 * parallel]))

        return write_all(ShardWriter(folder, key, rank, shard_bytes), pieces(), absent, mine, progress)


def _check(endpoint: str, cache: Cache, temperature: float, vocabulary: int) -> None:
    if not endpoint.startswith(("http://", "https://")):
        raise ConfigError(f"teacher.endpoint {endpoint!r} is not a URL", hint="write it like http://localhost:8000/v1")
    if cache.kind == "sampled":
        raise ConfigError(
            f"{endpoint} gives its likeliest tokens only, so train.cache.kind = 'sampled' cannot be drawn from it",
            hint="set train.cache.kind = 'top-k', or give the teacher as a model that runs here",
        )
    if cache.k == "vocabulary" or int(cache.k or DEFAULT_K) >= vocabulary:
        raise ConfigError(
            f"train.cache.k = {cache.k!r} asks {endpoint} for all of its {vocabulary} tokens at every position",
            hint="set train.cache.k to a number such as 64; all others are kept together in one entry",
        )
    if temperature != 1:
        raise ConfigError(
            f"temperature {temperature:g} cannot be had from {endpoint}: servers score prompts at temperature 1",
            hint="set temperature = 1.0 in train.terms.kd, or give the teacher as a model that runs here",
        )


def _first_model(client: "httpx.Client", pause: float) -> str:
    answer = _ask(client, "GET", "models", pause)
    try:
        return str(answer["data"][0]["id"])
    except (KeyError, IndexError, TypeError):
        raise TrainingError(
            f"{client.base_url}models names no model", hint="give teacher.model, the model's name at the server"
        ) from None


def _ask(client: "httpx.Client", method: str, path: str, pause: float, body: dict[str, Any] | None = None) -> Any:
    """The server's JSON answer. Raises TrainingError naming the URL for a refusal, or when every attempt failed."""
    import httpx

    failed = ""
    for attempt in range(ATTEMPTS):
        if attempt:
            time.sleep(pause * 2 ** (attempt - 1))
        try:
            response = client.request(method, path, json=body)
            if response.status_code == 429 or response.status_code >= 500:
                failed = f"status {response.status_code}"
                continue
            if response.is_success:
                return response.json()
        except httpx.TransportError as error:
            failed = f"{type(error).__name__}: {error}"
            continue
        except ValueError:
            failed = "an answer that is not JSON"
            continue
        raise TrainingError(
            f"{response.url} answered with status {response.status_code}: {' '.join(response.text.split())[:300]}",
            hint="check teacher.endpoint and teacher.model; a server that allows fewer tokens per position than "
            "train.cache.k is started with a higher limit (vLLM: --max-logprobs)",
        )
    raise TrainingError(
        f"{client.base_url}{path} did not answer in {ATTEMPTS} attempts ({failed})",
        hint="check the server and run the command again: finished shards are kept, the rest is filled",
    )


def read_answer(answer: Any, document: Document, k: int, vocabulary: int, url: str) -> Coarse:
    """The signal in a server's answer: at each scored position the `k` likeliest tokens, and the others' mass.

    Raises TrainingError for an answer without one entry for each token of the prompt.
    """
    import torch

    index_NK = torch.zeros(len(document.scored), k, dtype=torch.long)
    logp_NK = torch.full((len(document.scored), k), UNUSED)
    tails = []
    try:
        entries = answer["choices"][0]["prompt_logprobs"]
        if len(entries) != len(document.ids):
            raise ValueError(f"{len(entries)} entries for {len(document.ids)} tokens")
        for row, position in enumerate(document.scored):
            # The entry of a token says how likely it was before it came, so a position's is that of the next token.
            said = {int(token): float(facts["logprob"]) for token, facts in entries[position + 1].items()}
            # Ids behind the tokenizer's last one are padding of the matrix; what little they hold stays in the tail.
            best = sorted((-logp, token) for token, logp in said.items() if token < vocabulary)[:k]
            index_NK[row, : len(best)] = torch.tensor([token for _, token in best])
            logp_NK[row, : len(best)] = torch.tensor([-negative for negative, _ in best]).clamp(min=UNUSED)
            named = math.fsum(math.exp(-negative) for negative, _ in best)
            # Rounding of the server's float32 may leave nothing, or less.
            tails.append(math.log1p(-min(named, 1 - 1e-7)))
    except (KeyError, IndexError, TypeError, ValueError, AttributeError) as error:
        raise TrainingError(
            f"{url}completions gave no log-probabilities of the prompt ({type(error).__name__}: {error})",
            hint="the server must answer prompt_logprobs as vLLM does, with one entry for each token of the prompt",
        ) from None
    return Coarse(index_NK, logp_NK, torch.tensor(tails))

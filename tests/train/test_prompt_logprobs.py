"""A server fills the cache: a real one, over HTTP, that answers in vLLM's format."""

import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
import torch

from harness.config import Cache
from harness.errors import ConfigError, TrainingError
from harness.train.batches import Document
from harness.train.cache import open_cache
from harness.train.fill import Filled, fill
from harness.train.prompt_logprobs import ATTEMPTS, fill_from_server
from tests.tiny import tiny_model
from tests.train.test_fill import KEY, documents


class Server:
    """A small completions server that answers in vLLM's format from the tiny model, and can be told to fail."""

    def __init__(self) -> None:
        self.model = tiny_model(extra=3).model
        self.refuse: list[int] = []  # statuses of the next answers
        self.most = 20
        self.forget_prompt = False
        self.asked: list[dict[str, Any]] = []
        self.lock = threading.Lock()

    def answer(self, body: dict[str, Any]) -> tuple[int, Any]:
        with self.lock:
            self.asked.append(body)
            if self.refuse:
                return self.refuse.pop(0), {"error": {"message": "busy"}}
            if body["prompt_logprobs"] > self.most:
                return 400, {"error": {"message": f"Cannot request more than {self.most} logprobs."}}
            ids = body["prompt"]
            with torch.no_grad():
                logp_TV = self.model(input_ids=torch.tensor([ids])).logits[0].float().log_softmax(-1)
        entries: list[Any] = [None]
        for place, token in enumerate(ids[1:]):
            best = logp_TV[place].topk(body["prompt_logprobs"]).indices.tolist()
            told = {token, *best}
            entries.append(
                {
                    str(one): {
                        "logprob": float(logp_TV[place, one]),
                        "rank": 1 + int((logp_TV[place] > logp_TV[place, one]).sum()),
                        "decoded_token": f"<{one}>",
                    }
                    for one in told
                }
            )
        entries = [None] if self.forget_prompt else entries
        return 200, {"choices": [{"index": 0, "text": "", "prompt_logprobs": entries}]}


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[Server, str]]:
    state = Server()

    class Handler(BaseHTTPRequestHandler):
        def reply(self, status: int, value: Any) -> None:
            data = json.dumps(value).encode()
            self.send_response(status)
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            self.wfile.write(data)

        def do_GET(self) -> None:
            found = self.path == "/v1/models"
            self.reply(200 if found else 404, {"data": [{"id": "tiny"}]} if found else {})

        def do_POST(self) -> None:
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            self.reply(*(state.answer(body) if self.path == "/v1/completions" else (404, {})))

        def log_message(self, *args: Any) -> None:
            """Quiet."""

    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as http:
        thread = threading.Thread(target=http.serve_forever)
        thread.start()
        yield state, f"http://127.0.0.1:{http.server_address[1]}/v1"
        http.shutdown()
        thread.join()


def from_server(folder: Path, url: str, docs: list[Document], cache: Cache = Cache(k=8), **options: Any) -> Filled:  # noqa: B008
    given = {"temperature": 1.0, "vocabulary": 261, "key": KEY, "pause": 0.001} | options
    return fill_from_server(folder, url, given.pop("model", None), docs, cache=cache, **given)


def test_a_server_fills_the_cache_as_the_model_here_does(tmp_path: Path, server: tuple[Server, str]) -> None:
    state, url = server
    docs, cache = documents(), Cache(k=8)
    state.refuse = [503, 500]
    done = from_server(tmp_path / "there", url, docs, parallel=3)
    assert done.documents == len(docs)
    assert {body["model"] for body in state.asked} == {"tiny"}
    assert all(body["max_tokens"] == 1 and body["prompt_logprobs"] == 8 for body in state.asked)
    assert len(state.asked) == len(docs) + 2
    fill(tmp_path / "here", tiny_model(extra=3), docs, cache=cache, temperature=1.0, vocabulary=261, key=KEY, seed=0)
    there, here = (open_cache(tmp_path / name, KEY).read(docs) for name in ("there", "here"))
    assert there.tail_N is not None
    assert here.tail_N is not None
    # Where two log-probabilities round to the same 16 bits, their order may differ.
    same_NK = there.index_NK == here.index_NK
    assert same_NK.float().mean() > 0.99
    torch.testing.assert_close(there.logp_NK, here.logp_NK, rtol=2e-3, atol=2e-3)
    torch.testing.assert_close(there.tail_N, here.tail_N, rtol=2e-3, atol=2e-3)
    assert from_server(tmp_path / "there", url, docs).documents == 0


def test_a_refusal_names_url_status_and_reason_and_keeps_the_finished_shards(
    tmp_path: Path, server: tuple[Server, str]
) -> None:
    state, url = server
    docs = documents()
    from_server(tmp_path, url, docs[:3], model="named")
    assert {body["model"] for body in state.asked} == {"named"}
    with pytest.raises(TrainingError, match=rf"{url}/completions answered with status 400: .*more than 20") as caught:
        from_server(tmp_path, url, docs, Cache(k=21))
    assert "--max-logprobs" in str(caught.value)
    assert open_cache(tmp_path, KEY).missing(docs) == docs[3:]
    with pytest.raises(TrainingError, match="status 404"):
        from_server(tmp_path, url + "/elsewhere", docs)


def test_a_server_that_stays_away_is_given_up(tmp_path: Path, server: tuple[Server, str]) -> None:
    state, url = server
    state.refuse = [503] * 100
    with pytest.raises(TrainingError, match=rf"completions did not answer in {ATTEMPTS} attempts \(status 503\)"):
        from_server(tmp_path, url, documents(1))
    assert len(state.asked) == ATTEMPTS
    with pytest.raises(TrainingError, match="did not answer"):
        from_server(tmp_path, "http://127.0.0.1:9/v1", documents(1))


def test_an_answer_without_the_prompt_is_refused(tmp_path: Path, server: tuple[Server, str]) -> None:
    state, url = server
    state.forget_prompt = True
    with pytest.raises(TrainingError, match=r"gave no log-probabilities of the prompt \(ValueError: 1 entries for"):
        from_server(tmp_path, url, documents(1))


@pytest.mark.parametrize(
    ("cache", "temperature", "url", "says"),
    [
        (Cache(k=8), 2.0, "http://h/v1", "temperature 2 cannot be had from http://h/v1"),
        (Cache(kind="sampled"), 1.0, "http://h/v1", "'sampled' cannot be drawn"),
        (Cache(k="vocabulary"), 1.0, "http://h/v1", "all of its 261 tokens"),
        (Cache(k=8), 1.0, "localhost:8000", "'localhost:8000' is not a URL"),
    ],
)
def test_what_a_server_cannot_give_is_refused_before_it_is_asked(
    tmp_path: Path, cache: Cache, temperature: float, url: str, says: str
) -> None:
    with pytest.raises(ConfigError, match=says):
        from_server(tmp_path, url, documents(1), cache, temperature=temperature)

"""An lm-eval model for local causal language models: lm-eval's numbers in a fraction of its time.

lm-eval decides what is asked and how answers become metrics; this backend only computes the same log-likelihoods and
texts as lm-eval's own HFLM, in fewer tokens (`plan`, `reading`, `rows`) and without waiting for the longest answer
(`generate`).
"""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from lm_eval.api.instance import Instance
from lm_eval.api.model import TemplateLM

from harness.bench.generate import continuations
from harness.bench.plan import Span
from harness.bench.reading import Reader
from harness.bench.requests import encode_pairs, encode_texts, request_keys
from harness.bench.resume import Kept
from harness.bench.rows import default_budget, score
from harness.bench.tokens import encode_text, prefix_token, rolling_windows, window_length
from harness.errors import VivaError


class PackedLM(TemplateLM):
    """lm-eval's interface over a transformers model and its tokenizer.

    `token_budget` bounds the tokens of one forward pass and `workers` the threads; neither changes a result.
    `max_length` is the model's window in tokens unless given. `kept` holds answers of a run that was stopped, and gets
    every new one. `on_done(done, total)` is told about finished requests of the current call, `say` about trouble that
    was overcome. `truncated` counts requests whose context was cut from the left to fit the window, as lm-eval cuts
    it. `seed` is what sampled texts are drawn from.
    """

    def __init__(
        self,
        model: Any,
        tokenizer: Any,
        *,
        token_budget: int | None = None,
        workers: int | None = None,
        max_length: int | None = None,
        seed: int = 0,
        kept: Kept | None = None,
        on_done: Callable[[int, int], None] | None = None,
        say: Callable[[str], None] | None = None,
    ):
        super().__init__()
        self.model = model
        self.tokenizer = tokenizer
        self.token_budget = token_budget or default_budget(model)
        self.workers = workers
        self.max_length = max_length or window_length(model, tokenizer)
        self.seed = seed
        self.kept = kept
        self.on_done = on_done
        self.say = say
        self.truncated = 0
        self.reader = Reader(model)
        self._device = model.device

    @property
    def eot_token_id(self) -> int:
        return int(self.tokenizer.eos_token_id)

    @property
    def prefix_token_id(self) -> int:
        return prefix_token(self.tokenizer)

    @property
    def tokenizer_name(self) -> str:
        return str(self.tokenizer.name_or_path).replace("/", "__")

    def tok_encode(self, string: str, add_special_tokens: bool | None = None, **_: Any) -> list[int]:
        return encode_text(self.tokenizer, string, add_special_tokens)

    def apply_chat_template(self, chat_history: list[dict[str, str]], add_generation_prompt: bool = True) -> str:
        return str(
            self.tokenizer.apply_chat_template(
                chat_history,
                tokenize=False,
                add_generation_prompt=add_generation_prompt,
                continue_final_message=not add_generation_prompt,
            )
        )

    def loglikelihood(self, requests: list[Instance], disable_tqdm: bool = True) -> list[tuple[float, bool]]:
        """(log-likelihood in nats, whether greedy decoding would write it) of each continuation given its context."""
        spans = [self._span(*pair) for pair in encode_pairs(self.tokenizer, [request.args for request in requests])]
        answers = self._answered("loglikelihood", requests, spans, range(len(spans)), _likelihood)
        return [(float(logp), bool(best)) for logp, best in answers]

    def _loglikelihood_tokens(
        self, requests: list[tuple[tuple[str, str], list[int], list[int]]], **_: Any
    ) -> list[tuple[float, bool]]:
        spans = [self._span(np.array(context), np.array(after)) for _, context, after in requests]
        return [_likelihood([part]) for part in score(self.reader, spans, budget=self.token_budget)]

    def _span(self, context: np.ndarray, continuation: np.ndarray) -> Span:
        if len(continuation) > self.max_length:
            raise VivaError(
                f"an answer of {len(continuation)} tokens does not fit the model's window of {self.max_length}",
                hint="leave this suite out, or use a model with a longer window",
            )
        whole = np.concatenate([context, continuation])
        self.truncated += len(whole) > self.max_length + 1
        return Span.ending(whole[-(self.max_length + 1) :][:-1], continuation)

    def loglikelihood_rolling(self, requests: list[Instance], disable_tqdm: bool = True) -> list[float]:
        """Log-likelihood in nats of each whole text, in windows of the model's full length."""
        tokens = encode_texts(self.tokenizer, [request.args[0] for request in requests])
        spans, owners = [], []
        for owner, request in enumerate(requests):
            text = tokens[request.args[0]].tolist()
            for window in rolling_windows(text, self.prefix_token_id, self.max_length, self.max_length):
                spans.append(Span.ending(*window))
                owners.append(owner)
        return self._answered("loglikelihood_rolling", requests, spans, owners, _total)

    def generate_until(self, requests: list[Instance], disable_tqdm: bool = True) -> list[str]:
        """The text that the model writes after each context, cut where lm-eval cuts it."""
        keys = request_keys("generate_until", requests)
        answers = [self.kept.answers.get(key) if self.kept else None for key in keys]
        asked = {i for i, answer in enumerate(answers) if answer is None}

        def finished(found: Sequence[tuple[int, str]]) -> None:
            self._keep("generate_until", requests, keys, found, answers)

        self._report(len(requests) - len(asked), len(requests))
        self.truncated += continuations(
            self.reader,
            self.tokenizer,
            [request.args for request in requests],
            [(self.seed, key) for key in keys],
            max_length=self.max_length,
            finished=finished,
            wanted=asked,
            budget=self.token_budget,
            say=self.say,
        )
        return answers

    def _answered(
        self,
        kind: str,
        requests: Sequence[Instance],
        spans: Sequence[Span],
        owners: Sequence[int],
        combine: Callable[[Sequence[tuple[np.ndarray, np.ndarray]]], Any],
    ) -> list[Any]:
        """An answer for each request out of the scores of its spans, kept as soon as it is known."""
        keys = request_keys(kind, requests)
        answers = [self.kept.answers.get(key) if self.kept else None for key in keys]
        parts: dict[int, dict[int, tuple[np.ndarray, np.ndarray]]] = {i: {} for i, a in enumerate(answers) if a is None}
        sizes = np.bincount(owners, minlength=len(requests)) if len(owners) else np.zeros(len(requests), dtype=int)

        def whole(asked: Sequence[int]) -> None:
            found = [(i, combine([parts[i][k] for k in sorted(parts[i])])) for i in asked if len(parts[i]) == sizes[i]]
            self._keep(kind, requests, keys, found, answers)

        def on_done(scored: Sequence[tuple[int, np.ndarray, np.ndarray]]) -> None:
            for k, logp, best in scored:
                parts[owners[k]][k] = (logp, best)
            whole(list(dict.fromkeys(owners[k] for k, _, _ in scored)))

        self._report(len(requests) - len(parts), len(requests))
        whole([i for i in parts if not sizes[i]])
        score(
            self.reader,
            spans,
            budget=self.token_budget,
            workers=self.workers,
            wanted=[owner in parts for owner in owners],
            on_done=on_done,
            say=self.say,
        )
        return answers

    def _keep(
        self,
        kind: str,
        requests: Sequence[Instance],
        keys: Sequence[str],
        found: Sequence[tuple[int, Any]],
        answers: list[Any],
    ) -> None:
        for i, answer in found:
            answers[i] = answer
            self.cache_hook.add_partial(kind, requests[i].args, answer)
        if self.kept:
            self.kept.add([(keys[i], answer) for i, answer in found])
        self._report(sum(answer is not None for answer in answers), len(answers))

    def _report(self, done: int, total: int) -> None:
        if self.on_done:
            self.on_done(done, total)


def _likelihood(parts: Sequence[tuple[np.ndarray, np.ndarray]]) -> tuple[float, bool]:
    ((logp, best),) = parts
    return float(logp.sum()), bool(best.all())


def _total(parts: Sequence[tuple[np.ndarray, np.ndarray]]) -> float:
    return float(sum(logp.sum() for logp, _ in parts))

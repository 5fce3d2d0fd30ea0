"""An lm-eval model for local causal language models that reads shared contexts once.

lm-eval decides what is asked and how answers become metrics; this backend only computes the same log-likelihoods as
lm-eval's own HFLM in fewer tokens (see `rows`).
"""

from collections.abc import Callable
from typing import Any

from lm_eval.api.instance import Instance
from lm_eval.api.model import TemplateLM

from harness.bench.rows import Span, default_budget, score, sharing_limit
from harness.bench.tokens import encode_text, prefix_token, rolling_windows, window_length
from harness.errors import VivaError

GENERATION_BATCH = 8


class PackedLM(TemplateLM):
    """lm-eval's interface over a transformers model and its tokenizer.

    `token_budget` bounds the tokens of one forward pass and never changes a result beyond rounding. `max_length` is
    the model's window in tokens unless given. `on_done(done, total)` is told about finished requests of the current
    call. `truncated` counts requests whose context was cut from the left to fit the window, as lm-eval cuts it.
    """

    def __init__(
        self,
        model: Any,
        tokenizer: Any,
        *,
        token_budget: int | None = None,
        max_length: int | None = None,
        on_done: Callable[[int, int], None] | None = None,
    ):
        super().__init__()
        self.model = model
        self.tokenizer = tokenizer
        self.token_budget = token_budget or default_budget(model)
        self.max_length = max_length or window_length(model, tokenizer)
        self.on_done = on_done
        self.truncated = 0
        self._device = model.device
        self._sharing = sharing_limit(model)

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
        return super().loglikelihood(requests, disable_tqdm=disable_tqdm)

    def _loglikelihood_tokens(
        self, requests: list[tuple[tuple[str, str], list[int], list[int]]], **_: Any
    ) -> list[tuple[float, bool]]:
        """(log-likelihood in nats, whether greedy decoding would write it) of each continuation given its context."""
        spans = []
        for _, context, continuation in requests:
            if len(continuation) > self.max_length:
                raise VivaError(
                    f"an answer of {len(continuation)} tokens does not fit the model's window of {self.max_length}",
                    hint="leave this suite out, or use a model with a longer window",
                )
            whole = context + continuation
            self.truncated += len(whole) > self.max_length + 1
            spans.append(Span.ending(whole[-(self.max_length + 1) :][:-1], continuation))
        answers = [(float(logp.sum()), bool(best.all())) for logp, best in self._score(spans)]
        for (key, _, _), answer in zip(requests, answers, strict=True):
            self.cache_hook.add_partial("loglikelihood", key, answer)
        return answers

    def loglikelihood_rolling(self, requests: list[Instance], disable_tqdm: bool = True) -> list[float]:
        """Log-likelihood in nats of each whole text, in windows of the model's full length."""
        spans, owners = [], []
        for owner, request in enumerate(requests):
            tokens = self.tok_encode(request.args[0])
            for window in rolling_windows(tokens, self.prefix_token_id, self.max_length, self.max_length):
                spans.append(Span.ending(*window))
                owners.append(owner)
        totals = [0.0] * len(requests)
        for owner, (logp, _) in zip(owners, self._score(spans), strict=True):
            totals[owner] += float(logp.sum())
        for request, total in zip(requests, totals, strict=True):
            self.cache_hook.add_partial("loglikelihood_rolling", request.args, total)
        return totals

    def generate_until(self, requests: list[Instance], disable_tqdm: bool = True) -> list[str]:
        """Texts written after each context; lm-eval's own generation, so stop rules and cut-offs are lm-eval's."""
        from lm_eval.models.huggingface import HFLM

        peer = HFLM(
            pretrained=self.model,
            tokenizer=self.tokenizer,
            backend="causal",
            batch_size=GENERATION_BATCH,
            max_length=self.max_length,
        )
        texts: list[str] = []
        for start in range(0, len(requests), GENERATION_BATCH):
            part = requests[start : start + GENERATION_BATCH]
            texts += peer.generate_until(part, disable_tqdm=True)
            for request, text in zip(part, texts[start:], strict=True):
                self.cache_hook.add_partial("generate_until", request.args, text)
            self._report(len(texts), len(requests))
        return texts

    def _score(self, spans: list[Span]) -> list[Any]:
        done = 0

        def on_row(finished: int) -> None:
            nonlocal done
            done += finished
            self._report(done, len(spans))

        return score(self.model, spans, budget=self.token_budget, sharing=self._sharing, on_row=on_row)

    def _report(self, done: int, total: int) -> None:
        if self.on_done:
            self.on_done(done, total)

"""One of lm-eval's own models, unchanged, whose answers are kept as they come and which goes on where it stopped."""

import contextlib
import functools
import importlib
import json
import math
import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from lm_eval.api.instance import Instance
from lm_eval.api.model import LM

from harness.bench.requests import request_keys
from harness.bench.resume import Kept
from harness.bench.suites import first_line
from harness.errors import RunError

ATTEMPTS = 3
"""How often a server may answer what is no answer; lm-eval itself tries again when a connection fails."""


class ResumingLM(LM):
    """lm-eval's interface over one of its models.

    `server` is the URL of a model behind one: when it fails or answers garbage, the rest is asked again after 1, 2, ...
    seconds (by `pause`), and then RunError says so. `kept` holds answers of a run that was stopped and gets every new
    one; `on_done(done, total)` is told about finished requests of the current call. `truncated` is not known.
    """

    def __init__(self, lm: Any, *, server: str | None = None, pause: Callable[[float], None] = time.sleep):
        super().__init__()
        self.lm = lm
        self.server = server
        self.pause = pause
        self.kept: Kept | None = None
        self.on_done: Callable[[int, int], None] | None = None
        self.truncated: int | None = None

    def __getattr__(self, name: str) -> Any:
        if name == "lm":
            raise AttributeError(name)
        return getattr(self.lm, name)

    @property
    def rank(self) -> int:
        return int(self.lm.rank)

    @property
    def world_size(self) -> int:
        return int(self.lm.world_size)

    @property
    def tokenizer_name(self) -> str:
        return str(self.lm.tokenizer_name)

    def apply_chat_template(self, *args: Any, **kwargs: Any) -> Any:
        return self.lm.apply_chat_template(*args, **kwargs)

    def loglikelihood(self, requests: list[Instance]) -> list[tuple[float, bool]]:
        return [(float(value), bool(best)) for value, best in self._ask("loglikelihood", requests)]

    def loglikelihood_rolling(self, requests: list[Instance]) -> list[float]:
        return [float(value) for value in self._ask("loglikelihood_rolling", requests)]

    def generate_until(self, requests: list[Instance]) -> list[str]:
        return [str(text) for text in self._ask("generate_until", requests)]

    def _ask(self, kind: str, requests: Sequence[Instance]) -> list[Any]:
        keys = request_keys(kind, requests)
        answers = {} if self.kept is None else {key: self.kept.answers[key] for key in keys if key in self.kept.answers}
        for attempt in range(1, ATTEMPTS + 1):
            left = [(key, request) for key, request in zip(keys, requests, strict=True) if key not in answers]
            self._report(answers, keys)
            if not left:
                break
            try:
                self._ask_left(kind, left, answers, keys)
            except Exception as error:
                if self.server is None:
                    raise
                if attempt == ATTEMPTS or _retried(error):
                    raise RunError(
                        f"the server at {self.server} gave no usable answer: {_reason(error)}",
                        hint=f"{len(answers)} of {len(keys)} answers are kept; see to the server, then run the same "
                        "command again: it goes on from there",
                    ) from error
                self.pause(attempt)
        self._report(answers, keys)
        return [answers[key] for key in keys]

    def _ask_left(
        self, kind: str, left: Sequence[tuple[str, Instance]], answers: dict[str, Any], keys: Sequence[str]
    ) -> None:
        waiting = defaultdict(list)
        for key, request in reversed(left):
            waiting[_asked(request.args)].append(key)

        def add(found: Sequence[tuple[str, Any]]) -> None:
            for _, answer in found:
                _check(kind, answer)
            answers.update(found)
            if self.kept is not None:
                self.kept.add(found)
            self._report(answers, keys)

        def add_partial(asked_kind: str, asked: Any, answer: Any) -> None:
            if asked_kind == kind and waiting[_asked(asked)]:
                add([(waiting[_asked(asked)].pop(), answer)])

        self.lm.set_cache_hook(_Hook(add_partial))
        with _no_bars(self.server):
            found = list(getattr(self.lm, kind)([request for _, request in left], disable_tqdm=True))
        if len(found) != len(left):
            raise ValueError(f"{len(found)} answers to {len(left)} requests")
        add([(key, answer) for (key, _), answer in zip(left, found, strict=True) if key not in answers])

    def _report(self, answers: dict[str, Any], keys: Sequence[str]) -> None:
        if self.on_done:
            self.on_done(len(answers), len(keys))


class _Hook:
    """What lm-eval's models tell each answer to, in place of their cache."""

    def __init__(self, add_partial: Callable[[str, Any, Any], None]):
        self.add_partial = add_partial


def _asked(args: Any) -> str:
    return json.dumps(args, sort_keys=True, default=str)


def _check(kind: str, answer: Any) -> None:
    value = answer[0] if kind == "loglikelihood" else answer
    right = isinstance(value, str) if kind == "generate_until" else not math.isnan(value)
    if not right:
        raise ValueError(f"{answer!r} is no answer")


def _retried(error: Exception) -> bool:
    """Whether lm-eval has tried again already: whatever came of the connection itself."""
    return isinstance(error, OSError)


def _reason(error: Exception) -> str:
    return f"{type(error).__name__}: {first_line(error)}"


@contextlib.contextmanager
def _no_bars(server: str | None) -> Iterator[None]:
    """lm-eval's bars off: Viva shows one progress display, its own."""
    module: Any = importlib.import_module(f"lm_eval.models.{'huggingface' if server is None else 'api_models'}")
    bar = module.tqdm
    module.tqdm = functools.partial(bar, disable=True)
    try:
        yield
    finally:
        module.tqdm = bar

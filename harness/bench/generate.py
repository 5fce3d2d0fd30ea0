"""Texts written by continuous batching: a request leaves when its text ends, and the next one takes its place.

What all requests begin with is read once. A text does not depend on the texts beside it: in every product it has rows
of its own, and it draws from a generator of its own.
"""

import hashlib
import json
from collections import deque
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch

from harness.bench.attend import by
from harness.bench.memory import Pair
from harness.bench.packing import Row
from harness.bench.plan import Prompts, prompts_plan
from harness.bench.reading import LEAST, Reader, predictions
from harness.bench.requests import encode_texts
from harness.bench.rows import TooLargeError, out_of_memory, read
from harness.bench.sampling import Rules, draw, likeliest, rules_for
from harness.bench.slots import Slots
from harness.bench.tokens import prefix_token
from harness.errors import ConfigError

SLOTS = 64
"""Texts that are written at the same time."""
ROWS = 4
"""A step has a multiple of so many rows, and at least `LEAST`, so that its products round the same for all numbers."""
PEER_BATCH = 8

Finished = Callable[[Sequence[tuple[int, str]]], None]


@dataclass
class _Text:
    """One request on its way: its number, its prompt, how its tokens are drawn, and what is written so far."""

    number: int
    prompt: np.ndarray
    rules: Rules
    seed: int
    written: list[int] = field(default_factory=list)
    generator: torch.Generator | None = None

    def begin(self) -> None:
        self.written = []
        self.generator = torch.Generator().manual_seed(self.seed)

    def plain(self) -> bool:
        return not self.rules.temperature and self.rules.penalty == 1.0

    def go_on(self, logits_V: torch.Tensor) -> None:
        before = [*self.prompt.tolist(), *self.written] if self.rules.penalty != 1.0 else []
        self.written.append(draw(logits_V, self.rules, before, self.generator))


def continuations(
    reader: Reader,
    tokenizer: Any,
    requests: Sequence[tuple[str, dict[str, Any]]],
    seeds: Sequence[object],
    *,
    max_length: int,
    finished: Finished,
    wanted: Collection[int] | None = None,
    slots: int = SLOTS,
    budget: int | None = None,
    say: Callable[[str], None] | None = None,
) -> int:
    """Write the text behind each (context, lm-eval's generation arguments); returns how many contexts were cut.

    Only the requests whose numbers are `wanted` are written; all are counted. `finished([(request, text), ...])` is
    told about texts as they end. Contexts are cut from the left where the text
    would not fit into `max_length` tokens. Sampling draws from `seeds`, one for each request. Arguments that `Rules`
    does not know, and models that cannot be read in pieces, are left to lm-eval's own HFLM. When memory runs out, the
    number of slots is halved and `say` is told. Raises ConfigError where no room is left for a context.
    """
    texts, foreign = _sort_out(reader, tokenizer, requests, seeds, max_length)
    cut = sum(len(text.prompt) > max_length - text.rules.most for text in texts)
    for text in texts:
        text.prompt = text.prompt[-(max_length - text.rules.most) :]
    if wanted is not None:
        texts = [text for text in texts if text.number in wanted]
        foreign = [number for number in foreign if number in wanted]
    if foreign:
        _by_hflm(reader.model, tokenizer, requests, foreign, max_length, finished)
    # The longest first: memory that is short shows at once.
    texts.sort(key=lambda text: (-len(text.prompt) - text.rules.most, text.number))
    while texts:
        done: set[int] = set()
        try:
            with reader.attending(), torch.inference_mode():
                _write(reader, tokenizer, texts, slots, budget, finished, done, say)
        except (RuntimeError, MemoryError, TooLargeError) as error:
            slots = min(slots, len(texts)) // 2
            if not slots or not (out_of_memory(error) or isinstance(error, TooLargeError)):
                raise
            if say:
                say(f"out of memory: going on with {slots} texts at once")
        finally:
            reader.memory.clear()
        texts = [text for text in texts if text.number not in done]
    return cut


def _sort_out(
    reader: Reader,
    tokenizer: Any,
    requests: Sequence[tuple[str, dict[str, Any]]],
    seeds: Sequence[object],
    max_length: int,
) -> tuple[list[_Text], list[int]]:
    """The requests that this loop writes, and the numbers of those that it leaves to lm-eval."""
    tokens = encode_texts(tokenizer, [context for context, _ in requests])
    known: dict[str, Rules | None] = {}
    texts, foreign = [], []
    for number, (context, arguments) in enumerate(requests):
        key = json.dumps(arguments, sort_keys=True, default=str)
        if key not in known:
            known[key] = rules_for(arguments, reader.model, tokenizer)
        rules = known[key]
        if rules is not None and rules.most >= max_length:
            raise ConfigError(
                f"{rules.most} new tokens leave no room for a context in the model's window of {max_length}",
                hint="set max_gen_toks to less in the suite's generation_kwargs",
            )
        if rules is None or min(len(tokens[context]) + rules.most, max_length) > reader.limit:
            foreign.append(number)
            continue
        prompt = tokens[context] if len(tokens[context]) else np.array([prefix_token(tokenizer)])
        seed = int.from_bytes(hashlib.sha256(repr(seeds[number]).encode()).digest()[:8], "big") >> 1
        texts.append(_Text(number, prompt, rules, seed))
    return texts, foreign


def _by_hflm(
    model: Any,
    tokenizer: Any,
    requests: Sequence[tuple[str, dict[str, Any]]],
    numbers: Sequence[int],
    max_length: int,
    finished: Finished,
) -> None:
    from lm_eval.api.instance import Instance
    from lm_eval.models.huggingface import HFLM

    peer = HFLM(pretrained=model, tokenizer=tokenizer, backend="causal", batch_size=PEER_BATCH, max_length=max_length)
    for start in range(0, len(numbers), PEER_BATCH):
        some = numbers[start : start + PEER_BATCH]
        asked = [Instance("generate_until", {}, requests[number], 0) for number in some]
        finished(list(zip(some, peer.generate_until(asked, disable_tqdm=True), strict=True)))


def _write(
    reader: Reader,
    tokenizer: Any,
    texts: Sequence[_Text],
    count: int,
    budget: int | None,
    finished: Finished,
    done: set[int],
    say: Callable[[str], None] | None,
) -> None:
    """Write all texts, `count` at a time; the numbers of those that ended are added to `done`."""
    for text in texts:
        text.begin()
    prompts = prompts_plan([text.prompt for text in texts], reader.piece)
    count = min(count, len(texts))
    capacity = max(len(text.prompt) + text.rules.most for text in texts) - prompts.depth
    slots = Slots.empty(_rows(count), capacity, prompts.depth, _shared(reader, prompts))
    waiting = deque(range(len(texts)))
    active: list[_Text] = []
    while waiting or active:
        if waiting and len(active) < count:
            new = [waiting.popleft() for _ in range(min(len(waiting), count - len(active)))]
            place = {k: len(active) + n for n, k in enumerate(new)}
            active += [texts[k] for k in new]
            _read_prompts(reader, prompts, texts, place, slots, budget, say)
        else:
            _step(reader, slots, active)
        ended = []
        for place_ in reversed(range(len(active))):
            text = active[place_]
            if not text.rules.over(text.written, tokenizer):
                continue
            ended.append((text.number, text.rules.text(text.written, tokenizer)))
            # The last text moves into the slot that is free now.
            last = active.pop()
            if last is not text:
                active[place_] = last
                slots.move(len(active), place_)
        if ended:
            done.update(number for number, _ in ended)
            finished(ended)


def _rows(texts: int) -> int:
    return max(LEAST, -(-texts // ROWS) * ROWS)


def _shared(reader: Reader, prompts: Prompts) -> Callable[[int], list[Pair]]:
    """What all prompts begin with, by layer."""

    def layer_of(layer: int) -> list[Pair]:
        return [] if prompts.shared is None else [reader.memory.read(prompts.shared, layer, prompts.depth)]

    return layer_of


def _read_prompts(
    reader: Reader,
    prompts: Prompts,
    texts: Sequence[_Text],
    place: dict[int, int],
    slots: Slots,
    budget: int | None,
    say: Callable[[str], None] | None,
) -> None:
    """Read the prompts of the texts k into the slots `place[k]`, and draw their first tokens."""
    plan = prompts.plan

    def visit(row: Row, first: int, logits: list[torch.Tensor]) -> None:
        at, _, slot = predictions(plan, row)
        for where, k in zip(at - first, slot, strict=True):
            if 0 <= where < len(logits[0]):
                texts[k].go_on(logits[0][where])

    def finished(row: Row) -> None:
        for k in predictions(plan, row)[2]:
            slots.fill(place[k], reader.memory.layers(prompts.chains[k]))

    todo = [number for k in place for number in prompts.pieces[k]]
    read([reader], plan, todo, visit, finished, budget=budget, say=say, hold=[prompts.shared])


def _step(reader: Reader, slots: Slots, active: Sequence[_Text]) -> None:
    """Write one token more of every active text."""
    rows = _rows(len(active))
    slots.grow(len(active), rows)
    ids_B1 = torch.zeros(rows, 1, dtype=torch.long)
    ids_B1[: len(active), 0] = torch.tensor([text.written[-1] for text in active])
    position_B1 = torch.as_tensor(slots.depth + slots.lengths[:rows, None] - 1)
    with by(slots):
        logits_blocks = reader.step(ids_B1, position_B1, len(active))
        for start, logits_SV in logits_blocks:
            best_S = likeliest(logits_SV).tolist()
            for text, logits_V, best in zip(active[start:], logits_SV, best_S, strict=False):
                if text.plain():
                    text.written.append(best)
                else:
                    text.go_on(logits_V)

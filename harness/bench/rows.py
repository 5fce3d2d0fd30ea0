"""Many token sequences in one forward pass: a row holds shared beginnings once and everything after as branches.

A row is one sequence of length T under a mask in which each token sees only its own ancestors, with the position ids
it would have had alone. Rows carry no padding, and logits are computed only where something is predicted.
"""

import functools
import inspect
import itertools
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

CPU_BUDGET = 512
GPU_BUDGET = 4096
CHUNK = 128  # positions whose distributions over the vocabulary are worked on at once


@dataclass(frozen=True)
class Span:
    """One sequence to score: reading `ids`, the model predicts `targets[k]` at position `at[k]`."""

    ids: list[int]
    at: list[int]
    targets: list[int]

    @classmethod
    def ending(cls, ids: list[int], targets: list[int]) -> "Span":
        """A span whose last positions predict `targets`."""
        return cls(ids, list(range(len(ids) - len(targets), len(ids))), targets)


@dataclass(frozen=True)
class Row:
    """Several spans laid out as one sequence of T tokens, with predictions wanted at S of them.

    `ids`, `positions`: [T]. `visible`: [T, T] bool, None where it is plainly causal. `keep`: [S] places in the row,
    ascending. `members`: indices of the spans; `where[k]`: the places in `keep` of the k-th member's predictions.
    """

    ids: np.ndarray
    positions: np.ndarray
    visible: np.ndarray | None
    keep: np.ndarray
    members: list[int]
    where: list[np.ndarray]


def default_budget(model: Any) -> int:
    """Tokens per row that keep the processor busy without spending it on the mask."""
    return CPU_BUDGET if model.device.type == "cpu" else GPU_BUDGET


def plan(spans: Sequence[Span], budget: int, sharing: int) -> Iterator[Row]:
    """Lay spans out in rows of at most `budget` tokens; a longer span has a row of its own.

    Only spans of at most `sharing` tokens share a row (see `sharing_limit`); spans without targets get none. Sorted
    spans have their longest common beginning with a neighbour, so looking back by one is enough to store it once.
    """
    wanted = [i for i, span in enumerate(spans) if span.targets]
    order = sorted((i for i in wanted if len(spans[i].ids) <= sharing), key=lambda i: spans[i].ids)
    shared = [0] + [_common(spans[a].ids, spans[b].ids) for a, b in itertools.pairwise(order)]
    fresh = [len(spans[i].ids) - common for i, common in zip(order, shared, strict=False)]
    start = 0
    while start < len(order):
        used, stop = len(spans[order[start]].ids), start + 1
        while stop < len(order) and used + fresh[stop] <= budget:
            used += fresh[stop]
            stop += 1
        stop = _best_cut(start, stop, shared, fresh, budget // 3) if stop < len(order) else stop
        yield _lay_out(spans, order[start:stop])
        start = stop
    for i in wanted:
        if len(spans[i].ids) > sharing:
            yield _lay_out(spans, [i])


def _best_cut(start: int, stop: int, shared: list[int], fresh: list[int], slack: int) -> int:
    """End the row where the next one repeats least, giving up at most `slack` tokens of it."""
    cut, dropped = stop, 0
    for candidate in range(stop - 1, start, -1):
        dropped += fresh[candidate]
        if dropped > slack:
            break
        if shared[candidate] < shared[cut]:
            cut = candidate
    return cut


def _common(a: Sequence[int], b: Sequence[int]) -> int:
    return next((k for k, (x, y) in enumerate(zip(a, b, strict=False)) if x != y), min(len(a), len(b)))


def _lay_out(spans: Sequence[Span], members: list[int]) -> Row:
    ids: list[int] = []
    positions: list[int] = []
    branches: list[tuple[int, int, np.ndarray]] = []  # (first new place, end, places of the ancestors)
    places: list[np.ndarray] = []
    before: list[int] = []
    path = np.empty(0, dtype=np.int64)
    for member in members:
        span = spans[member]
        common = _common(before, span.ids)
        start = len(ids)
        ids += span.ids[common:]
        positions += range(common, len(span.ids))
        branches.append((start, len(ids), path[:common]))
        path = np.concatenate([path[:common], np.arange(start, len(ids))])
        places.append(path[span.at])
        before = span.ids
    visible = None
    # One branch after another, each going on where the last one ended, is a plain causal sequence.
    if any(len(ancestors) < start for start, end, ancestors in branches if start < end):
        visible = np.zeros((len(ids), len(ids)), dtype=bool)
        for start, end, ancestors in branches:
            visible[start:end, ancestors] = True
            visible[start:end, start:end] = np.tri(end - start, dtype=bool)
    keep = np.unique(np.concatenate(places))
    where = [np.searchsorted(keep, place) for place in places]
    return Row(np.array(ids), np.array(positions), visible, keep, members, where)


@torch.inference_mode()
def row_logits(model: Any, row: Row, budget: int) -> Iterator[tuple[int, torch.Tensor]]:
    """The logits of a row's kept positions, in pieces: yields (first index into `keep`, logits_SV).

    They come from the model's own forward, so scaling and soft-capping of an architecture stay. A plain sequence
    longer than `budget` is read in pieces through the key-value cache, which bounds the memory of its logits.
    """
    accepted = _forward_parameters(type(model))
    ids = torch.as_tensor(row.ids, device=model.device)[None]
    positions = torch.as_tensor(row.positions, device=model.device)[None]
    if row.visible is None and len(row.ids) > budget and "past_key_values" in accepted:
        yield from _read_in_pieces(model, row, ids, budget, accepted)
        return
    keep = torch.as_tensor(row.keep, device=model.device)
    inputs: dict[str, Any] = {"input_ids": ids, "use_cache": False}
    if row.visible is not None:
        inputs |= {"attention_mask": _additive(row.visible, model), "position_ids": positions}
    if "logits_to_keep" in accepted:
        yield 0, model(**inputs, logits_to_keep=keep).logits[0]
    else:
        yield 0, model(**inputs).logits[0, keep]


def _read_in_pieces(
    model: Any, row: Row, ids: torch.Tensor, budget: int, accepted: frozenset[str]
) -> Iterator[tuple[int, torch.Tensor]]:
    past = None
    for start in range(0, len(row.ids), budget):
        end = min(start + budget, len(row.ids))
        first, last = np.searchsorted(row.keep, [start, end])
        keep = torch.as_tensor(row.keep[first:last] - start, device=model.device)
        inputs = {"input_ids": ids[:, start:end], "past_key_values": past, "use_cache": True}
        if "logits_to_keep" in accepted:
            # A piece without predictions still has to fill the cache; one position is the least one can ask for.
            inputs["logits_to_keep"] = keep if len(keep) else 1
            output = model(**inputs)
            logits = output.logits[0, : len(keep)]
        else:
            output = model(**inputs)
            logits = output.logits[0, keep]
        past = output.past_key_values
        if len(keep):
            yield int(first), logits


def _additive(visible: np.ndarray, model: Any) -> torch.Tensor:
    # Additive serves eager and sdpa attention alike; the lowest finite number instead of -inf, because a block of
    # the fused kernels that is masked as a whole would give NaN.
    hidden = torch.as_tensor(~visible, device=model.device)
    mask = torch.zeros(visible.shape, dtype=model.dtype, device=model.device)
    return mask.masked_fill_(hidden, torch.finfo(model.dtype).min)[None, None]


@functools.cache
def _forward_parameters(kind: type) -> frozenset[str]:
    return frozenset(inspect.signature(kind.forward).parameters)


@torch.inference_mode()
def sharing_limit(model: Any) -> int:
    """The longest span that may share a row: 0 for a model that cannot be masked freely.

    Some models ignore a mask or position ids (recurrent layers, ALiBi, some attention kernels), so a small row is
    tried and compared with the same spans read alone. Sliding windows are longer than the trial and are looked up.
    """
    if not {"attention_mask", "position_ids"} <= _forward_parameters(type(model)):
        return 0
    config = getattr(model.config, "text_config", None) or model.config
    vocabulary = int(config.vocab_size)
    spans = [Span.ending([(7 * t + 1) % vocabulary for t in tail], [0] * 4) for tail in _TRIAL]
    row = next(plan(spans, 64, 64))
    try:
        packed = torch.cat([logits for _, logits in row_logits(model, row, 64)]).float()
        for member, where in zip(row.members, row.where, strict=True):
            alone = model(input_ids=torch.tensor([spans[member].ids], device=model.device), use_cache=False)
            expected = alone.logits[0, spans[member].at].float()
            slack = 1e-3 if model.dtype == torch.float32 else 5e-2
            if not (packed[torch.as_tensor(where)] - expected).abs().max() <= slack * expected.abs().max().clamp(min=1):
                return 0
    except (TypeError, ValueError, RuntimeError):
        return 0
    limits = [getattr(config, name, None) for name in ("sliding_window", "attention_chunk_size")]
    if getattr(config, "use_sliding_window", True) is False:
        limits[0] = None
    return min([int(limit) for limit in limits if limit], default=1 << 30)


_TRIAL = [[*range(8), *tail] for tail in ([8, 9, 10], [11, 12, 13, 14], [8, 9, 15, 16, 17])]


def score(
    model: Any,
    spans: Sequence[Span],
    *,
    budget: int | None = None,
    sharing: int | None = None,
    on_row: Callable[[int], None] | None = None,
) -> list[tuple[np.ndarray, np.ndarray]]:
    """For each span: (log-probability of each target in nats [n] float64, whether it is the likeliest token [n]).

    `on_row` is told the number of spans that a finished row held.
    """
    budget = budget or default_budget(model)
    sharing = sharing_limit(model) if sharing is None else sharing
    found: list[tuple[np.ndarray, np.ndarray]] = [(np.empty(0), np.empty(0, dtype=bool))] * len(spans)
    for row in plan(spans, budget, sharing):
        at = np.concatenate(row.where)
        targets = np.concatenate([spans[member].targets for member in row.members]).astype(np.int64)
        logp, best = np.empty(len(at)), np.empty(len(at), dtype=bool)
        for first, logits_SV in row_logits(model, row, budget):
            here = (at >= first) & (at < first + len(logits_SV))
            logp[here], best[here] = target_scores(logits_SV, at[here] - first, targets[here])
        ends = np.cumsum([len(where) for where in row.where])[:-1]
        for member, part, greedy in zip(row.members, np.split(logp, ends), np.split(best, ends), strict=True):
            found[member] = (part, greedy)
        if on_row:
            on_row(len(row.members))
    return found


def target_scores(logits_SV: torch.Tensor, at: np.ndarray, targets: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Log-probability in nats of `targets[k]` at row `at[k]` of the logits, and whether it is the likeliest token."""
    logp, best = np.empty(len(at)), np.empty(len(at), dtype=bool)
    for start in range(0, len(logits_SV), CHUNK):
        chunk_CV = logits_SV[start : start + CHUNK].float()
        here = (at >= start) & (at < start + CHUNK)
        at_N = torch.as_tensor(at[here] - start, device=logits_SV.device)
        targets_N = torch.as_tensor(targets[here], device=logits_SV.device)
        # Not logits - logsumexp, which is closer to the truth: torch's log_softmax is off by some 2e-5 for each token
        # of a large vocabulary, always upwards, and over a long answer that would set us apart from lm-eval.
        logp[here] = chunk_CV.log_softmax(-1)[at_N, targets_N].double().cpu().numpy()
        best[here] = (chunk_CV.argmax(-1)[at_N] == targets_N).cpu().numpy()
    return logp, best

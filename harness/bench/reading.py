"""A model as a reader of rows: one forward pass over several pieces, logits only where something is predicted.

Everything that works token by token runs over the whole row; attention is done piece by piece (`attend`). A row is
padded to a few tokens more, so that matrix products of other sizes do not round differently.
"""

import contextlib
import functools
import inspect
import threading
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import torch

from harness.bench.attend import Pieces, attending, by
from harness.bench.memory import Memory
from harness.bench.packing import Row, pack
from harness.bench.plan import PIECE, Piece, Plan, Span, make_plan
from harness.errors import ConfigError
from harness.models.products import LaidOut, lay_out, packable, product
from harness.train.head import Head, head_of

GPU_PIECE = 2048
LEAST = 16
"""Rows of a matrix product at least: MKL computes fewer by another kernel, and they come out rounded otherwise."""
MULTIPLE = 8
"""Rows come in multiples of this, so that vectorised loops leave no rest, which would be rounded otherwise too."""
VOCABULARY = 2048
"""Columns of the output matrix that are multiplied at once: so many stay in the processor's cache."""
LOGITS = 1 << 24
"""Numbers in a block of logits at most."""


class Reader:
    """A model that reads rows of pieces.

    `limit` is the longest sequence in tokens that may be cut into pieces: 0 for a model whose layers mix tokens by more
    than causal attention, which a small trial finds out. `piece` is the length of a piece on the model's device,
    `block` how many positions' logits are held at a time. `memory` holds the chains that are being read.
    """

    def __init__(self, model: Any):
        self.model = model
        self.device = model.device
        self.piece = PIECE if self.device.type == "cpu" else GPU_PIECE
        self.memory = Memory()
        self._head: Head | None = None
        self.block = max(LEAST, min(128, LOGITS // model.config.get_text_config().vocab_size) // MULTIPLE * MULTIPLE)
        self._accepted = _forward_parameters(type(model))
        self._own = threading.local()
        self._ignored: set[int] = set()  # windows of which only masks know
        self._laid_out: list[LaidOut] = []
        self.limit = self._examine()
        if self._head is not None and packable(self._head.weight_VD):
            self._laid_out = [lay_out(part_VD) for part_VD in self._head.weight_VD.detach().split(VOCABULARY)]

    def attending(self) -> contextlib.AbstractContextManager[None]:
        """Within it, rows of pieces can be read; outside, a sequence that is read alone."""
        return attending(self.model)

    def logits(self, plan: Plan, row: Row, block: int | None = None) -> Iterator[tuple[int, torch.Tensor]]:
        """The logits at the places that the row's pieces keep, one piece after another, `block` places at a time.

        Yields (first index, logits_SV); each tensor is overwritten by the next one.
        """
        block = block or self.block
        pieces = [plan.pieces[number] for number in row.pieces]
        if pieces[0].alone:
            ids = torch.as_tensor(pieces[0].ids, device=self.device)[None]
            yield from _blocks(self._kept(pieces[0].keep, input_ids=ids), block)
            return
        ids, positions, keep = joined(pieces)
        inputs = {
            "input_ids": torch.as_tensor(ids, device=self.device)[None],
            "position_ids": torch.as_tensor(positions, device=self.device)[None],
        }
        attention = Pieces(pieces, plan, self.memory)
        with by(attention):
            if self._head is None:
                found = _blocks(self._kept(keep, **inputs), block)
            else:
                hidden_TD = self._hidden(**inputs)[0]
                found = self._through_head(hidden_TD[torch.as_tensor(keep, device=hidden_TD.device)], block)
        self._ignored |= attention.windows - attention.used
        yield from found

    def step(self, ids_B1: torch.Tensor, position_B1: torch.Tensor, rows: int) -> Iterator[tuple[int, torch.Tensor]]:
        """Logits of the first `rows` rows after one token each, in blocks: yields (first row, logits_SV)."""
        inputs = {"input_ids": ids_B1.to(self.device), "position_ids": position_B1.to(self.device)}
        if self._head is None:
            return _blocks(self.model(**inputs, use_cache=False).logits[:rows, -1], self.block)
        return self._through_head(self._hidden(**inputs)[:rows, -1], self.block)

    def _hidden(self, **inputs: torch.Tensor) -> torch.Tensor:
        hidden_BTD: torch.Tensor = self.model.get_decoder()(**inputs, use_cache=False).last_hidden_state
        return hidden_BTD

    def _through_head(self, hidden_SD: torch.Tensor, block: int) -> Iterator[tuple[int, torch.Tensor]]:
        return ((start, self.head_logits(some_SD)) for start, some_SD in _blocks(hidden_SD, block))

    def _kept(self, keep: np.ndarray, **inputs: torch.Tensor) -> torch.Tensor:
        """Logits [S, V] at the places `keep`, by the model's own forward."""
        places = torch.as_tensor(keep, device=self.device)
        if "logits_to_keep" in self._accepted:
            logits_SV: torch.Tensor = self.model(**inputs, use_cache=False, logits_to_keep=places).logits[0]
            return logits_SV
        logits_SV = self.model(**inputs, use_cache=False).logits[0, places]
        return logits_SV

    def head_logits(self, hidden_SD: torch.Tensor) -> torch.Tensor:
        """Logits [S, V] of at most `block` hidden states, overwritten by this thread's next call."""
        assert self._head is not None
        weight_VD, bias_V, after = self._head.weight_VD, self._head.bias_V, self._head.after
        # Memory of this thread's own, used again and again: fresh memory costs more than what is computed in it.
        if not hasattr(self._own, "logits"):
            self._own.logits = weight_VD.new_empty(self.block, len(weight_VD))
        size = len(hidden_SD)
        padded_SD = torch.nn.functional.pad(hidden_SD.to(weight_VD), (0, 0, 0, max(0, LEAST - size)))
        for first in range(0, len(weight_VD), VOCABULARY):
            part = slice(first, first + VOCABULARY)
            into = self._own.logits[: len(padded_SD), part]
            if self._laid_out:
                into.copy_(product(padded_SD, self._laid_out[first // VOCABULARY]))
            else:
                torch.mm(padded_SD, weight_VD[part].t(), out=into)
        logits_SV: torch.Tensor = self._own.logits[:size]
        if bias_V is not None:
            logits_SV += bias_V
        return logits_SV if after is None else after(logits_SV)

    def _examine(self) -> int:
        """The longest sequence that may be cut, once it is known how the logits come out of the last hidden states."""
        linear = self.model.get_output_embeddings()
        if isinstance(linear, torch.nn.Linear) and hasattr(self.model, "get_decoder"):
            # What nearly all models do: nothing but the product. The trial will tell.
            self._head = Head(linear.weight, linear.bias, None)
            if self._passes():
                return self._reach()
        self._head = head_of(self.model)
        return self._reach() if self._passes() else 0

    @torch.inference_mode()
    def _passes(self) -> bool:
        """Whether a small trial in pieces gives the logits of the model's own forward."""
        if "position_ids" not in self._accepted:
            return False
        vocabulary = self.model.config.get_text_config().vocab_size
        spans = [Span.ending([(7 * t + 1) % vocabulary for t in trial], [0] * 3) for trial in _TRIAL]
        plan = make_plan(spans, piece=8, merge=0)
        found: dict[int, torch.Tensor] = {}
        try:
            ids = torch.tensor([span.ids for span in spans], device=self.device)
            keep = {"logits_to_keep": 3} if "logits_to_keep" in self._accepted else {}
            logits_BTV = self.model(input_ids=ids, use_cache=False, **keep).logits
            expected_NV = logits_BTV[:, -3:].flatten(0, 1).float()
            with self.attending():
                for row in pack(plan, range(len(plan.pieces)), 16):
                    at, _, slot = predictions(plan, row)
                    for first, logits_SV in self.logits(plan, row):
                        found |= {int(n): logits_SV[k - first].clone().float() for n, k in zip(slot, at, strict=True)}
            found_NV = torch.stack([found[n] for n in range(len(found))])
        except (ConfigError, TypeError, ValueError, RuntimeError, KeyError, AttributeError, IndexError):
            return False  # an architecture of another make
        finally:
            self.memory.clear()
        slack = 1e-3 if self.model.dtype in (torch.float32, torch.float64) else 5e-2
        return bool((found_NV - expected_NV).abs().max() <= slack * expected_NV.abs().max().clamp(min=1))

    def _reach(self) -> int:
        return min([*self._ignored, *_turning_points(self.model.config.get_text_config())], default=1 << 30)


_TRIAL = [[*range(8), *tail] for tail in ([8, 9, 10, 11], [12, 13, 14, 15], [8, 9, 16, 17])] + [[*range(20, 32)]]
"""Three sequences for a bush, and one that is cut into a piece and another with a past."""


def _turning_points(config: Any) -> list[int]:
    """Lengths beyond which a forward pass gives all its tokens other rotary angles (the kinds longrope and dynamic)."""
    found = getattr(config, "rope_parameters", None) or {}
    tables = [found, *(table for table in found.values() if isinstance(table, dict))]
    lengths = [
        table.get("original_max_position_embeddings") or config.max_position_embeddings
        for table in tables
        if table.get("rope_type") in ("longrope", "dynamic")
    ]
    return [int(length) for length in lengths]


@functools.cache
def _forward_parameters(kind: type) -> frozenset[str]:
    return frozenset(inspect.signature(kind.forward).parameters)  # type: ignore[attr-defined]


def _blocks(some: torch.Tensor, block: int) -> Iterator[tuple[int, torch.Tensor]]:
    return ((start, some[start : start + block]) for start in range(0, len(some), block))


def joined(pieces: Sequence[Piece]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Token ids and positions of a row [T], padded at its end, and the places in it that are kept [S]."""
    starts = np.cumsum([0, *(len(piece.ids) for piece in pieces)])
    padding = np.zeros(max(LEAST - starts[-1], -starts[-1] % MULTIPLE), dtype=np.int64)
    ids = np.concatenate([*(piece.ids for piece in pieces), padding])
    positions = np.concatenate([*(piece.positions for piece in pieces), padding])
    keep = np.concatenate([start + piece.keep for start, piece in zip(starts[:-1], pieces, strict=True)])
    return ids, positions, keep


def predictions(plan: Plan, row: Row) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """What a row predicts, [N] each: index of the logits, target, flat index of the prediction."""
    pieces = [plan.pieces[number] for number in row.pieces]
    starts = np.cumsum([0, *(len(piece.keep) for piece in pieces)])[:-1]
    at = np.concatenate([start + piece.place for start, piece in zip(starts, pieces, strict=True)])
    target = np.concatenate([piece.target for piece in pieces])
    return at, target, np.concatenate([piece.slot for piece in pieces])

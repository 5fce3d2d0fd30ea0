"""Filling the teacher's cache: the teacher runs once over the documents that are missing, and never again for them."""

import shutil
import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from harness.chat import seed_for
from harness.config import Cache
from harness.errors import TrainingError
from harness.models.load import LoadedModel
from harness.progress import Report, quiet, say
from harness.terms import KNOBS, Divergence
from harness.train.batches import Document, Row, pack, to_batch
from harness.train.cache import SHARD_BYTES, ShardWriter, decode, encode, open_cache
from harness.train.divergences import DIVERGENCES
from harness.train.signals import CHUNK, DEFAULT_DRAWS, Bias, Coarse, coarsen

if TYPE_CHECKING:
    import torch

    from harness.train.cache import Stored

ROW_TOKENS = 512  # documents at once through the teacher
MARGIN_BYTES = 256 << 20  # left free on the disk
SIDECAR_BYTES = 48  # of a document's entry


@dataclass(frozen=True)
class Filled:
    """What one call of `fill` added: documents, their learnt tokens, bytes on the disk, seconds."""

    documents: int = 0
    tokens: int = 0
    bytes: int = 0
    seconds: float = 0.0

    @property
    def bytes_per_token(self) -> float:
        return self.bytes / self.tokens if self.tokens else 0.0


def fill(
    folder: Path,
    teacher: LoadedModel,
    documents: Sequence[Document],
    *,
    cache: Cache,
    temperature: float,
    vocabulary: int,
    key: str,
    seed: int,
    rank: int = 0,
    world: int = 1,
    progress: Report = quiet,
    shard_bytes: int = SHARD_BYTES,
) -> Filled:
    """Add what is missing of `documents` to the cache `key` below `folder`; the teacher sees the form the student sees.

    `documents` are as they are trained on, already cut. Of `world` processes, `rank` computes every world-th document;
    the others' are found after `TeacherCache.refresh`. `vocabulary` is the number of tokens that the tokenizer knows.
    Draws depend on `seed` and the document alone. Raises TrainingError when the disk has no room, before it is filled,
    or refuses to be written to; finished shards stay.
    """
    store = open_cache(folder, key)
    absent = store.missing(documents)
    mine = store.missing(share(documents, rank, world))
    longest = max((len(document.ids) for document in mine), default=0)
    signal = partial(teacher_signal, cache=cache, temperature=temperature, vocabulary=vocabulary, seed=seed)

    def pieces() -> Iterator[list[tuple[Document, "Stored"]]]:
        for row in pack(mine, max(ROW_TOKENS, longest)):
            found = through(teacher.model, row)
            yield [(document, encode(signal(logits_NV, document), cache, vocabulary)) for document, logits_NV in found]

    writer = ShardWriter(folder, key, rank, shard_bytes)
    return write_all(writer, pieces(), absent, mine, progress)


def share(documents: Iterable[Document], rank: int, world: int) -> list[Document]:
    """The documents that process `rank` of `world` computes, each once."""
    return list({document.key: document for document in documents}.values())[rank::world]


def write_all(
    writer: ShardWriter,
    pieces: Iterator[list[tuple[Document, "Stored"]]],
    absent: Sequence[Document],
    mine: Sequence[Document],
    progress: Report,
) -> Filled:
    """Write the pieces as they come; `absent` are the documents that all processes together will write.

    What is in memory is written too when the user or an error ends it.
    """
    begun = time.monotonic()
    total = sum(len(document.scored) for document in mine)
    documents = tokens = 0
    try:
        for piece in pieces:
            if not documents:
                _announce(writer, piece, absent)
            writer.add(piece)
            documents += len(piece)
            tokens += sum(len(document.scored) for document, _ in piece)
            progress(tokens, total, f"{tokens / (time.monotonic() - begun):.0f} tokens/s into the teacher's cache")
    finally:
        writer.flush()
    return Filled(documents, tokens, writer.written, round(time.monotonic() - begun, 1))


def _announce(writer: ShardWriter, piece: list[tuple[Document, "Stored"]], absent: Sequence[Document]) -> None:
    """Say what the cache will take, as measured on the first piece; raise TrainingError when it lacks the room."""
    size = sum(array.nbytes for _, stored in piece for array in stored.values())
    per_token = size / sum(len(document.scored) for document, _ in piece)
    tokens = sum(len(document.scored) for document in absent)
    needed = tokens * per_token + len(absent) * SIDECAR_BYTES
    if writer.rank == 0:
        say(
            f"teacher's cache: {per_token:.1f} bytes a token, {_amount(needed)} for {tokens:,} tokens in "
            f"{len(absent):,} documents, in {writer.folder}"
        )
    there = next(path for path in (writer.folder, *writer.folder.parents) if path.exists())
    free = shutil.disk_usage(there).free
    if needed + MARGIN_BYTES > free:
        raise TrainingError(
            f"the teacher's cache needs {_amount(needed)} and {_amount(MARGIN_BYTES)} to spare; {there} has "
            f"{_amount(free)} free",
            hint="take a smaller train.cache.k, kind = 'sampled', or a cache folder on another disk (VIVA_CACHE)",
        )


def _amount(size: float) -> str:
    for unit in ("bytes", "KB", "MB", "GB"):
        if size < 1000:
            return f"{size:.0f} {unit}" if unit == "bytes" else f"{size:.1f} {unit}"
        size /= 1000
    return f"{size:.1f} TB"


def through(model: Any, row: Row) -> Iterator[tuple[Document, "torch.Tensor"]]:
    """A model's logits [N, V] at the scored positions of each document of a packed row."""
    import torch

    with torch.inference_mode():
        logits_NV = to_batch(row, device=next(model.parameters()).device).logits(model)
    start = 0
    for document in row.documents:
        stop = start + len(document.scored)
        if document.scored:
            yield document, logits_NV[start:stop]
        start = stop


def teacher_signal(
    logits_NV: "torch.Tensor", document: Document, *, cache: Cache, temperature: float, vocabulary: int, seed: int
) -> Coarse:
    """What is kept of a document's logits; draws come from a generator of the document's own."""
    import torch

    uniform_ND = None
    if cache.kind == "sampled":
        generator = torch.Generator().manual_seed(seed_for(seed, "draws", document.key))
        draws = cache.draws or DEFAULT_DRAWS
        uniform_ND = torch.rand(len(logits_NV), draws, generator=generator, dtype=torch.float64)
    return coarsen(logits_NV[:, :vocabulary], cache, temperature, uniform_ND)


def coarse_bias(
    teacher: LoadedModel,
    student: LoadedModel,
    rows: Sequence[Row],
    table: Divergence,
    cache: Cache,
    vocabulary: int,
    seed: int,
) -> dict[str, float]:
    """What the coarsened cache changes of a student's divergence and gradients on (held-out) rows.

    `table` names divergence, knobs and temperature. The signal goes through the stored form, so its rounding is in.
    Returns `Bias.facts` and `bytes_per_token`, those of the signals.
    """
    knobs = {name: getattr(table, name) for name in KNOBS.get(table.divergence, ()) if getattr(table, name) is not None}
    bias = Bias(partial(DIVERGENCES[table.divergence], **knobs), table.temperature)
    size = 0
    for row in rows:
        for (document, teacher_NV), (_, student_NV) in zip(
            through(teacher.model, row), through(student.model, row), strict=True
        ):
            signal = teacher_signal(
                teacher_NV, document, cache=cache, temperature=table.temperature, vocabulary=vocabulary, seed=seed
            )
            stored = encode(signal, cache, vocabulary)
            size += sum(array.nbytes for array in stored.values())
            coarse = decode(stored, len(signal))
            for start in range(0, len(coarse), CHUNK):
                part = slice(start, start + CHUNK)
                bias.add(student_NV[part, :vocabulary], teacher_NV[part, :vocabulary], coarse.rows(start, part.stop))
    return {**bias.facts, "bytes_per_token": size / bias.positions} if bias.positions else {}

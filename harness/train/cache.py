"""The teacher's cache on disk: what it said of each document, written once, read by many students.

A folder for each key (teacher, tokenizer, temperature, form). In it shards: safetensors files, read through memory
maps, each with a JSON sidecar that names its sha256 and its documents. A document is found by the hash of its tokens
(`Document.key`), so neither packing nor order nor student matter, and nothing stale can be served. Files are only ever
added, under the hash of their bytes, and the sidecar comes last: several processes may write at once without locks,
and a kill at any moment costs only what was not yet in a finished shard.
"""

import contextlib
import hashlib
import json
import os
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from harness.config import Cache
from harness.errors import TrainingError
from harness.progress import say
from harness.records import write_atomic
from harness.rundir import digest, sha256_file
from harness.train.batches import Document
from harness.train.draws import pack_draws, unpack_draws
from harness.train.signals import DEFAULT_DRAWS, DEFAULT_K, UNUSED, Coarse, join

if TYPE_CHECKING:
    import numpy as np

    Stored = dict[str, "np.ndarray"]  # one document's arrays by name: index, logp, tail, or draws

FORMAT = 1  # part of every key: raise it when the files' meaning changes
SHARD_BYTES = 64 << 20
SHARD_DOCUMENTS = 1000
BYTES_PER_DRAW = 0.7  # measured on film reviews, see docs/cache.md
ABANDONED = 600.0  # seconds after which a file that nobody finished is taken for a killed process's
NAME = 32  # hex digits of a document's key that name it in a sidecar
"""128 bits: among 10^12 documents, the chance that any two share them is below 10^-14."""


def cache_key(teacher_digest: str, tokenizer_digest: str, temperature: float, cache: Cache) -> str:
    """What names a cache: the hash of all that decides what is in it, but for the documents."""
    form: dict[str, Any] = {"kind": cache.kind}
    if cache.kind == "sampled":
        form["draws"] = cache.draws or DEFAULT_DRAWS
    else:
        form |= {"k": cache.k or DEFAULT_K, "bits": cache.bits}
    facts = {"format": FORMAT, "teacher": teacher_digest, "tokenizer": tokenizer_digest}
    return digest({**facts, "temperature": float(temperature), **form})


def tokenizer_digest(tokenizer: Any) -> str:
    """What identifies a tokenizer for a cache: the hash of its tokens and their ids."""
    return digest(tokenizer.get_vocab())


def bytes_per_token(cache: Cache, vocabulary: int) -> float:
    """Bytes for each learnt token, sidecars left out: exact for top-k; for draws an estimate, high for chats.

    What draws take depends on how many of them are distinct, so `fill` measures it on what it computes first.
    """
    index, value = 2 if vocabulary <= 1 << 16 else 4, cache.bits // 8
    if cache.kind == "sampled":
        return BYTES_PER_DRAW * (cache.draws or DEFAULT_DRAWS)
    k = vocabulary if cache.k == "vocabulary" else cache.k or DEFAULT_K
    return float(vocabulary * value if k >= vocabulary else k * (index + value) + value)


def encode(signal: Coarse, cache: Cache, vocabulary: int) -> "Stored":
    """One document's signal as the arrays that are kept."""
    import numpy as np
    import torch

    if signal.unbiased:
        draws = cache.draws or DEFAULT_DRAWS
        count_NK = (signal.logp_NK.exp() * draws).round().to(torch.int64).cpu().numpy()
        return {"draws": pack_draws(signal.index_NK.cpu().numpy(), count_NK)}
    kind = torch.float16 if cache.bits == 16 else torch.float32
    unused_NK = signal.logp_NK == UNUSED
    stored = {"logp": signal.logp_NK.masked_fill(unused_NK, float("-inf")).to(kind).cpu().numpy()}
    if signal.tail_N is not None:
        ids = np.uint16 if vocabulary <= 1 << 16 else np.uint32
        stored |= {"index": signal.index_NK.cpu().numpy().astype(ids), "tail": signal.tail_N.to(kind).cpu().numpy()}
    return stored


def decode(stored: "Stored", positions: int) -> Coarse:
    """The signal of `positions` positions; what rounding left of a sum of 1 is made good."""
    import numpy as np
    import torch

    if "draws" in stored:
        index_NK, count_NK = (torch.from_numpy(array) for array in unpack_draws(stored["draws"], positions))
        logp_NK = (count_NK / count_NK.sum(-1, keepdim=True)).log().clamp(min=UNUSED)
        return Coarse(index_NK, logp_NK, unbiased=True)
    logp_NK = torch.from_numpy(stored["logp"]).float()
    tail_N1 = torch.from_numpy(stored["tail"]).float()[:, None] if "tail" in stored else None
    events_NM = logp_NK if tail_N1 is None else torch.cat([logp_NK, tail_N1], 1)
    total_N1 = events_NM.logsumexp(-1, keepdim=True)
    unused_NK = logp_NK.isneginf()
    logp_NK = (logp_NK - total_N1).masked_fill(unused_NK, UNUSED)
    if tail_N1 is None:
        return Coarse(torch.arange(logp_NK.shape[1]).expand(logp_NK.shape), logp_NK)
    index_NK = torch.from_numpy(stored["index"].astype(np.int64))
    return Coarse(index_NK, logp_NK, (tail_N1 - total_N1)[:, 0].clamp(min=UNUSED))


@dataclass(frozen=True)
class _Place:
    """Where a document lies: its shard, its number of positions, its first row and its length in rows of the arrays."""

    shard: str
    positions: int
    first: int
    rows: int


class TeacherCache:
    """The union of a folder's shards; `refresh` takes up those that other processes have added."""

    def __init__(self, folder: Path, key: str):
        self.folder = folder / key[:16]
        self.key = key
        self._places: dict[str, _Place] = {}
        self._facts: dict[str, dict[str, Any]] = {}
        self._sound: set[str] = set()
        self._open: dict[str, Any] = {}
        self.refresh()

    def refresh(self) -> None:
        """Read the sidecars that are new."""
        for path in sorted(self.folder.glob("*.json")):
            shard = path.stem
            if shard in self._facts:
                continue
            try:
                facts = json.loads(path.read_text(encoding="utf-8"))
                if facts["check"] != digest({**facts, "check": ""}):
                    raise ValueError("the sidecar is not as it was written")
                places = _places(shard, facts)
            except FileNotFoundError:
                continue  # dropped by another process meanwhile
            except (OSError, ValueError, KeyError, TypeError):
                self._drop(shard, "its sidecar is damaged")
                continue
            if facts["key"] != self.key:
                continue  # copied here by mistake
            self._facts[shard] = facts
            self._places = places | self._places

    def missing(self, documents: Iterable[Document]) -> list[Document]:
        """The documents that are not there, each once; one without a learnt token needs no place.

        Shards are checked against their sha256 when they are first needed; a damaged one is dropped, and said so.
        """
        wanted = list({document.key: document for document in documents if document.scored}.values())
        for shard in sorted({place.shard for document in wanted if (place := self._place(document))}):
            self._check(shard)
        return [document for document in wanted if self._place(document) is None]

    def read(self, documents: Sequence[Document]) -> Coarse:
        """The teacher's signal at the documents' scored positions, one after the other.

        Raises TrainingError when a document is not there or its shard is damaged.
        """
        return join([self._read(document) for document in documents if document.scored])

    def facts(self, documents: Iterable[Document]) -> dict[str, Any]:
        """For a manifest: what is kept of these documents, and what their shards take on disk, sidecars included."""
        wanted = {document.key: place for document in documents if (place := self._place(document))}
        shards = {place.shard for place in wanted.values()}
        files = [self.folder / f"{shard}{end}" for shard in shards for end in (".safetensors", ".json")]
        size = sum(path.stat().st_size for path in files)
        positions = sum(place.positions for place in self._places.values() if place.shard in shards)
        return {
            "documents": len(wanted),
            "tokens": sum(place.positions for place in wanted.values()),
            "shards": len(shards),
            "bytes": size,
            "bytes_per_token": size / positions if positions else 0.0,
        }

    def _place(self, document: Document) -> _Place | None:
        return self._places.get(document.key[:NAME])

    def _read(self, document: Document) -> Coarse:
        from safetensors import safe_open

        place = self._place(document)
        if place is None or not self._check(place.shard):
            raise TrainingError(
                f"the teacher's cache {self.folder} lacks a document of {len(document.ids)} tokens",
                hint="run the command again: what is missing is filled before training",
            )
        if place.shard not in self._open:
            self._open[place.shard] = safe_open(self.folder / f"{place.shard}.safetensors", framework="np")
        file = self._open[place.shard]
        rows = slice(place.first, place.first + place.rows)
        return decode({name: file.get_slice(name)[rows] for name in file.keys()}, place.positions)  # noqa: SIM118

    def _check(self, shard: str) -> bool:
        """Whether a shard's bytes are those that were written; asked once. A damaged one is dropped."""
        if shard in self._sound:
            return True
        path = self.folder / f"{shard}.safetensors"
        try:
            sound = sha256_file(path) == str(self._facts[shard]["sha256"])
        except OSError:
            sound = False
        if sound:
            self._sound.add(shard)
        else:
            self._drop(shard, "its checksum is wrong" if path.exists() else "its file is gone")
        return sound

    def _drop(self, shard: str, why: str) -> None:
        say(f"teacher's cache: dropping shard {shard}: {why}; its documents are filled again")
        for end in (".json", ".safetensors"):  # a shard without its sidecar does not exist
            (self.folder / f"{shard}{end}").unlink(missing_ok=True)
        self._facts.pop(shard, None)
        self._places = {name: place for name, place in self._places.items() if place.shard != shard}
        # Another shard, of another process, may hold some of the same documents.
        for other, facts in self._facts.items():
            self._places = _places(other, facts) | self._places


def _places(shard: str, facts: dict[str, Any]) -> dict[str, _Place]:
    places = {}
    first = 0
    for name, positions, rows in facts["documents"]:
        places[name] = _Place(shard, positions, first, rows)
        first += rows
    return places


def open_cache(folder: Path, key: str) -> TeacherCache:
    """The cache of this key below `folder`, empty where nothing was written yet."""
    return TeacherCache(folder, key)


class ShardWriter:
    """Collects documents and writes a shard when there are enough; `flush` writes the rest."""

    def __init__(self, folder: Path, key: str, rank: int = 0, shard_bytes: int = SHARD_BYTES):
        self.folder = folder / key[:16]
        self.key = key
        self.rank = rank
        self.shard_bytes = shard_bytes
        self.written = 0  # bytes on disk, sidecars included
        self._documents: list[tuple[Document, Stored]] = []
        self._size = 0
        _sweep(self.folder)

    def add(self, documents: Sequence[tuple[Document, "Stored"]]) -> None:
        """Take documents that were computed together: they go into one shard, so that it can be refilled as it was."""
        self._documents += documents
        self._size += sum(array.nbytes for _, stored in documents for array in stored.values())
        if self._size >= self.shard_bytes or len(self._documents) >= SHARD_DOCUMENTS:
            self.flush()

    def flush(self) -> None:
        """Write what was taken. Raises TrainingError when the disk refuses; finished shards stay."""
        documents, self._documents, self._size = self._documents, [], 0
        if not documents:
            return
        try:
            self.written += _write_shard(self.folder, self.key, self.rank, documents)
        except OSError as error:
            raise TrainingError(
                f"could not write the teacher's cache to {self.folder}: {error.strerror or error}",
                hint="make room and run the command again: the finished shards are kept, the rest is filled",
            ) from error


def _write_shard(folder: Path, key: str, rank: int, documents: Sequence[tuple[Document, "Stored"]]) -> int:
    import numpy as np
    from safetensors.numpy import save

    names = documents[0][1].keys()
    data = save({name: np.concatenate([stored[name] for _, stored in documents]) for name in names})
    sha256 = hashlib.sha256(data).hexdigest()
    target = folder / f"r{rank:03d}-{sha256[:16]}.safetensors"
    entries = [
        [document.key[:NAME], len(document.scored), len(next(iter(stored.values())))] for document, stored in documents
    ]
    sidecar = {"key": key, "sha256": sha256, "check": "", "documents": entries}
    sidecar["check"] = digest(sidecar)
    folder.mkdir(parents=True, exist_ok=True)
    part = folder / f".{target.name}.{os.getpid()}.part"
    try:
        with part.open("wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        os.replace(part, target)
    finally:
        part.unlink(missing_ok=True)
    text = json.dumps(sidecar, separators=(",", ":")) + "\n"
    write_atomic(target.with_suffix(".json"), text)
    return len(data) + len(text)


def _sweep(folder: Path) -> None:
    """Remove what killed processes left: parts, and shards without a sidecar, that are too old to be at work on."""
    for path in [*folder.glob(".*.part"), *folder.glob("*.safetensors")]:
        with contextlib.suppress(FileNotFoundError):
            if path.suffix == ".safetensors" and path.with_suffix(".json").exists():
                continue
            if time.time() - path.stat().st_mtime > ABANDONED:
                path.unlink()

"""Which items of a suite occur in a training corpus: by runs of words that both have.

An item overlaps when any `n` words of it in a row stand in the corpus (13 by default, as for GPT-3: Brown et al. 2020,
appendix C), and the share of its runs that do is kept, so that a stricter rule can be applied (PaLM asks for 70 %:
Chowdhery et al. 2022, section 8). An item without so long a text is looked for as a whole.

What is kept in memory are the runs of the suites, not those of the corpus: the corpus is read once, in blocks, and
may be of any size. Words become numbers, a run of them a 64-bit hash, so that a block is searched in a few array
operations; a hit is compared word by word.
"""

import re
import unicodedata
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

N = 13
WHOLE_QUESTION = 8  # words: the shortest question that is looked for without its answer
WHOLE_ITEM = 5  # words: the shortest question with its answer; less is anybody's phrase
WORDING = (10, 0.1)  # a run in more items than this, and in a larger share, is the task's wording and no item's
BLOCK = 400_000  # words of the corpus that are searched at once
BASE = np.uint64(0x9E3779B97F4A7C15)  # odd, so that no word is lost modulo 2^64

Ids = npt.NDArray[np.int64]
WORD = re.compile(r"\w+")


@dataclass(frozen=True)
class Item:
    """One item of a suite: its key, its texts (question, passage, ...), and the right answer to its question."""

    key: str
    texts: tuple[str, ...]
    answer: str | None = None


@dataclass(frozen=True)
class Overlap:
    """What of one suite occurs in a corpus.

    `found`: key of each overlapping item -> share of its runs that occur. `whole` counts the items looked for as a
    whole, `unchecked` those too short even for that.
    """

    items: int
    found: dict[str, float] = field(default_factory=dict)
    whole: int = 0
    unchecked: int = 0


def words_of(text: str) -> list[str]:
    """The words of a text without case, accents' encoding, punctuation and spacing."""
    return WORD.findall(unicodedata.normalize("NFKC", text).casefold())


def overlaps(suites: Mapping[str, Sequence[Item]], documents: Iterable[str], n: int = N) -> dict[str, Overlap]:
    """For each suite, which of its items occur in the documents of a corpus; the documents are read once."""
    numbers: dict[str, int] = {}  # word -> number from 1; the corpus's other words are 0
    runs: dict[tuple[int, ...], set[tuple[str, str]]] = {}
    asked: dict[tuple[str, str], int] = {}
    result = {name: Overlap(len(items)) for name, items in suites.items()}
    counts = {name: [0, 0] for name in suites}  # whole, unchecked
    for name, items in suites.items():
        mine: dict[tuple[int, ...], set[tuple[str, str]]] = {}
        for item in items:
            found, whole = _runs_of(item, n)
            counts[name][0] += whole
            counts[name][1] += not found
            for run in found:
                key = tuple(numbers.setdefault(word, len(numbers) + 1) for word in run)
                mine.setdefault(key, set()).add((name, item.key))
        for key, owners in mine.items():
            if len(owners) <= WORDING[0] or len(owners) <= WORDING[1] * len(items):
                runs.setdefault(key, set()).update(owners)
                for owner in owners:
                    asked[owner] = asked.get(owner, 0) + 1
    hits: dict[tuple[str, str], int] = {}
    for run in _search(runs.keys(), (words_of(text) for text in documents), numbers):
        for owner in runs[run]:
            hits[owner] = hits.get(owner, 0) + 1
    for (name, key), count in hits.items():
        result[name].found[key] = count / asked[name, key]
    return {name: Overlap(one.items, dict(sorted(one.found.items())), *counts[name]) for name, one in result.items()}


def _runs_of(item: Item, n: int) -> tuple[set[tuple[str, ...]], bool]:
    """The runs of words by which an item is looked for, and whether they are the whole of it."""
    texts = [words_of(text) for text in item.texts]
    runs = {tuple(text[at : at + n]) for text in texts for at in range(len(text) - n + 1)}
    if runs:
        return runs, False
    question = max(texts, key=len, default=[])
    if len(question) >= WHOLE_QUESTION or (item.answer is None and len(question) >= WHOLE_ITEM):
        runs.add(tuple(question))
    if item.answer is not None and len(both := question + words_of(item.answer)) >= WHOLE_ITEM and question:
        runs.add(tuple(both))
    return runs, bool(runs)


def _search(
    runs: Iterable[tuple[int, ...]], documents: Iterable[list[str]], numbers: Mapping[str, int]
) -> Iterator[tuple[int, ...]]:
    """Each of the runs that stands in a document, once."""
    by_length: dict[int, list[tuple[int, ...]]] = {}
    for run in runs:
        by_length.setdefault(len(run), []).append(run)
    tables = []
    for length, some in by_length.items():
        ids = np.array(some, dtype=np.int64)
        hashes = _hash(ids.T)
        order = np.argsort(hashes, kind="stable")
        tables.append((length, ids[order], hashes[order]))
    seen: set[tuple[int, ...]] = set()
    for block in _blocks(documents, numbers):
        unknown = np.concatenate([[0], np.cumsum(block == 0)])
        for length, ids, hashes in tables:
            if len(block) < length:
                continue
            size = len(block) - length + 1
            starts = np.flatnonzero(unknown[length:] == unknown[:size])  # windows of known words only
            windows = _hash([block[starts + at] for at in range(length)])
            place = np.minimum(np.searchsorted(hashes, windows), len(hashes) - 1)
            there = hashes[place] == windows
            for start, row in zip(starts[there].tolist(), place[there].tolist(), strict=True):
                run = tuple(block[start : start + length].tolist())
                if run not in seen and run == tuple(ids[row].tolist()):
                    seen.add(run)
                    yield run


def _hash(columns: Iterable[Ids]) -> npt.NDArray[np.uint64]:
    """A polynomial of each run's words, modulo 2^64: the columns are the first words, the second words, ..."""
    found: npt.NDArray[np.uint64] | None = None
    for column in columns:
        ids = column.astype(np.uint64)
        found = ids if found is None else found * BASE + ids
    assert found is not None
    return found


def _blocks(documents: Iterable[list[str]], numbers: Mapping[str, int]) -> Iterator[Ids]:
    """Documents as numbers of their words, many in one array, apart by a 0, which no run holds."""
    block: list[int] = []
    for words in documents:
        block += [numbers.get(word, 0) for word in words]
        block.append(0)
        if len(block) >= BLOCK:
            yield np.array(block, dtype=np.int64)
            block = []
    if block:
        yield np.array(block, dtype=np.int64)

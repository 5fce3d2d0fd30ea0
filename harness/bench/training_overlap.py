"""How much of an arm's suites stood in its training corpus: `contamination.json` beside its results.

A suite and a corpus are compared once, whichever arm comes first; the others take over what is found there.
"""

import contextlib
import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from harness.bench.contamination import Item, N, overlaps
from harness.config import Train
from harness.corpus import read_corpus
from harness.records import Chat, dump_json, write_atomic
from harness.rundir import digest, sha256_file
from harness.texts import is_text_corpus, read_text_corpus

if TYPE_CHECKING:
    from harness.bench.job import Job

FILE = "contamination.json"
SCHEMA = 1

Texts = Mapping[str, Mapping[str, Mapping[str, str]]]
"""Suite -> part -> id -> text."""


@dataclass(frozen=True)
class Corpus:
    """The texts that an arm was trained on: a name, what identifies them, and the way to read them."""

    name: str
    digest: str
    documents: Callable[[], Iterable[str]]


def training_corpus(train: Train, path: Path) -> Corpus:
    """The training part of a corpus of chats or of texts; a chat is one document, its messages on lines of their own.

    Held-out documents are left out, since nothing learnt from them. Raises ConfigError as the readers do.
    """

    def documents() -> Iterator[str]:
        if is_text_corpus(path):
            for text in read_text_corpus(path, train.text_column, train.group_column, train.texts)[0]:
                yield text.text
            return
        for chat in read_corpus(path, train.texts)[0]:
            yield _chat_text(chat)

    chosen = [train.text_column, train.group_column, train.texts] if is_text_corpus(path) else train.texts
    return Corpus(path.name, digest([sha256_file(path), chosen]), documents)


def texts_of(job: "Job") -> dict[str, dict[str, dict[str, str]]]:
    """The documents of an arm's perplexity suites, as `note_overlaps` takes them."""
    from harness.bench.documents import read_chats, read_documents

    held = {
        "teacher_text": {chat.id: _chat_text(chat) for chat in job.held.chats},
        "held_out_text": {text.id: text.text for text in job.held.texts},
        "human_text": {str(number): text for number, text in enumerate(job.held.human)},
    }
    found: dict[str, dict[str, dict[str, str]]] = {}
    for table in job.suites:
        if table.what == "words":
            found[table.name] = held
        elif table.texts:
            path = job.base / table.texts
            some = {chat.id: _chat_text(chat) for chat in read_chats(path)}
            if not some:
                texts = read_documents(path, table.split, table.text_column, table.group_column)
                some = {text.id: text.text for text in texts}
            found[table.name] = {"text": some}
    return found


def _chat_text(chat: Chat) -> str:
    return "\n".join(message.content for message in chat.messages)


def note_overlaps(folder: Path, corpus: Corpus, texts: Texts | None = None, *, n: int = N) -> Path:
    """Compare the items in an arm's `samples_<suite>.jsonl` with its training corpus; returns contamination.json.

    `texts`: the documents of perplexity suites, whose samples hold no text. Suites that the file, or another arm's in
    the same run, has already compared with this corpus are not compared again.
    """
    found: dict[str, dict[str, Any]] = {}
    todo: dict[str, Sequence[Item]] = {}
    known = _known(folder.parent)
    for path in sorted(folder.glob("samples_*.jsonl")):
        name = path.stem.removeprefix("samples_")
        items = list(items_of(path, (texts or {}).get(name, {})))
        if not items:
            continue
        key = digest([SCHEMA, n, corpus.digest, [asdict(item) for item in items]])
        if key in known:
            found[name] = known[key]
        else:
            todo[name] = items
            found[name] = {"key": key}
    if todo:
        for name, one in overlaps(todo, corpus.documents(), n).items():
            share = len(one.found) / one.items
            found[name] |= {"items": one.items, "overlapping": len(one.found), "share": share, "found": one.found}
            found[name] |= {"whole": one.whole, "unchecked": one.unchecked}
    path = folder / FILE
    facts = {"schema": SCHEMA, "n": n, "corpus": {"name": corpus.name, "digest": corpus.digest}, "suites": found}
    text = dump_json(facts)
    if not path.exists() or path.read_text(encoding="utf-8") != text:
        write_atomic(path, text)
    return path


def _known(bench: Path) -> dict[str, dict[str, Any]]:
    """What the arms of a run have found already, by key."""
    found = {}
    for path in sorted(bench.glob(f"*/{FILE}")):
        with contextlib.suppress(OSError, ValueError, KeyError, AttributeError):
            for suite in json.loads(path.read_text(encoding="utf-8"))["suites"].values():
                found[suite["key"]] = suite
    return found


def items_of(samples: Path, texts: Mapping[str, Mapping[str, str]]) -> Iterator[Item]:
    """The items of a suite from its samples, each once; their keys are those of the report: task or part, and number.

    An item's texts are the strings of its data, not the prompt, whose own wording is everywhere the same.
    """
    seen: set[str] = set()
    with samples.open(encoding="utf-8") as file:
        for line in file:
            try:
                sample = json.loads(line)
            except ValueError:  # torn by a kill
                continue
            if "part" in sample:
                key, text = f"{sample['part']}/{sample['id']}", texts.get(sample["part"], {}).get(str(sample["id"]))
                item = None if text is None else Item(key, (text,))
            else:
                key = f"{sample.get('task', samples.stem.removeprefix('samples_'))}/{sample.get('doc_id')}"
                strings = tuple(_strings(sample.get("doc")))
                item = Item(key, strings, _answer(sample)) if strings else None
            if item is not None and key not in seen:
                seen.add(key)
                yield item


def _strings(value: Any) -> Iterator[str]:
    """Every text inside an item's data; an item that is a text itself is its only one."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict):
        for one in value.values():
            if not isinstance(one, list) or not all(isinstance(choice, str) for choice in one):
                yield from _strings(one)  # a list of texts is a choice of answers, of which most are wrong
    elif isinstance(value, list):
        for one in value:
            yield from _strings(one)


def _answer(sample: Mapping[str, Any]) -> str | None:
    """The right answer to an item: the choice that its target numbers, or the target itself."""
    target, doc = str(sample.get("target", "")), sample.get("doc")
    if not target.isdigit():
        return target or None
    many = len(sample.get("filtered_resps") or ())
    lists = [one for one in _lists(doc) if len(one) == many and int(target) < many]
    return max(lists, key=lambda one: sum(map(len, one)))[int(target)] if lists else None


def _lists(value: Any) -> Iterator[list[str]]:
    if isinstance(value, dict):
        for one in value.values():
            yield from _lists(one)
    elif isinstance(value, list) and value and all(isinstance(one, str) for one in value):
        yield value

"""Texts that the teacher writes before the training: its own answers to the corpus's prompts, plain or explained.

Sequence-level distillation (Kim & Rush 2016) trains on what the teacher itself says; explanation tuning (Orca,
Mukherjee et al. 2023) on what it says when a system message asks for its reasoning. Both are cross-entropy.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from harness.chat import Sampling, seed_for
from harness.corpus import Request, System, answers_in_batches, read_systems
from harness.errors import ConfigError
from harness.models.load import LoadedModel
from harness.progress import Report
from harness.records import Chat, Message, append_jsonl, drop_torn_line, read_jsonl
from harness.rundir import digest
from harness.terms import Explanations, Terms
from harness.train.batches import Document, to_document
from harness.train.cross import pair_document

WRITTEN = ("sequence", "explanations")  # the terms whose texts the teacher writes, in the order of their documents


class TeacherText(Chat):
    """A chat with the teacher's own answer: `kind` is the term that it is for.

    `place` is that of the chat whose prompt it answers, among the training chats. An empty answer is kept in the file,
    so that it is not asked for again.
    """

    place: int


def teacher_texts(
    folder: Path,
    teacher: LoadedModel,
    teacher_digest: str,
    chats: Sequence[Chat],
    terms: Terms,
    *,
    system: str | None,
    seed: int,
    batch: int = 48,
    progress: Report,
) -> list[TeacherText]:
    """The teacher's answers for each active term, in the order of terms, prompts and samples; empty ones are dropped.

    A chat's prompt is what stands before its first answer; a chat that opens with an answer has none. The answers are
    appended to folder/<term>-<key>.jsonl, where a stopped run goes on and a second student with the same settings
    finds them. Raises ConfigError when no chat has a prompt, or the system messages cannot be read.
    """
    texts: list[TeacherText] = []
    for term in WRITTEN:
        table = getattr(terms, term)
        if table is None or not table.weight:
            continue
        prompts = _prompts(chats)
        if isinstance(table, Explanations):
            prompts = _explained(prompts, read_systems(table.systems), seed)
        settings = table.model_dump(mode="json", exclude={"weight", "systems"})
        facts = {"term": term, "teacher": teacher_digest, "settings": settings, "seed": seed, "system": system}
        asked = {str(place): [message.model_dump() for message in prompt] for place, prompt in prompts.items()}
        path = folder / f"{term}-{digest(facts | {'prompts': asked})[:16]}.jsonl"
        sampling = Sampling(table.max_tokens, table.temperature, table.top_p)
        requests = {
            (place, number): Request(f"{place}.{number}", prompt, seed_for(seed, term, place, number))
            for place, prompt in prompts.items()
            for number in range(table.samples)
        }
        texts += _written(path, teacher, term, requests, sampling, system, batch, progress)
    return texts


def _written(
    path: Path,
    teacher: LoadedModel,
    term: str,
    requests: dict[tuple[int, int], Request],
    sampling: Sampling,
    system: str | None,
    batch: int,
    progress: Report,
) -> list[TeacherText]:
    """The texts of one term from its file, in the order of the requests; those it lacks are written first."""
    done: dict[str, TeacherText] = {}
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.exists():
        drop_torn_line(path)
        done = {text.id: text for text in read_jsonl(path, TeacherText)}
    places = {one.name: place for (place, _), one in requests.items()}
    todo = [one for one in requests.values() if one.name not in done]

    def shown(finished: int, total: int, note: str) -> None:
        progress(finished, total, f"{term}: the teacher writes, {note}")

    for part in answers_in_batches(teacher, todo, sampling, system=system, batch=batch, progress=shown):
        fresh = [
            TeacherText(
                id=one.name,
                kind=term,
                messages=(*one.messages, Message(role="assistant", content=answer.text)),
                finish=answer.finish,
                place=places[one.name],
            )
            for one, answer in part
        ]
        append_jsonl(path, fresh)
        done |= {text.id: text for text in fresh}
    texts = [done[one.name] for one in requests.values()]
    return [text for text in texts if text.messages[-1].content]


def _prompts(chats: Sequence[Chat]) -> dict[int, tuple[Message, ...]]:
    """What stands before each chat's first answer, by the chat's place."""
    found = {}
    for place, chat in enumerate(chats):
        roles = [message.role for message in chat.messages]
        before = chat.messages[: roles.index("assistant")] if "assistant" in roles else chat.messages
        if any(message.role == "user" for message in before):
            found[place] = before
    if not found:
        raise ConfigError(
            "no chat of the corpus has a user's message before its first answer, so the teacher has nothing to answer",
            hint="give a corpus of chats, or drop the terms sequence and explanations",
        )
    return found


def _explained(
    prompts: dict[int, tuple[Message, ...]], systems: Sequence[System], seed: int
) -> dict[int, tuple[Message, ...]]:
    """Each prompt under a system message drawn for it, in the place of its own where it has one."""
    drawn = {place: systems[seed_for(seed, "explanations", "system", place) % len(systems)] for place in prompts}
    return {
        place: (
            Message(role="system", content=drawn[place].system),
            *(message for message in prompt if message.role != "system"),
        )
        for place, prompt in prompts.items()
    }


def documents_of(
    tokenizer: Any,
    chats: Sequence[Chat],
    terms: Terms,
    texts: Sequence[TeacherText],
    system: str | None,
    teacher_tokenizer: Any = None,
) -> list[Document]:
    """The documents that the plan is made of: the corpus's own, each followed by what the teacher wrote to its prompt.

    The corpus's own are in when `ce` learns from them, or when neither `sequence` nor `explanations` gives the other
    terms texts of the teacher's. With `uld` each document has its pair in the tokens of `teacher_tokenizer`.
    """
    own = "ce" in terms.weights or not terms.weights.keys() & set(WRITTEN)
    uld = terms.uld if "uld" in terms.weights else None

    def encode(chat: Chat, kind: str) -> Document:
        if uld is None:
            return to_document(tokenizer, chat, system, kind)
        return pair_document(chat, tokenizer, teacher_tokenizer, system, uld.aligned, kind)

    behind: dict[int, list[TeacherText]] = {}
    for text in texts:
        behind.setdefault(text.place, []).append(text)
    documents = []
    for place, chat in enumerate(chats):
        if own:
            documents.append(encode(chat, "corpus"))
        documents += [encode(text, text.kind) for text in behind.get(place, ())]
    return documents

"""What a student learns on: the documents of its corpus, what its teacher wrote for it, and what is held out."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from harness.chat import seed_for
from harness.config import Train
from harness.corpus import read_corpus
from harness.errors import ConfigError
from harness.models.load import LoadedModel
from harness.progress import Report
from harness.texts import is_text_corpus, read_text_corpus
from harness.train.batches import Document, Row
from harness.train.teacher_text import documents_of, teacher_texts
from harness.train.text_documents import text_documents


@dataclass(frozen=True)
class Material:
    """Documents to train on, in the corpus's order, and documents held out."""

    documents: list[Document]
    held_out: list[Document]


def text_material(path: Path, config: Train, tokenizer: Any) -> Material:
    """A corpus of plain texts: every token is learnt."""
    train, held_out = read_text_corpus(path, config.text_column, config.group_column, config.texts)
    few = held_out[: config.evaluate_chats]  # each text gives at least one document
    return Material(
        text_documents(tokenizer, train, config.row_tokens), text_documents(tokenizer, few, config.row_tokens)
    )


def material(
    path: Path,
    config: Train,
    student: Any,
    teacher: LoadedModel,
    teacher_digest: str,
    *,
    texts: Path,
    system: str | None,
    seed: int,
    progress: Report,
) -> Material:
    """The material of a student with the tokenizer `student`; its teacher writes into `texts` what the terms ask for.

    Raises ConfigError for a corpus without anything to learn, or a term that has no meaning for its kind.
    """
    if is_text_corpus(path):
        _no_chats_needed(config, path)
        return text_material(path, config, student)
    for name in ("text_column", "group_column"):
        if getattr(config, name) is not None:
            raise ConfigError(f"{name} does nothing with the chats of {path}", hint="it is for plain texts; drop it")
    chats, held_out = read_corpus(path, config.texts)
    terms = config.terms
    written = teacher_texts(
        texts, teacher, teacher_digest, chats, terms, system=system, seed=seed_for(seed, "teacher text"),
        progress=progress,
    )  # fmt: skip
    without = terms.model_copy(update={"sequence": None, "explanations": None})
    return Material(
        documents_of(student, chats, terms, written, system, teacher.tokenizer),
        documents_of(student, held_out, without, [], system, teacher.tokenizer),
    )


def _no_chats_needed(config: Train, path: Path) -> None:
    odd = [name for name in ("sequence", "explanations", "on_policy", "uld") if name in config.terms.weights]
    if odd:
        raise ConfigError(
            f"{path} is a corpus of plain texts, and the term {odd[0]} needs prompts to answer",
            hint="give a corpus of chats, or drop the term",
        )


def documents_in(steps: Sequence[Sequence[Row]]) -> list[Document]:
    """The different documents of a plan, in the order in which they first come."""
    return list({document.key: document for step in steps for row in step for document in row.documents}.values())

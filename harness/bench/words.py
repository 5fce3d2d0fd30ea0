"""The suite `words` and suites of the user's own texts: their settings, samples and results."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from harness.bench import documents, perplexity
from harness.bench.job import Held
from harness.benchmarks import WORDS, SuiteTable
from harness.errors import ConfigError
from harness.models.load import LoadedModel
from harness.records import Chat, Score
from harness.rundir import sha256_file
from harness.texts import Text

Done = Callable[[int, int], None]
Outcome = tuple[dict[str, Any], list[dict[str, Any]]]
"""(results in lm-eval's form, samples), both ready for JSON."""


def run_words(held: Held, student: LoadedModel, teacher: LoadedModel | None, on_done: Done) -> Outcome:
    """Perplexity of the teacher's chats, of the corpus's texts and of human documents, and distance to the teacher.

    Raises ConfigError when there is nothing to score.
    """
    total, before = held.size, 0

    def part(size: int) -> Done:
        nonlocal before
        offset, before = before, before + size
        return lambda done, all_: on_done(offset + size * done // max(1, all_), total)

    samples = perplexity.teacher_text(student, teacher, held.chats, held.system, part(len(held.chats)))
    samples += documents.score_documents(
        "held_out_text", student, held.texts, teacher=teacher, on_done=part(len(held.texts))
    )
    human = perplexity.human_text(student, held.human, on_done=part(len(held.human)))
    samples += [one | {"doc_hash": documents.text_hash(text)} for one, text in zip(human, held.human, strict=True)]
    scores: list[Score] = []
    if any(one["part"] == "teacher_text" and one["tokens"] for one in samples):
        scores += perplexity.summarise([one for one in samples if one["part"] == "teacher_text"])
    for name in ("held_out_text", "human_text"):
        scores += documents.text_scores(WORDS, name, samples)
    if not scores:
        raise ConfigError("the suite words has no text to score", hint="give held-out chats or human documents")
    context, stride = documents.window_and_stride(student, None, None)
    windows = {"context": context, "stride": stride}
    settings = {
        "teacher_text": _counted("teacher_text", samples) | {"scored": "assistant", "system": held.system},
        "held_out_text": _counted("held_out_text", samples) | windows,
        "human_text": _counted("human_text", samples) | windows,
    }
    settings = {name: found for name, found in settings.items() if found["documents"]}
    results = documents.text_results(WORDS, scores, settings, len(samples))
    results["viva"]["truncated"] = sum(one.get("truncated", 0) > 0 for one in samples)
    return results, samples


def _counted(part: str, samples: Sequence[dict[str, Any]]) -> dict[str, Any]:
    mine = [one for one in samples if one["part"] == part]
    return {"documents": len(mine), "tokens": sum(one["tokens"] for one in mine)}


def run_texts(
    table: SuiteTable, texts: Sequence[Text], student: LoadedModel, teacher: LoadedModel | None, on_done: Done
) -> Outcome:
    """Perplexity of the user's own texts, and with a teacher of the same vocabulary the distance to it."""
    samples = documents.score_documents(
        "text", student, texts, teacher=teacher, context=table.context, stride=table.stride, on_done=on_done
    )
    return texts_outcome(table, samples, *documents.window_and_stride(student, table.context, table.stride))


def run_chats(
    table: SuiteTable, chats: Sequence[Chat], student: LoadedModel, teacher: LoadedModel | None, on_done: Done
) -> Outcome:
    """The same of chats: what the assistant says in them counts, each under its own system message if it has one."""
    found = perplexity.teacher_text(student, teacher, chats, None, on_done)
    samples = [
        one | {"part": "text", "doc_hash": documents.text_hash(said), **documents.text_sizes(said)}
        for one, said in zip(found, map(_said, chats), strict=True)
    ]
    path = Path(str(table.texts))
    settings = {"text": path.name, "sha256": sha256_file(path), "scored": "assistant"} | _counted("text", samples)
    results = documents.text_results(
        table.name, documents.text_scores(table.name, "text", samples), settings, len(samples)
    )
    results["viva"]["truncated"] = sum(one["truncated"] > 0 for one in samples)
    return results, samples


def _said(chat: Chat) -> str:
    return "\n".join(message.content for message in chat.messages if message.role == "assistant")


def texts_outcome(table: SuiteTable, samples: list[dict[str, Any]], context: int, stride: int) -> Outcome:
    """Results of samples of the part `text`; the settings say which perplexity it is."""
    path = Path(str(table.texts))
    settings = {"text": path.name, "sha256": sha256_file(path), "split": table.split}
    settings |= _counted("text", samples) | {"context": context, "stride": stride}
    scores = documents.text_scores(table.name, "text", samples)
    results = documents.text_results(table.name, scores, settings, len(samples))
    results["viva"]["truncated"] = 0
    return results, samples


def run_texts_by(table: SuiteTable, texts: Sequence[Text], lm: Any) -> Outcome:
    """The same by a model of lm-eval's interface, whose windows are lm-eval's: its full length, one after another."""
    from lm_eval.api.instance import Instance

    asked = [Instance("loglikelihood_rolling", {"id": one.id}, (one.text,), 0, ("texts", 0, 1)) for one in texts]
    found = lm.loglikelihood_rolling(asked)
    samples = [
        {"part": "text", "id": one.id, "doc_hash": documents.text_hash(one.text), **documents.text_sizes(one.text)}
        | {"tokens": len(lm.tok_encode(one.text)), "loglikelihood": float(value)}
        for one, value in zip(texts, found, strict=True)
    ]
    window = int(lm.max_length)
    return texts_outcome(table, samples, window, window)

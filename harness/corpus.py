"""`viva corpus`: prompts that people wrote, answered by the teacher itself, as a training corpus."""

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from pydantic import Field

from harness.chat import Sampling, Written, seed_for, write_answers
from harness.errors import ConfigError
from harness.models.load import LoadedModel, load_model
from harness.progress import Report, bar
from harness.records import Chat, Message, Prompt, Record, append_jsonl, drop_torn_line, read_jsonl
from harness.resources import resolve_file
from harness.tune import keep_big_blocks

if TYPE_CHECKING:
    import argparse

    from harness.stages import Run

HELD_OUT_SHARE = 10  # one prompt in ten


def is_held_out(prompt: str) -> bool:
    """Whether chats that open with this prompt are kept out of training: decided by the prompt's hash alone."""
    return int.from_bytes(hashlib.sha256(prompt.encode()).digest()[:4], "big") % HELD_OUT_SHARE == 0


def opening(chat: Chat) -> str:
    """What a chat begins with, a system message aside: the same prompt is never on both sides of a corpus."""
    return next((one.content for one in chat.messages if one.role != "system"), chat.messages[0].content)


def read_corpus(path: Path, limit: int | None = None) -> tuple[list[Chat], list[Chat]]:
    """The chats of a corpus for training and those held out; with `limit` so many of the first, by their prompt's hash.

    Raises ConfigError when either is empty.
    """
    chats = read_jsonl(path, Chat)
    for chat in chats:
        if not any(message.role == "assistant" for message in chat.messages):
            raise ConfigError(f"{path}: chat {chat.id!r} has no assistant message", hint="there is nothing to learn")
    train = [chat for chat in chats if not is_held_out(opening(chat))]
    held_out = [chat for chat in chats if is_held_out(opening(chat))]
    if not train or not held_out:
        raise ConfigError(
            f"{path} has {len(train)} chats to train on and {len(held_out)} held out (one prompt in ten, by hash)",
            hint="add chats until both have some",
        )
    if limit is not None:
        ranks = {chat.id: hashlib.sha256(f"{opening(chat)}\0{chat.id}".encode()).digest() for chat in train}
        taken = set(sorted(ranks, key=lambda name: ranks[name])[:limit])
        train = [chat for chat in train if chat.id in taken]
    return train, held_out


class System(Record):
    """A system message that asks for an explanation."""

    id: str
    system: str = Field(min_length=1)


@dataclass(frozen=True)
class Request:
    """An answer to be written: its name, the messages that it follows, and the seed it is drawn with."""

    name: str
    messages: tuple[Message, ...]
    seed: int


def answers_in_batches(
    teacher: LoadedModel,
    requests: Sequence[Request],
    sampling: Sampling,
    *,
    system: str | None,
    batch: int,
    progress: Report,
) -> Iterator[list[tuple[Request, Written]]]:
    """Let the teacher answer all requests, `batch` at a time; each batch is handed over as soon as it is written.

    What is answered depends on a request's own seed and not on the order.
    """
    # Neighbours of similar length waste little padding.
    todo = sorted(requests, key=lambda one: (sum(len(message.content) for message in one.messages), one.name))
    for first in range(0, len(todo), batch):
        part = todo[first : first + batch]

        def shown(step: int, written: int, first: int = first) -> None:
            progress(first, len(todo), f"position {step}, {written} tokens in this batch")

        answers = write_answers(
            teacher, [one.messages for one in part], [one.seed for one in part], sampling, system, on_token=shown
        )
        yield list(zip(part, answers, strict=True))
        done = min(first + batch, len(todo))
        progress(done, len(todo), f"{done} answers")


def make_corpus(
    teacher: LoadedModel,
    prompts: Sequence[Prompt],
    out: Path,
    *,
    samples: int,
    sampling: Sampling,
    seed: int,
    system: str | None,
    systems: Sequence[System] = (),
    batch: int,
    progress: Report,
) -> int:
    """Let the teacher answer every prompt `samples` times, appending to `out`; returns the number of new chats.

    With `systems` each chat has a system message of its own, drawn from them. Chats already in `out` are kept, so a
    stopped run goes on where it was. Answers that met the token limit are kept and marked `finish = "length"`; empty
    answers are dropped.
    """
    done: set[str] = set()
    if out.exists():
        drop_torn_line(out)
        done = {chat.id for chat in read_jsonl(out, Chat)}
    asked = {f"{prompt.id}.{number}": prompt for number in range(samples) for prompt in prompts}
    requests = [
        Request(name, (*_drawn(systems, seed, name), Message(role="user", content=prompt.prompt)),
                seed_for(seed, "corpus", name))
        for name, prompt in asked.items()
        if name not in done
    ]  # fmt: skip
    made = 0
    for part in answers_in_batches(teacher, requests, sampling, system=system, batch=batch, progress=progress):
        chats = [
            Chat(
                id=one.name,
                kind=asked[one.name].kind,
                messages=(*one.messages, Message(role="assistant", content=answer.text)),
                finish=answer.finish,
            )
            for one, answer in part
            if answer.text
        ]
        append_jsonl(out, chats)
        made += len(chats)
    return made


def _drawn(systems: Sequence[System], seed: int, name: str) -> tuple[Message, ...]:
    """The system message drawn for a chat, if any."""
    if not systems:
        return ()
    return (Message(role="system", content=systems[seed_for(seed, "system", name) % len(systems)].system),)


def read_systems(reference: str) -> list[System]:
    """System messages from a JSONL. Raises ConfigError for a file without any."""
    systems = read_jsonl(resolve_file(reference, Path.cwd()), System)
    if not systems:
        raise ConfigError(f"{reference} holds no system message", hint='write lines of {"id": ..., "system": ...}')
    return systems


def corpus_stage(run: "Run", args: "argparse.Namespace") -> None:
    """`viva corpus`: answer the prompts with the study's teacher, showing progress; a stopped run continues."""
    if args.samples < 1 or args.batch < 1 or args.max_tokens < 1:
        raise ConfigError("--samples, --batch and --max-tokens must be at least 1")
    prompts = read_jsonl(resolve_file(args.prompts, Path.cwd()), Prompt)
    if args.held_out:
        prompts = [prompt for prompt in prompts if is_held_out(prompt.prompt)]
    systems = read_systems(args.systems) if args.systems else []
    keep_big_blocks()
    teacher = load_model(run.teacher_dir, only_read=True)
    args.out.parent.mkdir(parents=True, exist_ok=True)
    with bar("corpus") as progress:
        made = make_corpus(
            teacher,
            prompts,
            args.out,
            samples=args.samples,
            sampling=Sampling(args.max_tokens, args.temperature, args.top_p),
            seed=run.study.seed,
            system=run.study.system,
            systems=systems,
            batch=args.batch,
            progress=progress,
        )
    print(f"{args.out}: {made} new chats")

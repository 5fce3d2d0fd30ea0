"""Chats that were written elsewhere, as the answers of a study: `viva answer STUDY --import FILE`.

One line is one chat: {"arm": ..., "scenario": ..., "messages": [...]}, the messages in the OpenAI form. What else
stands in a line is left alone.
"""

import difflib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from harness.errors import ConfigError, RatingError, RunError
from harness.progress import say
from harness.records import Answer, Message, write_jsonl
from harness.rundir import Stage, digest, now, read_manifest, sha256_file

if TYPE_CHECKING:
    from harness.stages import Run

NAMED = 5
"""How many bad lines or missing chats an error names."""

SHAPE = '{"arm": "...", "scenario": "...", "messages": [{"role": "user", "content": "..."}, ...]}'


def answer(run: "Run") -> None:
    """Let every arm answer every scenario, unless the run's answers were imported: those are kept.

    Raises RunError where the study has changed since the import.
    """
    from harness.stages import answer_stage

    manifest = read_manifest(run.dir.answers / "manifest.json") or {}
    config = manifest.get("config") or {}
    if manifest.get("status") != "finished" or "imported" not in config:
        answer_stage(run)
        return
    if (config.get("arms"), manifest["inputs"]["scenarios"]) != (list(run.study.arms), _scenarios(run)):
        raise RunError(
            f"the study's arms or scenarios have changed since {config['imported']} was imported",
            hint=f"import again, or remove {run.dir.answers} to let the arms answer",
        )
    say(f"answer: imported from {config['imported']}, {manifest['finished']}")


def import_answers(run: "Run", path: Path) -> list[str]:
    """Make the chats of a file the run's answers; returns notes on what a rater might notice.

    Raises ConfigError for a file that does not hold each arm's chat for each scenario exactly once, RatingError where
    ratings of other answers exist.
    """
    started = now()
    scenarios = [scenario.id for scenario in run.prepared]
    if not scenarios:
        raise ConfigError("every scenario of the study is live, so there is no chat to import", hint="see docs/live.md")
    answers = read_chats(path, run.study.arms, scenarios)
    config = {"imported": path.name, "arms": list(run.study.arms)}
    stage = Stage("answer", run.dir.answers, config, {"scenarios": _scenarios(run), "chats": sha256_file(path)})
    if stage.finished() is None:
        _keep_rated(run)
        stage.folder.mkdir(parents=True, exist_ok=True)
        written = stage.folder / "answers.jsonl"
        write_jsonl(written, answers)
        stage.finish([written], started)
    return _notes(answers)


def _scenarios(run: "Run") -> str:
    return digest([scenario.model_dump() for scenario in run.scenarios])


def read_chats(path: Path, arms: Sequence[str], scenarios: Sequence[str]) -> list[Answer]:
    """The chats of a file, in the order of arms and scenarios.

    Raises ConfigError that names the lines which cannot be used, or the chats that are missing.
    """
    try:
        lines = path.read_text(encoding="utf-8").split("\n")  # splitlines would also part at U+2028 inside a string
    except OSError as error:
        raise ConfigError(
            f"cannot read {path}: {error.strerror}", hint=f"give a JSONL file with lines such as {SHAPE}"
        ) from None
    except UnicodeDecodeError as error:
        raise ConfigError(f"{path} is not UTF-8 text: {error}", hint="save it as UTF-8 JSONL") from None
    found: dict[tuple[str, str], tuple[int, Answer]] = {}
    bad = []
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        try:
            answer = _chat(line, arms, scenarios)
            first, _ = found.setdefault((answer.arm, answer.scenario), (number, answer))
            if first != number:
                raise ValueError(f"{answer.arm} has answered {answer.scenario} in line {first} already")
        except ValueError as error:
            bad.append(f"line {number}: {error}")
    if bad:
        raise ConfigError(f"{path}: {_some(bad)}", hint=f"a line is {SHAPE}")
    wanted = [(arm, scenario) for arm in arms for scenario in scenarios]
    missing = [f"{arm} on {scenario}" for arm, scenario in wanted if (arm, scenario) not in found]
    if missing:
        raise ConfigError(
            f"{path} lacks {len(missing)} of {len(wanted)} chats: {_some(missing)}",
            hint="every arm needs one chat for every scenario of the study",
        )
    return [found[cell][1] for cell in wanted]


def _chat(line: str, arms: Sequence[str], scenarios: Sequence[str]) -> Answer:
    """One line as an answer. Raises ValueError saying what is wrong with it."""
    try:
        value = json.loads(line)
    except ValueError as error:
        raise ValueError(f"not JSON ({error})") from None
    if not isinstance(value, dict):
        raise ValueError("not a JSON object")
    for key, known in (("arm", arms), ("scenario", scenarios)):
        if key not in value:
            raise ValueError(f"no {key!r}")
        if value[key] not in known:
            near = difflib.get_close_matches(str(value[key]), known, n=1)
            hint = f"; did you mean {near[0]!r}?" if near else f"; the study's are {_some(list(known))}"
            raise ValueError(f"unknown {key} {value[key]!r}{hint}")
    finish = value.get("finish") or value.get("finish_reason") or "stop"
    if finish not in ("stop", "length"):
        raise ValueError(f"finish is {finish!r}, not 'stop' or 'length'")
    messages = _messages(value.get("messages"))
    # how many tokens the arm wrote and from which seed is not known
    return Answer(arm=value["arm"], scenario=value["scenario"], messages=messages, tokens=0, finish=finish, seed=0)


def _messages(value: Any) -> tuple[Message, ...]:
    """User and assistant in turns, the assistant last. System messages are left out: raters are not to see them."""
    if not isinstance(value, list) or not value:
        raise ValueError("no list of messages")
    messages: list[Message] = []
    for at, message in enumerate(value, 1):
        if not isinstance(message, dict):
            raise ValueError(f"message {at} is not an object")
        role = message.get("role")
        if role in ("system", "developer"):
            continue
        if role not in ("user", "assistant"):
            raise ValueError(f"message {at} has the role {role!r}; a chat to rate has user and assistant only")
        if message.get("tool_calls") or message.get("function_call"):
            raise ValueError(f"message {at} calls a tool, which a rater could not read")
        if role != ("user", "assistant")[len(messages) % 2]:
            raise ValueError(f"message {at} is the {role}'s; user and assistant take turns, the user first")
        messages.append(Message(role=role, content=_text(message.get("content"), at)))
    if len(messages) < 2 or messages[-1].role != "assistant":
        raise ValueError("the chat does not end with an answer of the assistant")
    return tuple(messages)


def _text(content: Any, at: int) -> str:
    if content is None:  # an empty answer, as servers write it
        return ""
    if isinstance(content, str):
        return content
    if isinstance(content, list):
        parts = [
            part.get("text") if isinstance(part, dict) and part.get("type") == "text" else None for part in content
        ]
        if all(isinstance(part, str) for part in parts):
            return "".join(parts)  # type: ignore[arg-type]
    raise ValueError(f"the content of message {at} is not text")


def _keep_rated(run: "Run") -> None:
    if not run.dir.db.exists():
        return
    from studyapp import store

    ratings = store.counts(run.dir.db).ratings
    if ratings:
        raise RatingError(
            f"{run.dir.db} holds {ratings} rating{'s' if ratings > 1 else ''} of other answers",
            hint="keep them, and import into another run directory with --run",
        )


def _notes(answers: Sequence[Answer]) -> list[str]:
    openings: dict[str, set[str]] = {}
    for answer in answers:
        openings.setdefault(answer.scenario, set()).add(answer.messages[0].content.strip())
    differing = [scenario for scenario, texts in openings.items() if len(texts) > 1]
    empty = sum(not message.content.strip() for answer in answers for message in answer.messages[1::2])
    notes = []
    if differing:
        notes.append(f"arms were asked differently in {len(differing)} scenarios: {_some(differing)}")
    if empty:
        notes.append(f"{empty} answer{'s are' if empty > 1 else ' is'} empty")
    return notes


def _some(values: Sequence[str]) -> str:
    rest = len(values) - NAMED
    return "; ".join(values[:NAMED]) + (f"; and {rest} more" if rest > 0 else "")

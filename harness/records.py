"""The records that pass between stages, and their JSONL files."""

import json
import os
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, Literal, TypeVar

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    SerializerFunctionWrapHandler,
    ValidationError,
    model_serializer,
    model_validator,
)

from harness.errors import ConfigError


class Record(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


R = TypeVar("R", bound=Record)


class Message(Record):
    """One message of a chat, in the OpenAI form."""

    role: Literal["system", "user", "assistant"]
    content: str


class Prompt(Record):
    """A request that the teacher answers when a corpus is made."""

    id: str
    kind: str
    prompt: str = Field(min_length=1)


class Chat(Record):
    """One training document of a corpus: a prompt and the teacher's own answer to it."""

    id: str
    kind: str
    messages: tuple[Message, ...]
    finish: Literal["stop", "length"] = "stop"


Mode = Literal["live", "fixed", "side-by-side"]


class Scenario(Record):
    """One study item: what a rater wants from a chat, how the chat opens, and when the goal counts as reached.

    `mode` is how raters meet it where that is not the study's own way.
    """

    id: str = Field(min_length=1)
    category: str
    goal: str
    opening: str = Field(min_length=1)
    turns: int = Field(ge=1)
    reached: str
    mode: Mode | None = None

    @model_serializer(mode="wrap")
    def _without_unsaid(self, handler: SerializerFunctionWrapHandler) -> dict[str, Any]:
        # an unsaid mode leaves digests as they were before scenarios had one: what is finished stays so
        return {key: value for key, value in handler(self).items() if key != "mode" or value is not None}


class KnownAnswer(Record):
    """An item with a known answer, of no arm: raters train on it, or it checks that they read.

    The ranges say which marks are right, both ends included; `feedback` is what a rater in training reads afterwards.
    """

    id: str = Field(min_length=1)
    goal: str
    opening: str = Field(min_length=1)
    reached: str
    messages: tuple[Message, ...] = Field(min_length=1)
    satisfaction: tuple[int, int]
    goal_achievement: tuple[int, int]
    feedback: str = ""

    @model_validator(mode="after")
    def _ranges_of_marks(self) -> "KnownAnswer":
        for name in ("satisfaction", "goal_achievement"):
            low, high = getattr(self, name)
            if not 1 <= low <= high <= 5:
                raise ValueError(f"{name} = [{low}, {high}] is no range of marks from 1 to 5")
        return self


class Answer(Record):
    """One arm's output for one scenario: in fixed mode a whole chat.

    `tokens` counts the tokens the arm wrote, `finish` says whether it ended by itself or met the limit.
    """

    arm: str
    scenario: str
    messages: tuple[Message, ...]
    tokens: int
    finish: Literal["stop", "length"]
    seed: int


class Score(Record):
    """One number from a suite, with what is needed to read it: unit, direction, chance level, n and standard error."""

    suite: str
    metric: str
    value: float
    stderr: float | None = None
    n: int
    unit: str
    higher_is_better: bool
    chance: float | None = None


def read_jsonl(path: Path, kind: type[R]) -> list[R]:
    """Read every line of a JSONL file as a record; a bad line is named by its number.

    Raises ConfigError for a missing file, a line that is not JSON, or one that does not fit the record.
    """
    return list(iter_jsonl(path, kind))


def iter_jsonl(path: Path, kind: type[R]) -> Iterator[R]:
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except FileNotFoundError:
        raise ConfigError(f"no such file: {path}", hint=f"give a JSONL file of {kind.__name__.lower()}s") from None
    except UnicodeDecodeError as error:
        raise ConfigError(f"{path} is not UTF-8 text: {error}", hint="save it as UTF-8 JSONL") from None
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        try:
            yield kind.model_validate_json(line)
        except ValidationError as error:
            first = error.errors()[0]
            where = ".".join(str(part) for part in first["loc"]) or "the line"
            raise ConfigError(
                f"{path}, line {number}: {where}: {first['msg']}",
                hint=f"a {kind.__name__.lower()} has the fields {', '.join(kind.model_fields)}",
            ) from None


def write_jsonl(path: Path, records: Iterable[Record]) -> None:
    """Write records as JSONL, whole or not at all."""
    text = "".join(record.model_dump_json() + "\n" for record in records)
    write_atomic(path, text)


def append_jsonl(path: Path, records: Iterable[Record]) -> None:
    """Append records and make sure they are on disk before returning."""
    with path.open("a", encoding="utf-8") as file:
        file.write("".join(record.model_dump_json() + "\n" for record in records))
        file.flush()
        os.fsync(file.fileno())


def drop_torn_line(path: Path) -> None:
    """Make a JSONL file fit to be appended to: a last line torn by a kill is cut off, a whole one gets its line end."""
    text = path.read_bytes()
    end = text.rfind(b"\n") + 1
    if end == len(text):
        return
    try:
        json.loads(text[end:])
    except ValueError:
        path.write_bytes(text[:end])
    else:
        path.write_bytes(text + b"\n")


def write_atomic(path: Path, text: str) -> None:
    """Write a text file through a neighbour and `os.replace`, so that no reader ever sees half of it."""
    part = path.with_name(f".{path.name}.part")
    try:
        with part.open("w", encoding="utf-8") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        os.replace(part, path)
    finally:
        part.unlink(missing_ok=True)


def dump_json(value: Any) -> str:
    """JSON as every file of a run directory has it: indented, sorted, no NaN or Infinity."""
    return json.dumps(value, indent=2, sort_keys=True, allow_nan=False, ensure_ascii=False) + "\n"

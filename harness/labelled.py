"""Texts with labels: the rows of a table that a task takes, parted into those to train on and those held out."""

import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from harness.corpus import is_held_out
from harness.errors import ConfigError
from harness.task_table import Task
from harness.texts import read_rows


@dataclass(frozen=True)
class Item:
    """One text of a task, a second one where the task has pairs, and the number of its class."""

    id: str
    text: str
    label: int
    pair: str | None = None


@dataclass(frozen=True)
class Items:
    """A task's items to train on and held out, and the names of its classes in the order of their numbers."""

    train: list[Item]
    held_out: list[Item]
    classes: tuple[str, ...]


def read_items(path: Path, task: Task) -> Items:
    """The items of a task; each text once.

    Held out are one in ten by the text's hash, as in a corpus of texts: a text that a model read in training is never
    among those that it is scored by. `task.items` and `task.held_out` take those of the smallest hashes, in that order.
    Raises ConfigError for a column or a label that is not there, and for too little of either part.
    """
    rows = read_rows(path)
    named = {label: name for name, labels in task.labels.items() for label in labels}
    wanted = [task.text_column, task.label_column, *task.only, *([task.pair_column] if task.pair_column else [])]
    found: dict[str, tuple[str, str | None, str]] = {}
    for number, row in enumerate(rows, 1):
        if missing := next((column for column in wanted if column not in row), None):
            raise ConfigError(
                f"{path}, row {number}: no column {missing!r}; those there are {', '.join(map(str, row))}",
                hint=f"see [[task]] {task.name}",
            )
        if any(str(row[column]) != value for column, value in task.only.items()):
            continue
        label = str(row[task.label_column])
        text, pair = _text(row[task.text_column]), _text(row[task.pair_column]) if task.pair_column else None
        if text and (named.get(label) if named else label):
            found.setdefault(f"{text}\0{pair or ''}", (text, pair, named.get(label, label)))
    absent = set(named) - {str(row[task.label_column]) for row in rows}
    if absent:
        raise ConfigError(
            f"{path}: no row has the label {min(absent)!r} in {task.label_column!r}", hint=f"see [[task]] {task.name}"
        )
    classes = tuple(task.labels) or tuple(sorted({label for _, _, label in found.values()}))
    if len(classes) < 2:
        raise ConfigError(f"{path} gives {task.name} {len(classes)} class of labels", hint="it takes two")
    hashed = sorted((hashlib.sha256(key.encode()).hexdigest(), one) for key, one in found.items())
    train, held_out = ([(name, one) for name, one in hashed if is_held_out(one[0]) is side] for side in (False, True))
    if not train or len(held_out) < 2:
        raise ConfigError(
            f"{path} gives {task.name} {len(train)} texts to train on and {len(held_out)} held out (one in ten, by "
            "hash)",
            hint="take a larger table",
        )
    place = {name: number for number, name in enumerate(classes)}

    def items(some: list[Any]) -> list[Item]:
        return [Item(name[:16], text, place[label], pair) for name, (text, pair, label) in some]

    return Items(items(train[: task.items]), items(held_out[: task.held_out]), classes)


def _text(value: Any) -> str | None:
    return value.strip() if isinstance(value, str) else None

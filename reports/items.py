"""The samples of a benchmark suite -> tidy frames, one row an item, whose columns give the suite's scores again.

A score becomes a column only if the column's items reproduce the reported value: whatever is no mean over items (a
correlation, a calibration error) keeps its own standard error and is not compared item by item.
"""

import json
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from reports.stats.cells import Floats, Ints
from reports.stats.paired import Column

SAME = 1e-6  # relative difference up to which items reproduce a reported score
DOCUMENT_FIELDS = ("passage_id", "article_id", "document_id", "doc_key", "story_id", "source_id", "passage", "article")
"""Fields of an item that name or hold the document it is about; used where several items share a value."""
PER = {"perplexity": ("tokens", "exp"), "word_perplexity": ("words", "exp"), "byte_perplexity": ("bytes", "exp")}
PER["bits_per_byte"] = ("bytes", "bits")
SUMS = {"kl": "tokens", "top1": "tokens"}


@dataclass(frozen=True)
class Frame:
    """Items of one arm that belong together: their keys, what identifies their content, their groups, their scores.

    `keys`, `hashes`, `groups`: one for each item; `grouped_by` names the field that groups them (None: each is its
    own). `columns`: metric -> its items. `choices`: the answer chosen for each item, where one is chosen; `confidence`
    its probability [n] and `right` whether it is right [n], where both are known. `tasks`: how many tasks it spans, 0
    for a text.
    """

    suite: str
    keys: tuple[str, ...]
    hashes: tuple[str, ...]
    columns: Mapping[str, Column]
    groups: tuple[str, ...] | None = None
    grouped_by: str | None = None
    choices: tuple[int, ...] | None = None
    tasks: int = 1
    confidence: Floats | None = None
    right: Floats | None = None

    def clusters(self, index: Ints | None = None) -> Ints | None:
        """The number of each item's group [n], of all items or of those at `index`; None where each is its own."""
        if self.groups is None:
            return None
        names = np.array(self.groups)[slice(None) if index is None else index]
        return np.unique(names, return_inverse=True)[1].astype(np.int64)


def read_frames(results: Mapping[str, Any], samples: Path, suite: str) -> list[Frame]:
    """The frames of one suite's results and the samples beside them; none where there are no samples.

    A line cut short by a kill is left out.
    """
    if not samples.exists():
        return []
    lines = list(_lines(samples))
    scores = (results.get("viva") or {}).get("scores") or []
    reported = {(str(score["suite"]), str(score["metric"])): float(score["value"]) for score in scores}
    if any("part" in line for line in lines):
        return _text_frames(lines, reported, suite)
    return _task_frames(lines, reported, results, suite)


def _lines(path: Path) -> Iterator[dict[str, Any]]:
    with path.open(encoding="utf-8") as file:
        for text in file:
            try:
                line = json.loads(text)
            except ValueError:
                continue
            if isinstance(line, dict):
                yield line


def _text_frames(lines: Sequence[Mapping[str, Any]], reported: Mapping[Any, float], suite: str) -> list[Frame]:
    """One frame for each text of `words`: documents with summed log-likelihoods and what they are divided by."""
    frames = []
    for part in dict.fromkeys(str(line["part"]) for line in lines if "part" in line):
        mine = [line for line in lines if line.get("part") == part and line.get("tokens")]
        wanted = {f"{part}_{name}": ("loglikelihood", weight, how) for name, (weight, how) in PER.items()}
        wanted |= {f"{part}_{name}": (name, weight, "mean") for name, weight in SUMS.items()}
        columns = {}
        for metric, (value, weight, how) in wanted.items():
            numbers = [[line.get(value), line.get(weight)] for line in mine]
            if (suite, metric) in reported and all(_is_number(one) for pair in numbers for one in pair):
                value_n, weight_n = np.array(numbers, dtype=np.float64).T
                column = Column(-value_n if value == "loglikelihood" else value_n, weight_n, how)
                if _same(column.score, reported[suite, metric]):
                    columns[metric] = column
        keys, hashes = [f"{part}/{line['id']}" for line in mine], [_text_hash(line) for line in mine]
        frames.append(Frame(suite, tuple(keys), tuple(hashes), columns, tasks=0))
    return frames


def _text_hash(line: Mapping[str, Any]) -> str:
    """What tells texts of one name apart: a hash where there is one, else their length, which no tokenizer changes."""
    return str(line.get("doc_hash") or [line.get("bytes"), line.get("words")])


@dataclass
class _Task:
    """Lines of one task by filter, and the task's items in their order."""

    lines: dict[str, dict[str, Mapping[str, Any]]] = field(default_factory=dict)
    keys: list[str] = field(default_factory=list)


def _task_frames(
    lines: Iterable[Mapping[str, Any]], reported: Mapping[Any, float], results: Mapping[str, Any], suite: str
) -> list[Frame]:
    """A frame for each task of an lm-eval suite, and one for each group of tasks that has scores of its own."""
    tasks: dict[str, _Task] = {}
    for line in lines:
        task = tasks.setdefault(str(line.get("task", suite)), _Task())
        by_key = task.lines.setdefault(str(line.get("filter", "none")), {})
        key = f"{line.get('task', suite)}/{line.get('doc_id')}"
        while key in by_key:  # an item that was asked twice
            key += "+"
        by_key[key] = line
    frames: dict[str, Frame] = {}
    names = {name for name, _ in reported}
    for name, task in tasks.items():
        shown = f"{suite}/{name}" if f"{suite}/{name}" in names else suite
        frames[name] = _task_frame(task, reported, results, name, shown)
    found = [frame for frame in frames.values() if frame.columns]
    for name in results.get("group_subtasks") or {}:
        shown = suite if name == suite else f"{suite}/{name}"
        parts = [frames[task] for task in _leaves(name, results["group_subtasks"]) if task in frames]
        if shown in names and len(parts) > 1 and (group := _group_frame(parts, reported, shown)):
            found.append(group)
    return found


def _task_frame(task: _Task, reported: Mapping[Any, float], results: Mapping[str, Any], name: str, shown: str) -> Frame:
    first = next(iter(task.lines.values()))
    keys = list(first)
    columns: dict[str, Column] = {}
    for kept, by_key in task.lines.items():
        if by_key.keys() != first.keys():
            continue
        for metric in dict.fromkeys(metric for line in by_key.values() for metric in line.get("metrics") or ()):
            full = metric if kept == "none" else f"{metric},{kept}"
            column = _column(metric, [by_key[key].get(metric) for key in keys])
            if column and (shown, full) in reported and _same(column.score, reported[shown, full]):
                columns[full] = column
    config = (results.get("configs") or {}).get(name) or {}
    docs = [line.get("doc") for line in first.values()]
    groups, by = _groups(docs, (config.get("metadata") or {}).get("cluster"))
    hashes = tuple(str(line.get("doc_hash", "")) for line in first.values())
    sure = _confidence(list(first.values()))
    choices = _choices(list(first.values()))
    return Frame(shown, tuple(keys), hashes, columns, groups, by, choices, confidence=sure[0], right=sure[1])


def _column(metric: str, values: Sequence[Any]) -> Column | None:
    """Items of a metric as lm-eval logs them: a number, (log-likelihood, size), or (answer, probabilities)."""
    if all(_is_number(value) for value in values):
        numbers, ones = np.array(values, dtype=np.float64), np.ones(len(values))
        return Column(-numbers, ones, "exp") if metric == "perplexity" else Column(numbers, ones)
    pairs = [value for value in values if isinstance(value, list) and len(value) == 2]
    if len(pairs) < len(values):
        return None
    if metric in PER and all(_is_number(one) for pair in pairs for one in pair):
        value_n, weight_n = np.array(pairs, dtype=np.float64).T
        return Column(-value_n, weight_n, PER[metric][1])
    if metric == "brier_score" and all(isinstance(answer, int) for answer, _ in pairs):
        known = [(answer, _probabilities(given)) for answer, given in pairs]
        off = [float(((p - (np.arange(len(p)) == answer)) ** 2).sum()) for answer, p in known]
        return Column(np.array(off), np.ones(len(off)))
    return None


def _probabilities(given: Any) -> Floats:
    """A list of probabilities, or the text of one as lm-eval's logs have it: '[0.2 0.8]'."""
    values = given.strip("[]").replace(",", " ").split() if isinstance(given, str) else given
    return np.array(values, dtype=np.float64)


def _groups(docs: Sequence[Any], named: Any) -> tuple[tuple[str, ...] | None, str | None]:
    """The group of each item and the field that names it: the task's own `metadata.cluster`, else a document's."""
    if named is False or not all(isinstance(doc, dict) for doc in docs):
        return None, None
    for name in [named] if isinstance(named, str) else DOCUMENT_FIELDS:
        values = [doc.get(name) for doc in docs]
        if all(value not in (None, "") for value in values) and len(set(map(str, values))) < len(values):
            return tuple(map(str, values)), str(name)
    return None, None


def _choices(lines: Sequence[Mapping[str, Any]]) -> tuple[int, ...] | None:
    """The likeliest answer to each item of a multiple-choice task: log-likelihoods stand in its responses."""
    chosen = []
    for line in lines:
        try:
            likelihoods = [float(value) for value, _ in line["filtered_resps"]]
        except (KeyError, TypeError, ValueError):
            return None
        if len(likelihoods) < 2:
            return None
        chosen.append(int(np.argmax(likelihoods)))
    return tuple(chosen)


def _confidence(lines: Sequence[Mapping[str, Any]]) -> tuple[Floats | None, Floats | None]:
    """The probability of each chosen answer, and whether it is right; None where an item lacks one."""
    values = [[line.get("confidence"), line.get("acc")] for line in lines]
    if not values or not all(_is_number(one) for pair in values for one in pair):
        return None, None
    sure, right = np.array(values, dtype=np.float64).T
    return sure, right


def _leaves(name: str, groups: Mapping[str, Sequence[str]], seen: frozenset[str] = frozenset()) -> list[str]:
    """The tasks below a group, through groups of groups."""
    found = []
    for child in groups.get(name) or ():
        if child in groups and groups[child] and child not in seen:
            found += _leaves(child, groups, seen | {name})
        else:
            found.append(child)
    return list(dict.fromkeys(found))


def _group_frame(parts: Sequence[Frame], reported: Mapping[Any, float], shown: str) -> Frame | None:
    """Tasks as one frame: its score is the mean over all items, or the mean of the tasks' means, as was reported."""
    columns = {}
    for metric in parts[0].columns:
        mine = [part.columns.get(metric) for part in parts]
        if (shown, metric) not in reported or any(one is None or one.transform != "mean" for one in mine):
            continue
        whole = [one for one in mine if one is not None]
        for scale in ([1.0] * len(whole), [1 / len(one.value) for one in whole]):
            value, weight = (
                np.concatenate([getattr(one, name) * by for one, by in zip(whole, scale, strict=True)])
                for name in ("value", "weight")
            )
            if _same(Column(value, weight).score, reported[shown, metric]):
                columns[metric] = Column(value, weight)
                break
    if not columns:
        return None
    keys, hashes = (tuple(one for part in parts for one in getattr(part, name)) for name in ("keys", "hashes"))
    groups = None
    if any(part.groups for part in parts):
        groups = tuple(f"{part.suite} {one}" for part in parts for one in part.groups or part.keys)
    by = next((part.grouped_by for part in parts if part.groups), None)
    return Frame(shown, keys, hashes, columns, groups, by, tasks=len(parts))


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and math.isfinite(value)


def _same(one: float, other: float) -> bool:
    return math.isclose(one, other, rel_tol=SAME, abs_tol=1e-9)

"""Reviews by model judges that others published, in the formats of FastChat, as one kind of record.

Read are: its first reviews (`score`, `answer1_id`, `answer2_id`), the judgments of MT-bench (`g1_winner` and
`g2_winner` for pairs, `score` for single answers), and plain rows (`model1`, `model2`, `score1`, `score2`) as JSONL or
CSV. Answers and questions in the same folder add names, lengths and categories.
"""

import csv
import json
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from harness.errors import ConfigError

Row = dict[str, Any]


@dataclass(frozen=True)
class Review:
    """One verdict on one question. `second` is None for a single answer; scores are None where only a winner is named.

    `winner` is 'first', 'second' or 'tie'. Lengths are in characters, None where the answers are not there.
    """

    run: str
    reviewer: str
    question: str
    category: str
    turn: int
    first: str
    second: str | None
    score_first: float | None
    score_second: float | None = None
    winner: str | None = None
    length_first: int | None = None
    length_second: int | None = None


@dataclass
class Found:
    """What the files of a path hold; `invalid` counts reviews whose judge named no score or winner."""

    reviews: list[Review] = field(default_factory=list)
    invalid: int = 0
    files: list[str] = field(default_factory=list)
    _answers: dict[str, tuple[str, int]] = field(default_factory=dict)  # answer id -> model, length
    _lengths: dict[tuple[str, str], int] = field(default_factory=dict)  # (model, question) -> length
    _categories: dict[str, str] = field(default_factory=dict)


def read_reviews(path: Path) -> Found:
    """Read a file or all files of a folder. Raises ConfigError where there is no review, or one that cannot be read."""
    if not path.exists():
        raise ConfigError(f"no such file or folder: {path}", hint="give reviews in one of FastChat's formats")
    files = [path] if path.is_file() else sorted(
        one for one in path.rglob("*") if one.suffix in (".jsonl", ".csv") and one.is_file()
    )  # fmt: skip
    tables = [(file, rows) for file in files if (rows := _rows(file))]
    found = Found()
    for _, rows in tables:
        _learn(rows, found)
    for file, rows in tables:
        before = len(found.reviews)
        for number, row in enumerate(rows, 1):
            try:
                _add(file, row, found)
            except (KeyError, TypeError, ValueError, IndexError) as error:
                raise ConfigError(
                    f"{file}, row {number}: {type(error).__name__}: {error}",
                    hint="is it a review in FastChat's format?",
                ) from None
        if len(found.reviews) > before:
            found.files.append(str(file.relative_to(path)) if path.is_dir() else file.name)
    if not found.reviews:
        raise ConfigError(f"{path} holds no review that can be used", hint="see docs/judge.md for the formats")
    found.reviews = list(_with_facts(found))
    return found


def _rows(file: Path) -> list[Row]:
    try:
        text = file.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise ConfigError(f"{file} is not UTF-8 text: {error}", hint="save it as UTF-8") from None
    if file.suffix == ".csv":
        return list(csv.DictReader(text.splitlines()))
    rows = []
    for number, line in enumerate(text.splitlines(), 1):
        if line.strip():
            try:
                row = json.loads(line)
            except ValueError as error:
                raise ConfigError(f"{file}, line {number}: {error}", hint="each line is one JSON object") from None
            if not isinstance(row, dict):
                return []
            rows.append(row)
    return rows


def _learn(rows: list[Row], found: Found) -> None:
    """Names and lengths of answers, categories of questions."""
    for row in rows:
        question = str(row.get("question_id", ""))
        if row.get("category"):
            found._categories[question] = str(row["category"])
        model = row.get("model_id") or row.get("model")
        if model and "answer_id" in row and ("text" in row or "choices" in row):
            text = row["text"] if "text" in row else "".join(row["choices"][0]["turns"])
            found._answers[str(row["answer_id"])] = str(model), len(text.strip())
            found._lengths[str(model), question] = len(text.strip())


def _add(file: Path, row: Row, found: Found) -> None:
    """Enter the review that a row is, if it is one."""
    made: list[Review] = []
    question = str(row.get("question_id", ""))
    head: Row = {"question": question, "category": str(row.get("category") or ""), "turn": int(row.get("turn") or 1)}
    if "answer1_id" in row:
        first, second = _names(file, row, found)
        scores = [float(one) for one in row.get("score") or _said(row.get("text", ""))]
        made = [_scored(file.parent.name, str(row.get("reviewer_id", "")), head, first, second, *scores[:2])]
    elif "score1" in row and "model1" in row:
        run, reviewer = str(row.get("run") or file.stem), str(row.get("reviewer") or "")
        names = str(row["model1"]), str(row["model2"])
        made = [_scored(run, reviewer, head, *names, float(row["score1"]), float(row["score2"]))]
    elif "g1_winner" in row:
        made = list(_both_orders(row, head))
    elif "judgment" in row and "model" in row and "score" in row:
        judge = _judge(row)
        made = [Review(judge, judge, **head, first=str(row["model"]), second=None, score_first=float(row["score"]))]
    for one in made:
        # FastChat writes -1 or "error" where it found no score in the reply.
        if one.winner == "error" or (one.score_first or 0) < 0 or (one.score_second or 0) < 0:
            found.invalid += 1
        else:
            found.reviews.append(one)


def _scored(run: str, reviewer: str, head: Row, first: str, second: str, *scores: float) -> Review:
    one, two = scores
    winner = "tie" if one == two else "first" if one > two else "second"
    return Review(run, reviewer, **head, first=first, second=second, score_first=one, score_second=two, winner=winner)


def _both_orders(row: Row, head: Row) -> Iterator[Review]:
    """The two games of an MT-bench judgment: model_1 shown first, then model_2."""
    names = {"model_1": str(row["model_1"]), "model_2": str(row["model_2"])}
    for game, order in (("g1_winner", ("model_1", "model_2")), ("g2_winner", ("model_2", "model_1"))):
        said = str(row[game])
        winner = "error" if said not in ("tie", *order) else "tie" if said == "tie" else (
            "first" if said == order[0] else "second"
        )  # fmt: skip
        first, second = (names[name] for name in order)
        yield Review(_judge(row), _judge(row), **head, first=first, second=second, score_first=None, winner=winner)


def _judge(row: Row) -> str:
    judge = row.get("judge")
    return str(judge[0]) if isinstance(judge, list) and judge else str(judge or "")


def _said(text: str) -> Iterable[float]:
    """The two scores in the first line of a review."""
    numbers = re.findall(r"-?\d+(?:\.\d+)?", text.strip().split("\n")[0])
    return [float(one) for one in numbers[:2]] if len(numbers) >= 2 else [-1.0, -1.0]


def _names(file: Path, row: Row, found: Found) -> tuple[str, str]:
    """Models of a first-format review: by its answers, else by its file's name, review_A_B.jsonl."""
    known = [found._answers.get(str(row[key])) for key in ("answer1_id", "answer2_id")]
    if known[0] and known[1]:
        return known[0][0], known[1][0]
    parts = file.stem.split("review_")[-1].split("_")
    if len(parts) != 2:
        raise ConfigError(
            f"{file} does not say which models it compares",
            hint="put the files with the answers into the same folder, or name it review_FIRST_SECOND.jsonl",
        )
    return parts[0], parts[1]


def _with_facts(found: Found) -> Iterator[Review]:
    """Reviews with categories and lengths; a pair whose reviews stand in two files under two names comes once."""
    groups: dict[tuple[str, str, str | None], list[Review]] = {}
    for one in found.reviews:
        groups.setdefault((one.run, one.first, one.second), []).append(one)
    seen: set[tuple[Any, ...]] = set()
    for group in groups.values():
        same = tuple(sorted((one.question, one.turn, one.first, str(one.second), str(one.score_first),
                             str(one.score_second), str(one.winner)) for one in group))  # fmt: skip
        if same in seen:
            continue
        seen.add(same)
        for one in group:
            yield replace(
                one,
                category=one.category or found._categories.get(one.question, ""),
                length_first=found._lengths.get((one.first, one.question)),
                length_second=None if one.second is None else found._lengths.get((one.second, one.question)),
            )

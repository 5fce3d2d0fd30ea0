"""`viva judge --reviews`: fractions of published reviews with the intervals that they lacked, and what order did."""

import zlib
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from harness.errors import ConfigError
from reports import review_files
from reports.judge_pairs import compared, swap_json
from reports.judge_records import Pairing
from reports.review_files import Found, Review
from reports.stats import judges as stats
from reports.stats.cells import plain

__all__ = ["analyse_reviews", "read_reviews"]

read_reviews = review_files.read_reviews


@dataclass(frozen=True)
class Seen:
    """A review turned so that `model` is compared with `base`: both scores, `won` 1, 0 or -1, and who came first."""

    question: str
    turn: int
    category: str
    base: float | None
    model: float | None
    won: int | None
    base_first: bool
    longer: int


def analyse_reviews(found: Found, teacher: str | None = None, seed: int = 0) -> dict[str, Any]:
    """Every pair of models in some reviews as plain JSON values; docs/judge.md names the fields.

    The fraction is the sum of a model's scores over that of `base`: the one shown first, or `teacher`, to which the
    pairs are then limited. Raises ConfigError for a teacher that nothing is compared with.
    """
    models = sorted({name for one in found.reviews for name in (one.first, one.second) if name})
    if teacher is not None and teacher not in models:
        raise ConfigError(f"no review of a model {teacher!r}", hint=f"models are {', '.join(models)}")
    pairs = []
    for run in dict.fromkeys(one.run for one in found.reviews):
        rows = [one for one in found.reviews if one.run == run]
        for base, model, seen in [*_pairs(rows, teacher), *_from_singles(rows, teacher)]:
            rng = np.random.default_rng([seed, *(zlib.crc32(word.encode()) for word in (run, base, model))])
            reviewers = sorted({one.reviewer for one in rows if one.reviewer})
            pairs.append({"run": run, "reviewers": reviewers, **_pair_json(base, model, seen, rng)})
    if not pairs:
        raise ConfigError("these reviews compare no two models", hint="name another model with --teacher")
    return dict(plain({"files": found.files, "models": models, "invalid": found.invalid, "pairs": pairs}))


def _pairs(rows: list[Review], teacher: str | None) -> list[tuple[str, str, list[Seen]]]:
    """Compared models of one run with their reviews, whatever the order in which they were shown."""
    groups: dict[tuple[str, str], list[Seen]] = {}
    for one in rows:
        if one.second is None or (teacher is not None and teacher not in (one.first, one.second)):
            continue
        key = (one.first, one.second)
        if teacher == one.second or (teacher is None and key[::-1] in groups):
            key = key[::-1]
        groups.setdefault(key, []).append(_seen(one, base_first=key[0] == one.first))
    return [(*key, seen) for key, seen in groups.items()]


def _seen(one: Review, base_first: bool) -> Seen:
    signs = {"first": 1, "second": -1, "tie": 0}
    won = None if one.winner is None else signs[one.winner] * (-1 if base_first else 1)
    scores, lengths = (one.score_first, one.score_second), (one.length_first, one.length_second)
    if not base_first:
        scores, lengths = scores[::-1], lengths[::-1]
    longer = 0 if None in lengths else int(np.sign((lengths[1] or 0) - (lengths[0] or 0)))
    return Seen(one.question, one.turn, one.category, scores[0], scores[1], won, base_first, longer)


def _from_singles(rows: list[Review], teacher: str | None) -> list[tuple[str, str, list[Seen]]]:
    """Models whose answers were scored one by one, against the teacher or the first model by name."""
    scores: dict[str, dict[tuple[str, int], Review]] = {}
    for one in rows:
        if one.second is None:
            scores.setdefault(one.first, {})[one.question, one.turn] = one
    if len(scores) < 2:
        return []
    base = teacher if teacher in scores else min(scores)
    found = []
    for model in sorted(set(scores) - {base}):
        both = sorted(set(scores[model]) & set(scores[base]))
        seen = [
            _seen(
                Review(
                    one.run, one.reviewer, one.question, one.category, one.turn, base, model, one.score_first,
                    scores[model][key].score_first, None, one.length_first, scores[model][key].length_first,
                ),
                base_first=True,
            )
            for key in both
            for one in [scores[base][key]]
        ]  # fmt: skip
        if seen:
            found.append((base, model, seen))
    return found


def _pair_json(base: str, model: str, seen: list[Seen], rng: np.random.Generator) -> dict[str, Any]:
    questions = sorted({one.question for one in seen}, key=lambda name: (len(name), name))
    verdicts = np.array([one.won if one.won is not None else _sign(one) for one in seen], dtype=np.int64)
    found: dict[str, Any] = {
        "base": base,
        "model": model,
        "n_questions": len(questions),
        "n_reviews": len(seen),
        "base_first": sum(one.base_first for one in seen),
        "win": int(np.sum(verdicts > 0)),
        "tie": int(np.sum(verdicts == 0)),
        "loss": int(np.sum(verdicts < 0)),
        "fraction": None,
        "category": {},
        "swap": _swap(base, model, seen),
        "longer_wins": None,
        "single": all(one.won is None for one in seen),
    }
    if all(one.base is not None for one in seen):
        found["fraction"] = asdict(_fraction(seen, rng))
        names = sorted({one.category for one in seen if one.category})
        for name in names if len(names) > 1 else []:
            found["category"][name] = asdict(_fraction([one for one in seen if one.category == name], rng))
    if any(one.longer for one in seen):
        longer = np.array([one.longer for one in seen], dtype=np.int64)
        found["longer_wins"] = asdict(stats.longer_wins(verdicts, longer))
    return found


def _sign(one: Seen) -> int:
    return int(np.sign((one.model or 0.0) - (one.base or 0.0)))


def _fraction(seen: list[Seen], rng: np.random.Generator) -> stats.SumFraction:
    """The fraction over questions; several reviews of one question (orders, turns) are averaged first."""
    by_question: dict[str, list[Seen]] = {}
    for one in seen:
        by_question.setdefault(one.question, []).append(one)
    groups = [by_question[name] for name in sorted(by_question)]
    columns = [
        np.array([np.mean([getattr(one, key) for one in group]) for group in groups]) for key in ("model", "base")
    ]
    return stats.sum_fraction(columns[0], columns[1], rng)


def _swap(base: str, model: str, seen: list[Seen]) -> dict[str, Any] | None:
    """Position effects over the questions (and turns) that were reviewed in both orders."""
    pairings = []
    for one in seen:
        if one.won is None:
            continue
        first, second = (base, model) if one.base_first else (model, base)
        by_place = one.won if first == model else -one.won
        winner = {1: "first", 0: "tie", -1: "second"}[by_place]
        scores = [np.nan if value is None else value for value in (one.base, one.model)]
        if not one.base_first:
            scores.reverse()
        name = f"{one.question} {one.turn}"
        pairings.append(Pairing("", name, one.category, first, second, scores[0], scores[1], winner, 0, 0))
    rows = compared(pairings, model, base)
    return swap_json([rows]) if rows.scenarios else None

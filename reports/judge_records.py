"""What model judges left in study.db, with arms by their names; and their marks beside people's ratings as columns."""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from reports.database import Database
from reports.stats.cells import Floats, Ints, dense
from reports.tidy import MEASURES, Tidy

FACTS = ("name", "mode", "model", "host", "rubric", "settings", "replies", "invalid", "verdicts", "late", "unanswered",
         "tokens_in", "tokens_out", "problems")  # fmt: skip
VERDICTS = ("name", "mode", "texts", "scenario", "category", "arm_key", "arm_key_second", "chat_rater", *MEASURES,
            "score_first", "score_second", "winner", "length_first", "length_second")  # fmt: skip

LIVE = "live"


@dataclass(frozen=True)
class Mark:
    """One judge's marks of one text: a prepared answer (`rater` ''), or a rater's live chat. Length in characters.

    `texts` is the mode in which people rate the same text: fixed, side-by-side or live.
    """

    judge: str
    scenario: str
    category: str
    arm: str
    rater: str
    texts: str
    values: dict[str, float]
    length: int


@dataclass(frozen=True)
class Pairing:
    """One judge's comparison of two arms' answers, `first` shown first; `winner` is 'first', 'second' or 'tie'."""

    judge: str
    scenario: str
    category: str
    first: str
    second: str
    score_first: float
    score_second: float
    winner: str
    length_first: int
    length_second: int


@dataclass(frozen=True)
class Judging:
    """All that the judges of a study left. `facts` has one row for each judge and mode, as in report.json.

    `own` names each judge's own arms, `family` those of its family; `combine` says whether people's and judges' marks
    are to be combined.
    """

    facts: tuple[dict[str, Any], ...]
    marks: tuple[Mark, ...] = ()
    pairings: tuple[Pairing, ...] = ()
    own: dict[str, tuple[str, ...]] = field(default_factory=dict)
    family: dict[str, tuple[str, ...]] = field(default_factory=dict)
    combine: bool = False

    def texts(self) -> list[str]:
        """The kinds of texts that were marked one by one."""
        return sorted({mark.texts for mark in self.marks})

    def judges(self, mode: str) -> list[str]:
        """Names of the judges with verdicts in a mode, in the order in which they began."""
        rows = self.marks if mode == "single" else self.pairings
        return list(dict.fromkeys(row.judge for row in rows))


def read_judging(db: Database, names: Mapping[str, str], study: Mapping[str, Any]) -> Judging | None:
    """The judges of a study; `names` maps arm keys to arms, `study` is the study file. None where none has begun."""
    rows = db.rows("tidy_judges", FACTS)
    if not rows:
        return None
    table = study.get("judge") or {}
    by = {str(one.get("name")): one for one in table.get("by", [])}
    marks, pairings = [], []
    for row in db.rows("tidy_verdicts", VERDICTS):
        head = (str(row["name"]), str(row["scenario"]), str(row["category"]))
        first = names.get(row["arm_key"], "")
        if row["mode"] == "single":
            values = {measure: float(row[measure]) for measure in MEASURES}
            marks.append(
                Mark(*head, first, str(row["chat_rater"]), str(row["texts"]), values, int(row["length_first"]))
            )
        else:
            scores = float(row["score_first"]), float(row["score_second"])
            lengths = int(row["length_first"]), int(row["length_second"])
            second = names.get(row["arm_key_second"], "")
            pairings.append(Pairing(*head, first, second, *scores, str(row["winner"]), *lengths))
    return Judging(
        facts=tuple(_facts(row, by) for row in rows),
        marks=tuple(marks),
        pairings=tuple(pairings),
        own={name: _arms(one, "own") for name, one in by.items()},
        family={name: _arms(one, "family") for name, one in by.items()},
        combine=bool(table.get("combine")),
    )


def _facts(row: dict[str, Any], by: Mapping[str, Any]) -> dict[str, Any]:
    """A judge's row with what its replies cost at the price that the study file states."""
    found = {**row, "settings": json.loads(row["settings"]), "problems": json.loads(row["problems"] or "{}")}
    prices = [by.get(row["name"], {}).get(key) for key in ("price_in", "price_out")]
    counts = [row["tokens_in"], row["tokens_out"]]
    known = None not in (*prices, *counts)
    found["cost"] = sum(price * count / 1e6 for price, count in zip(prices, counts, strict=True)) if known else None
    return found


def _arms(by: Mapping[str, Any], key: str) -> tuple[str, ...]:
    arms = [str(arm) for arm in by.get(key, ())]
    if key == "own" and by.get("arm"):
        arms.insert(0, str(by["arm"]))
    return tuple(dict.fromkeys(arms))


@dataclass(frozen=True)
class Units:
    """Judge's marks of one measure as columns, one row a text [U]; codes index the label tuples."""

    scenarios: tuple[str, ...]
    arms: tuple[str, ...]
    scenario: Ints
    arm: Ints
    mark: Floats
    length: Floats


@dataclass(frozen=True)
class Beside:
    """People's ratings of what a judge marked, one row a rating [N]; `unit` numbers the texts without gaps.

    `rater`, `scenario` and `arm` are codes, `person` the rating, `mark` the judge's, `length` in characters.
    """

    rater: Ints
    scenario: Ints
    arm: Ints
    unit: Ints
    person: Floats
    mark: Floats
    length: Floats

    def by_unit(self) -> tuple[Floats, Floats, Floats, Ints, Ints]:
        """For every text [U]: the judge's mark, the people's mean, its length, its scenario and its arm."""
        n = np.bincount(self.unit)
        first = np.unique(self.unit, return_index=True)[1]
        mean: Floats = np.bincount(self.unit, self.person) / n
        return self.mark[first], mean, self.length[first], self.scenario[first], self.arm[first]


def units(marks: list[Mark], measure: str, arms: tuple[str, ...]) -> Units:
    """Columns of some marks, all of one judge and of one kind of text."""
    scenarios = tuple(sorted({mark.scenario for mark in marks}))
    place = {name: at for at, name in enumerate(scenarios)}
    return Units(
        scenarios,
        arms,
        np.array([place[mark.scenario] for mark in marks], dtype=np.int64),
        np.array([arms.index(mark.arm) for mark in marks], dtype=np.int64),
        np.array([mark.values[measure] for mark in marks], dtype=np.float64),
        np.array([mark.length for mark in marks], dtype=np.float64),
    )


def beside(marks: list[Mark], tidy: Tidy, measure: str, arms: tuple[str, ...]) -> Beside | None:
    """People's ratings of the texts that `marks` are about, None where there are none.

    A prepared answer stands beside everybody's ratings of it, a live chat beside those of its own rater alone.
    """
    if not tidy.has(measure):
        return None
    live = bool(marks) and bool(marks[0].rater)
    ratings, _ = tidy.measure(measure)
    scenario_of = {name: at for at, name in enumerate(tidy.scenarios)}
    rater_of = {name: at for at, name in enumerate(tidy.raters)}
    arm_of = {name: at for at, name in enumerate(tidy.arms)}
    n_arms = len(tidy.arms)
    by_text: dict[int, Mark] = {}
    for mark in marks:
        if mark.scenario in scenario_of and mark.arm in arm_of and (not live or mark.rater in rater_of):
            text = scenario_of[mark.scenario] * n_arms + arm_of[mark.arm]
            by_text[text if not live else rater_of[mark.rater] * n_arms * len(tidy.scenarios) + text] = mark
    key = ratings.scenario * n_arms + ratings.arm
    if live:
        key = ratings.rater * n_arms * len(tidy.scenarios) + key
    known = np.array(sorted(by_text), dtype=np.int64)
    there = np.isin(key, known)
    if not there.any():
        return None
    rows, key = ratings.where(there), key[there]
    at = np.searchsorted(known, key)
    columns = np.array([[by_text[text].values[measure], by_text[text].length] for text in known.tolist()])
    to_arms = np.array([arms.index(arm) if arm in arms else -1 for arm in tidy.arms], dtype=np.int64)
    return Beside(
        rows.rater, rows.scenario, to_arms[rows.arm], dense(key_codes(key)), rows.value, columns[at, 0], columns[at, 1]
    )


def key_codes(key: Ints) -> Ints:
    """Large keys as small codes in their order."""
    return np.unique(key, return_inverse=True)[1].astype(np.int64)

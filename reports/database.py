"""study.db -> the study's facts, tidy ratings, and what else was asked of raters; arm keys become names on the way.

Only views and the tables `study`, `scenario`, `rater` and `assignment` are read. A database of an earlier schema has
fewer columns and views: what it lacks is empty.
"""

import contextlib
import json
import re
import sqlite3
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import quote

import numpy as np

from harness.errors import RunError
from reports.stats.cells import Bools
from reports.tidy import MEASURES, Tidy, make_tidy

KINDS = ("person", "judge", "simulated")
RATINGS = ("kind", "rater", "scenario", "category", "arm_key", "position", *MEASURES, "created_at")
MORE = ("mode", "place", "seconds")
LIVE = (
    *("rater", "kind", "scenario", "arm_key", "item", "position", "place", "ended_by", "turns", "underruns"),
    *("late_turns", "late_s", "failures", "cut", "empty", "unpaced", "rated"),
)
CHECKS_MISSED = (
    0.5  # a rater who misses more than this share of at least two known answers is left out in a sensitivity
)
FAST_SECONDS, FAST_SHARE, LEAST_FAST = 2.0, 0.2, 3  # less than 2 s for an item: Huang et al. 2012

Row = dict[str, Any]


@dataclass(frozen=True)
class Facts:
    """What the study's own row says; what an earlier schema does not know is None or empty.

    `planned` is how many ratings by people the design asks for.
    """

    state: str | None = None
    mode: str | None = None
    crossing: str = "within"
    language: str = ""
    margin: float | None = None
    margin_at: str | None = None
    closed_at: str | None = None
    planned: int | None = None
    self_words: tuple[str, ...] = ()
    pace: dict[str, Any] | None = None


@dataclass(frozen=True)
class Extras:
    """What one kind of rater was asked beside ratings, rows as dicts with `arm` in place of `arm_key`.

    `given` has one row for each item that was given out: rater, arm, mode, position, rated.
    """

    repeats: tuple[Row, ...] = ()
    checks: tuple[Row, ...] = ()
    preferences: tuple[Row, ...] = ()
    guesses: tuple[Row, ...] = ()
    live: tuple[Row, ...] = ()
    given: tuple[Row, ...] = ()


class Database:
    """A study.db opened for reading; the rating page may be writing meanwhile. Where there is none, all is empty."""

    def __init__(self, path: Path):
        self.path = path

    @contextlib.contextmanager
    def _connection(self) -> Iterator[sqlite3.Connection | None]:
        if not self.path.exists():
            yield None
            return
        connection = sqlite3.connect(f"file:{quote(str(self.path))}?mode=ro", uri=True, timeout=10)
        try:
            yield connection
        finally:
            connection.close()

    def query(self, sql: str) -> list[tuple[Any, ...]]:
        """All rows of a query; none where its table is not there yet. Raises RunError for a damaged database."""
        with self._connection() as connection:
            if connection is None:
                return []
            try:
                return connection.execute(sql).fetchall()
            except sqlite3.OperationalError as error:
                if "no such table" in str(error):  # a database that is still empty
                    return []
                raise RunError(f"{self.path} cannot be read: {error}", hint="try again in a moment") from None
            except sqlite3.DatabaseError as error:
                raise RunError(f"{self.path} is damaged: {error}", hint="restore it from a copy") from None

    def columns(self, table: str) -> set[str]:
        """The columns of a table or view; empty where there is none."""
        return {str(row[1]) for row in self.query(f"PRAGMA table_info({table})")}

    def rows(self, table: str, columns: Iterable[str]) -> list[Row]:
        """These columns of a table or view, those it lacks as None; no rows where it is not there."""
        there = self.columns(table)
        wanted = [name for name in columns if name in there]
        if not wanted:
            return []
        return [dict(zip(wanted, row, strict=True)) for row in self.query(f"SELECT {', '.join(wanted)} FROM {table}")]

    def facts(self) -> Facts:
        """The study's own row."""
        names = ("state", "mode", "crossing", "language", "margin", "margin_at", "closed_at", "ratings_per_cell",
                 "self_words", "pace")  # fmt: skip
        found = self.rows("study", names)
        if not found:
            return Facts()
        row = found[0]
        each, cells = row.get("ratings_per_cell"), self._cells()
        return Facts(
            state=row.get("state"),
            mode=row.get("mode"),
            crossing=row.get("crossing") or "within",
            language=row.get("language") or "",
            margin=row.get("margin"),
            margin_at=row.get("margin_at"),
            closed_at=row.get("closed_at"),
            planned=each * cells if each and cells else None,
            self_words=tuple(str(one) for one in json.loads(row.get("self_words") or "[]")),
            pace=json.loads(row["pace"]) if row.get("pace") else None,
        )

    def _cells(self) -> int:
        scenarios, arms = self.query("SELECT count(*) FROM scenario"), self.query("SELECT count(*) FROM arm")
        return scenarios[0][0] * arms[0][0] if scenarios and arms else 0

    def goals(self) -> dict[str, str]:
        """Goal of each scenario."""
        return {str(row[0]): str(row[1]) for row in self.query("SELECT id, goal FROM scenario")}

    def ratings(self) -> list[tuple[Any, ...]]:
        """Rows of tidy ratings as (RATINGS..., MORE...), None for what an earlier schema does not have."""
        there = self.columns("tidy_ratings")
        more = [name if name in there else "NULL" for name in MORE]
        order = "rater, position, scenario, arm_key"
        return self.query(f"SELECT {', '.join((*RATINGS, *more))} FROM tidy_ratings ORDER BY {order}")

    def extras(self, names: Mapping[str, str]) -> dict[str, Extras]:
        """What raters were asked beside ratings, by kind; `names` maps arm keys to arms."""
        repeated = [f"{again}{measure}" for again in ("", "again_") for measure in MEASURES]
        tables = {
            "repeats": ("tidy_repeats", ("rater", "kind", "scenario", "arm_key", "mode", "distance", *repeated)),
            "checks": ("tidy_checks", ("rater", "kind", "item", "position", "passed")),
            "preferences": ("tidy_preferences", ("rater", "kind", "scenario", "arm_keys", "preferred")),
            "guesses": ("tidy_guesses", ("rater", "kind", "arm_key_a", "arm_key_b", "larger")),
            "live": ("tidy_live", LIVE),
        }
        found = {key: [_named(row, names) for row in self.rows(*table)] for key, table in tables.items()}
        found["given"] = [_named(row, names) for row in self._given()]
        kinds = {row["kind"] for rows in found.values() for row in rows}
        return {
            kind: Extras(**{key: tuple(row for row in rows if row["kind"] == kind) for key, rows in found.items()})
            for kind in KINDS
            if kind in kinds
        }

    def _given(self) -> list[Row]:
        """Rated items as they were given out, without those that were taken back."""
        there = self.columns("assignment")
        if not {"done_at", "arm_key"} <= there:
            return []
        kept = "WHERE assignment.kind = 'rated' AND released_at IS NULL" if "released_at" in there else ""
        mode = "assignment.mode" if "mode" in there else "NULL"
        rows = self.query(
            f"SELECT rater.label, rater.kind, arm_key, {mode}, position, opened_at IS NOT NULL, done_at IS NOT NULL"
            f" FROM assignment JOIN rater ON rater.id = assignment.rater {kept} ORDER BY rater.id, position"
        )
        keys = ("rater", "kind", "arm_key", "mode", "position", "opened", "rated")
        return [dict(zip(keys, row, strict=True)) for row in rows]

    def marked(self, tidy: Tidy, kind: str, extras: Extras, words: Iterable[str]) -> dict[str, Bools]:
        """Rows of tidy ratings that a pre-stated rule is about: docs/statistics.md lists the rules."""
        found: dict[str, Bools] = {}
        late = {_cell(row) for row in extras.live if row.get("unpaced")}
        broken = {_cell(row) for row in extras.live if row.get("failures") or row.get("ended_by") == "failure"}
        named = self._naming(kind, words)
        cells = list(zip((tidy.raters[one] for one in tidy.rater), tidy.position, np.nan_to_num(tidy.place, nan=1.0),
                         strict=True)) if late or broken or named else []  # fmt: skip
        for rule, chosen in (("unpaced", late), ("broken", broken), ("named_itself", named)):
            if chosen:
                found[rule] = np.array([cell in chosen for cell in cells], dtype=np.bool_)
        missed = missed_checks(extras.checks)
        if missed:
            found["failed_checks"] = np.isin(tidy.rater, [at for at, who in enumerate(tidy.raters) if who in missed])
        return found

    def _naming(self, kind: str, words: Iterable[str]) -> set[tuple[str, float, float]]:
        """Rated items in which the model names itself: one of the study's words stands in its texts."""
        pattern = "|".join(re.escape(word) for word in sorted(words, key=len, reverse=True) if word.strip())
        if not pattern:
            return set()
        names = re.compile(rf"(?<!\w)(?:{pattern})(?!\w)", re.IGNORECASE)
        known: dict[str, bool] = {}
        found = set()
        for row in self.rows("tidy_texts", ("rater", "kind", "item", "position", "place", "texts")):
            if row["kind"] != kind or row["item"] != "rated":
                continue
            text = row["texts"] or ""
            if text not in known:
                known[text] = bool(names.search("\n".join(one for one in json.loads(text or "[]") if one)))
            if known[text]:
                found.add(_cell(row))
        return found


def missed_checks(checks: Iterable[Row]) -> set[str]:
    """Raters who missed more than half of at least two known answers."""
    given: dict[str, list[bool]] = {}
    for row in checks:
        if row.get("item", "check") == "check":
            given.setdefault(row["rater"], []).append(bool(row["passed"]))
    return {who for who, all_ in given.items() if len(all_) > 1 and all_.count(False) > CHECKS_MISSED * len(all_)}


def fast_raters(tidy: Tidy) -> list[int]:
    """Codes of raters with at least three, and a fifth, of their ratings given in less than two seconds."""
    with np.errstate(invalid="ignore"):
        fast = np.bincount(tidy.rater, tidy.seconds < FAST_SECONDS, minlength=len(tidy.raters))
    n = np.bincount(tidy.rater, minlength=len(tidy.raters))
    return [int(one) for one in np.flatnonzero((fast >= LEAST_FAST) & (fast >= FAST_SHARE * n))]


def _cell(row: Row) -> tuple[str, float, float]:
    return str(row["rater"]), float(row["position"]), float(row.get("place") or 1)


def _named(row: Row, names: Mapping[str, str]) -> Row:
    """Arm keys of a row as the arms' names."""
    found = {}
    for key, value in row.items():
        if key.startswith("arm_keys"):
            found["arms"] = [names.get(one) for one in json.loads(value)]
        elif key.startswith("arm_key"):
            found[key.replace("arm_key", "arm")] = names.get(value)
        elif key in ("larger", "preferred"):
            found[key] = names.get(value)
        else:
            found[key] = value
    return found


def tidy_of(
    rows: list[tuple[Any, ...]],
    names: Mapping[str, str],
    teacher: str,
    mode: str,
    languages: Mapping[str, str],
    language: str,
) -> Tidy:
    """Tidy ratings from rows of one kind as `Database.ratings` gives them.

    `languages` by rater, `language` for the rest; `mode` is that of a schema that knew one mode only.
    """
    column = dict(zip((*RATINGS, *MORE), zip(*rows, strict=True), strict=True))
    modes = column["mode"] if column["mode"][0] is not None else [mode] * len(rows)
    return make_tidy(
        column["rater"],
        column["scenario"],
        [names[key] for key in column["arm_key"]],
        {measure: column[measure] for measure in MEASURES},
        teacher=teacher,
        category=column["category"],
        position=column["position"],
        time=column["created_at"],
        mode=modes,
        language=[languages.get(who, language) for who in column["rater"]],
        place=column["place"],
        seconds=column["seconds"],
    )

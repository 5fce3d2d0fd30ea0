"""Tables of who had what, and when -> each user's history, and what is kept of it for validation and test.

Any table will do whose rows name a user, an item and a time: CSV, TSV (also packed by bz2 or gz), Parquet, or RecBole's
.inter files, whose columns say their type behind a colon ("user_id:token"). What else a row says, such as a rating, is
not used: that a user had an item is what counts.
"""

import hashlib
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from harness.errors import ConfigError
from harness.ranker_table import RankerTable
from harness.train.batches import Document

SEPARATORS = {".csv": ",", ".tsv": "\t", ".inter": "\t"}
PACKED = (".gz", ".bz2")
SHORTEST = 3  # interactions of a user: one to learn from, one for validation, one for test


@dataclass(frozen=True)
class Query:
    """What is asked of a ranker: which item follows what the user had. Items are numbers of the catalogue."""

    user: str
    seen: tuple[int, ...]
    target: int


@dataclass(frozen=True)
class Interactions:
    """Everything that a table holds after its filters: the items by number, and each user's in the order of time."""

    items: tuple[str, ...]
    histories: dict[str, tuple[int, ...]]

    @property
    def digest(self) -> str:
        """Changes with the items and their numbers."""
        return hashlib.sha256("\n".join(self.items).encode()).hexdigest()

    def documents(self, window: int) -> list[Document]:
        """What is learnt: every history without its last two items, cut into windows of `window` items to learn.

        A window begins with the last item of the one before, which is not learnt again.
        """
        found = []
        for history in self.histories.values():
            known = history[:-2]
            for start in range(0, max(1, len(known) - 1), window):
                part = known[start : start + window + 1]
                if len(part) > 1:
                    found.append(Document(part, (True,) * len(part)))
        return found

    def validation(self) -> list[Query]:
        """Each user's item before the last, after all those before it."""
        return [Query(user, history[:-2], history[-2]) for user, history in self.histories.items()]

    def test(self) -> list[Query]:
        """Each user's last item, after all others."""
        return [Query(user, history[:-1], history[-1]) for user, history in self.histories.items()]


def read_interactions(path: Path, table: RankerTable) -> Interactions:
    """Read a table and filter it.

    Users and items with fewer than `table.least` interactions are left out, again and again until none is left that
    has fewer. Items are numbered by their names, users come by theirs, so the order of rows means nothing, but where a
    user had several items at the same time: there it is the file's. A row that comes twice counts twice. Raises
    ConfigError for a file that cannot be read, a column that is not there, a time that is no number or date, and a
    table in which nothing is left.
    """
    rows = _rows(path, table)
    while True:
        users, items = Counter(row[0] for row in rows), Counter(row[1] for row in rows)
        kept = [row for row in rows if users[row[0]] >= table.least and items[row[1]] >= table.least]
        if len(kept) == len(rows):
            break
        rows = kept
    names = sorted(items, key=_by_number)
    number = {name: index for index, name in enumerate(names)}
    by_user: dict[str, list[tuple[float, int]]] = {user: [] for user in sorted(users, key=_by_number)}
    for user, item, time in rows:
        by_user[user].append((time, number[item]))
    histories = {
        user: tuple(item for _, item in sorted(had, key=lambda one: one[0]))
        for user, had in by_user.items()
        if len(had) >= SHORTEST
    }
    if not histories or len(names) < 2:
        raise ConfigError(
            f"{path}: no user and items are left who have at least {table.least} interactions, and {SHORTEST} a user",
            hint="lower ranker.least, or give more data",
        )
    return Interactions(tuple(names), histories)


def _by_number(name: str) -> tuple[int, int, str]:
    """'9' before '10', and numbers before words."""
    return (0, int(name), name) if name.isascii() and name.isdigit() else (1, 0, name)


def _rows(path: Path, table: RankerTable) -> list[tuple[str, str, float]]:
    frame = _frame(path)
    frame = frame.rename(columns={name: str(name).split(":")[0].strip() for name in frame.columns})
    for key, column in (("user", table.user), ("item", table.item), ("time", table.time)):
        if column not in frame.columns:
            there = ", ".join(map(str, frame.columns))
            raise ConfigError(f"{path}: no column {column!r}; those there are {there}", hint=f"set ranker.{key}")
    for column in (table.user, table.item):
        missing = frame[column].isna() | (frame[column].astype(str).str.strip() == "")
        if missing.any():
            raise ConfigError(f"{path}, row {int(missing.argmax()) + 1}: no {column!r}", hint="leave such rows out")
    times = _times(path, frame[table.time], table.time)
    users, items = frame[table.user].astype(str), frame[table.item].astype(str)
    return list(zip(users.tolist(), items.tolist(), times, strict=True))


def _times(path: Path, column: Any, name: str) -> list[float]:
    """Numbers as they are, dates as seconds."""
    import pandas as pd

    numbers = pd.to_numeric(column, errors="coerce")
    missing = numbers.isna()
    if missing.any():
        dates = pd.to_datetime(column, errors="coerce", utc=True, format="ISO8601")
        bad = dates.isna() if missing.all() else missing
        if bad.any():
            row = int(bad.argmax())
            wrong = "neither a number nor a date" if missing.all() else "no number as in other rows"
            raise ConfigError(
                f"{path}, row {row + 1}: {name!r} is {column.iloc[row]!r}, {wrong}",
                hint="write seconds, or dates as 2026-11-28 or 2026-11-28T23:15:00",
            )
        numbers = (dates - pd.Timestamp(0, tz="UTC")) / pd.Timedelta(seconds=1)
    return [float(one) for one in numbers]


def _frame(path: Path) -> Any:
    import pandas as pd

    kind = path.name.lower()
    for packing in PACKED:
        kind = kind.removesuffix(packing)
    separator = next((one for ending, one in SEPARATORS.items() if kind.endswith(ending)), None)
    if separator is None and not kind.endswith(".parquet"):
        raise ConfigError(
            f"cannot tell how to read {path}", hint=f"interactions end in {', '.join((*SEPARATORS, '.parquet'))}"
        )
    try:
        if separator is None:
            return pd.read_parquet(path)
        return pd.read_csv(path, sep=separator, dtype=str, keep_default_na=False, encoding="utf-8-sig")
    except Exception as error:  # pandas, its parsers and its unpackers raise many kinds
        reason = str(error).strip().splitlines() or [type(error).__name__]
        raise ConfigError(f"cannot read {path} as a table: {reason[0]}", hint="is the file whole?") from error

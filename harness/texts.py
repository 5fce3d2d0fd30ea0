"""Plain-text corpora: JSON lines, text files and tables, read as documents without chats."""

import hashlib
import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from harness.corpus import is_held_out
from harness.errors import ConfigError
from harness.records import Record

SEPARATORS = {".csv": ",", ".csv.bz2": ",", ".csv.gz": ",", ".tsv": "\t", ".tsv.bz2": "\t", ".tsv.gz": "\t"}
KINDS = (".jsonl", ".txt", *SEPARATORS, ".parquet")
TEXT_COLUMN = "text"


class Text(Record):
    """One document of a plain-text corpus."""

    id: str
    text: str


def is_text_corpus(path: Path) -> bool:
    """Whether a corpus holds texts: any file but JSONL, and JSONL unless its first line has messages, as chats have."""
    if path.suffix.lower() != ".jsonl":
        return True
    if not path.is_file():
        return False
    with path.open(encoding="utf-8", errors="replace") as file:
        first = next((line for line in file if line.strip()), "")
    try:
        row = json.loads(first)
    except ValueError:
        return False  # the reader of chats names the line
    return isinstance(row, dict) and "messages" not in row


def read_texts(path: Path, text_column: str | None = None, group_column: str | None = None) -> list[Text]:
    """The documents of a corpus, in the file's order, without white space at their ends; empty ones are left out.

    Tables (CSV and TSV, plain or packed by bz2 or gz, Parquet) and JSONL have one document a row, in `text_column`
    (default text); with `group_column` the rows that share its value are one document, a row to a line, at the place
    of the first of them. In a .txt file blank lines part the documents. Raises ConfigError for a missing file, one of
    another kind, a column that is not there, a row that cannot be read and a file without any text.
    """
    if not path.is_file():
        raise ConfigError(f"no such file: {path}", hint="give a file of texts: " + ", ".join(KINDS))
    if kind_of(path) == ".txt":
        if text_column or group_column:
            raise ConfigError(f"{path} has no columns", hint="text_column and group_column belong to tables")
        texts = _paragraphs(path)
    else:
        rows = _jsonl_rows(path) if kind_of(path) == ".jsonl" else _table_rows(path)
        texts = _from_rows(path, rows, text_column or TEXT_COLUMN, group_column)
    if not texts:
        raise ConfigError(f"{path} holds no text", hint="there is nothing to learn")
    return texts


def read_rows(path: Path) -> list[dict[str, Any]]:
    """The rows of a table (CSV, TSV, Parquet) or a JSONL file, by column. Raises ConfigError as `read_texts` does."""
    if not path.is_file():
        raise ConfigError(f"no such file: {path}", hint="give a table: " + ", ".join(KINDS))
    if kind_of(path) == ".txt":
        raise ConfigError(f"{path} has no columns", hint="give CSV, TSV, Parquet or JSONL")
    return _jsonl_rows(path) if kind_of(path) == ".jsonl" else _table_rows(path)


def read_text_corpus(
    path: Path, text_column: str | None = None, group_column: str | None = None, limit: int | None = None
) -> tuple[list[Text], list[Text]]:
    """The documents for training, in the file's order, and those held out: one in ten, by the text's hash.

    With `limit` the training takes so many of them, those of the smallest hashes: a fair sample whatever the order of
    the file, and part of every larger one. The held-out documents come in the order of their hashes, so that the first
    few are a fair sample too. Raises ConfigError when either is empty, and as `read_texts` does.
    """
    texts = read_texts(path, text_column, group_column)
    train = [text for text in texts if not is_held_out(text.text)]
    held_out = sorted((text for text in texts if is_held_out(text.text)), key=_hash)
    if not train or not held_out:
        raise ConfigError(
            f"{path} has {len(train)} texts to train on and {len(held_out)} held out (one in ten, by hash)",
            hint="add texts until both have some; in a .txt file blank lines part them",
        )
    if limit is not None and limit < len(train):
        last = sorted(map(_hash, train))[limit - 1]
        train = [text for text in train if _hash(text) <= last]
    return train, held_out


def _hash(text: Text) -> bytes:
    return hashlib.sha256(text.text.encode()).digest()


def kind_of(path: Path) -> str:
    """The ending that says how a corpus is read, such as '.csv.bz2'; raises ConfigError for one that is not known."""
    name = path.name.lower()
    found = next((kind for kind in KINDS if name.endswith(kind)), None)
    if found is None:
        raise ConfigError(f"cannot tell how to read {path}", hint=f"a corpus ends in one of {', '.join(KINDS)}")
    return found


def _paragraphs(path: Path) -> list[Text]:
    parts: list[list[str]] = [[]]
    for line in _decoded(path).splitlines():
        if line.strip():
            parts[-1].append(line.rstrip())
        elif parts[-1]:
            parts.append([])
    return [Text(id=str(number), text="\n".join(lines)) for number, lines in enumerate(filter(None, parts), 1)]


def _jsonl_rows(path: Path) -> list[dict[str, Any]]:
    rows = []
    for number, line in enumerate(_decoded(path).split("\n"), 1):  # other line ends may stand inside JSON
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except ValueError as error:
            raise ConfigError(f"{path}, line {number}: {error}", hint="each line is one JSON object") from None
        if not isinstance(row, dict):
            raise ConfigError(f"{path}, line {number}: not a JSON object", hint='such as {"text": "..."}')
        rows.append(row)
    return rows


def _decoded(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise ConfigError(f"{path} is not UTF-8 text: {error}", hint="save it as UTF-8") from None


def _table_rows(path: Path) -> list[dict[str, Any]]:
    import pandas as pd

    kind = kind_of(path)
    try:
        if kind == ".parquet":
            table = pd.read_parquet(path)
        else:
            # Every cell is text: 'NA' and '1.0' are words here, not numbers.
            table = pd.read_csv(path, sep=SEPARATORS[kind], dtype=str, keep_default_na=False, encoding="utf-8-sig")
    except Exception as error:  # pandas, its parsers and its unpackers raise many kinds
        reason = str(error).strip().splitlines() or [type(error).__name__]
        raise ConfigError(f"cannot read {path} as {kind}: {reason[0]}", hint="is the file whole?") from error
    rows = [{str(name): value for name, value in row.items()} for row in table.to_dict("records")]
    return rows or [{str(name): None for name in table.columns}]  # without rows the columns are still checked


def _from_rows(path: Path, rows: Iterable[dict[str, Any]], text_column: str, group_column: str | None) -> list[Text]:
    grouped: dict[str, list[str]] = {}
    for number, row in enumerate(rows, 1):
        for setting, column in (("text_column", text_column), ("group_column", group_column)):
            if column is not None and column not in row:
                raise ConfigError(
                    f"{path}, row {number}: no column {column!r}; those there are {', '.join(map(str, row))}",
                    hint=f"set {setting} in the train table",
                )
        value = row[text_column]
        if value is not None and not isinstance(value, str):
            if value == value:  # a missing cell of a Parquet file may be NaN, which differs from itself
                raise ConfigError(
                    f"{path}, row {number}: {text_column!r} holds {value!r}, not a text", hint="name another column"
                )
            value = None
        name = str(number) if group_column is None else str(row[group_column])
        if value and value.strip():
            grouped.setdefault(name, []).append(value.strip())
    return [Text(id=name, text="\n".join(lines)) for name, lines in grouped.items()]

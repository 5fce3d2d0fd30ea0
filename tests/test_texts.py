"""Plain-text corpora: one reading of every kind of file, and mistakes named."""

import bz2
import gzip
import json
from pathlib import Path

import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from harness.corpus import is_held_out
from harness.errors import ConfigError
from harness.texts import Text, is_text_corpus, read_text_corpus, read_texts

ROWS = [
    {"film": "a", "text": "The first, of a."},
    {"film": "b", "text": 'Of b: "quoted", NA.'},
    {"film": "a", "text": " Second of a. "},
    {"film": "c", "text": "  "},
]
CSV = 'film,text\na,"The first, of a."\nb,"Of b: ""quoted"", NA."\na, Second of a. \nc,  \n'
EACH = [
    Text(id="1", text="The first, of a."),
    Text(id="2", text='Of b: "quoted", NA.'),
    Text(id="3", text="Second of a."),
]
GROUPED = [Text(id="a", text="The first, of a.\nSecond of a."), Text(id="b", text='Of b: "quoted", NA.')]


def table(folder: Path, name: str) -> Path:
    path = folder / name
    if name.endswith(".parquet"):
        pd.DataFrame(ROWS).to_parquet(path)
        return path
    text = "".join(json.dumps(row) + "\n" for row in ROWS) if name.endswith(".jsonl") else CSV
    if ".tsv" in name:
        text = pd.DataFrame(ROWS).to_csv(sep="\t", index=False)
    data = text.encode()
    path.write_bytes(bz2.compress(data) if name.endswith("bz2") else gzip.compress(data) if name[-2:] == "gz" else data)
    return path


@pytest.mark.parametrize(
    "name", ["t.jsonl", "t.csv", "T.CSV", "t.csv.bz2", "t.csv.gz", "t.tsv", "t.tsv.gz", "t.tsv.bz2", "t.parquet"]
)
def test_every_table_is_read_the_same(tmp_path: Path, name: str) -> None:
    path = table(tmp_path, name)
    assert read_texts(path) == EACH
    assert read_texts(path, group_column="film") == GROUPED
    assert is_text_corpus(path)


def test_another_column_holds_the_text(tmp_path: Path) -> None:
    assert [text.text for text in read_texts(table(tmp_path, "t.csv"), text_column="film")] == ["a", "b", "a", "c"]


def test_blank_lines_part_the_documents_of_a_text_file(tmp_path: Path) -> None:
    path = tmp_path / "book.txt"
    path.write_bytes("\ufeffOne line,\r\nand its next.\r\n \r\n\r\nTwo.\n\n".encode())
    assert read_texts(path) == [Text(id="1", text="One line,\nand its next."), Text(id="2", text="Two.")]
    with pytest.raises(ConfigError, match="has no columns"):
        read_texts(path, text_column="text")


def test_rows_without_a_text_are_left_out_and_line_ends_inside_json_are_text(tmp_path: Path) -> None:
    path = tmp_path / "t.jsonl"
    path.write_text('{"text": "a\u2028b"}\n\n{"text": null}\n', encoding="utf-8")
    assert read_texts(path) == [Text(id="1", text="a\u2028b")]
    pd.DataFrame({"text": ["x", None, float("nan")]}).to_parquet(tmp_path / "t.parquet")
    assert [text.text for text in read_texts(tmp_path / "t.parquet")] == ["x"]


def test_a_corpus_of_chats_is_known_by_its_messages(tmp_path: Path) -> None:
    chats = tmp_path / "chats.jsonl"
    chats.write_text('\n{"id": "1", "kind": "x", "messages": []}\n')
    torn = tmp_path / "torn.jsonl"
    torn.write_text('{"id": \n')
    assert [is_text_corpus(path) for path in (chats, torn, tmp_path / "absent.jsonl")] == [False, False, False]
    assert is_text_corpus(tmp_path / "absent.txt")


@pytest.mark.parametrize(("setting", "column"), [("text_column", "review"), ("group_column", "movie")])
@pytest.mark.parametrize("name", ["t.csv", "t.jsonl", "t.parquet"])
def test_a_column_that_is_not_there_names_those_that_are(tmp_path: Path, name: str, setting: str, column: str) -> None:
    with pytest.raises(ConfigError, match=f"no column '{column}'; those there are film, text") as caught:
        read_texts(table(tmp_path, name), **{setting: column})
    assert setting in str(caught.value)


def test_a_table_of_a_header_alone_is_checked_too(tmp_path: Path) -> None:
    path = tmp_path / "t.csv"
    path.write_text("film,review\n")
    with pytest.raises(ConfigError, match="no column 'text'; those there are film, review"):
        read_texts(path)
    with pytest.raises(ConfigError, match="holds no text"):
        read_texts(path, text_column="review")


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("t.pdf", b"%PDF", "cannot tell how to read"),
        ("t.txt", b" \n\n", "holds no text"),
        ("t.txt", b"\xff\xfe\x00", "is not UTF-8"),
        ("t.jsonl", b"", "holds no text"),
        ("t.jsonl", b'{"text": "a"}\n{"text": \n', "line 2: "),
        ("t.jsonl", b"[1]\n", "line 1: not a JSON object"),
        ("t.jsonl", b'{"text": 3}\n', "row 1: 'text' holds 3, not a text"),
        ("t.csv", b"", "cannot read"),
        ("t.csv", b"text\n\xff\n", "cannot read"),
        ("t.csv.bz2", b"not packed", "cannot read"),
        ("t.parquet", b"not a table", "cannot read"),
    ],
)
def test_a_bad_file_is_named_with_the_reason(tmp_path: Path, name: str, content: bytes, message: str) -> None:
    path = tmp_path / name
    path.write_bytes(content)
    with pytest.raises(ConfigError, match=message) as caught:
        read_texts(path)
    assert path.name in str(caught.value)
    assert caught.value.hint


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"no such file: .*absent\.csv"):
        read_texts(tmp_path / "absent.csv")


def test_one_text_in_ten_is_held_out_wherever_it_stands(tmp_path: Path) -> None:
    lines = [f"Text number {number}." for number in range(400)]
    path = tmp_path / "t.txt"
    path.write_text("\n\n".join(lines))
    train, held_out = read_text_corpus(path)
    path.write_text("\n\n".join(reversed(lines)))
    assert 20 < len(held_out) < 60
    assert len(train) + len(held_out) == 400
    assert {text.text for text in read_text_corpus(path)[1]} == {text.text for text in held_out}
    assert all(is_held_out(text.text) for text in held_out)


def test_a_limit_takes_a_sample_that_the_order_of_the_file_does_not_change(tmp_path: Path) -> None:
    lines = [f"Text number {number}." for number in range(400)]
    path = tmp_path / "t.txt"
    path.write_text("\n\n".join(lines))
    (few, held_out), (more, _) = read_text_corpus(path, limit=50), read_text_corpus(path, limit=100)
    assert len(few) == 50
    assert {text.text for text in few} < {text.text for text in more}
    assert [text.text for text in few] == [line for line in lines if line in {text.text for text in few}]
    assert max(int(text.id) for text in few) > 350
    assert len(read_text_corpus(path, limit=1000)[0]) == 400 - len(held_out)
    path.write_text("\n\n".join(reversed(lines)))
    again, still_held_out = read_text_corpus(path, limit=50)
    assert {text.text for text in again} == {text.text for text in few}
    assert [text.text for text in still_held_out] == [text.text for text in held_out]


def test_a_corpus_too_small_to_hold_any_out_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "t.txt"
    path.write_text("One.")
    with pytest.raises(ConfigError, match="1 texts to train on and 0 held out"):
        read_text_corpus(path)


@given(st.lists(st.text(min_size=1).filter(str.strip), min_size=1, max_size=5))
def test_json_lines_bring_every_text_back(tmp_path_factory: pytest.TempPathFactory, texts: list[str]) -> None:
    path = tmp_path_factory.mktemp("texts") / "t.jsonl"
    path.write_text("".join(json.dumps({"text": text}) + "\n" for text in texts), encoding="utf-8")
    assert [text.text for text in read_texts(path)] == [text.strip() for text in texts]

"""Tables of interactions: how they are read, filtered, ordered and split."""

import bz2
from pathlib import Path

import pytest

from harness.errors import ConfigError
from harness.models.ranker.interactions import Interactions, read_interactions
from harness.ranker_table import RankerTable

ALL = RankerTable(least=1)
ROWS = "user_id,item_id,timestamp\n" + "".join(
    f"{user},{item},{time}\n"
    for user, item, time in [("b", "9", 3), ("b", "10", 1), ("b", "x", 2), ("a", "9", 5), ("a", "10", 5), ("a", "x", 4)]
)


def table(folder: Path, text: str, name: str = "some.csv") -> Path:
    path = folder / name
    path.write_text(text, encoding="utf-8")
    return path


def test_histories_come_in_the_order_of_time_and_items_by_their_names(tmp_path: Path) -> None:
    found = read_interactions(table(tmp_path, ROWS), ALL)
    assert found.items == ("9", "10", "x")
    assert list(found.histories) == ["a", "b"]
    assert found.histories["b"] == (1, 2, 0)
    assert found.histories["a"] == (2, 0, 1)  # at one time: the file's order


def test_the_order_of_rows_means_nothing_else(tmp_path: Path) -> None:
    first, *rest = ROWS.splitlines()
    ours = read_interactions(table(tmp_path, ROWS), ALL)
    turned = "\n".join([first, *rest[3:], *rest[:3]]) + "\n"
    assert read_interactions(table(tmp_path, turned, "turned.csv"), ALL) == ours


@pytest.mark.parametrize("kind", ["inter", "tsv", "csv.bz2", "parquet"])
def test_all_kinds_of_tables_say_the_same(tmp_path: Path, kind: str) -> None:
    import pandas as pd

    ours = read_interactions(table(tmp_path, ROWS), ALL)
    path = tmp_path / f"other.{kind}"
    if kind == "parquet":
        pd.read_csv(tmp_path / "some.csv", dtype={"item_id": str}).to_parquet(path)
    elif kind == "csv.bz2":
        path.write_bytes(bz2.compress(ROWS.encode()))
    else:
        text = ROWS.replace(",", "\t")
        typed = text.replace("user_id\titem_id\ttimestamp", "user_id:token\titem_id:token\ttimestamp:float")
        path.write_text(typed if kind == "inter" else text)
    assert read_interactions(path, ALL) == ours


def test_dates_are_times_too(tmp_path: Path) -> None:
    days = {"1": "2026-01-01", "2": "2026-01-02T10:00:00", "3": "2026-01-02T10:00:01"}
    lines = [line.split(",") for line in ROWS.splitlines()[1:4]]
    text = "who,what,when\n" + "".join(f"{user},{item},{days[time]}\n" for user, item, time in lines)
    named = RankerTable(user="who", item="what", time="when", least=1)
    found = read_interactions(table(tmp_path, text), named)
    assert [found.items[item] for item in found.histories["b"]] == ["10", "x", "9"]


def test_the_filter_goes_on_until_none_has_fewer(tmp_path: Path) -> None:
    """Without user c item z has one interaction, without item z user b has two, and so on to the core."""
    rows = [(user, item) for user in "pqr" for item in "vwx"]
    rows += [("b", "v"), ("b", "w"), ("b", "z"), ("c", "z"), ("c", "y")]
    text = "user_id,item_id,timestamp\n" + "".join(f"{u},{i},{n}\n" for n, (u, i) in enumerate(rows))
    found = read_interactions(table(tmp_path, text), RankerTable(least=3))
    assert found.items == ("v", "w", "x")
    assert list(found.histories) == ["p", "q", "r"]


@pytest.mark.parametrize(
    ("text", "said", "hint"),
    [
        (
            ROWS.replace("item_id", "film"),
            "no column 'item_id'; those there are user_id, film, timestamp",
            "ranker.item",
        ),
        (ROWS.replace("b,10,1", "b,10,soon"), "row 2: 'timestamp' is 'soon'", "seconds"),
        (ROWS.replace("b,9,3", "b,9,2026-01-01"), "row 1: 'timestamp' is '2026-01-01', no number as in", "seconds"),
        (ROWS.replace("b,10,1", ",10,1"), "row 2: no 'user_id'", "leave such rows out"),
        ("user_id,item_id,timestamp\n", "no user and items are left", "ranker.least"),
        ("", "cannot read", "whole"),
    ],
)
def test_what_cannot_be_used_is_named(tmp_path: Path, text: str, said: str, hint: str) -> None:
    with pytest.raises(ConfigError, match=r"some\.csv") as caught:
        read_interactions(table(tmp_path, text), ALL)
    assert said in str(caught.value)
    assert hint in str(caught.value.hint)


def test_a_file_of_another_kind_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="cannot tell how to read"):
        read_interactions(table(tmp_path, ROWS, "some.json"), ALL)


def data(length: int) -> Interactions:
    return Interactions(tuple(map(str, range(length))), {"u": tuple(range(length))})


def test_the_last_item_is_the_test_and_the_one_before_the_validation() -> None:
    found = data(5)
    (test,), (validation,), (document,) = found.test(), found.validation(), found.documents(10)
    assert (test.seen, test.target) == ((0, 1, 2, 3), 4)
    assert (validation.seen, validation.target) == ((0, 1, 2), 3)
    assert document.ids == (0, 1, 2)


@pytest.mark.parametrize(("length", "window"), [(4, 2), (12, 3), (12, 4), (13, 3), (14, 3), (40, 7)])
def test_windows_learn_every_item_once_and_nothing_that_is_held_out(length: int, window: int) -> None:
    documents = data(length).documents(window)
    learnt = [item for document in documents for item in document.ids[1:]]
    assert learnt == list(range(1, length - 2))
    assert all(2 <= len(document.ids) <= window + 1 for document in documents)


def test_a_user_with_one_item_to_learn_from_has_nothing_to_learn() -> None:
    assert data(3).documents(5) == []

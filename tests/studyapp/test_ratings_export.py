"""Exports, read back as their users would, against the database that they came from."""

import io
import json
import math
import sqlite3
import uuid

import pandas as pd
import pytest
from owned_study import CROWD, EVIL, KEYS, make_owned

from harness.errors import RatingError
from studyapp import export, store_owner_acts

NAMES = {key: f"arm-{number}" for number, key in enumerate(sorted(KEYS))}
RATINGS = [
    *("rater", "kind", "scenario", "category", "code", "position", "satisfaction", "goal_achievement", "comment"),
    *("seconds", "revision", "created_at", "updated_at", "mode", "item", "place"),
]


@pytest.fixture
def db(tmp_path):
    return make_owned(tmp_path / "study.db")


@pytest.fixture
def closed(db):
    store_owner_acts.set_state(db, "close", "cli")
    return db


def query(path, sql):
    connection = sqlite3.connect(path)
    connection.row_factory = sqlite3.Row
    rows = [dict(row) for row in connection.execute(sql)]
    connection.close()
    return rows


def read_csv(content):
    return pd.read_csv(io.BytesIO(content), keep_default_na=False, na_values={"seconds": [""]})


def test_pandas_reads_back_what_the_database_has(db):
    truth = query(db, "SELECT * FROM tidy_ratings")
    frames = [
        read_csv(export.render(db, "csv").content),
        pd.read_json(io.BytesIO(export.render(db, "jsonl").content), lines=True, dtype=False),
        pd.read_parquet(io.BytesIO(export.render(db, "parquet").content)),
    ]
    for frame in frames:
        assert list(frame.columns) == RATINGS
        assert len(frame) == len(truth) == 58
        for column in RATINGS:
            wanted = [row[column] for row in truth]
            found = frame[column].tolist()
            if column == "comment":  # in a CSV file a formula is made text
                found = [text.removeprefix("'") for text in found]
            assert found == wanted, column
        assert pd.api.types.is_integer_dtype(frame["satisfaction"])
        assert pd.api.types.is_float_dtype(frame["seconds"])


def test_what_strangers_wrote_is_no_formula_in_a_spreadsheet(db):
    comments = read_csv(export.render(db, "csv").content)["comment"]
    assert "'=1+1" in set(comments)
    assert not any(text[:1] in ("=", "+", "-", "@", "\t", "\r") for text in comments)
    exact = [json.loads(line)["comment"] for line in export.render(db, "jsonl").content.splitlines()]
    assert "=1+1" in exact
    assert EVIL in exact


@pytest.mark.parametrize("name", export.TABLES)
@pytest.mark.parametrize("form", ["csv", "jsonl", "parquet"])
def test_every_table_in_every_format_has_all_rows_and_no_key(closed, name, form):
    content = export.render(closed, form, name).content
    read = {
        "csv": read_csv,
        "jsonl": lambda content: pd.read_json(io.BytesIO(content), lines=True),
        "parquet": lambda content: pd.read_parquet(io.BytesIO(content)),
    }
    frame = read[form](content)
    columns, rows = export.table(closed, name)
    assert list(frame.columns) == columns
    assert len(frame) == len(rows) == len(query(closed, export.TABLES[name])) > 0
    assert not any("arm" in column for column in columns)
    assert not any(word.encode() in content for word in (*KEYS, "canary", CROWD, "cannot scroll"))


@pytest.mark.parametrize("name", export.TABLES)
def test_with_names_each_stands_beside_the_code_of_its_rater(closed, name):
    codes = {(row["label"], row["code"]): row["arm_key"] for row in
             query(closed, "SELECT label, code, arm_key FROM code JOIN rater ON rater.id = rater")}  # fmt: skip
    _, rows = export.table(closed, name, NAMES)
    _, blind = export.table(closed, name)
    pairs = [("code", "arm"), ("code_a", "arm_a"), ("code_b", "arm_b"), ("larger", "larger_arm")]
    pairs += [("preferred_code", "preferred_arm")]
    seen = 0
    for row, without in zip(rows, blind, strict=True):
        assert {column: value for column, value in row.items() if column in without} == without
        for code, arm in pairs:
            if row.get(code) is not None and arm in row and row[arm] is not None:
                assert row[arm] == NAMES[codes[row["rater"], row[code]]]
                seen += 1
        for code, arm in zip(row.get("codes", ()), row.get("arms", ()), strict=True):
            assert arm == NAMES[codes[row["rater"], code]]
            seen += 1
    assert seen or name in ("checks", "raters")


def test_history_has_every_revision(db):
    _, rows = export.table(db, "history")
    assert len(rows) == query(db, "SELECT count(*) AS n FROM rating_event")[0]["n"]
    assert [row["revision"] for row in rows if (row["rater"], row["position"]) == ("R01", 5)] == [1, 2]
    assert {row["item"] for row in rows} == {"rated", "check", "repeat"}


def test_preferences_and_guesses_speak_in_codes(db):
    (preference,) = export.table(db, "preferences")[1]
    assert (preference["preferred_code"], preference["revision"]) == (None, 2)
    assert sorted(preference["codes"]) == sorted(set(preference["codes"]))
    guesses = export.table(db, "guesses")[1]
    assert [(row["code_a"], row["code_b"], row["larger"]) for row in guesses] == [
        ("A", "B", "A"),
        ("A", "C", None),
        ("B", "C", None),
    ]


def test_raters_come_with_their_flags(db):
    _, rows = export.table(db, "raters")
    found = {row["rater"]: row["flags"] for row in rows}
    assert found["R02"] == "straight-lining"
    assert found["R04"] == "failed checks; repeats differ"
    assert found["R01"] == found["R05"] == ""
    assert [row["done"] for row in rows] == [15, 13, 13, 13, 13]


def test_an_empty_table_keeps_its_columns_and_types(tmp_path):
    db = make_owned(tmp_path / "study.db")
    connection = sqlite3.connect(db)
    for table in ("guess", "problem", "turn", "chat"):
        connection.execute(f"DELETE FROM {table}")
    connection.commit()
    connection.close()
    frame = pd.read_parquet(io.BytesIO(export.render(db, "parquet", "live").content))
    assert (len(frame), str(frame["underruns"].dtype)) == (0, "int64")
    assert len(read_csv(export.render(db, "csv", "guesses").content)) == 0


def test_texts_stay_inside_until_the_study_is_closed(db):
    for name, form in (("chats", "csv"), ("ratings", "argilla"), ("ratings", "label-studio")):
        with pytest.raises(RatingError, match="closed study only"):
            export.render(db, form, name)
    for name in set(export.TABLES) - {"chats"}:
        assert b"Text 0" not in export.render(db, "csv", name).content
    with pytest.raises(RatingError, match="no table 'secrets'"):
        export.table(db, "secrets")
    with pytest.raises(RatingError, match="unknown format 'exe'"):
        export.render(db, "exe")


def test_chats_are_what_the_raters_read(closed):
    _, rows = export.table(closed, "chats")
    live = [row for row in rows if row["mode"] == "live"]
    assert [message["content"] for message in live[0]["messages"]] == ["Hello?", "Live words."]
    truth = {
        (row["scenario"], row["arm_key"]): json.loads(row["messages"]) for row in query(closed, "SELECT * FROM answer")
    }
    codes = {(row["label"], row["code"]): row["arm_key"] for row in
             query(closed, "SELECT label, code, arm_key FROM code JOIN rater ON rater.id = rater")}  # fmt: skip
    prepared = [row for row in rows if row["mode"] != "live"]
    assert len(prepared) == 61
    assert all(row["messages"] == truth[row["scenario"], codes[row["rater"], row["code"]]] for row in prepared)


def test_argilla_gets_one_record_for_each_chat_with_everybodys_answers(closed):
    records = json.loads(export.render(closed, "argilla").content)
    assert len(records) == 13  # twelve prepared ones and a live one
    assert len({record["id"] for record in records}) == 13
    total = 0
    for record in records:
        assert set(record) == {"id", "fields", "metadata", "responses", "suggestions", "vectors"}
        assert set(record["fields"]) == {"goal", "reached", "chat"}
        assert [message["role"] for message in record["fields"]["chat"]] == ["user", "assistant"]
        users = [answer["user_id"] for answer in record["responses"]["satisfaction"]]
        assert len(set(users)) == len(users) == len(record["metadata"]["codes"])
        assert all(str(uuid.UUID(user)) == user for user in users)
        assert all(answer["value"] in range(1, 6) for answer in record["responses"]["goal_achievement"])
        total += len(users)
    assert total == 58
    assert "arm" not in records[0]["metadata"]
    named = json.loads(export.render(closed, "argilla", names=NAMES).content)
    assert {record["metadata"]["arm"] for record in named} == set(NAMES.values())


def test_label_studio_gets_one_task_for_each_chat(closed):
    tasks = json.loads(export.render(closed, "label-studio").content)
    assert len(tasks) == 13
    marks = []
    for task in tasks:
        assert all(set(turn) == {"author", "text"} for turn in task["data"]["chat"])
        for annotation in task["annotations"]:
            results = {result["from_name"]: result for result in annotation["result"]}
            assert all(result["to_name"] == "chat" for result in results.values())
            assert results["satisfaction"]["type"] == "rating"
            marks.append(
                (annotation["rater"], annotation["code"], task["data"]["scenario"],
                 results["satisfaction"]["value"]["rating"], results["goal_achievement"]["value"]["rating"])
            )  # fmt: skip
            assert math.isfinite(annotation["lead_time"])
    truth = query(closed, "SELECT rater, code, scenario, satisfaction, goal_achievement FROM tidy_ratings")
    assert sorted(marks) == sorted(tuple(row.values()) for row in truth)


def test_two_arms_with_one_text_do_not_make_a_rater_answer_twice(closed):
    connection = sqlite3.connect(closed)
    connection.execute(
        "UPDATE answer SET messages = (SELECT messages FROM answer AS a WHERE a.scenario = answer.scenario)"
    )
    connection.commit()
    connection.close()
    records = json.loads(export.render(closed, "argilla").content)
    for record in records:
        users = [answer["user_id"] for answer in record["responses"]["satisfaction"]]
        assert len(set(users)) == len(users)
    assert sum(len(record["metadata"]["codes"]) for record in records) == 58

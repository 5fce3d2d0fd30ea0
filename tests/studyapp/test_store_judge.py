"""Model judges in study.db: their records, their marks, and what the database refuses."""

import sqlite3

import pytest
from small_study import KEYS

from harness.errors import RatingError
from studyapp import db, store_judge
from studyapp.store_judge import Item, Judge, Reply

JUDGE = Judge("strict", "single", "some-model", "host:8000", "1-abc", {"temperature": 0})
PAIRS = Judge("strict", "pairwise", "some-model", "host:8000", "1-abc", {"temperature": 0})
BAD = Reply("well", "no_marks", tokens_in=10, tokens_out=2)
GOOD = Reply("{...}", None, {"satisfaction": 4, "goal_achievement": 2}, "fine", 20, 5, 0.5)
PAIR = Reply("{...}", None, {"score_first": 4, "score_second": 2, "winner": "first"}, "fine")


def rows(path, sql):
    with db.connect(path) as connection:
        return connection.conn.execute(sql).fetchall()


def test_texts_come_under_keys_with_goals(path):
    texts = store_judge.texts(path)
    assert len(texts.chats) == len(KEYS) * 4
    assert texts.goals["s1"] == ("You want thing 1.", "The answer names thing 1.")
    assert [message.role for message in texts.chats["s1", "k-one", None]] == ["user", "assistant"]


def test_every_reply_is_kept_and_a_readable_one_becomes_a_rating(path):
    rater = store_judge.enter(path, JUDGE)
    assert store_judge.enter(path, JUDGE) == rater
    item = Item("s1", "k-one")
    store_judge.keep(path, rater, item, BAD, (12, None))
    store_judge.keep(path, rater, item, GOOD, (12, None))
    store_judge.keep(path, rater, item, GOOD, (12, None))  # another process was slower
    store_judge.keep(path, rater, Item("s2", "k-two"), GOOD, (8, None))
    assert [reply.problem for reply in store_judge.said(path, JUDGE)[item]] == ["no_marks", None]
    assert rows(path, "SELECT kind, scenario, arm_key, position, satisfaction, goal_achievement, comment, seconds"
                      " FROM tidy_ratings") == [
        ("judge", "s1", "k-one", 1, 4, 2, "fine", 0.5),
        ("judge", "s2", "k-two", 2, 4, 2, "fine", 0.5),
    ]  # fmt: skip
    assert rows(path, "SELECT count(*) FROM rating_event") == [(2,)]
    assert rows(
        path, "SELECT replies, invalid, verdicts, late, unanswered, tokens_in, tokens_out FROM tidy_judges"
    ) == [(3, 1, 2, 1, 0, 50, 12)]


def test_comparisons_are_no_ratings_and_both_orders_are_two_items(path):
    rater = store_judge.enter(path, PAIRS)
    for item in (Item("s1", "k-one", "k-two"), Item("s1", "k-two", "k-one")):
        store_judge.keep(path, rater, item, PAIR, (3, 4))
    assert len(store_judge.said(path, PAIRS)) == 2
    assert store_judge.said(path, JUDGE) == {}
    assert rows(path, "SELECT count(*) FROM tidy_ratings") == [(0,)]
    assert rows(path, "SELECT arm_key, arm_key_second, winner, length_first, length_second FROM tidy_verdicts") == [
        ("k-one", "k-two", "first", 3, 4),
        ("k-two", "k-one", "first", 3, 4),
    ]


def test_a_long_reason_is_whole_with_the_verdict_and_cut_with_the_rating(path):
    rater = store_judge.enter(path, JUDGE)
    reason = "because " * 400
    store_judge.keep(path, rater, Item("s1", "k-one"), Reply("{}", None, GOOD.marks, reason), (1, None))
    assert rows(path, "SELECT length(reason) FROM verdict") == [(len(reason),)]
    assert rows(path, "SELECT length(comment) FROM rating") == [(2000,)]


def test_settings_may_change_until_the_first_reply(path):
    rater = store_judge.enter(path, JUDGE)
    other = Judge("strict", "single", "larger-model", "host:8000", "1-abc", {"temperature": 0})
    assert store_judge.enter(path, other) == rater
    assert rows(path, "SELECT model FROM judge") == [("larger-model",)]
    store_judge.keep(path, rater, Item("s1", "k-one"), BAD, (1, None))
    for act in (store_judge.enter, store_judge.said):
        with pytest.raises(RatingError, match="another model"):
            act(path, JUDGE)


@pytest.mark.parametrize(
    "change",
    [
        "satisfaction = 6",
        "satisfaction = NULL",
        "problem = NULL, satisfaction = NULL",
        "second = first",
        "second = 'k-two'",
        "winner = 'nobody'",
        "first = 'nothing'",
        "scenario = 'nowhere'",
        "attempt = 0",
    ],
)
def test_the_database_refuses_half_verdicts(path, change):
    rater = store_judge.enter(path, JUDGE)
    store_judge.keep(path, rater, Item("s1", "k-one"), GOOD, (1, None))
    with db.write(path) as connection, pytest.raises(sqlite3.IntegrityError):
        connection.conn.execute(f"UPDATE verdict SET {change}")


def test_judging_leaves_the_balance_of_people_alone(path):
    from studyapp import session

    before = db_copy(path)
    rater = store_judge.enter(path, JUDGE)
    for scenario in ("s1", "s2", "s3", "s4"):
        for key in KEYS:
            store_judge.keep(path, rater, Item(scenario, key), GOOD, (1, None))
    dealt = []
    for database in (before, path):
        who = session.who(database, session.join(database))
        dealt.append(rows(database, f"SELECT scenario, arm_key, position FROM assignment WHERE rater = {who.id}"))
    assert dealt[0] == dealt[1]


def db_copy(path):
    import shutil

    with db.connect(path) as connection:
        connection.conn.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    return shutil.copy(path, path.with_name("before.db"))


LIVE = """
UPDATE scenario SET mode = 'live' WHERE id = 's1';
DELETE FROM answer WHERE scenario = 's1';
INSERT INTO rater (id, label, kind, slot, joined_at, consented_at, consent_version, last_seen)
    VALUES (1, 'R01', 'person', 0, 'now', 'now', 1, 'now');
INSERT INTO code VALUES (1, 'k-one', 'A'), (1, 'k-two', 'B');
INSERT INTO assignment (id, rater, kind, mode, scenario, arm_key, code, position, place, done_at)
    VALUES (1, 1, 'rated', 'live', 's1', 'k-one', 'A', 1, 1, 'now'),
        (2, 1, 'rated', 'live', 's1', 'k-two', 'B', 2, 1, NULL);
INSERT INTO chat (assignment, started_at, ended_at, ended_by) VALUES (1, 'now', 'now', 'rater'), (2, 'now', NULL, NULL);
INSERT INTO turn (assignment, number, role, content, at, finish) VALUES
    (1, 1, 'user', 'Hello?', 'now', NULL), (1, 1, 'assistant', 'Good day.', 'now', 'stop'),
    (1, 2, 'user', 'Thing 1, please.', 'now', NULL), (1, 2, 'assistant', 'Here: thing 1.', 'now', 'stop'),
    (1, 3, 'user', 'Are you there?', 'now', NULL), (2, 1, 'user', 'Hello?', 'now', NULL);
INSERT INTO rating VALUES (1, 5, 4, '', 10, 1, 'now', 'now');
"""


@pytest.fixture
def live(path):
    with db.write(path) as connection:
        for statement in LIVE.split(";\n"):
            if statement.strip():
                connection.conn.execute(statement)
    return path


def test_live_chats_are_judged_only_when_asked_for_and_only_those_that_were_rated(live):
    assert not [key for key in store_judge.texts(live).chats if key[0] == "s1"]
    chats = store_judge.texts(live, live=True).chats
    assert [key for key in chats if key[0] == "s1"] == [("s1", "k-one", 1)]
    assert [message.content for message in chats["s1", "k-one", 1]] == [
        "Hello?", "Good day.", "Thing 1, please.", "Here: thing 1.",
    ]  # fmt: skip


def test_a_verdict_on_a_live_chat_is_no_rating_and_goes_with_its_rater(live):
    from studyapp import store_raters

    rater = store_judge.enter(live, JUDGE)
    store_judge.keep(live, rater, Item("s1", "k-one", chat=1), GOOD, (24, None))
    assert rows(live, "SELECT texts, chat_rater, satisfaction FROM tidy_verdicts") == [("live", "R01", 4)]
    assert rows(live, "SELECT count(*) FROM tidy_ratings WHERE kind = 'judge'") == [(0,)]
    store_raters.withdraw(live, 1)
    assert rows(live, "SELECT count(*) FROM verdict") == [(0,)]

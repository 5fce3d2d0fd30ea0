"""A study.db of the first schema, as Viva 0.1 left it: only m001 is applied, and rows are put in by its own SQL."""

import hashlib
import json
import sqlite3
from pathlib import Path

from small_study import KEYS, scenarios, text_of
from sqlite_utils import Database

from harness.rundir import digest
from studyapp import schema

TOKEN = "the cookie of the first rater"
AT = "2026-01-05T10:{:02d}:00.000+00:00"


def make_first(path: Path) -> Path:
    """Three scenarios by three arms, two raters, R01 with four ratings (one revised), R02 with none."""
    connection = sqlite3.connect(path, isolation_level=None)
    connection.execute("PRAGMA journal_mode = WAL")
    connection.execute("PRAGMA foreign_keys = ON")
    schema.migrations.apply(Database(connection), stop_before="m002_live_and_side_by_side")
    items, keys = scenarios(3), sorted(KEYS)
    chats = [
        (key, one.id, [{"role": "user", "content": one.opening}, {"role": "assistant", "content": text_of(at, one)}])
        for at, key in enumerate(KEYS)
        for one in items
    ]
    chats.sort(key=lambda chat: chat[:2])
    content = digest(["fixed", 7, [one.model_dump() for one in items], keys, chats])
    connection.execute(
        "INSERT INTO study VALUES (1, 'abcd1234', 'small', 'fixed', 7, 2, 3, 'Old consent.', 1, ?, 'open', ?)",
        (content, AT.format(0)),
    )
    for number, one in enumerate(items):
        row = (one.id, one.category, one.goal, one.opening, one.turns, one.reached, number)
        connection.execute("INSERT INTO scenario VALUES (?, ?, ?, ?, ?, ?, ?)", row)
    connection.executemany("INSERT INTO arm VALUES (?)", [(key,) for key in keys])
    connection.executemany(
        "INSERT INTO answer (arm_key, scenario, messages) VALUES (?, ?, ?)",
        [(arm, scenario, json.dumps(messages)) for arm, scenario, messages in chats],
    )
    for rater, token in ((1, TOKEN), (2, "another cookie")):
        hashed = hashlib.sha256(token.encode()).hexdigest()
        row = (rater, f"R{rater:02d}", "person", hashed, AT.format(1), AT.format(1), 1, AT.format(20))
        connection.execute("INSERT INTO rater VALUES (?, ?, ?, ?, ?, ?, ?, ?)", row)
        codes = dict(zip(keys, "ABC" if rater == 1 else "BCA", strict=True))
        connection.executemany("INSERT INTO code VALUES (?, ?, ?)", [(rater, key, code) for key, code in codes.items()])
        cells = [(one.id, key) for key in keys for one in items]
        connection.executemany(
            "INSERT INTO assignment (rater, scenario, arm_key, code, position) VALUES (?, ?, ?, ?, ?)",
            [(rater, scenario, key, codes[key], at) for at, (scenario, key) in enumerate(cells, 1)],
        )
    for item in range(1, 5):
        at, revision = AT.format(item + 2), 2 if item == 1 else 1
        connection.execute(
            "UPDATE assignment SET opened_at = ?1, shown_at = ?1, done_at = ?1 WHERE id = ?2", (at, item)
        )
        row = (item, item % 5 + 1, 3, "a comment" if item == 2 else "", 12.5, revision, at, at)
        connection.execute("INSERT INTO rating VALUES (?, ?, ?, ?, ?, ?, ?, ?)", row)
        for number in range(1, revision + 1):
            event = (item, number, item % 5 + 1, 3, row[3], 12.5, at)
            connection.execute(
                "INSERT INTO rating_event (assignment, revision, satisfaction, goal_achievement, comment, seconds, at)"
                " VALUES (?, ?, ?, ?, ?, ?, ?)",
                event,
            )
    connection.close()
    return path

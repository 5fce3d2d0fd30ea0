"""Putting a study into study.db: scenarios, arm keys and prepared answers. The harness calls this, the page never."""

import json
import secrets
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from sqlite_utils import Database

from harness.errors import RatingError
from harness.records import Message, Scenario
from harness.rundir import digest, now
from studyapp.db import prepare, write

MODES = ("live", "fixed", "side-by-side")

CONSENT = """You will read short chats with an assistant, and say how good each one is.

For each chat you see a goal, and when it counts as reached: imagine that the request was yours. You then give two \
marks from 1 to 5, for how satisfied you would be with the assistant and for how far the goal was reached. You may \
add a comment.

The same request comes back a few times, answered by different assistants, called Assistant A, Assistant B and so on. \
This page does not know which is which. Some answers are poor: your honest opinion is what is needed.

Taking part is voluntary, and you can stop at any time by closing the page. Stored are your marks and comments, when \
you gave them and how long you looked at each chat, under a pseudonym such as R01. Your name, your address and your \
device are not stored."""
"""What a rater reads before consenting, unless the study brings its own text. Paragraphs are parted by blank lines."""


def create(
    path: Path,
    *,
    name: str,
    mode: str,
    seed: int,
    ratings_per_cell: int,
    scenarios: Sequence[Scenario],
    arm_keys: Sequence[str],
    answers: Iterable[tuple[str, str, Sequence[Message]]],
    consent: str | None = None,
    scenarios_per_rater: int = 12,
) -> bool:
    """Write a study to its database; True if anything changed.

    `answers` are (arm key, scenario id, messages of the whole chat), one for each cell. The same study again changes
    nothing. Other scenarios, arms or answers replace the old ones, and the raters who have rated nothing, as long as
    there is no rating. Name, consent text (under a new version) and the two sizes may change at any time.

    Raises RatingError for an incomplete or inconsistent study, and for other content once ratings exist.
    """
    chats = [(arm, scenario, [message.model_dump() for message in messages]) for arm, scenario, messages in answers]
    chats.sort(key=lambda chat: chat[:2])  # not in the order of the study file, in which the teacher comes first
    _check(mode, ratings_per_cell, scenarios_per_rater, scenarios, arm_keys, chats)
    keys = sorted(arm_keys)
    content = digest([mode, seed, [scenario.model_dump() for scenario in scenarios], keys, chats])
    consent = CONSENT if consent is None else consent.strip()
    settings = {
        "name": name,
        "ratings_per_cell": ratings_per_cell,
        "scenarios_per_rater": scenarios_per_rater,
        "consent": consent,
    }

    prepare(path)
    with write(path) as db:
        old = next(iter(db.query("SELECT * FROM study")), None)
        if old is None:
            facts = {**settings, "consent_version": 1, "uid": secrets.token_hex(4), "created_at": now()}
            _insert(db, "study", [{"id": 1, "mode": mode, "seed": seed, "content": content, **facts}])
        else:
            settings["consent_version"] = old["consent_version"] + (old["consent"] != consent)
            if old["content"] == content and all(old[key] == value for key, value in settings.items()):
                return False
            if old["content"] != content:
                _clear(db, path)
            db.conn.execute(
                "UPDATE study SET name = :name, ratings_per_cell = :ratings_per_cell, consent = :consent, mode = :mode,"
                " scenarios_per_rater = :scenarios_per_rater, consent_version = :consent_version, seed = :seed,"
                " content = :content",
                {**settings, "mode": mode, "seed": seed, "content": content},
            )
        if old is None or old["content"] != content:
            rows = [{**scenario.model_dump(), "ord": number} for number, scenario in enumerate(scenarios)]
            _insert(db, "scenario", rows)
            _insert(db, "arm", [{"key": key} for key in keys])
            texts = [(arm, scenario, json.dumps(messages, ensure_ascii=False)) for arm, scenario, messages in chats]
            _insert(db, "answer", [{"arm_key": a, "scenario": s, "messages": text} for a, s, text in texts])
    return True


def _check(
    mode: str,
    ratings_per_cell: int,
    scenarios_per_rater: int,
    scenarios: Sequence[Scenario],
    arm_keys: Sequence[str],
    chats: Sequence[tuple[str, str, Any]],
) -> None:
    if mode not in MODES:
        raise RatingError(f"unknown rating mode {mode!r}", hint=f"use one of {', '.join(MODES)}")
    if mode != "fixed":
        raise RatingError(f"mode {mode!r} is not built yet", hint='use mode = "fixed" under [rate]')
    for key, value in (("ratings_per_cell", ratings_per_cell), ("scenarios_per_rater", scenarios_per_rater)):
        if value < 1:
            raise RatingError(f"{key} is {value}", hint="it must be 1 or more")
    ids = [scenario.id for scenario in scenarios]
    for what, values in (("scenario id", ids), ("arm key", list(arm_keys))):
        if not values:
            raise RatingError(f"the study has no {what}", hint="a rating study needs at least one scenario and one arm")
        if twice := next((value for value in values if values.count(value) > 1), None):
            raise RatingError(f"the {what} {twice!r} comes twice", hint="each must be unique")
    given = [(arm, scenario) for arm, scenario, _ in chats]
    wanted = {(arm, scenario) for arm in arm_keys for scenario in ids}
    if len(given) != len(set(given)) or set(given) != wanted:
        missing, extra = len(wanted - set(given)), len(given) - len(wanted & set(given))
        raise RatingError(
            f"the answers do not fit the study: {missing} of {len(wanted)} are missing, {extra} are too many",
            hint="every arm answers every scenario exactly once; run viva answer again",
        )
    if empty := next((scenario for _, scenario, messages in chats if not messages), None):
        raise RatingError(f"an answer to scenario {empty!r} has no message", hint="run viva answer again")


def _clear(db: Database, path: Path) -> None:
    """Remove a study's content and its raters, who have rated nothing."""
    ratings = db.conn.execute("SELECT count(*) FROM rating").fetchone()[0]
    if ratings:
        raise RatingError(
            f"the study's scenarios, arms or answers have changed, but {path} already holds "
            f"{ratings} rating{'s' if ratings > 1 else ''} of the earlier ones",
            hint="keep those as they are, and give the changed study another run directory with --run",
        )
    for table in ("assignment", "code", "rater", "answer", "arm", "scenario"):
        db.conn.execute(f"DELETE FROM {table}")


def _insert(db: Database, table: str, rows: Sequence[dict[str, Any]]) -> None:
    # sqlite-utils' insert creates a misspelt table instead of complaining
    columns = list(rows[0])
    slots = ", ".join(f":{column}" for column in columns)
    db.conn.executemany(f"INSERT INTO {table} ({', '.join(columns)}) VALUES ({slots})", rows)

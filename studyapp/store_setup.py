"""Putting a study into study.db: scenarios, arm keys, prepared and known answers. The harness calls this, not the page.

What raters meet cannot change once there are ratings. Settings can; and what the owner changed since (more ratings,
more raters) holds until the study file itself says something else.
"""

import json
import secrets
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from sqlite_utils import Database

from harness.errors import RatingError
from harness.records import KnownAnswer, Message, Scenario
from harness.rundir import digest, now
from studyapp.db import prepare, write
from studyapp.store_checks import check_study
from studyapp.texts import texts

_TABLES = (
    *("problem", "assignment", "guess", "token", "crowd", "code", "rater"),
    *("extra", "answer", "arm", "scenario"),
)  # children before what they refer to


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
    crossing: str = "within",
    side: int | None = None,
    training: Sequence[KnownAnswer] = (),
    checks: Sequence[KnownAnswer] = (),
    margin: float | None = None,
    **settings: Any,
) -> bool:
    """Write a study to its database; True if anything changed.

    `consent` is what raters agree to, by default Viva's own text; paragraphs are parted by blank lines.
    `answers` are (arm key, scenario id, messages of the whole chat), one for each cell whose scenario is not live.
    `side` is the most arms on one side-by-side page (default: all, up to four). `settings` are columns of the table
    study: language, open_join, max_raters, lease_minutes, check_every, repeats, questions, completion_code,
    completion_url, self_words.

    The same study again changes nothing. Other scenarios, arms or answers replace the old ones, and the raters who have
    rated nothing, as long as there is no rating. The margin is fixed with its time before the first rating.

    Raises RatingError for an incomplete or inconsistent study, and for other content once ratings exist.
    """
    chats = [(arm, scenario, [message.model_dump() for message in messages]) for arm, scenario, messages in answers]
    chats.sort(key=lambda chat: chat[:2])  # not in the order of the study file, in which the teacher comes first
    modes = {scenario.id: scenario.mode or mode for scenario in scenarios}
    beside = "side-by-side" in modes.values()
    side = max(2, min(4, len(arm_keys))) if side is None else side
    sizes = {"ratings_per_cell": ratings_per_cell, "scenarios_per_rater": scenarios_per_rater, "side": side}
    said = {**sizes, "name": name, "consent": _consent(consent, settings), **settings}
    said["questions"] = int(said.get("questions", len(arm_keys) > 1))
    said["open_join"] = int(said.get("open_join", True))
    said["self_words"] = json.dumps(list(said.get("self_words", ())), ensure_ascii=False)
    check_study(mode, modes, crossing, said, scenarios, arm_keys, chats, [*training, *checks])
    keys = sorted(arm_keys)
    parts = [mode, seed, [scenario.model_dump() for scenario in scenarios], keys, chats]
    design: dict[str, Any] = {"crossing": crossing} if crossing != "within" else {}
    design |= {"side": side} if beside else {}
    extras = [{"kind": kind, **one.model_dump()} for kind, own in _kinds(training, checks) for one in own]
    content = digest([*parts, *([design] if design else []), *([extras] if extras else [])])

    prepare(path)
    with write(path) as db:
        old = next(iter(db.query("SELECT * FROM study")), None)
        fresh = old is None or old["content"] != content
        if old is None:
            facts = {"id": 1, "consent_version": 1, "uid": secrets.token_hex(4), "created_at": now()}
            changes = {**facts, "mode": mode, "seed": seed, "crossing": crossing, "content": content, **said}
            _insert(db, "study", [changes])
        else:
            changes = _changed(old, said)
            if fresh:
                _clear(db, path)
                changes |= {"mode": mode, "seed": seed, "crossing": crossing, "content": content}
            _update(db, changes)
        _update(db, {"settings": json.dumps(said, sort_keys=True, ensure_ascii=False)})
        if fresh:
            _fill(db, scenarios, modes, keys, chats, training, checks)
        fixed = _fix_margin(db, margin)
    return bool(changes) or fixed


def _consent(own: str | None, settings: Mapping[str, Any]) -> str:
    """What a rater reads before consenting: the study's own text, or Viva's in the study's language."""
    return texts(settings.get("language", "en"))("consent.text").strip() if own is None else own.strip()


def _kinds(training: Sequence[KnownAnswer], checks: Sequence[KnownAnswer]) -> list[tuple[str, Sequence[KnownAnswer]]]:
    return [("training", training), ("check", checks)]


def _changed(old: Mapping[str, Any], said: Mapping[str, Any]) -> dict[str, Any]:
    """The settings that the study file says otherwise than last time; the owner's own changes are left alone."""
    before = json.loads(old["settings"] or "{}")
    changes = {key: value for key, value in said.items() if value != before.get(key, old[key])}
    if changes.get("consent", old["consent"]) != old["consent"]:
        changes["consent_version"] = old["consent_version"] + 1
    return changes


def _fill(
    db: Database,
    scenarios: Sequence[Scenario],
    modes: Mapping[str, str],
    keys: Sequence[str],
    chats: Sequence[tuple[str, str, Any]],
    training: Sequence[KnownAnswer],
    checks: Sequence[KnownAnswer],
) -> None:
    rows = [{**one.model_dump(), "mode": modes[one.id], "ord": at} for at, one in enumerate(scenarios)]
    _insert(db, "scenario", rows)
    _insert(db, "arm", [{"key": key} for key in keys])
    texts = [(arm, scenario, json.dumps(messages, ensure_ascii=False)) for arm, scenario, messages in chats]
    _insert(db, "answer", [{"arm_key": a, "scenario": s, "messages": text} for a, s, text in texts])
    extras = []
    for kind, own in _kinds(training, checks):
        for at, one in enumerate(own):
            values = one.model_dump()
            for short, scale in (("satisfaction", "satisfaction"), ("goal", "goal_achievement")):
                values[f"{short}_from"], values[f"{short}_to"] = values.pop(scale)
            values["messages"] = json.dumps(values["messages"], ensure_ascii=False)
            values["id"] = f"{kind}-{one.id}"
            extras.append({**values, "kind": kind, "ord": at})
    _insert(db, "extra", extras)


def _clear(db: Database, path: Path) -> None:
    """Remove a study's content and its raters, who have rated nothing."""
    ratings = db.conn.execute("SELECT count(*) FROM rating").fetchone()[0]
    chats = db.conn.execute("SELECT count(*) FROM chat").fetchone()[0]
    if ratings or chats:
        held = f"{ratings} rating{'s' if ratings != 1 else ''}" + (f" and {chats} live chats" if chats else "")
        raise RatingError(
            f"the study's scenarios, arms or answers have changed, but {path} already holds {held} of the earlier ones",
            hint="keep those as they are, and give the changed study another run directory with --run",
        )
    db.conn.execute("UPDATE invite SET rater = NULL, used_at = NULL")  # whoever was invited may join the new study
    for table in _TABLES:
        db.conn.execute(f"DELETE FROM {table}")


def _fix_margin(db: Database, margin: float | None) -> bool:
    """Note the margin and the time: it holds from the first rating on, whatever the study file says later."""
    old = next(iter(db.query("SELECT margin, (SELECT count(*) FROM rating) AS ratings FROM study")))
    if margin is None or margin == old["margin"] or (old["ratings"] and old["margin"] is not None):
        return False
    _update(db, {"margin": margin, "margin_at": now()})
    return True


def _update(db: Database, changes: Mapping[str, Any]) -> None:
    if changes:
        slots = ", ".join(f"{column} = :{column}" for column in changes)
        db.conn.execute(f"UPDATE study SET {slots}", dict(changes))


def _insert(db: Database, table: str, rows: Sequence[Mapping[str, Any]]) -> None:
    # sqlite-utils' insert creates a misspelt table instead of complaining
    if not rows:
        return
    columns = list(rows[0])
    slots = ", ".join(f":{column}" for column in columns)
    db.conn.executemany(f"INSERT INTO {table} ({', '.join(columns)}) VALUES ({slots})", [dict(row) for row in rows])

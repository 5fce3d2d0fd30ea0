"""A study.db of the rating page's own schema, filled by SQL: live, fixed and side-by-side ratings, and all the rest."""

import json
import sqlite3
from pathlib import Path
from typing import Any

import numpy as np
from fixture_run import ARMS, CATEGORIES, KEYS, make_run

from studyapp.db import prepare

KEY = {arm: key for key, arm in KEYS.items()}
QUALITY = {"teacher": 4.0, "distilled": 3.5, "scratch": 1.8}
MARGIN_AT, FIRST = "2026-01-05T09:00:00+00:00", "2026-01-06T10:00:00+00:00"
SCENARIOS = 24


def make_study(root: Path, *, raters: int = 16, modes: tuple[str, ...] = ("fixed",), **study: Any) -> Path:
    """A run directory whose study.db has `raters` people with 8 scenarios each in every arm.

    `modes` are dealt to scenarios by turns; `study` overrides columns of the study's row.
    """
    make_run(root, raters=0, scenarios=SCENARIOS)
    path = root / "study.db"
    path.unlink()
    prepare(path)
    db = sqlite3.connect(path)
    db.execute("PRAGMA foreign_keys = ON")
    row = {
        **{"id": 1, "uid": "u", "name": "fixture", "mode": modes[0], "seed": 1, "ratings_per_cell": 5},
        **{"scenarios_per_rater": 8, "consent": "", "consent_version": 1, "content": "", "state": "open"},
        **{"created_at": MARGIN_AT, "margin": 0.9, "margin_at": MARGIN_AT, "self_words": '["SmolLM"]'},
    } | study
    insert(db, "study", **row)
    for number in range(SCENARIOS):
        mode = modes[number % len(modes)]
        insert(
            db,
            "scenario",
            id=f"s{number:02d}",
            category=CATEGORIES[number % 3],
            goal=f"goal {number}",
            opening="hi",
            turns=2,
            reached="reached",
            ord=number,
            mode=mode,
        )
    for arm, key in KEY.items():
        insert(db, "arm", key=key)
        for number in range(SCENARIOS):
            text = "I am SmolLM." if arm == "scratch" and number == 0 else f"Text of {number}."
            messages = [{"role": "user", "content": "hi"}, {"role": "assistant", "content": text}]
            insert(db, "answer", scenario=f"s{number:02d}", arm_key=key, messages=json.dumps(messages))
    rng = np.random.default_rng(4)
    for rater in range(1, raters + 1):
        add_rater(db, rater, rng, modes)
    db.commit()
    db.close()
    return root


def insert(db: sqlite3.Connection, table: str, **values: Any) -> int:
    marks = ", ".join("?" * len(values))
    done = db.execute(f"INSERT INTO {table} ({', '.join(values)}) VALUES ({marks})", list(values.values()))
    return int(done.lastrowid or 0)


def add_rater(db: sqlite3.Connection, rater: int, rng: np.random.Generator, modes: tuple[str, ...]) -> None:
    """A rater with codes, 8 scenarios in every arm, a repeat, a known answer, and a guess about each pair of arms."""
    insert(
        db,
        "rater",
        id=rater,
        label=f"R{rater:02d}",
        kind="person",
        slot=rater - 1,
        joined_at=FIRST,
        language="de" if rater % 4 == 0 else "en",
        consented_at=FIRST,
        consent_version=1,
        last_seen=FIRST,
    )
    codes = dict(zip(KEY.values(), np.roll(["A", "B", "C"], rater).tolist(), strict=True))
    for key, code in codes.items():
        insert(db, "code", rater=rater, arm_key=key, code=code)
    severity, position = rng.normal(0, 0.4), 0
    chosen = rng.permutation(SCENARIOS)[:8]
    for number in chosen:
        mode = modes[number % len(modes)]
        order = rng.permutation(ARMS).tolist()
        pages = [order[:2]] if mode == "side-by-side" else [[arm] for arm in order]
        for page in pages:
            position += 1
            marks = [
                add_item(db, rater, rng, "rated", mode, int(number), arm, codes, position, place, severity)
                for place, arm in enumerate(page, 1)
            ]
            if mode == "side-by-side":
                better = None if marks[0] == marks[1] else codes[KEY[page[int(marks[1] > marks[0])]]]
                insert(db, "preference", rater=rater, position=position, revision=1, code=better, at=FIRST)
    number, mode = int(chosen[0]), modes[int(chosen[0]) % len(modes)]
    if mode != "side-by-side":
        add_item(db, rater, rng, "repeat", mode, number, "teacher", codes, position + 1, 1, severity)
    for pair in (("teacher", "distilled"), ("teacher", "scratch"), ("distilled", "scratch")):
        a, b = sorted(codes[KEY[arm]] for arm in pair)
        larger = codes[KEY["teacher"]] if "teacher" in pair and rater % 2 else (a if rater % 4 else None)
        insert(db, "guess", rater=rater, code_a=a, code_b=b, larger=larger, at=FIRST)


def add_item(
    db: sqlite3.Connection,
    rater: int,
    rng: np.random.Generator,
    kind: str,
    mode: str,
    number: int,
    arm: str,
    codes: dict[str, str],
    position: int,
    place: int,
    severity: float,
) -> int:
    """One assignment with its rating, and with its chat in live mode."""
    key, at = KEY[arm], f"2026-01-{6 + rater:02d}T10:{position:02d}:00+00:00"
    assignment = insert(
        db,
        "assignment",
        rater=rater,
        kind=kind,
        mode=mode,
        scenario=f"s{number:02d}",
        arm_key=key,
        code=codes[key],
        position=position,
        place=place,
        opened_at=at,
        shown_at=at,
        done_at=at,
    )
    if mode == "live":
        insert(db, "chat", assignment=assignment, started_at=at, ended_at=at, ended_by="rater")
        insert(db, "turn", assignment=assignment, number=1, role="user", content="hi", at=at)
        late = int(arm == "scratch" and number % 5 == 0)
        insert(
            db,
            "turn",
            assignment=assignment,
            number=1,
            role="assistant",
            content="hello",
            at=at,
            finish="stop",
            underruns=late,
            late_s=0.3 * late,
            failed=0,
        )
    marks = [int(np.clip(round(QUALITY[arm] + severity + rng.normal(0, 0.8)), 1, 5)) for _ in "ab"]
    insert(
        db,
        "rating",
        assignment=assignment,
        satisfaction=marks[0],
        goal_achievement=marks[1],
        comment="",
        seconds=20.0,
        revision=1,
        created_at=at,
        updated_at=at,
    )
    return marks[0]


def execute(root: Path, sql: str, *values: Any) -> None:
    """Change the study.db of a run directory."""
    db = sqlite3.connect(root / "study.db")
    db.execute(sql, values)
    db.commit()
    db.close()

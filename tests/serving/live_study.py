"""A small study with live chats: its database, its raters, and who answers behind their codes."""

import sqlite3
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from harness.rating import prepare
from harness.records import Message, Scenario, write_jsonl
from harness.stages import Run, open_run
from studyapp import session, store
from tests.tiny import save_tiny

KEYS = ("3f9c2a", "b81e07")
ARMS = ("canary-teacher", "canary-student")


def scenarios(count: int = 2, turns: int = 3) -> list[Scenario]:
    return [
        Scenario(
            id=f"s{number}",
            category="facts",
            goal=f"You want fact {number}.",
            opening=f"Please tell me fact {number}.",
            turns=turns,
            reached="The fact is told.",
        )
        for number in range(1, count + 1)
    ]


def make(path: Path, *, keys: Sequence[str] = KEYS, count: int = 2, turns: int = 3) -> Path:
    """A live study's database without raters."""
    store.create(
        path,
        name="small",
        mode="live",
        seed=7,
        ratings_per_cell=1,
        scenarios=scenarios(count, turns),
        arm_keys=list(keys),
        answers=[],
        scenarios_per_rater=count,
    )
    return path


@dataclass(frozen=True)
class Place:
    """One assignment of a rater: which page it is on, and which arm answers there."""

    assignment: int
    position: int
    arm_key: str
    opening: tuple[Message, ...]


def join(path: Path) -> list[Place]:
    """Enter a rater; their assignments in order."""
    session.join(path)
    connection = sqlite3.connect(path)
    rows = connection.execute(
        "SELECT assignment.id, position, arm_key, opening FROM assignment JOIN scenario ON scenario.id = scenario"
        " WHERE rater = (SELECT max(id) FROM rater) ORDER BY position"
    ).fetchall()
    connection.close()
    return [Place(*row[:3], (Message(role="user", content=row[3]),)) for row in rows]


def make_run(folder: Path, *, serve: str = "", settings: str = "") -> Run:
    """A run directory of a live study with two tiny models, whose arms, files and texts name canaries."""
    for number, arm in enumerate(ARMS):
        save_tiny(folder / f"{arm}-files", seed=number)
    write_jsonl(folder / "scenarios.jsonl", scenarios())
    (folder / "study.toml").write_text(
        f"""
schema = 1
name = "live"
seed = 7
system = "Be brief."
[teacher]
name = "{ARMS[0]}"
source = "{folder / ARMS[0]}-files"
[[student]]
name = "{ARMS[1]}"
source = "{folder / ARMS[1]}-files"
[answer]
max_tokens = 24
[rate]
mode = "live"
scenarios = "{folder / "scenarios.jsonl"}"
scenarios_per_rater = 2
at_once = 3
{settings}
{serve}
""",
        encoding="utf-8",
    )
    run = open_run(folder / "study.toml", folder / "run")
    prepare(run)
    return run

"""A run directory around the owned study: its study file, its database, its blinding.json."""

import json
from pathlib import Path

from owned_study import KEYS, SCENARIOS, make_owned

ARMS = ("teachername", "studentname", "controlname")

STUDY = """\
schema = 1
name = "owned"
[teacher]
name = "teachername"
source = "somewhere/teacher"
[[student]]
name = "studentname"
source = "somewhere/student"
[[student]]
name = "controlname"
source = "somewhere/control"
[rate]
scenarios = "scenarios.jsonl"
"""


def make_study_file(folder: Path) -> Path:
    """The study file with its scenarios beside it."""
    folder.mkdir(parents=True, exist_ok=True)
    lines = [
        {"id": name, "category": "a", "goal": "g", "opening": f"Please, {name}.", "turns": 2, "reached": "r"}
        for name in SCENARIOS
    ]
    (folder / "scenarios.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    (folder / "study.toml").write_text(STUDY)
    return folder / "study.toml"


def make_run(folder: Path, state: str = "open") -> Path:
    """A run directory as `viva rate` leaves it, with everything in its database that the owned study has."""
    root = folder / "run"
    root.mkdir(parents=True)
    study = make_study_file(folder)
    (root / "study.toml").write_text(study.read_text().replace('"scenarios', f'"{folder}/scenarios'))
    make_owned(root / "study.db", state=state)
    (root / "blinding.json").write_text(json.dumps({"created": "now", "arms": dict(zip(KEYS, ARMS, strict=True))}))
    (root / "blinding.json").chmod(0o600)
    return root


def chat_lines(arms: tuple[str, ...] = ARMS) -> list[dict[str, object]]:
    """Prepared chats of every arm for every scenario, in the OpenAI form."""
    return [
        {
            "arm": arm,
            "scenario": name,
            "messages": [
                {"role": "system", "content": "You are kind."},
                {"role": "user", "content": f"Please, {name}."},
                {"role": "assistant", "content": [{"type": "text", "text": f"{arm[:3]} on {name}"}]},
            ],
        }
        for arm in arms
        for name in SCENARIOS
    ]

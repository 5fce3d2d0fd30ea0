"""A run directory with finished answers, as the answer stage leaves it, and a study file that names judges."""

import json
from pathlib import Path

from harness.records import Answer, Message, Scenario, write_jsonl
from harness.stages import Run, open_run

ARMS = ("teacher", "distilled", "scratch")
GOOD = {"teacher": 3, "distilled": 2, "scratch": 0}
"""How often an arm's answer says 'good', at the least."""


def study_text(judges: str, scenarios: Path, extra: str = "") -> str:
    return f"""\
schema = 1
name = "judged"
seed = 3
[teacher]
source = "nowhere"
[[student]]
name = "distilled"
source = "nowhere"
[[student]]
name = "scratch"
source = "nowhere"
[rate]
scenarios = "{scenarios}"
{extra}
{judges}
"""


def by_server(url: str, name: str = "strict", more: str = "") -> str:
    return f'[[judge.by]]\nname = "{name}"\nendpoint = "{url}"\nmodel = "some-judge"\n{more}\n'


def scenario(number: int) -> Scenario:
    return Scenario(
        id=f"q{number}",
        category=("facts", "advice")[number % 2],
        goal=f"You want to know thing {number}.",
        opening=f"Please tell me about thing {number}.",
        turns=1,
        reached=f"The answer names thing {number}.",
    )


def answer(arm: str, number: int) -> Answer:
    text = f"Thing {number} is {'good ' * (GOOD[arm] + (number % 3 == 0))}indeed."
    messages = (Message(role="user", content=scenario(number).opening), Message(role="assistant", content=text))
    return Answer(arm=arm, scenario=f"q{number}", messages=messages, tokens=9, finish="stop", seed=number)


def make_run(folder: Path, judges: str, *, count: int = 4, extra: str = "") -> Run:
    """A run with `count` scenarios and every arm's answers, ready for its judges."""
    folder.mkdir(parents=True, exist_ok=True)
    items = folder / "scenarios.jsonl"
    write_jsonl(items, [scenario(number) for number in range(count)])
    (folder / "study.toml").write_text(study_text(judges, items, extra))
    run = open_run(folder / "study.toml", folder / "run")
    run.dir.answers.mkdir(exist_ok=True)
    write_jsonl(run.dir.answers / "answers.jsonl", [answer(arm, n) for arm in ARMS for n in range(count)])
    (run.dir.answers / "manifest.json").write_text(json.dumps({"status": "finished", "stage": "answer"}))
    return run

"""A small study in a real database: four scenarios, three arms, in whatever mode."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from harness.records import KnownAnswer, Message, Scenario
from studyapp import store

KEYS = ("k-one", "k-two", "k-three")
PACE = {"cps": 100, "tick": 0.1, "delay": 0.3}
"""Of live chats; ten characters at each tick."""


def scenarios(count: int = 4, turns: int = 1, modes: Sequence[str | None] = (None,)) -> list[Scenario]:
    kinds = ("advice", "facts")
    return [
        Scenario(
            id=f"s{number}",
            category=kinds[number % 2],
            goal=f"You want thing {number}.",
            opening=f"Please give me thing {number}.",
            turns=turns,
            reached=f"The answer names thing {number}.",
            mode=modes[number % len(modes)],
        )
        for number in range(1, count + 1)
    ]


def text_of(arm: int, scenario: Scenario) -> str:
    """What arm number `arm` answers; every cell has its own text."""
    return f"Answer {arm} to {scenario.id}: here it is."


def make(
    path: Path,
    *,
    keys: Sequence[str] = KEYS,
    items: Sequence[Scenario] | None = None,
    text: Callable[[int, Scenario], str] = text_of,
    **changes: Any,
) -> bool:
    """Create the small study at `path`; `changes` go to store.create.

    It wants more ratings than any test gives: nobody is sent away because it is full. Live chats get PACE.
    """
    items = scenarios() if items is None else items
    settings = {"name": "small", "mode": "fixed", "seed": 7, "ratings_per_cell": 60, "scenarios_per_rater": 3}
    settings |= {"questions": False}
    answers = [
        (key, item.id, [Message(role="user", content=item.opening), Message(role="assistant", content=text(arm, item))])
        for arm, key in enumerate(keys)
        for item in items
        if (item.mode or changes.get("mode", "fixed")) != "live"
    ]
    made = store.create(path, scenarios=items, arm_keys=keys, answers=answers, **{**settings, **changes})
    if any((item.mode or changes.get("mode")) == "live" for item in items):
        store.set_pace(path, PACE)
    return made


def known(number: int, chat: str = "Here is thing 0.", **changes: Any) -> KnownAnswer:
    """An item with a known answer: both marks belong between 1 and 2."""
    said = [Message(role="user", content="Please give me thing 0."), Message(role="assistant", content=chat)]
    facts = {"goal": "You want thing 0.", "opening": said[0].content, "reached": "The answer names thing 0."}
    marks = {"satisfaction": (1, 2), "goal_achievement": (1, 2), "feedback": "Most people give 1 or 2 here."}
    return KnownAnswer(id=f"known{number}", messages=tuple(said), **{**facts, **marks, **changes})

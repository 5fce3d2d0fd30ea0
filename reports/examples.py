"""Example chats, chosen by rule and never by hand."""

from dataclasses import dataclass
from typing import Any

from harness.records import Answer
from reports.load import Source

RATED_RULE = (
    "Chosen by rule: of the scenarios that people rated for {arm} and the teacher, the one with the highest, the "
    "middle and the lowest difference of mean satisfaction; ties by name."
)
UNRATED_RULE = "Chosen by rule, since nobody has rated yet: the first, the middle and the last scenario by name."


@dataclass(frozen=True)
class Reply:
    """What one arm wrote in a scenario, with its mean satisfaction where people rated it."""

    arm: str
    text: str
    finish: str
    mean: float | None


@dataclass(frozen=True)
class Example:
    """One scenario with the replies of all arms; `why` names its place in the rule."""

    why: str
    scenario: str
    goal: str
    opening: str
    n: int
    replies: tuple[Reply, ...]


def choose(source: Source, people: dict[str, Any] | None) -> tuple[str, list[Example]]:
    """The rule in words and the examples it picks; no example where no chat was prepared."""
    chats: dict[str, dict[str, Answer]] = {}
    for answer in source.answers:
        chats.setdefault(answer.scenario, {})[answer.arm] = answer
    if not chats:
        return "", []
    arm = source.students[0] if source.students else source.teacher
    rated = (people or {}).get("by_scenario", {}).get(arm, {})
    rated = {name: facts for name, facts in rated.items() if name in chats}
    if rated:
        order = sorted(rated, key=lambda name: (-rated[name]["difference"], name))
        rule = RATED_RULE.format(arm=arm)
        reasons = ("best for the student", "median", "worst for the student")
    else:
        order, rule, reasons = sorted(chats), UNRATED_RULE, ("first", "middle", "last")
    picks: dict[str, str] = {}
    for reason, at in zip(reasons, (0, (len(order) - 1) // 2, len(order) - 1), strict=True):
        picks.setdefault(order[at], reason)
    by_scenario = (people or {}).get("by_scenario", {})
    return rule, [_example(source, chats[name], name, reason, by_scenario) for name, reason in picks.items()]


def _example(
    source: Source, chat: dict[str, Answer], name: str, reason: str, by_scenario: dict[str, dict[str, Any]]
) -> Example:
    means: dict[str, float] = {}
    n = 0
    for arm, scenarios in by_scenario.items():
        facts = scenarios.get(name)
        if facts:
            means[arm] = facts["student"]
            means.setdefault(source.teacher, facts["teacher"])
            n = max(n, facts["n"])
    replies = []
    for arm in source.arms:
        if arm in chat:
            said = [message.content for message in chat[arm].messages if message.role == "assistant"]
            replies.append(Reply(arm, "\n\n".join(said).strip(), chat[arm].finish, means.get(arm)))
    first = next(iter(chat.values()))
    opening = next((message.content for message in first.messages if message.role == "user"), "")
    return Example(reason, name, source.goals.get(name, ""), opening, n, tuple(replies))

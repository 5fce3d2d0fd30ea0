"""What a judging will ask and what that costs, before anything is asked."""

import hashlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import TYPE_CHECKING, Any

from harness.judge_table import JudgeBy, JudgeTable
from harness.judging import rubric
from harness.judging.server import host_of
from harness.records import Message

if TYPE_CHECKING:
    from studyapp.store_judge import Item, Judge, Reply, Texts

CHARACTERS_PER_TOKEN = 4.0  # of English text under the tokenizers of today: for estimates only
REPLY_TOKENS = 120  # a reply with a reason of two sentences, until there are replies to count


def estimate_tokens(text: str) -> int:
    """About how many tokens a text has."""
    return round(len(text) / CHARACTERS_PER_TOKEN) + 1


@dataclass(frozen=True)
class Sitting:
    """One judge in one mode: all its items in the order of asking, and what it has said of them already."""

    by: JudgeBy
    judge: "Judge"
    items: tuple["Item", ...]
    said: Mapping["Item", Sequence["Reply"]]

    def open_items(self, attempts: int, again: bool = False) -> list["Item"]:
        """Items without a readable reply that have attempts left; `again` gives each as many new ones."""
        return [item for item in self.items if self.left(item, attempts, again)]

    def left(self, item: "Item", attempts: int, again: bool = False) -> int:
        """How many more replies may be asked for about an item: 0 when one could be read.

        A request that was refused or did not fit would end the same way, so it is not repeated but by `again`.
        """
        replies = self.said.get(item, ())
        if any(reply.problem is None for reply in replies):
            return 0
        if again:
            return attempts
        final = bool(replies) and replies[-1].problem in ("refused", "too_long")
        return 0 if final else max(0, attempts - len(replies))


@dataclass(frozen=True)
class Cost:
    """What one sitting still asks: requests, tokens, money (None without a price; 0 for a model that runs here).

    `requests` and `expected` are without repeated requests, `most` is with every reply as long as allowed.
    """

    judge: str
    mode: str
    where: str
    items: int
    done: int
    unanswered: int
    requests: int
    tokens_in: int
    tokens_out: int
    most_tokens_out: int
    expected: float | None
    most: float | None


def items_of(table: JudgeTable, mode: str, texts: "Texts", teacher: str, seed: int) -> tuple["Item", ...]:
    """Everything that a judge is asked in a mode, in an order drawn by `seed`: a part of it is a random part.

    `teacher` is the teacher's key. Pairs come in both orders; live chats are judged one by one only, since no two of
    them had the same user.
    """
    from studyapp.store_judge import Item

    if mode == "single":
        found = [Item(scenario, arm, chat=chat) for scenario, arm, chat in texts.chats]
    else:
        arms = {scenario: [arm for other, arm, chat in texts.chats if other == scenario and chat is None]
                for scenario in texts.goals}  # fmt: skip
        pairs = [
            (scenario, pair)
            for scenario, keys in arms.items()
            for pair in combinations(sorted(keys), 2)
            if table.pairs == "all" or teacher in pair
        ]
        found = [Item(scenario, *order) for scenario, pair in pairs for order in (pair, pair[::-1])]
    return tuple(sorted(found, key=lambda item: hashlib.sha256(f"{seed}:{item}".encode()).digest()))


def request_of(item: "Item", texts: "Texts", own: str | None) -> str:
    """The request about an item."""
    goal, reached = texts.goals[item.scenario]
    first = texts.chats[item.scenario, item.first, item.chat]
    if item.second is None:
        return rubric.single_request(goal, reached, first, own)
    return rubric.pair_request(goal, reached, first, texts.chats[item.scenario, item.second, item.chat], own)


def lengths_of(item: "Item", texts: "Texts") -> tuple[int, int | None]:
    """Characters of what the assistant wrote, in the first answer and in the second, if there is one."""

    def length(chat: Iterable[Message]) -> int:
        return sum(len(message.content.strip()) for message in chat if message.role == "assistant")

    second = None if item.second is None else length(texts.chats[item.scenario, item.second, item.chat])
    return length(texts.chats[item.scenario, item.first, item.chat]), second


def cost_of(sitting: Sitting, table: JudgeTable, request: Callable[["Item"], str], again: bool = False) -> Cost:
    """What a sitting will cost from here on; `request` writes the request about an item."""
    todo = sitting.open_items(table.attempts, again)
    replies = [reply for many in sitting.said.values() for reply in many if reply.tokens_out]
    each = sum(reply.tokens_out or 0 for reply in replies) / len(replies) if replies else REPLY_TOKENS
    by = sitting.by
    tokens_in = sum(estimate_tokens(request(item)) for item in todo)
    tokens_out, most_out = round(min(each, by.max_tokens) * len(todo)), by.max_tokens * len(todo)
    done = sum(any(reply.problem is None for reply in sitting.said.get(item, ())) for item in sitting.items)
    return Cost(
        judge=by.name,
        mode=sitting.judge.mode,
        where=f"at {host_of(by.endpoint)}" if by.endpoint else "runs here",
        items=len(sitting.items),
        done=done,
        unanswered=len(sitting.items) - done - len(todo),
        requests=len(todo),
        tokens_in=tokens_in,
        tokens_out=tokens_out,
        most_tokens_out=most_out,
        expected=money(by, tokens_in, tokens_out),
        most=money(by, tokens_in, most_out),
    )


def money(by: JudgeBy, tokens_in: float, tokens_out: float) -> float | None:
    """What tokens cost at the judge's price; None without one, 0 for a model that runs here."""
    if by.endpoint is None:
        return 0.0
    if by.price_in is None or by.price_out is None:
        return None
    return (tokens_in * by.price_in + tokens_out * by.price_out) / 1e6


def plan_json(costs: Sequence[Cost], table: JudgeTable) -> dict[str, Any]:
    """The plan as JSON: one object for each judge and mode, and the sums."""
    known = [cost.expected for cost in costs if cost.expected is not None]
    return {
        "judges": [dict(vars(cost)) for cost in costs],
        "requests": sum(cost.requests for cost in costs),
        "requests_to_endpoints": requests_out(costs),
        "expected": sum(known) if len(known) == len(costs) else None,
        "currency": table.currency,
        "limit": table.limit,
        "limit_requests": table.limit_requests,
        "attempts": table.attempts,
    }


def plan_text(costs: Sequence[Cost], table: JudgeTable) -> str:
    """The plan for a reader, a line for each judge and mode."""
    lines = []
    for cost in costs:
        state = f"{cost.done:,} of {cost.items:,} items done"
        if cost.unanswered:
            state += f", {cost.unanswered:,} without a readable reply (asked again with --again)"
        lines.append(f"{cost.judge}, {cost.mode}, {cost.where}: {state}")
        if cost.requests:
            lines.append(
                f"  {cost.requests:,} requests, about {cost.tokens_in:,} tokens to read and {cost.tokens_out:,} to "
                f"write (at most {cost.most_tokens_out:,}); {_money(cost, table.currency)}"
            )
    total = sum(cost.requests for cost in costs)
    lines.append(
        f"{total:,} requests in all; a reply that cannot be read is asked for up to {table.attempts - 1} more times, "
        "which is not counted here"
    )
    return "\n".join(lines)


def _money(cost: Cost, currency: str) -> str:
    if cost.where == "runs here":
        return "no money"
    if cost.expected is None:
        return "money unknown: set price_in and price_out"
    return f"about {cost.expected:.2f} {currency}, at most {cost.most:.2f} {currency}"


def requests_out(costs: Iterable[Cost]) -> int:
    """Requests that leave this machine."""
    return sum(cost.requests for cost in costs if cost.where != "runs here")

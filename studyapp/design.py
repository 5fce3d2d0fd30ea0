"""Who rates what, in which order, under which codes. Pure: a seed and the earlier sessions in, one session out.

The crossing is "within": a rater meets each of their scenarios with every arm, because the default estimator lives on
cells that share rater and scenario. A session has one block for each arm, and every block holds the same scenarios in
the same order, so that two meetings with one scenario lie as far apart as they can: as many items as there are
scenarios. What is balanced, at any number of raters:

- every scenario is dealt equally often, within one;
- for each scenario, every arm comes equally often first, second, third, ... within one (rows of Williams squares, which
  also let every arm follow every other one equally often);
- for each scenario, the places within a block are used equally often, within one where every rater gets all scenarios,
  and else as nearly as the scenarios dealt together allow;
- every arm has every code equally often, within one.

Arms are keys here, never names.
"""

import random
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TypeVar


@dataclass(frozen=True)
class Item:
    """One thing to rate: a scenario as one arm answered it."""

    scenario: str
    arm: str


def session(
    scenarios: Sequence[str], arms: Sequence[str], earlier: Sequence[Sequence[Item]], *, per_rater: int, seed: int
) -> list[Item]:
    """The items of the next rater, in order.

    `earlier` holds the sessions of the raters before, each in its order; `per_rater` is the number of scenarios a
    rater gets, at most all of them. Two raters with the same `earlier` would get the same session.
    """
    rng = _rng(seed, "session", len(earlier))
    orders = [_scenario_order(items) for items in earlier]
    deals = Counter(scenario for order in orders for scenario in order)
    rows = _rows(scenarios, arms, deals, seed)
    dealt = _deal(scenarios, deals, rows, min(per_rater, len(scenarios)), rng)
    ordered = _place(dealt, orders, rng)
    return [Item(scenario, rows[scenario][block]) for block in range(len(arms)) for scenario in ordered]


def codes(arms: Sequence[str], rater: int, *, seed: int) -> dict[str, str]:
    """The neutral label of each arm for rater number `rater` (0 for the first): 'A', 'B', ...

    Raters come in turns of as many as there are arms. Within a turn the labels move on by one from rater to rater, so
    that each arm has each label once; every turn begins with a new draw.
    """
    turn, step = divmod(rater, len(arms))
    labels = _shuffled([_letters(number) for number in range(len(arms))], _rng(seed, "codes", turn))
    return dict(zip(sorted(arms), labels[step:] + labels[:step], strict=True))


def williams(n: int) -> list[list[list[int]]]:
    """Williams's design for n treatments: one Latin square for even n, two mirrored ones for odd n.

    Every treatment comes once in each row and column, and follows every other one equally often over all rows
    (E. J. Williams, 1949). Rows of one square differ by a shift, so any n rows in a row of them stay Latin.
    """
    zigzag = [0]
    for step in range(1, n):
        zigzag.append((step + 1) // 2 if step % 2 else n - step // 2)
    sequences = [zigzag] if n % 2 == 0 or n == 1 else [zigzag, zigzag[::-1]]
    return [[[(row + value) % n for value in sequence] for row in range(n)] for sequence in sequences]


def _rows(
    scenarios: Sequence[str], arms: Sequence[str], deals: Mapping[str, int], seed: int
) -> dict[str, tuple[str, ...]]:
    """The order in which each scenario meets the arms when it is dealt next.

    A scenario walks through the rows of one square, then through those of the next. Neighbours in a seeded order start
    at different rows, which is what lets a session take equally many of each.
    """
    names = _shuffled(sorted(arms), _rng(seed, "arms"))
    squares = williams(len(arms))
    rows = {}
    for offset, scenario in enumerate(_shuffled(scenarios, _rng(seed, "rows"))):
        deal = deals.get(scenario, 0)
        square = squares[deal // len(arms) % len(squares)]
        rows[scenario] = tuple(names[value] for value in square[(deal + offset) % len(arms)])
    return rows


def _deal(
    scenarios: Sequence[str],
    deals: Mapping[str, int],
    rows: Mapping[str, tuple[str, ...]],
    count: int,
    rng: random.Random,
) -> list[str]:
    """`count` scenarios: those dealt least often, and among them such that no block prefers an arm.

    Among equally good rows the one with most scenarios left goes first, so that no row runs out early.
    """
    left = _shuffled(scenarios, rng)
    dealt: list[str] = []
    used: Counter[tuple[int, str]] = Counter()  # (block, arm) -> items so far
    while len(dealt) < count:
        fewest = min(deals.get(scenario, 0) for scenario in left)
        ready = [scenario for scenario in left if deals.get(scenario, 0) == fewest]
        stock = Counter(rows[scenario] for scenario in ready)

        def crowding(scenario: str) -> tuple[int, int]:
            return sum(used[place] ** 2 for place in enumerate(rows[scenario])), -stock[rows[scenario]]  # noqa: B023

        best = min(ready, key=crowding)
        dealt.append(best)
        left.remove(best)
        used.update(enumerate(rows[best]))
    return dealt


def _place(dealt: Sequence[str], orders: Sequence[Sequence[str]], rng: random.Random) -> list[str]:
    """Put the scenarios of a block in order, each at a place where it has stood least often before.

    A perfect matching of scenarios to places; where there is none among the least used places, the next least used
    ones are allowed too.
    """
    stood = Counter((scenario, place) for order in orders for place, scenario in enumerate(order))
    places = range(len(dealt))
    excess = {
        scenario: [stood[scenario, place] - min(stood[scenario, p] for p in places) for place in places]
        for scenario in dealt
    }
    allowance = 0
    while True:
        choices = {s: _shuffled([p for p in places if excess[s][p] <= allowance], rng) for s in dealt}
        holder = _matching(choices)
        if len(holder) == len(dealt):
            return [holder[place] for place in places]
        allowance += 1


def _matching(choices: Mapping[str, Sequence[int]]) -> dict[int, str]:
    """The largest matching of scenarios to places, by augmenting paths (Kuhn)."""
    holder: dict[int, str] = {}

    def settle(scenario: str, tried: set[int]) -> bool:
        for place in choices[scenario]:
            if place not in tried:
                tried.add(place)
                if place not in holder or settle(holder[place], tried):
                    holder[place] = scenario
                    return True
        return False

    for scenario in choices:
        settle(scenario, set())
    return holder


def _scenario_order(items: Sequence[Item]) -> list[str]:
    """The scenarios of a session in the order of their first meeting."""
    return list(dict.fromkeys(item.scenario for item in items))


def _letters(number: int) -> str:
    """0 is A, 25 is Z, 26 is AA."""
    text = ""
    number += 1
    while number:
        number, letter = divmod(number - 1, 26)
        text = chr(ord("A") + letter) + text
    return text


T = TypeVar("T")


def _shuffled(values: Sequence[T], rng: random.Random) -> list[T]:
    mixed = list(values)
    rng.shuffle(mixed)
    return mixed


def _rng(seed: int, *purpose: object) -> random.Random:
    """A generator of its own for each purpose; a text seed gives the same numbers on every machine."""
    return random.Random(":".join(map(str, (seed, *purpose))))

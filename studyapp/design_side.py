"""Which arms stand together on a side-by-side page, and in which order. Pure.

Where all arms fit on one page, the page is a row of a Williams square (design_rows.py). Where they do not, the page is
chosen among all candidates by what has been rarest so far: arms, then pairs of arms on one page, then places.
"""

import random
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from itertools import combinations, permutations

from studyapp.design_rows import shuffled

Page = tuple[str, ...]
"""The arms of a page in the order of their places."""

MOST_ORDERS = 720
"""Orders that are compared where all arms are split over pages; 6 arms have so many, more arms have a sample."""


@dataclass
class Seen:
    """How often the pages of one scenario, or of all, have held each arm, each pair, and each arm at each place."""

    arms: Counter[str] = field(default_factory=Counter)
    pairs: Counter[frozenset[str]] = field(default_factory=Counter)
    places: Counter[tuple[str, int]] = field(default_factory=Counter)

    def add(self, page: Page) -> None:
        """Count one more page."""
        self.arms.update(page)
        self.pairs.update(pairs_of(page))
        self.places.update((arm, place) for place, arm in enumerate(page))


def sizes(arms: int, side: int) -> list[int]:
    """Sizes of the pages over which a rater meets all arms of a scenario, each once.

    Raises ValueError where a page would be left with one arm: an odd number of arms in twos.
    """
    pages = -(-arms // side)
    least, more = divmod(arms, pages)
    if least < 2:
        raise ValueError(f"{arms} arms do not split over pages of at most {side} with two or more on each")
    return [least + (page < more) for page in range(pages)]


def split(arms: Sequence[str], side: int, seen: Seen, overall: Seen, generator: random.Random) -> list[Page]:
    """All arms over several pages: pairs that have met least often stand together, at places they had least often."""
    cuts = sizes(len(arms), side)

    def pages(order: Sequence[str]) -> list[Page]:
        found, start = [], 0
        for size in cuts:
            found.append(tuple(order[start : start + size]))
            start += size
        return found

    def cost(order: Sequence[str]) -> tuple[int, int, int]:
        together = [pair for page in pages(order) for pair in pairs_of(page)]
        places = sum(2 * seen.places[arm, place] + 1 for page in pages(order) for place, arm in enumerate(page))
        return (
            sum(2 * seen.pairs[pair] + 1 for pair in together),
            places,
            sum(2 * overall.pairs[pair] + 1 for pair in together),
        )

    return pages(min(_orders(arms, generator), key=cost))


def pick(arms: Sequence[str], side: int, seen: Seen, own: Seen, overall: Seen, generator: random.Random) -> Page:
    """Some of the arms for a page: those the scenario has had least often, then pairs, then those the rater has not."""

    def cost(chosen: tuple[str, ...]) -> tuple[int, ...]:
        pairs = pairs_of(chosen)
        return (
            sum(seen.arms[arm] for arm in chosen),
            sum(2 * seen.pairs[pair] + 1 for pair in pairs),
            sum(2 * own.arms[arm] + 1 for arm in chosen),
            sum(2 * overall.pairs[pair] + 1 for pair in pairs),
        )

    return min(combinations(shuffled(arms, generator), side), key=cost)


def in_order(chosen: Sequence[str], seen: Seen, overall: Seen) -> Page:
    """The arms of a page in the order that puts each where it has stood least often."""

    def places(order: tuple[str, ...]) -> tuple[int, int]:
        at = list(enumerate(order))
        return sum(2 * seen.places[a, p] + 1 for p, a in at), sum(2 * overall.places[a, p] + 1 for p, a in at)

    return min(permutations(chosen), key=places)


def pairs_of(page: Sequence[str]) -> list[frozenset[str]]:
    """All pairs of arms that stand together on a page."""
    return [frozenset(pair) for pair in combinations(page, 2)]


def _orders(arms: Sequence[str], generator: random.Random) -> Iterator[Sequence[str]]:
    mixed = shuffled(arms, generator)
    if len(mixed) <= 6:
        yield from permutations(mixed)
    else:
        for _ in range(MOST_ORDERS):
            yield shuffled(mixed, generator)

"""A session that is crossed within raters: each of a rater's scenarios with every arm. Pure."""

import random
from collections import Counter
from collections.abc import Mapping, Sequence
from itertools import pairwise

from studyapp.design_extras import Page
from studyapp.design_rows import matching, next_rows, shuffled
from studyapp.design_side import Seen, split

TRIES = 6
"""Orders of a session that are compared for carry-over."""


def within(
    scenarios: Mapping[str, str],
    arms: Sequence[str],
    earlier: Sequence[Sequence[Page]],
    *,
    count: int,
    most: int | None,
    side: int,
    seed: int,
    generator: random.Random,
) -> list[Page]:
    """The rated pages of the next rater; `scenarios` maps ids to modes, `most` is how often each may be dealt.

    The session has one block for each arm; every block holds the scenarios in the same order, so that two meetings with
    one scenario are as far apart as they can be. Side by side, a scenario has as many pages as its arms need.
    """
    orders = [list(dict.fromkeys(page.scenario or "" for page in pages)) for pages in earlier]
    deals = Counter(scenario for order in orders for scenario in order)
    rows = next_rows(list(scenarios), arms, _rows_used(earlier, len(arms)), seed)
    ready = [scenario for scenario in scenarios if most is None or deals[scenario] < most]
    dealt = _deal(ready, deals, rows, min(count, len(ready)), generator)
    pages = _pages(dealt, scenarios, arms, rows, earlier, side, generator)
    follows = _follows(earlier)
    sessions = [_session(_place(dealt, orders, generator), pages, len(arms)) for _ in range(TRIES)]
    return min(sessions, key=lambda session: sum((2 * follows[pair] + 1) for pair in _pairs(session)))


def _rows_used(earlier: Sequence[Sequence[Page]], arms: int) -> dict[str, Counter[tuple[str, ...]]]:
    """How often each scenario has met the arms in each order."""
    used: dict[str, Counter[tuple[str, ...]]] = {}
    for pages in earlier:
        met: dict[str, list[str]] = {}
        for page in pages:
            met.setdefault(page.scenario or "", []).extend(page.arms)
        for scenario, row in met.items():
            if len(row) == arms:
                used.setdefault(scenario, Counter())[tuple(row)] += 1
    return used


def _deal(
    ready: Sequence[str],
    deals: Mapping[str, int],
    rows: Mapping[str, tuple[str, ...]],
    count: int,
    generator: random.Random,
) -> list[str]:
    """`count` scenarios: those dealt least often, and among them such that no block prefers an arm.

    Among equally good rows the one with most scenarios left goes first, so that no row runs out early.
    """
    left = shuffled(ready, generator)
    dealt: list[str] = []
    used: Counter[tuple[int, str]] = Counter()  # (block, arm) -> pages so far
    while len(dealt) < count:
        fewest = min(deals.get(scenario, 0) for scenario in left)
        least = [scenario for scenario in left if deals.get(scenario, 0) == fewest]
        stock = Counter(rows[scenario] for scenario in least)

        def crowding(scenario: str) -> tuple[int, int]:
            return sum(used[place] ** 2 for place in enumerate(rows[scenario])), -stock[rows[scenario]]  # noqa: B023

        best = min(least, key=crowding)
        dealt.append(best)
        left.remove(best)
        used.update(enumerate(rows[best]))
    return dealt


def _place(dealt: Sequence[str], orders: Sequence[Sequence[str]], generator: random.Random) -> list[str]:
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
        choices = {s: shuffled([p for p in places if excess[s][p] <= allowance], generator) for s in dealt}
        holder = matching(choices)
        if len(holder) == len(dealt):
            return [holder[place] for place in places]
        allowance += 1


def _pages(
    dealt: Sequence[str],
    scenarios: Mapping[str, str],
    arms: Sequence[str],
    rows: Mapping[str, tuple[str, ...]],
    earlier: Sequence[Sequence[Page]],
    side: int,
    generator: random.Random,
) -> dict[str, list[Page]]:
    """The pages of each scenario in the order in which the rater meets them."""
    seen: dict[str, Seen] = {scenario: Seen() for scenario in scenarios}
    overall = Seen()
    for page in (page for pages in earlier for page in pages if page.mode == "side-by-side"):
        seen.setdefault(page.scenario or "", Seen()).add(page.arms)
        overall.add(page.arms)
    found: dict[str, list[Page]] = {}
    for scenario in dealt:
        mode = scenarios[scenario]
        parts: list[tuple[str, ...]]
        if mode != "side-by-side":
            parts = [(arm,) for arm in rows[scenario]]
        elif len(arms) <= side:
            parts = [rows[scenario]]
        else:
            parts = split(arms, side, seen[scenario], overall, generator)
            for part in parts:
                overall.add(part)
        found[scenario] = [Page("rated", mode, scenario, part) for part in parts]
    return found


def _session(order: Sequence[str], pages: Mapping[str, Sequence[Page]], blocks: int) -> list[Page]:
    """One block after another; a scenario with fewer pages than there are blocks has them spread over the blocks."""
    blocks = min(blocks, max((len(own) for own in pages.values()), default=0))
    found: list[list[Page]] = [[] for _ in range(blocks)]
    for place, scenario in enumerate(order):
        stride = blocks // len(pages[scenario])
        for number, page in enumerate(pages[scenario]):
            found[number * stride + place % stride].append(page)
    return [page for block in found for page in block]


def _pairs(session: Sequence[Page]) -> list[tuple[str, str]]:
    """Which arm follows which from page to page, where each page has one."""
    single = [page.arms[0] if len(page.arms) == 1 else None for page in session]
    return [(a, b) for a, b in pairwise(single) if a is not None and b is not None]


def _follows(earlier: Sequence[Sequence[Page]]) -> Counter[tuple[str, str]]:
    return Counter(pair for pages in earlier for pair in _pairs(pages))

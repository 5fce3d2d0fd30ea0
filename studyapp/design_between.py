"""A session that is crossed between raters: no rater meets a scenario twice. Pure.

The cells dealt least often fill up in rounds. A round's empty cells are a bipartite graph of scenarios and arms, and
such a graph can be parted among raters so that each gets every arm equally often and no scenario twice (D. de Werra, On
some combinatorial problems arising in scheduling, 1970: equitable edge colourings), as long as no scenario and no arm
has more empty cells than the raters still to come can take: those that have as many go first. Cells of the next round
follow where a round has too few.
"""

import random
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence

from studyapp.design_extras import Page
from studyapp.design_flow import Shares
from studyapp.design_rows import matching, shuffled, template
from studyapp.design_side import Seen, in_order, pairs_of, pick

Cells = Counter[tuple[str, str]]
"""How often each scenario has been dealt with each arm."""
PAIR_TRIES = 4
"""Ways to share out side-by-side pages that are compared for the pairs that meet on them."""


def between(
    scenarios: Mapping[str, str],
    arms: Sequence[str],
    earlier: Sequence[Sequence[Page]],
    *,
    count: int,
    most: int | None,
    side: int,
    slot: int,
    seed: int,
    generator: random.Random,
) -> list[Page]:
    """The rated pages of the next rater; `scenarios` maps ids to modes, `most` is how often each cell may be dealt.

    Pages with one panel stand where a template of Williams rows has their arm; side-by-side pages lie among them.
    """
    width = min(side, len(arms))
    seen = _seen(earlier)
    dealt = _deal(scenarios, arms, earlier, seen, count, most, width, generator)
    single = [(s, own[0]) for s, own in dealt.items() if scenarios[s] != "side-by-side"]
    pages = [Page("rated", scenarios[s], s, (arm,)) for s, arm in _placed(single, arms, earlier, slot, seed)]
    wide = []
    for s, own in dealt.items():
        if scenarios[s] == "side-by-side":
            wide.append(Page("rated", "side-by-side", s, in_order(own, seen[s], seen[""])))
            seen[""].add(wide[-1].arms)
    return _mixed(pages, shuffled(wide, generator), generator)


def _deal(
    scenarios: Mapping[str, str],
    arms: Sequence[str],
    earlier: Sequence[Sequence[Page]],
    seen: Mapping[str, Seen],
    count: int,
    most: int | None,
    width: int,
    generator: random.Random,
) -> dict[str, tuple[str, ...]]:
    """Up to `count` scenarios with the arms that the rater meets each with, those dealt least often first."""
    cells: Cells = Counter((page.scenario or "", arm) for pages in earlier for page in pages for arm in page.arms)
    fill = {s: sorted(cells[s, arm] for arm in arms) for s in scenarios}
    ready = [s for s in shuffled(list(scenarios), generator) if most is None or fill[s][0] < most]
    ready.sort(key=lambda s: (fill[s][0], sum(fill[s])))
    need = {s: width if scenarios[s] == "side-by-side" else 1 for s in ready}
    left = Counter(need[s] for s in ready[:count])  # scenarios still to be given, by how many arms each takes
    if not left:
        return {}
    units = sum(size * number for size, number in left.items())
    empty = {s: [arm for arm in arms if cells[s, arm] == fill[ready[0]][0]] for s in ready}
    to_come = -(-sum(map(len, empty.values())) // units)
    rank = {s: (-(-len(empty[s]) // need[s]) < to_come, fill[s][0], sum(fill[s])) for s in ready}  # urgent ones first
    waiting = Counter(arm for own in empty.values() for arm in own)
    levels = sorted({level for s in ready for level in fill[s] if most is None or level < most})

    def share_out(shares: Shares) -> tuple[tuple[int, ...], dict[str, tuple[str, ...]]]:
        """What is given, after what speaks against it: what is missing, what is not of the round, pairs met before."""
        to_give, own = left.copy(), Seen()
        found = []
        order = sorted(shuffled(ready, generator), key=lambda s: rank[s])
        for highest in levels:
            for s in order:
                if s not in found and to_give[need[s]] and fill[s][0] <= highest:
                    at = {arm: cells[s, arm] for arm in arms}
                    liked = pick(arms, need[s], seen[s], own, seen[""], generator) if need[s] > 1 else ()
                    if _give(shares, s, at, liked, need[s], highest):
                        to_give[need[s]] -= 1
                        found.append(s)
                        own.add(liked)
        given = {s: tuple(sorted(shares.given[s, 0] | shares.given.get((s, 1), set()))) for s in found}
        late = sum(arm not in empty[s] for s, own_arms in given.items() for arm in own_arms)
        met = [seen[s].pairs[pair] for s, own_arms in given.items() for pair in pairs_of(own_arms)]
        met += [seen[""].pairs[pair] for own_arms in given.values() for pair in pairs_of(own_arms)]
        shared = [shares.load[arm] for arm in arms]
        uneven = max(shared) - min(shared)
        return (to_give.total(), uneven if uneven > 1 else 0, late, sum(2 * times + 1 for times in met)), given

    # at the end of a study what is left may be mostly of one arm: then shares cannot be equal
    ways = _shares(shuffled(arms, generator), units, waiting) * (PAIR_TRIES if width in left and width > 1 else 1)
    return min([share_out(shares.copy()) for shares in ways], key=lambda one: one[0])[1]


def _shares(arms: Sequence[str], units: int, waiting: Counter[str]) -> list[Shares]:
    """Equal shares of the units, and what to do where they do not go up: the best way first.

    Arms with most cells waiting get one more; any arms may; no arm gets more than one more; shares are as they come.
    """
    least = Counter({arm: units // len(arms) for arm in arms})
    spare = units % len(arms)
    first = Counter(sorted(arms, key=lambda arm: -waiting[arm])[:spare])
    loose = Counter({arm: units for arm in arms})
    return [Shares(least + first, 0), Shares(least, spare), Shares(least, len(arms)), Shares(loose, 0)]


def _give(shares: Shares, scenario: str, at: Mapping[str, int], liked: Sequence[str], need: int, highest: int) -> bool:
    """Give a scenario arms that it has had least often, `liked` ones among them if that leaves the shares equal."""
    if need == 1:
        return shares.give((scenario, 0), [arm for arm, times in at.items() if times <= highest], 1)
    border = sorted(at.values())[need - 1]
    sure = [arm for arm, times in at.items() if times < border]
    others = sorted((arm for arm, times in at.items() if times == border), key=lambda arm: arm not in liked)
    if shares.give((scenario, 0), sure, len(sure)):
        if shares.give((scenario, 1), others, need - len(sure)):
            return True
        shares.take((scenario, 0))
    return False


def _placed(
    single: Sequence[tuple[str, str]], arms: Sequence[str], earlier: Sequence[Sequence[Page]], slot: int, seed: int
) -> list[tuple[str, str]]:
    """Scenarios with their arms in order: each at a place of its arm where it has stood least often."""
    left = Counter(arm for _, arm in single)
    stood: Counter[tuple[str, int]] = Counter()  # of scenarios and of arms
    for pages in earlier:
        narrow = [page for page in pages if page.mode != "side-by-side"]
        stood.update((name, at) for at, page in enumerate(narrow) for name in (page.scenario or "", page.arms[0]))
    blocks = template(arms, len(arms) * max(left.values(), default=0), slot, seed)
    order: list[str] = []
    for start in range(0, len(blocks), len(arms)):
        block = [arm for arm in blocks[start : start + len(arms)] if left[arm]]
        left.subtract(block)
        while len(block) < len(arms) and block:  # a partial block has no row to follow
            order.append(min(block, key=lambda arm: stood[arm, len(order)]))
            block.remove(order[-1])
        order += block
    choices = {
        (s, arm): sorted((p for p, at in enumerate(order) if at == arm), key=lambda p: stood[s, p]) for s, arm in single
    }
    holder = matching(choices)
    return [holder[position] for position in range(len(order))]


def _seen(earlier: Sequence[Sequence[Page]]) -> defaultdict[str, Seen]:
    """What the side-by-side pages of each scenario have held, and under '' those of all."""
    found: defaultdict[str, Seen] = defaultdict(Seen)
    for page in (page for pages in earlier for page in pages if page.mode == "side-by-side"):
        found[page.scenario or ""].add(page.arms)
        found[""].add(page.arms)
    return found


def _mixed(single: Sequence[Page], wide: Sequence[Page], generator: random.Random) -> list[Page]:
    """Both kinds of pages, each kind in its own order."""
    turns = shuffled([True] * len(single) + [False] * len(wide), generator)
    one, two = iter(single), iter(wide)
    return [next(one) if turn else next(two) for turn in turns]

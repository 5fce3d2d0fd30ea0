"""A session that is crossed between raters: no rater meets a scenario twice. Pure."""

import random
from collections import Counter
from collections.abc import Mapping, Sequence

from studyapp.design_extras import Page
from studyapp.design_rows import matching, shuffled, template
from studyapp.design_side import Seen, pick

Cells = Counter[tuple[str, str]]
"""How often each scenario has been dealt with each arm."""


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

    The arms of pages with one panel follow a template of Williams rows, and scenarios are matched to its positions: a
    scenario goes where an arm stands that it has had least often. Side-by-side pages take their arms by what is rarest.
    """
    cells: Cells = Counter((page.scenario or "", arm) for pages in earlier for page in pages for arm in page.arms)
    ready = [s for s in scenarios if most is None or min(cells[s, arm] for arm in arms) < most]

    def level(scenario: str) -> tuple[int, int]:
        own = [cells[scenario, arm] for arm in arms]
        return min(own), sum(own)

    ranked = sorted(shuffled(ready, generator), key=level)
    wide = [s for s in ranked[:count] if scenarios[s] == "side-by-side"]
    narrow = [s for s in ranked if scenarios[s] != "side-by-side"]
    order = _order(narrow, min(count, len(ranked)) - len(wide), arms, cells, earlier, slot, seed)
    placed = _match(narrow, order, arms, cells, _stood(earlier), most)
    pages = [Page("rated", scenarios[s], s, (order[position],)) for position, s in sorted(placed.items())]
    met = [arm for page in pages for arm in page.arms]
    return _mixed(pages, _wide(wide, arms, min(side, len(arms)), earlier, met, generator), generator)


def _order(
    narrow: Sequence[str],
    count: int,
    arms: Sequence[str],
    cells: Cells,
    earlier: Sequence[Sequence[Page]],
    slot: int,
    seed: int,
) -> list[str]:
    """The arms of the pages with one panel, in order: blocks of a template, then the arms that are needed most.

    Where a rater cannot meet all arms equally often, the arms of the last, partial block are those with most cells that
    have been dealt least often, at positions where they have stood least often.
    """
    blocks = template(arms, count, slot, seed)
    whole = count - count % len(arms)
    fewest = min((cells[s, arm] for s in narrow for arm in arms), default=0)
    lacking = Counter(arm for s in narrow for arm in arms if cells[s, arm] == fewest)
    turned = template(arms, whole + len(arms), slot, seed)[whole:]
    needed = sorted(turned, key=lambda arm: -lacking[arm])[: count - whole]
    stood = Counter((page.arms[0], at) for pages in earlier for at, page in enumerate(_narrow(pages)))
    order = blocks[:whole]
    while needed:
        order.append(min(needed, key=lambda arm: stood[arm, len(order)]))
        needed.remove(order[-1])
    return order


def _match(
    ranked: Sequence[str],
    order: Sequence[str],
    arms: Sequence[str],
    cells: Cells,
    stood: Mapping[tuple[str, int], int],
    most: int | None,
) -> dict[int, str]:
    """A scenario for each position of the template; `ranked` has those first that have been dealt least often.

    The cells dealt least often fill up in rounds. A round's empty cells are a bipartite graph of scenarios and arms,
    and such a graph can be parted among raters so that each gets every arm equally often and no scenario twice (D. de
    Werra, equitable edge colourings, 1971), as long as no scenario has more empty cells than raters are still to come:
    those that have as many go first. Cells of the next round follow where the round has too few.

    Positions stay empty where no cell may be dealt any more.
    """
    choices: dict[str, list[int]] = {}
    holder: dict[int, str] = {}
    levels = sorted({cells[s, arm] for s in ranked for arm in arms if most is None or cells[s, arm] < most})
    for highest in levels:
        open_cells = {s: [arm for arm in arms if cells[s, arm] <= highest] for s in ranked}
        to_come = -(-sum(map(len, open_cells.values())) // max(1, len(order)))
        urgent = [s for s in ranked if len(open_cells[s]) >= to_come]
        rest = [s for s in ranked if len(open_cells[s]) < to_come]
        settled = {s: choices[s] for s in holder.values()}
        choices = dict(settled)
        for s in (*urgent, *rest):
            if s not in settled:
                allowed = [p for p, arm in enumerate(order) if arm in open_cells[s]]
                choices[s] = sorted(allowed, key=lambda p: stood.get((s, p), 0))
        holder = matching(choices, len(order))
        if len(holder) == len(order):
            break
    return holder


def _wide(
    wide: Sequence[str],
    arms: Sequence[str],
    width: int,
    earlier: Sequence[Sequence[Page]],
    order: Sequence[str],
    generator: random.Random,
) -> list[Page]:
    """The side-by-side pages, one for each scenario."""
    seen: dict[str, Seen] = {scenario: Seen() for scenario in wide}
    overall, own = Seen(), Seen(arms=Counter(order))
    for page in (page for pages in earlier for page in pages if page.mode == "side-by-side"):
        seen.setdefault(page.scenario or "", Seen()).add(page.arms)
        overall.add(page.arms)
    found = []
    for scenario in wide:
        chosen = pick(arms, width, seen[scenario], own, overall, generator)
        own.add(chosen)
        overall.add(chosen)
        found.append(Page("rated", "side-by-side", scenario, chosen))
    return shuffled(found, generator)


def _mixed(single: Sequence[Page], wide: Sequence[Page], generator: random.Random) -> list[Page]:
    """Both kinds of pages, each kind in its own order."""
    turns = shuffled([True] * len(single) + [False] * len(wide), generator)
    one, two = iter(single), iter(wide)
    return [next(one) if turn else next(two) for turn in turns]


def _stood(earlier: Sequence[Sequence[Page]]) -> Counter[tuple[str, int]]:
    """How often each scenario has stood at each position among the pages with one panel."""
    found: Counter[tuple[str, int]] = Counter()
    for pages in earlier:
        found.update((page.scenario or "", position) for position, page in enumerate(_narrow(pages)))
    return found


def _narrow(pages: Sequence[Page]) -> list[Page]:
    return [page for page in pages if page.mode != "side-by-side"]

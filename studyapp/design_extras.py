"""Training first, a known answer now and then, some pages once more near the end. Pure."""

import random
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal


@dataclass(frozen=True)
class Page:
    """One page of a rater: a scenario as some arms answered it, or items with a known answer (`extras`).

    `arms` or `extras` are in the order of their places on the page.
    """

    kind: Literal["rated", "training", "check", "repeat"]
    mode: str
    scenario: str | None = None
    arms: tuple[str, ...] = ()
    extras: tuple[str, ...] = ()


def weave(
    rated: Sequence[Page],
    training: Sequence[Page],
    checks: Sequence[Page],
    *,
    check_every: int,
    repeats: int,
    slot: int,
    generator: random.Random,
) -> list[Page]:
    """A rater's pages in order: training, then the rated pages with repeats and checks among them.

    Of every `check_every` pages one is followed by a check, and a session has at least one as long as there are checks;
    a rater meets each check once. Raters begin with different checks.
    """
    pages = _with_repeats(rated, repeats, generator)
    stretches = _stretches(len(pages), check_every)
    start = slot * len(stretches) % len(checks) if checks else 0
    turned = [*checks[start:], *checks[:start]]
    woven: list[Page] = []
    after = {generator.choice(stretch): check for stretch, check in zip(stretches, turned, strict=False)}
    for at, page in enumerate(pages):
        woven.append(page)
        if at in after:
            woven.append(after[at])
    return [*training, *woven]


def count_checks(pages: int, check_every: int) -> int:
    """How many checks a session with so many other pages has, if there are as many."""
    return len(_stretches(pages, check_every))


def most_repeats(rated: int) -> int:
    """How many of so many rated pages can come again far from their first showing: a quarter, or one of two."""
    return max(rated // 4, min(1, rated // 2))


def _stretches(pages: int, check_every: int) -> list[range]:
    found = [range(start, min(start + check_every, pages)) for start in range(0, pages, check_every)]
    if len(found) > 1 and 2 * len(found[-1]) < check_every:
        found.pop()
    return found


def _with_repeats(rated: Sequence[Page], repeats: int, generator: random.Random) -> list[Page]:
    """Some pages of the first quarter once more, among those of the last: at least half of the session lies between.

    Live chats do not come again: another chat would be another item.
    """
    quarter = most_repeats(len(rated))
    early = [page for page in rated[:quarter] if page.mode != "live"]
    chosen = _spread_over_arms(early, min(repeats, len(early)), generator)
    last = [*range(len(rated) - quarter + 1, len(rated) + 1)]  # a repeat comes before the rated page of that index
    places: dict[int, Page] = {}
    for page in chosen:
        # not beside another meeting with the same scenario, if that can be
        def near(at: int, page: Page = page) -> int:
            return sum(other.scenario == page.scenario for other in rated[max(0, at - 1) : at + 1])

        generator.shuffle(last)
        best = min(last, key=near)
        last.remove(best)
        places[best] = replace(page, kind="repeat")
    found: list[Page] = []
    for at in range(len(rated) + 1):
        found += [places[at]] if at in places else []
        found += [rated[at]] if at < len(rated) else []
    return found


def _spread_over_arms(pages: Sequence[Page], count: int, generator: random.Random) -> list[Page]:
    """So many of the pages, no arm much oftener than another one."""
    left = list(pages)
    generator.shuffle(left)
    met: Counter[str] = Counter()
    chosen = []
    for _ in range(count):
        best = min(left, key=lambda page: sum(met[arm] for arm in page.arms) / len(page.arms))
        left.remove(best)
        chosen.append(best)
        met.update(best.arms)
    return chosen

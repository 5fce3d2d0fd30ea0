"""Who rates what, in which order, under which codes. Pure: a seed and the earlier sessions in, one session out.

With `crossing = "within"` (design_within.py) a rater meets each of their scenarios with every arm, because the default
estimator lives on cells that share rater and scenario; with "between" (design_between.py) no rater meets a scenario
twice. What is balanced, at any number of raters and whoever comes late:

- every cell of scenario and arm is dealt equally often, within one, and never more often than is asked for;
- every rater meets every arm equally often: within exactly so, between within one;
- for each scenario (within) or over all raters (between), every arm comes equally often first, second, third, ...
  within one: rows of Williams squares, which also let every arm follow every other one equally often;
- every arm has every code equally often, within one.

What a rater gives back counts as not dealt, so the next raters get it first. Arms are keys here, never names.
"""

import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from studyapp.design_between import between
from studyapp.design_extras import Page, count_checks, most_repeats, weave
from studyapp.design_rows import rng, shuffled
from studyapp.design_side import sizes
from studyapp.design_within import within

__all__ = [
    "EXTRA",
    "Page",
    "Plan",
    "codes",
    "most_repeats",
    "pages_per_rater",
    "panels",
    "rated_pages",
    "session",
    "sizes",
]

EXTRA = "extra-"
"""How the names begin under which `codes` gives labels to items with a known answer: they belong to no arm."""


@dataclass(frozen=True)
class Plan:
    """What a study asks for: scenarios with their modes, arm keys, and the sizes.

    `per_rater` is the number of scenarios a rater gets, `ratings_per_cell` None for as many as there are raters, `side`
    the most arms on a side-by-side page. `training` and `checks` are groups of ids that stand on one page.
    """

    scenarios: Mapping[str, str]
    arms: tuple[str, ...]
    crossing: Literal["within", "between"] = "within"
    per_rater: int = 12
    ratings_per_cell: int | None = None
    side: int = 4
    training: tuple[tuple[str, ...], ...] = ()
    checks: tuple[tuple[str, ...], ...] = ()
    check_every: int = 10
    repeats: int = 0
    seed: int = 0

    @property
    def labels(self) -> list[str]:
        """All that needs a code: the arms, and as many stand-ins as a page of known answers has places."""
        widest = max((len(group) for group in (*self.training, *self.checks)), default=0)
        return [*self.arms, *(f"{EXTRA}{number}" for number in range(widest))]


def session(plan: Plan, earlier: Sequence[Sequence[Page]], slot: int) -> list[Page]:
    """The pages of the rater in `slot` (0 for the first), in order; none where every cell is full.

    `earlier` holds the rated pages that other raters have rated or still hold, each rater's in order. Two raters with
    the same `earlier` and slot would get the same session.
    """
    generator = rng(plan.seed, "session", slot, sum(len(pages) for pages in earlier))
    if plan.crossing == "within":
        rated = within(
            plan.scenarios,
            plan.arms,
            earlier,
            count=plan.per_rater,
            most=plan.ratings_per_cell,
            side=plan.side,
            seed=plan.seed,
            generator=generator,
        )
    else:
        rated = between(
            plan.scenarios,
            plan.arms,
            earlier,
            count=plan.per_rater,
            most=plan.ratings_per_cell,
            side=plan.side,
            slot=slot,
            seed=plan.seed,
            generator=generator,
        )
    if not rated:
        return []
    return weave(
        rated,
        [_known("training", group, generator) for group in plan.training],
        [_known("check", group, generator) for group in plan.checks],
        check_every=plan.check_every,
        repeats=plan.repeats,
        slot=slot,
        generator=generator,
    )


def rated_pages(scenarios: Mapping[str, str], arms: int, crossing: str, side: int, per_rater: int) -> int:
    """How many rated pages a rater has who comes early; of the mean, where modes are mixed."""
    alone = arms if crossing == "within" else 1
    beside = -(-arms // side) if crossing == "within" else 1
    wide = sum(mode == "side-by-side" for mode in scenarios.values())
    mean = (wide * beside + (len(scenarios) - wide) * alone) / len(scenarios)
    return round(mean * min(per_rater, len(scenarios)))


def pages_per_rater(plan: Plan) -> int:
    """How many pages a rater has who comes early, training and checks included."""
    rated = rated_pages(plan.scenarios, len(plan.arms), plan.crossing, plan.side, plan.per_rater)
    shown = rated + min(plan.repeats, most_repeats(rated))
    return len(plan.training) + shown + min(len(plan.checks), count_checks(shown, plan.check_every))


def panels(plan: Plan) -> int:
    """The most chats on one page."""
    beside = min(plan.side, len(plan.arms)) if "side-by-side" in plan.scenarios.values() else 1
    return max([beside, *(len(group) for group in (*plan.training, *plan.checks))])


def codes(names: Sequence[str], slot: int, *, seed: int) -> dict[str, str]:
    """The neutral label of each name for the rater in `slot` (0 for the first): 'A', 'B', ...

    Raters come in turns of as many as there are names. Within a turn the labels move on by one from rater to rater, so
    that each name has each label once; every turn begins with a new draw, in which no name keeps the label it had for
    the rater before.
    """
    names = sorted(names)
    turn, step = divmod(slot, len(names))
    generator = rng(seed, "codes")
    before: list[str] | None = None
    for _ in range(turn + 1):
        labels = shuffled([_letters(number) for number in range(len(names))], generator)
        while before and len(names) > 1 and any(a == b for a, b in zip(labels, before, strict=True)):
            labels = shuffled(labels, generator)
        before = labels[-1:] + labels[:-1]  # of the turn's last rater
    return dict(zip(names, labels[step:] + labels[:step], strict=True))


def _known(kind: Literal["training", "check"], group: Sequence[str], generator: random.Random) -> Page:
    mixed = shuffled(group, generator)
    return Page(kind, "side-by-side" if len(group) > 1 else "fixed", extras=tuple(mixed))


def _letters(number: int) -> str:
    """0 is A, 25 is Z, 26 is AA."""
    text = ""
    number += 1
    while number:
        number, letter = divmod(number - 1, 26)
        text = chr(ord("A") + letter) + text
    return text

"""Raters who do not exist: whether they take care, and which marks they give. Pure; every draw is seeded.

The marks of a careful rater follow the model of `viva plan` (reports/stats/planning.py), rounded to 1..5:
mark = mean of the arm + rater + scenario + rater:scenario + rater:arm + scenario:arm + rest.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import numpy as np

from harness.errors import ConfigError

if TYPE_CHECKING:
    from reports.stats.planning import Components

Character = Literal["careful", "leaves early", "straight-lines", "careless"]
Pair = tuple[int, int]
"""Satisfaction and goal achievement."""

SHARE = 0.1
"""Of the raters who leave early, of those who straight-line, of the careless: one of each from four raters on."""
READS = 22.0
"""Characters a second of a careful reader; flags begin at 60."""
SETTLES = 6.0
"""Seconds for finding the marks, beside reading."""
UNSURE = 0.4
"""Share of the end questions that are answered with 'cannot say'; the rest is guessed, so that blinding holds."""
CONTROL = 0.6
"""True fraction of a student that is a control, where nothing else is said."""


@dataclass(frozen=True)
class World:
    """What is true before anybody rates: means of arms, effects of scenarios and of arms within them, in points."""

    model: "Components"
    mean: Mapping[str, float]
    scenario: Mapping[str, float]
    within: Mapping[tuple[str, str], float]


@dataclass(frozen=True)
class Simulated:
    """One rater: their character, the share of pages after which they leave, the effects of their own, their dice."""

    number: int
    character: Character
    stays: float
    severity: float
    of_scenario: Mapping[str, float]
    of_arm: Mapping[str, float]
    favourite: int
    rng: np.random.Generator


def true_fractions(said: Sequence[str], arms: Sequence[str], controls: Sequence[str], usual: float) -> dict[str, float]:
    """The true fraction of every arm: `said` has 'F' for all students or 'ARM=F', the first of `arms` is the teacher.

    Raises ConfigError for an arm that is no student, and for a fraction that is no number above 0 and up to 1.5.
    """
    students = arms[1:]
    found = {arms[0]: 1.0, **{arm: CONTROL if arm in controls else usual for arm in students}}
    for text in said:
        arm, _, number = text.rpartition("=")
        if arm and arm not in students:
            raise ConfigError(f"--fraction names {arm!r}, which is no student", hint=f"there is {', '.join(students)}")
        try:
            value = float(number)
        except ValueError:
            value = 0.0
        if not 0 < value <= 1.5:
            raise ConfigError(f"--fraction has {number!r}", hint="write a number such as 0.95, or ARM=0.95")
        found |= dict.fromkeys([arm] if arm else students, value)
    return found


def make_world(model: "Components", fractions: Mapping[str, float], scenarios: Sequence[str], seed: int) -> World:
    """Draw the scenarios' effects. `fractions` maps each arm to its true fraction of the teacher's mean."""
    rng = np.random.default_rng([seed, 0])
    ease = model.s_s * rng.standard_normal(len(scenarios))
    within = model.s_sa * rng.standard_normal((len(scenarios), len(fractions)))
    return World(
        model,
        {arm: model.mu_t * fraction for arm, fraction in fractions.items()},
        dict(zip(scenarios, ease.tolist(), strict=True)),
        {(one, arm): float(within[s, a]) for s, one in enumerate(scenarios) for a, arm in enumerate(fractions)},
    )


def make_raters(count: int, world: World, seed: int) -> list[Simulated]:
    """Draw `count` raters; who is of which character is drawn too."""
    model, characters = world.model, _characters(count, np.random.default_rng([seed, 1]))
    found = []
    for number, character in enumerate(characters, 1):
        rng = np.random.default_rng([seed, 2, number])
        of_scenario = (model.s_rs * rng.standard_normal(len(world.scenario))).tolist()
        of_arm = (model.s_ra * rng.standard_normal(len(world.mean))).tolist()
        found.append(
            Simulated(
                number=number,
                character=character,
                stays=float(rng.uniform(0.25, 0.8)) if character == "leaves early" else 1.0,
                severity=float(model.s_r * rng.standard_normal()),
                of_scenario=dict(zip(world.scenario, of_scenario, strict=True)),
                of_arm=dict(zip(world.mean, of_arm, strict=True)),
                favourite=int(rng.integers(3, 5)),
                rng=rng,
            )
        )
    return found


def _characters(count: int, rng: np.random.Generator) -> list[Character]:
    odd = max(1, round(SHARE * count)) if count >= 4 else 0
    drawn: list[Character] = ["careful"] * count
    order = rng.permutation(count).tolist()
    without_care: tuple[Character, ...] = ("leaves early", "straight-lines", "careless")
    for character in without_care:
        for at in order[:odd]:
            drawn[at] = character
        order = order[odd:]
    return drawn


def marks(rater: Simulated, world: World, scenario: str, arm: str) -> Pair:
    """What a rater says of an arm in a scenario."""
    if rater.character == "straight-lines":
        return rater.favourite, rater.favourite
    if rater.character == "careless":
        return _any(rater)
    shared = rater.severity + world.scenario[scenario] + rater.of_scenario[scenario]
    mean = world.mean[arm] + shared + rater.of_arm[arm] + world.within[scenario, arm]
    satisfaction, goal = mean + world.model.s_e * rater.rng.standard_normal(2)
    return _rounded(satisfaction), _rounded(goal)


def known_marks(rater: Simulated, satisfaction: Pair, goal: Pair) -> Pair:
    """What a rater says of an item with a known answer; the ranges of right marks include both ends."""
    if rater.character == "straight-lines":
        return rater.favourite, rater.favourite
    if rater.character == "careless":  # missed wherever it can be: this is what checks are there to show
        return _beside(rater, satisfaction), _beside(rater, goal)
    low, high = (int(rater.rng.integers(bounds[0], bounds[1] + 1)) for bounds in (satisfaction, goal))
    return low, high


def preferred(rater: Simulated, codes: Sequence[str], given: Sequence[Pair]) -> str | None:
    """The code of the answer that a rater prefers, one with the best marks; None, often, where several have them."""
    best = max(sum(pair) for pair in given)
    top = [code for code, pair in zip(codes, given, strict=True) if sum(pair) == best]
    if len(top) > 1 and rater.rng.random() < 0.6:
        return None
    return top[int(rater.rng.integers(len(top)))]


def guess(rater: Simulated, pair: tuple[str, str]) -> str | None:
    """Which code of a pair a rater takes for the larger model; None for 'cannot say'."""
    return None if rater.rng.random() < UNSURE else pair[int(rater.rng.integers(2))]


def seconds(rater: Simulated, characters: int) -> float:
    """How long a rater looks at a page with so many characters to read."""
    if rater.character == "careless":
        return float(rater.rng.uniform(0.8, 1.9))
    pace = 2.0 if rater.character == "straight-lines" else 1.0
    return float((SETTLES + characters / READS) / pace * rater.rng.lognormal(0.0, 0.2))


def _rounded(value: float) -> int:
    return int(np.clip(np.rint(value), 1, 5))


def _any(rater: Simulated) -> Pair:
    one, other = rater.rng.integers(1, 6, 2).tolist()
    return one, other


def _beside(rater: Simulated, bounds: Pair) -> int:
    wrong = [mark for mark in range(1, 6) if not bounds[0] <= mark <= bounds[1]] or [bounds[0]]
    return wrong[int(rater.rng.integers(len(wrong)))]

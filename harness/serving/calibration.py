"""From how fast the arms write to the one pace at which all of them are shown. Pure arithmetic.

Let g be the slowest arm's characters a second (the 5th percentile over its answers, at the planned number of chats at
once) and F the longest time to the first character (the 99.5th percentile). An answer is never behind when

    F + i / g <= delay + i / cps    for every character i,

which holds for any length with cps <= 0.8 g and delay >= F + tick, a fifth being kept for what was not measured.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from harness.errors import RatingError

TICK = 0.2
SHARE = 0.8
FLOOR = 12.0
"""Characters a second below which reading along is no pleasure: two words."""
CEILING = 75.0
"""Nobody reads faster; an arm that is much faster is let out at this rate."""
ENOUGH = 16
"""Characters after the first ones from which a rate can be told."""


@dataclass(frozen=True)
class Curve:
    """One answer as it came: seconds since it was admitted, and how many characters were there; then its end."""

    points: tuple[tuple[float, int], ...]
    end: float

    @property
    def first(self) -> float:
        """Seconds until there is something to show."""
        return self.points[0][0] if self.points else self.end

    @property
    def length(self) -> int:
        return self.points[-1][1] if self.points else 0

    @property
    def rate(self) -> float | None:
        """Characters a second after the first ones, None for an answer that is too short to tell."""
        if not self.points or self.length - self.points[0][1] < ENOUGH:
            return None
        return (self.length - self.points[0][1]) / max(self.points[-1][0] - self.points[0][0], 1e-6)

    def needs(self, cps: float, tick: float) -> float:
        """The least delay with which this answer would have been shown at `cps` without a missed tick."""
        needed, at = self.first, 0
        for chunk in range(1, math.ceil(self.length / (cps * tick)) + 1):
            due = math.floor(chunk * cps * tick)
            while at < len(self.points) and self.points[at][1] <= due:
                at += 1
            known = self.points[at][0] if at < len(self.points) else self.end
            needed = max(needed, known - (chunk - 1) * tick)
        return needed


@dataclass(frozen=True)
class Found:
    """The pace of a study and what it was made from (see the module): `g` in characters a second, `F` in seconds."""

    cps: float
    tick: float
    delay: float
    g: float
    F: float
    longest: int
    answers: int


def choose(
    curves: Mapping[str, Sequence[Curve]], *, cps: float | None = None, delay: float | None = None, tick: float = TICK
) -> Found:
    """The pace for arms that wrote these `curves`; `cps` and `delay` are what the study file asks for, if it does.

    Raises RatingError, naming no arm, where the slowest arm cannot keep up.
    """
    rates = {arm: sorted(rate for curve in some if (rate := curve.rate) is not None) for arm, some in curves.items()}
    if not all(rates.values()):
        raise RatingError(
            "an arm wrote too little to tell how fast it is",
            hint='let it answer at more length, or set mode = "fixed" under [rate]',
        )
    everything = [curve for some in curves.values() for curve in some]
    g = min(_lower(some, 0.05) for some in rates.values())
    first = max(_higher([curve.first for curve in some], 0.995) for some in curves.values())
    longest = max(curve.length for curve in everything)
    if cps is None and SHARE * g < FLOOR:
        slow = _delay_for(FLOOR, g, first, longest, tick)
        raise RatingError(
            f"the slowest arm writes {g:.1f} characters a second while {first:.1f} s pass before the first one: shown "
            f"at {SHARE * g:.1f} a second, below {FLOOR:g}, chats are no pleasure to read",
            hint='set mode = "fixed" under [rate], use a faster machine or fewer chats at once, or let raters wait '
            f"longer for the beginning: cps = {FLOOR:g} and delay = {_up(slow)} under [rate]",
        )
    rate = min(SHARE * g, CEILING) if cps is None else cps
    rate = math.floor(rate * 10) / 10
    needed = max(_delay_for(rate, g, first, longest, tick), max(curve.needs(rate, tick) for curve in everything) + tick)
    if delay is not None and delay < needed:
        raise RatingError(
            f"delay = {delay:g} s is too short at {rate:g} characters a second: the slowest arm writes {g:.1f}, and "
            f"needs up to {first:.1f} s to begin",
            hint=f"set delay = {_up(needed)} or more under [rate], or leave it out",
        )
    return Found(rate, tick, _up(needed) if delay is None else delay, g, first, longest, len(everything))


def _delay_for(cps: float, g: float, first: float, longest: int, tick: float) -> float:
    """The delay in seconds with which answers of up to `longest` characters, and a quarter more, are never behind."""
    behind = max(0.0, 1 / (SHARE * g) - 1 / cps) if cps > SHARE * g else 0.0
    return first + tick + 1.25 * longest * behind


def _lower(values: Sequence[float], share: float) -> float:
    """The largest of the values with at most this share of them below it."""
    return sorted(values)[math.floor(share * (len(values) - 1))]


def _higher(values: Sequence[float], share: float) -> float:
    return sorted(values)[math.ceil(share * (len(values) - 1))]


def _up(seconds: float) -> float:
    return math.ceil(seconds * 10) / 10

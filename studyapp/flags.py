"""Signs that a rater did not rate with care, for the owner to look at. Nothing is ever dropped by them.

Pure, and without arms: what a rater did is compared with what reading takes, with known answers and with itself. The
thresholds are published ones where there are any:

- straight-lining: nearly all marks the same, or a long run of the same ones (the longstring index of A. W. Meade and
  S. B. Craig, Identifying careless responses in survey data, 2012);
- too fast: less than 2 seconds for an item (J. L. Huang et al., Detecting and deterring insufficient effort responding,
  2012), or reading at more than 2.5 times the mean silent speed of 238 words a minute (M. Brysbaert, How many words do
  we read per minute?, 2019), which is about 24 characters a second.
"""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Literal

Marks = tuple[int, int]
"""Satisfaction and goal achievement of one rating."""

MIN_RATINGS = 8
SAME_SHARE = 0.9
LONG_RUN = 12
LEAST_SECONDS = 2.0
FASTEST = 60.0
"""Characters a second that nobody reads at."""
FAST_SHARE = 0.2
MIN_FAST = 3
MIN_REPEATS = 2
MEAN_DIFFERENCE = 1.0


@dataclass(frozen=True)
class Page:
    """One page of a rater: the marks given on it, the seconds spent on it, the characters that were there to read."""

    marks: tuple[Marks, ...]
    seconds: float
    characters: int


@dataclass(frozen=True)
class Flag:
    """One sign, with the numbers it stands on."""

    name: Literal["straight-lining", "too fast", "failed checks", "repeats differ"]
    text: str


def flags(
    pages: Sequence[Page], checks: Sequence[bool] = (), repeats: Sequence[tuple[Marks, Marks]] = ()
) -> tuple[Flag, ...]:
    """What speaks against a rater's care.

    `pages` in the rater's order, `checks` whether each known-answer item was answered as it should, `repeats` the marks
    of the same item at both meetings.
    """
    found = (_same(pages), _fast(pages), _failed(checks), _differing(repeats))
    return tuple(flag for flag in found if flag is not None)


def _same(pages: Sequence[Page]) -> Flag | None:
    marks = [pair for page in pages for pair in page.marks]
    if len(marks) < MIN_RATINGS:
        return None
    (pair, count), *_ = Counter(marks).most_common(1)
    if count >= SAME_SHARE * len(marks):
        return Flag("straight-lining", f"{pair[0]} and {pair[1]} in {count} of {len(marks)} ratings")
    longest = max((sum(1 for _ in run) for _, run in groupby(marks)), default=0)
    if longest >= LONG_RUN:
        return Flag("straight-lining", f"the same marks {longest} times in a row")
    return None


def _fast(pages: Sequence[Page]) -> Flag | None:
    count = sum(page.seconds < max(LEAST_SECONDS, page.characters / FASTEST) for page in pages)
    if count < MIN_FAST or count < FAST_SHARE * len(pages):
        return None
    return Flag("too fast", f"{count} of {len(pages)} pages faster than one can read them")


def _failed(checks: Sequence[bool]) -> Flag | None:
    count = sum(not passed for passed in checks)
    return Flag("failed checks", f"{count} of {len(checks)} known answers missed") if count else None


def _differing(repeats: Sequence[tuple[Marks, Marks]]) -> Flag | None:
    if len(repeats) < MIN_REPEATS:
        return None
    gaps = [abs(one - two) for first, second in repeats for one, two in zip(first, second, strict=True)]
    mean = sum(gaps) / len(gaps)
    if mean <= MEAN_DIFFERENCE:
        return None
    return Flag("repeats differ", f"{mean:.1f} marks apart on average over {len(repeats)} repeats")

"""Orders of arms: Williams squares, and which of their rows a scenario or a rater takes next. Pure."""

import random
from collections import Counter
from collections.abc import Hashable, Mapping, Sequence
from typing import TypeVar

T = TypeVar("T")


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


def next_rows(
    scenarios: Sequence[str], arms: Sequence[str], used: Mapping[str, Counter[tuple[str, ...]]], seed: int
) -> dict[str, tuple[str, ...]]:
    """The order in which each scenario meets the arms when it is dealt next: the row it has used least often.

    A scenario walks through the rows of one square, then through those of the next; a row that a rater gave back is
    first in the walk again. Neighbours in a seeded order start at different rows, which is what lets a session take
    equally many of each. `used` counts the rows of each scenario so far.
    """
    names = shuffled(sorted(arms), rng(seed, "arms"))
    squares = [[tuple(names[value] for value in row) for row in square] for square in williams(len(arms))]
    rows = {}
    for offset, scenario in enumerate(shuffled(scenarios, rng(seed, "rows"))):
        shift = offset % len(arms)
        walk = [row for square in squares for row in square[shift:] + square[:shift]]
        counts = used.get(scenario, Counter())
        rows[scenario] = min(walk, key=lambda row: counts[row])
    return rows


def template(arms: Sequence[str], count: int, slot: int, seed: int) -> list[str]:
    """The arms of a rater's `count` pages in order, one row of a square after another.

    Raters come in turns of as many as there are arms; within a turn each arm stands once at each position, whatever
    `count` is, and no arm comes more than once oftener than another one.
    """
    names = shuffled(sorted(arms), rng(seed, "arms"))
    squares = williams(len(arms))
    turn, step = divmod(slot, len(arms))
    found: list[str] = []
    for block in range(-(-count // len(arms))):
        square = squares[(turn + block) % len(squares)]
        # neighbouring blocks of one rater start at different rows, so that their borders differ too
        found += [names[value] for value in square[(step + block) % len(arms)]]
    return found[:count]


def matching(choices: Mapping[T, Sequence[int]]) -> dict[int, T]:
    """The largest matching of keys to numbers, by augmenting paths (Kuhn)."""
    holder: dict[int, T] = {}

    def settle(key: T, tried: set[int]) -> bool:
        for number in choices[key]:
            if number not in tried:
                tried.add(number)
                if number not in holder or settle(holder[number], tried):
                    holder[number] = key
                    return True
        return False

    for key in choices:
        settle(key, set())
    return holder


def shuffled(values: Sequence[T], generator: random.Random) -> list[T]:
    """A mixed copy."""
    mixed = list(values)
    generator.shuffle(mixed)
    return mixed


def rng(seed: int, *purpose: Hashable) -> random.Random:
    """A generator of its own for each purpose; a text seed gives the same numbers on every machine."""
    return random.Random(":".join(map(str, (seed, *purpose))))

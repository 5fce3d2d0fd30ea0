"""Giving out units of scenarios to arms so that every arm gets equally many: a flow, found path by path. Pure."""

from collections import Counter, deque
from collections.abc import Hashable, Sequence


class Shares:
    """Who has which arm. An arm takes `least[arm]` units, and up to `spare` arms one more.

    `least` and `spare` add up to what is to be given out, so that a full one is as even as they say.
    """

    def __init__(self, least: Counter[str], spare: int) -> None:
        self.least, self.spare = least, spare
        self.given: dict[Hashable, set[str]] = {}
        self.allowed: dict[Hashable, tuple[str, ...]] = {}
        self.load: Counter[str] = Counter()

    def copy(self) -> "Shares":
        """The same shares, nothing given yet."""
        return Shares(self.least, self.spare)

    def give(self, node: Hashable, arms: Sequence[str], units: int) -> bool:
        """Give a node `units` different arms, rather the first of `arms`; False, and all as before, if that cannot be.

        What other nodes have may move to other arms that they may have; how many they have stays.
        """
        before = {other: set(own) for other, own in self.given.items()}
        self.allowed[node] = tuple(arms)
        self.given[node] = set()
        if all(self._augment(node) for _ in range(units)):
            return True
        self.given = before
        self.load = Counter(arm for own in before.values() for arm in own)
        return False

    def take(self, node: Hashable) -> None:
        """Take back what a node was given."""
        self.load.subtract(self.given.pop(node))

    def _augment(self, node: Hashable) -> bool:
        """One more unit for a node, by the shortest chain of moves."""
        came: dict[str, tuple[Hashable | None, str | None]] = {}
        queue: deque[str] = deque()
        for arm in self.allowed[node]:
            if arm not in self.given[node]:
                came[arm] = (node, None)
                queue.append(arm)
        raised = Counter(arm for arm in self.load if self.load[arm] > self.least[arm])
        while queue:
            arm = queue.popleft()
            if self.load[arm] < self.least[arm] or (arm not in raised and len(raised) < self.spare):
                self._move(came, arm)
                return True
            if arm not in raised:  # full by itself, but it could have the extra unit of an arm that gives one up
                for other in sorted(raised):
                    if other not in came:
                        came[other] = (None, arm)
                        queue.append(other)
            for other_node, own in self.given.items():
                if arm in own and other_node != node:
                    for other in self.allowed[other_node]:
                        if other not in own and other not in came:
                            came[other] = (other_node, arm)
                            queue.append(other)
        return False

    def _move(self, came: dict[str, tuple[Hashable | None, str | None]], arm: str) -> None:
        """Carry out the chain that ends at `arm`."""
        at: str | None = arm
        while at is not None:
            node, before = came[at]
            if node is not None:
                self.given[node].add(at)
                self.load[at] += 1
                if before is not None:
                    self.given[node].discard(before)
                    self.load[before] -= 1
            at = before

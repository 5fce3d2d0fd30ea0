"""A rater's way through the study, without a web page: join, see the current item, rate it, go back, finish.

Who someone is follows from their token alone. A position that comes from the browser says which of their own items a
rater means, and is checked; nothing else from the browser is believed.
"""

from dataclasses import dataclass
from pathlib import Path

from harness.errors import RatingError
from studyapp import store
from studyapp.store import Item, Rater


@dataclass(frozen=True)
class View:
    """What a rater sees: their progress, and an item (None once all are rated and none was asked for)."""

    done: int
    total: int
    item: Item | None

    @property
    def can_go_back(self) -> bool:
        """Whether there is an earlier item."""
        return (self.item.position if self.item else self.total + 1) > 1


def join(path: Path, kind: store.Kind = "person") -> str:
    """Enter a rater who has read the study's text and consented; returns the token that is theirs from now on."""
    return store.add_rater(path, kind)


def who(path: Path, token: str | None) -> Rater | None:
    """The rater with this token, None for a stranger."""
    return store.rater_by_token(path, token) if token else None


def current(path: Path, rater: Rater) -> View:
    """The first item that the rater has not rated: where they left off."""
    _, _, first = store.progress(path, rater.id)
    return at(path, rater, first)


def at(path: Path, rater: Rater, position: int) -> View:
    """The item at a position; one past the last means the end. Raises RatingError for one not reached yet."""
    done, total, _ = store.progress(path, rater.id)
    if position == total + 1 and done == total:
        return View(done, total, None)
    return View(done, total, store.show(path, rater.id, position))


def back(path: Path, rater: Rater, position: int) -> View:
    """The item before `position`, or the first one."""
    return at(path, rater, max(1, position - 1))


def rate(
    path: Path,
    rater: Rater,
    position: int,
    satisfaction: int | None,
    goal_achievement: int | None,
    comment: str = "",
    revision: int = 0,
) -> View:
    """Store a rating, then show the item after it. Returns only after the rating is on the disk.

    Raises RatingError as `store.rate` does, and when a mark is missing.
    """
    missing = [
        name for name, value in (("satisfaction", satisfaction), ("the goal", goal_achievement)) if value is None
    ]
    if missing or satisfaction is None or goal_achievement is None:
        raise RatingError(f"please give a mark from 1 to 5 for {' and for '.join(missing)}")
    store.rate(path, rater.id, position, satisfaction, goal_achievement, comment, revision)
    return at(path, rater, position + 1)

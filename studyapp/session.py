"""A rater's way through the study, without a web page: join, see the current page, chat, rate, go back, finish.

Who someone is follows from their token alone. A position that comes from the browser says which of their own pages a
rater means, and is checked; nothing else from the browser is believed.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path

from studyapp.records import NOT_SAID, Item, Kind, Marks, Panel, Rater, Turn, View

__all__ = ["NOT_SAID", "Item", "Kind", "Marks", "Panel", "Rater", "Turn", "View"]


def join(
    path: Path,
    kind: Kind = "person",
    *,
    invite: str | None = None,
    crowd: Mapping[str, str] | None = None,
    language: str | None = None,
) -> str:
    """Enter a rater who has consented, and deal them their items; returns their cookie's token.

    `invite` is an invitation's token; `crowd` has platform, person, study and session.
    Raises RatingError unless the study is open to them: paused, closed, full, invitation unknown or used.
    """
    raise NotImplementedError


def join_again(path: Path, return_token: str) -> str:
    """A fresh cookie token for a rater who comes with their return link, on whatever device. Raises RatingError."""
    raise NotImplementedError


def return_link(path: Path, rater: Rater) -> str:
    """The token of a new return link; an older one stops working."""
    raise NotImplementedError


def who(path: Path, token: str | None) -> Rater | None:
    """The rater with this cookie token, None for a stranger."""
    raise NotImplementedError


def current(path: Path, rater: Rater) -> View:
    """Where the rater left off: the first page not rated, then the questions, then the end."""
    raise NotImplementedError


def at(path: Path, rater: Rater, position: int) -> View:
    """The page at a position. Raises RatingError for one that is not the rater's or not reached yet."""
    raise NotImplementedError


def back(path: Path, rater: Rater, position: int) -> View:
    """The page before `position` (from the end: before `View.position`), or the first one."""
    raise NotImplementedError


def after(path: Path, rater: Rater, position: int) -> View:
    """The page after `position`, as far as the rater has come; from the last one the questions or the end."""
    raise NotImplementedError


def rate(
    path: Path,
    rater: Rater,
    position: int,
    marks: Sequence[Marks],
    *,
    preference: str | None = NOT_SAID,
    version: int,
) -> View:
    """Store a page's ratings, `marks` by place, then show the page after it (a training page shows its feedback).

    Returns only after they are on the disk. The same values again change nothing; other values are a new revision.
    `preference` is a code of the page, None for 'no preference'; a side-by-side page needs one of both.
    Raises RatingError for missing or bad values, a page that is not the rater's to rate now, and a stale `version`.
    """
    raise NotImplementedError


def say(path: Path, rater: Rater, position: int, text: str) -> Turn:
    """Store the rater's next message of a live chat before any model is asked; a turn without answer is asked anew."""
    raise NotImplementedError


def heard(
    path: Path,
    rater: Rater,
    turn: Turn,
    text: str,
    *,
    finish: str,
    underruns: int,
    late_s: float,
    failed: bool,
) -> View:
    """Store an answer as it was shown; a failed one leaves the turn to be asked anew."""
    raise NotImplementedError


def end_chat(path: Path, rater: Rater, position: int) -> View:
    """End a live chat at the rater's wish: now it can be rated."""
    raise NotImplementedError


def answer_questions(path: Path, rater: Rater, guesses: Sequence[str | None]) -> View:
    """Store which code of each pair of `View.pairs` the rater took for the larger model; None: cannot say."""
    raise NotImplementedError


def report_problem(path: Path, rater: Rater, position: int | None, text: str) -> None:
    """Store what a rater says is wrong, with a page or (None) in general."""
    raise NotImplementedError


def withdraw(path: Path, rater: Rater) -> None:
    """Delete the rater and everything of theirs; the label and the time of withdrawal stay."""
    raise NotImplementedError

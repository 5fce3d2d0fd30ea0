"""A rater's way through the study, without a web page: join, see the current page, chat, rate, go back, finish.

Who someone is follows from their token alone. A position that comes from the browser says which of their own pages a
rater means, and is checked; nothing else from the browser is believed.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path

from studyapp import store_live, store_pages, store_rate, store_raters
from studyapp.records import NOT_SAID, Item, Kind, Marks, Panel, Rater, RefusedError, Turn, View

__all__ = ["NOT_SAID", "Item", "Kind", "Marks", "Panel", "Rater", "RefusedError", "Turn", "View"]


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
    return store_raters.add_rater(path, kind, invite=invite, crowd=crowd, language=language)


def join_again(path: Path, return_token: str) -> str:
    """A fresh cookie token for a rater who comes with their return link, on whatever device. Raises RatingError."""
    return store_raters.new_device(path, return_token)


def return_link(path: Path, rater: Rater) -> str:
    """The token of a new return link; an older one stops working."""
    return store_raters.return_token(path, rater.id)


def who(path: Path, token: str | None) -> Rater | None:
    """The rater with this cookie token, None for a stranger."""
    return store_raters.rater_by_token(path, token) if token else None


def current(path: Path, rater: Rater) -> View:
    """Where the rater left off: the first page not rated, then the questions, then the end."""
    return store_pages.look(path, rater.id)


def at(path: Path, rater: Rater, position: int) -> View:
    """The page at a position. Raises RatingError for one that is not the rater's or not reached yet."""
    return store_pages.look(path, rater.id, position)


def back(path: Path, rater: Rater, position: int) -> View:
    """The page before `position` (from the end: before `View.position`), or the first one."""
    return store_pages.step(path, rater.id, position, -1)


def after(path: Path, rater: Rater, position: int) -> View:
    """The page after `position`, as far as the rater has come; from the last one the questions or the end."""
    return store_pages.step(path, rater.id, position, 1)


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
    missing = [name for mark in marks for name in _missing(mark)]
    if missing:
        named = " and for ".join(dict.fromkeys(missing))
        raise RefusedError("missing", f"please give a mark from 1 to 5 for {named}")
    return store_rate.rate(path, rater.id, position, marks, preference, version)


def say(path: Path, rater: Rater, position: int, text: str) -> Turn:
    """Store the rater's next message of a live chat before any model is asked; a turn without answer is asked anew."""
    return store_live.say(path, rater.id, position, text)


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
    facts = {"finish": finish, "underruns": underruns, "late_s": late_s, "failed": failed}
    return store_live.heard(path, rater.id, turn, text, **facts)  # type: ignore[arg-type]


def end_chat(path: Path, rater: Rater, position: int) -> View:
    """End a live chat at the rater's wish: now it can be rated."""
    return store_live.end_chat(path, rater.id, position)


def answer_questions(path: Path, rater: Rater, guesses: Sequence[str | None]) -> View:
    """Store which code of each pair of `View.pairs` the rater took for the larger model; None: cannot say."""
    return store_rate.answer_questions(path, rater.id, guesses)


def report_problem(path: Path, rater: Rater, position: int | None, text: str) -> None:
    """Store what a rater says is wrong, with a page or (None) in general."""
    store_rate.report_problem(path, rater.id, position, text)


def withdraw(path: Path, rater: Rater) -> None:
    """Delete the rater and everything of theirs; the label and the time of withdrawal stay."""
    store_raters.withdraw(path, rater.id)


def _missing(marks: Marks) -> list[str]:
    values = {"satisfaction": marks.satisfaction, "the goal": marks.goal_achievement}
    return [name for name, value in values.items() if value is None]

"""What passes between the store, a rater's session and the page: plain values without an arm in them."""

from dataclasses import dataclass, field
from typing import Literal

from harness.errors import RatingError
from harness.records import Message

Kind = Literal["person", "judge", "simulated"]

NOT_SAID = "not said"
"""The preference of a page that has none (yet), in contrast to None: 'no preference'."""

Reason = Literal[
    "paused", "closed", "invite", "full", "busy", "again", "gone", "changed", "mark", "missing", "preference", "long",
    "write", "chat", "questions", "return",
]  # fmt: skip
"""Why a rater's request was refused, for the page to say it in the rater's own language: `full` is for good, `busy`
that every open item is with a rater just now; `invite` an invitation that is missing, unknown or used; `again` somebody
who is in the study already; `changed` a stale page; `gone` a page that is not the rater's to rate now; `chat` a live
chat that has to be ended first."""


class RefusedError(RatingError):
    """A rater's request is not acceptable; `reason` says why, `facts` have the numbers for the text."""

    def __init__(self, reason: Reason, what: str, hint: str | None = None, **facts: object):
        super().__init__(what, hint)
        self.reason = reason
        self.facts = facts


@dataclass(frozen=True)
class Rater:
    """A rater as the page knows one: the row's id, the pseudonym, and the language of the page's own texts."""

    id: int
    label: str
    language: str = "en"


@dataclass(frozen=True)
class Marks:
    """What a rater says of one panel: two marks from 1 to 5, None for one that is missing, and a comment."""

    satisfaction: int | None
    goal_achievement: int | None
    comment: str = ""


@dataclass(frozen=True)
class Panel:
    """One code on a page: its chat so far, and its rating if there is one (revision 0: none yet)."""

    place: int
    code: str
    messages: tuple[Message, ...]
    revision: int
    satisfaction: int | None
    goal_achievement: int | None
    comment: str


@dataclass(frozen=True)
class Item:
    """One page. Checks and repeats look like any other item: the page is not told.

    `turns` is how many messages a live rater may send. `preference` is a code, or None with `preferred` True for 'no
    preference'. `writing`: a live rater may still write. `rateable`: the form may be shown (False while a live chat has
    no answer or is not ended). `feedback`: of a training item that is rated, what a good answer would have been.
    `version` changes with anything stored of the page, and is sent back with a submit.
    """

    position: int
    mode: str
    training: bool
    goal: str
    reached: str
    opening: str
    turns: int
    panels: tuple[Panel, ...]
    preference: str | None
    preferred: bool
    writing: bool
    rateable: bool
    feedback: str | None
    version: int


@dataclass(frozen=True)
class View:
    """What a rater sees now.

    `state` is 'item', 'questions', 'end', 'paused' or 'closed'. `done` of `total` pages are rated. `position` is the
    item's, or one past the last: what `session.back` takes. `pairs` are the pairs of codes that the end questions ask
    about. `completion`, a code or a URL, is there only at the end, and only for a rater who rated all that was theirs.
    `released`: pages that went to other raters while this one was away.
    """

    state: str
    done: int
    total: int
    item: Item | None
    pairs: tuple[tuple[str, str], ...] = ()
    completion: str | None = None
    can_go_back: bool = False
    position: int = 0
    released: int = 0


@dataclass(frozen=True)
class Turn:
    """A message of a live chat that is stored and waits for its answer.

    `messages` is the chat up to and including it. `attempt` counts how often the model has been asked for this turn: an
    answer counts only for the latest one.
    """

    assignment: int
    number: int
    messages: tuple[Message, ...] = field(default=())
    attempt: int = 1

"""One simulated rater's whole session: join, read, chat, rate, answer the questions; or leave before that.

The rater's browser is blind. What they think of an answer depends on its arm, so it is looked up behind the scenes, in
the rehearsal's own study.db; and since they do not really read, the clock of a page is set back by the reading time.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from harness.errors import RunError
from harness.rehearsal import raters
from harness.rehearsal.raters import Pair, Simulated, World
from harness.rehearsal.visitor import Shown, Visitor

FURTHER = (
    "Could you say that again in simpler words?",
    "Thank you. What should I look out for?",
    "Can you give me an example?",
    "And if that does not work?",
)
"""What a simulated rater writes after the scenario's opening."""
MOST_TRIES = 3
"""How often an answer that fails is asked for anew."""

_PAGE = """
SELECT assignment.id, code, scenario, arm_key, satisfaction_from, satisfaction_to, goal_from, goal_to
FROM assignment LEFT JOIN extra ON extra.id = assignment.extra
WHERE rater = ? AND position = ? AND released_at IS NULL ORDER BY place
"""


@dataclass(frozen=True)
class Stage:
    """What stands behind the scenes: the rehearsal's database, its arms by key, and what is true of them."""

    db: Path
    arms: Sequence[str]
    world: World
    names: Mapping[str, str]

    def rater_ids(self) -> list[int]:
        """The rows of all raters in the order in which they joined."""
        from studyapp.db import connect

        with connect(self.db) as db:
            return [int(row["id"]) for row in db.query("SELECT id FROM rater ORDER BY id")]

    def marks(self, rater: Simulated, row: int, position: int) -> list[Pair]:
        """What a rater thinks of each chat of a page, by place."""
        from studyapp.db import connect

        with connect(self.db) as db:
            found = list(db.query(_PAGE, [row, position]))
        return [self._of(rater, one) for one in found]

    def _of(self, rater: Simulated, one: Mapping[str, Any]) -> Pair:
        if one["arm_key"] is None:
            bounds = [int(one[name]) for name in ("satisfaction_from", "satisfaction_to", "goal_from", "goal_to")]
            return raters.known_marks(rater, (bounds[0], bounds[1]), (bounds[2], bounds[3]))
        return raters.marks(rater, self.world, one["scenario"], self.names[one["arm_key"]])

    def set_back(self, row: int, position: int, seconds: float) -> None:
        """Let a page have been shown so many seconds ago."""
        from studyapp.db import write

        at = (datetime.now(UTC) - timedelta(seconds=seconds)).isoformat(timespec="milliseconds")
        with write(self.db, durable=False) as db:
            db.conn.execute(
                "UPDATE assignment SET shown_at = ?, opened_at = min(opened_at, ?) WHERE rater = ? AND position = ?",
                (at, at, row, position),
            )


def go(
    visitor: Visitor, rater: Simulated, stage: Stage, row: int, items: int, page_done: Callable[[int], None]
) -> None:
    """Rate page after page as far as this rater goes. `row` is theirs in study.db, `items` the pages of a session."""
    most = max(1, round(rater.stays * items)) if rater.stays < 1 else items
    rated = 0
    shown = visitor.open()
    while isinstance(shown, Shown) and shown.place and rated < most:
        if "live" in shown.classes and "rateable" not in shown.classes:
            ready = _chat(visitor, rater, shown)
            if ready is None:
                break
            shown = ready
        position = shown.position
        given = stage.marks(rater, row, position)
        preference = raters.preferred(rater, shown.codes, given) if len(given) > 1 else None
        stage.set_back(row, position, raters.seconds(rater, shown.characters))
        shown = _went_on(visitor.save(shown, given, preference))
        if shown.place and shown.position == position and "answered" in shown.classes:
            shown = _went_on(visitor.onward(shown))
        rated += 1
        page_done(1)
    if rated < items:
        page_done(items - rated)
    if rater.stays == 1 and not (isinstance(shown, Shown) and shown.place):
        _leave(visitor, rater)


def _went_on(shown: Shown) -> Shown:
    if shown.note:
        raise RunError(f"the rating page refused a simulated rater: {shown.note}", hint="rehearse again")
    return shown


def _chat(visitor: Visitor, rater: Simulated, shown: Shown) -> Shown | None:
    """Chat until the page can be rated; None where no answer comes, and the rater gives up."""
    wanted, tries = 1 + int(rater.rng.integers(0, 3)) * (rater.character == "careful"), 0
    said = 0
    while "rateable" not in shown.classes:
        if shown.note or tries > MOST_TRIES:
            return None
        if "pending" in shown.classes:
            tries += 1
            shown = visitor.again(shown)
        elif said < wanted and "writing" in shown.classes:
            text = shown.say if said == 0 and shown.say else FURTHER[int(rater.rng.integers(len(FURTHER)))]
            said += 1
            shown = visitor.say(shown, text)
        else:
            tries += 1
            shown = visitor.finish(shown)
    return shown


def _leave(visitor: Visitor, rater: Simulated) -> None:
    """After the last page: the questions, where there are any, then the end."""
    where = visitor.open()
    if where == "/questions":
        visitor.answer({pair: raters.guess(rater, pair) for pair in visitor.question_pairs()})
        where = visitor.open()
    if where == "/end":
        visitor.end()

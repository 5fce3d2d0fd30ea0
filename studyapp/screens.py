"""What happens when a rater presses a button, without Gradio: values from the page in, values for the page out.

Values are named after the parts of the page (see layout.py); a part that is not named stays as the rater has it. So
whatever goes wrong, only the note changes, and nothing that was typed is lost.
"""

import asyncio
import contextlib
import logging
import re
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from studyapp import session, views
from studyapp.chats import Chats
from studyapp.records import NOT_SAID, Marks, Rater, RefusedError, View
from studyapp.schema import MAX_COMMENT, MAX_MESSAGE
from studyapp.texts import Texts

log = logging.getLogger("studyapp")

Values = dict[str, Any]
PLACE = re.compile(r"([1-9][0-9]{0,3})\.([0-9]{1,6})\.([A-Z]{1,2}(?:\+[A-Z]{1,2}){0,3})", re.ASCII)

NONE = "none"
"""The preference of a rater who has none; no code has small letters."""


@dataclass(frozen=True)
class Place:
    """Which page a rater means, as it told the browser: its position, its version, its codes from left to right."""

    position: int
    version: int
    codes: tuple[str, ...]

    def __str__(self) -> str:
        return f"{self.position}.{self.version}.{'+'.join(self.codes)}"


class ProblemError(Exception):
    """Something the rater should know; the text is in their language."""


@dataclass(frozen=True)
class Reader:
    """Who sees the page, and in which language."""

    rater: Rater
    t: Texts


@dataclass(frozen=True)
class Screens:
    """The rating page of the study in `db`, with room for `panels` chats; `chats` where it has live ones."""

    db: Path
    panels: int
    chats: Chats | None = None

    def show(self, reader: Reader, at: int | None = None) -> Values:
        """The page as it is opened: at an item, if it is the rater's to see, else where the rater left off."""
        if at is not None:
            with contextlib.suppress(RefusedError):
                return self._screen(reader, session.at(self.db, reader.rater, at))
        return self._screen(reader, session.current(self.db, reader.rater))

    def save(
        self, reader: Reader, place: object, given: Sequence[tuple[object, object, object]], preferred: object
    ) -> Values:
        """Store marks and comment of each panel of the page, and the code that is preferred (NONE: no preference)."""
        here = _place(reader, place)
        if len(here.codes) > self.panels:
            raise ProblemError(reader.t("note.gone"))
        marks = [_marks(reader.t, *values) for values in given[: len(here.codes)]]
        preference: str | None = NOT_SAID
        if len(here.codes) > 1 and preferred is not None:
            preference = None if preferred == NONE else str(preferred)
        _complete(reader.t, here, marks, preference)
        return self._try(
            reader,
            lambda: session.rate(
                self.db, reader.rater, here.position, marks, preference=preference, version=here.version
            ),
        )

    def back(self, reader: Reader, place: object) -> Values:
        """The page before."""
        here = _place(reader, place)
        return self._try(reader, lambda: session.back(self.db, reader.rater, here.position))

    def onward(self, reader: Reader, place: object) -> Values:
        """The page after one for practice, whose feedback has been read."""
        here = _place(reader, place)
        return self._try(reader, lambda: session.after(self.db, reader.rater, here.position))

    def finish(self, reader: Reader, place: object) -> Values:
        """End a live chat, so that it can be rated."""
        here = self._quiet(reader, place)
        return self._try(reader, lambda: session.end_chat(self.db, reader.rater, here.position))

    def report(self, reader: Reader, place: object, text: object) -> Values:
        """Store a problem with the page."""
        here = _parsed(place)
        words = _text(reader.t, text, MAX_COMMENT)
        try:
            session.report_problem(self.db, reader.rater, here.position if here else None, words)
        except RefusedError:  # not a page of theirs (any more)
            session.report_problem(self.db, reader.rater, None, words)
        return {"problem": "", "thanks": views.note(reader.t("problem.thanks"))}

    async def send(self, reader: Reader, place: object, text: object) -> Values:
        """Store a message of a live chat and have it answered; `watch` then shows the answer."""
        here = self._quiet(reader, place)
        return {**await self._ask(reader, here, _text(reader.t, text, MAX_MESSAGE)), "say": ""}

    async def again(self, reader: Reader, place: object) -> Values:
        """Have a message answered whose answer failed or never came; what is in the box stays there."""
        return await self._ask(reader, self._quiet(reader, place), "")

    async def watch(self, reader: Reader, place: object) -> AsyncIterator[str]:
        """The answer on its way to this item, growing; nothing if there is none."""
        here = _place(reader, place)
        answer = self.chats.answering(reader.rater, here.position) if self.chats else None
        if answer is not None:
            async for text in answer.watch():
                yield views.answering(here.codes[0], text, reader.t)

    def settled(self, reader: Reader, place: object) -> Values:
        """The chat once the answer is over. Touches nothing that the rater may have filled in meanwhile.

        A chat that cannot go on may be gone: then it is the page where the rater belongs now.
        """
        here = _place(reader, place)
        try:
            values = self._screen(reader, session.at(self.db, reader.rater, here.position))
        except RefusedError:
            return self.show(reader)
        return {name: values[name] for name in ("item", "note", "chat-1", "live", "place")}

    async def _ask(self, reader: Reader, here: Place, text: str) -> Values:
        assert self.chats is not None
        try:
            await self.chats.ask(reader.rater, here.position, text, failure=reader.t("live.failed"))
        except RefusedError as refusal:
            raise ProblemError(_why(reader.t, refusal)) from None
        return await asyncio.to_thread(self.settled, reader, str(here))

    def _quiet(self, reader: Reader, place: object) -> Place:
        """The place, if no answer is on its way to it."""
        here = _place(reader, place)
        if self.chats and self.chats.answering(reader.rater, here.position):
            raise ProblemError(reader.t("note.busy"))
        return here

    def _try(self, reader: Reader, act: Callable[[], View]) -> Values:
        try:
            return self._screen(reader, act())
        except RefusedError as refusal:
            raise ProblemError(_why(reader.t, refusal)) from None

    def _screen(self, reader: Reader, view: View) -> Values:
        item, t = view.item, reader.t
        answer = self.chats.answering(reader.rater, item.position) if self.chats and item else None
        values: Values = {"item": views.head(view, t, answering=answer is not None), "note": ""}
        panels = {panel.place: panel for panel in item.panels} if item else {}
        for place in range(1, self.panels + 1):
            panel = panels.get(place)
            values[f"chat-{place}"] = views.chat(item, panel, t) if item and panel else ""
            values[f"satisfaction-{place}"] = panel.satisfaction if panel else None
            values[f"goal_achievement-{place}"] = panel.goal_achievement if panel else None
            values[f"comment-{place}"] = panel.comment if panel else ""
        codes = tuple(panel.code for panel in item.panels) if item else ()
        values["codes"] = codes if len(codes) > 1 else ()
        values["preference"] = (item.preference or NONE) if item and item.preferred else None
        values["place"] = str(Place(item.position, item.version, codes)) if item else ""
        if self.chats:
            begun = item is None or item.mode != "live" or item.panels[0].messages
            values["say"] = "" if begun or item is None else item.opening
            code = item.panels[0].code if item else ""
            values["live"] = views.answering(code, answer.text, t) if answer else ""
        return values


def _parsed(place: object) -> Place | None:
    """The hidden field of the page, which a browser may have made up."""
    matched = PLACE.fullmatch(place) if isinstance(place, str) else None
    return Place(int(matched[1]), int(matched[2]), tuple(matched[3].split("+"))) if matched else None


def _place(reader: Reader, place: object) -> Place:
    here = _parsed(place)
    if here is None:
        raise ProblemError(reader.t("note.gone"))
    return here


def _marks(t: Texts, satisfaction: object, goal: object, comment: object) -> Marks:
    for mark in (satisfaction, goal):
        if mark is not None and not (type(mark) is int and 1 <= mark <= 5):
            raise ProblemError(t("note.mark"))
    text = comment.strip() if isinstance(comment, str) else ""
    if len(text) > MAX_COMMENT:
        raise ProblemError(t("note.long", count=len(text), most=MAX_COMMENT))
    return Marks(satisfaction, goal, text)  # type: ignore[arg-type]


def _complete(t: Texts, here: Place, marks: Sequence[Marks], preference: str | None) -> None:
    """Ask for what is missing."""
    several = len(here.codes) > 1
    missing = []
    for code, given in zip(here.codes, marks, strict=True):
        for name, mark in (("satisfaction", given.satisfaction), ("goal", given.goal_achievement)):
            if mark is None:
                what = t(f"note.{name}")
                missing.append(t("note.of", what=what, code=code) if several else what)
    if missing:
        *some, last = missing
        what = t("note.and", first=", ".join(some), last=last) if some else last
        raise ProblemError(t("note.missing", what=what))
    if several and preference == NOT_SAID:
        raise ProblemError(t("note.preference"))


def _why(t: Texts, refusal: RefusedError) -> str:
    """Why the session refused something, in the rater's language."""
    said = {"paused": "paused.study", "closed": "closed.text", "missing": "note.changed"}
    key = said.get(refusal.reason, f"note.{refusal.reason}")
    return t(key if key in t.entries else "note.gone", **refusal.facts)


def _text(t: Texts, text: object, most: int) -> str:
    words = text.strip() if isinstance(text, str) else ""
    if not words:
        raise ProblemError(t("note.write"))
    if len(words) > most:
        raise ProblemError(t("note.long", count=len(words), most=most))
    return words

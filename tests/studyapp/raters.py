"""Raters without a page: they chat, rate and finish through the session alone."""

import sqlite3
from pathlib import Path
from typing import Any

from studyapp import session
from studyapp.records import NOT_SAID, Item, Marks, Rater, View


def rows(path: Path, sql: str) -> list[tuple[Any, ...]]:
    """What a query finds, over a connection of its own."""
    connection = sqlite3.connect(path)
    try:
        return connection.execute(sql).fetchall()
    finally:
        connection.close()


def change(path: Path, sql: str) -> None:
    """Change something behind the program's back."""
    connection = sqlite3.connect(path)
    with connection:
        connection.execute(sql)
    connection.close()


def newcomer(path: Path, **how: Any) -> Rater:
    """Somebody who has just joined."""
    rater = session.who(path, session.join(path, **how))
    assert rater is not None
    return rater


def say_and_hear(path: Path, rater: Rater, position: int, text: str = "a question", answer: str = "an answer") -> View:
    """One turn of a live chat that goes well."""
    turn = session.say(path, rater, position, text)
    return session.heard(path, rater, turn, answer, finish="stop", underruns=0, late_s=0.0, failed=False)


def talk(path: Path, rater: Rater, item: Item) -> Item:
    """A live chat of one turn, ended; the page as it is then."""
    view = say_and_hear(path, rater, item.position)
    if view.item and not view.item.rateable:
        view = session.end_chat(path, rater, item.position)
    assert view.item is not None
    return view.item


def rate_page(path: Path, rater: Rater, item: Item, mark: int = 3) -> View:
    """Rate a page, chatting first where it is live, and preferring the first of several codes."""
    if item.mode == "live" and not item.rateable:
        item = talk(path, rater, item)
    preference = item.panels[0].code if len(item.panels) > 1 else NOT_SAID
    marks = [Marks(mark, mark)] * len(item.panels)
    view = session.rate(path, rater, item.position, marks, preference=preference, version=item.version)
    return session.after(path, rater, item.position) if item.training else view


def rate_all(path: Path, rater: Rater | None = None, mark: int = 3, most: int | None = None) -> View:
    """Rate all (or the next `most`) that is left of a rater's, a new one's if none is given; the view after that."""
    rater = rater or newcomer(path)
    view = session.current(path, rater)
    done = 0
    while view.item and done != most:
        view = rate_page(path, rater, view.item, mark)
        done += 1
    return view

"""A rater's way through the study, without a web page."""

import pytest
from small_study import make

from harness.errors import RatingError
from studyapp import session, views


def test_from_joining_to_the_end(path):
    rater = session.who(path, session.join(path))
    view = session.current(path, rater)
    assert not view.can_go_back
    met = []
    while view.item:
        assert (view.item.position, view.done, view.total) == (len(met) + 1, len(met), 9)
        met.append((view.item.code, view.item.goal))
        view = session.rate(path, rater, view.item.position, 4, 4)
    assert len(set(met)) == 9
    assert {code for code, _ in met} == {"A", "B", "C"}
    assert (view.done, view.total, view.item) == (9, 9, None)
    assert "Thank you" in views.item(view)


def test_a_rater_comes_back_to_where_they_were(path):
    token = session.join(path)
    rater = session.who(path, token)
    session.rate(path, rater, 1, 4, 4)
    session.rate(path, rater, 2, 4, 4)
    assert session.current(path, session.who(path, token)).item.position == 3


def test_going_back_shows_the_rating_and_changes_it(path):
    rater = session.who(path, session.join(path))
    session.rate(path, rater, 1, 4, 2, "first")
    item = session.back(path, rater, 2).item
    assert (item.position, item.satisfaction, item.goal_achievement, item.comment, item.revision) == (
        1,
        4,
        2,
        "first",
        1,
    )
    view = session.rate(path, rater, 1, 5, 2, "second", item.revision)
    assert view.item.position == 2
    assert session.back(path, rater, 2).item.satisfaction == 5
    assert session.back(path, rater, 1).item.position == 1


def test_both_marks_are_needed(path):
    rater = session.who(path, session.join(path))
    with pytest.raises(RatingError, match=r"for the goal$"):
        session.rate(path, rater, 1, 4, None)
    with pytest.raises(RatingError, match=r"for satisfaction and for the goal$"):
        session.rate(path, rater, 1, None, None)
    assert session.current(path, rater).done == 0


def test_strangers_have_no_session(path):
    session.join(path)
    for token in ("", None, "R01", "x" * 1000):
        assert session.who(path, token) is None


def test_codes_differ_between_raters(path):
    """The second rater's Assistant A is not the first one's."""

    def by_text(rater):
        found = {}
        for position in range(1, 10):
            item = session.at(path, rater, position).item
            found[item.messages[1].content.split(" to ")[0]] = item.code
            session.rate(path, rater, position, 3, 3)
        return found

    one, two = (by_text(session.who(path, session.join(path))) for _ in range(2))
    assert all(one[answer] != two[answer] for answer in one)


def test_texts_are_shown_and_never_rendered(tmp_path):
    nasty = "**bold** ![x](http://evil.example/x.png)\n\n<img src=http://evil.example/y.png>\x07\r\n```mermaid\n$x$"
    make(tmp_path / "study.db", text=lambda arm, scenario: nasty)
    page = views.item(
        session.current(tmp_path / "study.db", session.who(tmp_path / "study.db", session.join(tmp_path / "study.db")))
    )
    assert "\n" not in page  # a line break would begin Markdown
    assert "<img" not in page
    assert "**bold** ![x](http://evil.example/x.png)&#10;&#10;&lt;img src=http://evil.example/y.png&gt;&#10;```" in page


def test_an_empty_answer_is_said_to_be_empty(tmp_path):
    path = tmp_path / "study.db"
    make(path, text=lambda arm, scenario: " \n")
    assert "(an empty answer)" in views.item(session.current(path, session.who(path, session.join(path))))

"""Which calls pass, and that what is remembered of sessions stays small."""

import json

import pytest

from studyapp import calls
from studyapp.calls import Calls, ForeignError, Function, NonsenseError


@pytest.fixture
def known():
    return Calls({0: Function(0, False), 1: Function(1, True)})


def body(function=0, data=(), session="one", **more):
    return json.dumps({"fn_index": function, "data": list(data), "session_hash": session, **more}).encode()


def test_a_session_belongs_to_its_first_rater(known):
    known.check(body(), 1, queued=False)
    known.check(body(), 1, queued=False)
    with pytest.raises(ForeignError):
        known.check(body(), 2, queued=False)
    with pytest.raises(ForeignError):
        known.check_listener(b"session_hash=one", 2)
    with pytest.raises(ForeignError):
        known.check_listener(b"session_hash=never", 1)
    known.check_listener(b"session_hash=one", 1)


def test_a_function_is_called_in_its_own_way_only(known):
    known.check(body(1, ["1.0.A"]), 1, queued=True)
    for function, data, queued in (
        (1, ["1.0.A"], False),
        (0, [], True),
        (1, [], True),
        (1, [["x"]], True),
        (2, [], False),
    ):
        with pytest.raises(NonsenseError):
            known.check(body(function, data), 1, queued=queued)
    assert known.any_queued
    assert not Calls({0: Function(0, False)}).any_queued


def test_a_rater_keeps_the_latest_sessions_and_all_together_are_bounded(known, monkeypatch):
    for number in range(100):
        known.check(body(session=f"s{number}"), 1, queued=False)
    assert list(known.owners) == [f"s{number}" for number in range(80, 100)]
    monkeypatch.setattr(calls, "MAX_SESSIONS", 50)
    for rater in range(2, 200):
        known.check(body(session=f"of {rater}"), rater, queued=False)
    assert len(known.owners) == 50

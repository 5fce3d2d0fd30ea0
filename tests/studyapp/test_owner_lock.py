"""The owner's password, the limit on guesses, and sessions."""

import json
import stat

import pytest

from harness.errors import RatingError
from studyapp import owner_lock
from studyapp.owner_lock import SESSION_SECONDS, TRIES_ALL, TRIES_EACH, Sessions, Tries

PASSWORD = "correct horse battery"


class Clock:
    def __init__(self):
        self.now = 1000.0

    def __call__(self):
        return self.now


def test_only_a_slow_salted_hash_is_on_the_disk(tmp_path):
    db = tmp_path / "study.db"
    assert not owner_lock.sealed(db)
    assert not owner_lock.matches(db, "")
    owner_lock.seal(db, PASSWORD)
    path = tmp_path / "owner.json"
    first = json.loads(path.read_text())
    assert PASSWORD not in path.read_text()
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert first["n"] * first["r"] * 128 >= 32 * 2**20  # bytes that each guess takes
    assert owner_lock.matches(db, PASSWORD)
    assert not owner_lock.matches(db, PASSWORD + " ")
    assert not owner_lock.matches(db, "x" * 10**6)
    owner_lock.seal(db, PASSWORD)
    second = json.loads(path.read_text())
    assert first["salt"] != second["salt"]
    assert first["hash"] != second["hash"]
    path.write_text("{}")
    assert not owner_lock.matches(db, PASSWORD)


@pytest.mark.parametrize("password", ["", "short", "x" * 201])
def test_a_password_that_is_too_short_is_refused(tmp_path, password):
    with pytest.raises(RatingError, match=f"{len(password)} characters"):
        owner_lock.seal(tmp_path / "study.db", password)
    assert not owner_lock.sealed(tmp_path / "study.db")


def test_random_passwords_are_long_and_differ():
    drawn = {owner_lock.new_password() for _ in range(200)}
    assert len(drawn) == 200
    assert all(len(password.replace("-", "")) == 16 for password in drawn)
    assert not set("".join(drawn)) & set("0o1li")


def test_an_address_has_a_few_tries_and_then_one_at_times():
    clock = Clock()
    tries = Tries(clock)
    burst, per_second = int(TRIES_EACH[0]), TRIES_EACH[1]
    assert [tries.take("192.0.2.1") for _ in range(burst)] == [0] * burst
    wait = tries.take("192.0.2.1")
    assert 1 <= wait <= 1 / per_second + 1
    assert tries.take("192.0.2.2") == 0
    clock.now += wait
    assert tries.take("192.0.2.1") == 0
    assert tries.take("192.0.2.1") > 0


def test_guessing_for_a_year_is_hopeless_for_one_address():
    burst, per_second = TRIES_EACH
    assert burst + per_second * 365 * 24 * 3600 < 2 * 10**5


def test_many_addresses_together_are_limited_too():
    tries = Tries(Clock())
    burst = int(TRIES_ALL[0])
    assert [tries.take(f"192.0.2.{number}") for number in range(burst)] == [0] * burst
    assert tries.take("198.51.100.1") > 0


def test_one_line_of_the_newer_internet_is_one_address():
    tries = Tries(Clock())
    for number in range(int(TRIES_EACH[0])):
        assert tries.take(f"2001:db8::{number}") == 0
    assert tries.take("2001:db8::ffff:1") > 0
    assert tries.take("2001:db8:0:1::1") == 0


def test_a_session_lasts_hours_and_ends_when_told(monkeypatch):
    clock = Clock()
    sessions = Sessions(clock)
    one, two = sessions.begin(), sessions.begin()
    assert one != two
    assert sessions.valid(one)
    assert not sessions.valid(None)
    assert not sessions.valid("")
    assert not sessions.valid(one[:-1])
    assert one not in str(sessions.ends)
    sessions.end(one)
    assert not sessions.valid(one)
    assert sessions.valid(two)
    clock.now += SESSION_SECONDS
    assert not sessions.valid(two)
    monkeypatch.setattr(owner_lock, "MAX_SESSIONS", 3)
    tokens = [sessions.begin() for _ in range(5)]
    assert [sessions.valid(token) for token in tokens] == [False, False, True, True, True]

"""Token buckets by a clock of the test's own."""

import pytest

from studyapp.limits import Addresses, Buckets


class Clock:
    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock():
    return Clock()


def test_a_burst_is_allowed_then_one_at_a_time(clock):
    buckets = Buckets((3, 0.5), clock=clock)
    assert [buckets.take("rater") for _ in range(4)] == [0, 0, 0, 2]
    clock.now += 1.9
    assert buckets.take("rater") == 1  # rounded up: who waits as long as told is let in
    clock.now += 0.2
    assert buckets.take("rater") == 0
    clock.now += 1000
    assert [buckets.take("rater") for _ in range(4)] == [0, 0, 0, 2]  # it never holds more than the burst


def test_who_waits_as_told_is_let_in(clock):
    buckets = Buckets((1, 0.3), clock=clock)
    for _ in range(20):
        assert buckets.take("rater") == 0
        clock.now += buckets.take("rater")


def test_keys_do_not_share_and_looking_takes_nothing(clock):
    buckets = Buckets((1, 1), clock=clock)
    assert [buckets.take("one", cost=0) for _ in range(5)] == [0] * 5
    assert buckets.take("one") == 0
    assert buckets.take("one", cost=0) == 1
    assert buckets.take("two") == 0


def test_old_keys_go_so_that_memory_is_bounded(clock):
    buckets = Buckets((1, 0.001), most=10, clock=clock)
    for number in range(1000):
        buckets.take(number)
    assert len(buckets) == 10


def test_an_address_is_named_without_being_kept():
    here, elsewhere = Addresses(), Addresses()
    assert here.name("192.0.2.7") == here.name("192.0.2.7")
    assert here.name("192.0.2.7") != here.name("192.0.2.8")
    assert here.name("192.0.2.7") != elsewhere.name("192.0.2.7")  # the key dies with the process
    assert here.name("2001:db8::1") == here.name("2001:db8:0:0:ffff::9")  # one household
    assert here.name("2001:db8::1") != here.name("2001:db8:0:1::1")
    assert b"192" not in here.name("192.0.2.7")
    assert "192.0.2.7" not in repr(vars(here))

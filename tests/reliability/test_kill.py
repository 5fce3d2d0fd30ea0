"""kill -9 at a dozen random moments of a study with raters at work; `python -m tests.reliability.kill` does 200."""

from pathlib import Path

import pytest

from tests.reliability.kill import run

pytestmark = pytest.mark.skipif(not Path("/proc/self").exists(), reason="looks into /proc for who is dead")


def test_nothing_confirmed_is_lost_and_nothing_is_there_twice(tmp_path: Path) -> None:
    found = run(tmp_path, 12, seed=5, raters=4)
    assert found["faults"] == []
    assert found["kills"] == 12
    assert len(found["killed"]) == 3  # the page, the model server, both
    # it was no idle study: there was something to lose, and something was cut off in the middle
    assert min(found[what] for what in ("ratings acknowledged", "live answers shown whole", "requests cut off")) > 0

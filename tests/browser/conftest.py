import sys
from pathlib import Path

import pytest

# the small study and its server are shared with tests/studyapp
sys.path[:0] = [str(Path(__file__).parent), str(Path(__file__).parents[1] / "studyapp")]

from rater import chromium, chromium_path  # noqa: E402
from small_study import make, serving  # noqa: E402


@pytest.fixture(scope="module")
def browser():
    """A real Chromium."""
    if chromium_path() is None:
        pytest.skip("no Chromium on this machine; apt-get install chromium")
    with chromium() as running:
        yield running


@pytest.fixture(scope="module")
def served(tmp_path_factory):
    """The real server over a small study of nasty texts; `.db` is its database."""
    path = tmp_path_factory.mktemp("browser") / "study.db"
    nasty = '**bold** ![x](http://evil.example/x.png) <img src="http://evil.example/y.png"> <script>alert(1)</script>'
    make(path, text=lambda arm, scenario: f"Answer {arm} to {scenario.id}.\n\n{nasty}\n" + "A longer sentence. " * 20)
    with serving(path) as server:
        server.db = path
        yield server

import sys
from pathlib import Path

import pytest

# the small study and its server are shared with tests/studyapp
sys.path[:0] = [str(Path(__file__).parent), str(Path(__file__).parents[1] / "studyapp")]

from rater import chromium, chromium_path  # noqa: E402
from served import serving, typing  # noqa: E402
from small_study import known, make, scenarios  # noqa: E402

NASTY = '**bold** ![x](http://evil.example/x.png) <img src="http://evil.example/y.png"> <script>alert(1)</script>'


def nasty_text(arm, scenario):
    return f"Answer {arm} to {scenario.id}.\n\n{NASTY}\n" + "A longer sentence. " * (20 + 15 * arm)


@pytest.fixture(scope="module")
def browser():
    """A real Chromium. While it runs this thread has a running event loop, so it ends before other tests begin."""
    if chromium_path() is None:
        pytest.skip("no Chromium on this machine; apt-get install chromium")
    with chromium() as running:
        yield running


@pytest.fixture(scope="module")
def served(tmp_path_factory):
    """The real server over a small study of nasty texts; `.db` is its database."""
    path = tmp_path_factory.mktemp("browser") / "study.db"
    make(path, text=nasty_text)
    with serving(path) as server:
        yield server


@pytest.fixture(scope="module")
def beside(tmp_path_factory):
    """The real server over a study of four arms side by side, with practice before and questions after."""
    path = tmp_path_factory.mktemp("beside") / "study.db"
    keys = ("k-one", "k-two", "k-three", "k-four")
    settings = {"mode": "side-by-side", "side": 4, "keys": keys, "scenarios_per_rater": 2, "questions": True}
    make(path, text=nasty_text, training=[known(1)], completion_code="THANKS-42", **settings)
    with serving(path) as server:
        yield server


@pytest.fixture(scope="module")
def live(tmp_path_factory):
    """The real server over a study of live chats, and a real model server with scripted arms behind it."""
    path = tmp_path_factory.mktemp("live") / "study.db"
    make(path, mode="live", items=scenarios(turns=3), scenarios_per_rater=1)
    with typing(path, paces=(0.0, 0.01, 0.03)) as models, serving(path, models=models) as server:
        yield server

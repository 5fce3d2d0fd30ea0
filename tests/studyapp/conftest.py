import shutil

import pytest
from small_study import make


@pytest.fixture(scope="session")
def small_study(tmp_path_factory):
    """The small study as it is before the first rater; made once, never written to."""
    path = tmp_path_factory.mktemp("small") / "study.db"
    make(path)
    return path


@pytest.fixture
def path(small_study, tmp_path):
    """A small study of the test's own."""
    return shutil.copy(small_study, tmp_path / "study.db")

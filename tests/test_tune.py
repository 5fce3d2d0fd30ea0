"""Pages of a mapped file can be let go of; nothing else is touched."""

import platform
import re
from pathlib import Path

import pytest
import torch

from harness.tune import let_go_of_file

pytestmark = pytest.mark.skipif(platform.system() != "Linux", reason="madvise on mapped files is Linux's")
SIZE = 1 << 24


def resident_of_files() -> int:
    found = re.search(r"RssFile:\s+(\d+) kB", Path("/proc/self/status").read_text(encoding="ascii"))
    assert found
    return int(found[1]) * 1024


def test_pages_of_a_file_leave_memory_and_come_back(tmp_path: Path) -> None:
    wanted = torch.arange(SIZE // 4, dtype=torch.int32)
    (tmp_path / "weights").write_bytes(wanted.numpy().tobytes())
    mapped = torch.from_file(str(tmp_path / "weights"), shared=False, size=SIZE // 4, dtype=torch.int32)
    assert torch.equal(mapped, wanted)
    before = resident_of_files()
    assert let_go_of_file(mapped.data_ptr(), mapped.nbytes)
    assert resident_of_files() < before - SIZE // 2
    assert torch.equal(mapped, wanted)


def test_other_memory_is_left_alone() -> None:
    mine = torch.arange(SIZE // 4, dtype=torch.int32)
    assert not let_go_of_file(mine.data_ptr(), mine.nbytes)
    assert int(mine[-1]) == SIZE // 4 - 1
    assert not let_go_of_file(mine.data_ptr(), 10)  # less than a page

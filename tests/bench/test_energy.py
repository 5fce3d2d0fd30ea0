"""Energy from counters that are there, and from none."""

import os
import time
from pathlib import Path

import pytest

from harness.bench.energy import assumed, codecarbon, find_meter, rapl, read


def package(root: Path, folder: str, name: str, energy: int, size: int = 1_000_000) -> Path:
    path = root / folder
    path.mkdir()
    (path / "name").write_text(name + "\n")
    (path / "energy_uj").write_text(str(energy))
    (path / "max_energy_range_uj").write_text(str(size))
    return path / "energy_uj"


def test_counters_of_all_packages_each_once(tmp_path: Path) -> None:
    first = package(tmp_path, "intel-rapl:0", "package-0", 100_000)
    second = package(tmp_path, "intel-rapl:1", "package-1", 900_000)
    others = [
        package(tmp_path, "intel-rapl:0:0", "core", 5),
        package(tmp_path, "intel-rapl:2", "psys", 5),
        package(tmp_path, "intel-rapl-mmio:0", "package-0", 5),
    ]
    meter = rapl(tmp_path)
    assert meter is not None
    assert meter.kind == "measured"
    joules = meter.begin()
    first.write_text("350000")
    second.write_text("200000")  # it ran over: 100,001 to its end, and 200,000 more
    for path in others:
        path.write_text("999")
    assert joules() == pytest.approx(0.550001)
    assert find_meter("cpu", 2, tmp_path).kind == "measured"


def test_without_counters_power_is_assumed_and_said_to_be(tmp_path: Path) -> None:
    assert rapl(tmp_path) is None
    meter = find_meter("cpu", 3, tmp_path)
    assert meter.kind == "estimated"
    if "codecarbon" not in meter.how:
        assert "5 W for each busy core" in meter.how
        joules = meter.begin()
        begun = time.perf_counter()
        time.sleep(0.01)
        assert joules() >= 15 * (0.01)
        assert joules() <= 15 * (time.perf_counter() - begun + 0.01)
    assert find_meter("cuda", 1, tmp_path).how


def test_a_counter_for_root_only_is_none(tmp_path: Path) -> None:
    path = package(tmp_path, "intel-rapl:0", "package-0", 100)
    path.unlink()
    os.symlink(tmp_path / "nowhere", path)
    assert rapl(tmp_path) is None


def test_a_counter_that_fails_or_stands_still_gives_nothing() -> None:
    def fails() -> float:
        raise OSError

    assert read(fails) is None
    assert read(lambda: 0.0) is None
    assert read(assumed(10.0, "").begin()) is not None


def test_codecarbon_is_an_estimate() -> None:
    pytest.importorskip("codecarbon")
    meter = codecarbon()
    assert meter is not None
    assert meter.kind == "estimated"
    joules = meter.begin()
    sum(range(3_000_000))
    assert joules() > 0

"""Energy of a piece of work in joules: measured by the machine's counters where they can be read, else estimated.

In this order: for work on a GPU its own counter (NVML, by the package pynvml), for work on the processor its counters
(RAPL); otherwise codecarbon's power model where that package is installed; otherwise so many watts for each busy core
or GPU. Whatever is used says which it is, so that nothing estimated passes for measured.
"""

import contextlib
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from harness.train.plan import WATTS_PER_CORE, WATTS_PER_GPU

POWERCAP = Path("/sys/class/powercap")
Kind = Literal["measured", "estimated"]


@dataclass(frozen=True)
class Meter:
    """A way to know energy: `kind` and `how` say what its numbers are; `begin` returns a call that gives the joules."""

    kind: Kind
    how: str
    begin: Callable[[], Callable[[], float]]


def find_meter(device: str, threads: int, powercap: Path = POWERCAP) -> Meter:
    """The best meter for work on a device ('cpu', 'cuda') with so many threads."""
    if device.startswith("cuda"):
        return nvml() or codecarbon() or assumed(WATTS_PER_GPU, f"assumed: {WATTS_PER_GPU:.0f} W for the GPU")
    watts = WATTS_PER_CORE * threads
    return rapl(powercap) or codecarbon() or assumed(watts, f"assumed: {WATTS_PER_CORE:.0f} W for each busy core")


def rapl(powercap: Path = POWERCAP) -> Meter | None:
    """The counters of the processor packages: all that runs on them, ours or not. None where they cannot be read."""
    packages: dict[str, tuple[Path, int]] = {}
    try:
        for folder in sorted(powercap.glob("*:*"), key=lambda path: (len(path.name), path.name)):
            name = (folder / "name").read_text().strip()
            # psys holds the packages once more, and some machines list a package by two interfaces.
            if folder.name.count(":") == 1 and name.startswith("package") and name not in packages:
                size = int((folder / "max_energy_range_uj").read_text())
                int((folder / "energy_uj").read_text())  # often for root only
                packages[name] = folder / "energy_uj", size
    except (OSError, ValueError):
        return None
    if not packages:
        return None

    def begin() -> Callable[[], float]:
        before = [int(path.read_text()) for path, _ in packages.values()]

        def joules() -> float:
            after = [int(path.read_text()) for path, _ in packages.values()]
            sizes = [size for _, size in packages.values()]
            # A counter that has run over begins again at 0.
            return sum((b - a) % (size + 1) for a, b, size in zip(before, after, sizes, strict=True)) / 1e6

        return joules

    return Meter("measured", "RAPL: all that runs on the processor, memory not included", begin)


def nvml() -> Meter | None:
    """The counter of the first GPU; None without pynvml, or for a GPU that has none (before Volta)."""
    try:
        import pynvml

        pynvml.nvmlInit()
        handle = pynvml.nvmlDeviceGetHandleByIndex(0)
        pynvml.nvmlDeviceGetTotalEnergyConsumption(handle)
    except Exception:  # no package, no driver, no GPU, no counter: each says so in its own way
        return None

    def begin() -> Callable[[], float]:
        before = pynvml.nvmlDeviceGetTotalEnergyConsumption(handle)
        return lambda: (pynvml.nvmlDeviceGetTotalEnergyConsumption(handle) - before) / 1e3

    return Meter("measured", "NVML: the GPU alone", begin)


def codecarbon() -> Meter | None:
    """codecarbon's power model of processor and memory; None where the package is not installed."""
    try:
        from codecarbon import OfflineEmissionsTracker

        # The country would only matter for its CO2, which is not used: the study states its grid itself.
        tracker: Any = OfflineEmissionsTracker(
            country_iso_code="USA", save_to_file=False, log_level="critical", allow_multiple_runs=True
        )
    except Exception:  # not installed, or it cannot make sense of this machine
        return None
    count = 0

    def begin() -> Callable[[], float]:
        nonlocal count
        count += 1
        name = f"work {count}"
        tracker.start_task(name)
        return lambda: float(tracker.stop_task(name).energy_consumed) * 3.6e6  # kWh

    return Meter("estimated", "codecarbon’s power model of processor and memory", begin)


def assumed(watts: float, how: str) -> Meter:
    """A power that is assumed, times the seconds that pass."""

    def begin() -> Callable[[], float]:
        started = time.perf_counter()
        return lambda: watts * (time.perf_counter() - started)

    return Meter("estimated", how, begin)


def read(joules: Callable[[], float]) -> float | None:
    """The joules of a finished piece of work, None where the counter fails or has nothing to say."""
    with contextlib.suppress(Exception):  # a counter must never stop a measurement
        found = joules()
        return found if found > 0 else None
    return None

"""Which models can wait in memory at once: their weights as they will be loaded, against the memory that is free."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path

from harness.train.plan import PROCESS_BYTES

SHARE = 0.8  # of the free memory, so that caches and other programs keep some
LOADED_BYTES = 4  # float32


def groups(first: str, others: Sequence[str], models: Mapping[str, Path], free: float | None = None) -> list[list[str]]:
    """`others` in as few groups as fit into `free` bytes (default: this machine's) beside `first`, which leads each.

    A group has at least one other, even where that is too much: it may fit after all, and else it will say so.
    """
    room = SHARE * (free_bytes() if free is None else free)
    found: list[list[str]] = [[first]]
    taken = loaded_bytes(models[first])
    for name in others:
        size = loaded_bytes(models[name])
        if taken + size > room and len(found[-1]) > 1:
            found.append([first])
            taken = loaded_bytes(models[first])
        found[-1].append(name)
        taken += size
    return found


def loaded_bytes(directory: Path) -> float:
    """Bytes of a process that holds the model in float32, from the headers of its files; a bound where they lack."""
    weights = 0.0
    for path in sorted(directory.glob("*.safetensors")):
        try:
            with path.open("rb") as file:
                header = json.loads(file.read(int.from_bytes(file.read(8), "little")))
        except (OSError, ValueError, MemoryError):
            weights += 2 * path.stat().st_size
            continue
        for name, tensor in header.items():
            if name != "__metadata__":
                count = 1
                for size in tensor["shape"]:
                    count *= size
                weights += LOADED_BYTES * count
    return weights + PROCESS_BYTES


def free_bytes() -> float:
    """Memory that processes of this machine, or of this container, can still take."""
    import psutil

    free = float(psutil.virtual_memory().available)
    limit, used = Path("/sys/fs/cgroup/memory.max"), Path("/sys/fs/cgroup/memory.current")
    try:
        return min(free, float(limit.read_text()) - float(used.read_text()))
    except (OSError, ValueError):  # no container, or one without a limit
        return free

"""What a ranker costs: its size, and the seconds until it has found the ten best of all items for some users."""

import time
from pathlib import Path
from typing import Any

from harness.bench import cost_worker
from harness.bench.energy import Meter, read
from harness.models.ranker.queries import SHOWN

REPEATS = 200  # queries of one user in a measurement: a single one may take less than the clock's noise
FEWEST = 3  # queries of many users at once


def facts(model: Any, directory: Path, loading: int, meter: Meter) -> dict[str, Any]:
    """What does not depend on what is asked of the model."""
    found = cost_worker.facts(model, directory, loading, meter)
    found["conditions"] |= {"decoding": f"the {SHOWN} best of all items"}
    return found


def measured(model: Any, prompt: int, output: int, batch: int, meter: Meter) -> dict[str, Any]:
    """One measurement: seconds from `batch` histories of `prompt` items to the best items of each; joules of all.

    `output` means nothing here. The seconds are the mean of queries that follow each other.
    """
    import torch

    size = model.config.vocab_size
    rows = [[(997 * k + 13 + 61 * row) % size for k in range(prompt)] for row in range(batch)]
    ids_BT = torch.tensor(rows, device=model.device)
    repeats = max(FEWEST, REPEATS // batch)
    wait = torch.cuda.synchronize if ids_BT.is_cuda else lambda: None
    joules = meter.begin()
    with torch.inference_mode():
        wait()
        begun = time.perf_counter()
        for _ in range(repeats):
            model.score(model.hidden(ids_BT)[:, -1]).topk(min(SHOWN, size))
        wait()
        seconds = (time.perf_counter() - begun) / repeats
    used = read(joules)
    return {"first_seconds": seconds, "tokens_per_second": None, "joules": used, "tokens": repeats * batch}

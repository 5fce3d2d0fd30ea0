"""What a ranker costs: its size, and the seconds until it has found the ten best of all items for some users."""

from pathlib import Path
from typing import Any

from harness.bench import cost_worker
from harness.bench.energy import Meter
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
    shown = min(SHOWN, model.config.vocab_size)
    return cost_worker.read_timed(
        lambda ids_BT: model.score(model.hidden(ids_BT)[:, -1]).topk(shown),
        cost_worker.prompts(model, prompt, batch),
        max(FEWEST, REPEATS // batch),
        meter,
    )

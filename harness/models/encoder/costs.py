"""What an encoder costs: the time of one reading of a text, alone or in a batch."""

from pathlib import Path
from typing import Any

from harness.bench import cost_worker
from harness.bench.energy import Meter

REPEATS = 16  # readings of one text in a measurement: the first one finds cold caches and sleeping threads
FEWEST = 3  # readings of many texts at once


def facts(model: Any, directory: Path, loading: int, meter: Meter) -> dict[str, Any]:
    """What does not depend on what is asked of the model, in counts and bytes."""
    found = cost_worker.facts(model, directory, loading, meter)
    found["conditions"]["decoding"] = "one reading of the text, without the head"
    return found


def measured(model: Any, prompt: int, output: int, batch: int, meter: Meter) -> dict[str, Any]:
    """One measurement: seconds for a batch of texts of `prompt` tokens, joules of all; a text counts as one token.

    The seconds are the mean of readings that follow each other. The head is left out: it differs from task to task, and
    a masked-LM head is for training alone.
    """
    return cost_worker.read_timed(
        lambda ids_BT: model.base_model(input_ids=ids_BT).last_hidden_state.sum().item(),
        cost_worker.prompts(model, prompt, batch),
        max(FEWEST, REPEATS // batch),
        meter,
    )

"""What an encoder costs: the time of one reading of a text, alone or in a batch."""

import time
from pathlib import Path
from typing import Any

from harness.bench.cost_worker import facts as facts_of_any
from harness.bench.energy import Meter, read

REPEATS = 16  # readings of one text in a measurement: the first one finds cold caches and sleeping threads
FEWEST = 3  # readings of many texts at once


def facts(model: Any, directory: Path, loading: int, meter: Meter) -> dict[str, Any]:
    """What does not depend on what is asked of the model, in counts and bytes."""
    found = facts_of_any(model, directory, loading, meter)
    found["conditions"]["decoding"] = "one reading of the text, without the head"
    return found


def measured(model: Any, prompt: int, output: int, batch: int, meter: Meter) -> dict[str, Any]:
    """One measurement: seconds for a batch of texts of `prompt` tokens, joules of all; a text counts as one token.

    The seconds are the mean of readings that follow each other. The head is left out: it differs from task to task, and
    a masked-LM head is for training alone.
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
            model.base_model(input_ids=ids_BT).last_hidden_state.sum().item()
        wait()
        seconds = (time.perf_counter() - begun) / repeats
    used = read(joules)
    return {"first_seconds": seconds, "tokens_per_second": None, "joules": used, "tokens": repeats * batch}

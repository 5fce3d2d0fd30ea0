"""What a model costs: parameters, bytes on disk, time to first token, tokens per second, peak memory.

`measure` runs `python -m harness.bench.costs MODEL_DIR` once per arm: in a process of its own, the peak memory is the
arm's and nobody else's.
"""

import json
import os
import platform
import resource
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from statistics import median
from typing import Any

from harness.errors import RunError, VivaError

PROMPT = 32
OUTPUT = 32
REPEATS = 5
WARM_UP = 4  # tokens written before anything is timed
TIMEOUT = 900  # seconds
WEIGHTS = (".safetensors", ".bin", ".gguf", ".onnx", ".pt")


def measure(directory: Path, *, prompt: int = PROMPT, output: int = OUTPUT, repeats: int = REPEATS) -> dict[str, Any]:
    """Measure one model directory in a fresh process; greedy, batch 1, on this machine's processor.

    Returns `parameters`, `parameters_without_embeddings`, `bytes_on_disk` (weights), `peak_memory_bytes` (resident,
    the whole process), `memory_before_model_bytes` (resident, libraries only), `time_to_first_token_seconds` and
    `tokens_per_second` (after the first token), the last two as {"median", "low", "high", "n"} over the repeats, and
    `conditions`. Raises RunError with the process's last words when it fails.
    """
    root = str(Path(__file__).resolve().parents[2])
    paths = [root, *filter(None, [os.environ.get("PYTHONPATH")])]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(paths), "HF_HUB_OFFLINE": "1"}
    command = [sys.executable, "-m", "harness.bench.costs", str(directory), str(prompt), str(output), str(repeats)]
    try:
        done = subprocess.run(command, capture_output=True, text=True, env=environment, timeout=TIMEOUT)
    except subprocess.TimeoutExpired:
        raise RunError(
            f"measuring {directory} took more than {TIMEOUT} s", hint="measure on a quieter machine"
        ) from None
    if done.returncode:
        last = (done.stderr.strip().splitlines() or [f"exit code {done.returncode}"])[-1]
        raise RunError(f"measuring the costs of {directory} failed: {last}", hint="is it a whole model directory?")
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return found


def spread(values: Sequence[float]) -> dict[str, float]:
    """Median, lowest, highest and number of repeated measurements."""
    return {"median": median(values), "low": min(values), "high": max(values), "n": len(values)}


def bytes_on_disk(directory: Path) -> int:
    """Bytes of the weight files in a model directory."""
    return sum(path.stat().st_size for path in directory.iterdir() if path.suffix in WEIGHTS)


def count_parameters(model: Any) -> tuple[int, int]:
    """(all parameters, those outside the input and output embeddings); tied weights count once."""
    sizes = {id(weight): weight.numel() for weight in model.parameters()}
    embeddings = [model.get_input_embeddings(), model.get_output_embeddings()]
    inside = {id(weight) for layer in embeddings if layer is not None for weight in layer.parameters()}
    return sum(sizes.values()), sum(size for key, size in sizes.items() if key not in inside)


def resident_bytes(peak: bool = False) -> int:
    """Resident memory of this process, now or at its peak.

    Linux's getrusage also counts what the parent held before it started this process; /proc/self/status does not.
    """
    field = "VmHWM:" if peak else "VmRSS:"
    try:
        for line in Path("/proc/self/status").read_text().splitlines():
            if line.startswith(field):
                return int(line.split()[1]) * 1024
    except OSError:
        pass
    scale = 1 if platform.system() == "Darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * scale


def generate_timed(model: Any, ids: Any, output: int) -> tuple[float, float]:
    """Write `output` tokens greedily after `ids` [1, T]; (seconds to the first, tokens per second after it).

    A loop of its own instead of `generate`: no stopping early, nothing timed but the model.
    """
    import torch

    with torch.inference_mode():
        begun = time.perf_counter()
        step = model(input_ids=ids, use_cache=True, logits_to_keep=1)
        token = step.logits[:, -1:].argmax(-1)
        first = time.perf_counter()
        for _ in range(output - 1):
            step = model(input_ids=token, past_key_values=step.past_key_values, use_cache=True, logits_to_keep=1)
            token = step.logits[:, -1:].argmax(-1)
        token.tolist()
        return first - begun, (output - 1) / (time.perf_counter() - first)


def run(directory: Path, prompt: int, output: int, repeats: int) -> dict[str, Any]:
    """Measure in this process (see `measure`)."""
    import torch

    from harness.models.load import load_model

    loading = resident_bytes()
    loaded = load_model(directory)
    model = loaded.model
    total, inner = count_parameters(model)
    # Any tokens cost the same; these are fixed, and spread over the vocabulary.
    ids = torch.tensor([[(997 * k + 13) % model.config.vocab_size for k in range(prompt)]])
    generate_timed(model, ids, WARM_UP)
    times = [generate_timed(model, ids, output) for _ in range(repeats)]
    return {
        "parameters": total,
        "parameters_without_embeddings": inner,
        "bytes_on_disk": bytes_on_disk(directory),
        "time_to_first_token_seconds": spread([first for first, _ in times]),
        "tokens_per_second": spread([rate for _, rate in times]),
        "peak_memory_bytes": resident_bytes(peak=True),
        "memory_before_model_bytes": loading,
        "conditions": {
            "device": str(model.device),
            "dtype": str(model.dtype).removeprefix("torch."),
            "threads": torch.get_num_threads(),
            "batch": 1,
            "prompt_tokens": prompt,
            "output_tokens": output,
            "warm_up_tokens": WARM_UP,
            "decoding": "greedy",
        },
    }


if __name__ == "__main__":
    folder, *numbers = sys.argv[1:]
    try:
        print(json.dumps(run(Path(folder), *map(int, numbers))))
    except VivaError as error:
        sys.exit(error.what)

"""The process in which one arm's costs are measured: it loads the model once and measures when it is told.

`python -m harness.bench.cost_worker MODEL_DIR THREADS [FAMILY]` reads requests from stdin and answers each on stdout,
both JSON by line. In a process of its own the peak memory is the arm's and nobody else's; that all arms' processes wait
together lets the measurements take turns.

    {"do": "load"}                                               -> what the model is (see `facts`)
    {"do": "time", "prompt": 32, "output": 128, "batch": 1}      -> one measurement (see `measured`)
    {"do": "memory"}                                             -> {"peak_memory_bytes": ...}
"""

import json
import os
import platform
import resource
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from harness.bench.energy import Meter, find_meter, read
from harness.errors import VivaError
from harness.models.families import CAUSAL_LM
from harness.models.packed_weights import packed_bits, packed_file

WEIGHTS = (".safetensors", ".bin", ".gguf", ".onnx", ".pt")


def bytes_on_disk(directory: Path) -> int:
    """Bytes of the weight files in a model directory; where its weights have few bits, of the packed file."""
    if packed_file(directory).is_file():
        return packed_file(directory).stat().st_size
    return sum(path.stat().st_size for path in directory.iterdir() if path.suffix in WEIGHTS)


def bytes_in_memory(model: Any) -> int:
    """Bytes of a model's parameters and buffers as they are loaded; tied weights count once."""
    tensors = {tensor.data_ptr(): tensor for tensor in (*model.parameters(), *model.buffers())}
    return sum(tensor.numel() * tensor.element_size() for tensor in tensors.values())


def count_parameters(model: Any) -> tuple[int, int]:
    """(all parameters, those outside the input and output embeddings); tied weights count once."""
    sizes = {id(weight): weight.numel() for weight in model.parameters()}
    embeddings = [model.get_input_embeddings(), model.get_output_embeddings()]
    inside = {id(weight) for layer in embeddings if layer is not None for weight in layer.parameters()}
    return sum(sizes.values()), sum(size for key, size in sizes.items() if key not in inside)


def flops_per_token(model: Any, context: float) -> float | None:
    """Floating-point operations for one written token that sees `context` tokens; None for an unknown architecture."""
    from harness.train.plan import Text, forward_flops, size_of

    try:
        return forward_flops(size_of(model), Text(1, context, 1))
    except (AttributeError, TypeError, ZeroDivisionError):
        return None


def window_of(model: Any) -> int:
    """Tokens that the model may see at once; without a limit in its configuration, more than anybody asks for."""
    config = model.config.get_text_config()
    names = ("max_position_embeddings", "n_positions", "n_ctx")
    return int(next((value for name in names if (value := getattr(config, name, None))), 1 << 30))


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
    """Write `output` tokens greedily after each row of `ids` [B, T]; (seconds to the first, seconds for the rest).

    A loop of its own instead of `generate`: no stopping early, nothing timed but the model.
    """
    import torch

    wait = torch.cuda.synchronize if ids.is_cuda else lambda: None
    with torch.inference_mode():
        wait()
        begun = time.perf_counter()
        step = model(input_ids=ids, use_cache=True, logits_to_keep=1)
        token = step.logits[:, -1:].argmax(-1)
        wait()
        first = time.perf_counter()
        for _ in range(output - 1):
            step = model(input_ids=token, past_key_values=step.past_key_values, use_cache=True, logits_to_keep=1)
            token = step.logits[:, -1:].argmax(-1)
        token.tolist()
        return first - begun, time.perf_counter() - first


def facts(model: Any, directory: Path, loading: int, meter: Meter) -> dict[str, Any]:
    """What does not depend on what is asked of the model, in counts and bytes."""
    import torch

    total, inner = count_parameters(model)
    return {
        "parameters": total,
        "parameters_without_embeddings": inner,
        "bytes_on_disk": bytes_on_disk(directory),
        "bytes_in_memory": bytes_in_memory(model),
        "memory_before_model_bytes": loading,
        "window": window_of(model),
        "energy_source": {"kind": meter.kind, "how": meter.how},
        "conditions": {
            "device": str(model.device),
            "dtype": str(model.dtype).removeprefix("torch."),
            "threads": torch.get_num_threads(),
            "decoding": "greedy",
        },
    }


def run_in_int8(model: Any, directory: Path) -> dict[str, Any]:
    """Let a model whose packed weights have 8 bits multiply whole numbers, in place; returns what then is so of it.

    On a GPU, and for other models, nothing changes.
    """
    if packed_bits(directory) != 8 or model.device.type != "cpu":
        return {}
    from harness.models.int8 import SMALLEST, int8

    swapped = int8(model)
    return {"int8": {"layers": swapped, "smallest": SMALLEST}, "bytes_in_memory": bytes_in_memory(model)}


def prompts(model: Any, prompt: int, batch: int) -> Any:
    """`batch` prompts of `prompt` tokens, [batch, prompt]. Any cost the same; these are fixed, over the vocabulary."""
    import torch

    size = model.config.get_text_config().vocab_size
    rows = [[(997 * k + 13 + 61 * row) % size for k in range(prompt)] for row in range(batch)]
    return torch.tensor(rows, device=model.device)


def read_timed(read_once: Callable[[Any], Any], ids: Any, repeats: int, meter: Meter) -> dict[str, Any]:
    """One measurement of a model that writes nothing: the mean seconds of `repeats` readings of `ids` [batch, prompt]
    that follow each other, joules of all; each prompt that is read counts as a token."""
    import torch

    wait = torch.cuda.synchronize if ids.is_cuda else lambda: None
    joules = meter.begin()
    with torch.inference_mode():
        wait()
        begun = time.perf_counter()
        for _ in range(repeats):
            read_once(ids)
        wait()
        seconds = (time.perf_counter() - begun) / repeats
    used = read(joules)
    return {"first_seconds": seconds, "tokens_per_second": None, "joules": used, "tokens": repeats * len(ids)}


def measured(model: Any, prompt: int, output: int, batch: int, meter: Meter) -> dict[str, Any]:
    """One measurement: seconds to the first token, tokens per second after it (of the whole batch), joules of all."""
    ids = prompts(model, prompt, batch)
    joules = meter.begin()
    first, rest = generate_timed(model, ids, output)
    used = read(joules)
    rate = batch * (output - 1) / rest if output > 1 else None
    return {"first_seconds": first, "tokens_per_second": rate, "joules": used, "tokens": batch * output}


def serve(directory: Path, threads: int, name: str = CAUSAL_LM) -> None:
    """Answer requests until stdin ends; a model's family says what it is and what a use of it is."""
    # What libraries print must not stand among the answers.
    answers = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer  # noqa: F401  for the memory that libraries take

    from harness.models.families import family_of

    family = family_of(name)
    torch.set_num_threads(threads)
    loading = resident_bytes()
    model, meter = None, find_meter("cuda" if torch.cuda.is_available() else "cpu", threads)
    for line in sys.stdin:
        request = json.loads(line)
        asked = {key: value for key, value in request.items() if key != "do"}
        if request["do"] == "load":
            model = family.load(directory).model
            model = model.to("cuda") if torch.cuda.is_available() else model
            answer = family.cost_facts(model, directory, loading, meter)
            answer["flops_per_token"] = flops_per_token(model, **asked) if name == CAUSAL_LM else None
            answer |= run_in_int8(model, directory)
        elif request["do"] == "time":
            answer = family.cost_measured(model, meter=meter, **asked)
        else:
            answer = {"peak_memory_bytes": resident_bytes(peak=True)}
            if torch.cuda.is_available():
                answer["peak_gpu_memory_bytes"] = torch.cuda.max_memory_allocated()
        answers.write(json.dumps(answer) + "\n")
        answers.flush()


if __name__ == "__main__":
    try:
        serve(Path(sys.argv[1]), int(sys.argv[2]), *sys.argv[3:])
    except VivaError as error:
        sys.exit(error.what)

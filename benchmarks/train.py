"""Training speed and memory against TRL's GKD and a plain loop, side by side in one run.

    python benchmarks/train.py [--quick] [--tokens 256] [--rounds N]

Each measurement is a process of its own, so that memory and allocator are apart; the sides alternate, and what is
compared are medians over the rounds. Teacher: the demo's SmolLM2-135M; student: 10 of its layers; a step is 4 chats of
256 tokens, the same on all sides. Each line of the output is one comparison; a table goes to stderr. TRL is needed:
pip install trl==1.16.0.
"""

import argparse
import itertools
import json
import os
import platform
import statistics
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parent.parent
TUNED = {"MALLOC_MMAP_THRESHOLD_": "2147483647", "MALLOC_TRIM_THRESHOLD_": "2147483647"}
LAYERS, CHATS = 10, 4

SIDES: dict[str, tuple[str, dict[str, str], dict[str, Any]]] = {
    # name: (worker, environment, options)
    "trl": ("trl", {}, {"beta": 0.0}),
    "trl tuned": ("trl", TUNED, {"beta": 0.0}),
    "trl jsd": ("trl", {}, {"beta": 0.5}),
    "online": ("viva", {}, {"terms": {"kd": {}}}),
    "cached": ("viva", {}, {"terms": {"kd": {}}, "k": 64}),
    "jsd": ("viva", {}, {"terms": {"kd": {"divergence": "jsd", "beta": 0.5, "normalise": False}}}),
    "ce": ("viva", {}, {"terms": {"ce": {}}}),
    "plain": ("plain", TUNED, {}),
    "cached, k = 8": ("viva", {}, {"terms": {"kd": {}}, "k": 8}),
    "cached, k = 32": ("viva", {}, {"terms": {"kd": {}}, "k": 32}),
    "cached, k = 128": ("viva", {}, {"terms": {"kd": {}}, "k": 128}),
}
"""`online` and `cached` (k = 64) are Viva as a user starts it: it tunes the allocator by itself."""
USUAL = ("trl", "trl tuned", "trl jsd", "online", "cached", "jsd", "ce", "plain")

COMPARED = [
    # name, ours, theirs, what, must, aim
    ("online against TRL GKD as started", "online", "trl", "tokens/s", 1.4, 1.7),
    ("cached against TRL GKD as started", "cached", "trl", "tokens/s", 2.3, 2.8),
    ("online against TRL GKD, allocator tuned", "online", "trl tuned", "tokens/s", 1.05, 1.25),
    ("cached against TRL GKD, allocator tuned", "cached", "trl tuned", "tokens/s", 1.6, 1.9),
    ("jsd against TRL GKD as started", "jsd", "trl jsd", "tokens/s", 2.0, 3.0),
    ("online against a plain loop, tuned", "online", "plain", "tokens/s", None, None),
    ("cached against own cross-entropy", "cached", "ce", "tokens/s", 0.95, 1.0),
    *((f"cached, k = {k}, against online", f"cached, k = {k}", "online", "tokens/s", None, None) for k in (8, 32, 128)),
    ("peak memory, online against TRL GKD", "online", "trl", "GB", 1 / 0.65, 2.0),
    ("peak memory, cached against TRL GKD", "cached", "trl", "GB", 1 / 0.65, 2.0),
    ("peak memory, jsd against TRL GKD", "jsd", "trl jsd", "GB", 1 / 0.65, 2.0),
    ("cross-entropy's share of the matrix-product peak", "ce", "peak", "GFLOP/s", 0.8, 0.9),
]


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="one round, few steps: within ten minutes on two cores")
    parser.add_argument("--rounds", type=int, help="rounds (default: 5; quick: 1)")
    parser.add_argument("--steps", type=int, help="measured steps a round (default: 8; quick: 4)")
    parser.add_argument("--tokens", type=int, default=256, help="tokens of each chat (default: 256)")
    parser.add_argument("--precision", default="float32", choices=["float32", "bfloat16"])
    parser.add_argument("--only", nargs="*", default=USUAL, choices=list(SIDES), help="sides to measure")
    parser.add_argument("--worker", help=argparse.SUPPRESS)
    args = parser.parse_args()
    args.rounds = args.rounds or (1 if args.quick else 5)
    args.steps = args.steps or (4 if args.quick else 8)
    if args.worker:
        print(json.dumps(worker(args.worker, args)))
        return
    found: dict[str, list[dict[str, float]]] = {side: [] for side in args.only}
    for number in range(args.rounds):
        for side in args.only:
            found[side].append(measure(side, args))
            print(f"round {number + 1}: {side}: {found[side][-1]}", file=sys.stderr)
    report(found, args)


def measure(side: str, args: argparse.Namespace) -> dict[str, float]:
    """One process of one side: tokens per second after two steps of warm-up, and peak memory."""
    environment = {**os.environ, **SIDES[side][1], "PYTHONPATH": str(ROOT), "TRL_EXPERIMENTAL_SILENCE": "1"}
    command = [sys.executable, __file__, "--worker", side, "--steps", str(args.steps), "--tokens", str(args.tokens)]
    done = subprocess.run(
        [*command, "--precision", args.precision], env=environment, capture_output=True, text=True, check=False
    )
    if done.returncode:
        raise SystemExit(f"{side} failed:\n{done.stderr[-3000:]}")
    result: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    return result


def report(found: dict[str, list[dict[str, float]]], args: argparse.Namespace) -> None:
    import torch

    machine = f"{platform.machine()}, {os.cpu_count()} cores, {torch.backends.cpu.get_cpu_capability()}"
    rows = []
    for name, ours, theirs, unit, must, aim in COMPARED:
        if not {ours, theirs} - {"peak"} <= found.keys():
            continue
        mine, other = median(found, ours, unit), median(found, "ce" if theirs == "peak" else theirs, unit, theirs)
        ratio = other / mine if unit == "GB" else mine / other
        rows.append({"name": f"{name}, {args.precision}", "ours": mine, "theirs": other, "unit": unit,
                     "ratio": round(ratio, 3), "must": must and round(must, 3), "aim": aim,
                     "n": args.rounds, "machine": machine})  # fmt: skip
    for row in rows:
        print(json.dumps(row))
        must = "" if row["must"] is None else f"must {row['must']}, aim {row['aim']}"
        print(f"{row['name']:60} {row['ours']:9.4g} {row['theirs']:9.4g} {row['unit']:9} {row['ratio']:5.2f}x {must}",
              file=sys.stderr)  # fmt: skip


def median(found: dict[str, list[dict[str, float]]], side: str, unit: str, part: str = "") -> float:
    key = {"tokens/s": "tokens_per_s", "GB": "peak_gb", "GFLOP/s": "gflops"}[unit]
    return round(statistics.median(one["peak_gflops" if part == "peak" else key] for one in found[side]), 4)


def chats(tokenizer: Any, tokens: int, count: int) -> list[tuple[str, str]]:
    """Prompts and answers of the shipped corpus, joined until a chat has `tokens` tokens exactly."""
    from harness.records import Chat, read_jsonl
    from harness.resources import data_path
    from harness.train.batches import to_document

    pool = read_jsonl(data_path("corpus/everyday.jsonl"), Chat)
    made: list[tuple[str, str]] = []
    place = 0
    while len(made) < count:
        prompt, answer = pool[place % len(pool)].messages[0].content, ""
        while True:
            answer += pool[place % len(pool)].messages[1].content + " "
            place += 1
            if len(tokenizer(answer)["input_ids"]) > tokens:
                break
        ids = tokenizer(answer)["input_ids"]
        for kept in range(tokens, 0, -1):
            text = tokenizer.decode(ids[:kept])
            if len(to_document(tokenizer, as_chat(prompt, text), None).ids) == tokens:
                made.append((prompt, text))
                break
    return made


def as_chat(prompt: str, answer: str) -> Any:
    from harness.records import Chat, Message

    messages = (Message(role="user", content=prompt), Message(role="assistant", content=answer))
    return Chat(id="x", kind="x", messages=messages)


def worker(side: str, args: argparse.Namespace) -> dict[str, float]:
    import logging
    import resource
    import warnings

    warnings.simplefilter("ignore")
    logging.disable(logging.WARNING)
    kind, _, options = SIDES[side]
    options = {**options, "precision": args.precision}
    steps = args.steps + 2
    seconds = {"trl": trl_worker, "viva": viva_worker, "plain": plain_worker}[kind](steps, args.tokens, options)
    second = statistics.median(seconds[2:])
    found = {
        "tokens_per_s": round(CHATS * args.tokens / second, 1),
        "peak_gb": round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6, 3),
    }
    if side == "ce":
        found |= {"gflops": round(ce_flops(args.tokens) / second / 1e9, 1), "peak_gflops": product_peak(args.precision)}
    return found


def pair() -> tuple[Any, Any]:
    """The teacher and a student of 10 of its layers."""
    from harness.models.load import load_model
    from harness.models.sources import resolve_model
    from harness.models.students import from_layers, layers_by_rule
    from harness.resources import data_path
    from harness.study_file import load_study

    table = load_study(data_path("studies/demo.toml")).teacher
    assert table.source is not None
    teacher = load_model(resolve_model(table.source, Path.cwd(), table.sha256))
    for parameter in teacher.model.parameters():
        parameter.requires_grad_(False)
    return teacher, from_layers(teacher, layers_by_rule(30, LAYERS, "even"))


def viva_worker(steps: int, tokens: int, options: dict[str, Any]) -> list[float]:
    """Viva's own loop, as `viva train` calls it."""
    import tempfile

    from harness.config import Cache, Train
    from harness.progress import quiet
    from harness.terms import Terms
    from harness.train import cache, fill, parallel
    from harness.train.batches import Row, to_document
    from harness.train.loop import Place, train
    from harness.train.objective import Objective, vocabulary_size
    from harness.tune import keep_big_blocks

    keep_big_blocks()
    teacher, student = pair()
    parallel.pack_teacher(teacher.model, options["precision"], cached="k" in options)
    vocabulary = vocabulary_size(teacher.tokenizer)
    documents = [to_document(teacher.tokenizer, as_chat(*text), None) for text in chats(teacher.tokenizer, tokens, 8)]
    plan = [[Row(tuple(documents[:CHATS] if number % 2 else documents[CHATS:]))] for number in range(steps)]
    config = Train(corpus="-", tokens=1, terms=Terms(**options["terms"]), row_tokens=CHATS * tokens,
                   evaluate_every=10**6, evaluate_chats=1, checkpoint_every=10**6)  # fmt: skip
    moments: list[float] = []
    with tempfile.TemporaryDirectory() as folder:
        opened = None
        if "k" in options:
            table = Cache(k=options["k"])
            key = cache.cache_key("benchmark", "tokenizer", 1.0, table)
            fill.fill(Path(folder) / "cache", teacher, documents, cache=table, temperature=1.0, vocabulary=vocabulary,
                      key=key, seed=0, progress=quiet)  # fmt: skip
            opened = cache.open_cache(Path(folder) / "cache", key)
        needed = "kd" in options["terms"] and opened is None
        train(
            student.model, teacher.model if needed else None, plan, documents[:1], config,
            Objective(config.terms, vocabulary, config.chunk_tokens, options["precision"], cache=opened),
            Place(Path(folder), "k"), seed=0, end_of_turn=2,
            progress=lambda done, total, note: moments.append(time.perf_counter()),
        )  # fmt: skip
    return [later - earlier for earlier, later in itertools.pairwise(moments)]


def plain_worker(steps: int, tokens: int, options: dict[str, Any]) -> list[float]:
    """The loop that one writes in an afternoon: both models' logits, kl_div, AdamW."""
    import torch

    from harness.train.batches import to_document

    teacher, student = pair()
    documents = [to_document(teacher.tokenizer, as_chat(*text), None) for text in chats(teacher.tokenizer, tokens, 8)]
    optimizer = torch.optim.AdamW(student.model.parameters(), lr=1e-4, fused=True)
    student.model.train()
    seconds = []
    for number in range(steps):
        begun = time.perf_counter()
        some = documents[:CHATS] if number % 2 else documents[CHATS:]
        ids = torch.tensor([document.ids for document in some])
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=options["precision"] == "bfloat16"):
            with torch.no_grad():
                teacher_logits = teacher.model(input_ids=ids, use_cache=False).logits[:, :-1]
            logits = student.model(input_ids=ids, use_cache=False).logits[:, :-1]
        mask = torch.tensor([document.target[1:] for document in some])
        loss = torch.nn.functional.kl_div(
            logits[mask].float().log_softmax(-1), teacher_logits[mask].float().log_softmax(-1),
            reduction="sum", log_target=True,
        ) / mask.sum()  # fmt: skip
        loss.backward()
        torch.nn.utils.clip_grad_norm_(student.model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
        seconds.append(time.perf_counter() - begun)
    return seconds


def trl_worker(steps: int, tokens: int, options: dict[str, Any]) -> list[float]:
    """TRL's GKDTrainer, off-policy, with its defaults."""
    import tempfile

    import datasets
    import transformers
    from trl.experimental.gkd import GKDConfig, GKDTrainer

    teacher, student = pair()
    texts = chats(teacher.tokenizer, tokens, 8)
    rows = [{"messages": [{"role": "user", "content": prompt}, {"role": "assistant", "content": answer}]}
            for prompt, answer in texts]  # fmt: skip
    moments: list[float] = []

    class Clock(transformers.TrainerCallback):
        def on_step_end(self, *args: Any, **kwargs: Any) -> None:
            moments.append(time.perf_counter())

    with tempfile.TemporaryDirectory() as folder:
        config = GKDConfig(
            output_dir=folder, per_device_train_batch_size=CHATS, max_steps=steps + 1, lmbda=0.0,
            beta=options["beta"], temperature=1.0, max_length=tokens + 8, report_to=[], save_strategy="no",
            logging_strategy="no", use_cpu=True, bf16=options["precision"] == "bfloat16", disable_tqdm=True,
            gradient_checkpointing=False,
        )  # fmt: skip
        trainer = GKDTrainer(
            model=student.model, teacher_model=teacher.model, args=config,
            train_dataset=datasets.Dataset.from_list(rows), processing_class=teacher.tokenizer, callbacks=[Clock()],
        )  # fmt: skip
        trainer.train()
    return [later - earlier for earlier, later in itertools.pairwise(moments)]


def ce_flops(tokens: int) -> float:
    """Floating-point operations of one cross-entropy step of the student: 6 per weight and token, and attention."""
    layer = 576 * 576 * 2 + 576 * 192 * 2 + 3 * 576 * 1536
    attention = 3 * 4 * 576 * (tokens / 2)  # causal: half of the pairs
    return CHATS * tokens * (6 * (LAYERS * layer + 49152 * 576) + LAYERS * attention)


def product_peak(precision: str) -> float:
    """GFLOP/s of a large matrix product: the median of 5."""
    import torch

    a = torch.randn(2048, 2048, dtype=getattr(torch, precision))
    rates = []
    for _ in range(6):
        begun = time.perf_counter()
        _ = a @ a
        rates.append(2 * 2048**3 / (time.perf_counter() - begun) / 1e9)
    return round(statistics.median(rates[1:]), 1)


if __name__ == "__main__":
    main()

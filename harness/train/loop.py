"""The one training loop, read top to bottom: plan, resume, step, evaluate, log, save."""

import json
import math
import signal
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any

from harness.config import Train
from harness.errors import TrainingError
from harness.progress import Report, say
from harness.records import write_atomic
from harness.train import checkpoint
from harness.train.batches import Document, Row, pack, to_batch
from harness.train.divergences import forward_kl
from harness.train.objective import loss_sums, needs_teacher, weighted


def train(
    student: Any,
    teacher: Any,
    steps: Sequence[Sequence[Row]],
    held_out: Sequence[Document],
    config: Train,
    *,
    folder: Path,
    key: str,
    seed: int,
    precision: str,
    vocabulary: int,
    progress: Report,
) -> dict[str, Any]:
    """Train `student` in place over the planned `steps` and return a summary.

    `teacher` may be None when no term needs it; its weights never change and it gets no gradient. `folder` receives
    metrics.jsonl and checkpoints/; `key` names this very training, so that a checkpoint of another is never resumed.
    `vocabulary` is the number of tokens that the shared tokenizer knows. Raises TrainingError at the `bad_steps`-th
    loss or gradient that is not finite, and KeyboardInterrupt after the running step, with a checkpoint, when the
    user presses Ctrl-C.
    """
    import torch

    torch.manual_seed(seed)
    student.train()
    optimizer = make_optimizer(student, config)
    first = 0
    saved = checkpoint.load(folder / "checkpoints", key)
    if saved:
        student.load_state_dict(saved.model)
        optimizer.load_state_dict(saved.optimizer)
        torch.set_rng_state(saved.rng)
        first = saved.step
        say(f"continuing after step {first} of {len(steps)}")
    log = MetricsLog(folder / "metrics.jsonl", first)
    watched = pack(held_out[: config.evaluate_chats], config.row_tokens)
    teacher_logits = teacher if needs_teacher(config.terms) else None
    tokens = sum(len(row.ids) for step in steps[:first] for row in step)
    fresh_tokens, bad, begun = 0, 0, time.monotonic()
    if first == 0:
        log.write({"step": 0, "tokens": 0, "eval": evaluate(student, teacher, watched, precision, vocabulary)})

    with stop_after_step() as asked:
        for index in range(first, len(steps)):
            step = steps[index]
            for group in optimizer.param_groups:
                group["lr"] = learning_rate(index, len(steps), config)
            learnt = sum(row.learnt for row in step)
            losses = {"loss": 0.0}
            for row in step:
                with forward_precision(precision):
                    sums = loss_sums(student, teacher_logits, to_batch(row), config.terms, vocabulary)
                # Dividing by the step's total makes 8 accumulated rows of 1 the same as one of 8.
                loss = weighted(sums, config.terms) / learnt
                loss.backward()
                losses["loss"] += float(loss.detach())
                for name, value in sums.items():
                    losses[name] = losses.get(name, 0.0) + float(value.detach()) / learnt
            norm = float(torch.nn.utils.clip_grad_norm_(student.parameters(), config.clip))
            finite = math.isfinite(losses["loss"]) and math.isfinite(norm)
            if finite:
                optimizer.step()
            else:
                bad += 1
                error = _not_finite(index, losses["loss"], norm, folder, step)
                if bad >= config.bad_steps:
                    raise error
                say(f"{error.what}; skipped, {bad} of {config.bad_steps} that stop the training")
            optimizer.zero_grad(set_to_none=False)

            tokens += sum(len(row.ids) for row in step)
            fresh_tokens += sum(len(row.ids) for row in step)
            rate = fresh_tokens / (time.monotonic() - begun)
            line: dict[str, Any] = {"step": index + 1, "tokens": tokens, "lr": optimizer.param_groups[0]["lr"]}
            line |= {**losses, "grad_norm": norm} if finite else {"skipped": True}
            line["tokens_per_s"] = round(rate, 1)
            last = index + 1 == len(steps)
            if (index + 1) % config.evaluate_every == 0 or last:
                line["eval"] = evaluate(student, teacher, watched, precision, vocabulary)
            log.write(line)
            progress(index + 1, len(steps), f"loss {losses['loss']:.3f}, {rate:.0f} tokens/s")
            if asked.is_set() or ((index + 1) % config.checkpoint_every == 0 and not last):
                checkpoint.save(folder / "checkpoints", index + 1, student, optimizer, key)
            if asked.is_set():
                raise KeyboardInterrupt
    student.eval()
    return {"steps": len(steps), "tokens": tokens, "last": log.last, "seconds": round(time.monotonic() - begun, 1)}


def make_optimizer(student: Any, config: Train) -> Any:
    """AdamW; weight decay on matrices only, as is usual: norms and biases stay free."""
    import torch

    trainable = [parameter for parameter in student.parameters() if parameter.requires_grad]
    groups = [
        {"params": [p for p in trainable if p.ndim >= 2], "weight_decay": config.weight_decay},
        {"params": [p for p in trainable if p.ndim < 2], "weight_decay": 0.0},
    ]
    return torch.optim.AdamW(groups, lr=config.lr, betas=config.betas, fused=True)


def learning_rate(index: int, total: int, config: Train) -> float:
    """The rate of step `index` (from 0) of `total`: linear warm-up, then cosine, linear or no decay to final_lr."""
    warm = round(config.warmup * total)
    if index < warm:
        return config.lr * (index + 1) / warm
    done = (index - warm) / max(1, total - 1 - warm)
    falling = {"cosine": 0.5 * (1 + math.cos(math.pi * done)), "linear": 1 - done, "constant": 1.0}[config.decay]
    return config.lr * (config.final_lr + (1 - config.final_lr) * falling)


@contextmanager
def forward_precision(precision: str) -> Iterator[None]:
    """The forward pass in bfloat16 where asked; weights, their gradients and the losses stay in float32."""
    import torch

    if precision == "bfloat16":
        with torch.autocast("cpu", dtype=torch.bfloat16):
            yield
    else:
        yield


def evaluate(student: Any, teacher: Any, rows: Sequence[Row], precision: str, vocabulary: int) -> dict[str, float]:
    """Perplexity on held-out chats and, where a teacher is given, KL(teacher || student) in nats per token and the
    share of tokens at which both find the same one likeliest."""
    import torch

    nll, kl, same, learnt = 0.0, 0.0, 0, 0
    training = student.training
    student.eval()
    with torch.inference_mode(), forward_precision(precision):
        for row in rows:
            batch = to_batch(row)
            student_logp_NV = batch.logits(student).float()[:, :vocabulary].log_softmax(-1)
            nll -= float(student_logp_NV.gather(1, batch.label_N[:, None]).sum())
            if teacher is not None:
                teacher_logp_NV = batch.logits(teacher).float()[:, :vocabulary].log_softmax(-1)
                kl += float(forward_kl(student_logp_NV, teacher_logp_NV).sum())
                same += int((student_logp_NV.argmax(-1) == teacher_logp_NV.argmax(-1)).sum())
            learnt += len(batch.label_N)
    student.train(training)
    found = {"perplexity": math.exp(min(nll / learnt, 700.0))}
    return found | ({"kl": kl / learnt, "top1": same / learnt} if teacher is not None else {})


class MetricsLog:
    """metrics.jsonl: one line a step. Lines after the step that a run resumes from are dropped."""

    def __init__(self, path: Path, resumed_at: int):
        self.path = path
        self.last: dict[str, Any] = {}
        kept = []
        if resumed_at and path.exists():
            for text in path.read_text().splitlines():
                try:
                    line = json.loads(text)
                except ValueError:
                    continue  # the last line of a killed run
                if line["step"] <= resumed_at:
                    kept.append(text)
        path.write_text("".join(text + "\n" for text in kept))

    def write(self, line: dict[str, Any]) -> None:
        self.last = line
        with self.path.open("a") as file:
            file.write(json.dumps(line) + "\n")


@contextmanager
def stop_after_step() -> Iterator[threading.Event]:
    """Ctrl-C (or SIGTERM) sets the event, so that the running step and its checkpoint end well; twice stops at once."""
    asked = threading.Event()
    if threading.current_thread() is not threading.main_thread():
        yield asked
        return

    def handler(number: int, frame: Any) -> None:
        if asked.is_set():
            raise KeyboardInterrupt
        asked.set()
        say("stopping after this step (Ctrl-C again to stop at once)")

    before = {number: signal.signal(number, handler) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield asked
    finally:
        for number, old in before.items():
            signal.signal(number, old)


def _not_finite(index: int, loss: float, norm: float, folder: Path, step: Sequence[Row]) -> TrainingError:
    """The error of a step that is not finite; its rows are saved for a look."""
    look = folder / f"bad-step-{index + 1}.json"
    write_atomic(look, json.dumps({"step": index + 1, "rows": [asdict(row) for row in step]}) + "\n")
    last = checkpoint.latest(folder / "checkpoints")
    kept = f"the checkpoint of step {checkpoint.step_of(last)} is kept" if last else "there is no checkpoint yet"
    return TrainingError(
        f"step {index + 1}: the loss is {loss} and the gradient norm {norm} ({kept}; the batch is in {look})",
        hint="lower train.lr, lengthen train.warmup or set train.precision = 'float32'",
    )

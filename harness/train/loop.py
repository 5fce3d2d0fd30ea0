"""The one training loop, read top to bottom: plan, resume, step, evaluate, log, save."""

import json
import math
import signal
import threading
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager, nullcontext
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from harness.config import Quantize, Train
from harness.errors import ConfigError, TrainingError
from harness.models.families import CAUSAL_LM, Family, family_of
from harness.progress import Report, say
from harness.records import write_atomic
from harness.train import checkpoint, parallel
from harness.train.batches import Document, Row
from harness.train.evaluate import figure_of_merit
from harness.train.objective import Objective, mean_losses
from harness.train.trackers import trackers


@dataclass(frozen=True)
class Place:
    """Where a training leaves its files, and what names it: a checkpoint of another key is never resumed."""

    folder: Path
    key: str


def train(
    student: Any,
    teacher: Any,
    steps: Sequence[Sequence[Row]],
    held_out: Sequence[Document],
    config: Train,
    objective: Objective,
    place: Place,
    *,
    seed: int,
    end_of_turn: int,
    progress: Report,
    family: Family | None = None,
    quantize: Quantize | None = None,
) -> dict[str, Any]:
    """Train `student` in place over the planned `steps` and return a summary.

    `family` (default: causal-lm) brings the passes; what a row is made of is its business alone. `teacher` may be None
    when no term needs it or a cache serves; its weights never change and it gets no gradient. `place` receives
    metrics.jsonl and checkpoints/. With several processes each takes its share of a step's rows, and the step is the
    same as with one. With `quantize` the student's weights have few bits at every pass and at the end. Raises
    TrainingError at the `bad_steps`-th loss or gradient that is not finite, and KeyboardInterrupt after the running
    step, with a checkpoint, when the user presses Ctrl-C.
    """
    import torch

    from harness.models.products import quick

    torch.manual_seed(seed)
    family = family or family_of(CAUSAL_LM)
    student.train()
    learner = parallel.learner(student, objective.layers, objective.precision)
    teacher = parallel.place(teacher, objective.precision) if teacher is not None else None
    device = parallel.device()
    objective = replace(objective, in_step=learner.sharded)
    optimizer = make_optimizer(learner, config, quantize)
    heads = (None, None) if learner.sharded else family.heads(student, teacher, objective)
    first = 0
    saved = checkpoint.load(place.folder / "checkpoints", place.key)
    if saved:
        first = saved.restore(learner, optimizer)
        say(f"continuing after step {first} of {len(steps)}")
    log = MetricsLog(place.folder / "metrics.jsonl", first, config.track)
    watched = family.held_out(held_out, config, objective)
    if not learner.sharded:
        watched = parallel.share(watched)
    tokens, spent = int(log.last.get("tokens", 0)), float(log.last.get("seconds", 0.0))
    fresh_tokens, bad, begun, why = 0, 0, time.monotonic(), "tokens"
    merit = figure_of_merit(log.lines, family.merit)
    if first == 0:
        log.write({"step": 0, "tokens": 0, "eval": family.evaluate(student, teacher, watched, objective, heads)})

    quickly = nullcontext() if learner.sharded else quick(student)
    with stop_after_step() as asked, closing(log), quickly:
        for index in range(first, len(steps)):
            for group in optimizer.param_groups:
                group["lr"] = learning_rate(index, len(steps), config)
            mine, along = learner.share(steps[index])
            with learner.whole() if "on_policy" in config.terms.weights else nullcontext():
                rows = family.draw(mine, index, student, objective, seed=seed, end=end_of_turn)
            totals = parallel.add_up(*(family.counts(row, config.terms) for row in rows))
            parts = []
            # Rows that a sharded student's process runs along with count nothing: their totals are zero.
            for row, of in [*((row, totals) for row in rows), *((row, Counter()) for row in along)]:
                parts.append(family.backward(student, teacher, row, objective, of, heads, device))
            learner.add_up_gradients()
            losses = mean_losses([parallel.add_up(*parts)], config.terms)
            norm = learner.clip(config.clip)
            finite = math.isfinite(losses["loss"]) and math.isfinite(norm)
            if finite:
                optimizer.step()
            else:
                bad += 1
                error = _not_finite(index, losses["loss"], norm, place.folder, steps[index])
                if bad >= config.bad_steps:
                    raise error
                say(f"{error.what}; skipped, {bad} of {config.bad_steps} that stop the training")
            # Zeros in place: freeing the gradients would hand their memory back to the kernel at each step.
            optimizer.zero_grad(set_to_none=False)

            taken = parallel.add_up({"tokens": sum(len(row.ids) for row in rows)})["tokens"]
            tokens, fresh_tokens = tokens + int(taken), fresh_tokens + int(taken)
            seconds = time.monotonic() - begun
            line: dict[str, Any] = {"step": index + 1, "tokens": tokens, "lr": optimizer.param_groups[0]["lr"]}
            line |= {**losses, "grad_norm": norm} if finite else {"skipped": True}
            line |= {"tokens_per_s": round(fresh_tokens / seconds, 1), "seconds": round(spent + seconds, 2)}
            line |= {
                "memory_mb": parallel.memory_mb(),
                "left_s": round(seconds / (index + 1 - first) * (len(steps) - index - 1)),
            }
            last = index + 1 == len(steps)
            if config.minutes is not None and parallel.any_of(spent + seconds >= 60 * config.minutes) and not last:
                last, why = True, "minutes"
            if (index + 1) % config.evaluate_every == 0 or last:
                line["eval"] = family.evaluate(student, teacher, watched, objective, heads)
                merit = merit.after(index + 1, line["eval"], family.merit)
                if merit.best_step == index + 1 and config.keep == "best":
                    checkpoint.save_weights(place.folder / "checkpoints" / "best", learner)
                if config.patience is not None and merit.waited >= config.patience and not last:
                    last, why = True, "patience"
            log.write(line)
            progress(index + 1, len(steps), _note(line))
            stopping = parallel.any_of(asked.is_set())
            if stopping or ((index + 1) % config.checkpoint_every == 0 and not last):
                checkpoint.save(place.folder / "checkpoints", index + 1, learner, optimizer, place.key)
            if stopping:
                raise KeyboardInterrupt
            if last:
                break
    if config.keep == "best":
        checkpoint.load_weights(place.folder / "checkpoints" / "best", learner)
    student.eval()
    kept = merit.best_step if config.keep == "best" else int(log.last["step"])
    return {
        "steps": int(log.last["step"]),
        "tokens": tokens,
        "ended_by": why,
        "kept_step": kept,
        "last": log.last,
        "kept": merit.at.get(kept, {}),
        "seconds": round(spent + time.monotonic() - begun, 1),
    }


def _note(line: dict[str, Any]) -> str:
    """One step in words, for the progress display."""
    terms = [f"{name} {line[name]:.3f}" for name in ("loss", "kd", "ce") if name in line]
    return ", ".join([*terms, f"{line['tokens_per_s']:.0f} tokens/s", f"{line['memory_mb'] / 1000:.1f} GB"])


def make_optimizer(learner: parallel.Learner, config: Train, quantize: Quantize | None = None) -> Any:
    """AdamW; weight decay on matrices only, as is usual: norms and biases stay free.

    With `quantize` it keeps the model's weights rounded. Raises ConfigError where they are split over processes.
    """
    import torch

    groups: list[dict[str, Any]] = []
    for part in learner.alike():
        groups += [
            {"params": [p for p in part if p.ndim >= 2], "weight_decay": config.weight_decay},
            {"params": [p for p in part if p.ndim < 2], "weight_decay": 0.0},
        ]
    settings: dict[str, Any] = {"lr": config.lr, "betas": config.betas, "fused": True}
    if quantize is None:
        return torch.optim.AdamW(groups, **settings)
    if learner.sharded:
        raise ConfigError(
            "student.quantize rounds whole matrices, and accelerate launch was told to split them over processes",
            hint="drop --use_fsdp: without it each process holds the student, and the rows are dealt to them",
        )
    from harness.train.quantized import LearntPoints, Projected

    if quantize.method == "points":
        return LearntPoints(learner.model, quantize, **settings)
    return Projected(groups, learner.model, quantize, **settings)


def learning_rate(index: int, total: int, config: Train) -> float:
    """The rate of step `index` (from 0) of `total`: linear warm-up, then cosine, linear or no decay to final_lr."""
    warm = round(config.warmup * total)
    if index < warm:
        return config.lr * (index + 1) / warm
    done = (index - warm) / max(1, total - 1 - warm)
    falling = {"cosine": 0.5 * (1 + math.cos(math.pi * done)), "linear": 1 - done, "constant": 1.0}[config.decay]
    return config.lr * (config.final_lr + (1 - config.final_lr) * falling)


class MetricsLog:
    """metrics.jsonl: one line a step. Lines after the step that a run resumes from are dropped.

    The main process writes it, and tells the trackers that the study names.
    """

    def __init__(self, path: Path, resumed_at: int, track: Sequence[str] = ()):
        self.path = path
        self.lines: list[dict[str, Any]] = []
        if resumed_at and path.exists():
            for text in path.read_text().splitlines():
                try:
                    line = json.loads(text)
                except ValueError:
                    continue  # the last line of a killed run
                if line["step"] <= resumed_at:
                    self.lines.append(line)
        if parallel.main():
            write_atomic(path, "".join(json.dumps(line) + "\n" for line in self.lines))
        self.trackers = trackers(track, path.parent) if parallel.main() else []

    @property
    def last(self) -> dict[str, Any]:
        return self.lines[-1] if self.lines else {}

    def write(self, line: dict[str, Any]) -> None:
        self.lines.append(line)
        if not parallel.main():
            return
        with self.path.open("a") as file:
            file.write(json.dumps(line) + "\n")
        flat = {name: value for name, value in line.items() if isinstance(value, int | float) and name != "step"}
        flat |= {f"eval/{name}": value for name, value in line.get("eval", {}).items()}
        for tracker in self.trackers:
            tracker.log(flat, step=line["step"])

    def close(self) -> None:
        for tracker in self.trackers:
            tracker.finish()


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


def _plain(row: Row) -> dict[str, Any]:
    return {"ids": row.ids, "target": row.target, "lengths": row.lengths}


def _not_finite(index: int, loss: float, norm: float, folder: Path, step: Sequence[Row]) -> TrainingError:
    """The error of a step that is not finite; its rows are saved for a look."""
    look = folder / f"bad-step-{index + 1}.json"
    if parallel.main():
        write_atomic(look, json.dumps({"step": index + 1, "rows": [_plain(row) for row in step]}) + "\n")
    last = checkpoint.latest(folder / "checkpoints")
    kept = f"the checkpoint of step {checkpoint.step_of(last)} is kept" if last else "there is no checkpoint yet"
    return TrainingError(
        f"step {index + 1}: the loss is {loss} and the gradient norm {norm} ({kept}; the batch is in {look})",
        hint="lower train.lr, lengthen train.warmup or set train.precision = 'float32'",
    )

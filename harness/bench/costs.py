"""What models cost: size, memory, time to first token, tokens per second, energy, measured in turns.

A machine drifts: it warms up, others use it, its clock changes. So each arm waits in a process of its own
(`cost_worker`), and one measurement of each follows the other, round after round: what happens to the machine happens
to all arms, and the ratio to the teacher within a round hardly moves. The order shifts by one each round, so that no
arm always comes after the same one.
"""

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import median, quantiles
from typing import Any

from harness.bench.cost_memory import groups
from harness.bench.wire import Wire
from harness.errors import RunError
from harness.models.families import CAUSAL_LM
from harness.records import dump_json, write_atomic
from harness.rundir import digest, hardware, now

SCHEMA = 2
WARM_UP = 4  # tokens written before anything is timed, for each prompt and batch
TIMEOUT = 900.0  # seconds for one answer of a process

Report = Callable[[int, int, str], None]


@dataclass(frozen=True)
class Settings:
    """What is measured: every prompt length with every batch, `output` tokens each, `rounds` times.

    The first prompt and the first batch are those of the headline numbers. `threads`: None for what torch would take.
    Of a family that does not write, `output` is 0: what is timed is one reading of the prompts.
    """

    prompts: tuple[int, ...] = (32, 512)
    batches: tuple[int, ...] = (1, 8)
    output: int = 128
    rounds: int = 5
    threads: int | None = None
    family: str = CAUSAL_LM

    @property
    def cells(self) -> list[dict[str, int]]:
        """What each measurement asks for."""
        return [
            {"prompt": prompt, "output": self.output, "batch": batch}
            for batch in self.batches
            for prompt in self.prompts
        ]


def measure(directory: Path, settings: Settings | None = None) -> dict[str, Any]:
    """The costs of one model directory by itself. Raises RunError with the process's last words when it fails."""
    found = measure_together({"model": directory}, settings or Settings())["model"]
    if "error" in found:
        raise RunError(
            f"measuring the costs of {directory} failed: {found['error']}", hint="is it a whole model directory?"
        )
    return found


def bench_costs(
    folders: Mapping[str, Path],
    models: Mapping[str, Path],
    digests: Mapping[str, str],
    settings: Settings,
    progress: Report | None = None,
) -> list[Path]:
    """Measure all arms in turns, the first one being the teacher, and leave `costs.json` in each arm's folder.

    An arm whose file was made with these settings, weights (`digests`) and teacher is kept as it is; the others are
    measured anew, beside the teacher. Returns the files. Raises RunError at the end for arms that could not be
    measured; their files say why, and the next run tries those alone.
    """
    teacher = next(iter(models))
    keys = {
        arm: digest({"schema": SCHEMA, "settings": _said(settings), "model": digests[arm], "teacher": digests[teacher]})
        for arm in models
    }
    todo = [arm for arm in models if not _finished(folders[arm] / "costs.json", keys[arm])]
    broken = {}
    if todo:
        chosen = {arm: models[arm] for arm in models if arm == teacher or arm in todo}
        load = os.getloadavg()[0] if hasattr(os, "getloadavg") else None
        facts = {"hardware": hardware(), "load_before": load, "begun": now()}
        for arm, found in measure_together(chosen, settings, progress).items():
            if arm in todo:
                folders[arm].mkdir(parents=True, exist_ok=True)
                write_atomic(folders[arm] / "costs.json", dump_json({**found, **facts, "viva": {"key": keys[arm]}}))
                if "error" in found:
                    broken[arm] = found["error"]
    if broken:
        reasons = "; ".join(f"{arm}: {why}" for arm, why in broken.items())
        raise RunError(
            f"the costs of some arms could not be measured. {reasons}",
            hint="the others are kept; run the command again to measure only these",
        )
    return [folders[arm] / "costs.json" for arm in models]


def _said(settings: Settings) -> dict[str, Any]:
    """The settings as a key has them; a family that writes is not named, as before there were others."""
    return {name: value for name, value in asdict(settings).items() if (name, value) != ("family", CAUSAL_LM)}


def _finished(path: Path, key: str) -> bool:
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
        return bool(found["viva"]["key"] == key and "error" not in found)
    except (OSError, ValueError, KeyError, TypeError):
        return False


def measure_together(
    models: Mapping[str, Path], settings: Settings, progress: Report | None = None
) -> dict[str, dict[str, Any]]:
    """Costs of each model, by name, measured in turns with the first one; `{"error": ...}` where that failed.

    All wait in memory at once; where that is too little, the first one takes turns with a few of the others after
    another few. Each arm's costs hold its rounds, and the first one's of the same turns.
    """
    report = progress or (lambda done, total, note: None)
    first, *others = models
    found: dict[str, dict[str, Any]] = {}
    parts = groups(first, others, models)
    total = sum(len(part) for part in parts) * (1 + len(settings.cells) * (settings.rounds + 1))
    done = 0

    def step(note: str) -> None:
        nonlocal done
        report(min(done, total), total, note)
        done += 1

    for part in parts:
        together = _take_turns({name: models[name] for name in part}, settings, step)
        teachers = together[first].get("rounds", [])
        for name, one in together.items():
            if name != first:
                one["teacher_rounds"] = teachers
            found.setdefault(name, one)
    report(total, total, "")
    return {name: _summary(found[name], settings) for name in models}


def _take_turns(
    models: Mapping[str, Path], settings: Settings, step: Callable[[str], None]
) -> dict[str, dict[str, Any]]:
    """Facts and rounds of models that wait in memory together."""
    found: dict[str, dict[str, Any]] = {name: {"rounds": []} for name in models}
    context = settings.prompts[0] + settings.output / 2
    with ExitStack() as stack:
        alive: dict[str, Wire] = {}

        def ask(name: str, **request: Any) -> dict[str, Any] | None:
            try:
                return alive[name].ask(request)
            except RunError as error:  # this arm is over, the others go on
                found[name]["error"] = error.what
                alive.pop(name).close()
                return None

        for name, directory in models.items():  # all begin at once: imports take seconds
            alive[name] = stack.enter_context(_worker(directory, settings))
        for name in models:
            step(f"loading {name}")
            found[name] |= ask(name, do="load", context=context) or {}
        for cell in settings.cells:
            fits = [name for name in alive if cell["prompt"] + cell["output"] <= found[name]["window"]]
            for name in fits:
                step(f"warming up {name}")
                ask(name, do="time", **{**cell, "output": WARM_UP})
            for number in range(settings.rounds):
                shift = number % max(1, len(fits))
                for name in [*fits[shift:], *fits[:shift]]:
                    if name in alive:
                        step(f"{name}, prompt {cell['prompt']}, batch {cell['batch']}, round {number + 1}")
                        if one := ask(name, do="time", **cell):
                            found[name]["rounds"].append({**cell, "round": number, **one})
        for name in list(alive):
            found[name] |= ask(name, do="memory") or {}
        for name in models:
            found[name].setdefault("conditions", {})["measured_with"] = [one for one in models if one != name]
    return found


@contextmanager
def _worker(directory: Path, settings: Settings) -> Iterator[Wire]:
    """A process that measures one model, ended however this ends."""
    root = str(Path(__file__).resolve().parents[2])
    paths = [root, *filter(None, [os.environ.get("PYTHONPATH")])]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(paths), "HF_HUB_OFFLINE": "1"}
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    number = settings.threads or int(os.environ.get("OMP_NUM_THREADS") or cores)
    command = [sys.executable, "-m", "harness.bench.cost_worker", str(directory), str(number), settings.family]
    with tempfile.TemporaryFile() as words:
        process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=words, env=environment
        )
        wire = Wire(process, words, TIMEOUT)
        try:
            yield wire
        finally:
            wire.close()


def spread(values: Sequence[float]) -> dict[str, float]:
    """Median, quartiles, lowest, highest and number of repeated measurements."""
    lower, _, upper = quantiles(values, n=4, method="inclusive") if len(values) > 1 else (values[0],) * 3
    ends = {"low": min(values), "high": max(values), "n": len(values)}
    return {"median": median(values), "lower_quartile": lower, "upper_quartile": upper, **ends}


def _summary(found: dict[str, Any], settings: Settings) -> dict[str, Any]:
    """An arm's costs with the spread of each cell; the first cell's once more as the headline numbers."""
    if "error" in found:
        return {key: value for key, value in found.items() if key != "rounds"}
    cells = []
    for cell in settings.cells:
        mine = [one for one in found["rounds"] if all(one[key] == cell[key] for key in cell)]
        if not mine:
            cells.append({**cell, "left_out": f"longer than the model's window of {found['window']} tokens"})
            continue
        one: dict[str, Any] = {**cell, "time_to_first_token_seconds": spread([each["first_seconds"] for each in mine])}
        if cell["output"] > 1:
            one["tokens_per_second"] = spread([each["tokens_per_second"] for each in mine])
        joules = [1000 * each["joules"] / each["tokens"] for each in mine if each["joules"] is not None]
        one["joules_per_1000_tokens"] = spread(joules) if joules else None
        cells.append(one)
    names = ("time_to_first_token_seconds", "tokens_per_second", "joules_per_1000_tokens")
    conditions = found["conditions"] | {"batch": settings.batches[0], "prompt_tokens": settings.prompts[0]}
    conditions |= {"output_tokens": settings.output, "warm_up_tokens": WARM_UP, "rounds": settings.rounds}
    headline = {name: cells[0].get(name) for name in names}
    return {**found, **headline, "cells": cells, "conditions": conditions}

"""Checkpoints: everything a killed run needs to end as if it had not been killed.

A checkpoint is a folder of safetensors files and a state.json. Every tensor is whole in it, whatever the number of
processes and whether they had the student split between them, so that a training goes on with another number.

Kept are the weights, the optimiser's moments and counts, and the state of the main process's random generators, which
every process gets back. With one process that is all there is, and a resumed run is the same bit by bit. With several
the only reader of those generators is the dropout of low-rank adapters (the plan, on-policy answers and the cache's
draws have seeds of their own), so another number of processes draws other masks there and nothing else differs.
"""

import contextlib
import errno
import json
import re
import shutil
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from harness.errors import SourceError, TrainingError
from harness.progress import say
from harness.records import write_atomic
from harness.resources import cache_errors, staging
from harness.rundir import sha256_file
from harness.train import parallel, sharding

if TYPE_CHECKING:
    import torch

    from harness.train.parallel import Learner

KEPT = 2
FILE_BYTES = 2_000_000_000  # of a tensor file; a tensor that is larger has a file of its own
FORMAT = 1

Named = Iterable[tuple[str, "torch.Tensor"]]


@dataclass(frozen=True)
class Saved:
    """A checkpoint on the disk, checked: the number of finished steps, and where its tensors are."""

    step: int
    folder: Path
    state: Mapping[str, Any]

    def tensors(self) -> Iterator[tuple[str, "torch.Tensor"]]:
        """Its tensors, one by one."""
        yield from _read(self.folder, self.state["files"])

    def restore(self, learner: "Learner", optimizer: Any) -> int:
        """Put the states back in place; returns the number of finished steps."""
        moments: dict[str, dict[str, Any]] = {name: dict(counts) for name, counts in self.state["counts"].items()}
        trainable = learner.trainable()

        def rest(name: str, value: "torch.Tensor") -> None:
            kind, _, key = name.partition(":")
            if kind == "rng":
                _set_rng(key, value)
            else:
                moments[key][kind] = sharding.like(value, trainable[key])

        _fill(learner, self.tensors(), rest)
        _load_optimizer(optimizer, trainable, moments, self.state["groups"])
        return self.step


def save(folder: Path, step: int, learner: "Learner", optimizer: Any, key: str) -> None:
    """Write checkpoint `step` whole or not at all, and drop all but the last two; all processes call it together.

    Raises TrainingError on a full disk: the earlier checkpoints stay.
    """
    target = folder / f"step-{step:06d}"
    trainable = learner.trainable()
    state = {
        "format": FORMAT,
        "key": key,
        "step": step,
        "counts": {name: _counts(optimizer.state.get(value, {})) for name, value in trainable.items()},
        "groups": _groups(optimizer, trainable),
    }

    def write(tensors: Named) -> None:
        shutil.rmtree(target, ignore_errors=True)
        with staging(target, "writing a checkpoint") as part:
            state["files"] = _write(part, "tensors", tensors)
            (part / "state.json").write_text(json.dumps(state, indent=1) + "\n", encoding="utf-8")
        for old in _all(folder)[:-KEPT]:
            shutil.rmtree(old, ignore_errors=True)

    last = latest(folder)
    kept = f"step {step_of(last)} is kept" if last else "no earlier checkpoint exists"
    _by_main(_everything(learner, optimizer), write, f"checkpoint {target}", kept)


def save_weights(target: Path, learner: "Learner") -> None:
    """Keep the weights of the best evaluation so far in the folder `target`, in the place of those before.

    All processes call it together. Raises TrainingError on a full disk: the earlier weights stay.
    """

    def write(tensors: Named) -> None:
        target.mkdir(parents=True, exist_ok=True)
        index = target / "weights.json"
        before = set(json.loads(index.read_text())) if index.is_file() else set()
        with cache_errors("keeping the best weights", target):
            for stray in target.glob("weights-*.safetensors"):
                if stray.name not in before:  # of a run that was killed here
                    stray.unlink()
            stem = "weights-b" if any(name.startswith("weights-a") for name in before) else "weights-a"
            write_atomic(index, json.dumps(_write(target, stem, tensors)) + "\n")
        for name in before:
            (target / name).unlink(missing_ok=True)

    _by_main(_weights(learner), write, f"the best weights to {target}", "the checkpoints are kept")


def load_weights(target: Path, learner: "Learner") -> None:
    """Put the weights that `save_weights` kept into the model. Raises TrainingError when they cannot be read."""
    try:
        files = json.loads((target / "weights.json").read_text())
        _check(target, files)
    except (OSError, ValueError) as error:
        raise TrainingError(
            f"the best weights in {target} cannot be read: {error}", hint=f"remove {target.parent} to train anew"
        ) from error
    _fill(learner, _read(target, files))


def latest(folder: Path) -> Path | None:
    """The newest complete checkpoint, None where there is none."""
    return next(reversed(_all(folder)), None)


def step_of(path: Path) -> int:
    return int(path.name.removeprefix("step-"))


def load(folder: Path, key: str) -> Saved | None:
    """The newest checkpoint of this very training that can be read; a damaged one is passed over, and said so.

    The main process decides which one it is.
    """

    def find() -> tuple[Path, dict[str, Any]] | None:
        for path in reversed(_all(folder)):
            try:
                state = json.loads((path / "state.json").read_text(encoding="utf-8"))
                if state["key"] != key or state["format"] != FORMAT:
                    continue  # left by a training with other settings, or by another version
                _check(path, state["files"])
            except (OSError, ValueError, KeyError, TypeError) as error:
                say(f"checkpoint {path} cannot be read ({error}); trying the one before")
                continue
            return path, state
        return None

    found = parallel.by_main(find)
    return Saved(found[1]["step"], *found) if found else None


def clear(folder: Path) -> None:
    """Remove all checkpoints: the finished model is there."""
    with contextlib.suppress(FileNotFoundError):
        shutil.rmtree(folder)


def _all(folder: Path) -> list[Path]:
    return sorted((path for path in folder.glob("step-*") if (path / "state.json").is_file()), key=step_of)


def _by_main(tensors: Named, write: Any, what: str, kept: str) -> None:
    """Let the main process write what all gather; when it cannot, the training ends in all with one error."""
    failed = None
    if parallel.main():
        try:
            write(tensors)
        except (SourceError, OSError) as error:
            failed = TrainingError(
                f"could not write {what}: {getattr(error, 'what', error)}",
                hint=f"make room and run the command again; {kept}",
            )
            failed.__cause__ = error
    for _ in tensors:  # the others gather along, and the rest after an error is gathered too
        pass
    parallel.agree(failed)


def _weights(learner: "Learner") -> Iterator[tuple[str, "torch.Tensor"]]:
    """Parameters and saved buffers, whole, each once: tied ones have one name."""
    named = learner.named()
    for prefix, part in (("model.", learner.model), ("beside.", learner.beside)):
        if part is not None:
            kept = part.state_dict().keys()
            named |= {prefix + name: value for name, value in part.named_buffers() if name in kept}
    for name, value in named.items():
        yield name, sharding.full(value.detach())


def _everything(learner: "Learner", optimizer: Any) -> Iterator[tuple[str, "torch.Tensor"]]:
    import torch

    yield from _weights(learner)
    for name, value in learner.trainable().items():
        for kind, moment in sorted(optimizer.state.get(value, {}).items()):
            if torch.is_tensor(moment) and moment.ndim:
                yield f"{kind}:{name}", sharding.full(moment)
    yield "rng:cpu", torch.get_rng_state()
    if parallel.device().type == "cuda":
        yield "rng:cuda", torch.cuda.get_rng_state()


def _set_rng(kind: str, state: "torch.Tensor") -> None:
    import torch

    if kind == "cpu":
        torch.set_rng_state(state)
    elif torch.cuda.is_available():
        torch.cuda.set_rng_state(state)


def _counts(moments: Mapping[str, Any]) -> dict[str, float]:
    """What the optimiser counts for a parameter: its steps."""
    import torch

    return {kind: float(value) for kind, value in moments.items() if not (torch.is_tensor(value) and value.ndim)}


def _groups(optimizer: Any, trainable: Mapping[str, Any]) -> list[dict[str, Any]]:
    """The optimiser's groups with their values; parameters by name."""
    names = {id(value): name for name, value in trainable.items()}
    return [{**group, "params": [names[id(value)] for value in group["params"]]} for group in optimizer.param_groups]


def _load_optimizer(
    optimizer: Any, trainable: Mapping[str, Any], moments: Mapping[str, Any], groups: Iterable[Mapping[str, Any]]
) -> None:
    """Restore by name: groups may be cut otherwise where parameters are split over processes."""
    import torch

    values = {name: group for group in groups for name in group["params"]}
    names = {id(value): name for name, value in trainable.items()}
    state: dict[int, dict[str, Any]] = {}
    restored: list[dict[str, Any]] = []
    for group in optimizer.param_groups:
        own = [names[id(value)] for value in group["params"]]
        places = [len(state) + index for index in range(len(own))]
        known = {key: value for key, value in values[own[0]].items() if key != "params"} if own else {}
        restored.append({**group, **known, "params": places})
        for place, name in zip(places, own, strict=True):
            state[place] = {
                kind: value if torch.is_tensor(value) else torch.tensor(value) for kind, value in moments[name].items()
            }
    filled = {place: one for place, one in state.items() if one}  # a parameter without a gradient has no moments yet
    optimizer.load_state_dict({"state": filled, "param_groups": restored})


def _fill(learner: "Learner", tensors: Named, rest: Any = lambda name, value: None) -> None:
    """Copy the tensors into the learner's parameters and buffers; those of other names go to `rest`."""
    import torch

    places = learner.named() | {f"model.{name}": value for name, value in learner.model.named_buffers()}
    if learner.beside is not None:
        places |= {f"beside.{name}": value for name, value in learner.beside.named_buffers()}
    with torch.no_grad():
        for name, value in tensors:
            if name in places:
                places[name].copy_(sharding.like(value, places[name]))
            else:
                rest(name, value)


def _write(folder: Path, stem: str, tensors: Named) -> dict[str, dict[str, Any]]:
    """Write tensors into files of at most FILE_BYTES; returns size and sha256 of each. Raises OSError."""
    from safetensors import SafetensorError
    from safetensors.torch import save_file

    files: dict[str, dict[str, Any]] = {}
    held: dict[str, torch.Tensor] = {}

    def flush() -> None:
        path = folder / f"{stem}-{len(files) + 1:05d}.safetensors"
        try:
            save_file(held, path)
        except SafetensorError as error:  # it wraps what the operating system said
            number = re.search(r"os error (\d+)", str(error))
            raise OSError(int(number[1]) if number else errno.EIO, str(error)) from error
        files[path.name] = {"bytes": path.stat().st_size, "sha256": sha256_file(path)}
        held.clear()

    size = 0
    for name, value in tensors:
        if held and size + value.nbytes > FILE_BYTES:
            flush()
            size = 0
        held[name] = value.cpu().contiguous()
        size += value.nbytes
    flush()
    return files


def _check(folder: Path, files: Mapping[str, Mapping[str, Any]]) -> None:
    """Raise ValueError or OSError unless the files are those that were written."""
    for name, facts in files.items():
        size = (folder / name).stat().st_size
        if size != facts["bytes"]:
            raise ValueError(f"{name} has {size} bytes of {facts['bytes']}")
        if sha256_file(folder / name) != facts["sha256"]:
            raise ValueError(f"{name} is not what was written")


def _read(folder: Path, files: Iterable[str]) -> Iterator[tuple[str, "torch.Tensor"]]:
    from safetensors import safe_open

    for name in files:
        with safe_open(folder / name, "pt") as file:
            for key in file.keys():  # noqa: SIM118 (not a dict)
                yield key, file.get_tensor(key)

"""Checkpoints: everything a killed run needs to end as if it had not been killed."""

import contextlib
import errno
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from harness.errors import TrainingError
from harness.progress import say
from harness.resources import staging

KEPT = 2


@dataclass(frozen=True)
class Saved:
    """A checkpoint read back: the number of finished steps and the states."""

    step: int
    model: dict[str, Any]
    optimizer: dict[str, Any]
    rng: Any


def save(folder: Path, step: int, model: Any, optimizer: Any, key: str) -> None:
    """Write checkpoint `step` whole or not at all, and drop all but the last two.

    Raises TrainingError on a full disk: the earlier checkpoints stay.
    """
    import torch

    from harness.errors import SourceError

    target = folder / f"step-{step:06d}"
    shutil.rmtree(target, ignore_errors=True)
    state = {
        "key": key,
        "step": step,
        "model": model.state_dict(),
        "optimizer": optimizer.state_dict(),
        "rng": torch.get_rng_state(),
    }
    try:
        with staging(target, "writing a checkpoint") as part:
            try:
                torch.save(state, part / "state.pt")
            except RuntimeError as error:  # torch wraps what the operating system said
                raise OSError(errno.ENOSPC, str(error)) from error
            (part / "complete").touch()
    except (SourceError, OSError) as error:
        last = latest(folder)
        kept = f"step {step_of(last)} is kept" if last else "no earlier checkpoint exists"
        raise TrainingError(
            f"could not write checkpoint {target}: {getattr(error, 'what', error)}",
            hint=f"make room and run the command again; {kept}",
        ) from error
    for old in _all(folder)[:-KEPT]:
        shutil.rmtree(old, ignore_errors=True)


def _all(folder: Path) -> list[Path]:
    return sorted(path for path in folder.glob("step-*") if (path / "complete").is_file())


def latest(folder: Path) -> Path | None:
    """The newest complete checkpoint, None where there is none."""
    return next(reversed(_all(folder)), None)


def step_of(path: Path) -> int:
    return int(path.name.removeprefix("step-"))


def load(folder: Path, key: str) -> Saved | None:
    """The newest checkpoint of this very training that can be read; a damaged one is passed over, and said so."""
    import torch

    for path in reversed(_all(folder)):
        try:
            state = torch.load(path / "state.pt", map_location="cpu", weights_only=True)
        except Exception as error:  # torch raises many kinds for a damaged file
            say(f"checkpoint {path} cannot be read ({type(error).__name__}); trying the one before")
            continue
        if state["key"] != key:
            continue  # left by a training with other settings
        return Saved(state["step"], state["model"], state["optimizer"], state["rng"])
    return None


def clear(folder: Path) -> None:
    """Remove all checkpoints: the finished model is there."""
    with contextlib.suppress(FileNotFoundError):
        shutil.rmtree(folder)

"""The trackers that a study names in `train.track`: accelerate's, beside metrics.jsonl and never in its place."""

import importlib.util
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from harness.errors import ConfigError


def trackers(names: Sequence[str], folder: Path) -> list[Any]:
    """The named trackers, started; each has `log(numbers, step=...)` and `finish()`.

    TensorBoard writes below `folder`/tensorboard. Weights & Biases goes to the project that is named like the run
    directory, or stays in `folder`/wandb (for `wandb sync`) where nobody has logged in. Raises ConfigError for one
    whose package is missing.
    """
    for name in names:
        if importlib.util.find_spec(name) is None:
            raise ConfigError(
                f"train.track names {name}, which is not installed", hint=f"pip install {name}, or drop it"
            )
    from accelerate import PartialState

    PartialState()  # accelerate's trackers log through it
    started = [{"tensorboard": _tensorboard, "wandb": _wandb}[name](folder) for name in names]
    for tracker in started:
        tracker.start()
    return started


def _tensorboard(folder: Path) -> Any:
    from accelerate.tracking import TensorBoardTracker

    return TensorBoardTracker("tensorboard", folder)


def _wandb(folder: Path) -> Any:
    import wandb
    from accelerate.tracking import WandBTracker

    folder = folder.absolute()
    project = folder.parents[1].name if len(folder.parents) > 2 else folder.name
    offline = "WANDB_MODE" not in os.environ and not wandb.login(prompt=False, verify=False)
    return WandBTracker(project, name=folder.name, dir=str(folder), **({"mode": "offline"} if offline else {}))

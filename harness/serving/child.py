"""Starting a process of a running study: told through a pipe what it is to do, and gone when we are.

Nothing secret and no arm's name stands in its arguments or its environment.
"""

import contextlib
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any

GRACE = 5.0
PRIVATE = ("OPENAI_API_KEY", "HF_TOKEN", "HUGGING_FACE_HUB_TOKEN", "WANDB_API_KEY")

Process = subprocess.Popen[str]


def start(module: str, order: dict[str, Any], *, words: IO[bytes] | None = None, keys: bool = False) -> Process:
    """Run `python -m module`, with `order` as the first line of its input. Its stderr goes to `words`, or to ours.

    Ctrl-C on a terminal does not reach it. `keys`: it gets the keys of servers that the environment holds.
    """
    here = str(Path(__file__).parents[2])
    paths = [here, *filter(None, [os.environ.get("PYTHONPATH")])]
    environment = {name: value for name, value in os.environ.items() if keys or name not in PRIVATE}
    process = subprocess.Popen(
        [sys.executable, "-m", module],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=words,
        text=True,
        env=environment | {"PYTHONPATH": os.pathsep.join(paths), "TOKENIZERS_PARALLELISM": "false"},
        start_new_session=True,
    )
    assert process.stdin is not None
    with contextlib.suppress(OSError):  # it may have died already: what it says will tell
        process.stdin.write(json.dumps(order) + "\n")
        process.stdin.flush()
    return process


def lines(process: Process) -> Iterator[dict[str, Any]]:
    """What a process says, one JSON object a line, until it ends."""
    assert process.stdout is not None
    for line in process.stdout:
        yield json.loads(line)


def end(process: Process, grace: float = GRACE) -> int:
    """End a process: by closing its input, and by force if it takes longer than `grace`; returns its exit code."""
    assert process.stdin is not None
    assert process.stdout is not None
    try:
        with contextlib.suppress(OSError):  # it may be gone already
            process.stdin.close()
        return process.wait(grace)
    except subprocess.TimeoutExpired:
        process.kill()
        return process.wait()
    finally:  # last: a thread may be reading it until the process has ended
        process.stdout.close()

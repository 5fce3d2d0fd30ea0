"""The web process as seen by who starts it: it gets a database, a port and the way to the model server, and no more."""

import contextlib
import signal
import subprocess
from collections.abc import Callable
from pathlib import Path

from harness.errors import RunError
from harness.serving import child
from harness.serving.process import Handle

GRACE = 30.0
"""Seconds in which open pages may come to their end when the study's owner stops the server."""


def serve_page(
    db: Path,
    *,
    host: str,
    port: int,
    root_path: str = "",
    models: Handle | None = None,
    on_ready: Callable[[str], None],
) -> None:
    """Serve the rating page in a process of its own until Ctrl-C; `on_ready` is called with its address.

    Raises RunError when it cannot serve (with its own reason) or ends by itself.
    """
    order = {"db": str(db.absolute()), "host": host, "port": port, "root_path": root_path}
    if models is not None:
        order |= {"address": models.address, "secret": models.secret}
    process = child.start("studyapp", order)
    try:
        for told in child.lines(process):
            if "error" in told:
                raise RunError(told["error"], hint=told["hint"])
            on_ready(told["ready"])
        code = process.wait()
        if code:
            raise RunError(
                f"the rating page ended by itself (exit code {code})",
                hint="what was saved is kept; start it again with the same command",
            )
    except KeyboardInterrupt:
        process.send_signal(signal.SIGINT)
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(GRACE)
    finally:
        child.end(process, GRACE)

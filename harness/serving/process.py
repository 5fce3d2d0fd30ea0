"""The model server as seen by who starts it: a subprocess with an address and a secret, started anew when it dies.

Nothing that the server prints is shown: it names arms, and the screen may be a rater's. It goes to model-server.log in
the run directory, which only the owner can read.
"""

import contextlib
import json
import os
import secrets
import shutil
import socket
import tempfile
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any

from harness.errors import RatingError, RunError
from harness.progress import Report, quiet, say
from harness.rundir import now
from harness.serving import child

LOG = "model-server.log"
PAUSES = (0.0, 1.0, 2.0, 5.0, 10.0, 30.0, 60.0)
"""Seconds before a server that died is started anew, by how often it died before it was ready again."""


class Handle:
    """A model server that runs; `address` and `secret` are what a Broker needs, and stay the same when it restarts."""

    def __init__(self, root: Path, at_once: int) -> None:
        self.root, self.at_once = root.absolute(), at_once
        self.secret = secrets.token_urlsafe(32)
        self.address, self._folder = _address()
        self._stopping = threading.Event()
        self._process: child.Process | None = None
        self._keeper: threading.Thread | None = None

    @property
    def pid(self) -> int | None:
        """The process that serves now."""
        return self._process.pid if self._process else None

    def start(self, progress: Report = quiet) -> None:
        """Return once all arms are loaded and have answered. Raises RunError when the server ends before that."""
        self._launch(progress)
        self._keeper = threading.Thread(target=self._keep, daemon=True)
        self._keeper.start()

    def stop(self) -> None:
        """End the server and clean up."""
        self._stopping.set()
        if self._process is not None:
            child.end(self._process)
        if self._keeper is not None:
            self._keeper.join(child.GRACE)
        if self._folder is not None:
            shutil.rmtree(self._folder, ignore_errors=True)

    def _launch(self, progress: Report) -> None:
        order = {"root": str(self.root), "address": self.address, "secret": self.secret, "at_once": self.at_once}
        with _private(self.root / LOG) as words:
            words.write(f"{now()} model server\n".encode())
            words.flush()
            process = self._process = child.start("harness.serving", order, words=words, keys=True)
        for told in child.lines(process):
            if told.get("ready"):
                return
            progress(told["loading"] - 1, told["of"], "loading models")
        child.end(process)
        raise RunError("the model server could not start", hint=f"the reason stands at the end of {self.root / LOG}")

    def _keep(self) -> None:
        """Start the server anew whenever it dies."""
        died = 0
        while True:
            assert self._process is not None
            self._process.wait()
            child.end(self._process)
            if self._stopping.wait(PAUSES[min(died, len(PAUSES) - 1)]):
                return
            say("the model server ended; starting it again")
            try:
                self._launch(quiet)
            except RunError:
                died += 1
            else:
                died = 0
                if self._stopping.is_set():
                    child.end(self._process)
                    return
                say("the model server is back")


@contextlib.contextmanager
def serving(root: Path, at_once: int, progress: Report = quiet) -> Iterator[Handle]:
    """A model server for the run directory `root`, ready when the block begins and gone when it ends.

    `at_once` chats are answered at the same time. Raises RunError when it cannot start.
    """
    handle = Handle(root, at_once)
    try:
        handle.start(progress)
        yield handle
    finally:
        handle.stop()


def calibrate(handle: Handle, progress: Report = quiet) -> dict[str, Any]:
    """Have every arm measured and a pace chosen (see calibration.Found); takes as long as a few rounds of answers.

    Raises RatingError, naming no arm, where the slowest arm cannot keep up, RunError when the server goes away.
    """
    import httpx

    path = handle.address.removeprefix("unix:")
    local = path != handle.address
    transport = httpx.HTTPTransport(uds=path if local else None, verify=False, trust_env=False)
    headers = {"authorization": f"Bearer {handle.secret}"}
    try:
        with (
            httpx.Client(transport=transport, headers=headers, timeout=None, trust_env=False) as client,
            client.stream("POST", f"{'http://models' if local else handle.address}/measure") as response,
        ):
            response.raise_for_status()
            for line in response.iter_lines():
                said = json.loads(line)
                if "refused" in said:
                    raise RatingError(said["refused"], hint=said["hint"])
                if "pace" in said:
                    return {**said["pace"], "at": now()}
                progress(said["done"], said["of"], "measuring how fast the arms write")
    except httpx.HTTPError as error:
        raise RunError("the model server went away while it measured", hint=f"see {handle.root / LOG}") from error
    raise RunError("the model server broke off while it measured", hint=f"see {handle.root / LOG}")


def _address() -> tuple[str, Path | None]:
    """Where to serve: a socket file in a private folder (its path is short, as sockets' must be), else loopback."""
    if hasattr(socket, "AF_UNIX"):
        folder = Path(tempfile.mkdtemp(prefix="viva-"))  # mode 0700
        return f"unix:{folder / 'models'}", folder
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return f"http://127.0.0.1:{free.getsockname()[1]}", None


def _private(path: Path) -> IO[bytes]:
    return os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600), "ab")

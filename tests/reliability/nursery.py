"""Servers that can be killed and begun anew within a second: one process loads the libraries once, the others fork it.

What runs in a forked process is what runs in production: `studyapp.server.serve`, and the model server's own code with
scripted arms (tests/studyapp/typists.py). A study takes far longer to import Gradio than to open its database; without
the fork two hundred restarts would be an hour of imports.
"""

import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
import traceback
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]
SECRET = "a secret of the tests"
PATIENCE = 300.0
"""Seconds: on a busy machine the import alone takes one minute."""


class Nursery:
    """The page and the model server of the study in `db`, each killed by `kill` and begun anew by `start`."""

    def __init__(self, db: Path, paces: list[float]) -> None:
        self.url = f"http://127.0.0.1:{_free_port()}/"
        self.pids: dict[str, int] = {}
        address = f"unix:{db.parent / 'models.sock'}"
        self._orders: dict[str, dict[str, Any]] = {
            "page": {"db": str(db), "port": int(self.url.rstrip("/").rpartition(":")[2]), "address": address},
            "models": {"db": str(db), "paces": paces, "address": address},
        }
        self._ready = {name: threading.Event() for name in (*self._orders, "loaded")}
        self._log = db.parent / "servers.log"
        self._process = subprocess.Popen(
            [sys.executable, "-m", "tests.reliability.nursery", str(self._log)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            cwd=ROOT,
            env={**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)},
            start_new_session=True,  # a process group of its own, which ends as a whole
        )
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()
        self._wait("loaded")

    def start(self, *names: str) -> float:
        """Start these servers ("page", "models"); returns after how many seconds all of them answered."""
        begun = time.perf_counter()
        assert self._process.stdin is not None
        for name in names:
            self._ready[name].clear()
            self._process.stdin.write(json.dumps({"name": name, "secret": SECRET, **self._orders[name]}) + "\n")
        self._process.stdin.flush()
        for name in names:
            self._wait(name)
        return time.perf_counter() - begun

    def kill(self, *names: str) -> None:
        """kill -9, all of them within a moment; returns once they are gone. One that died by itself is an error."""
        pids = [self.pids.pop(name) for name in names]
        for pid in pids:
            os.kill(pid, signal.SIGKILL)
        for pid in pids:
            while Path(f"/proc/{pid}").exists():
                time.sleep(0.002)

    def close(self) -> None:
        """End everything."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.close()
        self._process.wait(PATIENCE)
        self._reader.join(PATIENCE)
        self._process.stdout.close()

    def _wait(self, name: str) -> None:
        self._ready[name].wait(PATIENCE)
        assert name in (*self.pids, "loaded"), f"{name}: not ready\n{self._log.read_text()}"

    def _read(self) -> None:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            told = json.loads(line)
            if told["pid"]:
                self.pids[told["name"]] = told["pid"]
            self._ready[told["name"]].set()
        for ready in self._ready.values():  # nobody is there any more to wait for
            ready.set()


def _free_port() -> int:
    """A port that stays the study's when its server restarts, as a rater's browser expects."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return int(free.getsockname()[1])


def main() -> None:
    """Load all that the servers need, then fork one for each line of stdin; when that ends, so do they."""
    os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"
    import gradio  # noqa: F401
    import uvicorn  # noqa: F401

    from studyapp import app, chats, dashboard, guard, routes, server  # noqa: F401
    from tests.studyapp import typists  # noqa: F401

    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # nobody waits for the dead
    _tell("loaded")
    for line in sys.stdin:
        if not os.fork():
            _serve(json.loads(line))
    os.killpg(0, signal.SIGKILL)


def _serve(order: dict[str, Any]) -> None:
    """Be a server until killed. What it logs goes to a file; its stdout is kept for saying that it is ready."""
    try:
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
        os.dup2(os.open(sys.argv[1], os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600), 2)
        if order["name"] == "page":
            _page(order)
        else:
            _models(order)
        print(f"{order['name']} ended by itself", file=sys.stderr)
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stderr.flush()
        _tell(order["name"], 0)
        os._exit(1)


def _page(order: dict[str, Any]) -> None:
    from studyapp.broker import Broker
    from studyapp.limits import Limits
    from studyapp.server import serve

    serve(
        Path(order["db"]),
        port=order["port"],
        broker=Broker(order["address"], order["secret"]),
        limits=Limits(joins=(10_000, 1000), posts=(10_000, 1000)),
        on_ready=lambda _: _tell("page", os.getpid()),
    )


def _models(order: dict[str, Any]) -> None:
    import asyncio
    import logging

    from tests.studyapp import typists

    logging.getLogger("uvicorn.error").setLevel(logging.CRITICAL)
    asyncio.run(typists.main(order, ready=lambda: _tell("models", os.getpid())))


def _tell(name: str, pid: int = 0) -> None:
    """Say that something is ready; pid 0 of a server: that it could not start, or has ended."""
    os.write(1, json.dumps({"name": name, "pid": pid}).encode() + b"\n")  # one write: lines of several do not mix


if __name__ == "__main__":
    main()

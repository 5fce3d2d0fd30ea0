"""The model server: the one process that holds the models and blinding.json while raters chat.

`python -m harness.serving` reads one line of JSON from stdin, {"root", "address", "secret", "at_once"}, and tells on
stdout how far it is, one JSON object a line, until {"ready": true}. It ends when stdin does, so it never outlives who
started it. All else, arms' names included, goes to stderr, which is a private file.
"""

import asyncio
import contextlib
import json
import logging
import os
import socket
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

from harness.blinding import arm_keys
from harness.chat import Sampling
from harness.errors import VivaError
from harness.records import Message
from harness.serving.arms import Arm, ArmError
from harness.serving.endpoint import EndpointArm
from harness.serving.measure import Pacing
from harness.serving.server import build
from harness.serving.turns import Turns
from harness.stages import Run, open_run

log = logging.getLogger("harness.serving")

Tell = Callable[[dict[str, Any]], None]
WARM_TOKENS = 4


def main() -> int:
    order = json.loads(sys.stdin.readline())
    threading.Thread(target=_end_with_stdin, args=[order["address"]], daemon=True).start()
    words = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # what libraries print is not for who started this
    logging.basicConfig(level=logging.INFO, stream=sys.stderr, format="%(asctime)s %(message)s")
    for noisy in ("httpx", "httpcore", "uvicorn"):
        logging.getLogger(noisy).setLevel(logging.WARNING)

    def tell(line: dict[str, Any]) -> None:
        words.write(json.dumps(line) + "\n")
        words.flush()

    try:
        asyncio.run(_serve(order, tell))
    except (VivaError, ArmError) as error:
        log.error("the model server cannot start: %s", error)
        return 1
    return 0


def _end_with_stdin(address: str) -> None:
    sys.stdin.read()
    if address.startswith("unix:"):
        path = Path(address.removeprefix("unix:"))
        with contextlib.suppress(OSError):
            path.unlink()
            path.parent.rmdir()
    os._exit(0)


async def _serve(order: dict[str, Any], tell: Tell) -> None:
    import uvicorn

    run = open_run(Path(order["root"]))
    keys = arm_keys(run.dir.blinding, run.study.arms)
    arms = {}
    for number, name in enumerate(run.study.arms):
        tell({"loading": number + 1, "of": len(keys)})
        arms[keys[name]] = make_arm(run, name, order["at_once"])
    for name, key in keys.items():
        try:
            await _warm(arms[key])
        except ArmError as error:
            raise ArmError(f"{name} does not answer: {error}") from error
    turns = Turns(run.study.seed, order["at_once"], frozenset().union(*(arm.marks for arm in arms.values())))
    app = build(run.dir.db, arms, turns, order["secret"], _pacing(run, order["at_once"]))
    config = uvicorn.Config(
        app, log_config=None, access_log=False, server_header=False, date_header=False, lifespan="off", ws="none"
    )
    server = uvicorn.Server(config)
    with _listen(order["address"]) as listener:
        serving = asyncio.create_task(server.serve(sockets=[listener]))
        while not server.started and not serving.done():
            await asyncio.sleep(0.02)
        tell({"ready": True})
        await serving


def make_arm(run: Run, name: str, at_once: int) -> Arm:
    """The arm of that name: behind the endpoint that [[rate.serve]] gives it, or loaded here."""
    table = run.study.answer
    sampling = Sampling(table.max_tokens, table.temperature, table.top_p)
    for elsewhere in run.study.rate.serve:
        if elsewhere.arm == name:
            return EndpointArm(elsewhere.endpoint, elsewhere.model, sampling, run.study.system)
    from harness.serving.local import load_arm
    from harness.tune import keep_big_blocks

    keep_big_blocks()
    return load_arm(run.model_dir(name), sampling, run.study.system, at_once)


async def _warm(arm: Arm) -> None:
    """Let an arm write a few tokens, so that nobody's first answer is slower than the others."""
    async for _ in arm.write([Message(role="user", content="Hello!")], 0, WARM_TOKENS):
        pass


def _pacing(run: Run, at_once: int) -> Pacing:
    rate = run.study.rate
    return Pacing([(one.opening, one.turns) for one in run.scenarios], at_once, rate.cps, rate.delay)


def _listen(address: str) -> socket.socket:
    """A socket that listens at `unix:/path` or `http://127.0.0.1:port`."""
    if path := address.removeprefix("unix:") if address.startswith("unix:") else "":
        Path(path).unlink(missing_ok=True)  # an earlier server's that was killed
        listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        listener.bind(path)
        os.chmod(path, 0o600)
    else:
        host, _, port = address.removeprefix("http://").rpartition(":")
        listener = socket.socket(socket.AF_INET, socket.SOCK_STREAM, socket.IPPROTO_TCP)
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind((host, int(port)))
    listener.listen(256)
    return listener


if __name__ == "__main__":
    sys.exit(main())

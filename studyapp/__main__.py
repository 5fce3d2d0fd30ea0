"""The web process: it is told what it needs to know through a pipe, and an arm's name is not among it.

`python -m studyapp` reads one line of JSON from stdin: db, host, port, root_path; for live chats the address and the
secret of the model server; for raters who are not people their kind. It writes one line to stdout: {"ready": URL} once
the page answers, or {"error", "hint"} when it cannot serve. It ends when stdin does, so it never outlives who started
it.
"""

import json
import os
import signal
import sys
import threading
from pathlib import Path
from typing import Any

from harness.errors import VivaError
from studyapp.broker import Broker
from studyapp.server import serve


def main() -> int:
    order = json.loads(sys.stdin.readline())
    threading.Thread(target=_end_with_stdin, daemon=True).start()
    words = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # what libraries print is no answer

    def tell(line: dict[str, Any]) -> None:
        words.write(json.dumps(line) + "\n")
        words.flush()

    broker = Broker(order["address"], order["secret"]) if order.get("address") else None
    try:
        serve(
            Path(order["db"]),
            host=order["host"],
            port=order["port"],
            root_path=order["root_path"],
            broker=broker,
            kind=order.get("kind", "person"),
            on_ready=lambda url: tell({"ready": url}),
        )
    except VivaError as error:
        tell({"error": error.what, "hint": error.hint})
        return error.exit_code
    return 0


def _end_with_stdin() -> None:
    sys.stdin.read()
    os.kill(os.getpid(), signal.SIGTERM)  # in order: what is being saved is saved


if __name__ == "__main__":
    sys.exit(main())

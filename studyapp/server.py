"""The web process of a study: plain pages for joining and leaving, Gradio for rating, the guard around both.

It is one process on purpose: Gradio keeps sessions in memory, and two workers lose each other's requests.
"""

import asyncio
import contextlib
import http.client
import logging
import os
import socket
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from harness.errors import RatingError
from studyapp import session, store
from studyapp.broker import Broker
from studyapp.calls import CALL
from studyapp.db import kept_open
from studyapp.limits import Limits
from studyapp.listening import allow_many, listen
from studyapp.pages import PLAIN, Pages
from studyapp.records import Kind
from studyapp.texts import texts

if TYPE_CHECKING:
    import fastapi
    from starlette.types import ASGIApp, Receive, Scope, Send

GRACE_SECONDS = 5


def serve(
    db_path: Path,
    *,
    host: str = "127.0.0.1",
    port: int = 7860,
    root_path: str = "",
    broker: Broker | None = None,
    limits: Limits | None = None,
    kind: Kind = "person",
    on_ready: Callable[[str], None] | None = None,
) -> None:
    """Serve the rating page until Ctrl-C or SIGTERM; calls `on_ready` with its address once it really answers.

    Port 0 takes any free port. `root_path` is the prefix that a proxy in front strips from every path. `broker` is the
    way to the model server, which a study with live chats needs. Everybody who joins is entered as of this `kind`.

    Raises RunError for a port in use or an address that is not this machine's, RatingError where there is no study or
    a live one without pace or model server.
    """
    with contextlib.suppress(KeyboardInterrupt):
        store.study(db_path)
        listener = listen(host, port)  # before the slow imports: a port in use is told at once
        with listener:
            store.prepare(db_path)
            allow_many()
            limits = limits or Limits()
            app = build(db_path, root_path=root_path, broker=broker, limits=limits, kind=kind)
            with kept_open(db_path):
                _run(app, listener, host, root_path, limits, on_ready)


def build(
    db: Path,
    *,
    root_path: str = "",
    broker: Broker | None = None,
    limits: Limits | None = None,
    kind: Kind = "person",
) -> "ASGIApp":
    """The whole ASGI app of a study: FastAPI, Gradio mounted in it, and the guard around them."""
    os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"
    os.environ["HF_HUB_OFFLINE"] = "1"
    from studyapp import app as page
    from studyapp import dashboard
    from studyapp.chats import Chats
    from studyapp.direct import Direct
    from studyapp.guard import Guard
    from studyapp.routes import plain_app
    from studyapp.screens import Screens

    facts = store.study(db)
    cookie = f"viva_{facts.uid}"
    pages = Pages(db, cookie, broker if facts.live else None, kind)
    chats = None
    if facts.live:
        if broker is None:
            raise RatingError("this study has live chats, but no model server", hint="start it with viva rate")
        chats = Chats(db, broker, lambda: store.pace(db))
    plain = plain_app(pages)
    plain.include_router(dashboard.routes(db))
    demo = page.build(Screens(db, facts.panels, chats), texts(facts.language))
    return Guard(
        Parts(plain, page.mounted(demo, root_path), Direct(demo)),
        cookie=cookie,
        language=facts.language,
        who=lambda token: session.who(db, token),
        functions=page.functions(demo),
        elsewhere=pages.elsewhere,
        limits=limits or Limits(),
    )


class Parts:
    """The plain pages, the calls past the queue and, for every other path, Gradio; nobody looks through all routes."""

    def __init__(self, plain: "fastapi.FastAPI", rating: "fastapi.FastAPI", direct: "ASGIApp") -> None:
        self.plain, self.rating, self.direct = plain, rating, direct
        self.routes = [*plain.routes, *rating.routes]

    async def __call__(self, scope: "Scope", receive: "Receive", send: "Send") -> None:
        app: ASGIApp = self.rating
        if scope["type"] == "http":
            path = scope["path"].removeprefix(scope.get("root_path", ""))
            if path == CALL:
                app = self.direct
            elif path.split("/")[1] in PLAIN:
                app = self.plain
        await app(scope, receive, send)


def _run(
    app: "ASGIApp",
    listener: socket.socket,
    host: str,
    root_path: str,
    limits: Limits,
    on_ready: Callable[[str], None] | None,
) -> None:
    import uvicorn

    from studyapp.hurry import hurried

    class Server(uvicorn.Server):
        async def startup(self, sockets: list[socket.socket] | None = None) -> None:
            await super().startup(sockets)
            if on_ready:
                self.announced = asyncio.create_task(asyncio.to_thread(_announce, listener, host, root_path, on_ready))

    # uvicorn's own log would only tell of a stream cut short at the end; what fails is logged by the guard
    logging.getLogger("uvicorn.error").setLevel(logging.CRITICAL)
    config = uvicorn.Config(
        app,
        http=hurried(limits.head_seconds),
        log_config=None,
        access_log=False,
        server_header=False,
        root_path=root_path,
        timeout_graceful_shutdown=GRACE_SECONDS,
        lifespan="on",
        ws="none",
    )
    Server(config).run(sockets=[listener])


def _announce(listener: socket.socket, host: str, root_path: str, on_ready: Callable[[str], None]) -> None:
    """Ask the server for its health over the network, as a rater would, then call back."""
    port = listener.getsockname()[1]
    reachable = {"0.0.0.0": "127.0.0.1", "::": "::1", "": "127.0.0.1"}.get(host, host)
    connection = http.client.HTTPConnection(reachable, port, timeout=30)
    with contextlib.closing(connection):
        connection.request("GET", "/healthz")
        if connection.getresponse().status == 200:
            name = f"[{reachable}]" if ":" in reachable else reachable
            on_ready(f"http://{name}:{port}{root_path}/")

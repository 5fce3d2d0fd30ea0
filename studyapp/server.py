"""The web process of a study: plain pages for joining and leaving, Gradio for rating, the guard around both.

It is one process on purpose: Gradio keeps sessions in memory, and two workers lose each other's requests.
"""

import asyncio
import contextlib
import errno
import http.client
import logging
import os
import socket
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import parse_qs

from harness.errors import RatingError, RunError
from studyapp import session, store, views
from studyapp.db import connect

if TYPE_CHECKING:
    import fastapi
    from starlette.types import ASGIApp

TITLE = "Rating study"
MONTHS_3 = 90 * 24 * 3600
GRACE_SECONDS = 5


def serve(
    db_path: Path,
    *,
    host: str = "127.0.0.1",
    port: int = 7860,
    title: str = TITLE,
    root_path: str = "",
    on_ready: Callable[[str], None] | None = None,
) -> None:
    """Serve the rating page until Ctrl-C or SIGTERM; calls `on_ready` with its address once it really answers.

    Port 0 takes any free port. `root_path` is the prefix that a proxy in front strips from every path.
    `title` is shown to raters, so it must not name a model.

    Raises RunError for a port in use or an address that is not this machine's, RatingError where there is no study.
    """
    with contextlib.suppress(KeyboardInterrupt):
        store.study(db_path)
        listener = listen(host, port)  # before the slow imports: a port in use is told at once
        with listener:
            store.prepare(db_path)
            app = build(db_path, title=title, root_path=root_path)
            # while one connection is open, closing another does not make SQLite tidy up its log and wait for the disk
            with connect(db_path):
                _run(app, listener, host, root_path, on_ready)


def listen(host: str, port: int) -> socket.socket:
    """A socket that already listens, so that nobody else can take the port while the app loads."""
    if not 0 <= port <= 65535:  # getaddrinfo would take it modulo 65536
        raise RunError(f"there is no port {port}", hint="name one from 1 to 65535 with --port")
    try:
        family, _, _, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)[0]
    except socket.gaierror as error:
        raise RunError(f"cannot serve on {host!r}: {error.strerror}", hint="name another address with --host") from None
    # asyncio turns Nagle's algorithm off only for sockets that say they are TCP; with it, every answer takes 40 ms
    listener = socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(address)
        listener.listen(256)
    except OSError as error:
        listener.close()
        if error.errno == errno.EADDRINUSE:
            raise RunError(
                f"port {port} is already in use", hint="stop what uses it, or name another port with --port"
            ) from None
        reason = error.strerror or str(error)
        raise RunError(f"cannot serve on {host}:{port}: {reason}", hint="try another --host or --port") from None
    return listener


def build(db: Path, *, title: str = TITLE, root_path: str = "") -> "ASGIApp":
    """The whole ASGI app of a study: FastAPI, Gradio mounted in it, and the guard around them."""
    os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"
    os.environ["HF_HUB_OFFLINE"] = "1"
    import gradio as gr

    from studyapp import app as page
    from studyapp.guard import Guard

    facts = store.study(db)
    cookie = f"viva_{facts.uid}"
    app = _plain_pages(db, cookie, title)
    demo = page.build(db, title=title)
    functions = {index: len(function.inputs) for index, function in demo.fns.items()}
    gr.mount_gradio_app(
        app,
        demo,
        path="/",
        auth_dependency=lambda request: rater.label if (rater := request.scope["state"].get("rater")) else None,
        root_path=root_path or None,
        theme=page.theme(),
        css_paths=[views.STATIC / "viva.css"],
        head='<script src="viva.js"></script>',  # from us, not inline: the policy would stop that
        footer_links=[],
        show_error=False,
        run_history=False,
        enable_monitoring=False,
        mcp_server=False,
        pwa=False,
        ssr_mode=False,
        allowed_paths=[],
        max_file_size=1,
    )
    return Guard(app, cookie=cookie, who=lambda token: session.who(db, token), functions=functions)


def _plain_pages(db: Path, cookie: str, title: str) -> "fastapi.FastAPI":
    """Everything beside Gradio's page: joining, leaving, the keyboard script and the health check."""
    import fastapi
    from fastapi.responses import FileResponse, HTMLResponse, JSONResponse, RedirectResponse, Response

    app = fastapi.FastAPI(docs_url=None, redoc_url=None, openapi_url=None)

    def prefix(request: fastapi.Request) -> str:
        return str(request.scope.get("root_path", ""))

    def join_page(status: int = 200, problem: str = "") -> Response:
        facts = store.study(db)
        paragraphs = [part for part in facts.consent.split("\n\n") if part.strip()]
        minutes = max(1, round(facts.items * views.SECONDS_PER_ITEM / 60))
        values = {"title": title, "paragraphs": paragraphs, "items": facts.items, "minutes": minutes}
        return HTMLResponse(views.page("join", **values, problem=problem, open=facts.state == "open"), status)

    @app.get("/healthz")
    def healthz() -> Response:
        return JSONResponse({"ok": store.alive(db)})

    @app.get("/viva.js")
    def script() -> Response:
        return FileResponse(views.STATIC / "viva.js", media_type="text/javascript")

    @app.get("/join")
    def join(request: fastapi.Request) -> Response:
        if session.who(db, request.cookies.get(cookie)):
            return RedirectResponse(f"{prefix(request)}/", 303)
        return join_page()

    @app.post("/join")
    async def consent(request: fastapi.Request) -> Response:
        form = parse_qs((await request.body()).decode(errors="replace"))
        return await asyncio.to_thread(enter, request, form.get("consent") == ["yes"])

    def enter(request: fastapi.Request, consented: bool) -> Response:
        home = RedirectResponse(f"{prefix(request)}/", 303)
        if session.who(db, request.cookies.get(cookie)):  # a double click on the button is one rater
            return home
        if not consented:
            return join_page(400, "Please tick the box first, if you agree.")
        try:
            token = session.join(db)
        except RatingError:
            return join_page(409)
        home.set_cookie(
            cookie,
            token,
            max_age=MONTHS_3,
            path=f"{prefix(request)}/",
            httponly=True,
            samesite="lax",
            secure=request.url.scheme == "https",
        )
        return home

    @app.get("/leave")
    def leave() -> Response:
        return HTMLResponse(views.page("leave", title=title))

    @app.post("/leave")
    def left(request: fastapi.Request) -> Response:
        away = RedirectResponse(f"{prefix(request)}/join", 303)
        away.delete_cookie(cookie, path=f"{prefix(request)}/")
        return away

    return app


def _run(
    app: "ASGIApp", listener: socket.socket, host: str, root_path: str, on_ready: Callable[[str], None] | None
) -> None:
    import uvicorn

    class Server(uvicorn.Server):
        async def startup(self, sockets: list[socket.socket] | None = None) -> None:
            await super().startup(sockets)
            if on_ready:
                self.announced = asyncio.create_task(asyncio.to_thread(_announce, listener, host, root_path, on_ready))

    # uvicorn's own log would only tell of a stream cut short at the end; what fails is logged by the guard
    logging.getLogger("uvicorn.error").setLevel(logging.CRITICAL)
    config = uvicorn.Config(
        app,
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

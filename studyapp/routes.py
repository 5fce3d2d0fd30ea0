"""Which address leads to which plain page. Who may get here at all is decided before, in guard.py."""

import asyncio
from collections.abc import Callable
from typing import TYPE_CHECKING

from studyapp import session, store, views
from studyapp.pages import WAIT_SECONDS, Asked, Pages, crowd_of

if TYPE_CHECKING:
    import fastapi
    from fastapi.responses import Response


def plain_app(pages: Pages) -> "fastapi.FastAPI":
    """A FastAPI app with everything but Gradio's page: joining, leaving, the script, the health check."""
    import fastapi
    from fastapi.responses import FileResponse, JSONResponse, Response

    app = fastapi.FastAPI(docs_url=None, redoc_url=None, openapi_url=None)

    @app.get("/healthz")
    async def healthz() -> Response:
        return JSONResponse({"ok": await asyncio.to_thread(store.alive, pages.db)})

    @app.get("/viva.js")
    def script() -> Response:
        return FileResponse(views.STATIC / "viva.js", media_type="text/javascript")

    _joining(app, pages)
    _leaving(app, pages)
    _states(app, pages)
    return app


async def answer(request: "fastapi.Request", act: "Callable[[Asked], Response]") -> "Response":
    """What an action says to a request; in a thread, since SQLite waits for the disk."""
    return await asyncio.to_thread(act, await Asked.of(request))


def _joining(app: "fastapi.FastAPI", pages: Pages) -> None:
    """Coming in, by an open address, an invitation or a link of one's own."""
    from fastapi import Request
    from fastapi.responses import Response

    @app.get("/join")
    @app.get("/join/{token}")
    async def joining(request: Request) -> Response:
        token = request.path_params.get("token")
        crowd = crowd_of(lambda name: request.query_params.get(name, ""))

        def act(asked: Asked) -> Response:
            known = session.who(pages.db, request.cookies.get(pages.cookie))
            return asked.go("/") if known else pages.joining(asked, token, crowd)

        return await answer(request, act)

    @app.post("/join")
    @app.post("/join/{token}")
    async def join(request: Request) -> Response:
        token = request.path_params.get("token")

        def act(asked: Asked) -> Response:
            known = session.who(pages.db, request.cookies.get(pages.cookie))
            return asked.go("/") if known else pages.join(asked, token)

        return await answer(request, act)

    @app.get("/continue/{token}")
    async def returning(request: Request, token: str) -> Response:
        return await answer(request, lambda asked: asked.page("continue", here=f"/continue/{token}"))

    @app.post("/continue/{token}")
    async def returned(request: Request, token: str) -> Response:
        return await answer(request, lambda asked: pages.join_again(asked, token))


def _leaving(app: "fastapi.FastAPI", pages: Pages) -> None:
    """Language, another device, leaving, withdrawing."""
    from fastapi import Request
    from fastapi.responses import Response

    @app.get("/language")
    async def choosing(request: Request) -> Response:
        return await answer(request, lambda asked: asked.page("language", here="/"))

    @app.post("/language")
    async def chosen(request: Request) -> Response:
        return await answer(request, pages.speak)

    @app.get("/device")
    async def device(request: Request) -> Response:
        return await answer(request, lambda asked: asked.page("device", here="/device"))

    @app.post("/device")
    async def link(request: Request) -> Response:
        address = str(request.base_url).rstrip("/")
        return await answer(request, lambda asked: pages.device(asked, address))

    @app.get("/leave")
    async def leaving(request: Request) -> Response:
        return await answer(request, lambda asked: asked.page("leave", here="/leave"))

    @app.post("/leave")
    async def left(request: Request) -> Response:
        return await answer(request, lambda asked: pages.leave(asked, "/join"))

    @app.get("/withdraw")
    async def withdrawing(request: Request) -> Response:
        return await answer(request, lambda asked: asked.page("withdraw", here="/withdraw"))

    @app.post("/withdraw")
    async def withdraw(request: Request) -> Response:
        return await answer(request, pages.withdraw)

    @app.get("/withdrawn")
    async def withdrawn(request: Request) -> Response:
        def act(asked: Asked) -> Response:
            return asked.page("notice", title="withdraw.done_title", text="withdraw.done", here="/withdrawn")

        return await answer(request, act)


def _states(app: "fastapi.FastAPI", pages: Pages) -> None:
    """Where a rater is who has nothing to rate: questions, the end, paused, closed."""
    from fastapi import Request
    from fastapi.responses import Response

    @app.get("/questions")
    @app.post("/questions")
    async def questions(request: Request) -> Response:
        return await answer(request, pages.questions)

    @app.get("/end")
    async def end(request: Request) -> Response:
        return await answer(request, pages.end)

    @app.get("/closed")
    async def closed(request: Request) -> Response:
        def act(asked: Asked) -> Response:
            def show(view: session.View) -> Response:
                return asked.page("notice", title="closed.title", text="closed.text", here="/closed")

            return pages.state(asked, "closed", show)

        return await answer(request, act)

    @app.get("/paused")
    async def paused(request: Request) -> Response:
        asked = await Asked.of(request)
        if asked.rater is None:
            return asked.go("/")
        view = await asyncio.to_thread(session.current, pages.db, asked.rater)
        if view.state != "paused" and not await pages.away(view):
            return asked.go("/")
        text = "paused.study" if view.state == "paused" else "paused.away"
        return asked.page("notice", title="paused.title", text=text, wait=WAIT_SECONDS, here="/paused")

"""The owner's pages under /owner: plain HTML behind a password of their own.

They read study.db only, so they cannot name an arm; and until the study is closed they show nothing by arm at all (see
store_owner.py). A page is one template, an act one POST that needs this page's own Origin and leaves a line in the log.
"""

import time
from collections.abc import Callable, Mapping
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import parse_qs, urlsplit

from jinja2 import Environment, FileSystemLoader, Template
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import HTMLResponse, PlainTextResponse, RedirectResponse, Response

from harness.errors import RatingError
from studyapp import export, owner_lock, store_owner, store_owner_acts
from studyapp.owner_lock import SESSION_SECONDS, Sessions, Tries

if TYPE_CHECKING:
    import fastapi

TEMPLATES = Path(__file__).parent / "templates"
MAX_BODY = 64 * 1024
SHOWN = 500
"""Most comments, problems, invitations or log entries on one page; the export has all."""

DONE = {
    "pause": "The study is paused. Raters see that, and keep what they have.",
    "open": "The study is open.",
    "close": "The study is closed. Nobody can join or rate any more.",
    "extend": "The study is extended.",
}


def routes(db: Path, clock: Callable[[], float] = time.monotonic) -> "fastapi.APIRouter":
    """The owner's pages of the study in `db`. Where no password is sealed, none of them exists."""
    from fastapi import APIRouter, Depends

    desk = Desk(db, clock)
    router = APIRouter(prefix="/owner", dependencies=[Depends(desk.check)])

    @router.get("/login")
    def login_page(request: Request) -> Response:
        return desk.home(request) if desk.knows(request) else desk.page(request, "login")

    @router.post("/login")
    def login(request: Request, fields: dict[str, str] = Depends(form)) -> Response:  # noqa: B008
        if wait := desk.tries.take(request.client.host if request.client else ""):
            text = f"Too many tries. Please wait {wait} seconds."
            return PlainTextResponse(text, 429, {"retry-after": str(wait)})
        if not owner_lock.matches(db, fields.get("password", "")):
            return desk.page(request, "login", status=401, problem="That is not the password.")
        return desk.home(request, desk.sessions.begin())

    @router.post("/logout")
    def logout(request: Request) -> Response:
        desk.sessions.end(request.cookies.get(desk.cookie))
        away = RedirectResponse(f"{prefix(request)}/owner/login", 303)
        away.delete_cookie(desk.cookie, path=f"{prefix(request)}/owner")
        return away

    _reading(router, desk)
    _acting(router, desk)
    return router


class Desk:
    """What all of the owner's pages share: who is logged in, and how a page is made."""

    def __init__(self, db: Path, clock: Callable[[], float]) -> None:
        self.db = db
        self.cookie = f"viva_owner_{store_owner.overview(db).uid}"
        self.tries = Tries(clock)
        self.sessions = Sessions(clock)

    def knows(self, request: Request) -> bool:
        """Whether the request comes from an owner who has logged in."""
        return self.sessions.valid(request.cookies.get(self.cookie))

    def page(self, request: Request, name: str, *, status: int = 200, problem: str = "", **values: Any) -> Response:
        """One page, rendered."""
        shared = {"root": prefix(request), "page": name, "problem": problem, "known": self.knows(request)}
        return HTMLResponse(template(name).render(**shared, **values), status, {"cache-control": "no-store"})

    def home(self, request: Request, token: str | None = None, done: str = "") -> Response:
        """The way to the first page, with a cookie for whoever has just logged in."""
        answer = RedirectResponse(f"{prefix(request)}/owner" + (f"?done={done}" if done else ""), 303)
        if token:
            answer.set_cookie(
                self.cookie,
                token,
                max_age=int(SESSION_SECONDS),
                path=f"{prefix(request)}/owner",
                httponly=True,
                samesite="strict",
                secure=request.url.scheme == "https",
            )
        return answer

    def progress(self, request: Request, **values: Any) -> Response:
        """The first page."""
        return self.page(request, "progress", progress=store_owner.progress(self.db, people=False), **values)

    def check(self, request: Request) -> None:
        """Let a request pass that may see what it asks for. Raises HTTPException."""
        if not owner_lock.sealed(self.db):
            raise HTTPException(404, "There is nothing here.")
        if request.method == "POST" and not same_origin(request.headers):
            raise HTTPException(403, "This request did not come from the owner's own page.")
        path = request.scope["path"].removeprefix(prefix(request))
        if path != "/owner/login" and not self.knows(request):
            if request.method == "POST":
                raise HTTPException(401, "Please log in first.")
            raise HTTPException(303, headers={"location": f"{prefix(request)}/owner/login"})


def _reading(router: "fastapi.APIRouter", desk: Desk) -> None:
    @router.get("")
    def progress(request: Request, done: str = "") -> Response:
        return desk.progress(request, done=DONE.get(done, ""))

    @router.get("/raters")
    def raters(request: Request) -> Response:
        return desk.page(request, "raters", people=store_owner.progress(desk.db).people)

    @router.get("/notes")
    def notes(request: Request) -> Response:
        return desk.page(request, "notes", notes=store_owner.notes(desk.db), shown=SHOWN)

    @router.get("/invites")
    def invites(request: Request) -> Response:
        return desk.page(request, "invites", invites=store_owner.invites(desk.db), shown=SHOWN)

    @router.get("/log")
    def log(request: Request) -> Response:
        return desk.page(request, "log", entries=store_owner.log(desk.db), shown=SHOWN)

    @router.get("/export")
    def exports(request: Request) -> Response:
        return desk.page(request, "export", tables=tuple(export.TABLES), formats=tuple(export.FORMATS))


def _acting(router: "fastapi.APIRouter", desk: Desk) -> None:
    from fastapi import Depends

    @router.post("/study")
    def study(request: Request, fields: dict[str, str] = Depends(form)) -> Response:  # noqa: B008
        action = fields.get("action", "")
        if action not in store_owner_acts.STATES:
            return desk.progress(request, status=400, problem="Pause, open or close?")
        if action == "close" and fields.get("sure") != "yes":
            return desk.progress(request, status=400, problem="Please tick the box first, if you want to close.")
        try:
            store_owner_acts.set_state(desk.db, action, "owner")
        except RatingError as error:
            return desk.progress(request, status=409, problem=sentence(error))
        return desk.home(request, done=action)

    @router.post("/extend")
    def extend(request: Request, fields: dict[str, str] = Depends(form)) -> Response:  # noqa: B008
        try:
            more = {name: whole(fields.get(name, "")) for name in ("raters", "ratings")}
            store_owner_acts.extend(desk.db, "owner", **more)
        except RatingError as error:
            return desk.progress(request, status=409, problem=sentence(error))
        return desk.home(request, done="extend")

    @router.post("/invites")
    def invite(request: Request, fields: dict[str, str] = Depends(form)) -> Response:  # noqa: B008
        links, problem = [], ""
        try:
            note = fields.get("note", "").strip()
            tokens = store_owner_acts.invite(desk.db, whole(fields.get("count", "")), "owner", note)
            links = [f"{request.url.scheme}://{request.url.netloc}{prefix(request)}/join/{token}" for token in tokens]
        except RatingError as error:
            problem = sentence(error)
        values = {"invites": store_owner.invites(desk.db), "links": links, "shown": SHOWN}
        return desk.page(request, "invites", status=409 if problem else 200, problem=problem, **values)

    @router.post("/export")
    def download(request: Request, fields: dict[str, str] = Depends(form)) -> Response:  # noqa: B008
        table, form_ = fields.get("table", ""), fields.get("format", "")
        try:
            file = export.render(desk.db, form_, table)
        except RatingError as error:
            values = {"tables": tuple(export.TABLES), "formats": tuple(export.FORMATS)}
            return desk.page(request, "export", status=409, problem=sentence(error), **values)
        store_owner_acts.record(desk.db, "owner", "export", f"{table} as {form_}")
        headers = {
            "content-disposition": f'attachment; filename="{table}{export.FORMATS[form_]}"',
            "cache-control": "no-store",
        }
        return Response(file.content, media_type="application/octet-stream", headers=headers)


async def form(request: Request) -> dict[str, str]:
    """The fields of a form; of one that comes twice, the last value."""
    body = b""
    async for part in request.stream():
        body += part
        if len(body) > MAX_BODY:
            raise HTTPException(413, "This is too large.")
    return {name: values[-1] for name, values in parse_qs(body.decode(errors="replace")).items()}


def same_origin(headers: Mapping[str, str]) -> bool:
    """Whether a request comes from a page of this very host, as a browser says."""
    origin = urlsplit(headers.get("origin", ""))
    hosts = {headers.get("host"), headers.get("x-forwarded-host")}  # no page elsewhere can set either
    return origin.scheme in ("http", "https") and origin.netloc in hosts


def prefix(request: Request) -> str:
    """What a proxy strips from every path."""
    return str(request.scope.get("root_path", ""))


def sentence(error: RatingError) -> str:
    """An error as the pages say it."""
    text = f"{error.what}; {error.hint}" if error.hint else error.what
    return f"{text[0].upper()}{text[1:]}."


def whole(text: str) -> int:
    """A whole number from a form, 0 for an empty field. Raises RatingError for anything else."""
    if not text.strip():
        return 0
    if not text.strip().isascii() or not text.strip().isdigit() or len(text.strip()) > 6:
        raise RatingError(f"{text[:20]!r} is no number", hint="give a whole one")
    return int(text)


@cache
def template(name: str) -> Template:
    """One of the owner's templates."""
    environment = Environment(loader=FileSystemLoader(TEMPLATES), autoescape=True, trim_blocks=True, lstrip_blocks=True)
    environment.filters["moment"] = lambda text: text[:16].replace("T", " ") if text else ""
    return environment.get_template(f"owner_{name}.html")

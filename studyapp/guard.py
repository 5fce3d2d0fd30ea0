"""What stands between a rater's browser and Gradio: an allow-list, who is asking, and what may come back.

Plain ASGI, because it has to see every request before Gradio's own middleware. Gradio answers on some fifty routes, of
which the page needs a handful; several need no login, and sessions are not bound to users. Hence:

- what is not listed does not exist (404), and strangers get in nowhere but at the consent page (401);
- a POST needs this page's own Origin, which closes cross-site requests together with the cookie's SameSite;
- a Gradio session belongs to the first rater who uses it;
- a function call has to name a function of the page with as many inputs as it has, all of them plain values;
- the answer carries a content security policy with a fresh nonce, and no header that invites other sites in.
"""

import json
import logging
import secrets
from collections import OrderedDict
from collections.abc import Callable, Mapping
from http.cookies import CookieError, SimpleCookie
from urllib.parse import urlsplit

from starlette.concurrency import run_in_threadpool
from starlette.datastructures import Headers
from starlette.responses import PlainTextResponse, RedirectResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from studyapp.store import Rater

log = logging.getLogger("studyapp")

MAX_BODY = 64 * 1024
MAX_SESSIONS_PER_RATER = 20
MAX_SESSIONS = 10_000

# All that the page uses in a browser. Live chats will need the queue's routes as well.
CALL = "/gradio_api/run/predict"
OPEN = {("GET", "/healthz"), ("GET", "/join"), ("POST", "/join")}
RATERS = {
    *(("GET", path) for path in ("/", "/theme.css", "/favicon.ico", "/manifest.json", "/viva.js", "/leave")),
    ("POST", CALL),
    ("POST", "/leave"),
}
RATERS_BELOW = ("/assets/", "/static/")

CALL_KEYS = {"data", "fn_index", "session_hash", "event_data", "trigger_id"}

TEXTS = {
    400: "This request makes no sense here.",
    401: "Please open the study's address and join first.",
    403: "This request did not come from your own page. Please reload it.",
    404: "There is nothing here.",
    413: "This is too large.",
    500: "Something went wrong. What you saved is kept; please reload the page.",
}

HEADERS = {
    "x-content-type-options": "nosniff",
    "x-frame-options": "DENY",
    # not no-referrer: under that, browsers send "Origin: null" with a form
    "referrer-policy": "same-origin",
    "cross-origin-opener-policy": "same-origin",
    "cross-origin-resource-policy": "same-origin",
    "permissions-policy": "camera=(), geolocation=(), microphone=()",
}


def policy(nonce: str) -> str:
    """The content security policy; scripts only from here or with the nonce, nothing from another host."""
    return (
        f"default-src 'none'; script-src 'self' 'nonce-{nonce}'; style-src 'self' 'unsafe-inline'; "
        "img-src 'self' data:; font-src 'self' data:; connect-src 'self'; manifest-src 'self'; worker-src 'none'; "
        "base-uri 'self'; form-action 'self'; frame-ancestors 'none'"
    )


class RefusedError(Exception):
    """A request that goes no further; its status decides the text."""

    def __init__(self, status: int):
        super().__init__(TEXTS[status])
        self.status = status


class Guard:
    """ASGI middleware around the whole app.

    `who` finds the rater of a cookie's value, `functions` maps the index of each Gradio function to its number of
    inputs. The rater is passed on as `scope["state"]["rater"]`.
    """

    def __init__(
        self, app: ASGIApp, *, cookie: str, who: Callable[[str], Rater | None], functions: Mapping[int, int]
    ) -> None:
        self.app = app
        self.cookie = cookie
        self.who = who
        self.functions = functions
        self.owners: OrderedDict[str, int] = OrderedDict()  # Gradio session -> rater

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            return await self.app(scope, receive, send)
        if scope["type"] == "websocket":
            return await send({"type": "websocket.close", "code": 1008})
        nonce = secrets.token_urlsafe(16)
        path = scope["path"].removeprefix(scope.get("root_path", "")) or "/"
        reply = _Reply(send, path, nonce)
        try:
            await self._serve(scope, receive, reply, path)
        except RefusedError as refusal:
            await PlainTextResponse(TEXTS[refusal.status], refusal.status)(scope, receive, reply)
        except Exception:
            log.exception("a request failed: %s %s", scope["method"], path)
            if not reply.started:
                await PlainTextResponse(TEXTS[500], 500)(scope, receive, reply)

    async def _serve(self, scope: Scope, receive: Receive, send: Send, path: str) -> None:
        headers = Headers(scope=scope)
        method = scope["method"]
        body = b""
        if method == "POST":
            if not _same_origin(headers):
                raise RefusedError(403)
            body = await _body(headers, receive)
            receive = _replay(body, receive)

        rater = None
        if (method, path) not in OPEN:
            rater = await self._rater(headers)
            if rater is None:
                if (method, path) != ("GET", "/"):
                    raise RefusedError(401)
                return await RedirectResponse(scope.get("root_path", "") + "/join", 303)(scope, receive, send)
            below = method == "GET" and path.startswith(RATERS_BELOW) and ".." not in path
            if (method, path) not in RATERS and not below:
                raise RefusedError(404)
            if path == "/" and scope["query_string"]:  # ?deep_link, ?view, ?__theme
                return await RedirectResponse(scope.get("root_path", "") + "/", 303)(scope, receive, send)
            if path == CALL:
                self._check_call(body, rater)

        scope = dict(scope, state={**scope.get("state", {}), "rater": rater})
        if path == "/":  # to put the nonce in, the page has to come uncompressed
            scope["headers"] = [(key, value) for key, value in scope["headers"] if key != b"accept-encoding"]
        await self.app(scope, receive, send)

    async def _rater(self, headers: Headers) -> Rater | None:
        try:
            morsel = SimpleCookie(headers.get("cookie", "")).get(self.cookie)
        except CookieError:
            return None
        return await run_in_threadpool(self.who, morsel.value) if morsel else None

    def _check_call(self, body: bytes, rater: Rater) -> None:
        """Refuse a call that the page would not make, or one in another rater's session."""
        try:
            call = json.loads(body)
        except (ValueError, RecursionError):
            raise RefusedError(400) from None
        if not isinstance(call, dict) or not set(call) <= CALL_KEYS:
            raise RefusedError(400)
        data, session, index = call.get("data"), call.get("session_hash"), call.get("fn_index")
        if type(index) is not int or index not in self.functions or not isinstance(data, list):
            raise RefusedError(400)
        if len(data) != self.functions[index] or any(isinstance(value, list | dict) for value in data):
            raise RefusedError(400)
        if not isinstance(session, str) or not 1 <= len(session) <= 64:
            raise RefusedError(400)
        if self.owners.setdefault(session, rater.id) != rater.id:
            raise RefusedError(403)
        self.owners.move_to_end(session)
        own = [key for key, owner in self.owners.items() if owner == rater.id]
        for key in own[:-MAX_SESSIONS_PER_RATER]:
            del self.owners[key]
        while len(self.owners) > MAX_SESSIONS:
            self.owners.popitem(last=False)


class _Reply:
    """Sends an answer on with the guard's headers, and with the nonce in the page's script tags."""

    def __init__(self, send: Send, path: str, nonce: str) -> None:
        self.send = send
        self.path = path
        self.nonce = nonce
        self.started = False
        self.held: Message | None = None  # the start of a page, until its whole body has come
        self.body = b""

    async def __call__(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            self.held = None
            message = dict(message, headers=self._headers(message["headers"]))
            kind = Headers(raw=message["headers"]).get("content-type", "")
            if self.path == "/" and kind.startswith("text/html"):
                self.held = message
                return
            self.started = True
        elif self.held is not None and message["type"] == "http.response.body":
            self.body += message.get("body", b"")
            if message.get("more_body"):
                return
            # unquoted: one of the tags stands inside a JSON string
            page = self.body.replace(b"<script", b"<script nonce=" + self.nonce.encode())
            start, self.held = self.held, None
            kept = [(key, value) for key, value in start["headers"] if key != b"content-length"]
            self.started = True
            await self.send(dict(start, headers=[*kept, (b"content-length", str(len(page)).encode())]))
            message = {"type": "http.response.body", "body": page}
        await self.send(message)

    def _headers(self, given: list[tuple[bytes, bytes]]) -> list[tuple[bytes, bytes]]:
        # Gradio reflects any Origin in access-control-*, and its caching does not know that pages belong to raters
        kept = [(key, value) for key, value in given if not key.startswith((b"access-control-", b"cache-control"))]
        named = self.path.startswith("/assets/")  # file names there hold a hash of the content
        cache = "private, max-age=31536000, immutable" if named else "no-store"
        own = {**HEADERS, "content-security-policy": policy(self.nonce), "cache-control": cache}
        return [*kept, *((key.encode(), value.encode()) for key, value in own.items())]


def _same_origin(headers: Headers) -> bool:
    """Whether a request comes from a page of this very host, as a browser says."""
    origin = urlsplit(headers.get("origin", ""))
    hosts = {headers.get("host"), headers.get("x-forwarded-host")}  # no page elsewhere can set either
    return origin.scheme in ("http", "https") and origin.netloc in hosts


async def _body(headers: Headers, receive: Receive) -> bytes:
    """The whole body of a request, if it is not too long."""
    length = headers.get("content-length", "0")
    if not length.isdecimal() or int(length) > MAX_BODY:
        raise RefusedError(413)
    body = bytearray()
    while True:
        message = await receive()
        if message["type"] == "http.disconnect":
            raise RefusedError(400)
        body += message.get("body", b"")
        if len(body) > MAX_BODY:
            raise RefusedError(413)
        if not message.get("more_body"):
            return bytes(body)


def _replay(body: bytes, rest: Receive) -> Receive:
    """A `receive` that hands out a body that has been read already, then what comes after it."""
    waiting: list[Message] = [{"type": "http.request", "body": body, "more_body": False}]

    async def receive() -> Message:
        return waiting.pop() if waiting else await rest()

    return receive

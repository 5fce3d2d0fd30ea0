"""What stands between a rater's browser and the app: an allow-list, who is asking, how often, and what may come back.

Plain ASGI, because it has to see every request before Gradio's own middleware. Gradio answers on some fifty routes, of
which the page needs a handful; several need no login, and sessions are not bound to users. Hence:

- what is not listed does not exist (404), and strangers get in nowhere but at the pages for joining (401);
- a POST needs this page's own Origin, which closes cross-site requests together with the cookie's SameSite;
- it has to be small, to arrive in time, and not to come too often;
- a Gradio session belongs to the first rater who uses it, its events included;
- a function call has to name a function of the page with as many inputs as it has, all of them plain values;
- the queue is there for streamed answers only.

The owner's pages have a guard of their own behind this one (owner_lock.py); all but the rater's cookie holds for them.
"""

import asyncio
import logging
import re
import secrets
import time
from collections import OrderedDict
from collections.abc import Awaitable, Callable, Mapping
from typing import Any
from urllib.parse import urlsplit

from starlette.concurrency import run_in_threadpool
from starlette.datastructures import Headers
from starlette.requests import cookie_parser
from starlette.responses import PlainTextResponse, RedirectResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from studyapp.calls import CALL, Calls, ForeignError, Function, NonsenseError
from studyapp.limits import Addresses, Buckets, Limits
from studyapp.records import Rater
from studyapp.reply import Reply
from studyapp.texts import languages, texts

log = logging.getLogger("studyapp")

# All that the page uses in a browser.
QUEUE_CALL, QUEUE_EVENTS = "/gradio_api/queue/join", "/gradio_api/queue/data"
FORMS = ("/leave", "/withdraw", "/device", "/questions")
OPEN = {
    *(("GET", path) for path in ("/healthz", "/join", "/language", "/withdrawn")),
    *(("POST", path) for path in ("/join", "/language")),
}
TOKENS = ("/join/", "/continue/")  # with a token behind it; GET shows a button, POST uses it up
RATERS = {
    *(("GET", path) for path in ("/", "/theme.css", "/favicon.ico", "/manifest.json", "/viva.js")),
    *(("GET", path) for path in ("/gradio_api/app_id", "/end", "/paused", "/closed")),
    *((method, path) for method in ("GET", "POST") for path in FORMS),
    ("POST", CALL),
}
STREAMS = {("POST", QUEUE_CALL), ("GET", QUEUE_EVENTS)}
RATERS_BELOW = ("/assets/", "/static/")

TOKEN = re.compile(r"[\w-]{16,64}", re.ASCII)
AT = re.compile(rb"at=[1-9][0-9]{0,3}")
"""The one parameter that the page takes: the item to begin with."""


KNOWN_SECONDS = 10.0
"""How long a cookie that was looked up need not be looked up again, unless its rater leaves."""
MAX_KNOWN = 10_000


class RefusedError(Exception):
    """A request that goes no further; its status decides the text."""

    def __init__(self, status: int, wait: int = 0):
        super().__init__(status)
        self.status = status
        self.wait = wait  # seconds


class Guard:
    """ASGI middleware around the whole app.

    `who` finds the rater of a cookie's value, `functions` the Gradio functions by their index. `elsewhere` says where
    a rater belongs who opens the page while there is nothing to rate there: a path, or None. The rater, their language
    and the call that they make are passed on as `scope["state"]["rater"]`, `["language"]` and `["call"]`.
    """

    def __init__(
        self,
        app: ASGIApp,
        *,
        cookie: str,
        language: str,
        who: Callable[[str], Rater | None],
        functions: Mapping[int, Function],
        elsewhere: Callable[[Rater], Awaitable[str | None]],
        limits: Limits,
    ) -> None:
        self.app = app
        self.cookie = cookie
        self.language = language
        self.who = who
        self.elsewhere = elsewhere
        self.limits = limits
        self.calls = Calls(functions)
        self.listed = RATERS | (STREAMS if self.calls.any_queued else set())
        self.known: OrderedDict[str, tuple[Rater, float]] = OrderedDict()  # cookie -> rater, until
        self.addresses = Addresses()
        self.posts, self.joins, self.misses = (Buckets(rate) for rate in (limits.posts, limits.joins, limits.misses))

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            return await self.app(scope, receive, send)
        if scope["type"] == "websocket":
            return await send({"type": "websocket.close", "code": 1008})
        path = scope["path"].removeprefix(scope.get("root_path", "")) or "/"
        reply = Reply(send, path, secrets.token_urlsafe(16))
        headers = Headers(scope=scope)
        cookies = cookie_parser(headers.get("cookie", ""))
        try:
            await self._serve(scope, receive, reply, path, headers, cookies)
        except RefusedError as refusal:
            await self._refuse(refusal, cookies)(scope, receive, reply)
        except Exception:
            log.exception("a request failed: %s %s", scope["method"], path)
            if not reply.started:
                await self._refuse(RefusedError(500), cookies)(scope, receive, reply)

    async def _serve(
        self, scope: Scope, receive: Receive, send: Send, path: str, headers: Headers, cookies: Mapping[str, str]
    ) -> None:
        method, root = scope["method"], scope.get("root_path", "")
        address = (scope.get("client") or ("",))[0]
        body = b""
        if method == "POST":
            if not _same_origin(headers):
                raise RefusedError(403)
            body = await self._body(headers, receive)
            receive = _replay(body, receive)

        rater, call = None, None
        if self._open(method, path):
            if path.startswith(TOKENS):
                send = self._counting_misses(send, address)
            if (
                method == "POST"
                and path.startswith("/join")
                and (wait := self.joins.take(self.addresses.name(address)))
            ):
                raise RefusedError(429, wait)
        elif not (path == "/owner" or path.startswith("/owner/")):
            rater = await self._rater(cookies, address)
            if rater is None:
                if (method, path) != ("GET", "/"):
                    raise RefusedError(401)
                return await RedirectResponse(f"{root}/join", 303)(scope, receive, send)
            call = self._check(method, path, scope["query_string"], body, rater)
            if path == "/" and (where := await self._where(scope["query_string"], rater)):
                return await RedirectResponse(root + where, 303)(scope, receive, send)

        state = {**scope.get("state", {}), "rater": rater, "language": self._language(cookies, rater), "call": call}
        scope = dict(scope, state=state)
        if path in ("/", CALL):  # the nonce goes into plain text; and to compress a call's answer takes longer than it
            scope["headers"] = [(key, value) for key, value in scope["headers"] if key != b"accept-encoding"]
        await self.app(scope, receive, send)
        if rater is not None and method == "POST" and path in FORMS:  # who withdraws is gone at once
            for token in [token for token, (other, _) in self.known.items() if other.id == rater.id]:
                del self.known[token]

    def _open(self, method: str, path: str) -> bool:
        if (method, path) in OPEN:
            return True
        start = next((start for start in TOKENS if path.startswith(start)), None)
        return bool(start and method in ("GET", "POST") and TOKEN.fullmatch(path.removeprefix(start)))

    async def _rater(self, cookies: Mapping[str, str], address: str) -> Rater | None:
        if not (token := cookies.get(self.cookie)):
            return None
        rater, until = self.known.get(token, (None, 0.0))
        if rater is not None and time.monotonic() < until:
            return rater
        rater = await run_in_threadpool(self.who, token)
        if rater is None:
            # looked up first: one who guesses must not lock out the raters who share an address with them
            if wait := self.misses.take(self.addresses.name(address)):
                raise RefusedError(429, wait)
            return None
        self.known[token] = (rater, time.monotonic() + KNOWN_SECONDS)
        self.known.move_to_end(token)
        while len(self.known) > MAX_KNOWN:
            self.known.popitem(last=False)
        return rater

    def _check(self, method: str, path: str, query: bytes, body: bytes, rater: Rater) -> dict[str, Any] | None:
        """Refuse what the page would not ask for, or another rater's page; the call, if it is one."""
        below = method == "GET" and path.startswith(RATERS_BELOW) and ".." not in path
        if (method, path) not in self.listed and not below:
            raise RefusedError(404)
        if method == "POST" and (wait := self.posts.take(rater.id)):
            raise RefusedError(429, wait)
        try:
            if path in (CALL, QUEUE_CALL):
                return self.calls.check(body, rater.id, queued=path == QUEUE_CALL)
            if path == QUEUE_EVENTS:
                self.calls.check_listener(query, rater.id)
        except NonsenseError:
            raise RefusedError(400) from None
        except ForeignError:
            raise RefusedError(403) from None
        return None

    async def _where(self, query: bytes, rater: Rater) -> str | None:
        """Where a rater who opens the page is sent instead; None if they are right here."""
        if query and not AT.fullmatch(query):  # ?deep_link, ?view, ?__theme
            return "/"
        where = await self.elsewhere(rater)
        return None if query and where in ("/end", "/questions") else where

    def _language(self, cookies: Mapping[str, str], rater: Rater | None) -> str:
        for code in (cookies.get(f"{self.cookie}_language"), rater.language if rater else None):
            if code in languages():
                return code
        return self.language

    def _refuse(self, refusal: RefusedError, cookies: Mapping[str, str]) -> PlainTextResponse:
        text = texts(self._language(cookies, None))(f"refused.{refusal.status}")
        headers = {"retry-after": str(refusal.wait)} if refusal.wait else None
        return PlainTextResponse(text, refusal.status, headers)

    def _counting_misses(self, send: Send, address: str) -> Send:
        """Refuses who has tried too many tokens; else counts this one, if there turns out to be nothing behind it."""
        if wait := self.misses.take(self.addresses.name(address), cost=0):
            raise RefusedError(429, wait)

        async def counting(message: Message) -> None:
            if message["type"] == "http.response.start" and message["status"] == 404:
                self.misses.take(self.addresses.name(address))
            await send(message)

        return counting

    async def _body(self, headers: Headers, receive: Receive) -> bytes:
        """The whole body of a request, if it is not too long and does not take too long."""
        length = headers.get("content-length", "0")
        if not length.isdecimal() or int(length) > self.limits.body_bytes:
            raise RefusedError(413)
        body = bytearray()
        try:
            async with asyncio.timeout(self.limits.body_seconds):
                while True:
                    message = await receive()
                    if message["type"] == "http.disconnect":
                        raise RefusedError(400)
                    body += message.get("body", b"")
                    if len(body) > self.limits.body_bytes:
                        raise RefusedError(413)
                    if not message.get("more_body"):
                        return bytes(body)
        except TimeoutError:
            raise RefusedError(408) from None


def _same_origin(headers: Headers) -> bool:
    """Whether a request comes from a page of this very host, as a browser says."""
    origin = urlsplit(headers.get("origin", ""))
    hosts = {headers.get("host"), headers.get("x-forwarded-host")}  # no page elsewhere can set either
    return origin.scheme in ("http", "https") and origin.netloc in hosts


def _replay(body: bytes, rest: Receive) -> Receive:
    """A `receive` that hands out a body that has been read already, then what comes after it."""
    waiting: list[Message] = [{"type": "http.request", "body": body, "more_body": False}]

    async def receive() -> Message:
        return waiting.pop() if waiting else await rest()

    return receive

"""What every answer to a browser carries: headers that keep other sites out, and the nonce of the page's scripts."""

from starlette.datastructures import Headers
from starlette.types import Message, Send

HEADERS = {
    "x-content-type-options": "nosniff",
    "x-frame-options": "DENY",
    # not no-referrer: under that, browsers send "Origin: null" with a form
    "referrer-policy": "same-origin",
    "cross-origin-opener-policy": "same-origin",
    "cross-origin-resource-policy": "same-origin",
    "permissions-policy": "camera=(), geolocation=(), microphone=()",
}
FIXED = [(name.encode(), value.encode()) for name, value in HEADERS.items()]


def policy(nonce: str) -> str:
    """The content security policy; scripts only from here or with the nonce, nothing from another host."""
    return (
        f"default-src 'none'; script-src 'self' 'nonce-{nonce}'; style-src 'self' 'unsafe-inline'; "
        "img-src 'self' data:; font-src 'self' data:; connect-src 'self'; manifest-src 'self'; worker-src 'none'; "
        "base-uri 'self'; form-action 'self'; frame-ancestors 'none'"
    )


class Reply:
    """Sends an answer on with these headers, and with the nonce in the script tags of the page at `/`."""

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
        script = (b"content-security-policy", policy(self.nonce).encode())
        return [*kept, *FIXED, script, (b"cache-control", cache.encode())]

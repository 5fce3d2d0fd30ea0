"""How much one browser may ask for: sizes, seconds, and token buckets by rater and by address.

Buckets live in memory only and are bounded. An address is never kept: its bucket is found by a keyed hash whose key is
drawn when the process starts and dies with it.
"""

import hmac
import ipaddress
import math
import secrets
import threading
import time
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass


@dataclass(frozen=True)
class Limits:
    """The limits of a served study. A pair is (at once, per second in the long run).

    A rater with quick fingers posts twice a second; a room of raters behind one address joins within a minute.
    """

    body_bytes: int = 64 * 1024
    head_seconds: float = 10.0
    """From the first byte of a request to the end of its headers."""
    body_seconds: float = 10.0
    posts: tuple[float, float] = (40, 20)
    """Of one rater."""
    joins: tuple[float, float] = (60, 1)
    """Of one address."""
    misses: tuple[float, float] = (20, 0.1)
    """Unknown invite links, return links and cookies of one address."""


class Buckets:
    """Token buckets: each key may do `burst` things at once and `per_second` in the long run.

    `clock` is in seconds. At most `most` keys are kept, the least recent go first; a key that comes back is full again,
    which is what it would be after a while anyway.
    """

    def __init__(
        self, rate: tuple[float, float], *, most: int = 10_000, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self.burst, self.per_second = rate
        self.most = most
        self.clock = clock
        self._held: OrderedDict[object, tuple[float, float]] = OrderedDict()  # key -> tokens, as of
        self._lock = threading.Lock()

    def take(self, key: object, cost: float = 1.0) -> int:
        """0 if a token was there and is taken; else the whole seconds until there is one. A cost of 0 only looks."""
        with self._lock:
            now = self.clock()
            tokens, since = self._held.pop(key, (self.burst, now))
            tokens = min(self.burst, tokens + (now - since) * self.per_second)
            allowed = tokens >= max(cost, 1.0)
            self._held[key] = (tokens - cost if allowed else tokens, now)
            while len(self._held) > self.most:
                self._held.popitem(last=False)
            return 0 if allowed else max(1, math.ceil((1.0 - tokens) / self.per_second))

    def __len__(self) -> int:
        return len(self._held)


class Addresses:
    """Names addresses without keeping them."""

    def __init__(self) -> None:
        self._secret = secrets.token_bytes(16)

    def name(self, address: str) -> bytes:
        """A keyed hash of an address; of an IPv6 one, of its /64, which is what one household has."""
        try:
            number = ipaddress.ip_address(address)
            if number.version == 6:
                address = str(ipaddress.ip_network((number, 64), strict=False))
        except ValueError:
            pass
        return hmac.digest(self._secret, address.encode(), "sha256")[:16]

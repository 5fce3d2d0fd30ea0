"""The owner's password: a slow hash beside the study's database, few tries, sessions in memory.

`viva rate` seals a password before the page opens; the page only ever reads the hash. Where none is sealed the owner's
pages do not exist. Addresses of those who try are kept as keyed hashes in memory, never on the disk.
"""

import base64
import hashlib
import hmac
import json
import os
import secrets
import threading
import time
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path
from typing import Any

from harness.errors import RatingError
from studyapp.limits import Addresses, Buckets

SCRYPT = {"n": 2**15, "r": 8, "p": 3}
"""OWASP's recommendation for 32 MiB; about a third of a second."""

LETTERS = "abcdefghjkmnpqrstuvwxyz23456789"
MIN_LENGTH = 12
MAX_LENGTH = 200

TRIES_EACH = (5.0, 1 / 180)
TRIES_ALL = (50.0, 1 / 18)
"""Logins at once and per second in the long run: of one address, and of all together."""
SESSION_SECONDS = 12 * 3600.0
MAX_SESSIONS = 100

_one_at_a_time = threading.Lock()


def new_password() -> str:
    """A random password of 16 letters and digits, 79 bits, none of which look alike."""
    return "-".join("".join(secrets.choice(LETTERS) for _ in range(4)) for _ in range(4))


def seal(db: Path, password: str) -> None:
    """Make `password` the owner's, from now on and in place of any before.

    Raises RatingError for one that is too short to stand guesses, or absurdly long.
    """
    if not MIN_LENGTH <= len(password) <= MAX_LENGTH:
        raise RatingError(
            f"the owner's password has {len(password)} characters",
            hint=f"take {MIN_LENGTH} to {MAX_LENGTH}, or leave the option out: viva rate then draws one",
        )
    salt = secrets.token_bytes(16)
    facts = {**SCRYPT, "salt": _text(salt), "hash": _text(_scrypt(password, salt, SCRYPT))}
    path = _file(db)
    part = path.with_name(f".{path.name}.part")
    part.unlink(missing_ok=True)
    with os.fdopen(os.open(part, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w", encoding="utf-8") as file:
        json.dump(facts, file)
    os.replace(part, path)


def sealed(db: Path) -> bool:
    """Whether the study has an owner's password at all."""
    return _file(db).is_file()


def matches(db: Path, password: str) -> bool:
    """Whether this is the owner's password. Slow on purpose, and one at a time: many tries shall not eat the memory."""
    try:
        facts = json.loads(_file(db).read_text(encoding="utf-8"))
        salt, wanted = base64.b64decode(facts["salt"]), base64.b64decode(facts["hash"])
    except (OSError, ValueError, KeyError, TypeError):
        return False
    if len(password) > MAX_LENGTH:
        return False
    with _one_at_a_time:
        return hmac.compare_digest(_scrypt(password, salt, facts), wanted)


class Tries:
    """Limits logins: a few for one address, some more for all addresses together.

    A try is counted before its password is looked at, so that many at once gain nothing. `clock` is in seconds.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self.addresses = Addresses()
        self.each = Buckets(TRIES_EACH, clock=clock)
        self.all = Buckets(TRIES_ALL, clock=clock)

    def take(self, address: str) -> int:
        """0 if a try is allowed, and counted; else the seconds to wait."""
        return self.each.take(self.addresses.name(address)) or self.all.take("all")


class Sessions:
    """Owners who are logged in: sha256 of their cookies, for 12 hours, until the page stops or they log out."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self.clock = clock
        self.ends: OrderedDict[str, float] = OrderedDict()
        self.lock = threading.Lock()

    def begin(self) -> str:
        """A new session; returns its cookie."""
        token = secrets.token_urlsafe(32)
        with self.lock:
            self.ends[_hash(token)] = self.clock() + SESSION_SECONDS
            while len(self.ends) > MAX_SESSIONS:
                self.ends.popitem(last=False)
        return token

    def valid(self, token: str | None) -> bool:
        """Whether this is the cookie of a session that has not ended."""
        with self.lock:
            return bool(token) and self.ends.get(_hash(token or ""), float("-inf")) > self.clock()

    def end(self, token: str | None) -> None:
        """Log out."""
        with self.lock:
            self.ends.pop(_hash(token or ""), None)


def _scrypt(password: str, salt: bytes, costs: Any) -> bytes:
    n, r, p = costs["n"], costs["r"], costs["p"]
    return hashlib.scrypt(password.encode(), salt=salt, n=n, r=r, p=p, maxmem=256 * n * r, dklen=32)


def _file(db: Path) -> Path:
    return Path(db).with_name("owner.json")


def _hash(token: str) -> str:
    return hashlib.sha256(token.encode()).hexdigest()


def _text(value: bytes) -> str:
    return base64.b64encode(value).decode()

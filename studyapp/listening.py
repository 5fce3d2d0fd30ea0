"""A socket to serve on, and why there is none."""

import errno
import resource
import socket

from harness.errors import RunError

BACKLOG = 1024


def listen(host: str, port: int) -> socket.socket:
    """A socket that already listens, so that nobody else can take the port while the app loads.

    Raises RunError for a port in use or an address that is not this machine's.
    """
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
        listener.listen(BACKLOG)
    except OSError as error:
        listener.close()
        if error.errno == errno.EADDRINUSE:
            raise RunError(
                f"port {port} is already in use", hint="stop what uses it, or name another port with --port"
            ) from None
        reason = error.strerror or str(error)
        raise RunError(f"cannot serve on {host}:{port}: {reason}", hint="try another --host or --port") from None
    return listener


def allow_many() -> None:
    """Let this process hold as many connections as the machine allows: a browser opens up to six."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != hard:
        resource.setrlimit(
            resource.RLIMIT_NOFILE, (hard if hard != resource.RLIM_INFINITY else max(soft, 65_536), hard)
        )

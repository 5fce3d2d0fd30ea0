"""HTTP that does not wait for ever: who takes too long over the head of a request is hung up on.

uvicorn has a limit for silence between two requests, but none for a request that never comes or comes a byte at a time.
Bodies have their limit in guard.py.
"""

import asyncio

from uvicorn.protocols.http.h11_impl import H11Protocol


def hurried(seconds: float) -> type[H11Protocol]:
    """The protocol for uvicorn, with `seconds` for each head."""

    class Hurried(H11Protocol):
        late: asyncio.TimerHandle | None = None

        def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
            super().connection_made(transport)
            self._wait()

        def data_received(self, data: bytes) -> None:
            super().data_received(data)
            if self.cycle is not None and not self.cycle.response_complete:
                self._stop_waiting()
            elif self.late is None:
                self._wait()

        def connection_lost(self, exc: Exception | None) -> None:
            self._stop_waiting()
            super().connection_lost(exc)

        def _wait(self) -> None:
            self.late = self.loop.call_later(seconds, self.transport.abort)

        def _stop_waiting(self) -> None:
            if self.late is not None:
                self.late.cancel()
                self.late = None

    return Hurried

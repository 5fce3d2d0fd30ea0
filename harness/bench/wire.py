"""Questions to a child process and its answers, one JSON object a line, with a limit to waiting."""

import contextlib
import json
import os
import select
import subprocess
import time
from typing import IO, Any

from harness.errors import RunError

GRACE = 5.0  # seconds in which a process may end by itself


class Wire:
    """A process that answers requests; `words` is the file of its stderr, whose last line says why it died."""

    def __init__(self, process: subprocess.Popen[bytes], words: IO[bytes], timeout: float):
        self.process, self.words, self.timeout = process, words, timeout
        self.rest = b""

    def ask(self, request: dict[str, Any]) -> dict[str, Any]:
        """Send a request and wait for its answer. Raises RunError when the process dies or takes too long."""
        assert self.process.stdin is not None
        try:
            self.process.stdin.write(json.dumps(request).encode() + b"\n")
            self.process.stdin.flush()
            line = self._line()
        except BrokenPipeError:
            line = None
        if line is None:
            raise RunError(self._why())
        answer: dict[str, Any] = json.loads(line)
        return answer

    def _line(self) -> bytes | None:
        """The next line of its answers, None when there will be none."""
        assert self.process.stdout is not None
        end = time.monotonic() + self.timeout
        while b"\n" not in self.rest:
            ready, _, _ = select.select([self.process.stdout], [], [], max(0.0, end - time.monotonic()))
            if not ready:
                self.process.kill()
                raise RunError(f"no answer within {self.timeout:.0f} s", hint="measure on a quieter machine")
            piece = os.read(self.process.stdout.fileno(), 65536)
            if not piece:
                return None
            self.rest += piece
        line, self.rest = self.rest.split(b"\n", 1)
        return line

    def _why(self) -> str:
        """What a dead process said last, or by what it died."""
        with contextlib.suppress(subprocess.TimeoutExpired):
            self.process.wait(GRACE)
        self.words.seek(0)
        said = self.words.read().decode(errors="replace").strip().splitlines()
        code = self.process.poll()
        if code is not None and code < 0:
            return f"its process was killed by signal {-code}" + (" (out of memory?)" if code == -9 else "")
        return said[-1] if said else f"its process ended with exit code {code}"

    def close(self) -> None:
        """End the process: by closing its input, and by force if that is not enough."""
        for stream in (self.process.stdin, self.process.stdout):
            if stream is not None:
                with contextlib.suppress(OSError):  # it may be gone already
                    stream.close()
        try:
            self.process.wait(GRACE)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()

"""Answers that are finished, kept on disk as they come: a run that was killed goes on at the next one."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from harness.records import drop_torn_line


class Kept:
    """Answers by request key (`requests.request_keys`) in a JSONL file that is only appended to.

    `key` stands for everything else that answers depend on, the model above all; a file of another key is begun anew.
    """

    def __init__(self, path: Path, key: str):
        self.path = path
        self.answers: dict[str, Any] = {}
        head, *lines = self._lines() or [{}]
        if head.get("key") == key:
            self.answers = {line["request"]: line["answer"] for line in lines}
        else:
            path.write_text(json.dumps({"key": key}) + "\n", encoding="utf-8")

    def _lines(self) -> list[dict[str, Any]]:
        if not self.path.is_file():
            return []
        drop_torn_line(self.path)
        try:
            return [json.loads(line) for line in self.path.read_text(encoding="utf-8").splitlines()]
        except ValueError:  # damaged by something else than a kill: not to be trusted
            return []

    def add(self, found: Sequence[tuple[str, Any]]) -> None:
        """Write answers, as lines that are whole or torn at their end."""
        self.answers |= dict(found)
        lines = "".join(json.dumps({"request": key, "answer": answer}) + "\n" for key, answer in found)
        with self.path.open("a", encoding="utf-8") as file:
            file.write(lines)

    def discard(self) -> None:
        """Remove the file: its answers are in the results."""
        self.path.unlink(missing_ok=True)

"""blinding.json: the only place that maps an arm key to an arm. The rating page never opens it."""

import json
import os
import secrets
from collections.abc import Sequence
from pathlib import Path

from harness.errors import RunError
from harness.records import dump_json
from harness.rundir import now


def arm_keys(path: Path, arms: Sequence[str]) -> dict[str, str]:
    """The key of each arm, drawn at random once for a run directory; new arms get keys, old ones keep theirs.

    Returns arm -> key. Raises RunError for a file that cannot be read.
    """
    stored: dict[str, str] = {}
    created = now()
    if path.exists():
        try:
            value = json.loads(path.read_text(encoding="utf-8"))
            stored, created = value["arms"], value["created"]
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise RunError(
                f"{path} cannot be read: {error}", hint="restore it from a copy: without it no rating can be attributed"
            ) from error
    keys = {arm: key for key, arm in stored.items()}
    missing = [arm for arm in arms if arm not in keys]
    for arm in missing:
        keys[arm] = secrets.token_hex(8)
    if missing:
        _write_private(path, dump_json({"created": created, "arms": {key: arm for arm, key in keys.items()}}))
    return {arm: keys[arm] for arm in arms}


def _write_private(path: Path, text: str) -> None:
    part = path.with_name(f".{path.name}.part")
    part.unlink(missing_ok=True)
    descriptor = os.open(part, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(descriptor, "w", encoding="utf-8") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    os.replace(part, path)

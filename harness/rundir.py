"""The run directory: where every stage leaves its files, and how a stage knows that it is finished.

A stage is one folder with a manifest. The manifest is written last, through `os.replace`: a manifest whose status is
"finished" means a finished stage. A stage is skipped when its resolved config and the hashes of its inputs are those
of the manifest and its outputs are still there unchanged.
"""

import contextlib
import fcntl
import hashlib
import importlib.metadata
import json
import os
import platform
import subprocess
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from harness.errors import RunError
from harness.records import dump_json, write_atomic

SCHEMA = 1
PACKAGES = ("viva-voce", "torch", "transformers", "lm-eval", "gradio", "pandas", "scipy", "sqlite-utils")


def now() -> str:
    """The present moment in UTC, ISO 8601 with seconds."""
    return datetime.now(UTC).isoformat(timespec="seconds")


def digest(value: Any) -> str:
    """sha256 of a JSON value, independent of key order."""
    text = json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    return hashlib.sha256(text.encode()).hexdigest()


def sha256_file(path: Path) -> str:
    """sha256 of a file's bytes, in hex."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def hardware() -> dict[str, Any]:
    """What this machine is, for manifests and reports: processor, cores, memory in bytes, system."""
    model = platform.processor() or platform.machine()
    with contextlib.suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                model = line.split(":", 1)[1].strip()
                break
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    return {
        "processor": model,
        "cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
        "memory_bytes": memory,
        "system": f"{platform.system()} {platform.release()} {platform.machine()}",
        "python": platform.python_version(),
    }


def versions() -> dict[str, str]:
    """Versions of the packages that decide a result; those not installed are left out."""
    found = {}
    for name in PACKAGES:
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            found[name] = importlib.metadata.version(name)
    return found


def git_state() -> dict[str, Any]:
    """Commit of Viva's own checkout and whether it has changes; both None where it is not a checkout."""
    here = Path(__file__).parent
    try:
        command = ["git", "-C", str(here), "describe", "--always", "--dirty", "--abbrev=40", "--exclude=*"]
        text = subprocess.run(command, capture_output=True, text=True, timeout=10, check=True).stdout.strip()
    except (OSError, subprocess.SubprocessError):
        return {"commit": None, "dirty": None}
    return {"commit": text.removesuffix("-dirty"), "dirty": text.endswith("-dirty")}


@dataclass(frozen=True)
class Stage:
    """One stage of a run: a name such as 'bench/teacher', its folder, its resolved config and its inputs' hashes."""

    name: str
    folder: Path
    config: dict[str, Any]
    inputs: dict[str, str]

    @property
    def manifest(self) -> Path:
        return self.folder / "manifest.json"

    @property
    def key(self) -> str:
        return digest({"stage": self.name, "schema": SCHEMA, "config": self.config, "inputs": self.inputs})

    def finished(self) -> dict[str, Any] | None:
        """The manifest if this very stage is finished and its outputs are unchanged, else None."""
        manifest = read_manifest(self.manifest)
        if manifest is None or manifest.get("status") != "finished" or manifest.get("key") != self.key:
            return None
        outputs: Mapping[str, dict[str, Any]] = manifest["outputs"]
        for name, facts in outputs.items():
            path = self.folder / name
            if not path.is_file() or path.stat().st_size != facts["bytes"]:
                return None
        return manifest

    def finish(self, outputs: list[Path], started: str, **facts: Any) -> dict[str, Any]:
        """Write the manifest of a finished stage. `outputs` are files below the stage's folder."""
        manifest = {
            "schema": SCHEMA,
            "stage": self.name,
            "status": "finished",
            "key": self.key,
            "started": started,
            "finished": now(),
            "config": self.config,
            "config_digest": digest(self.config),
            "inputs": self.inputs,
            "outputs": {
                str(path.relative_to(self.folder)): {"sha256": sha256_file(path), "bytes": path.stat().st_size}
                for path in sorted(outputs)
            },
            "git": git_state(),
            "versions": versions(),
            "hardware": hardware(),
            "error": None,
            **facts,
        }
        write_atomic(self.manifest, dump_json(manifest))
        return manifest

    def fail(self, started: str, error: str) -> None:
        """Leave a manifest that says why the stage did not finish; it never counts as finished."""
        with contextlib.suppress(OSError):  # the disk may be what failed
            self.folder.mkdir(parents=True, exist_ok=True)
            facts = {"schema": SCHEMA, "stage": self.name, "status": "failed", "key": self.key, "started": started}
            write_atomic(self.manifest, dump_json({**facts, "finished": now(), "error": error}))


def read_manifest(path: Path) -> dict[str, Any] | None:
    """A manifest as a dict, None where there is none or it cannot be read."""
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return value if isinstance(value, dict) else None


@dataclass(frozen=True)
class RunDir:
    """Paths of one study's run directory (see DESIGN: the only thing that passes between stages)."""

    root: Path

    @property
    def study(self) -> Path:
        return self.root / "study.toml"

    @property
    def answers(self) -> Path:
        return self.root / "answers"

    @property
    def db(self) -> Path:
        return self.root / "study.db"

    @property
    def blinding(self) -> Path:
        return self.root / "blinding.json"

    @property
    def report(self) -> Path:
        return self.root / "report"

    @property
    def rehearsal(self) -> Path:
        """Stands in a run directory that is a rehearsal, and says with which raters."""
        return self.root / "rehearsal.json"

    def arm(self, name: str) -> Path:
        return self.root / "arms" / name

    def bench(self, name: str) -> Path:
        return self.root / "bench" / name

    @contextlib.contextmanager
    def lock(self, purpose: str = "work") -> Iterator[None]:
        """Hold this run directory for one purpose ('work' for the stages, 'rate' for the rating page).

        Raises RunError naming the process that holds it. The lock goes with the process, however that ends.
        """
        self.root.mkdir(parents=True, exist_ok=True)
        path = self.root / f".{purpose}.lock"
        with path.open("a+") as file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                file.seek(0)
                holder = file.read().strip() or "another process"
                raise RunError(
                    f"{self.root} is in use by {holder}", hint="wait for it, stop it, or name another folder with --run"
                ) from None
            file.seek(0)
            file.truncate()
            file.write(f"process {os.getpid()}")
            file.flush()
            yield

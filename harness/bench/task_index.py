"""Which of lm-eval's thousands of YAML files a name stands for, without parsing them all.

lm-eval reads every file to build its index, which takes tens of seconds. Here the files are only searched for the names
they define, once for each version of lm-eval; what a name needs is then read by lm-eval's own reader.
"""

import contextlib
import json
import os
import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from harness.records import write_atomic
from harness.resources import cache_dir
from harness.rundir import digest

KEY = re.compile(r"""^["']?(task|group|tag|include)["']?[ \t]*:[ \t]*(.*(?:\n[ \t]*-[ \t].*)*)""", re.M)
WORD = re.compile(r"""^[ \t]*-?[ \t]*(?:"([^"]*)"|'([^']*)'|([^\s#'"][^#\n]*?))[ \t]*(?:#.*)?$""", re.M)
IGNORED = ("__pycache__", ".ipynb_checkpoints")

Names = dict[str, list[str]]
"""Name of a task, group or tag -> files below a root that may define it, as paths relative to the root."""


def lm_eval_root() -> Path:
    """The folder of lm-eval's own tasks."""
    import lm_eval.tasks

    return Path(lm_eval.tasks.__file__).parent


def lm_eval_names() -> Names:
    """The names of everything in lm-eval's own folder, searched once for each version and then kept in the cache."""
    import lm_eval

    root = lm_eval_root()
    state = digest([str(root), root.stat().st_mtime_ns, KEY.pattern, WORD.pattern])
    path = cache_dir() / f"lm-eval-{lm_eval.__version__}-{state[:12]}.json"
    with contextlib.suppress(OSError, ValueError):
        found: Names = json.loads(path.read_text(encoding="utf-8"))
        return found
    names = search(root)
    with contextlib.suppress(OSError):  # a cache that cannot be written costs a second each time
        path.parent.mkdir(parents=True, exist_ok=True)
        write_atomic(path, json.dumps(names))
    return names


def search(root: Path) -> Names:
    """Every name that a YAML below `root` may define: its task, its group, its tags, and those of what it includes."""
    files: list[str] = []
    for folder, below, here in os.walk(root):
        below[:] = [name for name in below if name not in IGNORED]
        files += [os.path.join(folder, name) for name in here if name.endswith(".yaml")]
    found: Names = {}
    words: dict[str, set[str]] = {}
    for file in sorted(files, key=lambda file: Path(file).as_posix()):
        name = Path(file).relative_to(root).as_posix()
        for word in sorted(_words(file, words)):
            found.setdefault(word, []).append(name)
    return found


def _words(file: str, known: dict[str, set[str]]) -> set[str]:
    if file in known:
        return known[file]
    known[file] = set()  # an include that leads back here
    try:
        text = Path(file).read_text(encoding="utf-8", errors="replace")
    except OSError:
        return set()
    for match in KEY.finditer(text):
        values = {"".join(parts).strip() for parts in WORD.findall(match[2].strip("[]").replace(",", "\n"))}
        if match[1] == "include":
            for value in values:
                known[file] |= _words(os.path.normpath(os.path.join(os.path.dirname(file), value)), known)
        else:
            known[file] |= values - {""}
    return known[file]


def entries(wanted: Iterable[str], names: Names, root: Path, local: dict[str, Any] | None = None) -> dict[str, Any]:
    """lm-eval's index entries of the names `wanted` and of all that they lead to, from a `search` of `root`.

    `local` entries come before those of the same name below `root`. A name that is nowhere is left out.
    """
    found: dict[str, Any] = dict(local or {})
    read: set[str] = set()
    todo = [*wanted]
    seen: set[str] = set()
    while todo:
        name = todo.pop()
        if name in seen:
            continue
        seen.add(name)
        if name not in found or found[name].kind.name == "TAG":
            _add(found, [file for file in names.get(name, ()) if file not in read], root)
            read.update(names.get(name, ()))
        if name in found:
            todo += _leads_to(found[name])
    return {name: entry for name, entry in found.items() if name in seen or name in (local or {})}


def _add(found: dict[str, Any], files: Iterable[str], root: Path) -> None:
    from lm_eval.tasks._index import TaskIndex
    from lm_eval.tasks._yaml_loader import load_yaml

    for file in files:  # in lm-eval's order: the first file that defines a name has it
        with contextlib.suppress(Exception):  # as lm-eval does: a broken file defines nothing
            TaskIndex.process_cfg(load_yaml(root / file, resolve_func=False), root / file, found)


def _leads_to(entry: Any) -> list[str]:
    """Names in an entry's list: the tasks of a tag, the members of a group."""
    if entry.kind.name == "TAG":
        return sorted(entry.tags)
    return members(entry.cfg) if entry.kind.name == "GROUP" else []


def members(config: dict[str, Any], *, written: bool = False) -> list[str]:
    """Names of the tasks and groups in a group's list, or only those `written` out there, which need no file."""
    found = []
    listed = config.get("task")
    for one in listed if isinstance(listed, list) else []:
        if isinstance(one, dict):
            here = [one[key] for key in ("group", "task") if isinstance(one.get(key), str)]
            found += here if not written or len(one) > 1 else []
            found += members(one, written=written)
        elif not written:
            found.append(str(one))
    return found

"""The user's own files that a suite is made of, so that a change in one of them is noticed."""

import contextlib
from pathlib import Path
from typing import Any

from harness.benchmarks import WORDS, SuiteTable, is_path
from harness.errors import ConfigError
from harness.resources import data_path
from harness.rundir import digest, sha256_file


def suite_digest(table: SuiteTable, base: Path = Path()) -> str:
    """A digest of a suite's own files, or its name where it is one of lm-eval's with its data from the hub."""
    files = {str(path): sha256_file(path) for path in own_files(table, base)}
    roots = [str(base.resolve()), str(data_path(""))]
    found = {_without(name, roots): value for name, value in files.items()}
    return digest(found) if found else f"named {table.what}"


def _without(name: str, roots: list[str]) -> str:
    return next((name.removeprefix(root) for root in roots if name.startswith(root)), name)


def own_files(table: SuiteTable, base: Path = Path()) -> list[Path]:
    """Files of the user's, or of Viva's own suites, that decide what the suite asks."""
    found: list[Path] = []
    for named in (table.texts, table.data):
        if named:
            found += _below(base / named)
    if is_path(table.what):
        found += _below(base / table.what)
    elif not table.texts and table.what != WORDS:
        with contextlib.suppress(ConfigError):
            found += _below(data_path(f"suites/{table.what}"))
    for file in [one for one in found if one.suffix in (".yaml", ".yml")]:
        found += _mentioned(file, set())
    return sorted({path.resolve() for path in found})


def _below(path: Path) -> list[Path]:
    if path.is_dir():
        return [file for file in path.rglob("*") if file.is_file() and "__pycache__" not in file.parts]
    return [path] if path.is_file() else []


def _mentioned(file: Path, seen: set[Path]) -> list[Path]:
    """Files that a YAML's values name: what it includes, its data, the modules of its functions."""
    import yaml

    if file in seen:
        return []
    seen.add(file)
    try:
        stack: list[Any] = [yaml.compose(file.read_text(encoding="utf-8"), Loader=yaml.SafeLoader)]
    except (OSError, ValueError, yaml.YAMLError):
        return []  # whoever runs the suite hears of it
    found = []
    while stack:
        node = stack.pop()
        if isinstance(node, yaml.MappingNode):
            stack += [one for pair in node.value for one in pair]
        elif isinstance(node, yaml.SequenceNode):
            stack += node.value
        elif isinstance(node, yaml.ScalarNode) and 0 < len(node.value) < 200:
            named = f"{node.value.rpartition('.')[0]}.py" if node.tag == "!function" else node.value
            path = file.parent / named
            with contextlib.suppress(OSError, ValueError):
                found += _below(path) if path.resolve() != file.parent.resolve() else []
    for other in [one for one in found if one.suffix in (".yaml", ".yml")]:
        found += _mentioned(other, seen)
    return found

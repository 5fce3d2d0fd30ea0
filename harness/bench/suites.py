"""Suites of lm-eval tasks: found by name or path, and loaded alone.

A suite is a folder that Viva ships (`data/suites/<name>`), a YAML file or folder of the user's, or any task, group or
tag that lm-eval knows. lm-eval is imported inside the functions: its import costs seconds.
"""

import contextlib
import difflib
import logging
import os
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from harness.errors import ConfigError, SourceError
from harness.resources import data_path

FEWSHOT_SEED = 1234  # lm-eval's own default, so that few-shot examples are those of a plain lm-eval run
FILE_FORMATS = ("json", "csv", "parquet", "text", "arrow")


@dataclass(frozen=True)
class Suite:
    """Loaded tasks under one name; `tasks` is what lm-eval's TaskManager.load returns."""

    name: str
    tasks: dict[str, Any]

    def size(self, limit: int | None) -> int:
        """How many items a run with this limit asks for, over all tasks."""
        lengths = [len(task.eval_docs) for task in self.tasks["tasks"].values()]
        return sum(length if limit is None else min(length, limit) for length in lengths)


def suite_name(name: str) -> str:
    """The name under which a suite's files are written: of a path, its last part."""
    return Path(name).stem if _is_path(name) else name


def shipped_suites() -> list[str]:
    """The suites in Viva's own data."""
    return sorted(folder.name for folder in data_path("suites").iterdir() if list(folder.glob("*.yaml")))


def load_suite(name: str, base: Path | None = None, *, trust_code: bool = False) -> Suite:
    """Load one suite and its data, and nothing else.

    `base` is where relative paths start (the study file's folder). Raises ConfigError for an unknown name (naming the
    nearest) and for a local YAML that brings Python code unless `trust_code`; SourceError where data cannot be had.
    """
    if _is_path(name):
        path = ((base or Path()) / Path(name).expanduser()).resolve()
        if not path.exists():
            raise ConfigError(f"no such suite: {path}", hint="give a task YAML or a folder of them")
        return _load_local(suite_name(name), path, trust_code)
    if name in shipped_suites():
        return _load_local(name, data_path(f"suites/{name}"), trust_code)
    return _load_by_name(name)


def _is_path(name: str) -> bool:
    return "/" in name or name.endswith((".yaml", ".yml")) or name.startswith(".")


def _load_local(name: str, path: Path, trust_code: bool) -> Suite:
    files = sorted(path.glob("*.yaml")) if path.is_dir() else [path]
    with quiet_libraries(), tempfile.TemporaryDirectory(prefix="viva-suite-") as scratch:
        from lm_eval.tasks import TaskManager

        configs = [config for file in files if (config := _read_task(file, trust_code, scratch))]
        if not configs:
            raise ConfigError(f"{path} holds no task", hint="a task YAML has a 'task' and a 'dataset_path'")
        written = [config.pop("written") for config in configs]
        try:
            loaded = TaskManager(include_defaults=False).load(configs)
        except Exception as error:  # whatever lm-eval, datasets or a template raises, the YAML's author must hear it
            raise SourceError(f"suite {name} cannot be loaded: {_first_line(error)}", hint=f"see {path}") from error
        for task, original in zip(loaded["tasks"].values(), written, strict=True):
            # The results say what the file says, not where it lay on this machine.
            task.set_config("dataset_kwargs", original)
    return _prepared(name, loaded)


def _read_task(file: Path, trust_code: bool, scratch: str) -> dict[str, Any] | None:
    """One YAML as a config dict with absolute data paths; None for a file that only others include."""
    import yaml
    from lm_eval.tasks._yaml_loader import load_yaml

    try:
        if not trust_code and (found := _function(file)):
            raise ConfigError(
                f"{file} runs Python code of its own: !function {found}",
                hint="read that code, then set trust_code = true for this suite's study",
            )
        config = load_yaml(file)
    except (yaml.YAMLError, ValueError, OSError) as error:
        raise ConfigError(f"cannot read the task {file}: {_first_line(error)}") from error
    if "group" in config:
        raise ConfigError(f"{file} is a group", hint="name the folder of its tasks: a folder is run as one suite")
    if not isinstance(config.get("task"), str):
        return None
    options = dict(config.get("dataset_kwargs") or {})
    config["written"] = dict(options) or None
    if (file.parent / str(config.get("dataset_path"))).is_dir():
        config["dataset_path"] = str(file.parent / config["dataset_path"])
    for key in ("data_files", "data_dir"):
        if key in options:
            options[key] = _absolute(options[key], file.parent)
    if config.get("dataset_path") in FILE_FORMATS:
        # Read afresh each time: a cache of small local files would only go stale, or be read-only.
        options |= {"cache_dir": scratch, "keep_in_memory": True}
    config["dataset_kwargs"] = options or None
    return config


def _absolute(value: Any, folder: Path) -> Any:
    if isinstance(value, dict):
        return {key: _absolute(one, folder) for key, one in value.items()}
    if isinstance(value, list):
        return [_absolute(one, folder) for one in value]
    return value if "://" in str(value) else str(folder / value)


def _function(file: Path, seen: frozenset[Path] = frozenset()) -> str | None:
    """The first `!function` of a YAML or of what it includes, without running it."""
    import yaml

    include: list[str] = []
    with file.open(encoding="utf-8") as text:
        root = yaml.compose(text, Loader=yaml.SafeLoader)
    stack = [root]
    while stack:
        node = stack.pop()
        if node is None:
            continue
        if node.tag == "!function":
            return str(node.value)
        if isinstance(node, yaml.MappingNode):
            for key, value in node.value:
                if node is root and key.value == "include":
                    include += [one.value for one in (value.value if isinstance(value.value, list) else [value])]
                stack += [key, value]
        elif isinstance(node, yaml.SequenceNode):
            stack += node.value
    others = [file.parent / one for one in include]
    return next((found for one in others if one not in seen and (found := _function(one, seen | {file}))), None)


def _load_by_name(name: str) -> Suite:
    with quiet_libraries():
        import lm_eval.tasks
        from lm_eval.tasks import TaskManager

        # The whole index reads some 15,000 files. Most tasks live in a folder that has their name's first words.
        root = Path(lm_eval.tasks.__file__).parent
        words = name.split("_")
        folders = [root / "_".join(words[:count]) for count in range(len(words), 0, -1)]
        manager = (
            next(
                (
                    found
                    for folder in folders
                    if folder.is_dir()
                    and name in (found := TaskManager(include_path=folder, include_defaults=False)).all_subtasks
                ),
                None,
            )
            or TaskManager()
        )
        if name not in manager.all_tasks:
            nearest = difflib.get_close_matches(name, [*shipped_suites(), "words", *manager.all_tasks], n=3)
            hint = f"did you mean {' or '.join(nearest)}?" if nearest else "lm-eval ls tasks lists every name"
            raise ConfigError(f"no suite is called {name!r}", hint=hint)
        try:
            return _prepared(name, manager.load([name]))
        except Exception as error:  # the hub, datasets and the tasks' own code raise anything
            cfg = manager.task_index[name].cfg or {}
            data = cfg.get("dataset_path")
            raise SourceError(
                f"suite {name} could not load its data{f' ({data})' if data else ''}: {_first_line(error)}",
                hint="it comes from the Hugging Face hub: connect once, or copy the task's YAML and point dataset_path "
                "and data_files to a local JSONL or Parquet file",
            ) from error


def _prepared(name: str, loaded: dict[str, Any]) -> Suite:
    for task in loaded["tasks"].values():
        if task.get_config("num_fewshot") is None:
            task.set_config("num_fewshot", 0)
        task.set_fewshot_seed(FEWSHOT_SEED)
    return Suite(name, loaded)


def _first_line(error: BaseException) -> str:
    return (str(error) or type(error).__name__).strip().splitlines()[0]


@contextlib.contextmanager
def quiet_libraries() -> Iterator[None]:
    """Keep lm-eval's and datasets' bars and notes off the terminal, which belongs to Viva's own progress."""
    import functools

    import datasets
    import lm_eval.api.task as task

    logger = logging.getLogger("lm_eval")
    level, bar, shown = logger.level, task.tqdm, not datasets.are_progress_bars_disabled()
    forking = os.environ.get("DISABLE_MULTIPROC")
    logger.setLevel(logging.ERROR)
    task.tqdm = functools.partial(bar, disable=True)
    os.environ["DISABLE_MULTIPROC"] = "1"  # a bootstrap must not fork a process that holds models and threads
    datasets.disable_progress_bars()
    try:
        yield
    finally:
        logger.setLevel(level)
        task.tqdm = bar
        if shown:
            datasets.enable_progress_bars()
        if forking is None:
            os.environ.pop("DISABLE_MULTIPROC", None)
        else:
            os.environ["DISABLE_MULTIPROC"] = forking

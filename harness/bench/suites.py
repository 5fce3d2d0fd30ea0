"""Suites of lm-eval tasks: found by name or path, and loaded alone.

A suite is a folder that Viva ships (`data/suites/<name>`), a YAML file or folder of the user's, or any task, group or
tag that lm-eval knows. lm-eval is imported inside the functions: its import costs seconds.
"""

import contextlib
import difflib
import functools
import importlib.metadata
import logging
import os
import re
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from harness.bench.task_data import FORMATS, read_afresh, resolve_own_data, use_local_data
from harness.bench.task_index import entries, lm_eval_names, lm_eval_root, members
from harness.bench.trust import refuse_code, tame_templates
from harness.benchmarks import OF_WRITING, WORDS, SuiteTable, is_path
from harness.errors import ConfigError, SourceError, VivaError
from harness.resources import data_path

FEWSHOT_SEED = 1234  # lm-eval's own default, so that few-shot examples are those of a plain lm-eval run
LENGTHS = ("max_gen_toks", "max_new_tokens", "max_tokens", "max_length")  # what tasks call the longest text


@dataclass(frozen=True)
class Suite:
    """Loaded tasks under one name, and how they are to be asked.

    `tasks` is what lm-eval's TaskManager.load returns; `broken` are those of a folder that could not be loaded, with
    the reason. `trusted`: whether code of the tasks' authors may run; `run_code`: whether also what models write may.
    """

    name: str
    tasks: dict[str, Any]
    table: SuiteTable
    trusted: bool = True
    run_code: bool = False
    broken: dict[str, Exception] = field(default_factory=dict)

    @functools.cached_property
    def lengths(self) -> list[int]:
        """Items of each task; lm-eval prepares all of them to count them."""
        with quiet_libraries(), self.templates():
            return [len(task.eval_docs) for task in self.tasks["tasks"].values()]

    def size(self, limit: int | None) -> int:
        """How many items a run with this limit asks for, over all tasks."""
        return sum(length if limit is None else min(length, limit) for length in self.lengths)

    def templates(self) -> contextlib.AbstractContextManager[None]:
        """Within it, the tasks' templates may be rendered."""
        return contextlib.nullcontext() if self.trusted else tame_templates()


@dataclass
class _Found:
    """lm-eval's index entries, the names among them to load, and what tasks themselves say of where their data is."""

    entries: dict[str, Any]
    wanted: list[str]
    data: dict[str, dict[str, Any]] = field(default_factory=dict)
    trusted: bool = True


def suite_name(suite: str | SuiteTable) -> str:
    """The name under which a suite's files are written: of a path, its last part."""
    return (SuiteTable.of(suite) if isinstance(suite, str) else suite).name


def shipped_suites() -> list[str]:
    """The suites in Viva's own data."""
    return sorted(folder.name for folder in data_path("suites").iterdir() if list(folder.glob("*.yaml")))


def load_suite(suite: str | SuiteTable, base: Path | None = None, *, trust_code: bool = False) -> Suite:
    """Load one suite and its data, and nothing else, with the settings of its table.

    `base` is where relative paths start (the study file's folder). Raises ConfigError for an unknown name (naming the
    nearest), for settings that the tasks have no use for, for a missing package, and for a local YAML that brings
    Python code unless `trust_code`; SourceError where data cannot be had.
    """
    table = SuiteTable.of(suite) if isinstance(suite, str) else suite
    with quiet_libraries(), tempfile.TemporaryDirectory(prefix="viva-suite-") as scratch:
        found = _find(table, base or Path(), trust_code, scratch)
        if table.data:
            _use_data(table, found, (base or Path()) / table.data, scratch)
        with contextlib.nullcontext() if found.trusted else tame_templates():
            loaded, broken = _load(table, found)
            _apply_settings(table, list(loaded["tasks"].values()))
    for name, task in loaded["tasks"].items():
        for key, value in found.data.get(name, {}).items():
            # The results say what the file says, not where it lay on this machine.
            task.set_config(key, value)
    unsafe = [name for name, task in loaded["tasks"].items() if getattr(task, "UNSAFE_CODE", False)]
    if unsafe and not trust_code:
        raise ConfigError(
            f"the task {unsafe[0]} runs code that the model writes",
            hint="set trust_code = true in [bench], on a machine where nothing can come to harm",
        )
    return Suite(table.name, loaded, table, found.trusted, trust_code, broken)


def _find(table: SuiteTable, base: Path, trust_code: bool, scratch: str) -> _Found:
    if is_path(table.what):
        path = (base / Path(table.what).expanduser()).resolve()
        if not path.exists():
            raise ConfigError(f"no such suite: {path}", hint="give a task YAML or a folder of them")
        return _find_local(path, trust_code, scratch)
    if table.what in shipped_suites():
        return _find_local(data_path(f"suites/{table.what}"), True, scratch)
    names = lm_eval_names()
    if table.what not in names:
        nearest = difflib.get_close_matches(table.what, [*shipped_suites(), WORDS, *names], n=3)
        hint = f"did you mean {' or '.join(nearest)}?" if nearest else "lm-eval ls tasks lists every name"
        raise ConfigError(f"no suite is called {table.what!r}", hint=hint)
    return _Found(entries([table.what], names, lm_eval_root()), [table.what])


def _find_local(path: Path, trust_code: bool, scratch: str) -> _Found:
    from lm_eval.tasks._index import Entry, Kind

    files = sorted(path.glob("*.yaml")) if path.is_dir() else [path]
    configs = {file: config for file in files if (config := _read_yaml(file, trust_code))}
    wanted = [_name(config) for config in configs.values()]
    if not configs:
        raise ConfigError(f"{path} holds no task", hint="a task YAML has a 'task' and a 'dataset_path'")
    if path.is_file() and "group" in configs[path]:  # its tasks lie beside it
        others = [file for file in sorted(path.parent.glob("*.yaml")) if file != path]
        configs |= {file: config for file in others if (config := _read_yaml(file, trust_code))}
    found = _Found({}, wanted, trusted=trust_code)
    for file, config in configs.items():
        name = _name(config)
        if name in found.entries:
            raise ConfigError(f"two files in {file.parent} define {name}", hint="rename the task in one of them")
        kind = Kind.GROUP if "group" in config else Kind.PY_TASK if "class" in config else Kind.TASK
        if kind is not Kind.GROUP:
            found.data[name] = _data_of(config)
            resolve_own_data(config, file.parent, scratch)
        found.entries[name] = Entry(name=name, kind=kind, yaml_path=None, cfg=config)
    groups = [entry for entry in found.entries.values() if entry.kind is Kind.GROUP]
    if groups:
        inside = {name for group in groups for name in members(group.cfg)}
        written = {name for group in groups for name in members(group.cfg, written=True)}
        found.wanted = [name for name in wanted if name not in inside]
        found.entries = entries(found.wanted, lm_eval_names(), lm_eval_root(), found.entries)
        if lost := sorted(name for name in inside if name not in found.entries and name not in written):
            near = difflib.get_close_matches(lost[0], [*found.entries, *lm_eval_names()], n=1)
            raise ConfigError(
                f"a group in {path} names {lost[0]!r}, which is no task",
                hint=f"did you mean {near[0]}?" if near else "put its YAML beside the group's",
            )
    return found


def _read_yaml(file: Path, trust_code: bool) -> dict[str, Any]:
    """The config in a YAML of the user's; empty for a file that only others include."""
    import yaml
    from lm_eval.tasks._yaml_loader import load_yaml

    try:
        if not trust_code:
            refuse_code(file)
        config = load_yaml(file)
    except ModuleNotFoundError as error:
        raise _missing_package(file.stem, error) from error
    except (yaml.YAMLError, ValueError, OSError, AttributeError, ImportError) as error:
        raise ConfigError(f"cannot read the task {file}: {first_line(error)}") from error
    return config if isinstance(_name(config), str) else {}


def _name(config: dict[str, Any]) -> Any:
    return config.get("group") or config.get("task")


def _data_of(config: dict[str, Any]) -> dict[str, Any]:
    options = config.get("dataset_kwargs")
    kept = {key: config.get(key) for key in ("dataset_path", "dataset_name")}
    return kept | {"dataset_kwargs": dict(options) if options else None}


def _use_data(table: SuiteTable, found: _Found, data: Path, scratch: str) -> None:
    """Let the wanted tasks read `data` in place of what they name."""
    from lm_eval.tasks._yaml_loader import load_yaml

    tasks = {name: entry for name, entry in found.entries.items() if entry.kind.name == "TASK"}
    if data.is_file() and len(tasks) > 1:
        raise ConfigError(
            f"{data} is one file, and the suite has {len(tasks)} tasks",
            hint="name a folder with a file or a folder for each dataset_name",
        )
    for name, entry in tasks.items():
        try:
            config = load_yaml(entry.yaml_path) if entry.yaml_path else entry.cfg
        except Exception as error:  # the task's own modules may raise anything
            raise _load_error(table.name, error, table.data) from error
        found.data.setdefault(name, _data_of(config))
        use_local_data(config, data)
        read_afresh(config, scratch)
        entry.cfg, entry.yaml_path = config, None


def _load(table: SuiteTable, found: _Found) -> tuple[dict[str, Any], dict[str, Exception]]:
    """(all tasks that can be loaded, the others of a folder with what was wrong)."""
    from lm_eval.tasks import TaskManager

    manager = TaskManager(include_defaults=False)
    manager.task_index.update(found.entries)
    broken: dict[str, Exception] = {}
    try:
        return manager.load(found.wanted), broken
    except Exception as error:  # whatever lm-eval, datasets or a template raises, the YAML's author must hear it
        if len(found.wanted) == 1:
            raise _load_error(table.name, error, table.data) from error
    for one in found.wanted:
        try:
            manager.load([one])
        except Exception as error:
            broken[one] = _load_error(one, error, table.data)
    whole = [one for one in found.wanted if one not in broken]
    if not whole:
        raise next(iter(broken.values()))
    return manager.load(whole), broken


def _load_error(name: str, error: Exception, data: str | None) -> Exception:
    if isinstance(error, VivaError):
        return error
    if isinstance(error, ModuleNotFoundError):
        return _missing_package(name, error)
    trace = error.__traceback__
    config: Any = None
    while trace is not None:
        if trace.tb_frame.f_code.co_name == "download":
            config = getattr(trace.tb_frame.f_locals.get("self"), "config", None)
        trace = trace.tb_next
    local = config is None or not config.dataset_path or config.dataset_path in FORMATS.values()
    if local or Path(config.dataset_path).exists():
        said = f"its data has no field {error}" if isinstance(error, KeyError) else first_line(error)
        hint = f"{data} must have the fields of the task's own data set" if data else "see its YAML and its data"
        return SourceError(f"suite {name} cannot be loaded: {said}", hint=hint)
    hub = "/".join(filter(None, (config.dataset_path, config.dataset_name)))
    return SourceError(
        f"suite {name}: the task {config.task} could not get its data set {hub}: {first_line(error)}",
        hint="it comes from the Hugging Face hub: connect once, or name a local copy of it (JSONL, CSV or Parquet): "
        f'[[bench.suite]] name = "{name}" data = "FOLDER", or --data FOLDER',
    )


def _missing_package(name: str, error: ModuleNotFoundError) -> ConfigError:
    module = (error.name or str(error)).split(".")[0]
    wanted = module
    for line in importlib.metadata.requires("lm-eval") or []:
        extra = re.search(r"extra == [\"']([\w-]+)[\"']", line)
        if extra and line.lower().replace("-", "_").startswith(module.lower()):
            wanted = f"'lm-eval[{extra[1]}]'"
            break
    return ConfigError(
        f"suite {name} needs the Python package {module}, which is not installed", hint=f"pip install {wanted}"
    )


def _apply_settings(table: SuiteTable, tasks: Sequence[Any]) -> None:
    """Few-shot examples and generation as the table has them, by lm-eval's own rules."""
    shots = {task.get_config("num_fewshot") for task in tasks}
    if table.few_shot and shots == {0}:
        raise ConfigError(
            f"few_shot = {table.few_shot} does nothing with {table.what}: its tasks fix num_fewshot = 0",
            hint="leave few_shot out, or change the task's YAML",
        )
    changes = generation_settings(table)
    writing = [task for task in tasks if task.OUTPUT_TYPE == "generate_until"]
    if changes and not writing:
        named = next(name for name in OF_WRITING if getattr(table, name) is not None)
        raise ConfigError(f"{named} does nothing with {table.what}: its tasks write no text", hint=f"leave {named} out")
    for task in tasks:
        if task.get_config("num_fewshot") != 0 and table.few_shot is not None:
            task.set_config("num_fewshot", table.few_shot)
        elif task.get_config("num_fewshot") is None:
            task.set_config("num_fewshot", 0)
        task.set_fewshot_seed(FEWSHOT_SEED)
    for task in writing if changes else ():
        own = dict(task.get_config("generation_kwargs") or {})
        for alias in LENGTHS if "max_gen_toks" in changes else ():
            own.pop(alias, None)
        task.set_config("generation_kwargs", own | changes)


def generation_settings(table: SuiteTable) -> dict[str, Any]:
    """The table's settings of writing as lm-eval's generation_kwargs."""
    named = {"max_gen_toks": table.max_tokens, "temperature": table.temperature, "top_p": table.top_p}
    found: dict[str, Any] = {key: value for key, value in named.items() if value is not None}
    if table.temperature is not None:
        found["do_sample"] = table.temperature > 0
    return found | ({} if table.until is None else {"until": list(table.until)})


def first_line(error: BaseException) -> str:
    """The first line of an error that says something."""
    lines = [line.strip() for line in str(error).splitlines()]
    return next((line for line in lines if any(map(str.isalpha, line))), type(error).__name__)


@contextlib.contextmanager
def quiet_libraries() -> Iterator[None]:
    """Keep lm-eval's and datasets' bars and notes off the terminal, which belongs to Viva's own progress."""
    import functools

    import datasets
    import lm_eval.api.task as task

    loggers = [logging.getLogger(name) for name in ("lm_eval", "huggingface_hub")]
    levels = [logger.level for logger in loggers]
    bar, shown = task.tqdm, not datasets.are_progress_bars_disabled()
    forking = os.environ.get("DISABLE_MULTIPROC")
    for logger in loggers:
        logger.setLevel(logging.ERROR)
    task.tqdm = functools.partial(bar, disable=True)
    os.environ["DISABLE_MULTIPROC"] = "1"  # a bootstrap must not fork a process that holds models and threads
    datasets.disable_progress_bars()
    try:
        yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)
        task.tqdm = bar
        if shown:
            datasets.enable_progress_bars()
        if forking is None:
            os.environ.pop("DISABLE_MULTIPROC", None)
        else:
            os.environ["DISABLE_MULTIPROC"] = forking

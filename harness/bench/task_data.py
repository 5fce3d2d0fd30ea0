"""A task's data from local files in place of the hub."""

from pathlib import Path
from typing import Any

from harness.errors import ConfigError, SourceError

FORMATS = {".jsonl": "json", ".json": "json", ".csv": "csv", ".parquet": "parquet", ".txt": "text", ".arrow": "arrow"}
SPLITS = ("training_split", "validation_split", "test_split", "fewshot_split")


def use_local_data(config: dict[str, Any], path: Path) -> None:
    """Point a task's config at a file or a folder instead of what `dataset_path` and `dataset_name` name.

    A file is the split that is scored. A folder holds a file for each split (`test.jsonl`, or several such as
    `test-00000-of-00002.parquet`), in itself, in `data/`, or in a folder named after `dataset_name`; or one file
    named after `dataset_name`. Where only the scored split is there, few-shot examples come from it too, but an item
    is never its own example. Raises ConfigError for a path or a split that is not there.
    """
    scored = config.get("test_split") or config.get("validation_split")
    if not scored:
        raise ConfigError(f"the task {config.get('task')} names no split to score", hint="set its test_split")
    files = _files(config, path, scored)
    kind = FORMATS[files[scored][0].suffix]
    config["dataset_path"], config["dataset_name"] = kind, None
    options = dict(config.get("dataset_kwargs") or {})
    for old in ("data_dir", "data_files", "revision"):
        options.pop(old, None)
    config["dataset_kwargs"] = options | {
        "data_files": {split: list(map(str, found)) for split, found in files.items()}
    }
    if len(files) == 1:
        config |= {"training_split": None, "validation_split": None, "test_split": scored, "fewshot_split": scored}


def _files(config: dict[str, Any], path: Path, scored: str) -> dict[str, list[Path]]:
    if path.is_file():
        return {scored: [_readable(path)]}
    if not path.is_dir():
        raise ConfigError(
            f"no such file or folder: {path}", hint="data names a JSONL, CSV or Parquet file, or a folder"
        )
    name = str(config.get("dataset_name") or "")
    alone = [path / f"{name}{ending}" for ending in FORMATS if name and (path / f"{name}{ending}").is_file()]
    if alone:
        return {scored: alone[:1]}
    places = [path / name, path / name / "data", path / "data", path]
    wanted = dict.fromkeys(config[split] for split in SPLITS if config.get(split))
    for place in places:
        found = {split: files for split in wanted if (files := _split_files(place, split))}
        if scored in found:
            # All or one: a task whose other splits are missing draws its examples from the one that is there.
            return found if len(found) == len(wanted) else {scored: found[scored]}
    raise SourceError(
        f"{path} holds no {scored}.jsonl or .parquet for the task {config.get('task')}"
        + (f", nor a folder or file {name}" if name else ""),
        hint="name a file for each split, such as test.jsonl",
    )


def _split_files(folder: Path, split: str) -> list[Path]:
    for ending in FORMATS:
        if (folder / f"{split}{ending}").is_file():
            return [folder / f"{split}{ending}"]
        if parts := sorted(folder.glob(f"{split}-*{ending}")):
            return parts
    return []


def _readable(path: Path) -> Path:
    if path.suffix not in FORMATS:
        raise ConfigError(f"cannot tell how to read {path}", hint=f"data ends in one of {', '.join(FORMATS)}")
    return path


def resolve_own_data(config: dict[str, Any], folder: Path, scratch: str) -> None:
    """Make the paths in a local task's config absolute: they are relative to its YAML in `folder`."""
    options = dict(config.get("dataset_kwargs") or {})
    own = folder / str(config.get("dataset_path"))
    for key in ("data_files", "data_dir"):
        if key in options:
            options[key] = _absolute(options[key], folder)
    config["dataset_kwargs"] = options or None
    if config.get("dataset_path") not in (None, *FORMATS.values()) and own.exists():
        if options:  # data_files in a folder, or what else datasets makes of it
            config["dataset_path"] = str(own)
        else:
            use_local_data(config, own)
    read_afresh(config, scratch)


def read_afresh(config: dict[str, Any], scratch: str) -> None:
    """Read local files each time: a cache of small files would only go stale, or be read-only."""
    if config.get("dataset_path") in FORMATS.values():
        options = config.get("dataset_kwargs") or {}
        config["dataset_kwargs"] = options | {"cache_dir": scratch, "keep_in_memory": True}


def _absolute(value: Any, folder: Path) -> Any:
    if isinstance(value, dict):
        return {key: _absolute(one, folder) for key, one in value.items()}
    if isinstance(value, list):
        return [_absolute(one, folder) for one in value]
    return value if "://" in str(value) else str(folder / value)

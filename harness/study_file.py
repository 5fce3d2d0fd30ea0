"""study.toml -> Study: every mistake in a study file is named with its line and the nearest spelling."""

import difflib
import re
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any, get_args

from pydantic import BaseModel, ValidationError

from harness.benchmarks import is_path
from harness.config import ARM, Study
from harness.errors import ConfigError
from harness.lineage import check_lineage


def load_study(path: Path) -> Study:
    """Read a study file. Raises ConfigError that names the key, its line, what was found and what is allowed."""
    try:
        text = path.read_text(encoding="utf-8")
        raw = tomllib.loads(text)
    except FileNotFoundError:
        raise ConfigError(f"no study file {path}", hint="make one with: viva init") from None
    except IsADirectoryError:
        raise ConfigError(f"{path} is a folder", hint="name the study file in it") from None
    except (UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise ConfigError(f"{path} is not TOML: {error}", hint="mend the line it names") from None
    try:
        study = Study.model_validate(_absolute(_with_seeds(_with_controls(raw, text, path)), path.resolve().parent))
    except ValidationError as error:
        raise _config_error(error, text, path) from None
    check_lineage(study, text, path)
    return study


def _with_controls(raw: dict[str, Any], text: str, path: Path) -> dict[str, Any]:
    """Fill each control with what it takes from its student, except the teacher's part of the objective."""
    students = raw.get("student")
    if not isinstance(students, list) or not all(isinstance(student, dict) for student in students):
        return raw
    by_name = {str(student.get("name")): student for student in students}
    if len(by_name) < len(students):
        return raw  # the model names the double
    filled = []
    for student in students:
        original = student.get("control_of")
        names = [name for name in by_name if name != student.get("name")]
        if original is None:
            filled.append(student)
            continue
        names = [str(name) for name in by_name if name != student.get("name")]
        if original not in names:
            line = _line_of(text, ["student", students.index(student), "control_of"])
            raise ConfigError(
                f"{path}, line {line}: control_of names {original!r}, "
                f"which is no other student{_nearest(original, names)}"
            )
        if student.get("source") is not None:  # a finished model, made elsewhere: it takes nothing over
            filled.append(student)
            continue
        base = {key: value for key, value in by_name[original].items() if key not in ("name", "control_of", "pool")}
        base_train = base.get("train") if isinstance(base.get("train"), dict) else {}
        ce = ((base_train or {}).get("terms") or {}).get("ce") or {}
        without_teacher = {"train": {"terms": {"ce": {**ce, "weight": 1.0}}}}
        base.pop("tune", None)  # what it learns of the tasks from the teacher
        if isinstance(base.get("shape"), dict) and student.get("start", base.get("start")) != "teacher-layers":
            base["shape"] = {key: value for key, value in base["shape"].items() if key != "keep"}
        if isinstance(base.get("train"), dict):
            kept = {key: value for key, value in base["train"].items() if key != "cache"}
            base["train"] = {**kept, "terms": {}}
        given_terms = (student.get("train") or {}).get("terms")
        filled.append(_merge(_merge(base, {} if given_terms else without_teacher), student))
    return {**raw, "student": filled}


def _with_seeds(raw: dict[str, Any]) -> dict[str, Any]:
    """Put one student for each seed in the place of a student with `seeds`.

    A control, and who starts from an arm or learns from one, follows its seeds where they are the same.
    """
    students = raw.get("student")
    if not isinstance(students, list) or not all(isinstance(student, dict) for student in students):
        return raw
    seeded = {student.get("name"): student["seeds"] for student in students if isinstance(student.get("seeds"), list)}
    spread: list[dict[str, Any]] = []
    for student in students:
        seeds = seeded.get(student.get("name"))
        if not seeds or not all(isinstance(seed, int) for seed in seeds) or len(set(seeds)) < len(seeds):
            spread.append(student)
            continue
        for seed in seeds:
            one = {key: value for key, value in student.items() if key != "seeds"}
            one |= {"name": f"{student['name']}-s{seed}", "seed": seed, "pool": student["name"]}
            for key, before in (("control_of", ""), ("teacher", ""), ("start", ARM)):
                value = student.get(key)
                name = value.removeprefix(before) if isinstance(value, str) and value.startswith(before) else None
                if name is not None and seed in seeded.get(name, []):
                    one[key] = f"{before}{name}-s{seed}"
            spread.append(one)
    return {**raw, "student": spread}


def _merge(base: dict[str, Any], over: dict[str, Any]) -> dict[str, Any]:
    merged = dict(base)
    for key, value in over.items():
        both = isinstance(value, dict) and isinstance(merged.get(key), dict)
        merged[key] = _merge(merged[key], value) if both else value
    return merged


def _absolute(raw: dict[str, Any], base: Path) -> dict[str, Any]:
    """Paths in a study file are relative to it; the resolved study must mean the same from anywhere."""

    def file(table: Any, key: str) -> None:
        value = table.get(key) if isinstance(table, dict) else None
        if isinstance(value, str) and not value.startswith(("data:", "pypi:", ARM)):
            path = base / Path(value).expanduser()
            if key not in ("source", "start", "tokenizer") or path.exists() or value.startswith((".", "/", "~")):
                table[key] = str(path)

    teacher = raw.get("teacher")
    file(teacher, "source")
    trained = [teacher] if isinstance(teacher, dict) else []
    students = raw.get("student")
    for student in students if isinstance(students, list) else []:
        if isinstance(student, dict):
            file(student, "source")
            file(student, "start")
            trained.append(student)
    for arm in trained:
        train = arm.get("train")
        file(train, "corpus")
        terms = train.get("terms") if isinstance(train, dict) else None
        file(terms.get("explanations") if isinstance(terms, dict) else None, "systems")
    for task in tasks if isinstance(tasks := raw.get("task"), list) else []:
        file(task, "data")
    for key in ("scenarios", "training", "checks"):
        file(raw.get("rate"), key)
    judge = raw.get("judge")
    file(judge, "rubric")
    judges = judge.get("by") if isinstance(judge, dict) else None
    for by in judges if isinstance(judges, list) else []:
        file(by, "source")
    bench = raw.get("bench")
    if not isinstance(bench, dict):
        return raw
    suites, tables = bench.get("suites"), bench.get("suite")
    if isinstance(suites, list):
        bench["suites"] = [_suite_path(suite, base) for suite in suites]
    for table in tables if isinstance(tables, list) else []:
        file(table, "texts")
        file(table, "data")
        if isinstance(table, dict) and "task" in table:
            table["task"] = _suite_path(table["task"], base)
    file(bench.get("backend_args"), "tokenizer")
    return raw


def _suite_path(suite: Any, base: Path) -> Any:
    return str(base / Path(suite).expanduser()) if isinstance(suite, str) and is_path(suite) else suite


def _config_error(error: ValidationError, text: str, path: Path) -> ConfigError:
    # An unknown key comes first: it often is the misspelt form of one that is missing.
    first = sorted(error.errors(), key=lambda entry: entry["type"] != "extra_forbidden")[0]
    location = [part for part in first["loc"] if not str(part).startswith("function-")]
    key = ".".join(str(part) for part in location)
    line = _line_of(text, location)
    where = f"{path}, line {line}" if line else str(path)
    if first["type"] == "extra_forbidden":
        allowed = _fields_at(location[:-1])
        hint = f"allowed here: {', '.join(sorted(allowed))}"
        return ConfigError(f"{where}: unknown key {key!r}{_nearest(str(location[-1]), allowed)}", hint=hint)
    if first["type"] == "missing":
        return ConfigError(f"{where}: {key!r} is missing", hint=f"add {location[-1]} = ... to the study file")
    found = "" if isinstance(first["input"], (dict, list)) else f", found {first['input']!r}"
    return ConfigError(f"{where}: {key or 'the study'}: {first['msg'].removeprefix('Value error, ')}{found}")


def _nearest(word: str, allowed: list[str]) -> str:
    near = difflib.get_close_matches(word, allowed, n=1)
    return f"; did you mean {near[0]!r}?" if near else ""


def _fields_at(location: list[Any]) -> list[str]:
    """Names of the fields allowed in the table at a location such as ['student', 0, 'train']."""
    model: type[BaseModel] = Study
    for part in location:
        if isinstance(part, int):
            continue
        model = next(_models_in(model.model_fields[str(part)].annotation))
    return [field.alias or name for name, field in model.model_fields.items()]


def _models_in(annotation: Any) -> Iterator[type[BaseModel]]:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        yield annotation
    for inner in get_args(annotation):
        yield from _models_in(inner)


def _line_of(text: str, location: list[Any]) -> int | None:
    """The line of a key in the text: after the header of its table where there is one, else its first mention.

    tomllib keeps no positions; inline tables and dotted keys make this a best guess, so it may be None.
    """
    lines = text.splitlines()
    start = 0
    tables = [part for part in location if isinstance(part, str)]
    for depth in range(len(tables) - 1, 0, -1):
        header = re.compile(rf"^\s*\[\[?\s*{re.escape('.'.join(tables[:depth]))}\s*\]\]?")
        hits = [number for number, line in enumerate(lines) if header.match(line)]
        index = next((part for part in location if isinstance(part, int)), 0)
        if hits:
            start = hits[min(index, len(hits) - 1)]
            break
    last = str(tables[-1]) if tables else ""
    for number in range(start, len(lines)):
        if re.search(rf"(^|[\s{{,.]){re.escape(last)}\s*(=|\.)", lines[number]):
            return number + 1
    return start + 1 if start else None

"""docs/study-file.md and docs/commands.md, written from the code that they describe: `make docs`.

A test compares the files with what this module makes of the code, so neither can fall behind.
"""

import argparse
import json
import types
import typing
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from pydantic import BaseModel
from pydantic.fields import FieldInfo
from pydantic_core import PydanticUndefined

from harness.cli import build_parser
from harness.config import Study

STUDY_INTRO = """\
# The study file

One TOML file describes teacher, students and study. `viva init` writes a commented one to start from; a wrong key or
value is refused with its line and the nearest spelling. Paths are relative to the study file; `data:NAME` is a file
that Viva ships (see `data/README.md`). The resolved copy, with controls filled in, is `runs/NAME/study.toml`.

A student with `control_of` takes everything from that student but the teacher's part of the objective: its terms are
plain cross-entropy unless it names its own.
"""

COMMANDS_INTRO = """\
# Commands

Every command takes a study file or, in its place, a run directory. All of them can be stopped at any time with Ctrl-C
and continue when they are called again; stages that are finished are skipped. Exit codes: 0 done, 1 something went
wrong (the message says what to do), 2 a wrong command line or study file, 130 stopped by Ctrl-C.

Environment: `VIVA_CACHE` names the folder for downloads and converted models (default `~/.cache/viva`);
`VIVA_MALLOC=0` leaves the C library's allocator as it is.
"""


def study_reference() -> str:
    """Markdown with every key of a study file: type, default, meaning."""
    parts = [STUDY_INTRO]
    for title, model in _tables("", Study):
        parts.append(
            f"## {title}\n\n{(model.__doc__ or '').strip()}\n\n| key | type | default | meaning |\n|---|---|---|---|"
        )
        rows = []
        for name, field in model.model_fields.items():
            text = (field.description or "").replace("|", "\\|")
            rows.append(f"| `{field.alias or name}` | {_type(field.annotation)} | {_default(field)} | {text} |")
        parts[-1] += "\n" + "\n".join(rows) + "\n"
    return "\n".join(parts)


def _tables(prefix: str, model: type[BaseModel]) -> Iterator[tuple[str, type[BaseModel]]]:
    yield (f"`[{prefix}]`" if prefix else "Top level"), model
    for name, field in model.model_fields.items():
        for inner in _models(field.annotation):
            yield from _tables(f"{prefix}.{name}" if prefix else name, inner)


def _models(annotation: Any) -> list[type[BaseModel]]:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return [annotation]
    return [model for inner in typing.get_args(annotation) for model in _models(inner)]


def _type(annotation: Any) -> str:
    if _models(annotation):
        return "tables" if typing.get_origin(annotation) is tuple else "table"
    if typing.get_origin(annotation) is typing.Literal:
        return " or ".join(f"`{value!r}`".replace("'", '"') for value in typing.get_args(annotation))
    if typing.get_origin(annotation) in (typing.Union, types.UnionType):
        return " or ".join(_type(part) for part in typing.get_args(annotation) if part is not type(None))
    if typing.get_origin(annotation) is tuple:
        return "list"
    if typing.get_origin(annotation) is dict:
        return "table of names"
    return {str: "text", int: "whole number", float: "number", bool: "true or false"}[annotation]


def _default(field: FieldInfo) -> str:
    if field.is_required():
        return "required"
    if field.default is PydanticUndefined or field.default is None or field.default == {}:
        return ""
    if isinstance(field.default, BaseModel):
        return f"`{json.dumps(field.default.model_dump(exclude_defaults=True))}`"
    if isinstance(field.default, tuple):
        return f"`{list(field.default)}`".replace("'", '"') if field.default else ""
    return f"`{field.default}`"


def command_reference() -> str:
    """Markdown with every command and its help text."""
    parts = [COMMANDS_INTRO]
    for name, parser in subcommands(build_parser()).items():
        parser.formatter_class = lambda prog: argparse.HelpFormatter(prog, width=100)  # whatever the terminal's width
        parts.append(f"## viva {name}\n\n```\n{parser.format_help().strip()}\n```\n")
    return "\n".join(parts)


def subcommands(parser: argparse.ArgumentParser) -> dict[str, argparse.ArgumentParser]:
    """The parsers of all commands by name."""
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            return dict(action.choices)
    raise AssertionError("the parser has no commands")


def write_docs(folder: Path) -> None:
    """Write both pages into `folder`."""
    (folder / "study-file.md").write_text(study_reference(), encoding="utf-8")
    (folder / "commands.md").write_text(command_reference(), encoding="utf-8")


if __name__ == "__main__":
    write_docs(Path(__file__).parent.parent / "docs")

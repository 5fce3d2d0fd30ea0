"""What in a user's task YAML would run code, and templates that cannot."""

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from harness.errors import ConfigError


def refuse_code(file: Path) -> None:
    """Raise ConfigError if a task YAML, or one that it includes, brings Python code; nothing of it is run to find out.

    A metric that lm-eval does not have is code too: it is downloaded or read from a file, and run.
    """
    found = _code(file, frozenset())
    if found:
        raise ConfigError(
            f"{file} runs Python code of its own: {found}",
            hint="read that code, then set trust_code = true in [bench]",
        )


def _code(file: Path, seen: frozenset[Path]) -> str | None:
    import yaml

    with file.open(encoding="utf-8") as text:
        root = yaml.compose(text, Loader=yaml.SafeLoader)
    stack = [root]
    while stack:
        node = stack.pop()
        if node is None:
            continue
        if node.tag == "!function":
            return f"!function {node.value}"
        if isinstance(node, yaml.MappingNode):
            for key, value in node.value:
                if key.value == "hf_evaluate" and value.value != "false":
                    return "hf_evaluate"
                if key.value == "metric" and not _known(value):
                    return f"metric {value.value}"
                stack += [key, value]
        elif isinstance(node, yaml.SequenceNode):
            stack += node.value
    others = [file.parent / one for one in _includes(root)]
    return next((found for one in others if one not in seen and (found := _code(one, seen | {file}))), None)


def _known(node: Any) -> bool:
    import lm_eval.api.metrics  # noqa: F401  (fills the registry)
    from lm_eval.api.registry import metric_registry

    return node.tag == "!function" or str(node.value) in metric_registry


def _includes(root: Any) -> list[str]:
    import yaml

    if not isinstance(root, yaml.MappingNode):
        return []
    values = [value for key, value in root.value if key.value == "include"]
    return [one.value for value in values for one in (value.value if isinstance(value.value, list) else [value])]


@contextlib.contextmanager
def tame_templates() -> Iterator[None]:
    """Within it, lm-eval renders templates in Jinja's sandbox: a template of a stranger reaches no Python beyond it."""
    import lm_eval.utils
    from jinja2 import StrictUndefined
    from jinja2.sandbox import SandboxedEnvironment

    before = lm_eval.utils.env
    tame = SandboxedEnvironment(undefined=StrictUndefined, keep_trailing_newline=True)
    tame.filters.update(before.filters)
    lm_eval.utils.env = tame
    try:
        yield
    finally:
        lm_eval.utils.env = before

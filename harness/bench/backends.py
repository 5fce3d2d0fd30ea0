"""The models that answer lm-eval's tasks: Viva's own reader, or one of lm-eval's as it is."""

import importlib.util
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

from harness.bench.resume import Kept
from harness.bench.suites import first_line, quiet_libraries
from harness.benchmarks import BackendArgs
from harness.errors import ConfigError, SourceError
from harness.models.load import LoadedModel

NEEDED = {
    "hf": ("transformers",),
    "vllm": ("vllm",),
    "local-completions": ("aiohttp", "tenacity", "requests"),
}
INSTALL = {"hf": "'lm-eval[hf]'", "vllm": "'lm-eval[vllm]'", "local-completions": "'lm-eval[api]'"}


def check_backend(backend: str) -> None:
    """Raise ConfigError with the command that installs what a backend lacks."""
    for package in NEEDED.get(backend, ()):
        if importlib.util.find_spec(package) is None:
            raise ConfigError(
                f'backend = "{backend}" needs the Python package {package}, which is not installed',
                hint=f"pip install {INSTALL[backend]}",
            )


def backend_arguments(backend: str, args: BackendArgs, model_dir: Path, arm: str) -> dict[str, Any]:
    """What lm-eval's model of that name is made with: the study's settings, and the arm's model where they are silent.

    `{arm}` in a text becomes the arm's name.
    """
    given = {
        key: value.replace("{arm}", arm) if isinstance(value, str) else value
        for key, value in args.model_dump(exclude_none=True).items()
    }
    if backend == "local-completions":
        own = {"model": arm, "tokenizer": str(model_dir), "tokenizer_backend": "huggingface"}
        return own | _window(model_dir) | given
    if backend == "hf":  # lm-eval would ask for CUDA where there is none
        import torch

        device = "cuda" if torch.cuda.is_available() else "cpu"
        return {"pretrained": str(model_dir), "dtype": "float32", "device": device} | given
    return {"pretrained": str(model_dir)} | given


def _window(model_dir: Path) -> dict[str, int]:
    """The model's window for a server, which lm-eval would take for 2,048 tokens; empty where it is not known."""
    from transformers import AutoConfig

    try:
        config = AutoConfig.from_pretrained(model_dir, local_files_only=True).get_text_config()
    except (OSError, ValueError):
        return {}
    length = getattr(config, "max_position_embeddings", None)
    return {} if length is None else {"max_length": int(length)}


def make_lm(
    backend: str,
    args: dict[str, Any],
    student: Callable[[], LoadedModel],
    *,
    seed: int = 0,
    say: Callable[[str], None] | None = None,
) -> Any:
    """The model of a backend, to be asked through lm-eval's interface; `student()` loads the arm's model for Viva's.

    Raises ConfigError for settings that it does not know, SourceError when it cannot start.
    """
    if backend == "viva":
        from harness.bench.packed import PackedLM

        loaded = student()
        return PackedLM(loaded.model, loaded.tokenizer, seed=seed, say=say)
    check_backend(backend)
    from lm_eval.api.registry import get_model

    from harness.bench.resuming import ResumingLM

    try:
        with quiet_libraries():
            lm = get_model(backend).create_from_arg_obj(args)
    except TypeError as error:
        unknown = re.search(r"unexpected keyword argument '(\w+)'", str(error))
        if not unknown:
            raise
        raise ConfigError(
            f'backend = "{backend}" has no setting {unknown[1]!r}', hint="see lm-eval's model of that name"
        ) from error
    except Exception as error:  # torch, vLLM and the hub raise anything
        raise SourceError(
            f'backend = "{backend}" could not start: {first_line(error)}', hint="see its settings in backend_args"
        ) from error
    server = str(args["base_url"]) if backend == "local-completions" else None
    return ResumingLM(lm, server=server)


def attach(lm: Any, kept: Kept, on_done: Callable[[int, int], None]) -> None:
    """Let a model of `make_lm` go on with answers that are kept, and report to `on_done`."""
    lm.kept, lm.on_done, lm.truncated = kept, on_done, 0 if lm.truncated is not None else None


def check_chat_template(model_dir: Path, suite: str) -> None:
    """Raise ConfigError if the tokenizer of a model directory has no chat template, which `suite` asks for."""
    from transformers import AutoTokenizer

    try:
        tokenizer = AutoTokenizer.from_pretrained(model_dir, local_files_only=True)
    except Exception as error:  # a damaged file makes it raise many kinds
        raise SourceError(
            f"cannot load the tokenizer in {model_dir}: {first_line(error)}", hint="is it whole?"
        ) from error
    if not tokenizer.chat_template:
        raise ConfigError(
            f"the suite {suite} asks for a chat template, and the model in {model_dir} has none",
            hint="take chat_template out of the suite, or add a chat template to the model's tokenizer",
        )

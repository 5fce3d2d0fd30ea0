"""An ordinary Hugging Face directory, loaded: model and tokenizer together."""

import contextlib
import logging
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from harness.errors import SourceError


@dataclass(frozen=True)
class LoadedModel:
    """A causal language model in eval mode and its tokenizer."""

    model: Any
    tokenizer: Any


def load_model(directory: Path, dtype: str = "float32", *, only_read: bool = False) -> LoadedModel:
    """Load a model directory; only safetensors and no code from the directory. Raises SourceError when it cannot.

    With `only_read` its layers are packed (`products`): faster, and neither to train nor to save.
    """
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    if not (directory / "config.json").is_file():
        raise SourceError(f"{directory} is not a model directory: it has no config.json", hint="check the path")
    try:
        with quiet_libraries():
            model = AutoModelForCausalLM.from_pretrained(
                directory,
                dtype=getattr(torch, dtype),
                use_safetensors=True,
                trust_remote_code=False,
                local_files_only=True,
            )
            tokenizer = AutoTokenizer.from_pretrained(directory, trust_remote_code=False, local_files_only=True)
    except Exception as error:  # a damaged file makes these libraries raise many kinds
        raise SourceError(
            f"cannot load the model in {directory}: {error}".splitlines()[0], hint="is it whole?"
        ) from error
    model.eval()
    if only_read:
        from harness.models.products import pack

        pack(model)
    return LoadedModel(model, tokenizer)


def load_config_only(directory: Path) -> LoadedModel:
    """A model without weights (on torch's meta device) and its tokenizer: shape and vocabulary, nothing to run."""
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer

    try:
        with quiet_libraries(), torch.device("meta"):
            config = AutoConfig.from_pretrained(directory, trust_remote_code=False, local_files_only=True)
            model = AutoModelForCausalLM.from_config(config, trust_remote_code=False)
            tokenizer = AutoTokenizer.from_pretrained(directory, trust_remote_code=False, local_files_only=True)
    except Exception as error:  # a damaged file makes these libraries raise many kinds
        raise SourceError(
            f"cannot read the shape and tokenizer in {directory}: {error}".splitlines()[0], hint="is it whole?"
        ) from error
    return LoadedModel(model.eval(), tokenizer)


@contextlib.contextmanager
def quiet_libraries() -> Iterator[None]:
    """transformers' own bars and notices off: Viva shows one progress display, its own."""
    from transformers.utils import logging as library

    level = library.get_verbosity()
    library.set_verbosity_error()
    library.disable_progress_bar()
    logging.getLogger("gguf").setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        library.set_verbosity(level)
        library.enable_progress_bar()

"""An ordinary Hugging Face directory, loaded: model and tokenizer together."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from harness.errors import SourceError


@dataclass(frozen=True)
class LoadedModel:
    """A causal language model in eval mode and its tokenizer."""

    model: Any
    tokenizer: Any


def load_model(directory: Path, dtype: str = "float32") -> LoadedModel:
    """Load a model directory; only safetensors and no code from the directory. Raises SourceError when it cannot."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    if not (directory / "config.json").is_file():
        raise SourceError(f"{directory} is not a model directory: it has no config.json", hint="check the path")
    try:
        model = AutoModelForCausalLM.from_pretrained(
            directory,
            dtype=getattr(torch, dtype),
            use_safetensors=True,
            trust_remote_code=False,
            local_files_only=True,
            attn_implementation="sdpa",
        )
        tokenizer = AutoTokenizer.from_pretrained(directory, trust_remote_code=False, local_files_only=True)
    except Exception as error:  # a damaged file makes these libraries raise many kinds
        raise SourceError(
            f"cannot load the model in {directory}: {error}".splitlines()[0], hint="is it whole?"
        ) from error
    return LoadedModel(model.eval(), tokenizer)

"""Encoders from an ordinary Hugging Face directory: with a masked-LM head, or with a head of classes."""

from pathlib import Path
from typing import Any

from harness.errors import ConfigError, SourceError
from harness.models.load import LoadedModel, quiet_libraries

CLASSES = "ForSequenceClassification"


def load_encoder(directory: Path, dtype: str = "float32") -> LoadedModel:
    """An encoder with the head that its directory has; one without a head gets that of a masked LM (`has_head`).

    Only safetensors and no code from the directory. Raises SourceError when it cannot be loaded.
    """
    kinds = architectures(directory)
    return _load(directory, "SequenceClassification" if any(CLASSES in kind for kind in kinds) else "MaskedLM", dtype)


def load_for_classes(directory: Path, classes: int, seed: int) -> LoadedModel:
    """An encoder with a head of `classes` classes on the first token; what the directory lacks is drawn from `seed`."""
    import torch

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return _load(directory, "SequenceClassification", num_labels=classes)


def architectures(directory: Path) -> list[str]:
    """The classes that a model directory names. Raises SourceError for a folder that is none."""
    import json

    try:
        found = json.loads((directory / "config.json").read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise SourceError(
            f"{directory} is not a model directory: config.json cannot be read", hint="check the path"
        ) from error
    return list(found.get("architectures") or [])


def has_head(directory: Path) -> bool:
    """Whether a directory brings a masked-LM head: an encoder of another purpose (sentence vectors) does not."""
    return any(kind.endswith(("ForMaskedLM", "ForPreTraining")) for kind in architectures(directory))


def _load(directory: Path, head: str, dtype: str = "float32", **changes: Any) -> LoadedModel:
    import torch
    import transformers

    try:
        with quiet_libraries():
            model = getattr(transformers, f"AutoModelFor{head}").from_pretrained(
                directory,
                dtype=getattr(torch, dtype),
                use_safetensors=True,
                trust_remote_code=False,
                local_files_only=True,
                **changes,
            )
            tokenizer = transformers.AutoTokenizer.from_pretrained(
                directory, trust_remote_code=False, local_files_only=True
            )
    except Exception as error:  # a damaged file makes these libraries raise many kinds
        raise SourceError(
            f"cannot load the encoder in {directory}: {error}".splitlines()[0], hint="is it whole, and an encoder?"
        ) from error
    number_layers(model)
    missing = [name for name in ("cls_token_id", "sep_token_id", "mask_token_id") if getattr(tokenizer, name) is None]
    if missing:
        raise ConfigError(
            f"the tokenizer in {directory} has no {missing[0].removesuffix('_id')}",
            hint='family = "encoder" is for models after BERT',
        )
    return LoadedModel(model.eval(), tokenizer)


def number_layers(model: Any) -> None:
    """Give every attention its layer's number, which some architectures (DistilBERT) leave out."""
    for index, layer in enumerate(layers_of(model)):
        for module in layer.modules():
            if hasattr(module, "is_causal") and getattr(module, "layer_idx", None) is None:
                module.layer_idx = index


def layers_of(model: Any) -> Any:
    """The list of an encoder's layers. Raises ConfigError where there is none."""
    import torch

    wanted = model.config.num_hidden_layers
    for module in model.base_model.modules():
        if isinstance(module, torch.nn.ModuleList) and len(module) == wanted:
            return module
    raise ConfigError(f"{type(model).__name__} has no list of {wanted} layers", hint="take an encoder after BERT")

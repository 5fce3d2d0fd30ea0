"""Low-rank adapters (Hu et al. 2021, arXiv 2106.09685): train few weights, then merge them into an ordinary model.

The adapters are peft's, put into the model in place: it keeps its class and its methods, so that whatever works on a
model works on an adapted one.
"""

from typing import TYPE_CHECKING, Any

from harness.config import Lora
from harness.errors import ConfigError

if TYPE_CHECKING:
    import torch


def adapt(model: Any, lora: Lora, seed: int = 0) -> Any:
    """The same model, its weights frozen, with trainable adapters beside linear layers; its logits are unchanged.

    All linear layers but the output head are adapted, or those that `lora.targets` name. The adapters' random halves
    are drawn from `seed` alone, the others are 0. Raises ConfigError without peft, and for targets that are not there.
    """
    import torch

    try:
        import peft
    except ImportError as error:
        raise ConfigError(
            "train.lora needs the library peft, which is not installed", hint="pip install peft"
        ) from error
    names = target_names(model, lora)
    config = peft.LoraConfig(
        r=lora.rank,
        lora_alpha=lora.alpha,
        lora_dropout=lora.dropout,
        target_modules=names,
        fan_in_fan_out=not isinstance(model.get_submodule(names[0]), torch.nn.Linear),
    )
    training = model.training
    for parameter in model.parameters():
        parameter.requires_grad_(False)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = peft.inject_adapter_in_model(config, model)
    return model.train(training)


def target_names(model: Any, lora: Lora) -> list[str]:
    """Full names of the layers that get adapters. Raises ConfigError naming a target that no linear layer has."""
    output = model.get_output_embeddings()
    linear = {name: module for name, module in model.named_modules() if _is_linear(module)}
    if not lora.targets:
        return [name for name, module in linear.items() if module is not output]
    found: list[str] = []
    for target in lora.targets:
        named = [name for name in linear if name == target or name.endswith(f".{target}")]
        if not named:
            kinds = sorted({name.rsplit(".", 1)[-1] for name in linear})
            raise ConfigError(
                f"train.lora.targets names {target!r}, and {type(model).__name__} has no such linear layer",
                hint=f"there are: {', '.join(kinds)}",
            )
        found += [name for name in named if name not in found]
    head = next((name for name in found if linear[name] is output), None)
    if head and output.weight is model.get_input_embeddings().weight:
        raise ConfigError(
            f"train.lora.targets names {head!r}, whose weights are the embedding's too: merging would change both",
            hint="leave it out; the other linear layers are adapted without being named",
        )
    return found


def merge(model: Any) -> Any:
    """The same model without adapters: each is added to the weights that it adapted, which may be trained again.

    The logits are those of the adapted model in eval mode, but for rounding; it saves as an ordinary model.
    """
    from peft.tuners.tuners_utils import BaseTunerLayer

    adapted = [(name, module) for name, module in model.named_modules() if isinstance(module, BaseTunerLayer)]
    for name, module in adapted:
        module.merge(safe_merge=True)
        parent, _, leaf = name.rpartition(".")
        setattr(model.get_submodule(parent), leaf, module.get_base_layer())
    if hasattr(model, "peft_config"):
        del model.peft_config
    for parameter in model.parameters():
        parameter.requires_grad_(True)
    return model


def _is_linear(module: "torch.nn.Module") -> bool:
    import torch
    from transformers.pytorch_utils import Conv1D

    return isinstance(module, torch.nn.Linear | Conv1D)

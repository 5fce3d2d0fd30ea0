"""Student shapes and starts: a smaller model of the teacher's family, with random or with the teacher's own weights.

Block influence follows ShortGPT (Men et al. 2024, section 3.1): 1 - the mean cosine similarity of a layer's input
and output. A layer that hardly turns its input is redundant; the student keeps the layers with the highest influence.
"""

import copy
from collections.abc import Callable, Sequence
from typing import Any

from harness.errors import ConfigError
from harness.models.load import LoadedModel


def decoder_layers(model: Any) -> Any:
    """The model's list of transformer layers (a ModuleList)."""
    layers = getattr(model.get_decoder(), "layers", None)
    if layers is None:
        raise ConfigError(
            f"{type(model).__name__} has no list of decoder layers", hint="use a decoder-only model, or give a source"
        )
    return layers


def check_shape(teacher: LoadedModel, layers: int) -> None:
    """Raise ConfigError unless a student of so many layers can be cut from the teacher."""
    have = len(decoder_layers(teacher.model))
    if layers > have:
        raise ConfigError(f"a student of {layers} layers is larger than its teacher of {have}", hint="ask for fewer")


def student_config(teacher: LoadedModel, layers: int) -> Any:
    """The teacher's configuration with fewer layers."""
    config = copy.deepcopy(teacher.model.config)
    config.num_hidden_layers = layers
    if getattr(config, "layer_types", None):
        config.layer_types = config.layer_types[:layers]
    return config


def scratch(teacher: LoadedModel, layers: int, seed: int) -> LoadedModel:
    """A student with random weights, drawn from `seed` alone, as the model's own initialisation has them."""
    import torch

    check_shape(teacher, layers)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = type(teacher.model)(student_config(teacher, layers))
    return LoadedModel(model.eval(), teacher.tokenizer)


def from_layers(teacher: LoadedModel, keep: Sequence[int]) -> LoadedModel:
    """A student made of copies of the teacher's layers `keep`, in order, with its embeddings, norms and head."""
    import torch

    config = student_config(teacher, len(keep))
    if getattr(config, "layer_types", None):
        config.layer_types = [teacher.model.config.layer_types[index] for index in keep]
    with torch.random.fork_rng(devices=[]):
        model = type(teacher.model)(config)
    decoder = teacher.model.get_decoder()
    prefix = next(name for name, module in teacher.model.named_modules() if module is decoder)
    place = {old: new for new, old in enumerate(keep)}
    state = {}
    for name, tensor in teacher.model.state_dict().items():
        head = f"{prefix}.layers."
        if name.startswith(head):
            index, rest = name.removeprefix(head).split(".", 1)
            if int(index) not in place:
                continue
            name = f"{head}{place[int(index)]}.{rest}"
        state[name] = tensor
    model.load_state_dict(state)
    return LoadedModel(model.eval(), teacher.tokenizer)


def block_influence(
    teacher: LoadedModel, rows: Sequence[Sequence[int]], on_row: Callable[[int], None] = lambda done: None
) -> list[float]:
    """Influence of each layer on calibration rows of token ids: 1 - mean cosine of its input and output.

    `on_row` is called with the number of rows done.
    """
    import torch

    layers = decoder_layers(teacher.model)
    cosine = torch.zeros(len(layers), dtype=torch.float64)

    # Hooks see what a layer really puts out; output_hidden_states has the last one behind the final norm.
    def hook(index: int) -> Callable[..., None]:
        def compare(module: Any, inputs: Any, output: Any) -> None:
            after_BTD = output[0] if isinstance(output, tuple) else output
            cosine[index] += torch.nn.functional.cosine_similarity(inputs[0], after_BTD, dim=-1).double().sum()

        return compare

    handles = [layer.register_forward_hook(hook(index)) for index, layer in enumerate(layers)]
    try:
        with torch.inference_mode():
            for done, row in enumerate(rows):
                on_row(done)
                teacher.model.get_decoder()(input_ids=torch.tensor([list(row)]), use_cache=False)
    finally:
        for handle in handles:
            handle.remove()
    positions = sum(map(len, rows))
    return [1 - float(value) / positions for value in cosine]


def most_influential(influence: Sequence[float], keep: int) -> list[int]:
    """Indices of the `keep` layers of the highest influence, in the teacher's order; ties go to earlier layers."""
    best = sorted(range(len(influence)), key=lambda index: (-influence[index], index))[:keep]
    return sorted(best)


def layers_by_rule(have: int, layers: int, keep: str | Sequence[int]) -> list[int]:
    """Indices of `layers` of a teacher's `have` layers: spread evenly (both ends included), first, last, listed.

    Raises ConfigError for a listed layer that the teacher does not have.
    """
    if not isinstance(keep, str):
        if keep[-1] >= have:
            raise ConfigError(f"shape.keep names layer {keep[-1]}, the teacher has 0 to {have - 1}", hint="list others")
        return list(keep)
    if keep == "first":
        return list(range(layers))
    if keep == "last":
        return list(range(have - layers, have))
    return [round(place * (have - 1) / (layers - 1)) for place in range(layers)] if layers > 1 else [0]

"""Student shapes: a smaller model of the teacher's family, with random weights or with whole layers of the teacher's.

What the teacher's weights give to a narrower student is in `pruning`.
"""

import copy
from collections.abc import Sequence
from typing import Any

from harness.config import Shape
from harness.errors import ConfigError
from harness.models.load import LoadedModel

FIELDS = {  # what the study file calls a width, and what transformers calls it
    "hidden": "hidden_size",
    "heads": "num_attention_heads",
    "kv_heads": "num_key_value_heads",
    "mlp": "intermediate_size",
}
PER_LAYER = ("layer_types", "mlp_layer_types", "no_rope_layers")  # lists in a configuration with an entry a layer


def decoder_layers(model: Any) -> Any:
    """The model's list of transformer layers (a ModuleList)."""
    layers = getattr(model.get_decoder(), "layers", None)
    if layers is None:
        raise ConfigError(
            f"{type(model).__name__} has no list of decoder layers", hint="use a decoder-only model, or give a source"
        )
    return layers


def student_layers(teacher: LoadedModel, shape: Shape) -> int:
    """How many layers the student has: as named, as listed, or the teacher's. Raises ConfigError if more than it."""
    listed = len(shape.keep) if isinstance(shape.keep, tuple) else None
    have = len(decoder_layers(teacher.model))
    layers = shape.layers or listed or have
    if layers > have:
        raise ConfigError(f"a student of {layers} layers is larger than its teacher of {have}", hint="ask for fewer")
    return layers


def head_width(config: Any) -> int:
    """Width of one attention head: as the configuration says, else the hidden width divided among the heads."""
    return int(getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads)


def student_widths(teacher: LoadedModel, shape: Shape) -> dict[str, int]:
    """The student's hidden, heads, kv_heads and mlp, where the teacher's configuration has them.

    With fewer heads and no kv_heads named, as many query heads share a kv head as in the teacher. Raises ConfigError
    for a width larger than the teacher's, or heads that do not divide among the kv heads.
    """
    config = teacher.model.config
    full = {name: getattr(config, field, None) for name, field in FIELDS.items()}
    for name, wanted in shape.widths.items():
        if full[name] is None:
            raise ConfigError(
                f"shape.{name} = {wanted}, and {type(config).__name__} has no {FIELDS[name]} to replace",
                hint="leave it out, or give the student a source",
            )
        if wanted > full[name]:
            raise ConfigError(
                f"a student with {name} = {wanted} is larger than its teacher with {full[name]}", hint="ask for less"
            )
    widths = {name: value for name, value in full.items() if value is not None} | shape.widths
    if full["kv_heads"] is None:
        return widths  # every query head has keys and values of its own
    if shape.heads is not None and shape.kv_heads is None:
        share = full["heads"] // full["kv_heads"]
        if shape.heads % share:
            raise ConfigError(
                f"heads = {shape.heads} do not divide into groups of {share} that share a kv head, as in the teacher",
                hint=f"take a multiple of {share}, or name kv_heads as well",
            )
        widths["kv_heads"] = shape.heads // share
    if widths["heads"] % widths["kv_heads"]:
        raise ConfigError(
            f"heads = {widths['heads']} is no multiple of kv_heads = {widths['kv_heads']}",
            hint="every kv head serves the same number of query heads: change one of both",
        )
    return widths


def student_config(teacher: LoadedModel, shape: Shape, keep: Sequence[int] | None = None) -> Any:
    """The teacher's configuration with what the shape names in place of its own.

    The width of a head stays the teacher's. `keep` are the teacher's layers that remain; by default the first ones.
    """
    config = copy.deepcopy(teacher.model.config)
    keep = range(student_layers(teacher, shape)) if keep is None else keep
    config.num_hidden_layers = len(keep)
    for name in PER_LAYER:
        if getattr(config, name, None):
            setattr(config, name, [getattr(config, name)[index] for index in keep])
    if getattr(config, "max_window_layers", None) is not None:
        config.max_window_layers = min(config.max_window_layers, len(keep))
    if shape.widths:
        config.head_dim = head_width(config)
        for name, value in student_widths(teacher, shape).items():
            setattr(config, FIELDS[name], value)
        check_config(config)
    return config


def check_config(config: Any) -> None:
    """Raise ConfigError where the architecture's own rules refuse the configuration."""
    from huggingface_hub.errors import StrictDataclassError

    try:
        config.validate()
    except StrictDataclassError as error:
        raise ConfigError(
            f"{type(config).__name__} refuses the student's shape: {error.__cause__ or error}",
            hint="change the shape in the study file",
        ) from error


def blank(teacher: LoadedModel, config: Any) -> Any:
    """A model of the teacher's class, dtype and device, with the random weights of its own initialisation.

    Of a teacher without weights (on the meta device) the student is float32, on the processor.
    """
    model = type(teacher.model)(config).eval()
    return model if teacher.model.device.type == "meta" else model.to(teacher.model.device, teacher.model.dtype)


def scratch(teacher: LoadedModel, shape: Shape | int, seed: int) -> LoadedModel:
    """A student with random weights, drawn from `seed` alone, as the model's own initialisation has them.

    `shape` may be a number of layers alone.
    """
    import torch

    shape = Shape(layers=shape) if isinstance(shape, int) else shape
    config = student_config(teacher, shape)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return LoadedModel(blank(teacher, config), teacher.tokenizer)


def from_layers(teacher: LoadedModel, keep: Sequence[int]) -> LoadedModel:
    """A student made of copies of the teacher's layers `keep`, in order, with its embeddings, norms and head."""
    import torch

    with torch.random.fork_rng(devices=[]):
        model = blank(teacher, student_config(teacher, Shape(layers=len(keep)), keep))
    model.load_state_dict(kept_state(teacher.model, keep))
    return LoadedModel(model, teacher.tokenizer)


def kept_state(model: Any, keep: Sequence[int]) -> dict[str, Any]:
    """The state of a model without its other layers, under the names that the layers `keep` have in the student."""
    prefix = decoder_prefix(model) + "layers."
    place = {old: new for new, old in enumerate(keep)}
    state = {}
    for name, tensor in model.state_dict().items():
        if name.startswith(prefix):
            index, rest = name.removeprefix(prefix).split(".", 1)
            if int(index) not in place:
                continue
            name = f"{prefix}{place[int(index)]}.{rest}"
        state[name] = tensor
    return state


def decoder_prefix(model: Any) -> str:
    """What the names of the decoder's parameters begin with: 'model.' in most architectures."""
    decoder = model.get_decoder()
    name = next(name for name, module in model.named_modules() if module is decoder)
    return f"{name}." if name else ""


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

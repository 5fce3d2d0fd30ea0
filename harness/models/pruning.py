"""Students made from the teacher; those of any width are cut out of it by the size of its activations.

After Minitron (Muralidharan et al. 2024, arXiv 2407.14679, section 2.2): the least important heads, channels and hidden
dimensions go, as `importance` measures them. Heads go in whole groups with the kv head that they share; a hidden
dimension counts in the norms of the layers that stay. Layers go by block influence.

Beyond the paper, what depends on the hidden width is folded into the weights. An RMS norm divides by the root mean
square over the width, and that changes with it: each norm's weight takes the factor that restores its scale, by the
share of energy that the kept dimensions had. Embeddings scaled by the root of the width (Gemma) take the inverse.
"""

import math
import re
from collections.abc import Sequence
from typing import Any

from harness.config import Shape
from harness.errors import ConfigError
from harness.models.importance import AGGREGATION, NORMS, Measured, measure, most_influential, norms
from harness.models.load import LoadedModel
from harness.models.students import (
    FIELDS,
    blank,
    decoder_layers,
    decoder_prefix,
    from_layers,
    head_width,
    kept_state,
    layers_by_rule,
    scratch,
    student_config,
    student_layers,
    student_widths,
)
from harness.progress import Report

DIGITS = 6  # of an importance as it is saved; the choice is made on the saved figures, so that they explain it

AXES: dict[str, tuple[str, ...]] = {  # which width each axis of a parameter runs along
    "embed_tokens.weight": ("vocabulary", "hidden"),
    "lm_head.weight": ("vocabulary", "hidden"),
    "norm.weight": ("hidden",),
    **{f"{name}.weight": ("hidden",) for name in NORMS},
    "self_attn.q_proj.weight": ("heads", "hidden"),
    "self_attn.k_proj.weight": ("kv_heads", "hidden"),
    "self_attn.v_proj.weight": ("kv_heads", "hidden"),
    "self_attn.o_proj.weight": ("hidden", "heads"),
    "self_attn.q_proj.bias": ("heads",),
    "self_attn.k_proj.bias": ("kv_heads",),
    "self_attn.v_proj.bias": ("kv_heads",),
    "self_attn.o_proj.bias": ("hidden",),
    "self_attn.q_norm.weight": ("head",),
    "self_attn.k_norm.weight": ("head",),
    "mlp.gate_proj.weight": ("mlp", "hidden"),
    "mlp.up_proj.weight": ("mlp", "hidden"),
    "mlp.down_proj.weight": ("hidden", "mlp"),
    "mlp.gate_proj.bias": ("mlp",),
    "mlp.up_proj.bias": ("mlp",),
    "mlp.down_proj.bias": ("hidden",),
}


def make_student(
    teacher: LoadedModel,
    shape: Shape,
    start: str,
    calibration_rows: Sequence[Sequence[int]],
    seed: int,
    progress: Report,
) -> tuple[LoadedModel, dict[str, Any]]:
    """A student of a shape, with a start of 'scratch', 'teacher-layers' or 'importance', and how it was made.

    `calibration_rows` are token ids on which importance is measured. How: start, layers, the widths, parameters, and
    where measured or chosen layers_kept, block_influence and importance. Raises ConfigError for a shape that cannot be.
    """
    how: dict[str, Any] = {"start": start}
    if start == "scratch":
        student = scratch(teacher, shape, seed)
    elif start == "teacher-layers":
        have = len(decoder_layers(teacher.model))
        layers = student_layers(teacher, shape)
        how["layers_kept"] = layers_by_rule(have, layers, shape.keep or "even")
        student = from_layers(teacher, how["layers_kept"])
    else:
        student, measured = prune(teacher, shape, calibration_rows, progress)
        how |= measured
    how["layers"] = len(decoder_layers(student.model))
    how |= {name: getattr(student.model.config, field, None) for name, field in FIELDS.items()}
    how["parameters"] = sum(parameter.numel() for parameter in student.model.parameters())
    return student, how


def prune(
    teacher: LoadedModel, shape: Shape, calibration_rows: Sequence[Sequence[int]], progress: Report
) -> tuple[LoadedModel, dict[str, Any]]:
    """A student of the teacher's most important layers, heads, channels and hidden dimensions, and what was measured.

    How: layers_kept, block_influence and, where the shape names widths, importance: 'heads' and 'mlp' by layer of the
    teacher, 'hidden' over the kept layers, where cut. Raises ConfigError for an architecture that it does not know.
    """
    layers = student_layers(teacher, shape)
    if not any(map(len, calibration_rows)):
        raise ConfigError(
            "there is no text to measure importance on", hint="give the training a corpus, or another start"
        )
    widths = student_widths(teacher, shape) if shape.widths else {}
    if widths:
        check_architecture(teacher)
        _check_groups(teacher, widths)

    def on_row(done: int) -> None:
        progress(0, 0, f"measuring importance, row {done + 1} of {len(calibration_rows)}")

    measured = measure(teacher, calibration_rows, on_row, with_widths=bool(widths))
    keep = most_influential(measured.layers, layers)
    how: dict[str, Any] = {"layers_kept": keep, "block_influence": measured.layers}
    if not widths:
        return from_layers(teacher, keep), how
    tables, picks = choose(teacher, widths, measured, keep)
    how["importance"] = {"aggregation": AGGREGATION, **tables}
    return _cut(teacher, student_config(teacher, shape, keep), keep, picks, measured), how


def check_architecture(teacher: LoadedModel) -> None:
    """Raise ConfigError unless every parameter is one whose axes are known, and every norm is an RMS norm."""
    model, config = teacher.model, teacher.model.config
    way_out = 'take start = "scratch", a shape of layers alone, or give the student a source'
    missing = [value for value in FIELDS.values() if getattr(config, value, None) is None]
    if missing:
        raise ConfigError(f"{type(config).__name__} has no {missing[0]} to make narrower", hint=way_out)
    head = head_width(config)
    size = {"hidden": config.hidden_size, "mlp": config.intermediate_size, "head": head}
    size |= {"heads": config.num_attention_heads * head}
    size |= {"kv_heads": config.num_key_value_heads * head}
    for name, tensor in model.state_dict().items():
        axes = AXES.get(_role(model, name))
        known = axes is not None and len(axes) == tensor.ndim
        for axis, length in zip(axes or (), tensor.shape, strict=False):
            known = known and size.get(axis, length) == length
        if not known:
            raise ConfigError(
                f"{type(model).__name__} has a part that cannot be made narrower: {name} {list(tensor.shape)}",
                hint=way_out,
            )
    for name, module in norms(model).items():
        if _norm_offset(module) is None:
            raise ConfigError(f"{type(model).__name__}: {name} is no RMS norm, its width cannot change", hint=way_out)


def choose(
    teacher: LoadedModel, widths: dict[str, int], measured: Measured, keep: Sequence[int]
) -> tuple[dict[str, Any], dict[str, Any]]:
    """The importances as they are saved, of the widths that are cut, and the indices that the student keeps.

    Indices: 'hidden' one list; 'heads', 'kv_heads' and 'mlp' a list for each kept layer, by its index in the teacher.
    """
    config = teacher.model.config
    everything = len(measured.layers)
    kv = config.num_key_value_heads
    heads = {index: _rounded(measured.heads[index]) for index in range(everything)}
    mlp = {index: _rounded(measured.mlp[index]) for index in range(everything)}
    prefix = decoder_prefix(teacher.model) + "layers."
    dropped = tuple(f"{prefix}{index}." for index in range(everything) if index not in set(keep))
    hidden = _rounded(sum(value for name, value in measured.hidden.items() if not name.startswith(dropped or "\0")))
    picks: dict[str, Any] = {"hidden": most_influential(hidden, widths["hidden"]), "heads": {}, "kv_heads": {}}
    for index in keep:
        picks["kv_heads"][index], picks["heads"][index] = pick_heads(
            heads[index], kv, widths["heads"], widths["kv_heads"]
        )
    picks["mlp"] = {index: most_influential(mlp[index], widths["mlp"]) for index in keep}
    tables: dict[str, Any] = {}
    if (widths["heads"], widths["kv_heads"]) != (config.num_attention_heads, kv):
        tables["heads"] = [heads[index] for index in range(everything)]
    if widths["mlp"] != config.intermediate_size:
        tables["mlp"] = [mlp[index] for index in range(everything)]
    if widths["hidden"] != config.hidden_size:
        tables["hidden"] = hidden
    return tables, picks


def pick_heads(importance: Sequence[float], kv: int, heads: int, kv_heads: int) -> tuple[list[int], list[int]]:
    """Which of `kv` kv heads and which query heads stay: the groups with the largest sums, in them the best heads."""
    share, wanted = len(importance) // kv, heads // kv_heads
    groups = [importance[start : start + share] for start in range(0, len(importance), share)]
    kept = most_influential([sum(group) for group in groups], kv_heads)
    return kept, [group * share + place for group in kept for place in most_influential(groups[group], wanted)]


def _check_groups(teacher: LoadedModel, widths: dict[str, int]) -> None:
    config = teacher.model.config
    share, wanted = config.num_attention_heads // config.num_key_value_heads, widths["heads"] // widths["kv_heads"]
    if wanted > share:
        raise ConfigError(
            f"heads = {widths['heads']} and kv_heads = {widths['kv_heads']} put {wanted} query heads on a kv head, "
            f"and the teacher has {share}: such a student cannot be cut out of it",
            hint=f'take at most {share * widths["kv_heads"]} heads, or start = "scratch"',
        )


def _cut(teacher: LoadedModel, config: Any, keep: Sequence[int], picks: dict[str, Any], measured: Measured) -> Any:
    import torch

    with torch.random.fork_rng(devices=[]):
        student = blank(teacher, config)
    head, prefix = head_width(config), decoder_prefix(teacher.model) + "layers."
    state = {}
    for name, tensor in kept_state(teacher.model, keep).items():
        layer = keep[int(name.removeprefix(prefix).split(".")[0])] if name.startswith(prefix) else -1
        for axis, width in enumerate(AXES[_role(teacher.model, name)]):
            if width == "hidden":
                kept = picks["hidden"]
            elif width == "mlp":
                kept = picks["mlp"][layer]
            elif width in ("heads", "kv_heads"):
                kept = [index * head + inside for index in picks[width][layer] for inside in range(head)]
            else:
                continue
            tensor = tensor.index_select(axis, torch.tensor(kept, device=tensor.device))
        state[name] = tensor
    student.load_state_dict(state)
    _fold(teacher, student, keep, picks["hidden"], measured)
    return LoadedModel(student, teacher.tokenizer)


def _fold(teacher: LoadedModel, student: Any, keep: Sequence[int], hidden: Sequence[int], measured: Measured) -> None:
    """Give norms and scaled embeddings the factors that undo the change of width."""
    import torch

    full = teacher.model.config.hidden_size
    if len(hidden) == full:
        return
    prefix = decoder_prefix(teacher.model) + "layers."
    scale = _embedding_scale(teacher.model) / _embedding_scale(student)
    embedding, output = student.get_input_embeddings().weight, student.get_output_embeddings().weight
    with torch.no_grad():
        embedding.mul_(scale)
        for name, module in norms(student).items():
            place = re.match(rf"{re.escape(prefix)}(\d+)\.(.*)", name)
            before = measured.energy[f"{prefix}{keep[int(place[1])]}.{place[2]}" if place else name]
            share = float(before[list(hidden)].sum() / before.sum()) if before.sum() > 0 else 1.0
            factor = math.sqrt(full / len(hidden) * share)
            if not place and output is embedding:
                factor /= scale  # the head shares the embedding's weight, and is not scaled
            offset = _norm_offset(module)
            assert offset is not None
            module.weight.add_(offset).mul_(factor).sub_(offset)


def _norm_offset(module: Any) -> float | None:
    """What an RMS norm adds to its weight: 0, or 1 as in Gemma; None if the module is no RMS norm."""
    import torch

    x_D = torch.linspace(-1, 2, module.weight.numel(), dtype=module.weight.dtype, device=module.weight.device)
    with torch.no_grad():
        got_D = module(x_D).double()
    plain_D = x_D.double() / x_D.double().pow(2).mean().sqrt()
    for offset in (0.0, 1.0):
        if torch.allclose(got_D, plain_D * (offset + module.weight.double()), rtol=2e-2, atol=2e-2):
            return offset
    return None


def _embedding_scale(model: Any) -> float:
    """By how much the embedding layer multiplies its weights: 1 in most models, in Gemma the root of the width."""
    import torch

    embedding = model.get_input_embeddings()
    with torch.no_grad():
        token = embedding.weight.norm(dim=1).argmax()  # not a padding token of zeros
        row_D, seen_D = embedding.weight[token].double(), embedding(token).double()
        return float((seen_D @ row_D) / (row_D @ row_D))


def _role(model: Any, name: str) -> str:
    return re.sub(r"^layers\.\d+\.", "", name.removeprefix(decoder_prefix(model)))


def _rounded(values: Any) -> list[float]:
    return [float(f"{float(value):.{DIGITS}g}") for value in values]

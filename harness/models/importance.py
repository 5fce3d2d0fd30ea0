"""What calibration text shows of a model: how much each layer, head, channel and hidden dimension contributes.

Block influence follows ShortGPT (Men et al. 2024, section 3.1): 1 - the mean cosine similarity of a layer's input
and output. A layer that hardly turns its input is redundant.

Widths follow Minitron (Muralidharan et al. 2024, arXiv 2407.14679, section 2.2), all in the same forward pass: a
head's importance is the L2 norm of its output, a feed-forward channel's its mean |activation|, a hidden dimension's its
mean |output| of a norm; each is the mean over a row's positions and the L2 norm over rows.
"""

import contextlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from harness.models.load import LoadedModel
from harness.models.students import decoder_layers, head_width

if TYPE_CHECKING:
    import torch

AGGREGATION = "mean over positions, L2 norm over rows"
NORMS = ("input_layernorm", "post_attention_layernorm", "pre_feedforward_layernorm", "post_feedforward_layernorm")


@dataclass
class Measured:
    """What calibration showed of the teacher; sums over rows until `measure` has ended, then importances."""

    layers: list[float] = field(default_factory=list)  # block influence
    heads: dict[int, "torch.Tensor"] = field(default_factory=dict)  # layer -> [heads]
    mlp: dict[int, "torch.Tensor"] = field(default_factory=dict)  # layer -> [channels]
    hidden: dict[str, "torch.Tensor"] = field(default_factory=dict)  # norm -> [hidden]
    energy: dict[str, "torch.Tensor"] = field(default_factory=dict)  # norm -> sum of squares of its input [hidden]


def measure(
    teacher: LoadedModel,
    rows: Sequence[Sequence[int]],
    on_row: Callable[[int], None] = lambda done: None,
    with_widths: bool = True,
) -> Measured:
    """Block influence and, on the same pass, the importance of heads, channels and hidden dimensions, in float64."""
    measured = Measured()
    with _watching(teacher.model, measured) if with_widths else contextlib.nullcontext():
        measured.layers = block_influence(teacher, [row for row in rows if len(row)], on_row)
    for table in (measured.heads, measured.mlp, measured.hidden):
        for key in table:
            table[key] = table[key].sqrt()
    return measured


@contextlib.contextmanager
def _watching(model: Any, measured: Measured) -> Iterator[None]:
    """Hooks on the inputs of output projections and on the norms; each call is one row [1, T, width]."""
    head = head_width(model.config)

    def add(table: dict[Any, "torch.Tensor"], key: Any, value: "torch.Tensor") -> None:
        table[key] = table[key] + value.cpu() if key in table else value.cpu()

    def heads(index: int) -> Callable[..., None]:
        def look(module: Any, inputs: Any) -> None:
            norm_TH = inputs[0][0].double().unflatten(-1, (-1, head)).norm(dim=-1)
            add(measured.heads, index, norm_TH.mean(0) ** 2)

        return look

    def channels(index: int) -> Callable[..., None]:
        return lambda module, inputs: add(measured.mlp, index, inputs[0][0].double().abs().mean(0) ** 2)

    def norm(name: str) -> Callable[..., None]:
        def look(module: Any, inputs: Any, output: Any) -> None:
            add(measured.hidden, name, output[0].double().abs().mean(0) ** 2)
            add(measured.energy, name, (inputs[0][0].double() ** 2).sum(0))

        return look

    handles = []
    for index, layer in enumerate(decoder_layers(model)):
        handles.append(layer.self_attn.o_proj.register_forward_pre_hook(heads(index)))
        handles.append(layer.mlp.down_proj.register_forward_pre_hook(channels(index)))
    handles += [module.register_forward_hook(norm(name)) for name, module in norms(model).items()]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


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
            similar_BT = torch.nn.functional.cosine_similarity(inputs[0], after_BTD, dim=-1)
            cosine[index] += similar_BT.double().sum().cpu()

        return compare

    handles = [layer.register_forward_hook(hook(index)) for index, layer in enumerate(layers)]
    try:
        with torch.inference_mode():
            for done, row in enumerate(rows):
                on_row(done)
                ids_BT = torch.tensor([list(row)], device=teacher.model.device)
                teacher.model.get_decoder()(input_ids=ids_BT, use_cache=False)
    finally:
        for handle in handles:
            handle.remove()
    positions = sum(map(len, rows))
    return [1 - float(value) / positions for value in cosine]


def most_influential(influence: Sequence[float], keep: int) -> list[int]:
    """Indices of the `keep` highest values (of layers, heads, channels), rising; ties go to the earlier ones."""
    best = sorted(range(len(influence)), key=lambda index: (-influence[index], index))[:keep]
    return sorted(best)


def norms(model: Any) -> dict[str, Any]:
    """The norms over the hidden width, by name."""
    return {name: module for name, module in model.named_modules() if name.rsplit(".", 1)[-1] in (*NORMS, "norm")}

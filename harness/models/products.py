"""Matrix products by oneDNN with weights laid out for it once: the same float32 sums in less time.

torch multiplies float32 on a processor with MKL, which leaves the widest vector units of some processors idle and goes
through every weight in an order that suits no cache. oneDNN, which torch brings too, does neither once a weight is laid
out as it likes. A layer's output row does not depend on the rows beside it, from 8 rows on.

docs/benchmarks.md has what was measured.
"""

import contextlib
import functools
import platform
from collections.abc import Iterator, Sequence
from typing import Any

import torch

from harness.tune import let_go_of_file

ROWS = 256
"""What weights are laid out for; other numbers of rows use the same layout."""
AT_ONCE = 192
"""Inputs whose float32 products are summed up at once. oneDNN would go through all of them in one sum; in shorter ones,
that are then added, less is lost, and on AVX2 they are MKL's own: the results are the same bit by bit."""
DTYPES = (torch.float32, torch.bfloat16)

LaidOut = tuple[torch.Tensor, ...]


def _still(weight: torch.Tensor) -> torch.nn.Parameter:
    return torch.nn.Parameter(weight, requires_grad=False)


class PackedLinear(torch.nn.Linear):
    """A linear layer that keeps its weight in oneDNN's layout only, for inference.

    It multiplies in `dtype`; under autocast its output has that type, as everybody's would, else that of its input.
    `weight` has its shape and type and takes no memory; its values are NaN, so that nobody computes with them unseen.
    """

    def __init__(self, linear: torch.nn.Linear, dtype: torch.dtype):
        torch.nn.Module.__init__(self)
        self.in_features, self.out_features = linear.in_features, linear.out_features
        weight_OI = linear.weight.detach().to(dtype)
        self.laid_out = lay_out(weight_OI)
        hollow_OI = weight_OI.new_full((1, 1), torch.nan).expand(weight_OI.shape)
        self.weight = _still(hollow_OI)
        self.bias = linear.bias if linear.bias is None or linear.bias.dtype == dtype else _still(linear.bias.to(dtype))
        self.training = False

    def forward(self, given: torch.Tensor) -> torch.Tensor:
        out = product(given.to(self.weight.dtype), self.laid_out, self.bias)
        return out if torch.is_autocast_enabled("cpu") else out.to(given.dtype)


def lay_out(weight_OI: torch.Tensor) -> LaidOut:
    """A weight in oneDNN's layout, for `product`: in parts of so many inputs as are summed up at once."""
    # bfloat16 is summed up in float32 and rounded once, at the end.
    parts = weight_OI.split(AT_ONCE, dim=1) if weight_OI.dtype == torch.float32 else (weight_OI,)
    return tuple(torch.ops.mkldnn._reorder_linear_weight(part_Oi.contiguous(), ROWS) for part_Oi in parts)


def product(given: torch.Tensor, laid_out: LaidOut, bias_O: torch.Tensor | None = None) -> torch.Tensor:
    """given [..., I] times a weight [O, I] that is laid out: [..., O]."""
    multiply = torch.ops.mkldnn._linear_pointwise
    if len(laid_out) == 1:
        return multiply(given, laid_out[0], bias_O, "none", [], "")  # type: ignore[no-any-return]
    out: torch.Tensor | None = None
    for given_part, part in zip(given.split(AT_ONCE, dim=-1), laid_out, strict=True):
        found = multiply(given_part, part, None, "none", [], "")
        out = found if out is None else out.add_(found)
    assert out is not None
    return out if bias_O is None else out.add_(bias_O)


class _Linear(torch.autograd.Function):
    """float32 products by oneDNN whose weights change: laid out anew in each product."""

    @staticmethod
    def forward(ctx: Any, given: torch.Tensor, weight_OI: torch.Tensor, bias_O: torch.Tensor | None) -> torch.Tensor:
        ctx.save_for_backward(given, weight_OI)
        return _once(given, weight_OI, bias_O)

    @staticmethod
    def backward(ctx: Any, grad: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        given, weight_OI = ctx.saved_tensors
        grad_NO, given_NI = grad.reshape(-1, grad.shape[-1]), given.reshape(-1, given.shape[-1])
        wanted = ctx.needs_input_grad
        return (
            _once(grad, weight_OI.t()) if wanted[0] else None,
            _once(grad_NO.t(), given_NI.t()) if wanted[1] else None,
            grad_NO.sum(0) if wanted[2] else None,
        )


def _once(given: torch.Tensor, weight_OI: torch.Tensor, bias_O: torch.Tensor | None = None) -> torch.Tensor:
    out: torch.Tensor = torch.ops.mkldnn._linear_pointwise(given, weight_OI, bias_O, "none", [], "")
    return out


def linear(given: torch.Tensor, weight_OI: torch.Tensor, bias_O: torch.Tensor | None = None) -> torch.Tensor:
    """torch's `linear` with its gradients; float32 on a processor by oneDNN."""
    if given.dtype == weight_OI.dtype == torch.float32 and not torch.is_autocast_enabled("cpu") and packable(weight_OI):
        return _Linear.apply(given, weight_OI, bias_O)  # type: ignore[no-any-return]
    return torch.nn.functional.linear(given, weight_OI, bias_O)


class TrainedLinear(torch.nn.Linear):
    """A linear layer that multiplies by `linear`."""

    def forward(self, given: torch.Tensor) -> torch.Tensor:
        return linear(given, self.weight, self.bias)


@contextlib.contextmanager
def quick(model: Any) -> Iterator[None]:
    """Within it, the linear layers of a model in training multiply by `linear`; their weights stay theirs."""
    found = [module for module in model.modules() if type(module) is torch.nn.Linear]
    for module in found:
        module.__class__ = TrainedLinear
    try:
        yield
    finally:
        for module in found:
            module.__class__ = torch.nn.Linear


def packable(weight: torch.Tensor) -> bool:
    """Whether this torch on this processor multiplies a weight like this one by oneDNN."""
    return weight.device.type == "cpu" and weight.dtype in DTYPES and _works(weight.dtype)


@functools.cache
def _works(dtype: torch.dtype) -> bool:
    """Whether the two operations, which torch keeps to itself, are there and multiply."""
    if platform.machine().lower() not in ("x86_64", "amd64") or not torch.backends.mkldnn.is_available():
        return False
    given_NI, weight_OI = torch.linspace(-1, 1, 8 * 48).view(8, 48), torch.linspace(-1, 2, 32 * 48).view(32, 48)
    wanted_NO = given_NI @ weight_OI.T
    try:
        found_NO = product(given_NI.to(dtype), lay_out(weight_OI.to(dtype)))
    except (RuntimeError, AttributeError, TypeError, NotImplementedError):
        return False
    return torch.allclose(found_NO.float(), wanted_NO, rtol=1e-5 if dtype == torch.float32 else 2e-2, atol=1e-2)


@torch.no_grad()
def pack(model: Any, dtype: torch.dtype | None = None, probe: Sequence[int] = (1, 2, 3, 4)) -> int:
    """Swap the model's linear layers for packed ones, in place, where that can be done; returns how many.

    With `dtype` they multiply in that type, as under autocast; the rest of the model keeps its own. The output matrix
    stays, since it is often the embedding too. The model must not be trained or saved afterwards. A model that does not
    give the logits it gave before for the tokens `probe` gets its layers back: then 0.
    """
    head = model.get_output_embeddings()
    found = [
        name
        for name, module in model.named_modules()
        if type(module) is torch.nn.Linear
        and module is not head
        and packable(module.weight if dtype is None else module.weight.new_empty(0, dtype=dtype))
    ]
    if not found:
        return 0
    ids_1T = torch.as_tensor([*probe])[None]
    half = torch.autocast("cpu", torch.bfloat16, enabled=dtype == torch.bfloat16)
    with half:
        wanted = model(input_ids=ids_1T).logits
    plain = {} if dtype is None else {name: model.get_submodule(name) for name in found}  # rounded, they are lost
    for name in found:
        module = model.get_submodule(name)
        _swap(model, name, PackedLinear(module, dtype or module.weight.dtype))
        let_go_of_file(module.weight.data_ptr(), module.weight.nbytes)
    try:
        with half:
            got = model(input_ids=ids_1T).logits
        slack = 1e-3 if got.dtype == torch.float32 else 5e-2
        same = bool((got - wanted).abs().max() <= slack * wanted.abs().max().clamp(min=1))
    except (RuntimeError, AttributeError, TypeError, ValueError):
        same = False  # an architecture that does more with its layers than call them
    if same:
        _leave_file(model)
        return len(found)
    for name in found:
        _swap(model, name, plain.get(name) or _plain(model.get_submodule(name)))
    return 0


def _leave_file(model: Any) -> None:
    """Copy what was not packed: weights lie in the mapped file, all of which stays in memory for the last of them."""
    for weight in model.parameters():
        if not any(weight.stride()[k] == 0 for k in range(weight.dim())):
            weight.data = weight.data.clone()


def _plain(packed: PackedLinear) -> torch.nn.Linear:
    linear = torch.nn.Linear(packed.in_features, packed.out_features, bias=packed.bias is not None, device="meta")
    linear.weight = torch.nn.Parameter(
        torch.cat([part.to_dense() for part in packed.laid_out], dim=1), requires_grad=False
    )
    linear.bias = packed.bias
    return linear.eval()


def _swap(model: Any, name: str, module: torch.nn.Module) -> None:
    parent, _, leaf = name.rpartition(".")
    setattr(model.get_submodule(parent), leaf, module)

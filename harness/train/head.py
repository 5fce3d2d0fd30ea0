"""From hidden states to losses without the logits: the output matrix, the divergence and their backward pass by chunks.

At a vocabulary of 49,000 the logits of 1,000 tokens are 200 MB, and a loss written plainly keeps half a dozen arrays
of that size. Here a chunk of positions at a time goes through the output matrix and the loss, and its gradient goes
back to the hidden states and into the matrix's gradient before the next chunk comes: the arrays stay in the cache of
the processor, and are freed at once.
"""

import copy
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch


@dataclass(frozen=True)
class Head:
    """A model's way from its last hidden states to its logits.

    `after` is what the architecture does to the product (soft-capping in Gemma 2, scaling in Cohere and Granite), None
    where it does nothing. `before` is what it does to hidden states [N, D] on the way to the matrix (the transform of
    a masked-LM head), None where they go there as they are.
    """

    weight_VD: "torch.Tensor"
    bias_V: "torch.Tensor | None"
    after: "Callable[[torch.Tensor], torch.Tensor] | None"
    before: "Callable[[torch.Tensor], torch.Tensor] | None" = None

    def taken(self, hidden_ND: "torch.Tensor") -> "torch.Tensor":
        """What the matrix is multiplied with, of hidden states of the last layer."""
        return self.before(hidden_ND) if self.before else hidden_ND

    def logits(self, hidden_ND: "torch.Tensor") -> "torch.Tensor":
        """Logits [N, V] in float32, with the gradients of ordinary autograd."""
        from harness.models.products import linear

        raw_NV = linear(hidden_ND.to(self.weight_VD.dtype), self.weight_VD, self.bias_V)
        return (self.after(raw_NV) if self.after else raw_NV).float()


def head_of(model: Any) -> Head | None:
    """The head of a causal language model; None where it cannot be taken apart, so that its own forward must do.

    What is taken apart is put to the proof: on a few tokens its logits must be those of the model.
    """
    import torch

    linear = model.get_output_embeddings()
    decoder = _decoder(model)
    if decoder is None or not isinstance(linear, torch.nn.Linear):
        return None
    head = Head(linear.weight, linear.bias, lambda raw_NV: _behind(model, decoder, linear, raw_NV))
    training = model.training
    model.eval()
    try:
        with torch.no_grad():
            ids_1T = torch.arange(1, 5, device=linear.weight.device)[None]
            hidden_TD = decoder(input_ids=ids_1T, use_cache=False).last_hidden_state[0]
            raw_TV = torch.nn.functional.linear(hidden_TD, linear.weight, linear.bias)
            wanted_TV = model(input_ids=ids_1T, use_cache=False).logits[0]
            if torch.allclose(raw_TV, wanted_TV, rtol=1e-4, atol=1e-5):
                return Head(linear.weight, linear.bias, None)
            # One position at a time: the chunks must not need each other.
            found_TV = torch.cat([head.logits(hidden_1D) for hidden_1D in hidden_TD.split(1)])
            return head if torch.allclose(found_TV, wanted_TV.float(), rtol=1e-4, atol=1e-5) else None
    except (TypeError, ValueError, AttributeError, RuntimeError, IndexError):
        return None  # an architecture of another make
    finally:
        model.train(training)


def _decoder(model: Any) -> Any:
    """The part of the model below its head, None where there is no such part."""
    decoder = model.get_decoder() if hasattr(model, "get_decoder") else None
    return None if decoder is model else decoder


def _behind(model: Any, decoder: Any, linear: Any, raw_NV: "torch.Tensor") -> "torch.Tensor":
    """What the model's own forward does to the product `raw_NV`: a twin of it is run with its other parts taken out."""
    import torch
    from transformers.modeling_outputs import BaseModelOutputWithPast

    class Given(torch.nn.Module):
        def forward(self, *args: Any, **kwargs: Any) -> BaseModelOutputWithPast:
            return BaseModelOutputWithPast(last_hidden_state=raw_NV[None])

    ids_1N = torch.zeros(1, len(raw_NV), dtype=torch.long, device=raw_NV.device)
    twin = _with_part(_with_part(model, decoder, Given()), linear, torch.nn.Identity())
    out_NV: torch.Tensor = twin(input_ids=ids_1N, use_cache=False).logits[0]
    return out_NV


def _with_part(model: Any, part: Any, other: Any) -> Any:
    """A model that has `other` in the place of `part` and everything else in common with `model`.

    Only the modules on the way to that place are copied; `model` stays as it is, as other threads may be at work in it.
    """
    name = next(name for name, module in model.named_modules() if module is part)
    twin = parent = _shallow(model)
    *way, leaf = name.split(".")
    for step in way:
        parent._modules[step] = _shallow(parent._modules[step])
        parent = parent._modules[step]
    parent._modules[leaf] = other
    return twin


def _shallow(module: Any) -> Any:
    twin = copy.copy(module)
    twin._modules = dict(module._modules)
    return twin


def backward_by_chunks(
    hidden_ND: "torch.Tensor",
    head: Head,
    chunk: int,
    slope_of: "Callable[[torch.Tensor, int, int], torch.Tensor]",
) -> "torch.Tensor":
    """The gradient [N, D] of a loss over positions with respect to `hidden_ND`; that of the head's matrix is added to
    its `.grad`.

    `slope_of(logits_nV, start, stop)` gives the gradient of the loss with respect to the logits of the positions from
    start to stop, in float32; it may overwrite them. The hidden states' own backward pass is the caller's.
    """
    import torch

    from harness.models.products import linear

    weight_VD = head.weight_VD.detach()
    states_ND = hidden_ND.detach().to(weight_VD.dtype)
    device = states_ND.device.type
    if torch.is_autocast_enabled(device):
        weight_VD = weight_VD.to(torch.get_autocast_dtype(device))
        states_ND = states_ND.to(weight_VD.dtype)
    learnt = head.weight_VD.requires_grad
    if learnt and head.weight_VD.grad is None:
        head.weight_VD.grad = torch.zeros_like(head.weight_VD)
    grad_ND = torch.empty_like(states_ND)
    for start in range(0, len(states_ND), chunk):
        stop = min(start + chunk, len(states_ND))
        raw_nV = linear(states_ND[start:stop], weight_VD)
        if head.bias_V is not None:
            raw_nV += head.bias_V.detach().to(raw_nV.dtype)
        grad_nV = _through_after(raw_nV, head, lambda logits_nV: slope_of(logits_nV, start, stop))  # noqa: B023
        grad_ND[start:stop] = linear(grad_nV, weight_VD.T)
        if learnt:
            assert head.weight_VD.grad is not None
            if grad_nV.dtype == head.weight_VD.grad.dtype:
                head.weight_VD.grad.addmm_(grad_nV.T, states_ND[start:stop])
            else:
                head.weight_VD.grad += grad_nV.T @ states_ND[start:stop]
        if head.bias_V is not None and head.bias_V.requires_grad:
            total_V = grad_nV.sum(0, dtype=head.bias_V.dtype)
            head.bias_V.grad = total_V if head.bias_V.grad is None else head.bias_V.grad + total_V
    return grad_ND.to(hidden_ND.dtype)


def _through_after(
    raw_nV: "torch.Tensor", head: Head, slope_of: "Callable[[torch.Tensor], torch.Tensor]"
) -> "torch.Tensor":
    """The gradient by the product `raw_nV`, back through what the architecture does to it, in the product's type."""
    import torch

    if head.after is None:
        with torch.no_grad():
            return slope_of(raw_nV.float()).to(raw_nV.dtype)
    raw_nV.requires_grad_()
    with torch.enable_grad():
        logits_nV = head.after(raw_nV).float()
    with torch.no_grad():
        slope_nV = slope_of(logits_nV.detach().clone())
    return torch.autograd.grad(logits_nV, raw_nV, slope_nV)[0]

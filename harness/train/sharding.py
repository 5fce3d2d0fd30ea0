"""FSDP2: a model split over the processes, each layer gathered only while it computes.

For models that do not fit into one device beside their gradients and moments. Every process has to run the same
forward and backward passes, because each of them gathers together with all others.
"""

import contextlib
import os
import warnings
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

from harness.errors import ConfigError

if TYPE_CHECKING:
    import torch


def asked() -> bool:
    """Whether accelerate launch was told to shard. Raises ConfigError for what Viva's trainer does not do."""
    told = os.environ.get
    if (
        told("ACCELERATE_USE_DEEPSPEED", "").lower() == "true"
        or told("ACCELERATE_USE_MEGATRON_LM", "").lower() == "true"
    ):
        raise ConfigError(
            "accelerate launch was told to use DeepSpeed or Megatron-LM, which Viva's trainer does not",
            hint="accelerate launch --use_fsdp --fsdp_version 2 shards students that do not fit into one device",
        )
    if told("ACCELERATE_USE_FSDP", "").lower() != "true":
        return False
    if told("FSDP_VERSION", "1") != "2":
        raise ConfigError(
            f"accelerate launch was told to use version {told('FSDP_VERSION', '1')} of FSDP; Viva's trainer has "
            "version 2",
            hint="add --fsdp_version 2",
        )
    if told("FSDP_OFFLOAD_PARAMS", "").lower() == "true":
        raise ConfigError(
            "accelerate launch was told to offload parameters, which Viva's trainer does not",
            hint="drop --fsdp_offload_params, or train low-rank adapters: [student.train.lora]",
        )
    if told("FSDP_ACTIVATION_CHECKPOINTING", "").lower() == "true":
        raise ConfigError(
            "accelerate launch was told to checkpoint activations; the study file decides that",
            hint="drop --fsdp_activation_checkpointing and set train.gradient_checkpointing = true",
        )
    return True


def shard(model: Any, device: "torch.device", precision: str = "float32") -> None:
    """Split `model` over all processes, in place: its decoder layers one by one, and the rest together.

    The rest holds embedding and head, so tied ones stay tied. Gradients are summed, not averaged: each process has
    divided by the counts of the whole step. With `precision` bfloat16, layers are gathered in it; what is kept and
    what is summed stays float32, and so do the hidden states between the layers, as under autocast on one device.
    """
    import torch
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import MixedPrecisionPolicy, fully_shard

    from harness.models.students import decoder_layers

    mesh = init_device_mesh(device.type, (torch.distributed.get_world_size(),))
    again = os.environ.get("FSDP_RESHARD_AFTER_FORWARD", "true").lower() != "false"
    policy = MixedPrecisionPolicy()
    if precision == "bfloat16":
        policy = MixedPrecisionPolicy(torch.bfloat16, torch.float32, cast_forward_inputs=False)
    for layer in decoder_layers(model):
        fully_shard(layer, mesh=mesh, mp_policy=policy, reshard_after_forward=again)
    fully_shard(model, mesh=mesh)
    for part in sharded_parts(model):
        part.set_gradient_divide_factor(1.0)
        part.set_force_sum_reduction_for_comms(True)  # gloo knows no other reduction
    # What is first gathered in inference mode could not be trained on later: gather everything once before.
    with torch.no_grad():
        for part in sharded_parts(model):
            part.unshard()
            part.reshard()
    warnings.filterwarnings("ignore", message="FSDP2-wrapped module .* returned a view", category=UserWarning)


def sharded_parts(model: Any) -> list[Any]:
    """The modules of `model` that are gathered as one."""
    from torch.distributed.fsdp import FSDPModule

    return [module for module in model.modules() if isinstance(module, FSDPModule)]


def let_go(model: Any) -> None:
    """Split what a forward pass has left whole: until then its parameters are others than those that are trained."""
    for part in sharded_parts(model):
        part.reshard()


@contextlib.contextmanager
def whole(model: Any, precision: str = "float32") -> Iterator[None]:
    """Within it the model is whole in every process, so that each may run as many forward passes as it likes.

    It has to fit for that time: without gradients and moments, which stay split.
    """
    import torch

    parts = sharded_parts(model)
    with torch.no_grad():
        for part in parts:
            part.set_reshard_after_forward(False, recurse=False)
            part.unshard()
    half = torch.autocast(next(model.parameters()).device.type, torch.bfloat16, enabled=precision == "bfloat16")
    try:
        with half:
            yield
    finally:
        for part in parts:
            part.set_reshard_after_forward(part is not model, recurse=False)
            part.reshard()


def put_whole(model: Any, state: Mapping[str, "torch.Tensor"]) -> None:
    """Set whole tensors in the place of this process's parts, on the CPU; tied ones stay tied."""
    import torch

    known: dict[int, torch.nn.Parameter] = {}
    for name, value in state.items():
        path, _, leaf = name.rpartition(".")
        module = model.get_submodule(path)
        if leaf in module._parameters:
            learnt = module._parameters[leaf].requires_grad
            known.setdefault(id(value), torch.nn.Parameter(value, requires_grad=learnt))
            module._parameters[leaf] = known[id(value)]
        else:
            module._buffers[leaf] = value


def split(value: "torch.Tensor") -> bool:
    """Whether this process holds only a part of the tensor."""
    from torch.distributed.tensor import DTensor

    return isinstance(value, DTensor)


def full(value: "torch.Tensor") -> "torch.Tensor":
    """The whole of a tensor that may be split over the processes, all of which have to ask for it together."""
    from torch.distributed.tensor import DTensor

    return value.full_tensor() if isinstance(value, DTensor) else value


def like(value: "torch.Tensor", other: "torch.Tensor") -> "torch.Tensor":
    """A whole tensor in the way in which `other` is kept: this process's part of it where that one is split."""
    from torch.distributed.tensor import DTensor, distribute_tensor

    value = value.to(other.device, other.dtype)
    if not isinstance(other, DTensor):
        return value
    part: torch.Tensor = distribute_tensor(value, other.device_mesh, other.placements, src_data_rank=None)
    return part

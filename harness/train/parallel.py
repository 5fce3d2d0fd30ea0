"""Several processes at one training: who takes which rows, and how their gradients become one step.

Started by `accelerate launch`; without it there is one process, and everything here is a formality. A step's rows are
dealt to the processes and the gradients added up, so the order of tokens and the step are those of one process. A
process that ends with an error is seen by the launcher, which ends the others: by SIGTERM, after half a minute by
SIGKILL.
"""

import contextlib
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import TYPE_CHECKING, Any, TypeVar

from harness.errors import ConfigError, VivaError
from harness.progress import say
from harness.train import sharding
from harness.train.trackers import trackers as trackers

if TYPE_CHECKING:
    import torch

T = TypeVar("T")

SIZES = ("WORLD_SIZE", "PMI_SIZE", "OMPI_COMM_WORLD_SIZE", "MV2_COMM_WORLD_SIZE")
PLACES = ("RANK", "LOCAL_RANK", "GROUP_RANK", "LOCAL_WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT", *SIZES)
PATIENCE = timedelta(hours=24)  # others wait while the main process lets the teacher write or saves a model
BUCKET_BYTES = 64 << 20  # of gradients that are added up in one call


def start() -> None:
    """Join the other processes of the launch; nothing where there is no launch.

    Raises ConfigError for a launch that Viva's trainer cannot follow.
    """
    told = os.environ.get
    if max(int(told(name, "1")) for name in SIZES) < 2:
        if told("ACCELERATE_USE_CPU", "").lower() == "true" and told("MASTER_ADDR"):
            say("accelerate launch --cpu starts a single process; several: ACCELERATE_USE_CPU=true and --multi_gpu")
        return
    import torch

    if torch.distributed.is_initialized():
        return
    sharding.asked()
    # transformers would leave the weights out in all processes but one; students are cut from real ones in each.
    os.environ["FSDP_CPU_RAM_EFFICIENT_LOADING"] = "false"
    from accelerate import PartialState

    there = torch.accelerator.current_accelerator() if torch.accelerator.is_available() else None
    cpu = told("ACCELERATE_USE_CPU", "").lower() == "true" or there is None or there.type == "mps"
    backend = "cuda:nccl,cpu:gloo" if there is not None and there.type == "cuda" and not cpu else None
    state = PartialState(cpu=cpu, timeout=PATIENCE, **({"backend": backend} if backend else {}))
    if not torch.distributed.is_initialized():
        raise ConfigError(
            f"this is one of several processes, but accelerate cannot join them on {state.device}",
            hint="set ACCELERATE_USE_CPU=true to train on the CPU",
        )
    if main():
        how = "sharded over" if sharding.asked() else "the rows of each step dealt to"
        say(f"training in {world()} processes, {how} them; this one computes on {state.device}")
        if told("ACCELERATE_MIXED_PRECISION", "no") != "no":
            say("accelerate's mixed precision is not used: train.precision of the study decides")


def stop() -> None:
    """Leave the launch: the main process goes on alone, the others end here."""
    if world() == 1:
        return
    leads = main()
    wait()
    from accelerate.state import AcceleratorState, PartialState

    PartialState().destroy_process_group()
    AcceleratorState._reset_state(reset_partial_state=True)
    if not leads:
        raise SystemExit(0)
    for name in PLACES:  # lm-eval would look for the other processes
        os.environ.pop(name, None)


def world() -> int:
    """How many processes train together."""
    import torch.distributed as dist

    return dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1


def rank() -> int:
    """Which of them this is, from 0."""
    import torch.distributed as dist

    return dist.get_rank() if dist.is_available() and dist.is_initialized() else 0


def main() -> bool:
    """Whether this process writes the files."""
    return rank() == 0


def device() -> "torch.device":
    """Where this process computes: its share of the launch's devices, or the first GPU, or the CPU."""
    import torch

    if world() > 1:
        from accelerate import PartialState

        found: torch.device = PartialState().device
        return found
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def share(rows: Sequence[T]) -> list[T]:
    """This process's share of a step's rows."""
    return list(rows[rank() :: world()])


def gather(value: T) -> list[T]:
    """The values of all processes, by rank; they meet here."""
    if world() == 1:
        return [value]
    import torch.distributed as dist

    found: list[Any] = [None] * world()
    dist.all_gather_object(found, value)
    return found


def wait() -> None:
    """Go on when all processes have come here."""
    gather(None)


def add_up(*parts: Mapping[str, float]) -> dict[str, Any]:
    """The sums, by name, of the numbers of all parts in all processes."""

    def summed(tables: Sequence[Mapping[str, float]]) -> dict[str, Any]:
        names = sorted({name for table in tables for name in table})
        return {name: sum(table.get(name, 0) for table in tables) for name in names}

    return summed(gather(summed(parts)))


def any_of(flag: bool) -> bool:
    """Whether the flag is set in any process, so that all stop after the same step."""
    return any(gather(flag))


def agree(error: VivaError | None = None) -> None:
    """Meet the others. Where one of them brings an error, it is raised in the main process, and the others end."""
    wrong = [one for one in gather(error) if one is not None]
    if wrong and main():
        raise error or wrong[0]
    if wrong:
        raise SystemExit(wrong[0].exit_code)


def in_turn(function: Callable[[], T]) -> T:
    """What the function returns, called by the main process first: the others find the files that it leaves.

    A VivaError in the main process ends all.
    """
    found: list[T] = []
    error = None
    if main():
        try:
            found.append(function())
        except VivaError as failed:
            error = failed
    agree(error)
    return found[0] if found else function()


def by_main(function: Callable[[], T]) -> T:
    """What the function returns, called by the main process alone; a VivaError in it ends all."""
    found: T | None = None
    error = None
    if main():
        try:
            found = function()
        except VivaError as failed:
            error = failed
    agree(error)
    first: Any = gather(found)[0]
    return first


def memory_mb() -> int:
    """Memory that this process holds, in MB."""
    import psutil

    return round(psutil.Process().memory_info().rss / 1e6)


@dataclass(frozen=True)
class Learner:
    """What is trained: the student and, beside it, the projections of the layer terms.

    `sharded`: every process holds a part of the student, and all must run the same passes. The projections are small
    and whole in every process.
    """

    model: Any
    beside: Any = None
    sharded: bool = False
    precision: str = "float32"

    def named(self) -> dict[str, Any]:
        """All parameters, each once, by name."""
        sharding.let_go(self.model)
        found = {f"model.{name}": value for name, value in self.model.named_parameters()}
        if self.beside is not None:
            found |= {f"beside.{name}": value for name, value in self.beside.named_parameters()}
        return found

    def trainable(self) -> dict[str, Any]:
        """The parameters that are trained, by name."""
        return {name: value for name, value in self.named().items() if value.requires_grad}

    def alike(self) -> list[list[Any]]:
        """What is trained, in lists of split and of whole parameters: torch takes no list of both."""
        trainable = list(self.trainable().values())
        sides = [[value for value in trainable if sharding.split(value) is side] for side in (False, True)]
        return [side for side in sides if side]

    def share(self, rows: Sequence[T]) -> tuple[list[T], list[T]]:
        """This process's rows of a step, and rows that it only runs along with, so that a sharded model's processes
        stay in step."""
        mine = share(rows)
        most = -(-len(rows) // world())
        return mine, list(rows[: most - len(mine)]) if self.sharded else []

    @contextlib.contextmanager
    def whole(self) -> Iterator[None]:
        """Within it each process may run the student as often as it likes: to let it write."""
        with sharding.whole(self.model, self.precision) if self.sharded else contextlib.nullcontext():
            yield

    def add_up_gradients(self) -> None:
        """Make every process's gradients the sum over all of them; a sharded student's are already."""
        if world() > 1:
            add_up_gradients([value for value in self.trainable().values() if not sharding.split(value)])

    def clip(self, limit: float) -> float:
        """Scale the gradients to a norm of at most `limit`; returns the norm that they had."""
        import torch

        if not self.sharded:
            return float(torch.nn.utils.clip_grad_norm_(list(self.trainable().values()), limit))
        sides = [[value for value in side if value.grad is not None] for side in self.alike()]
        norms = [sharding.full(torch.nn.utils.get_total_norm([value.grad for value in side])) for side in sides]
        norm = torch.linalg.vector_norm(torch.stack(norms))
        for side in sides:
            torch.nn.utils.clip_grads_with_norm_(side, limit, norm)
        return float(norm)


def add_up_gradients(parameters: Sequence[Any]) -> None:
    """Replace the gradients by their sums over all processes, many at a time.

    One that is missing here counts as zero; one that is missing everywhere stays missing, as in one process.
    """
    import torch
    import torch.distributed as dist

    if not parameters:
        return
    have = torch.tensor([value.grad is not None for value in parameters], dtype=torch.int32, device=device())
    dist.all_reduce(have, dist.ReduceOp.MAX)
    reached = [value for value, anywhere in zip(parameters, have.tolist(), strict=True) if anywhere]
    for bucket in _buckets(reached):
        for value in bucket:
            if value.grad is None:
                value.grad = torch.zeros_like(value)
        flat = torch.cat([value.grad.flatten() for value in bucket])
        dist.all_reduce(flat)
        for value, part in zip(bucket, flat.split([value.numel() for value in bucket]), strict=True):
            value.grad.copy_(part.view_as(value))


def _buckets(parameters: Sequence[Any]) -> Iterator[list[Any]]:
    """Parameters in their order, in runs of one type and of at most BUCKET_BYTES (or a single one)."""
    run: list[Any] = []
    size = 0
    for value in parameters:
        bytes_here = value.numel() * value.element_size()
        if run and (value.dtype != run[0].dtype or size + bytes_here > BUCKET_BYTES):
            yield run
            run, size = [], 0
        run.append(value)
        size += bytes_here
    if run:
        yield run


def pack_teacher(model: Any, precision: str, *, cached: bool = False) -> None:
    """Lay out the layers of a teacher for reading (`products`), in place, where it computes on a processor, unsplit.

    What a cache holds of a teacher is computed in float32, whatever the student's precision.
    """
    import torch

    from harness.models.products import pack

    if device().type == "cpu" and not sharding.asked():
        pack(model, torch.float32 if cached else getattr(torch, precision))


def place(model: Any, precision: str = "float32") -> Any:
    """Bring a model to this process's device, or its part of it where accelerate launch was told to shard."""
    if sharding.asked() and world() > 1:
        sharding.shard(model, device(), precision)
        return model
    return model.to(device())


def learner(model: Any, beside: Any, precision: str = "float32") -> Learner:
    """The learner of this process, with the main process's weights; `precision` is that of the forward pass."""
    if world() > 1:
        import torch
        import torch.distributed as dist

        with torch.no_grad():
            for part in (model, beside):
                for tensor in [*part.parameters(), *part.buffers()] if part is not None else []:
                    dist.broadcast(tensor.detach(), 0)
    if beside is not None:
        beside.to(device())
    return Learner(place(model, precision), beside, sharding.asked() and world() > 1, precision)


def full_state(model: Any) -> dict[str, "torch.Tensor"]:
    """The whole state of a model that may be split: in the main process, on the CPU; the others get an empty dict.

    All processes have to call it together. Tied parameters share their memory.
    """
    sharding.let_go(model)
    kept = model.state_dict().keys()
    named = [*model.named_parameters(remove_duplicate=False), *model.named_buffers(remove_duplicate=False)]
    found: dict[str, torch.Tensor] = {}
    known: dict[int, Any] = {}
    for name, value in named:
        if name not in kept:
            continue  # a buffer that the model makes anew
        if id(value) not in known:
            whole = sharding.full(value.detach())
            known[id(value)] = whole.cpu() if main() else None
        if main():
            found[name] = known[id(value)]
    return found


def unsplit(model: Any) -> None:
    """Give the main process all of a split student, to be saved; it can no longer be run. All call it together."""
    if sharding.sharded_parts(model):
        state = full_state(model)
        if main():
            sharding.put_whole(model, state)

"""Several processes, one for each device, that train one model together.

Every process knows the whole of a step: its groups, its denominators, its rollouts. The micro-batches alone
are divided (``mine``). Gradients, metrics and counts are added up afterwards, so that a loss is what it is in
one process, whether it is normalised by tokens, answers or votes. Rank 0 alone writes files.

Without ``join`` there is one process, and nothing here does anything.
"""

import dataclasses
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from datetime import timedelta
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor, nn

from training.tuning.errors import BadInput
from training.tuning.launching import RENDEZVOUS, world_size

PATIENCE = timedelta(hours=2)  # for the slowest process, say while rank 0 writes a large result
T = TypeVar("T")
R = TypeVar("R")


def join() -> None:
    """Meet the other processes, if this one was started as one of several (by us, accelerate or torchrun)."""
    if world_size() == 1 or dist.is_initialized():
        return
    from accelerate import PartialState

    device = os.environ.get("TIEBREAK_DEVICE") or ("cuda" if torch.cuda.is_available() else "cpu")
    local = int(os.environ.get("LOCAL_RANK", "0"))
    if device.startswith("cuda") and local >= torch.cuda.device_count():
        raise BadInput(
            f"this machine has {torch.cuda.device_count()} devices, fewer than processes",
            field="config.processes",
        )
    options: dict[str, Any] = {"timeout": PATIENCE}
    if place := os.environ.get(RENDEZVOUS):
        options["init_method"] = place
    PartialState(cpu=device == "cpu", backend="gloo" if device == "cpu" else None, **options)


def leave() -> None:
    """Wait for the others, and part. Not after an error: they may never come."""
    if count() > 1:
        dist.barrier()
        dist.destroy_process_group()


def count() -> int:
    """How many processes there are."""
    return dist.get_world_size() if dist.is_initialized() else 1


def rank() -> int:
    """Which one this is, from 0."""
    return dist.get_rank() if dist.is_initialized() else 0


def leads() -> bool:
    """Whether this is the process that writes files."""
    return rank() == 0


def device() -> torch.device:
    """The device that this process computes on: of several with CUDA, each has its own."""
    kind = os.environ.get("TIEBREAK_DEVICE") or ("cuda" if torch.cuda.is_available() else "cpu")
    several = kind == "cuda" and count() > 1
    return torch.device(f"cuda:{os.environ['LOCAL_RANK']}" if several else kind)


def device_memory(device: torch.device) -> dict[str, float]:
    """``memory/allocated_gib`` and ``memory/peak_gib`` of this process's tensors, ``memory/total_gib`` of its
    device. Empty on a CPU, whose memory belongs to everybody."""
    if device.type != "cuda":
        return {}
    told = {
        "allocated": torch.cuda.memory_allocated(device),
        "peak": torch.cuda.max_memory_allocated(device),
        "total": torch.cuda.get_device_properties(device).total_memory,
    }
    return {f"memory/{name}_gib": value / 2**30 for name, value in told.items()}


def mine(items: Sequence[T]) -> Sequence[T]:
    """The share of this process: every n-th."""
    return items[rank() :: count()]


def shared(items: Sequence[T], work: Callable[[T], R]) -> list[R]:
    """``work(item)`` of every item, in order, on every process; each computes a share of them.

    Tensors in what ``work`` returns (alone, in tuples, lists or dataclasses) lose their gradients. All
    processes call ``work`` equally often, so that sharded weights can be read inside of it.
    """
    if count() == 1:
        return [work(item) for item in items]
    rounds = range(0, len(items), count())
    own = [work(items[min(at + rank(), len(items) - 1)]) for at in rounds]
    gathered: list[list[R]] = [[] for _ in range(count())]
    dist.all_gather_object(gathered, _moved(own, torch.device("cpu")))
    found = [gathered[at % count()][at // count()] for at in range(len(items))]
    return list(_moved(found, _device_in(own)))


def _moved(value: Any, device: torch.device) -> Any:
    """The same with every tensor detached and on ``device``."""
    if isinstance(value, Tensor):
        return value.detach().to(device)
    if isinstance(value, list | tuple):
        return type(value)(_moved(one, device) for one in value)
    if isinstance(value, dict):
        return {name: _moved(one, device) for name, one in value.items()}
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        kept = {one.name: _moved(getattr(value, one.name), device) for one in dataclasses.fields(value)}
        return dataclasses.replace(value, **kept)
    return value


def _device_in(value: Any) -> torch.device:
    """Where the tensors of a nested value lie; the CPU if there are none."""
    return next((one.device for one in _tensors(value)), torch.device("cpu"))


def _tensors(value: Any) -> Iterator[Tensor]:
    if isinstance(value, Tensor):
        yield value
        return
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        value = {one.name: getattr(value, one.name) for one in dataclasses.fields(value)}
    inside = value.values() if isinstance(value, dict) else value if isinstance(value, list | tuple) else ()
    for one in inside:
        yield from _tensors(one)


def add_up(values: dict[str, float]) -> dict[str, float]:
    """The sums over all processes, by name, in the order of names of the first that has them."""
    if count() == 1:
        return values
    gathered: list[dict[str, float]] = [{} for _ in range(count())]
    dist.all_gather_object(gathered, values)
    names = dict.fromkeys(name for own in gathered for name in own)
    return {name: sum(own.get(name, 0.0) for own in gathered) for name in names}


def largest(value: int) -> int:
    """The largest of all processes' numbers."""
    if count() == 1:
        return value
    gathered = [0] * count()
    dist.all_gather_object(gathered, value)
    return max(gathered)


@torch.no_grad()
def add_gradients(parameters: Iterable[nn.Parameter]) -> None:
    """Add up the gradients; one that no process has stays without."""
    if count() == 1:
        return
    found = [value for value in parameters if not is_sharded(value)]
    if not found:
        return
    has = torch.tensor([value.grad is not None for value in found], dtype=torch.int32, device=_device(found))
    dist.all_reduce(has, op=dist.ReduceOp.MAX)
    used = [value for value, there in zip(found, has.tolist(), strict=True) if there]
    if not used:
        return
    flat = torch.cat([(torch.zeros_like(one) if one.grad is None else one.grad).flatten() for one in used])
    dist.all_reduce(flat)
    for value, part in zip(used, flat.split([value.numel() for value in used]), strict=True):
        value.grad = part.view_as(value)


@torch.no_grad()
def same_weights(model: nn.Module) -> None:
    """Rank 0's trained weights for everybody: nothing is left to a library's order of random numbers."""
    if count() > 1:
        for value in model.parameters():
            if value.requires_grad and not is_sharded(value):
                dist.broadcast(value.data, src=0)


def is_sharded(value: Tensor) -> bool:
    """Whether each process holds a part of this tensor only."""
    return hasattr(value, "device_mesh")


def whole_tensor(value: Tensor) -> Tensor:
    """The tensor put together from the parts of all processes, which all call this."""
    parts: Any = value
    whole: Tensor = parts.full_tensor() if is_sharded(value) else value
    return whole


def part_of(value: Tensor, like: Tensor) -> Tensor:
    """This process's part of a whole tensor, divided as ``like`` is."""
    if not is_sharded(like):
        return value
    from torch.distributed.tensor import distribute_tensor

    parts: Any = like
    return distribute_tensor(value.to(like.device), parts.device_mesh, parts.placements)


def _device(values: Sequence[Tensor]) -> torch.device:
    return values[0].device if values else torch.device("cpu")

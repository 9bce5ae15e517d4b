"""One process or many: the little that training needs of torch.distributed.

Started by ``torchrun`` (or ``python -m torch.distributed.run``) every process finds its rank in the environment; started
alone it is rank 0 of 1. The recipe's batch is the global one: each rank takes its share, and the gradients are averaged.

Batch norm: on CUDA its statistics are those of the global batch (SyncBatchNorm). torch has no such layer for the CPU, so
under gloo each rank normalises by its own share, and the running statistics are averaged over the ranks before every
validation and every checkpoint. A run on several CPU processes therefore agrees with a single one only statistically.
"""

from __future__ import annotations

import gc
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
import torch.distributed as dist
from torch import Tensor, nn

from spm_runtime.engine.service import cores
from spm_runtime.errors import DeviceError, ModelError, ParameterError

__all__ = ["World", "any_rank", "average_buffers", "check_equal_weights", "share_cores", "sum_over_ranks", "world"]


#: More processes simulate faster than one GPU learns.
_MOST_WORKERS = 24


@dataclass(frozen=True)
class World:
    """One process among all of them.

    Parameters
    ----------
    rank, size
        Rank of the process and number of processes.
    device
        The device that it computes on.
    """

    rank: int
    size: int
    device: torch.device

    @property
    def cores(self) -> int:
        """Share of this process in the cores that it may use; a thread without a core of its own holds up all others."""
        return max(cores() // int(os.environ.get("LOCAL_WORLD_SIZE", "1")), 1)

    @property
    def is_first(self) -> bool:
        """Whether it writes the files."""
        return self.rank == 0


@contextmanager
def world(device: str = "auto") -> Iterator[World]:
    """Join the other processes, if there are any, and leave them at the end.

    Parameters
    ----------
    device
        ``auto`` (a GPU where there is one), ``cpu`` or ``cuda``.

    Raises
    ------
    ParameterError
        If the device's name is unknown.
    DeviceError
        If CUDA was asked for and is not there.
    """
    if device not in ("auto", "cpu", "cuda"):
        raise ParameterError(f"--device {device!r}: unknown; expected auto, cpu or cuda.")
    if device == "cuda" and not torch.cuda.is_available():
        raise DeviceError(
            "--device cuda: torch sees no CUDA device; expected one. Use --device cpu, or install torch for CUDA."
        )
    use_cuda = device != "cpu" and torch.cuda.is_available()
    size = int(os.environ.get("WORLD_SIZE", "1"))
    local_rank = int(os.environ.get("LOCAL_RANK", "0"))
    place = torch.device("cuda", local_rank) if use_cuda else torch.device("cpu")
    if use_cuda:
        torch.cuda.set_device(place)
    if "RANK" not in os.environ:
        yield World(0, 1, place)
        return
    if use_cuda:
        dist.init_process_group("nccl", device_id=place)
    else:
        dist.init_process_group("gloo")
    try:
        yield World(dist.get_rank(), size, place)
        dist.barrier()  # a rank that leaves while another still talks to it would take it down
    finally:
        gc.collect()  # a model in a reference cycle would hold the group's threads beyond its end, and abort the process
        dist.destroy_process_group()


def share_cores(workers: int, threads: int, *, cores: int, on_gpu: bool) -> tuple[int, int]:
    """Divide the cores of one rank between the processes that simulate and the threads that train.

    Parameters
    ----------
    workers
        Worker processes that were asked for; -1 chooses.
    threads
        Threads that were asked for; 0 chooses.
    cores
        Cores of this rank.
    on_gpu
        Whether the training itself runs on a GPU.

    Returns
    -------
    workers, threads

    Notes
    -----
    On a CPU simulating a crop takes about half the time of training on it (13 ms against 22 ms of one core for 128² and base
    width 16), so a third of the cores simulate. Together they never exceed the cores: OpenMP threads that wait for a core
    spin, and two more runnable threads than cores were measured to slow the training five-fold.
    """
    if workers < 0:
        workers = min(cores - 1, _MOST_WORKERS) if on_gpu else cores // 3 or int(cores > 1)
    return workers, threads or max(cores - workers, 1)


def sum_over_ranks(values: Tensor) -> Tensor:
    """Element-wise sum over the ranks; the values themselves in a single process."""
    if dist.is_initialized():
        values = values.clone()
        dist.all_reduce(values)
    return values


def any_rank(flag: bool, device: torch.device) -> bool:
    """Whether the flag is set on any rank."""
    if not dist.is_initialized():
        return flag
    return bool(sum_over_ranks(torch.tensor(float(flag), device=device)).item() > 0)


def average_buffers(model: nn.Module) -> None:
    """Give all ranks the mean of their floating-point buffers (the running statistics of batch norm), in place."""
    if not dist.is_initialized():
        return
    for buffer in model.buffers():
        if buffer.is_floating_point():
            dist.all_reduce(buffer)
            buffer /= dist.get_world_size()


def check_equal_weights(model: nn.Module) -> None:
    """Compare the parameters of all ranks, bit for bit by a checksum.

    Raises
    ------
    ModelError
        If they have drifted apart: the gradients were not averaged.
    """
    if not dist.is_initialized():
        return
    # A sum in float64 of the values and of their magnitudes: any difference that training can make shows in it.
    mine = torch.stack(
        [torch.stack((p.detach().double().sum(), p.detach().double().abs().sum())) for p in model.parameters()]
    )
    everyone = [torch.empty_like(mine) for _ in range(dist.get_world_size())]
    dist.all_gather(everyone, mine)
    if any(not torch.equal(mine, other) for other in everyone):
        raise ModelError(
            "training: the weights of the ranks differ; expected equal weights after every step. Report this."
        )

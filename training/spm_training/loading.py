"""Batches for any task: which samples a rank takes, and the loaders that make them.

A sample depends on its key ``(epoch, index)`` and its split alone, so the number of worker processes, the number of ranks and
the moment of a resume cannot change what a network sees. No generator outlives a sample, so there is no state to save.
"""

from __future__ import annotations

import signal
from collections.abc import Iterator
from typing import Any

import torch
from torch.utils.data import DataLoader, Sampler

from spm_training.data import Split
from spm_training.recipe import DataOptions
from spm_training.tasks import Batch, Task

__all__ = ["BatchSampler", "train_loader", "validation_batches"]


class BatchSampler(Sampler[list[tuple[int, int]]]):
    """Keys of this rank's share of every global batch of one epoch.

    Parameters
    ----------
    options
        Batch size and steps.
    rank, world_size
        Which share this process takes: samples ``rank::world_size`` of every batch.

    Notes
    -----
    The epoch and the first step are set before each pass; workers get whole keys, so they need not know the epoch.
    """

    def __init__(self, options: DataOptions, *, rank: int, world_size: int) -> None:
        self.options = options
        self.rank = rank
        self.world_size = world_size
        self.epoch = 0
        self.first_step = 0

    def __iter__(self) -> Iterator[list[tuple[int, int]]]:
        batch = self.options.batch
        for step in range(self.first_step, self.options.steps_per_epoch):
            start = step * batch
            yield [(self.epoch, index) for index in range(start + self.rank, start + batch, self.world_size)]

    def __len__(self) -> int:
        return self.options.steps_per_epoch - self.first_step


def train_loader(
    task: Task[Any, Any], *, workers: int = 0, rank: int = 0, world_size: int = 1, pin_memory: bool = False
) -> tuple[DataLoader[Batch], BatchSampler]:
    """Loader of the training batches of this rank, and the sampler on which the epoch is set.

    Parameters
    ----------
    task
        Where samples and batches come from.
    workers
        Processes that make samples; 0 makes them in this one.
    rank, world_size
        Which share of every batch this process takes.
    pin_memory
        Put batches where a GPU can fetch them.
    """
    if workers:
        _share_by_name()
    sampler = BatchSampler(task.recipe.data, rank=rank, world_size=world_size)
    loader: DataLoader[Batch] = DataLoader(
        task.dataset(Split.TRAIN),
        batch_sampler=sampler,
        num_workers=workers,
        collate_fn=task.collate,
        pin_memory=pin_memory,
        persistent_workers=workers > 0,
        prefetch_factor=4 if workers else None,
        # The same everywhere; Windows and macOS have nothing else, and a fork inherits held locks.
        multiprocessing_context="spawn" if workers else None,
        worker_init_fn=_start_worker if workers else None,
        # Seeds that nothing here uses; without it every pass would draw from the global generator.
        generator=torch.Generator().manual_seed(task.recipe.training.seed),
    )
    return loader, sampler


def validation_batches(task: Task[Any, Any], *, rank: int = 0, world_size: int = 1) -> list[Any]:
    """The share of this rank in the validation set, made once and kept; the same in every epoch and every run."""
    options = task.recipe.data
    dataset = task.dataset(Split.VALIDATION)
    mine = range(rank, options.validation_images, world_size)
    local_batch = max(options.batch // world_size, 1)
    return [
        task.collate([dataset[0, index] for index in mine[start : start + local_batch]])
        for start in range(0, len(mine), local_batch)
    ]


def _start_worker(_: int) -> None:
    # Ctrl-C reaches the whole process group: only the trainer acts on it, after the step it is in.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    _share_by_name()


def _share_by_name() -> None:
    """Hand tensors over by the name of their shared memory.

    The default on Linux hands file descriptors over, one request per tensor to a thread of the worker that waits for its turn
    between two simulations: the trainer stood still for half of the time.
    """
    if "file_system" in torch.multiprocessing.get_all_sharing_strategies():  # type: ignore[no-untyped-call]
        torch.multiprocessing.set_sharing_strategy("file_system")  # type: ignore[no-untyped-call]

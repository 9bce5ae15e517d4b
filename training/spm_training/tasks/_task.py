"""What the trainer asks of a task; it knows nothing else of what is trained."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Protocol, Self, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.utils.data import Dataset

from spm_training.data import Split
from spm_training.graphs.base import ExportGraph
from spm_training.recipe import Recipe

__all__ = ["Batch", "Task", "stacked"]

Output = TypeVar("Output", contravariant=True)


class Batch(Protocol):
    """A batch of samples."""

    def to(self, device: torch.device) -> Self:
        """The batch on a device."""
        ...


BatchT = TypeVar("BatchT", bound=Batch)


class Task(Protocol[Output, BatchT]):
    """Network, data, loss and figures of merit of one kind of network.

    A task is made from a recipe alone and holds nothing else: worker processes get a pickled copy. ``Output`` is what its
    network returns, a tensor or a named tuple of tensors.
    """

    recipe: Recipe

    def __init__(self, recipe: Recipe) -> None: ...

    @property
    def sum_names(self) -> tuple[str, ...]:
        """Names of what `validation_sums` adds up, in order."""
        ...

    @property
    def shown(self) -> tuple[str, ...]:
        """The figures of `validation_metrics` that a person reads after every epoch, and on the card."""
        ...

    @property
    def input_shape(self) -> tuple[int, ...]:
        """Shape of the network's input in training, without the batch."""
        ...

    def build_network(self) -> nn.Module:
        """The network with fresh weights from torch's global generator."""
        ...

    def dataset(self, split: Split) -> Dataset[Any]:
        """Samples by ``(epoch, index)``: pure functions of recipe, split and key. The validation set is epoch 0."""
        ...

    def collate(self, samples: Sequence[Any]) -> BatchT:
        """A batch from samples."""
        ...

    def inputs(self, batch: BatchT) -> Tensor:
        """What the network is called with."""
        ...

    def loss(self, output: Output, batch: BatchT) -> Mapping[str, Tensor]:
        """Terms of the loss by name, each a scalar, a mean over the images; ``loss`` is the one to minimise."""
        ...

    def validation_sums(self, output: Output, batch: BatchT) -> list[float]:
        """Sums over the images of a batch, in the order of `sum_names`; they add up over batches and ranks."""
        ...

    def validation_metrics(self, sums: list[float]) -> dict[str, float]:
        """Figures of merit from the sums over all images, ``loss`` among them: its lowest value is the best epoch."""
        ...

    def pictures(self, output: Output, batch: BatchT) -> dict[str, NDArray[np.float32]]:
        """Grey pictures ``(h, w)`` in [0, 1] by name; may be none."""
        ...

    def graph(self, network: Any) -> ExportGraph:
        """The network as it is exported."""
        ...


def stacked(samples: Sequence[tuple[Tensor, ...]]) -> tuple[Tensor, ...]:
    """Samples of equal shapes as one tensor per entry, with the batch in front."""
    return tuple(torch.stack(column) for column in zip(*samples, strict=True))

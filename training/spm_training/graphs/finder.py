"""The finder of defects as it is exported."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from spm_training.graphs.base import CalibratedScore, Calibration, ExportGraph, TensorSpec
from spm_training.networks.finder import FinderNet

__all__ = ["FinderOfDefectsGraph"]


class FinderOfDefectsGraph(ExportGraph):
    """`FinderNet` as it is exported.

    Parameters
    ----------
    network
        A network in evaluation mode.
    kinds
        Names of its classes.
    channels
        Names of what it sees.
    """

    INPUT = "image"

    def __init__(self, network: FinderNet, kinds: Sequence[str], channels: Sequence[str]) -> None:
        super().__init__(network)
        self.base_width: int = network.base_width
        self.depth: int = network.depth
        self.stride: int = network.stride
        self.halo_px: int = network.halo_px
        self.kinds = tuple(kinds)
        self.channels = tuple(channels)
        self.calibration: Calibration | None = None
        self.score: nn.Module = nn.Identity()
        self.OUTPUTS = (
            TensorSpec("presence", "High at the centre of a defect.", ("presence",), limits=(0.0, 1.0)),
            TensorSpec("inside", "Probability that the pixel lies on a defect.", ("inside",), limits=(0.0, 1.0)),
            TensorSpec(
                "step", "Probability that the edge of a terrace runs through the pixel.", ("step",), limits=(0.0, 1.0)
            ),
            TensorSpec(
                "radius_px", "Radius of the defect centred here, in pixels.", ("radius_px",), limits=(0.0, None)
            ),
            TensorSpec("kind", "Probability of each class of a defect centred here.", self.kinds, limits=(0.0, 1.0)),
        )

    @property
    def architecture(self) -> str:
        """In words, for the card."""
        return f"U-Net of base width {self.base_width} and depth {self.depth}"

    def calibrate(self, calibration: Calibration) -> None:
        """Make the presence a probability."""
        self.calibration = calibration
        self.score = CalibratedScore(calibration)

    def example(self) -> Tensor:
        """Two images, not square."""
        return torch.zeros(2, len(self.channels), 3 * self.stride, 4 * self.stride)

    def free_axes(self) -> Mapping[int, Any]:
        """Batch, height and width; the last two in multiples of the stride."""
        batch, rows, columns = (torch.export.Dim(name, min=1, max=4096) for name in ("batch", "rows", "columns"))
        return {0: batch, 2: self.stride * rows, 3: self.stride * columns}

    def forward(self, image: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
        """``(B, C, H, W)`` → the maps of `OUTPUTS`, ``(B, C, H, W)`` each."""
        found = self.network(image)
        return (
            self.score(found.presence.sigmoid()),
            found.inside.sigmoid(),
            found.step.sigmoid(),
            found.log_radius.exp(),
            found.kind.softmax(dim=1),
        )

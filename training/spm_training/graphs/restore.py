"""The networks that restore surfaces and estimate tips, as they are exported."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor

from spm_runtime.pipelines.relief import EVIDENCE, RESTORE_CHANNELS, TIP_PX
from spm_runtime.pipelines.tip_candidates import FACTORS
from spm_training.graphs.base import ExportGraph, TensorSpec
from spm_training.networks.judge import JUDGED_WIDTH, TOLD_WIDTH, JudgeNet
from spm_training.networks.restorer import RestorerNet
from spm_training.networks.tip import TipNet, TipOutput
from spm_training.networks.tip_models import TipModel1, TipModel2, TipModel3
from spm_training.simulate.tips import FAMILIES

__all__ = ["JudgeGraph", "MarksGraph", "RestorerGraph", "TipGraph"]

#: bioimage.io wants names for all numbers of a vector, and names without spaces.
_CODE = tuple(f"code_{number}" for number in range(TOLD_WIDTH))
_RESTORED = TensorSpec("restored", "Heights of the surface in units of the scan's relief.", ("restored",))
_TOUCHED = TensorSpec("touched", "Probability that the tip touched the surface here.", ("touched",), limits=(0.0, 1.0))


class RestorerGraph(ExportGraph):
    """A network that restores surfaces, as it is exported.

    Parameters
    ----------
    network
        A network in evaluation mode.
    """

    INPUT = "image"
    #: Heights are no probabilities: nothing to calibrate.
    calibration: None = None

    def __init__(self, network: RestorerNet | TipModel1 | TipModel2 | TipModel3) -> None:
        super().__init__(network)
        self.stride: int = network.stride
        self.halo_px: int = network.halo_px
        self.with_tip = isinstance(network, RestorerNet) and network.with_tip
        self.channels: tuple[str, ...] = RESTORE_CHANNELS if self.with_tip else RESTORE_CHANNELS[:1]
        if self.with_tip:
            said = "What the attached networks say of the tip; the same for all tiles of a scan."
            self.VECTORS = (TensorSpec("code", said, _CODE, is_map=False),)
        self.OUTPUTS = (_RESTORED, _TOUCHED) if isinstance(network, RestorerNet) else (_RESTORED,)

    @property
    def architecture(self) -> str:
        """In words, for the card."""
        network = self.network
        if isinstance(network, TipModel1):
            return (
                f"U-Net without skip links of base width {network.base_width} and depth {network.depth}, less its input"
            )
        if isinstance(network, TipModel2):
            return f"Convolutional autoencoder of width {network.width}"
        if isinstance(network, TipModel3):
            return f"Autoencoder with skip links of base width {network.base_width} and depth {network.depth}"
        return f"Residual U-Net on half of the resolution of base width {network.base_width} and depth {network.depth}"

    def example(self) -> Tensor:
        """Two images, not square."""
        return torch.zeros(2, len(self.channels), 3 * self.stride, 4 * self.stride)

    def free_axes(self) -> Mapping[int, Any]:
        """Batch, height and width; the last two in multiples of the stride."""
        batch, rows, columns = (torch.export.Dim(name, min=1, max=4096) for name in ("batch", "rows", "columns"))
        return {0: batch, 2: self.stride * rows, 3: self.stride * columns}

    def forward(self, image: Tensor, code: Tensor | None = None) -> Tensor | tuple[Tensor, Tensor]:
        """``(B, C, H, W)`` and ``(B, TOLD_WIDTH)`` → the maps of `OUTPUTS`, ``(B, 1, H, W)`` each."""
        if isinstance(self.network, RestorerNet):
            restored, touched = self.network.restore(image, code)
            return restored, touched.sigmoid()
        alone: Tensor = self.network(image)
        return alone


class MarksGraph(ExportGraph):
    """The part of `TipNet` that marks points of a scan, as it is exported.

    Parameters
    ----------
    network
        A network in evaluation mode.
    """

    INPUT = "image"
    #: Pixels of the image per element, and height and width of the input in multiples of this.
    COARSE, STRIDE = 2, 8

    def __init__(self, network: TipNet) -> None:
        super().__init__(network)
        pairs = range(network.pairs)
        self.OUTPUTS = (
            TensorSpec("points", "How much a pixel counts as a point.", _named("points", pairs), stride_px=self.COARSE),
            TensorSpec("values", "What is averaged around the points.", _named("values", pairs), stride_px=self.COARSE),
            TensorSpec(
                "features",
                "What else the network saw there.",
                _named("features", range(network.seen.base_width)),
                stride_px=self.COARSE,
            ),
        )

    def example(self) -> Tensor:
        """Two images, not square."""
        return torch.zeros(2, 1, 3 * self.STRIDE, 4 * self.STRIDE)

    def free_axes(self) -> Mapping[int, Any]:
        """Batch, height and width; the last two in multiples of the stride."""
        batch, rows, columns = (torch.export.Dim(name, min=1, max=4096) for name in ("batch", "rows", "columns"))
        return {0: batch, 2: self.STRIDE * rows, 3: self.STRIDE * columns}

    def forward(self, image: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """``(B, 1, H, W)`` → the maps of `OUTPUTS`, ``(B, …, H / 2, W / 2)`` each."""
        mark: Callable[[Tensor], tuple[Tensor, Tensor, Tensor]] = self.network.mark  # type: ignore[assignment]
        return mark(image)


class TipGraph(ExportGraph):
    """The part of `TipNet` that draws the tip, as it is exported.

    Parameters
    ----------
    network
        A network in evaluation mode.
    """

    INPUT = "evidence"
    OUTPUTS = (
        TensorSpec(
            "visible", "The tip: 1 at its apex, exp(height / local height) elsewhere.", ("visible",), limits=(0.0, 1.0)
        ),
        TensorSpec(
            "second",
            "Probability that a second apex lies there; in the middle, that there is none.",
            ("second",),
            limits=(0.0, 1.0),
        ),
        TensorSpec("families", "Probabilities of the kinds of corruption.", FAMILIES, is_map=False, limits=(0.0, 1.0)),
    )

    def __init__(self, network: TipNet) -> None:
        super().__init__(network)
        self.channels = len(EVIDENCE) + network.pairs + network.seen.base_width

    def example(self) -> Tensor:
        """Two tips."""
        return torch.zeros(2, self.channels, TIP_PX, TIP_PX)

    def free_axes(self) -> Mapping[int, Any]:
        """The batch."""
        return {0: torch.export.Dim("batch", min=1, max=4096)}

    def forward(self, evidence: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Evidence and surroundings, ``(B, channels, TIP_PX, TIP_PX)`` → the tensors of `OUTPUTS`."""
        draw: Callable[[Tensor], TipOutput] = self.network.draw  # type: ignore[assignment]
        found = draw(evidence)
        second = found.second.flatten(1).softmax(dim=1).reshape(found.second.shape)
        return found.visible.sigmoid(), second, found.families.softmax(dim=1)


def _named(word: str, numbers: range) -> tuple[str, ...]:
    return tuple(f"{word}_{number}" for number in numbers)


class JudgeGraph(ExportGraph):
    """`JudgeNet` as it is exported.

    Parameters
    ----------
    network
        A network in evaluation mode.
    """

    INPUT = "facts"
    OUTPUTS = (
        TensorSpec(
            "errors",
            "Decimal logarithm of the squared error of the eroded surface over that of the scan, for each candidate.",
            tuple(f"candidate_{number}" for number in range(len(FACTORS))),
            is_map=False,
        ),
    )

    def __init__(self, network: JudgeNet) -> None:
        super().__init__(network)

    def example(self) -> Tensor:
        """Two scans."""
        return torch.zeros(2, JUDGED_WIDTH)

    def free_axes(self) -> Mapping[int, Any]:
        """The batch."""
        return {0: torch.export.Dim("batch", min=1, max=4096)}

    def forward(self, facts: Tensor) -> Tensor:
        """``(B, JUDGED_WIDTH)`` → ``(B, len(FACTORS))``."""
        judged: Tensor = self.network(facts).mean(dim=1)
        return judged

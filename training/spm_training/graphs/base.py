"""Networks as they are exported: named tensors in, named tensors out, in the units that the runtime reads."""

from __future__ import annotations

import itertools
import json
from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from spm_runtime.errors import ParameterError
from spm_runtime.pipelines.spectrum import ANGLES, BINS, CHANNELS
from spm_training.networks.atomid import AtomidNet
from spm_training.networks.atoms import AtomsNet

__all__ = [
    "AtomidGraph",
    "AtomsGraph",
    "Calibration",
    "ExportGraph",
    "FinderGraph",
    "ScaleGraph",
    "TensorSpec",
    "read_calibration",
]


@dataclass(frozen=True)
class TensorSpec:
    """An input or output of an exported network.

    Parameters
    ----------
    id
        Its name in the graph; a length ends in its unit.
    description
        One sentence.
    channels
        Names of its channels.
    is_map
        ``(B, C, H, W)`` with the height and width of the image; otherwise ``(B, C)``.
    limits
        Smallest and largest value; None where there is none.
    stride_px
        Of a map that is coarser than the image: pixels of the image from one element to the next. None where it is as large.
    """

    id: str
    description: str
    channels: tuple[str, ...]
    is_map: bool = True
    limits: tuple[float | None, float | None] = (None, None)
    stride_px: int | None = None


class ExportGraph(nn.Module, ABC):
    """A network as it is exported; its ``forward`` takes a tensor and its `VECTORS`, and returns one or a tuple of tensors.

    Parameters
    ----------
    network
        A network in evaluation mode.
    """

    #: Name of the first input, for most networks the only one.
    INPUT: str
    #: Further inputs: vectors ``(B, K)`` in the order in which ``forward`` takes them.
    VECTORS: tuple[TensorSpec, ...] = ()
    #: The outputs in the order in which ``forward`` returns them.
    OUTPUTS: tuple[TensorSpec, ...]

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    @abstractmethod
    def example(self) -> Tensor:
        """A first input of any allowed shape, more than one along every free axis."""

    @abstractmethod
    def free_axes(self) -> Mapping[int, Any]:
        """The first input's axes whose length stays free, as `torch.onnx.export` wants them; the batch is axis 0."""

    def vectors(self, batch: int) -> tuple[Tensor, ...]:
        """Values for `VECTORS` to test with: uniform from 0 to 1, always the same."""
        generator = torch.Generator().manual_seed(0)
        return tuple(torch.rand(batch, len(one.channels), generator=generator) for one in self.VECTORS)

    def inputs(self, tensor: Tensor) -> dict[str, Tensor]:
        """All inputs by name: the first one as given, and the vectors to test with."""
        vectors = self.vectors(len(tensor))
        return {self.INPUT: tensor} | {one.id: value for one, value in zip(self.VECTORS, vectors, strict=True)}

    def named(self, tensor: Tensor, *vectors: Tensor) -> dict[str, Tensor]:
        """Outputs by name."""
        values = self(tensor, *vectors)
        return dict(
            zip((one.id for one in self.OUTPUTS), values if isinstance(values, tuple) else (values,), strict=True)
        )


@dataclass(frozen=True)
class Calibration:
    """A monotone piecewise-linear map from raw confidence to probability, constant beyond its ends.

    Parameters
    ----------
    raw
        Knots on the axis of the raw, unclamped confidence, ascending.
    probability
        The probability at each, ascending, in [0, 1].
    alarm_levels
        Of a finder of defects with autoencoders: the strongest unexplained region of each image without defects.

    Raises
    ------
    ParameterError
        If the knots are no such map. Flat parts are refused: pixels that tie have no peak.
    """

    raw: tuple[float, ...]
    probability: tuple[float, ...]
    alarm_levels: tuple[float, ...] = ()

    def __post_init__(self) -> None:
        rising = all(a < b for axis in (self.raw, self.probability) for a, b in itertools.pairwise(axis))
        if len(self.raw) < 2 or len(self.raw) != len(self.probability) or not rising:
            raise ParameterError(
                f"calibration: knots {self.raw} to {self.probability}; expected two or more of each, both ascending. "
                "Merge knots of equal probability."
            )
        if self.probability[0] < 0 or self.probability[-1] > 1:
            raise ParameterError(f"calibration: probabilities {self.probability}; expected values in [0, 1].")


def read_calibration(file: Path) -> Calibration:
    """Read knots from a JSON file with the lists ``raw`` and ``probability``, and ``alarm_levels`` where it has them.

    Raises
    ------
    ParameterError
        If the file does not hold them.
    """
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
        raw, probability = ([float(value) for value in content[name]] for name in ("raw", "probability"))
        levels = [float(value) for value in content.get("alarm_levels", [])]
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise ParameterError(
            f"{file}: no calibration ({type(error).__name__}: {error}); expected JSON with the lists raw and probability. "
            "Write it anew."
        ) from error
    return Calibration(tuple(raw), tuple(probability), tuple(levels))


class CalibratedScore(nn.Module):
    """A `Calibration` in a graph: a sum of clipped ramps, one for each pair of neighbouring knots."""

    def __init__(self, calibration: Calibration) -> None:
        super().__init__()
        self.calibration = calibration

    def forward(self, raw: Tensor) -> Tensor:
        """Probability of each raw confidence."""
        knots = list(zip(self.calibration.raw, self.calibration.probability, strict=True))
        value = torch.full_like(raw, knots[0][1])
        for (x0, y0), (x1, y1) in itertools.pairwise(knots):
            value = value + ((raw - x0) * ((y1 - y0) / (x1 - x0))).clamp(0.0, y1 - y0)
        # The ramps add up to the last probability only to rounding.
        return value.clamp(0.0, 1.0)


class _ClampedScore(nn.Module):
    """The raw confidence, clamped to [0, 1]."""

    def forward(self, raw: Tensor) -> Tensor:
        return raw.clamp(0.0, 1.0)


_CONFIDENCE = TensorSpec(
    "confidence", "Near 1 at an atom column, falling around it.", ("confidence",), limits=(0.0, 1.0)
)
_SPACING = TensorSpec(
    "spacing_px",
    "Mean nearest-neighbour spacing of the columns in pixels.",
    ("spacing_px",),
    is_map=False,
    limits=(0.0, None),
)


class FinderGraph(ExportGraph):
    """A network that finds atom columns: levelled image in, confidence map and more out.

    Parameters
    ----------
    network
        A network in evaluation mode.
    """

    INPUT = "image"

    def __init__(self, network: AtomsNet | AtomidNet) -> None:
        super().__init__(network)
        self.base_width: int = network.base_width
        self.depth: int = network.depth
        self.stride: int = network.stride
        self.halo_px: int = network.halo_px
        self.calibration: Calibration | None = None
        self.score: nn.Module = _ClampedScore()

    @property
    def architecture(self) -> str:
        """In words, for the card."""
        return f"U-Net of base width {self.base_width} and depth {self.depth}"

    def calibrate(self, calibration: Calibration) -> None:
        """Make the confidence a probability."""
        self.calibration = calibration
        self.score = CalibratedScore(calibration)

    def example(self) -> Tensor:
        """Two images, not square."""
        return torch.zeros(2, 1, 3 * self.stride, 4 * self.stride)

    def free_axes(self) -> Mapping[int, Any]:
        """Batch, height and width; the last two in multiples of the stride."""
        batch, rows, columns = (torch.export.Dim(name, min=1, max=4096) for name in ("batch", "rows", "columns"))
        return {0: batch, 2: self.stride * rows, 3: self.stride * columns}


class AtomsGraph(FinderGraph):
    """`AtomsNet` as it is exported."""

    OUTPUTS = (
        _CONFIDENCE,
        TensorSpec(
            "offset_px",
            "Vector from the pixel to the nearest column in pixels; meaningful near a column.",
            ("dy", "dx"),
        ),
        TensorSpec(
            "position_std_px",
            "Standard deviation of each component of offset_px in pixels, as the network believes it.",
            ("position_std_px",),
            limits=(0.0, None),
        ),
        _SPACING,
    )

    def forward(self, image: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """``(B, 1, H, W)`` levelled image → the maps ``(B, 1 or 2, H, W)`` and the spacing ``(B, 1)`` of `OUTPUTS`."""
        confidence, offset, log_std, spacing_px = self.network(image)
        return self.score(confidence), offset, log_std.exp(), spacing_px[:, None]


class AtomidGraph(FinderGraph):
    """`AtomidNet` as it is exported."""

    OUTPUTS = (_CONFIDENCE, _SPACING)
    #: The network's spacing is linear and may be negative; columns closer than a pixel are not seen by anyone.
    SPACING_MIN_PX = 1.0

    def forward(self, image: Tensor) -> tuple[Tensor, Tensor]:
        """``(B, 1, H, W)`` levelled image → confidence ``(B, 1, H, W)`` and spacing in pixels ``(B, 1)``."""
        confidence, spacing_px = self.network(image)
        return self.score(confidence), spacing_px[:, None].clamp(min=self.SPACING_MIN_PX)


class ScaleGraph(ExportGraph):
    """`spm_training.networks.scale.ScaleNet` as it is exported."""

    INPUT = "spectrum"
    OUTPUTS = (
        TensorSpec(
            "logits",
            "Logarithm, up to a constant, of the probability of each bin of the period.",
            tuple(str(bin_) for bin_ in range(BINS)),
            is_map=False,
        ),
    )

    def forward(self, spectrum: Tensor) -> Tensor:
        """``(B, CHANNELS, BINS, ANGLES)`` log-polar spectrum → logits ``(B, BINS)``."""
        logits: Tensor = self.network(spectrum)
        return logits

    def example(self) -> Tensor:
        """Two spectra."""
        return torch.zeros(2, CHANNELS, BINS, ANGLES)

    def free_axes(self) -> Mapping[int, Any]:
        """The batch."""
        return {0: torch.export.Dim("batch", min=1, max=4096)}

"""The network that finds atom columns: a U-Net with branches for confidence, sub-pixel position and spacing.

Source: PolyU thesis (AtomID-net), method chapter: a U-Net of double 3×3 convolutions whose main branch gives a
confidence map and whose extra branch, from the bottleneck, gives the mean nearest-neighbour spacing. The authors' code
has batch norm, global average pooling and a three-layer head; so has this one. Choices of this project: base width 16 instead
of their 32, for CPUs beside a microscope; the logarithm inside the spacing branch, because a relative error of the scale
is what detection feels; and the position branch, which says at every pixel where the nearest column is and how sure that
is, from the whole neighbourhood: at low dose the lattice tells more than the column itself.
"""

from __future__ import annotations

import math
from typing import NamedTuple, cast

import torch
from torch import Tensor, nn

__all__ = ["AtomsNet", "AtomsOutput"]

#: Middle of the spacings in training, where the spacing branch starts.
_SPACING_START_PX = 7.0
#: Bounds of ln(σ / px) of the position: nothing is known better than to 0.01 px, and nothing worse than to 4 px is a position.
_LOG_STD = (-4.5, 1.4)


class AtomsOutput(NamedTuple):
    """What the network says of a batch.

    Parameters
    ----------
    confidence
        ``(B, 1, H, W)`` raw linear output: near 1 at a column, near 0 away from all; not clamped.
    offset
        ``(B, 2, H, W)`` vector (dy, dx) from the pixel to the nearest column, in pixels; meaningful near a column only.
    log_std
        ``(B, 1, H, W)`` logarithm of the standard deviation of each component of `offset`, in pixels.
    spacing_px
        ``(B,)`` mean nearest-neighbour spacing in pixels, positive.
    """

    confidence: Tensor
    offset: Tensor
    log_std: Tensor
    spacing_px: Tensor


class _DoubleConv(nn.Sequential):
    """Two 3×3 convolutions, each with batch norm and ReLU: ``(B, in, H, W)`` → ``(B, out, H, W)``."""

    def __init__(self, channels_in: int, channels_out: int) -> None:
        super().__init__(
            # The bias would be taken away by the batch norm's mean.
            nn.Conv2d(channels_in, channels_out, 3, padding=1, bias=False),
            nn.BatchNorm2d(channels_out),
            nn.ReLU(inplace=True),
            nn.Conv2d(channels_out, channels_out, 3, padding=1, bias=False),
            nn.BatchNorm2d(channels_out),
            nn.ReLU(inplace=True),
        )


class AtomsNet(nn.Module):
    """U-Net for atom columns.

    Parameters
    ----------
    base_width
        Channels of the first level; every level below has twice as many, the bottleneck ``base_width · 2**depth``.
    depth
        Number of max-pools.

    Attributes
    ----------
    stride
        ``2**depth``: height and width of the input must be multiples of it.

    Notes
    -----
    1,965,333 parameters at base width 16 and depth 4 (a test counts them).
    """

    def __init__(self, base_width: int = 16, depth: int = 4) -> None:
        super().__init__()
        if base_width < 1 or depth < 1:
            raise ValueError(f"base_width and depth are at least 1, got {base_width} and {depth}")
        self.base_width = base_width
        self.depth = depth
        self.stride: int = 2**depth
        widths = [base_width * 2**level for level in range(depth + 1)]
        self.encoder = nn.ModuleList(
            _DoubleConv(1 if level == 0 else widths[level - 1], widths[level]) for level in range(depth)
        )
        self.pool = nn.MaxPool2d(2)
        self.bottleneck = _DoubleConv(widths[depth - 1], widths[depth])
        self.up = nn.ModuleList(
            nn.ConvTranspose2d(widths[level + 1], widths[level], 2, stride=2) for level in reversed(range(depth))
        )
        self.decoder = nn.ModuleList(_DoubleConv(2 * widths[level], widths[level]) for level in reversed(range(depth)))
        self.confidence_head = nn.Conv2d(base_width, 1, 1)
        self.position_head = nn.Sequential(
            nn.Conv2d(base_width, base_width, 3, padding=1), nn.ReLU(inplace=True), nn.Conv2d(base_width, 3, 1)
        )
        hidden = max(widths[depth] // 4, 8)
        self.spacing_head = nn.Sequential(
            nn.Linear(widths[depth], hidden),
            nn.ReLU(inplace=True),
            nn.Linear(hidden, hidden),
            nn.ReLU(inplace=True),
            nn.Linear(hidden, 1),
        )
        nn.init.constant_(cast(nn.Linear, self.spacing_head[-1]).bias, math.log(_SPACING_START_PX))

    @property
    def halo_px(self) -> int:
        """How far an output pixel looks in any direction, at most.

        Each level has four 3×3 convolutions (two on the way down, two up) that reach ``2**level`` pixels each, the bottleneck
        two, the position branch one more of one pixel; the grid of the max-pools adds up to ``stride − 1``.
        """
        return 4 * (self.stride - 1) + 2 * self.stride + self.stride

    def forward(self, image: Tensor) -> AtomsOutput:
        """Columns at every pixel, and the mean spacing.

        Parameters
        ----------
        image
            ``(B, 1, H, W)`` levelled images; H and W multiples of `stride`.
        """
        skips = []
        x = image
        for block in self.encoder:
            x = block(x)  # (B, base_width · 2**level, H / 2**level, W / 2**level)
            skips.append(x)
            x = self.pool(x)
        x = self.bottleneck(x)  # (B, base_width · 2**depth, H / stride, W / stride)
        # exp in float32 also under autocast: bfloat16 would quantise the spacing to 0.4 %.
        spacing_px = self.spacing_head(x.mean(dim=(2, 3))).squeeze(1).float().exp()
        for up, block, skip in zip(self.up, self.decoder, reversed(skips), strict=True):
            x = block(torch.cat((skip, up(x)), dim=1))
        position = self.position_head(x).float()
        return AtomsOutput(
            self.confidence_head(x).float(), position[:, :2], position[:, 2:].clamp(*_LOG_STD), spacing_px
        )

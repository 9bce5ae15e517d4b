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

from torch import Tensor, nn

from spm_training.networks.unet import UNet, spacing_head

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


class AtomsNet(UNet):
    """U-Net with branches for confidence, position and spacing.

    Parameters
    ----------
    base_width, depth
        As in `spm_training.networks.unet.UNet`.

    Notes
    -----
    1,965,333 parameters at base width 16 and depth 4 (a test counts them).
    """

    def __init__(self, base_width: int = 16, depth: int = 4) -> None:
        super().__init__(base_width, depth)
        self.confidence_head = nn.Conv2d(base_width, 1, 1)
        self.position_head = nn.Sequential(
            nn.Conv2d(base_width, base_width, 3, padding=1), nn.ReLU(inplace=True), nn.Conv2d(base_width, 3, 1)
        )
        self.spacing_head = spacing_head(self.bottleneck_width)
        nn.init.constant_(cast(nn.Linear, self.spacing_head[-1]).bias, math.log(_SPACING_START_PX))

    @property
    def halo_px(self) -> int:
        """How far an output pixel looks in any direction, at most: the U-Net, and one pixel for the position branch."""
        return super().halo_px + 1

    def forward(self, image: Tensor) -> AtomsOutput:
        """Columns at every pixel, and the mean spacing.

        Parameters
        ----------
        image
            ``(B, 1, H, W)`` levelled images; H and W multiples of `stride`.
        """
        decoded, bottleneck = self.features(image)
        position = self.position_head(decoded).float()
        # exp in float32 also under autocast: bfloat16 would quantise the spacing to 0.4 %.
        spacing_px = self.spacing_head(bottleneck.mean(dim=(2, 3))).squeeze(1).float().exp()
        return AtomsOutput(
            self.confidence_head(decoded).float(), position[:, :2], position[:, 2:].clamp(*_LOG_STD), spacing_px
        )

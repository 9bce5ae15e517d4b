"""The network that finds point defects and steps on surfaces: a U-Net with a map for each question.

The report that the task follows (UCL, section 5) asks for ground truth and for steps that are no defects; the simulator has both,
so this network is taught directly. A centre is learned as in X. Zhou, D. Wang, P. Krähenbühl, Objects as points, arXiv
1904.07850 (2019): a peak at every centre, extent and class read at the peak.
"""

from __future__ import annotations

import math
from typing import NamedTuple, cast

import torch
from torch import Tensor, nn

from spm_training.networks.unet import UNet

__all__ = ["FinderNet", "FinderOutput"]

#: The peaks are rare: the bias starts at this probability, or the first steps unlearn everything else.
_RARE = 0.01
#: Where the radius starts, in pixels.
_RADIUS_START_PX = 5.0
#: Bounds of ln(radius / px).
_LOG_RADIUS = (0.0, 5.0)


class FinderOutput(NamedTuple):
    """What the network says of a batch.

    Parameters
    ----------
    presence
        ``(B, 1, H, W)`` logit: the centre of a defect is here.
    inside
        ``(B, 1, H, W)`` logit: the pixel lies on a defect.
    step
        ``(B, 1, H, W)`` logit: the edge of a terrace is here.
    log_radius
        ``(B, 1, H, W)`` logarithm of the radius in pixels; meaningful at a peak of the presence.
    kind
        ``(B, K, H, W)`` logits of the classes; meaningful at a peak.
    """

    presence: Tensor
    inside: Tensor
    step: Tensor
    log_radius: Tensor
    kind: Tensor


class FinderNet(UNet):
    """U-Net with maps for centres, extents, steps, radii and classes.

    Parameters
    ----------
    base_width, depth
        As in `spm_training.networks.unet.UNet`.
    kinds
        Number of classes.
    channels_in
        Channels of the image.

    Notes
    -----
    1,947,773 parameters at base width 16, depth 4, nine classes and four channels (a test counts them).
    """

    def __init__(self, base_width: int = 16, depth: int = 4, *, kinds: int = 9, channels_in: int = 4) -> None:
        super().__init__(base_width, depth, channels_in=channels_in)
        self.kinds = kinds
        self.head = nn.Sequential(
            nn.Conv2d(base_width, 2 * base_width, 3, padding=1),
            nn.ReLU(inplace=True),
            nn.Conv2d(2 * base_width, 4 + kinds, 1),
        )
        bias = cast(nn.Conv2d, self.head[-1]).bias
        with torch.no_grad():
            cast(Tensor, bias)[:3] = math.log(_RARE / (1 - _RARE))
            cast(Tensor, bias)[3] = math.log(_RADIUS_START_PX)

    @property
    def halo_px(self) -> int:
        """How far an output pixel looks in any direction, at most: the U-Net, and one pixel for the head."""
        return super().halo_px + 1

    def forward(self, image: Tensor) -> FinderOutput:
        """Maps at every pixel.

        Parameters
        ----------
        image
            ``(B, channels_in, H, W)`` as `spm_runtime.pipelines.surface.FinderView.stacked` makes it; H and W multiples of
            `stride`.
        """
        decoded, _ = self.features(image)
        maps = self.head(decoded).float()
        return FinderOutput(maps[:, :1], maps[:, 1:2], maps[:, 2:3], maps[:, 3:4].clamp(*_LOG_RADIUS), maps[:, 4:])

"""The network of the PolyU thesis (AtomID-net), as the reference that `spm_training.networks.atoms` is measured against.

Source: PolyU thesis, method chapter: a U-Net of blocks of two 3×3 convolutions with ReLU and skip links, a convolutional block
at the bottleneck, a main branch for the confidence map and an extra branch from the bottleneck for the mean nearest-neighbour
spacing in pixels. The text leaves width, normalisation and the extra branch open; the authors' code has base width 32, batch
norm, global average pooling and a head of three layers.
"""

from __future__ import annotations

from typing import NamedTuple

from torch import Tensor, nn

from spm_training.networks.unet import UNet, spacing_head

__all__ = ["AtomidNet", "AtomidOutput"]


class AtomidOutput(NamedTuple):
    """What the network says of a batch.

    Parameters
    ----------
    confidence
        ``(B, 1, H, W)`` raw linear output: near 1 at a column, near 0 away from all; not clamped.
    spacing_px
        ``(B,)`` mean nearest-neighbour spacing in pixels; linear, so an untrained network may say less than 0.
    """

    confidence: Tensor
    spacing_px: Tensor


class AtomidNet(UNet):
    """U-Net with a confidence map and one spacing per image.

    Parameters
    ----------
    base_width, depth
        As in `spm_training.networks.unet.UNet`.

    Notes
    -----
    7,844,770 parameters at base width 32 and depth 4 (a test counts them).
    """

    def __init__(self, base_width: int = 32, depth: int = 4) -> None:
        super().__init__(base_width, depth)
        self.confidence_head = nn.Conv2d(base_width, 1, 1)
        self.spacing_head = spacing_head(self.bottleneck_width)

    def forward(self, image: Tensor) -> AtomidOutput:
        """Confidence of a column at every pixel, and the mean spacing.

        Parameters
        ----------
        image
            ``(B, 1, H, W)`` levelled images; H and W multiples of `stride`.
        """
        decoded, bottleneck = self.features(image)
        spacing_px = self.spacing_head(bottleneck.mean(dim=(2, 3))).squeeze(1)
        return AtomidOutput(self.confidence_head(decoded).float(), spacing_px.float())

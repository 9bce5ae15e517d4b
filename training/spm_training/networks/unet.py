"""The U-Net that networks of this package are built on.

Source: O. Ronneberger, P. Fischer, T. Brox, U-Net: convolutional networks for biomedical image segmentation, MICCAI 2015; with
zero padding, so that the output is as large as the input, and batch norm.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

__all__ = ["DoubleConv", "UNet", "spacing_head"]


class DoubleConv(nn.Sequential):
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


class UNet(nn.Module):
    """Encoder, bottleneck and decoder with skip links; what is read from them is up to the network built on it.

    Parameters
    ----------
    base_width
        Channels of the first level; every level below has twice as many, the bottleneck ``base_width · 2**depth``.
    depth
        Number of max-pools.
    channels_in
        Channels of the image.

    Attributes
    ----------
    stride
        ``2**depth``: height and width of the input must be multiples of it.
    bottleneck_width
        Channels of the bottleneck.
    """

    def __init__(self, base_width: int, depth: int, *, channels_in: int = 1) -> None:
        super().__init__()
        if base_width < 1 or depth < 1:
            raise ValueError(f"base_width and depth are at least 1, got {base_width} and {depth}")
        self.base_width = base_width
        self.depth = depth
        self.stride: int = 2**depth
        widths = [base_width * 2**level for level in range(depth + 1)]
        self.bottleneck_width: int = widths[depth]
        self.encoder = nn.ModuleList(
            DoubleConv(channels_in if level == 0 else widths[level - 1], widths[level]) for level in range(depth)
        )
        self.pool = nn.MaxPool2d(2)
        self.bottleneck = DoubleConv(widths[depth - 1], widths[depth])
        self.up = nn.ModuleList(
            nn.ConvTranspose2d(widths[level + 1], widths[level], 2, stride=2) for level in reversed(range(depth))
        )
        self.decoder = nn.ModuleList(DoubleConv(2 * widths[level], widths[level]) for level in reversed(range(depth)))

    @property
    def halo_px(self) -> int:
        """How far a decoded pixel looks in any direction, at most.

        Each level has four 3×3 convolutions (two on the way down, two up) that reach ``2**level`` pixels each, the bottleneck
        two; the grid of the max-pools adds up to ``stride − 1``.
        """
        return 4 * (self.stride - 1) + 2 * self.stride + self.stride - 1

    def features(self, image: Tensor, tell: Callable[[Tensor, int], Tensor] | None = None) -> tuple[Tensor, Tensor]:
        """Features of an image.

        Parameters
        ----------
        image
            ``(B, channels_in, H, W)``; H and W multiples of `stride`.
        tell
            What is done to the features of each level on the way down, by its number; the bottleneck is the last one.

        Returns
        -------
        decoded
            ``(B, base_width, H, W)``.
        bottleneck
            ``(B, bottleneck_width, H / stride, W / stride)``.
        """
        skips = []
        x = image
        for level, block in enumerate(self.encoder):
            x = block(x)  # (B, base_width · 2**level, H / 2**level, W / 2**level)
            x = x if tell is None else tell(x, level)
            skips.append(x)
            x = self.pool(x)
        bottleneck = self.bottleneck(x)
        bottleneck = bottleneck if tell is None else tell(bottleneck, self.depth)
        x = bottleneck
        for up, block, skip in zip(self.up, self.decoder, reversed(skips), strict=True):
            x = block(torch.cat((skip, up(x)), dim=1))
        return x, bottleneck


def spacing_head(width: int) -> nn.Sequential:
    """Three layers from the pooled bottleneck, ``(B, width)``, to one number per image, ``(B, 1)``."""
    hidden = max(width // 4, 8)
    return nn.Sequential(
        nn.Linear(width, hidden),
        nn.ReLU(inplace=True),
        nn.Linear(hidden, hidden),
        nn.ReLU(inplace=True),
        nn.Linear(hidden, 1),
    )

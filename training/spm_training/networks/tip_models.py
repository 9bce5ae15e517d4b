"""The three networks of the hackathon on tip artifacts.

Source: Mitigating tip-induced artifacts in AFM images using autoencoder-based solutions, hackathon of 17/12/2024, "Model
summaries". The text gives the outline of each network and the number of parameters of two, nothing else: layers and widths here
are the plainest that fit these words.

=======  ==================================================  =================================================================
model    printed                                             here
=======  ==================================================  =================================================================
1        "similar to Unet but no skip connections", learns   `DoubleConv` blocks of 32, 64, 128 and 256 channels, max-pools on
         the difference of corrupted and clean image         the way down, transposed convolutions on the way up; 1,732,897
                                                             parameters; the answer is taken from the image
2        autoencoder of 33 k parameters                      3×3 convolutions of 32 channels and two max-pools, two transposed
                                                             convolutions; 32,833 parameters
3        autoencoder of 6.7 million parameters with skip     `DoubleConv` blocks of 40, 80, 160, 320 and 320 channels, bilinear
         connections                                         interpolation on the way up; 6,745,121 parameters
=======  ==================================================  =================================================================

All are fully convolutional, so that they take images of any size.
"""

from __future__ import annotations

import itertools

import torch
from torch import Tensor, nn

from spm_training.networks.unet import DoubleConv

__all__ = ["TipModel1", "TipModel2", "TipModel3"]


class TipModel1(nn.Module):
    """Encoder and decoder without skip links; says what the tip added, which is taken from the image.

    Parameters
    ----------
    base_width
        Channels of the first level; every level below has twice as many.
    depth
        Number of max-pools.

    Attributes
    ----------
    stride
        ``2**depth``: height and width of the input must be multiples of it.
    halo_px
        How far an output pixel looks in any direction, at most: as in `spm_training.networks.unet.UNet`, whose blocks it has.
    """

    def __init__(self, base_width: int = 32, depth: int = 3) -> None:
        super().__init__()
        if base_width < 1 or depth < 1:
            raise ValueError(f"base_width and depth are at least 1, got {base_width} and {depth}")
        self.base_width, self.depth = base_width, depth
        self.stride: int = 2**depth
        self.halo_px: int = 4 * (self.stride - 1) + 2 * self.stride + self.stride - 1
        widths = [base_width * 2**level for level in range(depth + 1)]
        down: list[nn.Module] = [DoubleConv(1, widths[0])]
        for above, below in itertools.pairwise(widths):
            down += [nn.MaxPool2d(2), DoubleConv(above, below)]
        up: list[nn.Module] = []
        for below, above in itertools.pairwise(reversed(widths)):
            up += [nn.ConvTranspose2d(below, above, 2, stride=2), DoubleConv(above, above)]
        self.body = nn.Sequential(*down, *up)
        self.head = nn.Conv2d(base_width, 1, 1)

    def added(self, image: Tensor) -> Tensor:
        """What the tip added to the surface, ``(B, 1, H, W)`` → ``(B, 1, H, W)``: the difference that the paper learns."""
        return _in_float32(self.head, self.body(image))

    def forward(self, image: Tensor) -> Tensor:
        """The restored image.

        Parameters
        ----------
        image
            ``(B, 1, H, W)`` normalised heights; H and W multiples of `stride`.
        """
        return image - self.added(image)


class TipModel2(nn.Module):
    """Autoencoder of some 33 thousand parameters; everything goes through 32 numbers for 16 pixels.

    Parameters
    ----------
    width
        Channels of every layer but the last hidden one, which has half as many.

    Attributes
    ----------
    stride
        4: height and width of the input must be multiples of it.
    halo_px
        How far an output pixel looks in any direction, at most: one pixel for the first and the last convolution, two for the
        second, four for the third; the transposed ones, with the max-pools' grid, four and two.
    """

    stride: int = 4
    halo_px: int = 14

    def __init__(self, width: int = 32) -> None:
        super().__init__()
        if width < 2:
            raise ValueError(f"width is at least 2, got {width}")
        self.width = width
        self.encoder = nn.Sequential(
            nn.Conv2d(1, width, 3, padding=1),
            nn.ReLU(inplace=True),
            nn.MaxPool2d(2),
            nn.Conv2d(width, width, 3, padding=1),
            nn.ReLU(inplace=True),
            nn.MaxPool2d(2),
            nn.Conv2d(width, width, 3, padding=1),
            nn.ReLU(inplace=True),
        )
        self.decoder = nn.Sequential(
            nn.ConvTranspose2d(width, width, 3, stride=2, padding=1, output_padding=1),
            nn.ReLU(inplace=True),
            nn.ConvTranspose2d(width, width // 2, 3, stride=2, padding=1, output_padding=1),
            nn.ReLU(inplace=True),
        )
        self.head = nn.Conv2d(width // 2, 1, 3, padding=1)

    def forward(self, image: Tensor) -> Tensor:
        """The restored image.

        Parameters
        ----------
        image
            ``(B, 1, H, W)`` normalised heights; H and W multiples of `stride`.
        """
        return _in_float32(self.head, self.decoder(self.encoder(image)))


class TipModel3(nn.Module):
    """Autoencoder with skip links at every level.

    Parameters
    ----------
    base_width
        Channels of the first level; each level below has twice as many, the bottleneck as many as the level above it.
    depth
        Number of max-pools.

    Attributes
    ----------
    stride
        ``2**depth``: height and width of the input must be multiples of it.
    halo_px
        How far an output pixel looks in any direction, at most: the blocks as in `spm_training.networks.unet.UNet`, and two
        pixels of each level for its max-pool and its interpolation together.
    """

    def __init__(self, base_width: int = 40, depth: int = 4) -> None:
        super().__init__()
        if base_width < 1 or depth < 1:
            raise ValueError(f"base_width and depth are at least 1, got {base_width} and {depth}")
        self.base_width, self.depth = base_width, depth
        self.stride: int = 2**depth
        self.halo_px: int = 4 * (self.stride - 1) + 2 * self.stride + 2 * (self.stride - 1)
        widths = [base_width * 2**level for level in range(depth)]
        self.encoder = nn.ModuleList(
            DoubleConv(1 if level == 0 else widths[level - 1], widths[level]) for level in range(depth)
        )
        self.pool = nn.MaxPool2d(2)
        self.bottleneck = DoubleConv(widths[-1], widths[-1])
        self.up = nn.Upsample(scale_factor=2, mode="bilinear", align_corners=False)
        # What comes up has as many channels as the level that it meets.
        self.decoder = nn.ModuleList(
            _Narrowing(2 * widths[level], widths[level], widths[max(level - 1, 0)]) for level in reversed(range(depth))
        )
        self.head = nn.Conv2d(base_width, 1, 1)

    def forward(self, image: Tensor) -> Tensor:
        """The restored image.

        Parameters
        ----------
        image
            ``(B, 1, H, W)`` normalised heights; H and W multiples of `stride`.
        """
        skips = []
        x = image
        for block in self.encoder:
            x = block(x)  # (B, base_width · 2**level, H / 2**level, W / 2**level)
            skips.append(x)
            x = self.pool(x)
        x = self.bottleneck(x)
        for block, skip in zip(self.decoder, reversed(skips), strict=True):
            x = block(torch.cat((skip, self.up(x)), dim=1))
        return _in_float32(self.head, x)


class _Narrowing(nn.Sequential):
    """Two 3×3 convolutions with batch norm and ReLU, the second one to the width of the level above."""

    def __init__(self, channels_in: int, channels_between: int, channels_out: int) -> None:
        super().__init__(
            nn.Conv2d(channels_in, channels_between, 3, padding=1, bias=False),
            nn.BatchNorm2d(channels_between),
            nn.ReLU(inplace=True),
            nn.Conv2d(channels_between, channels_out, 3, padding=1, bias=False),
            nn.BatchNorm2d(channels_out),
            nn.ReLU(inplace=True),
        )


def _in_float32(head: nn.Conv2d, x: Tensor) -> Tensor:
    """The last layer in float32 also under autocast: the eight bits of bfloat16 would be coarser than the noise of a scan."""
    if x.dtype not in (torch.bfloat16, torch.float16):
        return _heights(head, x)
    with torch.autocast(x.device.type, enabled=False):
        return _heights(head, x.float())


def _heights(head: nn.Conv2d, x: Tensor) -> Tensor:
    heights: Tensor = head(x)
    return heights

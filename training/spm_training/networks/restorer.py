"""The network that gives back a surface from its image and an estimate of the tip that made it."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional

from spm_runtime.pipelines.relief import RESTORE_CHANNELS
from spm_training.networks.judge import TOLD_WIDTH
from spm_training.networks.unet import UNet

__all__ = ["RestorerNet", "RestorerOutput"]

#: Candidates of the surface: the image, and its erosions by the estimated, a blunter and a sharper tip.
_CANDIDATES = tuple(RESTORE_CHANNELS.index(name) for name in ("image", "eroded", "blunter", "sharper"))


class RestorerOutput(NamedTuple):
    """What the network says of a batch.

    Parameters
    ----------
    restored
        ``(B, 1, H, W)`` heights in units of the image's relief.
    touched
        ``(B, 1, H, W)`` logit: the tip touched the surface here.
    """

    restored: Tensor
    touched: Tensor


class RestorerNet(UNet):
    """U-Net on half of the resolution, told of the tip.

    A surface is a mean of the image and its erosions, with weights that the network gives pixel by pixel, and a correction. The
    code of the tip scales and shifts the features of every level (E. Perez et al., FiLM, arXiv 1709.07871). Pixels go into
    channels at the entry and come back at the end (W. Shi et al., arXiv 1609.05158).

    Parameters
    ----------
    base_width, depth
        As in `spm_training.networks.unet.UNet`, of the network on half of the resolution.
    with_tip
        Whether it sees the erosion and the code; else it sees the image alone.
    """

    def __init__(self, base_width: int = 32, depth: int = 3, *, with_tip: bool = True) -> None:
        self.image_channels = len(RESTORE_CHANNELS) if with_tip else 1
        super().__init__(base_width, depth, channels_in=4 * self.image_channels)
        self.with_tip = with_tip
        widths = [base_width * 2**level for level in range(depth)] + [self.bottleneck_width]
        self.told = nn.Sequential(nn.Linear(TOLD_WIDTH, 64), nn.ReLU(inplace=True)) if with_tip else nn.Identity()
        self.scales = nn.ModuleList(nn.Linear(64, 2 * width) for width in widths) if with_tip else nn.ModuleList()
        for layer in self.scales:
            nn.init.zeros_(layer.weight)  # type: ignore[arg-type]
            nn.init.zeros_(layer.bias)  # type: ignore[arg-type]
        #: Candidates, what is added to their mean, and where the tip touched.
        self.candidates = len(_CANDIDATES) if with_tip else 1
        self.head = nn.Conv2d(base_width, 4 * (self.candidates + 2), 3, padding=1)
        nn.init.zeros_(self.head.weight)
        nn.init.zeros_(self.head.bias)  # type: ignore[arg-type]
        self.stride = 2 * self.stride
        is_erosion = torch.zeros(1, self.image_channels, 1, 1)
        is_erosion[:, list(_CANDIDATES[1 : self.candidates])] = 1
        self.register_buffer("is_erosion", is_erosion)
        self.is_erosion: Tensor

    @property
    def halo_px(self) -> int:
        """How far an output pixel looks in any direction, at most: the U-Net and the head on half of the resolution."""
        return 2 * (4 * (self.stride // 2 - 1) + self.stride + self.stride // 2 - 1 + 1) + 1

    def forward(self, inputs: Tensor) -> RestorerOutput:
        """Restore.

        Parameters
        ----------
        inputs
            ``(B, 1, H, W)`` without a tip. With one ``(B, 6, H, W)``: the channels of
            `spm_runtime.pipelines.relief.restore_channels`, and one whose first pixels hold the code of the tip, row by row.
            H and W multiples of `stride`.
        """
        if not self.with_tip:
            return self.restore(inputs, None)
        return self.restore(inputs[:, :-1], inputs[:, -1].flatten(1)[:, :TOLD_WIDTH])

    def restore(self, image: Tensor, code: Tensor | None) -> RestorerOutput:
        """The same with the code ``(B, TOLD_WIDTH)`` apart."""
        seen = image[:, :1]
        # Differences from the image: what erosion takes away, wherever the scan lies.
        channels = image - seen * self.is_erosion
        told = self.told(code) if code is not None else None

        def tell(x: Tensor, level: int) -> Tensor:
            scale, shift = torch.chunk(self.scales[level](told)[:, :, None, None], 2, dim=1)
            return x * (1 + scale) + shift

        decoded, _ = self.features(functional.pixel_unshuffle(channels, 2), None if told is None else tell)
        maps = functional.pixel_shuffle(self.head(decoded).float(), 2)
        weights, correction, touched = torch.split(maps, [self.candidates, 1, 1], dim=1)
        candidates = image[:, list(_CANDIDATES[: self.candidates])].float()
        restored = (weights.softmax(dim=1) * candidates).sum(dim=1, keepdim=True) + correction
        return RestorerOutput(restored, touched)

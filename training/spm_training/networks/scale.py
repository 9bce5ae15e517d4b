"""The network that reads the spacing of the atoms off a power spectrum on a log-polar grid.

A change of magnification moves such a spectrum along its radial axis (`spm_runtime.pipelines.spectrum`), and convolutions
commute with shifts: what the network learns at one magnification it knows at all of them. Its answer is a distribution over the
same axis, so that an image that could be read in two ways says so.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

from spm_runtime.pipelines.spectrum import CHANNELS

__all__ = ["ScaleNet"]


class _Ring(nn.Module):
    """Convolution over (radius, angle) that closes the circle of angles, with batch norm and ReLU."""

    def __init__(self, channels_in: int, channels_out: int, *, radial: int, angular: int) -> None:
        super().__init__()
        self.reach = angular // 2
        self.convolution = nn.Conv2d(channels_in, channels_out, (radial, angular), padding=(radial // 2, 0), bias=False)
        self.norm = nn.BatchNorm2d(channels_out)

    def forward(self, x: Tensor) -> Tensor:
        """``(B, C, R, A)`` → ``(B, C', R, A)``."""
        closed = torch.cat((x[..., -self.reach :], x, x[..., : self.reach]), dim=-1)
        return functional.relu(self.norm(self.convolution(closed)))


class _Dilated(nn.Module):
    """Residual convolution along the radius that reaches ``3 · dilation`` bins."""

    def __init__(self, channels: int, dilation: int) -> None:
        super().__init__()
        self.convolution = nn.Conv1d(channels, channels, 7, padding=3 * dilation, dilation=dilation, bias=False)
        self.norm = nn.BatchNorm1d(channels)

    def forward(self, x: Tensor) -> Tensor:
        """``(B, C, R)`` → the same shape."""
        return x + functional.relu(self.norm(self.convolution(x)))


class ScaleNet(nn.Module):
    """Distribution of the spacing from a log-polar power spectrum.

    Parameters
    ----------
    width
        Channels of the rings; the radial part has twice as many.

    Notes
    -----
    83,065 parameters at width 24 (a test counts them).

    Three convolutions look at spots and rings; mean and maximum over the angle follow, because nothing depends on the
    orientation; then dilated convolutions compare the radii with each other over ± 1.3 octaves and more: the second ring of a
    honeycomb is √3 times its first, that of a square net √2 times.
    """

    def __init__(self, width: int = 24) -> None:
        super().__init__()
        self.rings = nn.Sequential(
            _Ring(CHANNELS, width, radial=5, angular=5),
            _Ring(width, width, radial=3, angular=3),
            _Ring(width, width, radial=3, angular=5),
        )
        channels = 2 * width
        self.radial = nn.Sequential(*(_Dilated(channels, dilation) for dilation in (1, 2, 4, 8)))
        self.head = nn.Sequential(nn.Conv1d(channels, channels, 1), nn.ReLU(inplace=True), nn.Conv1d(channels, 1, 1))

    def forward(self, spectrum: Tensor) -> Tensor:
        """Logits of the spacing.

        Parameters
        ----------
        spectrum
            ``(B, CHANNELS, BINS, ANGLES)`` as `spm_runtime.pipelines.spectrum.log_polar_spectrum` gives it.

        Returns
        -------
        ``(B, BINS)`` logits over the bins of the period.
        """
        x = self.rings(spectrum)  # (B, width, BINS, ANGLES)
        x = torch.cat((x.mean(dim=3), x.amax(dim=3)), dim=1)  # (B, 2 width, BINS)
        logits: Tensor = self.head(self.radial(x))
        return logits.squeeze(1).float()

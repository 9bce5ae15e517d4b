"""The networks that take noise away, as they are exported."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from spm_training.graphs.base import ExportGraph, TensorSpec
from spm_training.networks.cae import LATENT, CaeB, CaeTwin, CaeVae, PatchDenoiser, TwinOutput
from spm_training.networks.denoiser import DenoiserNet

__all__ = ["DenoiserGraph", "PatchGraph"]

_DENOISED = TensorSpec("denoised", "The input without its noise, in the same units.", ("denoised",))


class DenoiserGraph(ExportGraph):
    """`DenoiserNet` as it is exported.

    Parameters
    ----------
    network
        A network in evaluation mode.
    """

    INPUT = "image"
    OUTPUTS = (_DENOISED,)
    #: Heights are no probabilities: nothing to calibrate.
    calibration: None = None

    def __init__(self, network: DenoiserNet) -> None:
        super().__init__(network)
        self.stride: int = network.stride
        self.halo_px: int = network.halo_px
        self.windows_px: tuple[int, ...] = network.windows_px

    @property
    def architecture(self) -> str:
        """In words, for the card."""
        network = self.network
        folded = f" on pixels folded {network.fold_px} by {network.fold_px}" if network.fold_px != 1 else ""
        more = len(self.windows_px)
        beside = (
            f", with {more} answer{'s' * (more > 1)} of a Wiener filter in Fourier space beside the image"
            if more
            else ""
        )
        return f"Residual U-Net of base width {network.base_width} and depth {network.depth}{folded}{beside}"

    def example(self) -> Tensor:
        """Two images, not square."""
        return torch.zeros(2, 1 + len(self.windows_px), 3 * self.stride, 4 * self.stride)

    def free_axes(self) -> Mapping[int, Any]:
        """Batch, height and width; the last two in multiples of the stride."""
        batch, rows, columns = (torch.export.Dim(name, min=1, max=4096) for name in ("batch", "rows", "columns"))
        return {0: batch, 2: self.stride * rows, 3: self.stride * columns}

    def forward(self, image: Tensor) -> Tensor:
        """``(B, C, H, W)`` → ``(B, 1, H, W)``."""
        denoised: Tensor = self.network(image)
        return denoised


class PatchGraph(ExportGraph):
    """A patch autoencoder as it is exported.

    Parameters
    ----------
    network
        A network in evaluation mode.
    """

    INPUT = "patch"
    calibration: None = None
    #: A patch sees nothing of what is around it.
    halo_px = 0

    def __init__(self, network: PatchDenoiser) -> None:
        super().__init__(network)
        #: Height and width of a patch: fixed.
        self.fixed_px: int = network.side_px
        self.stride: int = network.side_px
        self.kind = (
            "CAE-A with two decoders"
            if isinstance(network.network, CaeTwin)
            else "CAE-B"
            if isinstance(network.network, CaeB)
            else "CAE-A, variational,"
            if isinstance(network.network, CaeVae)
            else "CAE-A"
        )
        latent = TensorSpec("latent", "What the decoders get.", tuple(f"latent_{i}" for i in range(LATENT)), False)
        self.OUTPUTS = (_DENOISED, latent)
        if isinstance(network.network, CaeTwin):
            self.OUTPUTS += (
                TensorSpec("centred", "The same, moved so that its nearest atom is in the middle.", ("centred",)),
                TensorSpec(
                    "offset_yx_px", "From the middle of the patch to its nearest atom.", ("dy", "dx"), is_map=False
                ),
            )

    @property
    def architecture(self) -> str:
        """In words, for the card."""
        return f"{self.kind} of the USC study, for patches of {self.fixed_px}×{self.fixed_px} px and with {LATENT} latent numbers"

    def example(self) -> Tensor:
        """Two patches."""
        return torch.zeros(2, 1, self.fixed_px, self.fixed_px)

    def free_axes(self) -> Mapping[int, Any]:
        """The batch."""
        return {0: torch.export.Dim("batch", min=1, max=1 << 20)}

    def forward(self, patch: Tensor) -> tuple[Tensor, ...]:
        """``(B, 1, P, P)`` → the tensors of `OUTPUTS`."""
        found = self.network(patch)
        if isinstance(found, TwinOutput):
            return found.denoised, found.latent, found.centred, found.offset_yx_px
        return found.denoised, found.latent

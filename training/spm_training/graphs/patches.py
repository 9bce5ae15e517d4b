"""The patch autoencoders as they are exported.

===================  ==========================================  ===========================================================
graph                input                                       outputs
===================  ==========================================  ===========================================================
`ImageEncoderGraph`  ``image`` (B, 1, H + 14, W + 14) in [0, 1]  ``latent`` (B, D, R, C); with clusters ``label`` and
                                                                 ``distance`` (B, 1, R, C)
`WindowEncoderGraph` ``window`` (N, 1, 32, 32) in [0, 1]         ``latent`` (N, D); with clusters ``label`` and ``distance``
                                                                 (N, 1)
`DecoderGraph`       ``latent`` (N, D)                           ``reconstruction`` (N, 1, 32, 32) in [0, 1]
`DefectGraph`        ``patch`` (N, 1, 32, 32) of any scale       ``latent`` (N, D); with a mixture ``log_probability`` (N, K)
                                                                 and ``log_likelihood`` (N, 1)
===================  ==========================================  ===========================================================

Everything is float32. R is (H − 32) // stride + 1, and ``[r, c]`` belongs to the window whose first pixel is
``(stride · r, stride · c)`` of the image without its context.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from spm_training.clusters import Clusters, ClustersLayer, Mixture, MixtureLayer
from spm_training.graphs.base import ExportGraph, TensorSpec
from spm_training.networks.ae1 import MARGIN_PX, SIDE_PX, STRIDES, Ae1
from spm_training.networks.ae2 import Ae2
from spm_training.networks.cae import scaled
from spm_training.networks.folding import folded

__all__ = ["DecoderGraph", "DefectGraph", "ImageEncoderGraph", "WindowEncoderGraph"]

_MOST_WINDOWS = 1 << 20
_MOST_CELLS = 1 << 12


def _latent(size: int, stride_px: int | None) -> TensorSpec:
    names = tuple(f"latent_{number}" for number in range(size))
    return TensorSpec(
        "latent", "Latent numbers of every window.", names, is_map=stride_px is not None, stride_px=stride_px
    )


def _cluster_specs(stride_px: int | None) -> tuple[TensorSpec, ...]:
    is_map = stride_px is not None
    return (
        TensorSpec(
            "label",
            "Number of the nearest cluster, from 0.",
            ("label",),
            is_map=is_map,
            limits=(0.0, None),
            stride_px=stride_px,
        ),
        TensorSpec(
            "distance",
            "Euclidean distance from the centre of that cluster in scaled latents.",
            ("distance",),
            is_map=is_map,
            limits=(0.0, None),
            stride_px=stride_px,
        ),
    )


class ImageEncoderGraph(ExportGraph):
    """The encoder of `Ae1` with context: a whole image at once.

    Parameters
    ----------
    network
        A network with context, in evaluation mode.
    stride_px
        Distance of the windows in pixels.
    clusters
        Label every window; None gives latents alone.

    Raises
    ------
    ValueError
        If the network has no context, or the stride is none of `spm_training.networks.ae1.STRIDES`.
    """

    INPUT = "image"
    side_px = SIDE_PX
    margin_px = MARGIN_PX
    network: Ae1
    clusters: ClustersLayer | None

    def __init__(self, network: Ae1, *, stride_px: int = STRIDES[0], clusters: Clusters | None = None) -> None:
        super().__init__(network)
        if not network.context or stride_px not in STRIDES:
            raise ValueError(f"expected a network with context and a stride out of {STRIDES}, got {stride_px} px")
        self.stride_px = stride_px
        self.clusters = None if clusters is None else ClustersLayer(clusters)
        self.OUTPUTS = (_latent(network.latent, stride_px), *(_cluster_specs(stride_px) if clusters else ()))

    def forward(self, image: Tensor) -> Tensor | tuple[Tensor, ...]:
        """``(B, 1, H + 14, W + 14)`` → the maps of `OUTPUTS`, ``(B, channels, R, C)`` each."""
        latent = self.network.encode_image(image, self.stride_px)
        if self.clusters is None:
            return latent
        label, distance = self.clusters(latent.permute(0, 2, 3, 1))
        return latent, label.permute(0, 3, 1, 2), distance.permute(0, 3, 1, 2)

    def example(self) -> Tensor:
        """Two images, not square."""
        return torch.zeros(2, 1, 2 * SIDE_PX + 2 * MARGIN_PX, 3 * SIDE_PX + 2 * MARGIN_PX)

    def free_axes(self) -> Mapping[int, Any]:
        """Batch, height and width; without their context the last two are multiples of the stride."""
        batch, rows, columns = (torch.export.Dim(name, min=1, max=_MOST_CELLS) for name in ("batch", "rows", "columns"))
        first = SIDE_PX - self.stride_px + 2 * MARGIN_PX
        return {0: batch, 2: self.stride_px * rows + first, 3: self.stride_px * columns + first}


class WindowEncoderGraph(ExportGraph):
    """The encoder of `Ae1` as printed: windows one by one.

    Parameters
    ----------
    network
        A network in evaluation mode.
    clusters
        Label every window; None gives latents alone.
    """

    INPUT = "window"
    side_px = SIDE_PX
    network: Ae1
    clusters: ClustersLayer | None

    def __init__(self, network: Ae1, *, clusters: Clusters | None = None) -> None:
        super().__init__(network)
        self.margin_px = network.margin_px
        self.clusters = None if clusters is None else ClustersLayer(clusters)
        self.OUTPUTS = (_latent(network.latent, None), *(_cluster_specs(None) if clusters else ()))

    def forward(self, window: Tensor) -> Tensor | tuple[Tensor, ...]:
        """``(N, 1, 32 + 2 margin_px, 32 + 2 margin_px)`` → the values of `OUTPUTS`, ``(N, channels)`` each."""
        latent = self.network.encode(window)
        return latent if self.clusters is None else (latent, *self.clusters(latent))

    def example(self) -> Tensor:
        """Two windows."""
        side = SIDE_PX + 2 * self.margin_px
        return torch.zeros(2, 1, side, side)

    def free_axes(self) -> Mapping[int, Any]:
        """The windows."""
        return _free_batch()


class DecoderGraph(ExportGraph):
    """The decoder of either autoencoder, folded (`spm_training.networks.folding`).

    Parameters
    ----------
    network
        A network in evaluation mode.
    """

    INPUT = "latent"
    OUTPUTS = (
        TensorSpec("reconstruction", "The windows as the latents describe them.", ("window",), limits=(0.0, 1.0)),
    )

    def __init__(self, network: Ae1 | Ae2) -> None:
        super().__init__(folded(network.decoder))
        self.latent = network.latent

    def forward(self, latent: Tensor) -> Tensor:
        """``(N, D)`` → ``(N, 1, 32, 32)`` in [0, 1]."""
        window: Tensor = self.network(latent)
        return window.sigmoid()

    def example(self) -> Tensor:
        """Two latents."""
        return torch.zeros(2, self.latent)

    def free_axes(self) -> Mapping[int, Any]:
        """The windows."""
        return _free_batch()


class DefectGraph(ExportGraph):
    """The encoder of `Ae2`, each patch scaled to [0, 1] by its own extremes first.

    Parameters
    ----------
    network
        A network in evaluation mode.
    mixture
        Gives every patch the probabilities of its classes; None gives latents alone.
    """

    INPUT = "patch"
    side_px = SIDE_PX
    margin_px = 0
    network: Ae2
    mixture: MixtureLayer | None

    def __init__(self, network: Ae2, *, mixture: Mixture | None = None) -> None:
        super().__init__(network)
        self.mixture = None if mixture is None else MixtureLayer(mixture)
        specs: tuple[TensorSpec, ...] = (_latent(network.latent, None),)
        if mixture is not None:
            classes = tuple(f"class_{number}" for number in range(len(mixture.weights)))
            specs += (
                TensorSpec(
                    "log_probability",
                    "Natural logarithm of the probability of each class.",
                    classes,
                    is_map=False,
                    limits=(None, 0.0),
                ),
                TensorSpec(
                    "log_likelihood",
                    "Natural logarithm of the density of the whole mixture: low where the training had nothing alike.",
                    ("log_likelihood",),
                    is_map=False,
                ),
            )
        self.OUTPUTS = specs

    def forward(self, patch: Tensor) -> Tensor | tuple[Tensor, ...]:
        """``(N, 1, 32, 32)`` → the values of `OUTPUTS`, ``(N, channels)`` each."""
        latent = self.network.encode(scaled(patch, 0.0, 1.0).image)
        return latent if self.mixture is None else (latent, *self.mixture(latent))

    def example(self) -> Tensor:
        """Two patches."""
        return torch.zeros(2, 1, SIDE_PX, SIDE_PX)

    def free_axes(self) -> Mapping[int, Any]:
        """The patches."""
        return _free_batch()


def _free_batch() -> Mapping[int, Any]:
    return {0: torch.export.Dim("windows", min=1, max=_MOST_WINDOWS)}

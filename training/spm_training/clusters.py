"""Clusters in a latent space: fitted with scikit-learn, kept as arrays, computed by layers that go into an exported graph.

The runtime has no scikit-learn, so the layers do what it would: a test compares them.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Self

import numpy as np
import torch
from numpy.typing import NDArray
from sklearn.cluster import KMeans
from sklearn.mixture import GaussianMixture
from torch import Tensor, nn

from spm_runtime.errors import ParameterError

__all__ = ["Clusters", "ClustersLayer", "Mixture", "MixtureLayer", "Scaling", "fit_clusters", "fit_mixture"]

Floats = NDArray[np.float64]

#: Source: UCL report, sections 2.2 (K-means) and 2.5 (Gaussian mixture).
KMEANS_CLUSTERS, MIXTURE_COMPONENTS = 6, 20


@dataclass(frozen=True, eq=False)
class Scaling:
    """Min–max scaling of every dimension: ``(latent − low) · gain`` is in [0, 1] for the latents that it was fitted to.

    Parameters
    ----------
    low
        ``(D,)`` smallest latents.
    gain
        ``(D,)`` one over the range; 1 where the range is 0.
    """

    low: Floats
    gain: Floats

    @classmethod
    def of(cls, latents: NDArray[np.floating]) -> Self:
        """Fit to ``(N, D)`` latents."""
        low, high = latents.min(axis=0).astype(float), latents.max(axis=0).astype(float)
        span = high - low
        return cls(low, 1.0 / np.where(span > 0, span, 1.0))

    def __call__(self, latents: NDArray[np.floating]) -> Floats:
        """Scale ``(N, D)`` latents."""
        return np.asarray((latents - self.low) * self.gain, np.float64)


@dataclass(frozen=True, eq=False)
class Clusters:
    """K-means in scaled latents.

    Parameters
    ----------
    scaling
        What is done to the latents first.
    centres
        ``(K, D)`` in scaled latents.
    """

    scaling: Scaling
    centres: Floats

    def write(self, file: Path) -> None:
        """Write an ``.npz`` file."""
        _write(file, low=self.scaling.low, gain=self.scaling.gain, centres=self.centres)

    @classmethod
    def read(cls, file: Path) -> Self:
        """Read what `write` wrote.

        Raises
        ------
        ParameterError
            If the file does not hold clusters.
        """
        found = _read(file, ("low", "gain", "centres"))
        return cls(Scaling(found["low"], found["gain"]), found["centres"])


@dataclass(frozen=True, eq=False)
class Mixture:
    """A mixture of Gaussians with full covariances in scaled latents.

    Parameters
    ----------
    scaling
        What is done to the latents first.
    weights
        ``(K,)`` share of each component; they add up to 1.
    means
        ``(K, D)``.
    factors
        ``(K, D, D)`` upper triangular P with ``P Pᵀ`` the inverse covariance, as scikit-learn's ``precisions_cholesky_``.
    """

    scaling: Scaling
    weights: Floats
    means: Floats
    factors: Floats

    def write(self, file: Path) -> None:
        """Write an ``.npz`` file."""
        arrays = {"weights": self.weights, "means": self.means, "factors": self.factors}
        _write(file, low=self.scaling.low, gain=self.scaling.gain, **arrays)

    @classmethod
    def read(cls, file: Path) -> Self:
        """Read what `write` wrote.

        Raises
        ------
        ParameterError
            If the file does not hold a mixture.
        """
        found = _read(file, ("low", "gain", "weights", "means", "factors"))
        return cls(Scaling(found["low"], found["gain"]), found["weights"], found["means"], found["factors"])


def fit_clusters(
    latents: NDArray[np.floating], clusters: int = KMEANS_CLUSTERS, *, seed: int = 0, starts: int = 10
) -> Clusters:
    """K-means with k-means++ in min–max scaled latents.

    Parameters
    ----------
    latents
        ``(N, D)``.
    clusters
        Number of clusters; 6 in the report.
    seed
        Of the starts.
    starts
        The best of so many is kept.

    Notes
    -----
    Source: UCL report, section 2.2.1.
    """
    scaling = Scaling.of(latents)
    found = KMeans(clusters, init="k-means++", n_init=starts, random_state=seed).fit(scaling(latents))
    return Clusters(scaling, np.asarray(found.cluster_centers_, np.float64))


def fit_mixture(
    latents: NDArray[np.floating], components: int = MIXTURE_COMPONENTS, *, seed: int = 0, starts: int = 1
) -> Mixture:
    """A Gaussian mixture with full covariances in min–max scaled latents.

    Parameters
    ----------
    latents
        ``(N, D)``.
    components
        Number of Gaussians; 20 in the report.
    seed
        Of the starts.
    starts
        The best of so many is kept.

    Notes
    -----
    Source: UCL report, section 2.5. An affine map of the latents changes nothing but what scikit-learn adds to the variances
    (1e-6), which is a share of the range here.
    """
    scaling = Scaling.of(latents)
    found = GaussianMixture(components, covariance_type="full", n_init=starts, random_state=seed).fit(scaling(latents))
    return Mixture(scaling, found.weights_, found.means_, found.precisions_cholesky_)


class _Scaled(nn.Module):
    """Scaling of ``(…, D)`` latents in a graph."""

    low: Tensor
    gain: Tensor

    def __init__(self, scaling: Scaling) -> None:
        super().__init__()
        self.register_buffer("low", _single(scaling.low))
        self.register_buffer("gain", _single(scaling.gain))

    def forward(self, latent: Tensor) -> Tensor:
        return (latent - self.low) * self.gain


class ClustersLayer(nn.Module):
    """`Clusters` in a graph.

    Parameters
    ----------
    clusters
        What was fitted.
    """

    centres: Tensor

    def __init__(self, clusters: Clusters) -> None:
        super().__init__()
        self.scaled = _Scaled(clusters.scaling)
        self.register_buffer("centres", _single(clusters.centres))

    def forward(self, latent: Tensor) -> tuple[Tensor, Tensor]:
        """Nearest centre of ``(…, D)`` latents.

        Returns
        -------
        label
            ``(…, 1)`` number of the centre as float32, which holds whole numbers exactly.
        distance
            ``(…, 1)`` Euclidean distance from it in scaled latents.
        """
        x = self.scaled(latent)
        cross = x @ self.centres.T  # (…, K)
        squares = x.square().sum(-1, keepdim=True) - 2 * cross + self.centres.square().sum(-1)
        nearest = squares.min(dim=-1, keepdim=True)
        return nearest.indices.float(), nearest.values.clamp(min=0).sqrt()


class MixtureLayer(nn.Module):
    """`Mixture` in a graph.

    Parameters
    ----------
    mixture
        What was fitted.
    """

    means: Tensor
    factors: Tensor
    constants: Tensor

    def __init__(self, mixture: Mixture) -> None:
        super().__init__()
        self.scaled = _Scaled(mixture.scaling)
        diagonals = np.diagonal(mixture.factors, axis1=1, axis2=2)
        constants = np.log(mixture.weights) + np.log(diagonals).sum(axis=1) - diagonals.shape[1] / 2 * np.log(2 * np.pi)
        self.register_buffer("means", _single(mixture.means)[:, None])
        self.register_buffer("factors", _single(mixture.factors))
        self.register_buffer("constants", _single(constants)[:, None])

    def forward(self, latent: Tensor) -> tuple[Tensor, Tensor]:
        """Classes of ``(N, D)`` latents.

        Returns
        -------
        log_probability
            ``(N, K)`` natural logarithm of the probability of each component, given the latents.
        log_likelihood
            ``(N, 1)`` natural logarithm of the density of the mixture in scaled latents: low where nothing like it was fitted.
        """
        # The means are taken off before the factors multiply: these are large where a component is narrow.
        distances = torch.matmul(self.scaled(latent)[None] - self.means, self.factors)  # (K, N, D)
        joint = (self.constants - distances.square().sum(-1) / 2).T
        likelihood = joint.logsumexp(dim=1, keepdim=True)
        return joint - likelihood, likelihood


def _single(values: Floats) -> Tensor:
    return torch.from_numpy(np.ascontiguousarray(values, np.float32))


def _write(file: Path, **arrays: Floats) -> None:
    np.savez(file, allow_pickle=False, **arrays)


def _read(file: Path, names: tuple[str, ...]) -> Mapping[str, Floats]:
    try:
        with np.load(file, allow_pickle=False) as content:
            return {name: np.asarray(content[name], np.float64) for name in names}
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise ParameterError(
            f"{file}: not readable ({type(error).__name__}: {error}); expected an .npz file with {', '.join(names)}. Fit it anew."
        ) from error

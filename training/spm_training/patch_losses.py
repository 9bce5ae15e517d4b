"""Losses on the latents of patches, beside the squared error of their reconstruction."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

from spm_training.clusters import Clusters

__all__ = ["cluster_loss", "contrast_loss", "symmetry_loss"]

#: Temperature of the similarities. Source: Chen et al., "A simple framework for contrastive learning of visual representations"
#: (ICML 2020), who find 0.1 to 0.5 alike.
_TEMPERATURE = 0.2


def symmetry_loss(latent: Tensor, view: Tensor) -> Tensor:
    """How far the latents of turned or mirrored windows are apart, as a share of how far latents are apart at all.

    Parameters
    ----------
    latent, view
        ``(N, D)`` latents of the windows, and of their views.

    Returns
    -------
    A scalar, 0 where both agree and 2 where they have nothing in common. Latents that shrink gain nothing.
    """
    latent, view = latent.float(), view.float()
    spread = torch.cat([latent, view]).var(dim=0, correction=0).mean()
    return (latent - view).square().mean() / spread.clamp(min=1e-12)


def contrast_loss(latent: Tensor, view: Tensor) -> Tensor:
    """Each window is to be told from all others by the latents of its view.

    Parameters
    ----------
    latent, view
        ``(N, D)`` latents of the windows, and of their views.

    Returns
    -------
    A scalar: the cross entropy of finding one among N, ln N by chance, by cosine similarity in either direction.

    Notes
    -----
    Source: InfoNCE, van den Oord et al. (arXiv 1807.03748). Latents are taken relative to their mean, so that an offset that all
    share is no similarity.
    """
    latent, view = latent.float(), view.float()
    mean = torch.cat([latent, view]).mean(dim=0)
    one, other = (functional.normalize(values - mean, dim=1) for values in (latent, view))
    similarity = one @ other.T / _TEMPERATURE
    target = torch.arange(len(latent), device=latent.device)
    return (functional.cross_entropy(similarity, target) + functional.cross_entropy(similarity.T, target)) / 2


def cluster_loss(latent: Tensor, clusters: Clusters) -> Tensor:
    """Squared distance of each window from the centre of its cluster, which is its pseudo-label.

    Parameters
    ----------
    latent
        ``(N, D)``.
    clusters
        K-means of an earlier network; the label of a window is the nearest centre.

    Returns
    -------
    A scalar, a mean over windows and dimensions in scaled latents.

    Notes
    -----
    Source of the idea: Yang et al., "Towards K-means-friendly spaces" (ICML 2017); the centres stay where they are here.
    """
    low, gain, centres = (
        torch.as_tensor(values, dtype=torch.float32, device=latent.device)
        for values in (clusters.scaling.low, clusters.scaling.gain, clusters.centres)
    )
    x = (latent.float() - low) * gain
    nearest = torch.cdist(x.detach(), centres).argmin(dim=1)
    return (x - centres[nearest]).square().mean()

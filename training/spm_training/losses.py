"""Loss functions."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

__all__ = ["AtomsLoss", "atoms_loss"]


@dataclass(frozen=True)
class AtomsLoss:
    """The loss of a batch and its two terms, each a scalar tensor; the terms are not yet weighted."""

    total: Tensor
    confidence: Tensor
    spacing: Tensor


def atoms_loss(
    confidence: Tensor,
    spacing_px: Tensor,
    target: Tensor,
    weight: Tensor,
    target_spacing_px: Tensor,
    *,
    confidence_weight: float,
    spacing_weight: float,
) -> AtomsLoss:
    """Weighted squared errors of the confidence map and of the logarithm of the spacing.

    ``total = ½ (confidence_weight · mean(w (f − Ỹ)²) + spacing_weight · mean((ln g − ln s̄)²))``

    Parameters
    ----------
    confidence
        ``(B, 1, H, W)`` output f of the network.
    spacing_px
        ``(B,)`` output g of the network, positive.
    target
        ``(B, 1, H, W)`` confidence map Ỹ in [0, 1].
    weight
        ``(B, 1, H, W)`` weight w of every pixel in [0, 1]; 0 where a column may be found or not.
    target_spacing_px
        ``(B,)`` true mean nearest-neighbour spacing s̄.
    confidence_weight, spacing_weight
        Weights of the two terms.

    Returns
    -------
    AtomsLoss

    Notes
    -----
    Source: PolyU thesis, ``½ mean(λ‖f − Ỹ‖² + ‖g − s̄‖²)`` with λ = 0.1. There the norms sum over pixels and the spacing
    is in pixels, so the balance depends on the size of the image and on the magnification. Here both terms are means
    and the spacing's error is relative: the weights hold for any crop and any spacing. The mean over the pixels is
    divided by their number, not by the sum of the weights, so that equal shares of a batch give equal shares of its loss.
    """
    confidence_term = (weight * (confidence - target).square()).mean()
    spacing_term = (spacing_px.log() - target_spacing_px.log()).square().mean()
    total = 0.5 * (confidence_weight * confidence_term + spacing_weight * spacing_term)
    return AtomsLoss(total, confidence_term, spacing_term)

"""Loss functions."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from spm_training.networks.atoms import AtomsOutput

__all__ = ["AtomsLoss", "atoms_loss"]


@dataclass(frozen=True)
class AtomsLoss:
    """The loss of a batch and its terms, each a scalar tensor; the terms are not yet weighted."""

    total: Tensor
    confidence: Tensor
    position: Tensor
    spacing: Tensor


def atoms_loss(
    output: AtomsOutput,
    *,
    target: Tensor,
    weight: Tensor,
    offset: Tensor,
    target_spacing_px: Tensor,
    confidence_weight: float,
    position_weight: float,
    spacing_weight: float,
) -> AtomsLoss:
    """Weighted squared errors of the confidence map and of the logarithm of the spacing, and the likelihood of the positions.

    ``total = ½ (confidence_weight · mean(w (f − Ỹ)²) + spacing_weight · mean((ln g − ln s̄)²)) +
    position_weight · mean(w Ỹ (|δ − δ̂|² / (2 σ̂²) + 2 ln σ̂))``

    Parameters
    ----------
    output
        Output (f, δ̂, ln σ̂, g) of the network.
    target
        ``(B, 1, H, W)`` confidence map Ỹ in [0, 1].
    weight
        ``(B, 1, H, W)`` weight w of every pixel in [0, 1]; 0 where a column may be found or not.
    offset
        ``(B, 2, H, W)`` vector δ from the pixel to the nearest column in pixels; anything where the target is 0.
    target_spacing_px
        ``(B,)`` true mean nearest-neighbour spacing s̄.
    confidence_weight, position_weight, spacing_weight
        Weights of the terms.

    Returns
    -------
    AtomsLoss

    Notes
    -----
    Source of the first two: PolyU thesis, ``½ mean(λ‖f − Ỹ‖² + ‖g − s̄‖²)`` with λ = 0.1. There the norms sum over pixels and
    the spacing is in pixels, so the balance depends on the size of the image and on the magnification. Here both terms are
    means and the spacing's error is relative: the weights hold for any crop and any spacing. The mean over the pixels is
    divided by their number, not by the sum of the weights, so that equal shares of a batch give equal shares of its loss.

    The third is the negative logarithm of a Gaussian density with a standard deviation that the network states itself (a
    heteroscedastic regression): the stated deviation is right when its mean square is that of the error.
    """
    confidence_term = (weight * (output.confidence - target).square()).mean()
    spacing_term = (output.spacing_px.log() - target_spacing_px.log()).square().mean()
    distance2 = (output.offset - offset).square().sum(dim=1, keepdim=True)
    likelihood = distance2 * (-2 * output.log_std).exp() / 2 + 2 * output.log_std
    position_term = (weight * target * likelihood).mean()
    total = (
        0.5 * (confidence_weight * confidence_term + spacing_weight * spacing_term) + position_weight * position_term
    )
    return AtomsLoss(total, confidence_term, position_term, spacing_term)

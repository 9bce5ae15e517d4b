"""What the tip makes of a surface: blunt apexes and double ones.

The tunnelling current falls as exp(−2κz). At constant current an apex that is a paraboloid of radius R follows the heights

    z′ = ln( G ∗ exp(2κz) ) / 2κ,   G a Gaussian of variance R / 2κ,

because an atom of the apex that stands ρ off the axis is ρ²/2R farther away. For a corrugation far below 1/2κ this is a
convolution; for tall features it is the grey-scale dilation by the paraboloid. A second apex, shifted and shorter by Δ,
adds its own current: a faint copy of small corrugation, a full shadow of tall features.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

__all__ = ["DECAY_PER_NM", "Tip", "blunt", "double", "draw_tip"]

#: 2κ for a barrier of about 4.2 eV: √(8 m φ) / ħ.
DECAY_PER_NM = 21.0

#: The flank of the paraboloid is followed down to this many decay lengths: 1.6 nm.
REACH = 34.0


@dataclass(frozen=True)
class Tip:
    """The apex.

    Parameters
    ----------
    radius_nm
        Radius of the paraboloid that follows steps and clusters.
    blur_nm
        Gaussian σ of what the apex loses in atomic corrugation, beyond the corrugation of a good tip.
    shift_nm
        ``(y, x)`` place of the second apex; None for a single one.
    gap_nm
        By how much the second apex is shorter.
    """

    radius_nm: float
    blur_nm: float
    shift_nm: tuple[float, float] | None
    gap_nm: float


def draw_tip(rng: np.random.Generator, spacing_nm: float) -> Tip:
    """A tip: sharp in two images of three, else blunt, double, or both."""
    blurred = rng.random() < 0.25
    doubled = rng.random() < 0.15
    angle, length = rng.uniform(0, 2 * np.pi), spacing_nm * np.exp(rng.uniform(np.log(0.4), np.log(10.0)))
    return Tip(
        radius_nm=float(np.exp(rng.uniform(np.log(0.05), np.log(2.5)))),
        blur_nm=float(rng.uniform(0.1, 0.35) * spacing_nm) if blurred else 0.0,
        shift_nm=(float(length * np.sin(angle)), float(length * np.cos(angle))) if doubled else None,
        gap_nm=float(rng.uniform(0.01, 0.25)),
    )


def blunt(relief_nm: NDArray[np.float64], radius_nm: float, pixel_size_nm: float) -> NDArray[np.float64]:
    """Heights that a paraboloid of a given radius follows.

    Parameters
    ----------
    relief_nm
        ``(H, W)`` heights.
    radius_nm
        Radius of the apex.
    pixel_size_nm
        Side of a pixel.

    Notes
    -----
    Linear filtering of exp(2κz) in double precision: heights are limited to ±15 nm around their mean.
    """
    sigma = np.sqrt(radius_nm / DECAY_PER_NM) / pixel_size_nm
    low, high = float(relief_nm.min()), float(relief_nm.max())
    if high - low < 1e-9:
        return relief_nm
    middle = 0.5 * (low + high)
    current = np.exp(DECAY_PER_NM * np.clip(relief_nm - middle, -15.0, 15.0))
    truncate = np.sqrt(2 * min(DECAY_PER_NM * (high - low) + 4.0, REACH))
    spread = ndimage.gaussian_filter(current, sigma, mode="nearest", truncate=truncate)
    return np.asarray(middle + np.log(spread) / DECAY_PER_NM)


def double(
    surface_nm: NDArray[np.float64], shift_nm: tuple[float, float], gap_nm: float, pixel_size_nm: float
) -> NDArray[np.float64]:
    """Heights at constant current under two apexes; the mean level is that of the first alone.

    Parameters
    ----------
    surface_nm
        ``(H, W)`` heights that either apex alone would follow.
    shift_nm
        ``(y, x)`` place of the second apex.
    gap_nm
        By how much it is shorter.
    pixel_size_nm
        Side of a pixel.
    """
    down, right = (round(part / pixel_size_nm) for part in shift_nm)
    rows = np.clip(np.arange(surface_nm.shape[0]) + down, 0, surface_nm.shape[0] - 1)
    columns = np.clip(np.arange(surface_nm.shape[1]) + right, 0, surface_nm.shape[1] - 1)
    second = surface_nm[np.ix_(rows, columns)] - gap_nm
    share = np.log1p(np.exp(-DECAY_PER_NM * gap_nm))
    lower, upper = np.minimum(surface_nm, second), np.maximum(surface_nm, second)
    return np.asarray(upper + (np.log1p(np.exp(DECAY_PER_NM * (lower - upper))) - share) / DECAY_PER_NM)

"""Tips of one shape and several heights, tried on an image: what each would mean for the surface.

An estimate of a tip is surer of its shape than of its height, and erosion is sensitive to that. A tip that is too blunt cannot
have made the image: its opening (erosion, then dilation) leaves residues above the noise. One that is too sharp leaves the
surface as blunt as the image.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from spm_kernels import dilate, erode
from spm_runtime.pipelines.relief import ReliefView

__all__ = ["FACTORS", "FACTS", "candidate_facts", "chosen_factor"]

#: Factors on the heights of a tip: larger is sharper.
FACTORS = (0.15, 0.25, 0.4, 0.6, 1.0, 1.6, 2.5, 4.0, 7.0, 12.0)
#: Shares of the pixels with a smaller residue, of which the residue is told.
RESIDUE_QUANTILES = (0.5, 0.9, 0.99, 0.999)
#: Numbers told of each candidate and of the image alone.
PER_CANDIDATE, OF_IMAGE = 13, 6
#: Length of what `candidate_facts` returns.
FACTS = PER_CANDIDATE * len(FACTORS) + OF_IMAGE
#: The middle of an image is asked, at most so many pixels high and wide, less a rim where nothing is known from beyond.
ASKED_PX, RIM_PX = 512, 8
#: Logarithms are taken of heights above this, in units of the local height.
LEAST = 1e-5


def candidate_facts(view: ReliefView, tip: NDArray[np.float32]) -> NDArray[np.float32]:
    """What the candidates would mean.

    Parameters
    ----------
    view
        The scan.
    tip
        ``(h, w)`` float32 in units of the relief, as `spm_kernels.erode` takes it; the candidates are its heights times
        `FACTORS`.

    Returns
    -------
    ``(FACTS,)`` float32: for each candidate the logarithms, in units of ``view.local``, of the residue's mean, rms and quantiles,
    of the mean and rms of what erosion takes away, of the mean absolute and rms Laplacian and difference of neighbours of
    the eroded surface and of its range; then the noise and the same of the image, and the logarithm of ``view.local``.
    """
    image = _middle(view.image)
    inner = tuple(slice(min(RIM_PX, n // 4), n - min(RIM_PX, n // 4)) for n in image.shape)
    told = []
    for factor in FACTORS:
        candidate = np.float32(factor) * tip
        surface = erode(image, candidate)
        residue = (image - dilate(surface, candidate))[inner]
        taken = (image - surface)[inner]
        ranks = [int(residue.size * share) for share in RESIDUE_QUANTILES]
        ordered = np.partition(residue.ravel(), ranks)
        told += [*_size(residue), *ordered[ranks], *_size(taken), *_roughness(surface, inner), np.ptp(surface[inner])]
    told += [view.noise, *_roughness(image, inner)]
    facts = np.log(np.maximum(np.array(told) / view.local, LEAST))
    return np.append(facts, np.log(view.local)).astype(np.float32)


def chosen_factor(errors: NDArray[np.float32]) -> float:
    """The factor of the least error, between those that were asked by a parabola through three of them.

    Parameters
    ----------
    errors
        ``(len(FACTORS),)`` logarithm of the error that is foreseen for each candidate.
    """
    least = int(np.argmin(errors))
    at = np.log(FACTORS)
    if 0 < least < len(FACTORS) - 1:
        three = slice(least - 1, least + 2)
        bend, slope, _ = np.polyfit(at[three] - at[least], errors[three].astype(np.float64), 2)
        if bend > 0:
            return float(np.exp(at[least] - slope / (2 * bend)))
    return FACTORS[least]


def _middle(image: NDArray[np.float32]) -> NDArray[np.float32]:
    starts = [max((n - ASKED_PX) // 2, 0) for n in image.shape]
    return image[starts[0] : starts[0] + ASKED_PX, starts[1] : starts[1] + ASKED_PX]


def _size(values: NDArray[np.float32]) -> tuple[float, float]:
    """Mean absolute value and rms; 0 of nothing."""
    if not values.size:
        return 0.0, 0.0
    return float(np.abs(values).mean()), float(np.sqrt(np.mean(values.astype(np.float64) ** 2)))


def _roughness(surface: NDArray[np.float32], inner: tuple[slice, ...]) -> tuple[float, ...]:
    """`_size` of the Laplacian and of the differences of neighbours along the lines."""
    return *_size(ndimage.laplace(surface)[inner]), *_size(np.diff(surface[inner], axis=1))

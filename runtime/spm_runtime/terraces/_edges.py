"""How strongly, and in which direction, the surface steps up at every pixel."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import fft, ndimage

__all__ = ["FLAT", "StepResponse", "respond", "without_scars"]

#: Directions in half a turn. The filter's response falls by 4 % half way between two of them.
DIRECTIONS = 12

#: Length of the filter along the edge over its width across: corrugation and single defects average out along it.
ELONGATION = 3.0

#: A lower strength has no direction.
FLAT = np.float32(1e-12)

#: A pixel that stands out this many robust standard deviations from the pixels above and below it is a scar.
SCAR_STD = 3.0


@dataclass(frozen=True, eq=False)
class StepResponse:
    """What a directed edge filter sees.

    Parameters
    ----------
    strength
        ``(H, W)`` float32: the height of a straight step that would give this response, in the unit of the image.
    uphill
        ``(2, H, W)`` float32 ``(y, x)``: the same as a vector across the edge that points uphill.
    crest
        ``(H, W)`` bool: where the strength does not grow along that vector on either side. The flanks of a high step are as
        strong as a low step.
    width_px
        Gaussian σ of the filter across the edge.
    """

    strength: NDArray[np.float32]
    uphill: NDArray[np.float32]
    crest: NDArray[np.bool_]
    width_px: float


def respond(image: NDArray[np.float32], *, width_px: float) -> StepResponse:
    """Filter with first derivatives of elongated Gaussians in `DIRECTIONS` directions and keep the strongest.

    Parameters
    ----------
    image
        ``(H, W)`` float32, no NaN.
    width_px
        Gaussian σ across the edge.

    Notes
    -----
    The derivative of a Gaussian is close to the best filter for a step in white noise (Canny, IEEE Trans. Pattern Anal. Mach.
    Intell. 8 (1986) 679). It is scaled so that an ideal step of height h responds with h. Beyond the border the image is
    mirrored.
    """
    height, width = image.shape
    along_px = ELONGATION * width_px
    pad = [(min(round(3 * along_px) + 1, size - 1),) * 2 for size in image.shape]
    padded = np.pad(image, pad, mode="reflect")
    shape = [fft.next_fast_len(size, real=True) for size in padded.shape]
    spectrum = fft.rfft2(padded, shape)
    y = (2 * np.pi * fft.fftfreq(shape[0])[:, None]).astype(np.float32)
    x = (2 * np.pi * fft.rfftfreq(shape[1])[None, :]).astype(np.float32)
    gain = np.float32(np.sqrt(2 * np.pi) * width_px)
    best = np.zeros((height, width), np.float32)
    uphill = np.zeros((2, height, width), np.float32)
    for turn in np.arange(DIRECTIONS) * np.pi / DIRECTIONS:
        sine, cosine = np.float32(np.sin(turn)), np.float32(np.cos(turn))
        across, along = y * sine + x * cosine, y * cosine - x * sine
        kernel = across * np.exp(-0.5 * ((width_px * across) ** 2 + (along_px * along) ** 2))
        found = fft.irfft2(spectrum * (1j * gain * kernel), shape)
        found = found[pad[0][0] : pad[0][0] + height, pad[1][0] : pad[1][0] + width].astype(np.float32)
        stronger = np.abs(found) > np.abs(best)
        best = np.where(stronger, found, best)
        uphill[0] = np.where(stronger, found * sine, uphill[0])
        uphill[1] = np.where(stronger, found * cosine, uphill[1])
    strength = np.abs(best)
    return StepResponse(strength, uphill, _crest(strength, uphill, width_px), width_px)


def _crest(strength: NDArray[np.float32], uphill: NDArray[np.float32], width_px: float) -> NDArray[np.bool_]:
    """Where the strength is not lower than one filter width away on either side of the edge."""
    across = uphill * (np.float32(width_px) / np.maximum(strength, FLAT))
    place = np.indices(strength.shape, dtype=np.float32)
    crest = np.ones(strength.shape, bool)
    for side in (-1, 1):
        crest &= strength >= ndimage.map_coordinates(strength, place + side * across, order=1, mode="nearest")
    return crest


def without_scars(image: NDArray[np.float32]) -> NDArray[np.float32]:
    """Replace strokes of one row, and single bad pixels, by the median of the pixel, the one above and the one below."""
    middle = ndimage.median_filter(image, size=(3, 1), mode="nearest")
    off = np.abs(image - middle)
    limit = SCAR_STD * 1.4826 * float(np.median(off))
    return np.asarray(np.where(off > limit, middle, image))

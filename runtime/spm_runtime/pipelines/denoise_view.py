"""What the networks that denoise see: any map in units of its own relief, terraces level, outliers compressed.

Training uses these very functions.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import product

import numpy as np
from numpy.typing import NDArray

from spm_runtime.levelling import fill_with_nearest, fit_level

__all__ = ["DenoiseView", "denoise_view", "measured_part", "white_noise"]

Image = NDArray[np.float32]
Precise = NDArray[np.float64]

#: Per cent of the pixels beyond each end of the relief: the edges of steps among them. Where all between these ends is one
#: value, as where few islands stand on a flat terrace, less is left out, and in the end nothing.
BEYOND_PERCENT = (2.0, 0.5, 0.1, 0.0)
#: The view is linear up to this, in units of the relief, and logarithmic beyond.
LINEAR_LIMIT = 1.0
#: A normal distribution's standard deviation over its median absolute deviation.
MAD_STD = 1.4826
#: Orders of differences along a line, highest first, with the Euclidean length of (1, −4, 6, −4, 1) and (1, −2, 1): the gain of
#: white noise.
DIFFERENCES = ((4, 70.0**0.5), (2, 6.0**0.5), (0, 1.0))
#: Share of the measured pixels that must be left in these differences: gaps between measured lines leave fewer.
LEAST_SHARE = 0.02


@dataclass(frozen=True, eq=False)
class DenoiseView:
    """A scan in units of its own relief: ``scan = background + scale · stretched(image)``.

    Parameters
    ----------
    image
        ``(H, W)`` float32: 96 % of it from −0.5 to 0.5, tall outliers compressed. Missing pixels hold the nearest measured one.
    valid
        ``(H, W)`` bool: measured.
    background
        ``(H, W)`` float64 that was taken away, in the unit of the scan.
    scale
        Relief of the scan in its unit, positive: the range between the percentiles 2 and 98 of what is left of it, or further
        ones where these are equal.
    noise
        Standard deviation of the white noise of ``image``.
    """

    image: Image
    valid: NDArray[np.bool_]
    background: Precise
    scale: float
    noise: float

    def normalised(self, values: NDArray[np.floating]) -> Image:
        """Other values of the same scan as the network sees them; the inverse of `restored`.

        Parameters
        ----------
        values
            ``(H, W)`` in the unit of the scan, as the clean image of a simulated one.
        """
        return _compressed((values - self.background) / self.scale)

    def restored(self, image: NDArray[np.floating]) -> Image:
        """What the network says, ``(H, W)``, in the unit of the scan, float32; NaN where the scan is missing."""
        values = self.background + self.scale * _stretched(np.asarray(image, np.float64))
        return np.where(self.valid, values, np.nan).astype(np.float32)


def denoise_view(image: NDArray[np.floating]) -> DenoiseView:
    """Bring a scan of any channel into units of its own relief.

    Parameters
    ----------
    image
        ``(H, W)`` in any unit; NaN where missing.

    Returns
    -------
    DenoiseView
        Its image is zero everywhere for a constant scan.

    Notes
    -----
    What is taken away is `spm_runtime.levelling.fit_level`: of a level lattice a plane, of terraces their levels too, so that the
    corrugation fills the range. A network that changes nothing gives back the scan.
    """
    there = np.isfinite(image)
    shape = image.shape
    if not there.any():
        return DenoiseView(np.zeros(shape, np.float32), there, np.zeros(shape), 1.0, 0.0)
    background = fit_level(image)
    flat = np.asarray(image, np.float64) - background
    # A relief at the rounding error of the values is a constant image.
    rounding = 4 * float(np.finfo(np.float32).eps) * float(np.abs(image[there]).max())
    low, high = _relief(flat[there], rounding)
    scale = max(high - low, rounding, float(np.finfo(np.float32).tiny))
    background += (low + high) / 2
    flat -= (low + high) / 2
    seen = _compressed(fill_with_nearest(flat, there) / scale)
    return DenoiseView(seen, there, background, scale, white_noise(np.where(there & ~_repeated(image), seen, np.nan)))


def measured_part(image: NDArray[np.floating]) -> tuple[slice, slice]:
    """Rows and columns from the first to the last with measured pixels.

    Parameters
    ----------
    image
        ``(H, W)`` in any unit; NaN where missing. Lines that repeat to the last digit fill a scan that was not finished.

    Returns
    -------
    Index of the part; the whole where nothing was measured, or all lines are the same.
    """
    there = np.isfinite(image) & ~_repeated(image)
    if not there.any():
        return slice(None), slice(None)
    rows, columns = (np.flatnonzero(there.any(axis=axis)) for axis in (1, 0))
    return slice(int(rows[0]), int(rows[-1]) + 1), slice(int(columns[0]), int(columns[-1]) + 1)


def _relief(values: Precise, rounding: float) -> tuple[float, float]:
    """Ends of the relief: the innermost percentiles that differ by more than rounding, else the outermost."""
    beyond = np.array(BEYOND_PERCENT)
    lows, highs = np.percentile(values, beyond), np.percentile(values, 100 - beyond)
    differs = highs - lows > rounding
    chosen = int(np.argmax(differs)) if differs.any() else -1
    return float(lows[chosen]), float(highs[chosen])


def _repeated(image: NDArray[np.floating]) -> NDArray[np.bool_]:
    """``(H, 1)`` bool: lines that fill a scan that was not finished, the last measured one or a constant over and over."""
    same = (image[1:] == image[:-1]).all(axis=1)
    constant = (image == image[:, :1]).all(axis=1)
    return np.asarray((np.append(False, same) | (np.append(same, False) & constant))[:, None])


def white_noise(image: NDArray[np.floating]) -> float:
    """Standard deviation of the white noise of an image, from its finest diagonal detail; 0 where it is too small to tell.

    Parameters
    ----------
    image
        ``(H, W)`` in any unit; non-finite pixels are left out.

    Notes
    -----
    Fourth differences along both axes (second ones where 3 or 4 pixels lie in a row, none where there are fewer) see a lattice
    hardly at all where atoms are six or more pixels apart, nor steps, planes and offsets between lines. The median of
    the absolute values, times 1.4826, is the standard deviation of normal noise (D. L. Donoho and I. M. Johnstone, Biometrika
    81 (1994) 425).
    """
    there = np.isfinite(image)
    values: Precise = np.where(there, image, np.nan).astype(np.float64)
    least = max(1, int(LEAST_SHARE * there.sum()))
    for down, across in product(DIFFERENCES, DIFFERENCES):
        if (down[0], across[0]) == (0, 0):
            break
        rough = np.diff(np.diff(values, n=down[0], axis=0), n=across[0], axis=1)
        known = rough[np.isfinite(rough)]
        if known.size >= least:
            return float(MAD_STD * np.median(np.abs(known)) / (down[1] * across[1]))
    return 0.0


def _compressed(values: NDArray[np.floating]) -> Image:
    """Linear up to the limit, logarithmic beyond, smooth where they meet."""
    beyond = np.maximum(np.abs(values) / LINEAR_LIMIT, 1.0)
    within = np.clip(values, -LINEAR_LIMIT, LINEAR_LIMIT)
    return np.asarray(within + LINEAR_LIMIT * np.sign(values) * np.log(beyond), np.float32)


def _stretched(values: Precise) -> Precise:
    """The inverse of `_compressed`."""
    beyond = np.maximum(np.abs(values) / LINEAR_LIMIT - 1.0, 0.0)
    within = np.clip(values, -LINEAR_LIMIT, LINEAR_LIMIT)
    stretched: Precise = within + LINEAR_LIMIT * np.sign(values) * np.expm1(beyond)
    return stretched

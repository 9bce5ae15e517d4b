"""Levelling: what is done to a scan before a network or a person looks at it.

The network's levelling is part of every atom model (training uses this very function); the display's is for eyes only.
"""

from __future__ import annotations

from typing import TypeVar

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from spm_kernels import sliding_median

__all__ = [
    "BACKGROUND_RADIUS_PX",
    "fill_with_nearest",
    "fit_level",
    "fit_plane",
    "level_for_display",
    "level_for_network",
    "normalise_contrast",
    "remove_background",
]

_Number = TypeVar("_Number", bound=np.generic)

#: Radius of the background's window, in pixels of the image that the network sees.
BACKGROUND_RADIUS_PX = 16

#: Residuals beyond this many standard deviations are compressed: a tall adsorbate must not hide the atoms.
SOFT_LIMIT = 4.0

#: How far the local level may stray from the plane before `fit_level` takes the rest of it, in units of the local relief.
LEVEL_LIMIT = 0.5
#: Per cent of the pixels beyond each end of the local relief: the edges of steps among them.
BEYOND_PERCENT = 2.0
#: Gaussian σ of the smoothing of the local level.
SMOOTHING_PX = 1.5
#: Distance over which slopes between pixels are measured, in pixels.
STEP_PX = 4

#: About so many pixels tell a typical height.
MIDDLE_SAMPLES = 20_000


def fill_with_nearest(values: NDArray[_Number], there: NDArray[np.bool_]) -> NDArray[_Number]:
    """Fill the pixels that are not there with the nearest that is: nothing is made up, and no edge to zero appears.

    Parameters
    ----------
    values
        ``(H, W)``.
    there
        ``(H, W)`` bool: pixels that keep their values, one at least.

    Returns
    -------
    ``(H, W)`` of the same type.
    """
    if there.all():
        return values
    nearest = ndimage.distance_transform_edt(~there, return_distances=False, return_indices=True)
    return np.asarray(values[tuple(nearest)])


def remove_background(image: NDArray[np.float32], *, radius_px: int = BACKGROUND_RADIUS_PX) -> NDArray[np.float32]:
    """Subtract the median over a square window: unlike a mean it keeps the edge of an atomic step sharp.

    Parameters
    ----------
    image
        ``(H, W)`` float32 in any unit; NaN where missing.
    radius_px
        Radius of the median's window in pixels.

    Returns
    -------
    ``(H, W)`` float32 in the unit of the image; NaN where missing.
    """
    centred = _around_zero(image)
    return np.asarray(centred - sliding_median(centred, radius_px=radius_px))


def normalise_contrast(residual: NDArray[np.float32]) -> NDArray[np.float32]:
    """Divide by the standard deviation (the outermost percent left out) and compress outliers by ``4 · tanh(x / 4)``.

    Parameters
    ----------
    residual
        ``(H, W)`` float32 around zero; NaN where missing.

    Returns
    -------
    ``(H, W)`` float32 within ±4, without unit; 0 where the image is missing or constant.
    """
    there = np.isfinite(residual)
    values = residual[there]
    low, high = np.percentile(values, (0.5, 99.5)) if values.size else (0.0, 0.0)
    scale = float(np.std(np.clip(values, low, high), dtype=np.float64)) if high > low else 0.0
    # A spread at the rounding error of the values is a constant image, not a weak one.
    if not scale > 4 * np.finfo(np.float32).eps * float(np.max(np.abs(values), initial=0.0)):
        return np.zeros(residual.shape, np.float32)
    level = SOFT_LIMIT * np.tanh(residual / (SOFT_LIMIT * scale))
    return np.where(there, level, 0.0).astype(np.float32)


def level_for_network(image: NDArray[np.float32]) -> NDArray[np.float32]:
    """Remove the background and normalise the contrast: what every atom network sees.

    Parameters
    ----------
    image
        ``(H, W)`` float32 in any unit; NaN where missing.

    Returns
    -------
    ``(H, W)`` float32 within ±4, without unit; 0 where the image is missing or constant.
    """
    return normalise_contrast(remove_background(image))


def fit_plane(image: NDArray[np.float32]) -> NDArray[np.float64]:
    """The least-squares plane through the measured pixels, ``(H, W)`` float64 in the unit of the image."""
    there = np.isfinite(image)
    count = int(there.sum())
    if count < 3:
        return np.zeros(image.shape)
    values = np.where(there, image, 0).astype(np.float64)
    rows, columns = there.sum(axis=1), there.sum(axis=0)
    y = np.arange(image.shape[0]) - rows @ np.arange(image.shape[0]) / count
    x = np.arange(image.shape[1]) - columns @ np.arange(image.shape[1]) / count
    # Sums over the measured pixels, from sums along rows and columns; positions count from their centre of mass.
    mixed = y @ (there @ x)
    moments = np.array([[rows @ y**2, mixed], [mixed, columns @ x**2]])
    slope = np.linalg.lstsq(moments, np.array([values.sum(axis=1) @ y, values.sum(axis=0) @ x]), rcond=None)[0]
    return np.asarray(slope[0] * y[:, None] + slope[1] * x + values.sum() / count)


def fit_level(image: NDArray[np.floating]) -> NDArray[np.float64]:
    """The plane through a scan and, of a map with steps or large hills, the level of what is around each pixel.

    Parameters
    ----------
    image
        ``(H, W)`` in any unit; NaN where missing.

    Returns
    -------
    ``(H, W)`` float64 in the unit of the image.

    Notes
    -----
    A level lattice loses a plane only. A map with steps or large hills is first turned so that the typical slope is none, then
    the local level, a running median, is taken as far as it lies beyond half the local relief: the corrugation of every
    terrace is then on one level, but for some pixels beside a step. It is smoothed a little: where the edge of a step is some
    pixels wide, a median would jump across it pixel by pixel.
    """
    there = np.isfinite(image)
    if not there.any():
        return np.zeros(image.shape)
    centred = np.where(there, np.asarray(image, np.float64) - np.median(image[there]), 0.0)
    y, x = ((np.arange(n) - (n - 1) / 2) * _slope(centred, there, axis) for axis, n in enumerate(image.shape))
    flat = centred - np.add.outer(y, x)
    flat -= np.median(flat[there])
    level = sliding_median(flat.astype(np.float32), radius_px=BACKGROUND_RADIUS_PX, valid=there)
    level = np.where(np.isfinite(level), level, 0.0).astype(np.float64)
    low, high = np.percentile((flat - level)[there], (BEYOND_PERCENT, 100 - BEYOND_PERCENT))
    limit = LEVEL_LIMIT * float(high - low)
    flat -= ndimage.gaussian_filter(level - np.clip(level, -limit, limit), SMOOTHING_PX, mode="nearest")
    # Outliers may not turn the plane.
    flat -= fit_plane(np.where(there, np.clip(flat, -4 * limit, 4 * limit), np.nan).astype(np.float32))
    whole: NDArray[np.float64] = np.where(there, image, np.median(image[there])) - flat
    return whole


def _slope(values: NDArray[np.float64], there: NDArray[np.bool_], axis: int) -> float:
    """Typical difference of two pixels per pixel between them: the mean of the middle half; 0 where there are none."""
    step: int = min(STEP_PX, values.shape[axis] - 1)
    if step < 1:
        return 0.0
    after, before = np.moveaxis(values, axis, 0)[step:], np.moveaxis(values, axis, 0)[:-step]
    both = np.moveaxis(there, axis, 0)
    rise = (after - before)[both[step:] & both[:-step]]
    if not rise.size:
        return 0.0
    first, last = rise.size // 4, (3 * rise.size - 1) // 4
    return float(np.partition(rise, (first, last))[first : last + 1].mean()) / step


def level_for_display(image: NDArray[np.float32], *, local: float = 0.5) -> NDArray[np.uint8]:
    """A grey picture in which both terraces and atoms can be seen.

    Parameters
    ----------
    image
        ``(H, W)`` float32 in any unit; NaN where missing.
    local
        Share of local contrast in [0, 1]: 0 shows the plane-levelled heights alone, 1 the corrugation alone.

    Returns
    -------
    ``(H, W)`` uint8; 0 where the image is missing.
    """
    flat = _around_zero(image).astype(np.float64)
    flat -= fit_plane(flat.astype(np.float32))
    there = np.isfinite(flat)
    if not there.any():
        return np.zeros(image.shape, np.uint8)
    grey = (1 - local) * _stretch(flat, there) + local * _stretch(level_for_network(image).astype(np.float64), there)
    return np.where(there, np.rint(255 * _stretch(grey, there)), 0).astype(np.uint8)


def _around_zero(image: NDArray[np.float32]) -> NDArray[np.float32]:
    """Subtract a typical height, so that picometres on top of micrometres survive what follows.

    The difference of two float32 numbers is rounded once, as it would be in double precision.
    """
    there = np.isfinite(image)
    values = image[there]
    middle = np.float32(np.median(values[:: max(1, len(values) // MIDDLE_SAMPLES)])) if len(values) else np.float32(0)
    return np.where(there, image - middle, np.float32(np.nan))


def _stretch(values: NDArray[np.float64], there: NDArray[np.bool_]) -> NDArray[np.float64]:
    """Map the central 99 % of the measured values to [0, 1]."""
    low, high = np.percentile(values[there], (0.5, 99.5))
    if not high > low:
        return np.full(values.shape, 0.5)
    return np.asarray(np.clip((np.where(there, values, low) - low) / (high - low), 0.0, 1.0))

"""The power spectrum of an image on a log-polar grid, where a change of scale is a shift.

A lattice is a set of spots, a disordered arrangement a set of rings, a single atom a broad hill above the noise. On an axis
that counts octaves of the period, magnification moves all of them along without changing anything else, so that one small
convolutional network can read the spacing off at any magnification. The whole image takes part: a lattice whose columns
drown in the noise one by one still has spots that stand out.
"""

from __future__ import annotations

from functools import lru_cache
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy import fft, ndimage

__all__ = [
    "ANGLES",
    "BINS",
    "BINS_PER_OCTAVE",
    "CHANNELS",
    "MAX_SIDE_PX",
    "bin_of_period",
    "log_polar_spectrum",
    "period_of_bin",
]

#: Bins of the period on a logarithmic axis, from 2**0.5 px (the corner of the spectrum) on.
BINS_PER_OCTAVE = 16
BINS = 120
_FIRST_OCTAVE = 0.5
#: Bins of the angle over half a turn; the other half is the same.
ANGLES = 36
#: Logarithms of mean and largest power of a cell, and of the number of its samples.
CHANNELS = 3
#: The middle of larger images is looked at.
MAX_SIDE_PX = 1024
#: Heights beyond this many robust standard deviations are cut: an adsorbate must not fill the spectrum.
_CLIP_STD = 4.0


def period_of_bin(position: float | NDArray[np.floating]) -> NDArray[np.float64]:
    """Period in pixels at a (fractional) position on the axis of the bins."""
    return np.asarray(2.0 ** (_FIRST_OCTAVE + (np.asarray(position, np.float64) + 0.5) / BINS_PER_OCTAVE))


def bin_of_period(period_px: float | NDArray[np.floating]) -> NDArray[np.float64]:
    """Fractional position of a period on the axis of the bins; the inverse of `period_of_bin`."""
    return np.asarray((np.log2(np.asarray(period_px, np.float64)) - _FIRST_OCTAVE) * BINS_PER_OCTAVE - 0.5)


def log_polar_spectrum(image: NDArray[np.float32], valid: NDArray[np.bool_] | None = None) -> NDArray[np.float32]:
    """Power spectrum of an image on the log-polar grid.

    Parameters
    ----------
    image
        ``(H, W)`` with square pixels, in any unit; finite where valid.
    valid
        ``(H, W)`` pixels that were measured; all when None.

    Returns
    -------
    ``(CHANNELS, BINS, ANGLES)`` float32: natural logarithm of the mean and of the largest power of every cell, relative to the
    median cell, and of the number of its samples. Cells beyond the corner of the spectrum are 0 in all channels; those too
    small to hold a sample take the nearest one.
    """
    y, x = (max(0, (n - MAX_SIDE_PX) // 2) for n in image.shape)
    middle = image[y : y + MAX_SIDE_PX, x : x + MAX_SIDE_PX]
    there = None if valid is None else valid[y : y + MAX_SIDE_PX, x : x + MAX_SIDE_PX]
    flat = _flatten(middle, there)
    height, width = flat.shape
    window = np.hanning(height + 2)[1:-1, None] * np.hanning(width + 2)[None, 1:-1]
    amplitude = fft.rfft2(flat * window.astype(np.float32))
    power = (amplitude.real**2 + amplitude.imag**2).ravel()
    cells = _cells(height, width)
    sorted_power = power[cells.order]
    mean = np.add.reduceat(sorted_power, cells.start) / cells.samples
    largest = np.maximum.reduceat(sorted_power, cells.start)
    out = np.zeros((CHANNELS, BINS * ANGLES), np.float32)
    for channel, values in enumerate((mean, largest)):
        out[channel, cells.filled] = values
        out[channel, cells.empty] = power[cells.nearest]
    inside = cells.inside
    floor = max(float(out[0, inside].max()) * 1e-12, 1e-30)
    out[:2, inside] = np.log(np.maximum(out[:2, inside], floor))
    out[:2, inside] -= np.median(out[0, inside])
    out[2, cells.filled] = np.log(cells.samples)
    return out.reshape(CHANNELS, BINS, ANGLES)


class _Cells(NamedTuple):
    """Which samples of a half spectrum fall into which cell of the grid."""

    order: NDArray[np.int64]  # samples sorted by cell, those outside the grid left out
    start: NDArray[np.int64]  # first of each filled cell in `order`
    samples: NDArray[np.float32]  # number of samples of each filled cell
    filled: NDArray[np.int64]  # flat index of the filled cells
    empty: NDArray[np.int64]  # flat index of the cells inside the spectrum without a sample
    nearest: NDArray[np.int64]  # sample nearest to the centre of each of those
    inside: NDArray[np.int64]  # filled and empty together


@lru_cache(maxsize=8)
def _cells(height: int, width: int) -> _Cells:
    fy, fx = fft.fftfreq(height)[:, None], fft.rfftfreq(width)[None, :]
    frequency = np.hypot(fy, fx)
    frequency[0, 0] = 1.0
    radial = np.floor((-np.log2(frequency) - _FIRST_OCTAVE) * BINS_PER_OCTAVE).astype(np.int64)
    angular = np.floor(np.mod(np.arctan2(fy, fx) / np.pi, 1.0) * ANGLES).astype(np.int64) % ANGLES
    flat = np.where((radial >= 0) & (radial < BINS), radial * ANGLES + angular, -1)
    flat[0, 0] = -1
    flat = flat.ravel()
    order = np.argsort(flat, kind="stable")
    order = order[np.searchsorted(flat[order], 0) :]
    filled, start, count = np.unique(flat[order], return_index=True, return_counts=True)
    missing = np.setdiff1d(np.arange(BINS * ANGLES), filled)
    centre = 1 / period_of_bin((missing // ANGLES).astype(np.float64))
    angle = (missing % ANGLES + 0.5) / ANGLES * np.pi
    y, x = centre * np.sin(angle), centre * np.cos(angle)
    y, x = np.where(x < 0, -y, y), np.abs(x)
    known = (np.abs(y) <= 0.5) & (x <= 0.5)
    row, column = np.rint(y[known] * height).astype(np.int64) % height, np.rint(x[known] * width).astype(np.int64)
    nearest = row * (width // 2 + 1) + np.minimum(column, width // 2)
    empty = missing[known]
    return _Cells(order, start, count.astype(np.float32), filled, empty, nearest, np.union1d(filled, empty))


def _flatten(image: NDArray[np.float32], valid: NDArray[np.bool_] | None) -> NDArray[np.float32]:
    """Take the slow background away, cut what stands out, and fill what is missing with the mean."""
    values = image.astype(np.float32)
    if valid is not None and not valid.all():
        fill = np.float32(np.median(values[valid])) if valid.any() else np.float32(0)
        values = np.where(valid, values, fill)
    values = values - np.float32(values.mean(dtype=np.float64))
    coarse = max(min(values.shape) // 64, 1)  # the background is smooth: blur it on a coarse grid
    background = _blur(values, sigma=max(min(values.shape) / 12, 1.0), step=coarse)
    values = values - background
    spread = 1.4826 * float(np.median(np.abs(values - np.median(values))))
    if spread > 0:
        np.clip(values, -_CLIP_STD * spread, _CLIP_STD * spread, out=values)
    return np.asarray(values / (spread or 1.0), dtype=np.float32)


def _blur(values: NDArray[np.float32], *, sigma: float, step: int) -> NDArray[np.float32]:
    """Gaussian blur computed on every `step`-th pixel of block means."""
    height, width = values.shape
    rows, columns = height // step * step, width // step * step
    blocks = values[:rows, :columns].reshape(rows // step, step, columns // step, step).mean(axis=(1, 3))
    smooth = ndimage.gaussian_filter(blocks, sigma / step, mode="nearest", truncate=3.0)
    y = np.clip((np.arange(height) + 0.5) / step - 0.5, 0, smooth.shape[0] - 1)
    x = np.clip((np.arange(width) + 0.5) / step - 0.5, 0, smooth.shape[1] - 1)
    y0, x0 = (
        np.minimum(y.astype(int), max(smooth.shape[0] - 2, 0)),
        np.minimum(x.astype(int), max(smooth.shape[1] - 2, 0)),
    )
    wy, wx = (y - y0).astype(np.float32)[:, None], (x - x0).astype(np.float32)[None, :]
    y1, x1 = np.minimum(y0 + 1, smooth.shape[0] - 1), np.minimum(x0 + 1, smooth.shape[1] - 1)
    along = smooth[y0] * (1 - wy) + smooth[y1] * wy
    return np.asarray(along[:, x0] * (1 - wx) + along[:, x1] * wx, dtype=np.float32)

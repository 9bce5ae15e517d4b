"""The spacing of the columns from the power spectrum: the scale that every tuned peer is given.

A strong peer makes an honest comparison, so this is as good as classical means made it: the lattice of the most prominent spots,
then a check with the columns that a filter of that scale finds, because a cell may hold more than one. Where no spot stands out,
the width of the columns tells the scale, from the autocorrelation. On 132 simulated images of eleven arrangements 60 % of the
spacings are within 10 % and 72 % within 25 %; the period of the strongest spot alone gave 23 % and 48 %. It is weak without a
lattice, where spots of a superstructure are strongest, and for honeycombs, whose lattice constant is √3 spacings.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage
from scipy.spatial import cKDTree
from skimage.feature import peak_local_max

__all__ = ["fft_spacing_px"]

#: The transform is padded to this multiple of the image: spots are located between the bins.
_PADDING = 2
#: Lowest frequency in periods per image side, highest in periods per pixel.
_LOWEST_PERIODS, _HIGHEST = 4.0, 0.4
#: Prominent is what exceeds the median of its ring (noise and texture fill a ring, a lattice makes spots on it) this many times.
_RING_FACTOR = 8.0
#: A lattice's strongest spot exceeds the median of its ring this many times; noise alone gives up to ten.
_LATTICE_FACTOR = 12.0
#: Width σ of a column in spacings where only the width is known: the middle of what Gaussian columns of real images have.
_WIDTH = 0.2
#: Number of the strongest spots; a spot of the basis has at least this share of the strongest one's prominence.
_SPOTS, _WEAKEST = 6, 0.1
#: Bounds of the second vector of the reciprocal basis: its length over the first one's, and the sine between them.
_LONGEST, _LEAST_SINE = 1.8, 0.5
#: Nearest distance over the period where one spot alone is known: between a square (1) and a triangular net (1.155).
_ONE_SPOT = 1.08
#: Columns found with the scale correct it when they are many, alike (interquartile range over median) and disagree enough.
_LEAST_COLUMNS, _MOST_SPREAD, _LEAST_CHANGE = 12, 0.35, 0.15
#: σ and distance in spacings, threshold in standard deviations, of the filter that finds those columns.
_SIGMA, _DISTANCE, _THRESHOLD = 0.3, 0.4, 0.8


def fft_spacing_px(levelled: NDArray[np.float32]) -> float:
    """Nearest-neighbour spacing of the columns, in pixels.

    Parameters
    ----------
    levelled
        ``(H, W)`` image without background.

    Notes
    -----
    Offsets between scan lines make spots on the axis of the slow scan: medians of the rows are subtracted, and the axis left out.
    Where not even columns are seen, as in a constant image, the spacing is the longest period that is looked for.
    """
    flat = levelled.astype(np.float64)
    flat -= np.median(flat, axis=1, keepdims=True)
    longest = min(flat.shape) / _LOWEST_PERIODS
    spots, prominence, over_median = _prominent_spots(flat)
    if not over_median > _LATTICE_FACTOR:
        return float(min(max(_column_width(flat) / _WIDTH, 1 / _HIGHEST), longest))
    return _checked(flat, _lattice_spacing(spots, prominence))


def _prominent_spots(flat: NDArray[np.float64]) -> tuple[NDArray[np.float64], NDArray[np.float64], float]:
    """The most prominent spots of one half plane.

    Returns
    -------
    Frequencies ``(K, 2)`` in periods per pixel, their prominence, and the power of the first over the median of its ring.
    """
    height, width = flat.shape
    window = np.hanning(height)[:, None] * np.hanning(width)
    bins = _PADDING * max(height, width)
    axis = np.fft.fftshift(np.fft.fftfreq(bins))
    frequency = np.hypot(axis[:, None], axis)
    # What is left of the background falls with the frequency.
    power = np.fft.fftshift(np.abs(np.fft.fft2(flat * window, s=(bins, bins))) ** 2) * frequency
    power = ndimage.gaussian_filter(power, 0.7 * _PADDING)
    ring = np.rint(frequency * bins).astype(int)
    median = ndimage.gaussian_filter1d(ndimage.median(power, ring, np.arange(ring.max() + 1)), 3.0)
    looked_at = (frequency > _LOWEST_PERIODS / min(height, width)) & (frequency < _HIGHEST)
    looked_at &= np.abs(axis)[None, :] > 1.5 / width
    prominence = np.where(looked_at, power - _RING_FACTOR * median[ring], -np.inf)
    peaks = peak_local_max(  # type: ignore[no-untyped-call]
        prominence, min_distance=3, exclude_border=False, threshold_abs=np.finfo(np.float64).min
    )
    spots = axis[peaks]
    half = spots[:, 0] > -1e-9
    height_of = prominence[peaks[:, 0], peaks[:, 1]]
    strongest = np.flatnonzero(half)[np.argsort(height_of[half])[::-1]][:_SPOTS]
    if not len(strongest):
        return spots[strongest], height_of[strongest], 0.0
    first = tuple(peaks[strongest[0]])
    # Without any noise a ring may be empty but for rounding errors.
    floor = max(float(median[ring[first]]), 1e-9 * float(power.max()))
    return spots[strongest], height_of[strongest], float(power[first]) / floor if floor > 0 else 0.0


def _lattice_spacing(spots: NDArray[np.float64], prominence: NDArray[np.float64]) -> float:
    """Shortest vector of the lattice whose reciprocal basis is the strongest spot and the next one beside it."""
    length = np.hypot(*spots.T)
    sine = np.abs(spots[0, 0] * spots[:, 1] - spots[0, 1] * spots[:, 0]) / (length * length[0])
    ratio = np.maximum(length / length[0], length[0] / length)
    fit = (sine > _LEAST_SINE) & (ratio < _LONGEST) & (prominence >= _WEAKEST * prominence[0])
    if not fit.any():
        return float(_ONE_SPOT / length[0])
    lattice = np.linalg.inv(np.stack([spots[0], spots[np.argmax(fit)]])).T
    steps = np.stack(np.meshgrid(*[np.arange(-2, 3)] * 2), axis=-1).reshape(-1, 2)
    return float(np.sort(np.hypot(*(steps @ lattice).T))[1])  # the first is no step at all


def _column_width(flat: NDArray[np.float64]) -> float:
    """Gaussian σ of the columns in pixels, infinite when no column is seen.

    The autocorrelation of Gaussians of width σ falls as ``exp(−r² / 4σ²)``, to one half at ``2 σ √(ln 2)``. White noise adds to
    lag 0 alone, which is extrapolated from the next two.
    """
    height, width = flat.shape
    power = np.abs(np.fft.rfft2(flat, s=(2 * height, 2 * width))) ** 2
    correlation = np.fft.fftshift(np.fft.irfft2(power, s=(2 * height, 2 * width)))
    reach = min(height, width) // 4
    near = correlation[height - reach : height + reach + 1, width - reach : width + reach + 1]
    ring = np.rint(np.hypot(*np.mgrid[-reach : reach + 1, -reach : reach + 1])).astype(int)
    by_lag = np.asarray(ndimage.mean(near, ring, np.arange(reach + 1)))
    by_lag[0] = by_lag[1] + max(by_lag[1] - by_lag[2], 0.0) / 3
    below = np.flatnonzero(by_lag < 0.5 * by_lag[0])
    if not len(below) or by_lag[0] <= 0:
        return float("inf")
    after = int(below[0])
    lag = after - 1 + (by_lag[after - 1] - 0.5 * by_lag[0]) / (by_lag[after - 1] - by_lag[after])
    return float(lag / (2 * np.sqrt(np.log(2))))


def _checked(flat: NDArray[np.float64], spacing: float) -> float:
    """Replace the spacing by that of the columns found with it, where they are regular and disagree with it."""
    found = spacing
    for _ in range(2):
        filtered = -ndimage.gaussian_laplace(flat, _SIGMA * found, mode="reflect")
        peaks = peak_local_max(  # type: ignore[no-untyped-call]
            filtered,
            min_distance=max(1, round(_DISTANCE * found)),
            threshold_abs=_THRESHOLD * float(filtered.std()),
            exclude_border=False,
        )
        if len(peaks) < _LEAST_COLUMNS:
            return spacing
        distance = cKDTree(peaks).query(peaks, k=2)[0][:, 1]
        low, middle, high = np.percentile(distance, (25, 50, 75))
        if high - low > _MOST_SPREAD * middle:
            return spacing
        found = max(float(np.clip(distance.mean(), 0.5 * found, 1.6 * found)), 3.0)
    return found if abs(np.log(found / spacing)) > _LEAST_CHANGE else spacing

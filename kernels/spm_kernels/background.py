"""Running median over a large window, exact on an image quantised by its own quantiles."""

from __future__ import annotations

import operator
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from spm_kernels._arrays import as_image, as_usable
from spm_kernels._jit import kernel

__all__ = ["sliding_median"]

Counts: TypeAlias = NDArray[np.int32]

#: Levels of one coarse bin of the histogram: 32 coarse × 32 fine bins make the 1024 levels of the default.
FINE = 32

#: Largest number of levels; a histogram of this size per column of the image is kept in memory.
MAX_LEVELS = 8192


def sliding_median(
    image: NDArray[np.float32], *, radius_px: int, valid: NDArray[np.bool_] | None = None, levels: int = 1024
) -> NDArray[np.float32]:
    """Median over the square window around each pixel.

    Parameters
    ----------
    image
        ``(H, W)`` float32 in any unit. Non-finite pixels are missing and ignored.
    radius_px
        The window has ``2 radius_px + 1`` pixels a side and is clipped at the border.
    valid
        ``(H, W)`` bool; pixels that are False are missing and ignored.
    levels
        Number of quantile levels that the image is reduced to (2 to 8192).

    Returns
    -------
    ``(H, W)`` float32 in the unit of the image, at missing pixels too; NaN where the window has no pixel to count.

    Raises
    ------
    ValueError
        If a shape or type is wrong, the radius is negative or ``levels`` is out of range.

    Notes
    -----
    The median of an even number of pixels is the lower of the two in the middle, so every value of the result is a
    value of the image.

    Levels hold equally many *pixels*, not equal ranges of values: equal ranges would spend nearly all levels on the
    empty gap of a step edge that is far higher than the atomic corrugation. Order is kept by the quantisation, so the
    result is exact on the quantised image and lies in the same level as the true median: within ``1/levels`` of the
    image's pixels in rank. With as many levels as different values it is the true median.

    One histogram per column slides down the image and the window's histogram slides along the row by adding and
    subtracting columns, so the cost does not depend on the radius (Perreault and Hébert, IEEE Trans. Image Process. 16
    (2007) 2389). Coarse bins are always kept; the fine bins of a coarse one are brought up to date only when the
    median lies in it.
    """
    image = as_image(image)
    usable = as_usable(image, valid)
    radius, levels = operator.index(radius_px), operator.index(levels)
    if radius < 0:
        raise ValueError(f"radius_px: expected 0 or more pixels, got {radius}")
    if not 2 <= levels <= MAX_LEVELS:
        raise ValueError(f"levels: expected a number from 2 to {MAX_LEVELS}, got {levels}")
    if not usable.any():
        return np.full(image.shape, np.nan, np.float32)
    lowest, value = _levels(np.sort(image[usable]), levels)
    height, width = image.shape
    result: NDArray[np.float32] = _median(image, usable, lowest, value, min(radius, height - 1), min(radius, width - 1))
    return result


def _levels(ordered: NDArray[np.float32], levels: int) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Lowest value of each level, and the value that stands for it: its own lower median.

    ``ordered`` is sorted. Levels begin at equally spaced ranks; where many pixels are equal, levels merge.
    """
    count = len(ordered)
    ranks = np.arange(min(levels, count), dtype=np.int64) * count // min(levels, count)
    lowest = np.unique(ordered[ranks])
    first = np.searchsorted(ordered, lowest, side="left")
    last = np.append(first[1:], count) - 1
    return lowest, ordered[(first + last) // 2]


@kernel()
def _quantise(image: NDArray[np.float32], usable: NDArray[np.bool_], lowest: NDArray[np.float32]) -> Counts:
    """Index of each pixel's level, −1 where it is missing."""
    height, width = image.shape
    level = np.zeros((height, width), np.int32)
    for y in range(height):
        found, pixels = level[y], image[y]
        length = len(lowest)
        while length > 1:  # one step of the binary search for a whole row: vector code, and no pixel waits for its own
            half = length // 2
            for x in range(width):
                ahead = found[x] + np.int32(half)
                found[x] = ahead if lowest[ahead] <= pixels[x] else found[x]
            length -= half
        for x in range(width):
            found[x] = found[x] if usable[y, x] else np.int32(-1)
    return level


@kernel()
def _count_row(level: Counts, step: int, coarse: Counts, fine: Counts) -> None:
    """Add a row of the image to the columns' histograms (``step`` 1) or take it out (−1)."""
    for x in range(len(level)):
        if level[x] >= 0:
            coarse[x, level[x] // FINE] += step
            fine[level[x] // FINE, x, level[x] % FINE] += step


@kernel(inline="always")  # a call per pixel costs a quarter of the time
def _bring_up(window: Counts, columns: Counts, since: int, x: int, side: int) -> None:
    """Bring the fine bins of one coarse bin from the window that began at column ``since`` to the one at ``x``."""
    if since < 0 or 2 * (x - since) > side:
        for i in range(FINE):
            window[i] = 0
        for u in range(x, x + side):
            column = columns[u]
            for i in range(FINE):
                window[i] += column[i]
    else:
        for u in range(since, x):
            gone, come = columns[u], columns[u + side]
            for i in range(FINE):
                window[i] += come[i] - gone[i]


@kernel()
def _median(
    image: NDArray[np.float32],
    usable: NDArray[np.bool_],
    lowest: NDArray[np.float32],
    value: NDArray[np.float32],
    ry: int,
    rx: int,
) -> NDArray[np.float32]:
    """Running median; the radii are below the size of the image."""
    height, width = image.shape
    level = _quantise(image, usable, lowest)
    bins = (len(lowest) + FINE - 1) // FINE
    side = 2 * rx + 1
    # Histograms of the columns, with empty columns around the image so that no window is a special case: column u of
    # the image is at rx + u, and the window of pixel x is x … x + side − 1. One column more is read beyond the last one.
    coarse = np.zeros((width + side, bins), np.int32)
    fine = np.zeros((bins, width + side, FINE), np.int32)  # the columns of one coarse bin lie together in memory
    coarse_inside, fine_inside = coarse[rx : rx + width], fine[:, rx : rx + width]
    window = np.empty(bins, np.int32)
    window_fine = np.empty((bins, FINE), np.int32)
    since = np.empty(bins, np.int64)  # where the window was when these fine bins were right, −1 for never in this row
    result = np.empty((height, width), np.float32)
    for y in range(min(ry, height)):
        _count_row(level[y], 1, coarse_inside, fine_inside)
    for y in range(height):
        if y + ry < height:
            _count_row(level[y + ry], 1, coarse_inside, fine_inside)
        if y - ry - 1 >= 0:
            _count_row(level[y - ry - 1], -1, coarse_inside, fine_inside)
        for i in range(bins):
            window[i] = 0
            since[i] = -1
            for u in range(side):
                window[i] += coarse[u, i]
        for x in range(width):
            total = 0
            for i in range(bins):
                total += window[i]
            if total == 0:
                result[y, x] = np.nan
            else:
                wanted = (total - 1) // 2  # rank of the lower median
                c = 0
                while wanted >= window[c]:
                    wanted -= window[c]
                    c += 1
                _bring_up(window_fine[c], fine[c], since[c], x, side)
                since[c] = x
                f = 0
                while wanted >= window_fine[c, f]:
                    wanted -= window_fine[c, f]
                    f += 1
                result[y, x] = value[c * FINE + f]
            gone, come = coarse[x], coarse[x + side]
            for i in range(bins):
                window[i] += come[i] - gone[i]
    return result

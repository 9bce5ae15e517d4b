"""Local maxima of a score map: max-pool and compare."""

from __future__ import annotations

import math
import operator
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from spm_kernels._arrays import as_image, as_usable
from spm_kernels._jit import kernel

__all__ = ["local_maxima"]

Map: TypeAlias = NDArray[np.float32]
Mask: TypeAlias = NDArray[np.bool_]
Row: TypeAlias = NDArray[np.float32]


def local_maxima(
    score: NDArray[np.float32],
    *,
    window_px: int,
    threshold: float,
    valid: NDArray[np.bool_] | None = None,
) -> NDArray[np.int32]:
    """Find the pixels that are the maximum of the square window around them.

    Parameters
    ----------
    score
        ``(H, W)`` float32 map, such as a network's confidence. Non-finite pixels are missing.
    window_px
        Side of the window in pixels, odd; at the border the window is clipped.
    threshold
        A peak's score is above this value.
    valid
        ``(H, W)`` bool; pixels that are False are missing. A missing pixel is no peak and suppresses none.

    Returns
    -------
    ``(N, 2)`` int32 of ``(y, x)``, best score first, equal scores in the order of rows and columns.

    Raises
    ------
    ValueError
        If a shape or type is wrong, the window is not odd and positive, or the threshold is NaN.

    Notes
    -----
    Touching pixels (8 neighbours) of equal score are a plateau and give one peak: of the pixels that are a maximum of
    their window, the one nearest to their centroid, the first in row order where two are as near. A saturated sigmoid
    makes such plateaus, and the middle is the better start for a fit. Two equal maxima in one window that do not touch
    are two peaks.

    The maximum is taken along x, then along y, by doubling the window until it is wide enough: log₂(``window_px``)
    comparisons per pixel in vector code, which is faster here than the constant three of van Herk's scheme. Source of
    the method: PolyU thesis on AtomID-net, detection by max-pooling.
    """
    score = as_image(score, "score")
    usable = as_usable(score, valid)
    side = operator.index(window_px)
    if side < 1 or side % 2 == 0:
        raise ValueError(f"window_px: expected an odd number of pixels, 1 or more, got {side}")
    if math.isnan(threshold):
        raise ValueError("threshold: expected a number, got NaN")
    if score.size == 0:
        return np.empty((0, 2), np.int32)
    yx = _peaks(score, usable, side // 2, float(threshold))
    return yx[np.lexsort((yx[:, 1], yx[:, 0], -score[yx[:, 0], yx[:, 1]]))]


# Loops stand where NumPy would assign slices: Numba compiles a slice assignment, with its error message, for seconds.


@kernel()
def _larger(a: Row, b: Row, out: Row) -> None:
    """Elementwise maximum without NaN: a comparison, which the compiler turns into vector code."""
    for x in range(len(a)):
        out[x] = a[x] if a[x] > b[x] else b[x]


@kernel()
def _window_max(score: Map, usable: Mask, ry: int, rx: int) -> Map:
    """Maximum over ``(2 ry + 1) × (2 rx + 1)`` windows clipped at the border, −inf where all of it is missing.

    Element i of a padded line is first the maximum of itself alone, then of two, four … elements from i on.
    """
    height, width = score.shape
    lowest = np.float32(-np.inf)
    best = np.empty((height + 2 * ry, width), np.float32)
    line, wider = np.empty(width + 2 * rx, np.float32), np.empty(width + 2 * rx, np.float32)
    for i in range(ry):
        for x in range(width):
            best[i, x] = best[height + ry + i, x] = lowest
    for y in range(height):
        for i in range(rx):
            line[i] = line[width + rx + i] = lowest
        inside, pixels, there = line[rx : rx + width], score[y], usable[y]
        for x in range(width):
            inside[x] = pixels[x] if there[x] else lowest
        reach, length = 1, len(line)
        while reach < 2 * rx + 1:
            shift = min(reach, 2 * rx + 1 - reach)
            length -= shift
            _larger(line[:length], line[shift:], wider)
            line, wider = wider, line
            reach += shift
        row = best[ry + y]
        for x in range(width):
            row[x] = line[x]
    reach, length = 1, len(best)
    while reach < 2 * ry + 1:
        shift = min(reach, 2 * ry + 1 - reach)
        length -= shift
        for i in range(length):
            row, ahead = best[i], best[i + shift]
            for x in range(width):  # in place, and so without `_larger`: overlapping arguments forbid vector code
                row[x] = ahead[x] if ahead[x] > row[x] else row[x]
        reach += shift
    return best[:height]


@kernel()
def _peaks(score: Map, usable: Mask, radius: int, threshold: float) -> NDArray[np.int32]:
    """``(N, 2)`` peaks, plateaus in the order of their first pixel."""
    height, width = score.shape
    top = _window_max(score, usable, min(radius, height - 1), min(radius, width - 1))
    hit = np.empty((height, width), np.bool_)
    count = 0
    for y in range(height):
        pixels, there, highest, hits = score[y], usable[y], top[y], hit[y]
        for x in range(width):
            hits[x] = there[x] & (pixels[x] == highest[x]) & (pixels[x] > threshold)
        for x in range(width):
            count += hits[x]
    found = np.empty((count, 2), np.int32)
    seen = np.zeros((height, width), np.bool_)
    stack = np.empty(height * width, np.int64)
    n = 0
    for y in range(height):
        for x in range(width):
            if hit[y, x] and not seen[y, x]:
                found[n, 0], found[n, 1] = _plateau_centre(score, usable, hit, seen, stack, y, x)
                n += 1
    return found[:n].copy()


@kernel()
def _plateau_centre(
    score: Map, usable: Mask, hit: Mask, seen: Mask, stack: NDArray[np.int64], y0: int, x0: int
) -> tuple[int, int]:
    """Mark the plateau of a pixel as seen; give its window maximum that is nearest to the centroid of all of them."""
    height, width = score.shape
    level = score[y0, x0]
    stack[0] = y0 * width + x0
    seen[y0, x0] = True
    filled, done = 1, 0
    sum_y, sum_x, members = 0, 0, 0
    while done < filled:  # the stack is kept: the members are looked at once more below
        y, x = stack[done] // width, stack[done] % width
        done += 1
        if hit[y, x]:
            sum_y += y
            sum_x += x
            members += 1
        for v in range(max(y - 1, 0), min(y + 2, height)):
            for u in range(max(x - 1, 0), min(x + 2, width)):
                if score[v, u] == level and usable[v, u] and not seen[v, u]:
                    seen[v, u] = True
                    stack[filled] = v * width + u
                    filled += 1
    if filled == 1:
        return y0, x0
    best = np.int64(-1)
    best_distance = np.inf
    for i in range(filled):
        y, x = stack[i] // width, stack[i] % width
        if hit[y, x]:
            distance = float(members * y - sum_y) ** 2 + float(members * x - sum_x) ** 2
            if distance < best_distance or (distance == best_distance and stack[i] < best):
                best, best_distance = stack[i], distance
    return best // width, best % width

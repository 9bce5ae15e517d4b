"""What a tip makes of a surface, and what can be had back: grey dilation, grey erosion and the certainty map."""

from __future__ import annotations

import itertools
import operator
from concurrent.futures import ThreadPoolExecutor
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from spm_kernels._arrays import as_image, frozen
from spm_kernels._jit import kernel

__all__ = ["as_tip", "certainty_map", "dilate", "erode"]

Heights: TypeAlias = NDArray[np.float32]

#: Columns of the image that are worked on together: they stay in the nearest cache and their bounds are worth comparing.
BLOCK = 64


def dilate(surface: Heights, tip: Heights, *, threads: int = 1) -> Heights:
    """Image of a surface as a tip of finite sharpness records it.

    Parameters
    ----------
    surface
        ``(H, W)`` float32 heights. Non-finite pixels are missing: the tip does not touch there.
    tip
        ``(h, w)`` float32 heights in the same unit, odd numbers of pixels: what the tip's image of a single sharp spike looks
        like, so the apex is the maximum and usually 0. −inf where there is no tip. The middle pixel is the position that the
        microscope records.
    threads
        Number of threads over which the rows are spread; the result does not depend on it.

    Returns
    -------
    ``(H, W)`` float32: ``max over u of surface(x − u) + tip(u)``, u from the tip's middle. NaN where no pixel under the tip
    holds a height.

    Raises
    ------
    ValueError
        If a shape or type is wrong, or ``threads`` is below 1.

    Notes
    -----
    The reflected tip that Villarrubia calls P (J. Res. Natl. Inst. Stand. Technol. 102 (1997) 425). What lies outside the
    image is left out: nothing is known of it. Equal to the last bit to ``scipy.ndimage.grey_dilation`` with ``structure=tip``
    on an image with a rim of −inf.

    Exact in spite of leaving most of the work out: a row of the tip whose highest point, on the highest point of the surface
    under it, stays below what was found already cannot touch.
    """
    surface, tip = as_image(surface, "surface"), as_tip(tip)
    result = _sweep(surface, tip[::-1, ::-1], threads)
    return np.where(np.isneginf(result), np.float32(np.nan), result)


def erode(image: Heights, tip: Heights, *, threads: int = 1) -> Heights:
    """Highest surface that is compatible with an image and the tip that made it.

    Parameters
    ----------
    image
        ``(H, W)`` float32 heights. Non-finite pixels are missing and set no bound.
    tip
        ``(h, w)`` float32, as in `dilate`.
    threads
        Number of threads over which the rows are spread; the result does not depend on it.

    Returns
    -------
    ``(H, W)`` float32: ``min over u of image(x + u) − tip(u)``. It is the true surface where the tip touched (`certainty_map`)
    and an upper bound elsewhere. NaN where no pixel under the tip holds a height.

    Raises
    ------
    ValueError
        If a shape or type is wrong, or ``threads`` is below 1.

    Notes
    -----
    What lies outside the image is left out. Equal to the last bit to ``scipy.ndimage.grey_erosion`` with ``structure=tip`` on
    an image with a rim of +inf.
    """
    image, tip = as_image(image), as_tip(tip)
    result = -_sweep(-image, tip, threads)
    return np.where(np.isposinf(result), np.float32(np.nan), result)


def certainty_map(image: Heights, tip: Heights, *, tolerance: float = 0.0) -> NDArray[np.bool_]:
    """Pixels of the surface that the tip is known to have touched.

    Parameters
    ----------
    image
        ``(H, W)`` float32 heights. Non-finite pixels are missing.
    tip
        ``(h, w)`` float32, as in `dilate`.
    tolerance
        Gap in the unit of the heights below which the tip counts as touching. 0 is exact for an image without rounding; an
        image that was rounded (to float32, by the instrument) needs a few of its steps.

    Returns
    -------
    ``(H, W)`` bool: True where at least one pixel of the image was recorded by a touch on this pixel of the surface and on no
    other. There `erode` gives the height of the surface itself.

    Raises
    ------
    ValueError
        If a shape or type is wrong, or the tolerance is negative or not finite.

    Notes
    -----
    Villarrubia's criterion (J. Res. Natl. Inst. Stand. Technol. 102 (1997) 425, section 3.2): a tip that rests on two points
    at once has touched at least one of them, and nobody knows which. Image pixels whose tip reaches over the border are not
    asked: the touch may have been outside.
    """
    image, tip = as_image(image), as_tip(tip)
    if not (np.isfinite(tolerance) and tolerance >= 0):
        raise ValueError(f"tolerance: expected a finite height of 0 or more, got {tolerance!r}")
    certain = np.zeros(image.shape, np.bool_)
    if min(image.shape[0] - tip.shape[0], image.shape[1] - tip.shape[1]) >= 0:
        _mark_single_touches(image, erode(image, tip), tip, np.float32(tolerance), certain)
    return certain


def as_tip(tip: Heights) -> Heights:
    """Check a tip.

    Raises
    ------
    ValueError
        If it is no float32 array of odd numbers of pixels, holds NaN or +inf, or has no finite pixel.
    """
    tip = as_image(tip, "tip")
    if not (tip.shape[0] % 2 and tip.shape[1] % 2):
        raise ValueError(f"tip: expected odd numbers of pixels, so that a middle one exists, got {tip.shape}")
    if np.isnan(tip).any() or np.isposinf(tip).any() or not np.isfinite(tip).any():
        raise ValueError(
            "tip: expected finite heights, or -inf where there is no tip, got NaN, +inf or no height at all"
        )
    return tip


def _sweep(image: Heights, tip: Heights, threads: int) -> Heights:
    """``max over u of image(x + u) + tip(u)``; −inf where nothing is known."""
    threads = operator.index(threads)
    if threads < 1:
        raise ValueError(f"threads: expected 1 or more, got {threads}")
    (height, width), (rows, columns) = image.shape, tip.shape
    result = np.full(image.shape, -np.inf, np.float32)
    if not image.size:
        return result
    padded = np.full((height + rows - 1, width + columns - 1), -np.inf, np.float32)
    inside = padded[rows // 2 : rows // 2 + height, columns // 2 : columns // 2 + width]
    np.copyto(inside, image, where=np.isfinite(image))
    padded, tip = frozen(padded), frozen(tip)
    highest = frozen(tip.max(axis=1))
    order = frozen(np.argsort(-highest, kind="stable"))
    bounds = np.linspace(0, height, min(threads, height) + 1).astype(int)
    if threads == 1:
        _raise_rows(padded, tip, highest, order, 0, result)
        return result
    with ThreadPoolExecutor(threads) as pool:
        jobs = [
            pool.submit(_raise_rows, padded, tip, highest, order, int(first), result[first:last])
            for first, last in itertools.pairwise(bounds)
        ]
        for job in jobs:
            job.result()
    return result


@kernel()
def _raise_rows(
    padded: Heights, tip: Heights, highest: Heights, order: NDArray[np.int64], first: int, result: Heights
) -> None:
    """Dilate rows ``first`` … of the image into ``result``, which holds −inf; ``order`` lists the tip's rows, highest first."""
    rows, columns = tip.shape
    height, width = result.shape
    blocks = (width + BLOCK - 1) // BLOCK
    top = np.empty(
        (height + rows - 1, blocks), np.float32
    )  # highest point of the surface under one block and the whole tip
    for y in range(height + rows - 1):
        for b in range(blocks):
            start = b * BLOCK
            stop = min(start + BLOCK, width) + columns - 1
            top[y, b] = padded[first + y, start:stop].max()
    for y in range(height):
        for b in range(blocks):
            start = b * BLOCK
            found = result[y, start : min(start + BLOCK, width)]
            count = len(found)
            least = np.float32(-np.inf)
            for k in range(rows):
                j = order[k]
                if top[y + j, b] + highest[j] <= least:
                    continue
                for i in range(columns):
                    rise = tip[j, i]
                    if top[y + j, b] + rise <= least:
                        continue
                    under = padded[first + y + j, start + i : start + i + count]
                    for x in range(count):
                        value = under[x] + rise
                        found[x] = value if value > found[x] else found[x]
                least = found[0]
                for x in range(1, count):
                    least = found[x] if found[x] < least else least


@kernel()
def _mark_single_touches(
    image: Heights, surface: Heights, tip: Heights, tolerance: np.float32, certain: NDArray[np.bool_]
) -> None:
    """Mark the one surface pixel that each image pixel's tip rests on, where there is one."""
    rows, columns = tip.shape
    height, width = image.shape
    middle_y, middle_x = rows // 2, columns // 2
    count = width - columns + 1
    touches = np.empty(count, np.int32)
    place = np.empty(count, np.int32)
    for y in range(middle_y, height - middle_y):
        touches[:] = 0
        pixels = image[y, middle_x : middle_x + count]
        for j in range(rows):
            # Pixel u of the tip rests on the surface at x − u; the columns run on as x does.
            line = surface[y - j + middle_y]
            for i in range(columns):
                under = line[columns - 1 - i : columns - 1 - i + count]
                drop = tip[j, i]
                here = np.int32(j * columns + i)
                for x in range(count):
                    rests = pixels[x] - drop <= under[x] + tolerance  # False for what is missing
                    touches[x] += np.int32(rests)
                    place[x] = here if rests else place[x]
        for x in range(count):
            if touches[x] == 1:
                j, i = place[x] // columns, place[x] % columns
                certain[y - j + middle_y, x + columns - 1 - i] = True

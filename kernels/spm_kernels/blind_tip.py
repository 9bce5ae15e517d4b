"""The sharpest statement about a tip that an image alone allows: blind estimation."""

from __future__ import annotations

import math
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from spm_kernels._arrays import as_image, frozen
from spm_kernels._jit import kernel
from spm_kernels.morphology import as_tip, dilate, erode

__all__ = ["estimate_tip"]

Image: TypeAlias = NDArray[np.float64]

#: The maxima are gone through again as long as more of them than this refine the tip, and count as maxima within a tenth of the
#: tip's size, unless a fifth of that neighbourhood is as high. Source: Villarrubia, J. Res. Natl. Inst. Stand. Technol. 102
#: (1997) 425, appendix.
FEW, NEIGHBOURHOOD, FLAT = 20, 10, 5


def estimate_tip(
    image: NDArray[np.float32],
    start: NDArray[np.float32],
    *,
    threshold: float,
    full: bool = False,
    use_edges: bool = False,
) -> NDArray[np.float32]:
    """Bluntest tip that can have made an image.

    Parameters
    ----------
    image
        ``(H, W)`` float32 heights. Non-finite pixels are missing.
    start
        ``(h, w)`` float32 tip to refine, odd numbers of pixels, the middle one the highest; zeros where nothing is known. The
        result is nowhere higher, once its maximum is set to 0.
    threshold
        Height in the unit of the image by which the image may contradict a tip before it is believed: above the noise, or the
        noise's spikes are taken for the tip. 0 only for heights without rounding, such as whole numbers.
    full
        False: only the local maxima of the image are asked, which is fast and not far from the end. True: every pixel, until
        none refines the tip.
    use_edges
        Whether to ask pixels, too, whose surroundings (a tip's size less one, on every side) are not all inside the image and
        measured.

    Returns
    -------
    ``(h, w)`` float32, as `spm_kernels.dilate` takes it: 0 in the middle, 0 or negative elsewhere. Without noise it is nowhere
    below the true tip with its apex in the middle.

    Raises
    ------
    ValueError
        If a shape or type is wrong, the start is not finite or not highest in the middle, or the threshold is negative or not
        finite.

    Notes
    -----
    Villarrubia's algorithm (J. Res. Natl. Inst. Stand. Technol. 102 (1997) 425). At a pixel x′ of the image the tip rested with
    some part d of itself on the surface: one of those for which the apex then lies on or below the image. Each of them bounds
    how high the tip can be at x, and as nobody knows which it was, the highest of these bounds holds.

    A part of the tip that can have been the one in touch is not refined by that pixel, so the order within a pixel does not
    matter; pixels are gone through row by row. Equal to ``gwy_tip_estimate_partial`` and ``gwy_tip_estimate_full`` of Gwyddion
    2.62 but for the ten thousand steps that those round the heights to.
    """
    image, start = as_image(image), as_tip(start)
    if not (math.isfinite(threshold) and threshold >= 0):
        raise ValueError(f"threshold: expected a finite height of 0 or more, got {threshold!r}")
    rows, columns = start.shape
    if not np.isfinite(start).all() or start[rows // 2, columns // 2] < start.max():
        raise ValueError("start: expected finite heights, the highest in the middle pixel, got another tip")
    tip = start.astype(np.float64) - float(start.max())
    # A rim of missing pixels as wide as a tip less one: no look-up needs to be checked.
    rim = np.array([rows - 1, columns - 1])
    padded = np.pad(
        np.where(np.isfinite(image), image, np.nan).astype(np.float64), rim[:, None], constant_values=np.nan
    )
    padded.setflags(write=False)
    points = frozen(_points(padded, rows, columns, use_edges))
    if not full:
        chosen = frozen(points[_is_maximum(padded, points, max(max(start.shape) // NEIGHBOURHOOD, 1))])
        while _refine(padded, chosen, tip, threshold) > FEW:
            pass
        return tip.astype(np.float32)
    at = tuple((points - rim).T)
    while len(points):
        shape = tip.astype(np.float32)
        unexplained = image[at] - dilate(erode(image, shape), shape)[at] > threshold
        if not _refine(padded, frozen(points[unexplained]), tip, threshold):
            break
    return tip.astype(np.float32)


def _points(padded: Image, rows: int, columns: int, use_edges: bool) -> NDArray[np.int64]:
    """``(N, 2)`` pixels in the padded image's rows and columns that may be asked, row by row."""
    asked = np.isfinite(padded)
    if use_edges:
        margin_y, margin_x = rows - 1 + rows // 2, columns - 1 + columns // 2
        inner = np.zeros_like(asked)
        inner[margin_y : len(asked) - margin_y, margin_x : asked.shape[1] - margin_x] = True
        return np.argwhere(asked & inner).astype(np.int64, copy=False)
    # A pixel is asked where no pixel is missing within a tip's size less one: sums over windows, from one cumulative sum.
    total = np.zeros((padded.shape[0] + 1, padded.shape[1] + 1), np.int64)
    total[1:, 1:] = (~asked).cumsum(axis=0).cumsum(axis=1)
    tall, wide = 2 * rows - 1, 2 * columns - 1
    missing = total[tall:, wide:] - total[:-tall, wide:] - total[tall:, :-wide] + total[:-tall, :-wide]
    points: NDArray[np.int64] = (np.argwhere(missing == 0) + np.array([rows - 1, columns - 1])).astype(
        np.int64, copy=False
    )
    return points


@kernel()
def _is_maximum(padded: Image, points: NDArray[np.int64], reach: int) -> NDArray[np.bool_]:
    """Whether nothing within ``reach`` pixels is higher, and not too many are as high."""
    result = np.empty(len(points), np.bool_)
    height, width = padded.shape
    for n in range(len(points)):
        y, x = points[n]
        own = padded[y, x]
        highest, risen = own, 0
        for v in range(max(y - reach, 0), min(y + reach + 1, height)):
            for u in range(max(x - reach, 0), min(x + reach + 1, width)):
                if padded[v, u] >= highest:  # False for what is missing
                    highest = padded[v, u]
                    risen += 1
        result[n] = highest == own and risen <= (2 * reach + 1) ** 2 // FLAT
    return result


@kernel()
def _refine(padded: Image, points: NDArray[np.int64], tip: Image, threshold: float) -> int:
    """Lower the tip to what every point allows; returns how many points lowered it."""
    rows, columns = tip.shape
    middle_y, middle_x = rows // 2, columns // 2
    size = rows * columns
    width = padded.shape[1]
    flat = padded.reshape(padded.size)
    shape = tip.reshape(size)
    offset = np.empty(size, np.int64)
    for j in range(rows):
        for i in range(columns):
            offset[j * columns + i] = j * width + i
    middle = middle_y * width + middle_x
    touching = np.empty(size, np.int64)
    is_touching = np.empty(size, np.bool_)
    refined = 0
    for n in range(len(points)):
        here = points[n, 0] * width + points[n, 1]
        own = flat[here]
        count = 0
        for d in range(size):
            # False for what is missing: such a part may have been the one in touch
            is_touching[d] = not (own - flat[here + middle - offset[d]] > shape[d])
            if is_touching[d]:
                touching[count] = d
                count += 1
        lowered = False
        for x in range(size):
            if is_touching[x]:
                continue
            bound = shape[x] - threshold
            highest = -np.inf
            for k in range(count):
                d = touching[k]
                value = flat[here + offset[x] - offset[d]] + shape[d] - own
                if not (value < bound):  # the tip may be as high as it is, or nothing is known
                    highest = np.inf
                    if k:  # likely to decide about the next part, too
                        touching[k], touching[0] = touching[0], d
                    break
                highest = max(highest, value)
            if highest < bound:
                shape[x] = highest + threshold
                lowered = True
        refined += lowered
    return refined

"""What an opening by two points takes away: the sign of a tip with a second apex."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from spm_kernels._arrays import as_image, seen
from spm_kernels._jit import kernel

__all__ = ["pair_top_hat"]

Heights = NDArray[np.float32]


def pair_top_hat(image: Heights, heights: Heights, *, reach_px: int, row_step: int = 1) -> Heights:
    """Mean white top-hat of an image by each pair of points: one at the middle, one at an offset and lower.

    Parameters
    ----------
    image
        ``(H, W)`` float32 heights. Non-finite pixels are missing.
    heights
        ``(K,)`` float32, finite: how much lower the second point is, in the unit of the image.
    reach_px
        Largest offset of the second point along rows and columns.
    row_step
        Only every so many rows are asked, all columns of them.

    Returns
    -------
    ``(K, 2 reach_px + 1, 2 reach_px + 1)`` float32: the mean of ``image − opening`` over the pixels at which all of the opening
    lies in the image and is measured; NaN where there is no such pixel.

    Raises
    ------
    ValueError
        If a shape, a type or a number is wrong.

    Notes
    -----
    A tip with two equal apexes, the second at the offset d and lower by h, makes images that an opening by the pair leaves as
    they are: every pixel x was touched by the first, so that ``image(x + d) ≥ image(x) − h``, or by the second, so that
    ``image(x − d) ≥ image(x) + h``. The opening by two points is ``min(image(x), max(image(x + d) + h, image(x − d) − h))``, by
    the definition of J. Serra, Image Analysis and Mathematical Morphology (1982); the white top-hat is what it takes away.
    """
    image = as_image(image)
    heights = np.asarray(heights)
    if heights.ndim != 1 or heights.dtype != np.float32 or not np.isfinite(heights).all():
        raise ValueError(f"heights: expected finite float32 of shape (K,), got {seen(heights)}")
    if reach_px < 0 or row_step < 1:
        raise ValueError(f"reach_px, row_step: expected at least 0 and 1, got {reach_px!r} and {row_step!r}")
    there = np.isfinite(image)
    # A missing pixel is below everything as the one that is asked, and above everything as the one that supports it.
    asked, support = (np.where(there, image, np.float32(beyond)) for beyond in (-np.inf, np.inf))
    side = 2 * reach_px + 1
    total = np.zeros((len(heights), side, side), np.float32)
    count = np.zeros((side, side), np.int64)
    _sum_top_hats(asked, support, there, heights.copy(), reach_px, row_step, total, count)
    with np.errstate(invalid="ignore"):
        return np.asarray(total / count, np.float32)


@kernel()
def _sum_top_hats(
    asked: Heights,
    support: Heights,
    there: NDArray[np.bool_],
    heights: Heights,
    reach: int,
    row_step: int,
    total: Heights,
    count: NDArray[np.int64],
) -> None:
    rows, columns = asked.shape
    for v in range(2 * reach + 1):
        dy = v - reach
        for u in range(2 * reach + 1):
            dx = u - reach
            left, right = abs(dx), columns - abs(dx)
            if left >= right:
                continue
            for y in range(abs(dy), rows - abs(dy), row_step):
                row = asked[y, left:right]
                after = support[y + dy, left + dx : right + dx]
                before = support[y - dy, left - dx : right - dx]
                known = there[y, left:right]
                known_after = there[y + dy, left + dx : right + dx]
                known_before = there[y - dy, left - dx : right - dx]
                n = 0
                for x in range(right - left):
                    n += known[x] & known_after[x] & known_before[x]
                count[v, u] += n
                for k in range(len(heights)):
                    total[k, v, u] += _row_sum(row, after, before, heights[k])


# Sums in any order make vectors of the loop; infinities stay what they are.
@kernel(fastmath={"reassoc", "nsz", "contract"})
def _row_sum(row: Heights, after: Heights, before: Heights, height: float) -> float:
    total = np.float32(0)
    for x in range(len(row)):
        first, second = row[x] - after[x] - height, row[x] - before[x] + height
        least = first if first < second else second
        total += least if least > 0 else np.float32(0)
    return float(total)

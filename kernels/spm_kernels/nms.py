"""Greedy non-maximum suppression of equal squares."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from spm_kernels._arrays import MAX_COORDINATE_PX, as_positions, as_scores, check_positive
from spm_kernels._jit import kernel

__all__ = ["box_nms"]


def box_nms(
    yx: NDArray[np.float64], score: NDArray[np.float32], *, side_px: float, iou: float = 0.3
) -> NDArray[np.int64]:
    """Keep the best of overlapping squares, greedily by score.

    Parameters
    ----------
    yx
        ``(N, 2)`` centres ``(y, x)`` in pixels.
    score
        ``(N,)`` scores; equal ones are ordered by y, then x, so the choice does not depend on the order of the input.
    side_px
        Side of every square in pixels.
    iou
        A square is dropped when its intersection over union with a better, kept one is above this value (0 to 1).

    Returns
    -------
    ``(K,)`` int64 indices of the kept squares, best score first.

    Raises
    ------
    ValueError
        If a shape or type is wrong, a value is not finite, or ``side_px`` or ``iou`` is out of range.

    Notes
    -----
    Kept squares go into a grid hash whose cell is the largest offset at which two squares still exceed ``iou``, so each
    square is compared with those of nine cells only: O(N) for any ``iou`` well below 1. Source of the method and of
    the default 0.3: PolyU thesis on AtomID-net, detection stage.
    """
    yx = as_positions(yx)
    scores = as_scores(score, len(yx))
    side = check_positive(side_px, "side_px")
    if not 0.0 <= iou <= 1.0:
        raise ValueError(f"iou: expected a number from 0 to 1, got {iou!r}")
    if side < 2.0**-20 or np.abs(yx).max(initial=0.0) > side * MAX_COORDINATE_PX:
        raise ValueError(f"side_px: expected a side that is not tiny beside the coordinates, got {side_px!r}")
    order = np.lexsort((yx[:, 1], yx[:, 0], -scores))
    kept: NDArray[np.int64] = _suppress(yx, order, side, float(iou))
    return kept


@kernel()
def _suppress(yx: NDArray[np.float64], order: NDArray[np.int64], side: float, iou: float) -> NDArray[np.int64]:
    """Kept indices in the order of ``order``."""
    n = len(order)
    # Squares at offset (d, 0) have intersection s(s − d); its ratio to the union is above iou while d < s(1 − iou)/(1 + iou).
    # The margin keeps rounding from hiding a neighbour in a cell that is not looked at.
    cell = side * (1.0 - iou) / (1.0 + iou) + 1e-6 * side
    buckets = 16
    while buckets < 2 * n:
        buckets *= 2
    head = np.full(buckets, -1, np.int64)
    following = np.empty(n, np.int64)  # the next kept square in the same bucket
    kept = np.empty(n, np.int64)
    count = 0
    for i in order:
        y, x = yx[i, 0], yx[i, 1]
        row, column = math.floor(y / cell), math.floor(x / cell)
        alone = True
        for r in range(row - 1, row + 2):
            for c in range(column - 1, column + 2):
                k = head[_bucket(r, c, buckets)]
                while k >= 0 and alone:
                    dy, dx = side - abs(yx[k, 0] - y), side - abs(yx[k, 1] - x)
                    if dy > 0.0 and dx > 0.0:
                        shared = dy * dx
                        alone = shared / (2.0 * side * side - shared) <= iou
                    k = following[k]
        if alone:
            bucket = _bucket(row, column, buckets)
            following[i] = head[bucket]
            head[bucket] = i
            kept[count] = i
            count += 1
    return kept[:count].copy()


@kernel()
def _bucket(row: int, column: int, buckets: int) -> int:
    """Bucket of a cell; cells may share one, which costs time and changes nothing. ``buckets`` is a power of two."""
    # Two large odd factors spread a lattice's cells over the table; the product may wrap.
    mixed = row * 0x9E3779B97F4A7C1 ^ column * 0x5851F42D4C957F2D
    return (mixed ^ (mixed >> 29)) & (buckets - 1)

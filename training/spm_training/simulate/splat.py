"""Sums of many small shapes into one image."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from spm_kernels._jit import kernel

__all__ = ["sum_gaussians", "sum_tables"]


def sum_gaussians(
    yx: NDArray[np.float64], height: NDArray[np.float64], sigma: float, shape: tuple[int, int]
) -> NDArray[np.float64]:
    """Sum of Gaussians at sub-pixel positions, each cut off at 4 σ.

    Parameters
    ----------
    yx
        ``(N, 2)`` positions in pixels; they may lie outside.
    height
        ``(N,)`` peak heights.
    sigma
        Width in pixels.
    shape
        ``(H, W)`` of the image.
    """
    out = np.zeros(shape)
    _gaussians(np.ascontiguousarray(yx, np.float64), np.ascontiguousarray(height, np.float64), float(sigma), out)
    return out


def sum_tables(
    yx: NDArray[np.float64],
    height: NDArray[np.float64],
    kind: NDArray[np.int32],
    tables: NDArray[np.float32],
    to_table: NDArray[np.float64],
    shape: tuple[int, int],
) -> NDArray[np.float64]:
    """Sum of tabulated shapes at sub-pixel positions, bilinear in the table.

    Parameters
    ----------
    yx, height
        ``(N, 2)`` positions in pixels and ``(N,)`` factors.
    kind
        ``(N,)`` index of the table of each.
    tables
        ``(K, T, T)`` shapes with their centre in the middle, T odd.
    to_table
        ``(2, 2)`` matrix that turns a distance in pixels into steps of the table.
    shape
        ``(H, W)`` of the image.
    """
    out = np.zeros(shape)
    half = tables.shape[1] // 2
    reach = int(np.ceil(half / float(np.sqrt(abs(np.linalg.det(to_table)))))) + 1
    _tables(
        np.ascontiguousarray(yx, np.float64),
        np.ascontiguousarray(height, np.float64),
        np.ascontiguousarray(kind, np.int32),
        np.ascontiguousarray(tables, np.float32),
        np.ascontiguousarray(to_table, np.float64),
        reach,
        out,
    )
    return out


@kernel()
def _gaussians(yx: NDArray[np.float64], height: NDArray[np.float64], sigma: float, out: NDArray[np.float64]) -> None:
    rows, columns = out.shape
    reach = int(np.ceil(4 * sigma))
    along = np.empty(2 * reach + 1)
    for n in range(len(yx)):
        y0, x0 = int(np.rint(yx[n, 0])), int(np.rint(yx[n, 1]))
        if y0 < -reach or x0 < -reach or y0 >= rows + reach or x0 >= columns + reach:
            continue
        for i in range(2 * reach + 1):
            along[i] = np.exp(-0.5 * ((x0 - reach + i - yx[n, 1]) / sigma) ** 2)
        for y in range(max(y0 - reach, 0), min(y0 + reach + 1, rows)):
            factor = height[n] * np.exp(-0.5 * ((y - yx[n, 0]) / sigma) ** 2)
            for x in range(max(x0 - reach, 0), min(x0 + reach + 1, columns)):
                out[y, x] += factor * along[x - x0 + reach]


@kernel()
def _tables(
    yx: NDArray[np.float64],
    height: NDArray[np.float64],
    kind: NDArray[np.int32],
    tables: NDArray[np.float32],
    to_table: NDArray[np.float64],
    reach: int,
    out: NDArray[np.float64],
) -> None:
    rows, columns = out.shape
    side = tables.shape[1]
    half = side // 2
    for n in range(len(yx)):
        y0, x0 = int(np.rint(yx[n, 0])), int(np.rint(yx[n, 1]))
        if y0 < -reach or x0 < -reach or y0 >= rows + reach or x0 >= columns + reach:
            continue
        table = tables[kind[n]]
        for y in range(max(y0 - reach, 0), min(y0 + reach + 1, rows)):
            dy = y - yx[n, 0]
            for x in range(max(x0 - reach, 0), min(x0 + reach + 1, columns)):
                dx = x - yx[n, 1]
                u = to_table[0, 0] * dy + to_table[0, 1] * dx + half
                v = to_table[1, 0] * dy + to_table[1, 1] * dx + half
                if u < 0 or v < 0 or u >= side - 1 or v >= side - 1:
                    continue
                i, j = int(u), int(v)
                a, b = u - i, v - j
                value = (table[i, j] * (1 - b) + table[i, j + 1] * b) * (1 - a) + (
                    table[i + 1, j] * (1 - b) + table[i + 1, j + 1] * b
                ) * a
                out[y, x] += height[n] * value

"""What overlapping windows say about a pixel: the label that most of them have, and the mean of their squared errors."""

from __future__ import annotations

import operator
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from spm_kernels._arrays import as_image, frozen, seen
from spm_kernels._jit import kernel
from spm_kernels.patches import PatchGrid

__all__ = ["majority_vote", "squared_error_map"]

Labels: TypeAlias = NDArray[np.int32]
Indices: TypeAlias = NDArray[np.int64]
Pixels: TypeAlias = NDArray[np.float32]


def majority_vote(labels: Labels, grid: PatchGrid, *, classes: int) -> Labels:
    """The label that most of the windows over each pixel have.

    Parameters
    ----------
    labels
        ``(R, C)`` int32, one per window of the grid: 0 to ``classes - 1``, or negative for a window without a vote.
    grid
        Where the windows stand.
    classes
        Number of labels.

    Returns
    -------
    ``(H, W)`` int32; of several labels with as many votes the lowest, −1 where no window votes.

    Raises
    ------
    ValueError
        If a shape or type is wrong, or a label is not below ``classes``.

    Notes
    -----
    Between neighbouring beginnings and ends of windows all pixels have the same voters, a block of rows and columns of
    windows. Votes are counted once for each of those cells, by adding the windows that enter and subtracting those that
    leave: the cost does not depend on the size of the windows.
    """
    count = operator.index(classes)
    if count < 1:
        raise ValueError(f"classes: expected 1 or more, got {classes!r}")
    expected = (len(grid.rows), len(grid.columns))
    if getattr(labels, "dtype", None) != np.int32 or labels.shape != expected:
        raise ValueError(f"labels: expected an int32 array of shape {expected}, got {seen(labels)}")
    if labels.max() >= count:
        raise ValueError(f"labels: expected numbers below classes = {count}, got {int(labels.max())}")
    sizes, firsts, lasts = zip(*(_cells(grid, axis) for axis in (0, 1)), strict=True)
    cells = np.empty((len(sizes[0]), len(sizes[1])), np.int32)
    _vote(frozen(labels), firsts[0], lasts[0], firsts[1], lasts[1], count, cells)
    return np.ascontiguousarray(np.repeat(np.repeat(cells, sizes[0], axis=0), sizes[1], axis=1))


def squared_error_map(image: Pixels, windows: Pixels, grid: PatchGrid) -> Pixels:
    """Squared difference between an image and its reconstructed windows, averaged over the windows that cover a pixel.

    Parameters
    ----------
    image
        ``(H, W)`` float32 as the grid says.
    windows
        ``(N, h, w)`` float32, row by row of the grid; what reaches beyond the image is ignored.
    grid
        Where they stand.

    Returns
    -------
    ``(H, W)`` float32; NaN where the image is missing, and where no window of a `regular` grid reaches.

    Raises
    ------
    ValueError
        If a shape or type is wrong.

    Notes
    -----
    Source: the UCL report, stage 1. A missing pixel of the image leaves its neighbours alone, unlike one of a window.
    """
    image = as_image(image)
    if image.shape != grid.shape:
        raise ValueError(f"image: expected the shape {grid.shape} of the grid, got {seen(image)}")
    expected = (len(grid), *grid.side_px)
    if getattr(windows, "dtype", None) != np.float32 or windows.shape != expected:
        raise ValueError(f"windows: expected a float32 array of shape {expected}, got {seen(windows)}")
    out = np.zeros(grid.shape, np.float32)
    _add_squares(image, frozen(windows), frozen(grid.rows), frozen(grid.columns), out)
    covers = []
    for axis in (0, 1):
        size, first, last = _cells(grid, axis)
        covers.append(np.repeat(last - first, size).astype(np.float32))
    count = np.outer(covers[0], covers[1])
    return np.asarray(out / np.where(count > 0, count, np.float32(np.nan)), np.float32)


def _cells(grid: PatchGrid, axis: int) -> tuple[Indices, Indices, Indices]:
    """Along an axis: sizes of the cells, and the first and the one after the last window over each."""
    size = grid.shape[axis]
    begin = grid.rows if axis == 0 else grid.columns
    end = np.minimum(begin + grid.side_px[axis], size)
    marks = np.unique(np.concatenate([begin, end, [0, size]]))
    first = np.searchsorted(begin + grid.side_px[axis], marks[:-1], side="right")
    last = np.searchsorted(begin, marks[:-1], side="right")
    # Of a regular grid the far border may have no window.
    return np.diff(marks), frozen(np.minimum(first, last).astype(np.int64)), frozen(last.astype(np.int64))


@kernel()
def _vote(
    labels: Labels, top: Indices, bottom: Indices, left: Indices, right: Indices, classes: int, out: Labels
) -> None:
    """Majority in each cell; ``top`` to ``bottom`` and ``left`` to ``right`` are the windows over it."""
    columns = np.zeros((labels.shape[1], classes), np.int32)  # votes of a column of windows, over the rows of the cell
    votes = np.zeros(classes, np.int32)
    above, below = 0, 0
    for y in range(len(top)):
        for row in range(below, bottom[y]):
            for c in range(labels.shape[1]):
                if labels[row, c] >= 0:
                    columns[c, labels[row, c]] += 1
        for row in range(above, top[y]):
            for c in range(labels.shape[1]):
                if labels[row, c] >= 0:
                    columns[c, labels[row, c]] -= 1
        above, below = top[y], bottom[y]
        votes[:] = 0
        before, after = 0, 0
        for x in range(len(left)):
            for c in range(after, right[x]):
                for k in range(classes):
                    votes[k] += columns[c, k]
            for c in range(before, left[x]):
                for k in range(classes):
                    votes[k] -= columns[c, k]
            before, after = left[x], right[x]
            best = -1
            most = 0
            for k in range(classes):
                if votes[k] > most:
                    most = votes[k]
                    best = k
            out[y, x] = best


@kernel(fastmath={"contract"})
def _add_squares(image: Pixels, windows: Pixels, y: Indices, x: Indices, out: Pixels) -> None:
    """Add the squared differences of all windows to the image that they cover."""
    height, width = image.shape
    for r in range(len(y)):
        rows = min(windows.shape[1], height - y[r])
        for c in range(len(x)):
            window = windows[r * len(x) + c]
            reach = min(windows.shape[2], width - x[c])
            for i in range(rows):
                line, source, values = out[y[r] + i, x[c] : x[c] + reach], image[y[r] + i, x[c] :], window[i]
                for j in range(reach):
                    off = values[j] - source[j]
                    line[j] += off * off

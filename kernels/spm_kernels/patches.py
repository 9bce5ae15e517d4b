"""An image as overlapping windows, and the windows blended into an image again."""

from __future__ import annotations

import itertools
import operator
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from spm_kernels._arrays import as_image, frozen, seen
from spm_kernels._jit import kernel

__all__ = ["PatchGrid", "blend_patches", "extract_patches", "map_patches", "taper"]

Pixels: TypeAlias = NDArray[np.float32]
Origins: TypeAlias = NDArray[np.int64]


@dataclass(frozen=True)
class PatchGrid:
    """Where the windows of an image stand: every ``stride_px``, and a last one aligned with the far border.

    Parameters
    ----------
    shape
        ``(H, W)`` of the image, 1 or more each. Along an axis that is shorter than the window one window covers it all and
        reaches beyond its end.
    side_px
        ``(h, w)`` of a window.
    stride_px
        Distance of neighbouring windows, 1 to the shorter side of the window: every pixel is covered.

    Raises
    ------
    ValueError
        If a number is out of range.

    Notes
    -----
    256 × 256 pixels hold 60 × 60 windows of 17 × 17 and 61 × 61 of 16 × 16 at stride 4 that fit the stride; 17 does not
    divide the frame, so a 61st row and column ends at the border (`regular` leaves them out).
    """

    shape: tuple[int, int]
    side_px: tuple[int, int]
    stride_px: int
    #: Leave out the window at the far border where the stride does not reach it: the last pixels are then not covered.
    regular: bool = False

    def __post_init__(self) -> None:
        for name in ("shape", "side_px"):
            pair = tuple(operator.index(n) for n in getattr(self, name))
            if len(pair) != 2 or min(pair) < 1:
                raise ValueError(f"{name}: expected two numbers of 1 or more pixels, got {getattr(self, name)!r}")
            object.__setattr__(self, name, pair)
        stride = operator.index(self.stride_px)
        if not 1 <= stride <= min(self.side_px):
            raise ValueError(f"stride_px: expected 1 to {min(self.side_px)} pixels, the window's side, got {stride}")
        object.__setattr__(self, "stride_px", stride)

    @property
    def rows(self) -> Origins:
        """``(R,)`` first row of each row of windows."""
        return self._origins(0)

    @property
    def columns(self) -> Origins:
        """``(C,)`` first column of each column of windows."""
        return self._origins(1)

    @property
    def origins(self) -> Origins:
        """``(N, 2)`` upper left pixel ``(y, x)`` of every window, row by row."""
        return np.stack(np.meshgrid(self.rows, self.columns, indexing="ij"), axis=-1).reshape(-1, 2)

    def __len__(self) -> int:
        """Number of windows."""
        return len(self.rows) * len(self.columns)

    def bands(self, most: int) -> Iterator[range]:
        """Split the rows of windows into runs of at most ``most`` windows, at least one row each: a bound on memory."""
        rows = len(self.rows)
        step = max(most // len(self.columns), 1)
        return (range(first, min(first + step, rows)) for first in range(0, rows, step))

    def _origins(self, axis: int) -> Origins:
        last = max(self.shape[axis] - self.side_px[axis], 0)
        regular = np.arange(0, last + 1, self.stride_px, dtype=np.int64)
        return regular if self.regular or regular[-1] == last else np.append(regular, last)


def taper(side_px: tuple[int, int]) -> Pixels:
    """Weights that fall smoothly to the rim of a window: a product of two ``sin²`` arches (Hann).

    Parameters
    ----------
    side_px
        ``(h, w)``, 1 or more each.

    Returns
    -------
    ``(h, w)`` float32, everywhere above 0, so that a pixel that only the corner of a window covers is covered.
    """
    y, x = (np.sin(np.pi * (np.arange(side) + 0.5) / side) ** 2 for side in side_px)
    return np.outer(y, x).astype(np.float32)


def extract_patches(
    image: Pixels, grid: PatchGrid, *, rows: range | None = None, margin_px: int = 0, threads: int = 1
) -> Pixels:
    """The windows of an image.

    Parameters
    ----------
    image
        ``(H, W)`` float32 as the grid says.
    grid
        Where they stand.
    rows
        Rows of windows that are wanted (`PatchGrid.bands`); all by default.
    margin_px
        Pixels of context added around each window. Beyond the border the image is mirrored, the outermost pixel included.
    threads
        Threads that share the work.

    Returns
    -------
    ``(N, h + 2 margin_px, w + 2 margin_px)`` float32, row by row of the grid.

    Raises
    ------
    ValueError
        If the image is none or has another shape than the grid, or a number is out of range.
    """
    image = as_image(image)
    if image.shape != grid.shape:
        raise ValueError(f"image: expected the shape {grid.shape} of the grid, got {seen(image)}")
    margin = operator.index(margin_px)
    if margin < 0:
        raise ValueError(f"margin_px: expected 0 or more pixels, got {margin}")
    first, last = _rows_of(grid, rows)
    y, x = grid.rows[first:last], grid.columns
    reach = tuple((margin, margin + max(side - size, 0)) for size, side in zip(grid.shape, grid.side_px, strict=True))
    padded = frozen(np.pad(image, reach, mode="symmetric") if any(max(pair) for pair in reach) else image)
    side = tuple(side + 2 * margin for side in grid.side_px)
    out = np.empty((len(y) * len(x), *side), np.float32)
    y, x = frozen(y), frozen(x)

    def copy(begin: int, end: int) -> None:
        _extract(padded, y, x, begin, end, out)

    _share(copy, len(y), threads)
    return out


def blend_patches(patches: Pixels, grid: PatchGrid, *, weights: Pixels | None = None, threads: int = 1) -> Pixels:
    """Weighted mean of the windows at every pixel.

    Parameters
    ----------
    patches
        ``(N, h, w)`` float32, row by row of the grid. A NaN spreads over the pixels that it takes part in.
    grid
        Where they stand.
    weights
        ``(h, w)`` float32 above 0, the weight of each pixel of a window; `taper` by default. Equal weights give the plain mean.
    threads
        Threads that share the work.

    Returns
    -------
    ``(H, W)`` float32; NaN where no window of a `regular` grid reaches.

    Raises
    ------
    ValueError
        If a shape or type is wrong, a weight is not positive, or a number is out of range.

    Notes
    -----
    The blend of an image's own windows is the image. With weights that fall to the rim, a window enters and leaves
    the mean gradually as a pixel moves across its border: no seam, whatever the windows say. Source:
    overlap-add with a Hann window, J. B. Allen, IEEE Trans. Acoust. Speech Signal Process. 25 (1977) 235.

    Each thread owns rows of the image and adds the windows in the order of the grid: the result does not depend on the number of
    threads.
    """
    window = _window(grid, weights)
    out = np.zeros(grid.shape, np.float32)
    _add(patches, grid, window, grid.rows, out, threads)
    return _divided(out, grid, window)


def map_patches(
    image: Pixels,
    function: Callable[[Pixels], Pixels],
    grid: PatchGrid,
    *,
    weights: Pixels | None = None,
    margin_px: int = 0,
    most: int = 4096,
    threads: int = 1,
) -> Pixels:
    """A whole image through a function of patches: windows out, function, windows blended.

    Parameters
    ----------
    image
        ``(H, W)`` float32.
    function
        Turns ``(n, h + 2 margin_px, w + 2 margin_px)`` float32 into ``(n, h, w)`` float32.
    grid
        Where the windows stand.
    weights, margin_px, threads
        As in `blend_patches` and `extract_patches`.
    most
        Patches that are held at a time, at least one row of windows: the bound on memory.

    Returns
    -------
    ``(H, W)`` float32.

    Raises
    ------
    ValueError
        As `extract_patches` and `blend_patches`; also when the function returns another shape.
    """
    if operator.index(most) < 1:
        raise ValueError(f"most: expected 1 or more patches, got {most!r}")
    window = _window(grid, weights)
    out = np.zeros(grid.shape, np.float32)
    for rows in grid.bands(most):
        patches = extract_patches(image, grid, rows=rows, margin_px=margin_px, threads=threads)
        _add(function(patches), grid, window, grid.rows[rows.start : rows.stop], out, threads)
    return _divided(out, grid, window)


def _window(grid: PatchGrid, weights: Pixels | None) -> Pixels:
    window = taper(grid.side_px) if weights is None else as_image(weights, "weights")
    if window.shape != grid.side_px or not (np.isfinite(window) & (window > 0)).all():
        raise ValueError(f"weights: expected positive float32 numbers of shape {grid.side_px}, got {seen(window)}")
    return frozen(window)


def _add(patches: Pixels, grid: PatchGrid, window: Pixels, rows: Origins, out: Pixels, threads: int) -> None:
    """Add the weighted windows of some rows of the grid to an image."""
    y, x = frozen(rows), frozen(grid.columns)
    expected = (len(y) * len(x), *grid.side_px)
    if getattr(patches, "dtype", None) != np.float32 or patches.shape != expected:
        raise ValueError(f"patches: expected a float32 array of shape {expected}, got {seen(patches)}")
    patches = frozen(patches)
    top, bottom = int(y[0]), min(int(y[-1]) + grid.side_px[0], grid.shape[0])

    def add(begin: int, end: int) -> None:
        _weighted_sum(patches, y, x, window, top + begin, top + end, out)

    _share(add, bottom - top, threads)


def _divided(sums: Pixels, grid: PatchGrid, window: Pixels) -> Pixels:
    """Mean from the weighted sums.

    Row y of the image meets row y − r of the windows that begin at row r; so the sum of the weights over every pixel is
    a product of three matrices.
    """
    meets = []
    for size, side, origins in zip(grid.shape, grid.side_px, (grid.rows, grid.columns), strict=True):
        place = origins[:, None] + np.arange(side)
        within = place < size
        matrix = np.zeros((size, side))
        np.add.at(matrix, (place[within], np.broadcast_to(np.arange(side), place.shape)[within]), 1.0)
        meets.append(matrix)
    total = meets[0] @ window.astype(np.float64) @ meets[1].T
    return np.asarray(sums / np.where(total > 0, total, np.nan), np.float32)


def _rows_of(grid: PatchGrid, rows: range | None) -> tuple[int, int]:
    count = len(grid.rows)
    if rows is None:
        return 0, count
    if rows.step != 1 or not 0 <= rows.start < rows.stop <= count:
        raise ValueError(f"rows: expected a run of rows of windows within 0 to {count}, got {rows}")
    return rows.start, rows.stop


def _share(work: Callable[[int, int], None], count: int, threads: int) -> None:
    """Run ``work(begin, end)`` over 0 … count in equal runs, one per thread.

    Plain threads rather than Numba's: two threads of a caller may use them at once, which Numba's portable layer forbids.
    """
    threads = min(operator.index(threads), count)
    if threads < 1:
        raise ValueError(f"threads: expected 1 or more, got {threads}")
    if threads == 1:
        work(0, count)
        return
    ends = [count * n // threads for n in range(threads + 1)]
    with ThreadPoolExecutor(threads) as pool:
        for done in [pool.submit(work, begin, end) for begin, end in itertools.pairwise(ends)]:
            done.result()


@kernel()
def _extract(padded: Pixels, y: Origins, x: Origins, begin: int, end: int, out: Pixels) -> None:
    """Copy the windows of grid rows ``begin`` to ``end``."""
    height, width = out.shape[1], out.shape[2]
    for r in range(begin, end):
        for c in range(len(x)):
            patch = out[r * len(x) + c]
            for i in range(height):
                source, line = padded[y[r] + i, x[c] : x[c] + width], patch[i]
                for j in range(width):  # indices that cannot be negative: vector code
                    line[j] = source[j]


@kernel(fastmath={"contract"})
def _weighted_sum(patches: Pixels, y: Origins, x: Origins, window: Pixels, begin: int, end: int, out: Pixels) -> None:
    """Add the weighted windows to the rows ``begin`` to ``end`` of the image."""
    height, width = window.shape
    for r in range(len(y)):
        top, bottom = max(begin - y[r], 0), min(end - y[r], height)
        if top >= bottom:
            continue
        for c in range(len(x)):
            patch = patches[r * len(x) + c]
            reach = min(width, out.shape[1] - x[c])
            for i in range(top, bottom):
                line, weights, values = out[y[r] + i, x[c] : x[c] + reach], window[i], patch[i]
                for j in range(reach):  # indices that cannot be negative: vector code
                    line[j] += weights[j] * values[j]

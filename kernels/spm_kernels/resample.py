"""Resizing of images: separable, smoothed where the image shrinks."""

from __future__ import annotations

from typing import Literal, TypeAlias

import numpy as np
from numpy.typing import NDArray

from spm_kernels._arrays import as_image, frozen
from spm_kernels._jit import kernel

__all__ = ["resize"]

Pixels: TypeAlias = NDArray[np.float32]
Weights: TypeAlias = NDArray[np.float32]
Firsts: TypeAlias = NDArray[np.int64]

#: Half the width of each kernel in pixels of the coarser grid.
REACH = {"linear": 1.0, "cubic": 2.0}


def resize(
    image: NDArray[np.float32], shape: tuple[int, int], *, kind: Literal["linear", "cubic"] = "cubic"
) -> NDArray[np.float32]:
    """Resample an image to another shape that covers the same field.

    Parameters
    ----------
    image
        ``(H, W)`` float32, at least one pixel; a NaN spreads over the pixels that it takes part in.
    shape
        Rows and columns of the result, 1 or more each.
    kind
        ``linear``: triangle; positive weights, so the result stays within the range of the image. ``cubic``: Keys' cubic
        convolution with a = −1/2, exact for quadratic polynomials where the image grows (R. Keys, IEEE Trans. Acoust.
        Speech Signal Process. 29 (1981) 1153).

    Returns
    -------
    ``shape`` float32. Position p of the image is at ``(p + 0.5) · factor − 0.5`` of the result. Beyond the border the
    outermost pixel is repeated.

    Raises
    ------
    ValueError
        If the image is no float32 image or empty, or the shape or kind is not possible.

    Notes
    -----
    Along an axis that shrinks the kernel is stretched by the factor: what the coarser grid cannot hold is averaged away, and
    every pixel of the image counts.
    """
    image = as_image(image)
    height, width = (int(n) for n in shape)
    if not image.size or height < 1 or width < 1:
        raise ValueError(f"shape: expected 1 or more pixels along both axes, got {image.shape} to {tuple(shape)}")
    if kind not in REACH:
        raise ValueError(f"kind: expected one of {', '.join(REACH)}, got {kind!r}")
    if (height, width) == image.shape:
        return image.copy()
    first_y, weight_y = _taps(image.shape[0], height, kind)
    first_x, weight_x = _taps(image.shape[1], width, kind)
    result: NDArray[np.float32] = _apply(
        image, frozen(first_y), frozen(weight_y), frozen(first_x), frozen(weight_x.T.copy())
    )
    return result


def _taps(size: int, wanted: int, kind: str) -> tuple[Firsts, Weights]:
    """First pixel of each pixel of the result, and the weights from there on: ``(wanted,)`` and ``(wanted, taps)``."""
    step = size / wanted
    stretch = max(step, 1.0)
    reach = REACH[kind] * stretch
    centre = (np.arange(wanted) + 0.5) * step - 0.5
    place = np.ceil(centre - reach).astype(np.int64)[:, None] + np.arange(int(2 * reach) + 1)
    t = np.abs(place - centre[:, None]) / stretch
    if kind == "linear":
        weight = np.clip(1 - t, 0, None)
    else:
        near, far = (1.5 * t - 2.5) * t * t + 1, ((-0.5 * t + 2.5) * t - 4) * t + 2
        weight = np.where(t < 1, near, np.where(t < 2, far, 0.0))
    weight /= weight.sum(axis=1, keepdims=True)
    # The outermost pixel takes the weights beyond it.
    taps = min(weight.shape[1], size)
    first = np.clip(place[:, 0], 0, size - taps)
    folded = np.zeros((wanted, taps))
    into = np.clip(place, 0, size - 1) - first[:, None]
    np.add.at(folded, (np.arange(wanted)[:, None], into), weight)
    return first, folded.astype(np.float32)


@kernel(fastmath={"reassoc", "contract"})
def _apply(image: Pixels, first_y: Firsts, weight_y: Weights, first_x: Firsts, weight_x: Weights) -> Pixels:
    """Weighted sums of rows, then of columns; ``weight_x`` is ``(taps, columns)``."""
    rows, columns, width = len(first_y), len(first_x), image.shape[1]
    out = np.empty((rows, columns), np.float32)
    line, sums = np.empty(width, np.float32), np.empty(columns, np.float32)
    for y in range(rows):
        for x in range(width):
            line[x] = 0.0
        for k in range(weight_y.shape[1]):
            weight, row = weight_y[y, k], image[first_y[y] + k]
            if weight != 0.0:
                for x in range(width):
                    line[x] += weight * row[x]
        for x in range(columns):
            sums[x] = 0.0
        for k in range(len(weight_x)):
            weights = weight_x[k]
            for x in range(columns):
                sums[x] += weights[x] * line[first_x[x] + k]
        for x in range(columns):
            out[y, x] = sums[x]
    return out

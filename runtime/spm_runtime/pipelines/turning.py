"""A network's opinion of an image seen from several sides.

A lattice has no preferred direction, a network that was trained on a finite number of images has some. The mean of what it says
of the image and of the same image turned is better than each of them: on validation scenes F1 rises by 0.012 at low dose and by
0.002 at higher ones, and positions are 2 to 4 % better. That costs time, so small images are turned and large ones are not.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from spm_runtime.pipelines.tiling import run_tiled
from spm_runtime.session import Session

__all__ = ["TURNED_PIXELS", "run_mirrored", "run_turned"]

#: Pixels that may go through the network for one image, all turns together; what exceeds it is seen once.
TURNED_PIXELS = 400_000
#: Quarter turns in the order of their use: two views should be as different as they can be.
_TURNS = (0, 2, 1, 3)
#: Mirrored axes in the order of their use. Scan lines stay horizontal.
_MIRRORS: tuple[tuple[int, ...], ...] = ((), (-1,), (-2,), (-2, -1))
#: The map of vectors (dy, dx) turns with the image.
_VECTORS = "offset_px"


def run_turned(
    session: Session, image: NDArray[np.float32], *, pixels: int = TURNED_PIXELS
) -> dict[str, NDArray[np.float32]]:
    """Run a network on an image in up to four orientations.

    Parameters
    ----------
    session
        A network with one input ``(B, 1, H, W)``.
    image
        ``(H, W)`` float32, no NaN.
    pixels
        How many pixels may be computed: ``pixels / (H W)`` orientations, one at least.

    Returns
    -------
    As `run_tiled`: the means over the orientations, all maps turned back.
    """
    turns = _TURNS[: max(1, min(len(_TURNS), pixels // image.size))]
    seen = [_seen(session, image, turn) for turn in turns]
    if len(seen) == 1:
        return seen[0]
    return {name: np.mean([one[name] for one in seen], axis=0, dtype=np.float32) for name in seen[0]}


def run_mirrored(
    session: Session, image: NDArray[np.float32], *, pixels: int = TURNED_PIXELS
) -> dict[str, NDArray[np.float32]]:
    """Run a network that knows the direction of the scan lines on an image and its mirror images.

    Parameters
    ----------
    session
        A network with one input ``(B, C, H, W)`` whose outputs are maps without a direction, or numbers of the whole image.
    image
        ``(H, W)`` or ``(C, H, W)`` float32, no NaN.
    pixels
        How many pixels may be computed: ``pixels / (H W)`` images, one at least, four at most.

    Returns
    -------
    As `run_tiled`: the means over the images, all maps mirrored back.
    """
    count = max(1, min(len(_MIRRORS), pixels // (image.shape[-2] * image.shape[-1])))
    if count == 1:
        return run_tiled(session, image)
    sums: dict[str, NDArray[np.float32]] = {}
    for axes in _MIRRORS[:count]:
        for name, value in run_tiled(session, np.ascontiguousarray(np.flip(image, axes))).items():
            back = (np.flip(value, axes) if value.ndim >= 2 else value) / np.float32(count)
            sums[name] = sums[name] + back if name in sums else back
    return sums


def _seen(session: Session, image: NDArray[np.float32], turn: int) -> dict[str, NDArray[np.float32]]:
    """What the network says of the turned image, turned back."""
    outputs = run_tiled(session, np.ascontiguousarray(np.rot90(image, turn)))
    if turn == 0:
        return outputs
    return {
        name: _vectors_back(value, turn) if name == _VECTORS else _map_back(value, turn)
        for name, value in outputs.items()
    }


def _map_back(value: NDArray[np.float32], turn: int) -> NDArray[np.float32]:
    """A map ``(…, H, W)`` turned back; a number as it is."""
    return np.rot90(value, -turn, axes=(-2, -1)) if value.ndim >= 2 else value


def _vectors_back(value: NDArray[np.float32], turn: int) -> NDArray[np.float32]:
    """Vectors ``(2, H, W)`` turned back: by a quarter turn (dy, dx) had become (−dx, dy)."""
    dy, dx = _map_back(value, turn)
    for _ in range(turn):
        dy, dx = dx, -dy
    return np.stack([dy, dx])

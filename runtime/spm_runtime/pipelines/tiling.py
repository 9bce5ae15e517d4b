"""Whole images through a fully convolutional network, in tiles that equal the whole."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from spm_runtime.session import Session

__all__ = ["TILE_PX", "run_tiled"]

#: Images up to this side go through in one piece; larger ones in tiles of it, so that memory stays bounded.
TILE_PX = 1024


def run_tiled(
    session: Session,
    image: NDArray[np.float32],
    *,
    tile_px: int = TILE_PX,
    beside: Mapping[str, NDArray[np.float32]] | None = None,
) -> dict[str, NDArray[np.float32]]:
    """Run a network of one image input on an image of any size.

    The image is padded to the network's size multiple by reflection. Tiles start at multiples of it and overlap by the
    network's halo, so that every map equals that of the whole image.

    Parameters
    ----------
    session
        A network whose first input is ``(B, C, H, W)``.
    image
        ``(H, W)`` float32 for one channel, ``(C, H, W)`` for several; no NaN.
    tile_px
        Side of a tile without its halo.
    beside
        The other inputs by name, ``(1, …)`` float32: facts of the whole image, the same for every tile.

    Returns
    -------
    By output name: maps of one channel as ``(H, W)``, of C channels as ``(C, H, W)``; other outputs as ``(tiles, …)`` would be
    ambiguous, so they are averaged over the tiles, weighted by area.
    """
    multiple, halo = session.package.size_multiple, session.package.halo_px
    height, width = image.shape[-2:]
    padded = _pad(image.reshape(-1, height, width), multiple)
    rows, columns = padded.shape[1:]
    step = max(multiple, tile_px // multiple * multiple)
    reach = -(-halo // multiple) * multiple
    name = session.package.inputs[0].id
    maps: dict[str, NDArray[np.float32]] = {}
    means: dict[str, NDArray[np.float64]] = {}
    for y in range(0, rows, step):
        for x in range(0, columns, step):
            inner = (min(y + step, rows), min(x + step, columns))
            y0, x0 = max(0, y - reach), max(0, x - reach)
            tile = padded[:, y0 : inner[0] + reach, x0 : inner[1] + reach]
            share = (inner[0] - y) * (inner[1] - x) / (rows * columns)
            for key, value in session.run({**(beside or {}), name: np.ascontiguousarray(tile)[None]}).items():
                if value.ndim == 4:
                    if key not in maps:
                        maps[key] = np.empty((value.shape[1], rows, columns), np.float32)
                    part = value[0, :, y - y0 : inner[0] - y0, x - x0 : inner[1] - x0]
                    maps[key][:, y : inner[0], x : inner[1]] = part
                else:
                    means[key] = means.get(key, np.zeros(value.shape[1:])) + share * value[0].astype(np.float64)
    cut = {key: (value[0] if len(value) == 1 else value)[..., :height, :width] for key, value in maps.items()}
    return cut | {key: np.asarray(value, dtype=np.float32) for key, value in means.items()}


def _pad(image: NDArray[np.float32], multiple: int) -> NDArray[np.float32]:
    """Pad ``(C, H, W)`` at the bottom and the right to a multiple, by reflection."""
    grow = [(0, 0), *((0, -n % multiple) for n in image.shape[1:])]
    if not any(after for _, after in grow):
        return image
    return np.pad(image, grow, mode="symmetric")

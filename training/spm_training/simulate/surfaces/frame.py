"""Where the tip was when a pixel was taken: the raster, drift and creep."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

__all__ = ["Raster", "draw_raster"]


@dataclass(frozen=True, eq=False)
class Raster:
    """The places on the sample that the pixels show. Lengths in nm, ``(y, x)``, origin at the first pixel of an ideal raster.

    Parameters
    ----------
    shape
        ``(H, W)`` in pixels.
    pixel_size_nm
        Side of a pixel.
    row_shift
        ``(H, 2)`` displacement of each row: what has drifted by the time it is scanned.
    column_shift
        ``(W,)`` displacement of each column along x: creep after the turn of the fast axis.
    """

    shape: tuple[int, int]
    pixel_size_nm: float
    row_shift: NDArray[np.float64]
    column_shift: NDArray[np.float64]

    @property
    def size_nm(self) -> NDArray[np.float64]:
        """``(y, x)`` extent."""
        return np.asarray(self.shape) * self.pixel_size_nm

    def places(self) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """``(H, W)`` y and x of every pixel on the sample."""
        rows, columns = self.shape
        y = np.arange(rows) * self.pixel_size_nm + self.row_shift[:, 0]
        x = np.arange(columns) * self.pixel_size_nm + self.column_shift
        return np.repeat(y[:, None], columns, axis=1), x[None, :] + self.row_shift[:, 1:]

    def to_px(self, yx_nm: NDArray[np.float64]) -> NDArray[np.float64]:
        """``(N, 2)`` pixel positions of places on the sample, by fixed-point iteration (the shifts are small and smooth)."""
        px = self.pixel_size_nm
        rows, columns = np.arange(self.shape[0]) * px, np.arange(self.shape[1]) * px
        y, x = yx_nm[:, 0], yx_nm[:, 1]
        row, column = y.copy(), x.copy()
        for _ in range(4):
            row = y - np.interp(row, rows, self.row_shift[:, 0])
            column = x - np.interp(row, rows, self.row_shift[:, 1]) - np.interp(column, columns, self.column_shift)
        return np.stack([row, column], axis=1) / px


def draw_raster(rng: np.random.Generator, shape: tuple[int, int], pixel_size_nm: float) -> Raster:
    """Draw drift (0 to 6 % of the frame over one image, most often below 2 %) and creep of either axis.

    Creep decays as a few exponentials; one is enough to bend the first rows and the start of each line.
    """
    rows, columns = shape
    time = np.arange(rows)[:, None] / rows
    size = np.asarray(shape) * pixel_size_nm
    drift = rng.normal(size=2) * 0.012 + rng.normal(size=2) * 0.006 * time  # the rate itself changes slowly
    row_shift = drift * time * size[0]
    if rng.random() < 0.4:
        decay = rng.uniform(0.03, 0.25)
        row_shift = row_shift + rng.normal(size=2) * 0.012 * size[0] * np.exp(-time / decay)
    column_shift = np.zeros(columns)
    if rng.random() < 0.3:
        decay = rng.uniform(0.02, 0.12)
        column_shift = rng.normal() * 0.006 * size[1] * np.exp(-np.arange(columns) / columns / decay)
    return Raster(shape, pixel_size_nm, row_shift, column_shift)

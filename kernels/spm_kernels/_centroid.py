"""Compiled core of `spm_kernels.refine_centroid`."""

from __future__ import annotations

import math

import numpy as np

from spm_kernels._gaussian import Floats, Mask, Pixels, gather
from spm_kernels._jit import kernel

#: A centroid that moves by less than this stays where it is.
CENTROID_STEP_PX = 1e-3


@kernel()
def centroid_all(
    image: Pixels, usable: Mask, yx: Floats, radius: float, iterations: int, found: Floats, good: Mask
) -> None:
    """Background-subtracted centroid of every column, ``iterations`` times at most; see `spm_kernels.refine_centroid`."""
    side = 2 * math.ceil(radius + 0.5) + 1
    value, distance = np.empty(side * side), np.empty(side * side)
    row, column = np.empty(side * side, np.int64), np.empty(side * side, np.int64)
    for i in range(len(yx)):
        y, x = yx[i, 0], yx[i, 1]
        inside = True
        for _ in range(iterations):
            n, top, left = gather(image, usable, y, x, radius + 0.5, value, row, column)
            rim = rim_weight = 0.0
            for k in range(n):
                distance[k] = math.sqrt((row[k] + top - y) ** 2 + (column[k] + left - x) ** 2)
                weight = min(max(distance[k] - (radius - 1.0), 0.0), 1.0)
                rim += weight * value[k]
                rim_weight += weight
            background = rim / rim_weight if rim_weight > 0.0 else math.inf
            mass = to_y = to_x = 0.0
            for k in range(n):
                weight = min(max(radius + 0.5 - distance[k], 0.0), 1.0) * max(value[k] - background, 0.0)
                mass += weight
                to_y += weight * (row[k] + top - y)
                to_x += weight * (column[k] + left - x)
            inside = mass > 0.0
            if not inside:
                break
            y += to_y / mass
            x += to_x / mass
            inside = math.hypot(y - yx[i, 0], x - yx[i, 1]) <= radius
            if not inside or max(abs(to_y), abs(to_x)) < CENTROID_STEP_PX * mass:
                break
        good[i] = inside
        found[i, 0], found[i, 1] = (y, x) if inside else (yx[i, 0], yx[i, 1])

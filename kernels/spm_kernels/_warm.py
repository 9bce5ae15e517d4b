"""Compile every kernel before the first scan needs it."""

from __future__ import annotations

import time
from collections.abc import Callable

import numpy as np

from spm_kernels.background import sliding_median
from spm_kernels.blind_tip import estimate_tip
from spm_kernels.morphology import certainty_map, dilate, erode
from spm_kernels.nms import box_nms
from spm_kernels.pairs import pair_top_hat
from spm_kernels.patches import PatchGrid, blend_patches, extract_patches, map_patches, taper
from spm_kernels.peaks import local_maxima
from spm_kernels.refine import refine_centroid, refine_gaussian
from spm_kernels.resample import resize
from spm_kernels.voting import majority_vote, squared_error_map

__all__ = ["warm"]


def warm() -> dict[str, float]:
    """Run every public kernel once on a tiny input, so that Numba compiles it or loads it from its cache.

    Returns
    -------
    dict
        Seconds by the name of the kernel, in the order in which they ran. From an empty cache they are compile times;
        the first one contains the start of the compiler.
    """
    image = np.zeros((16, 16), np.float32)
    image[8, 8] = 1.0
    image[7:10, 7:10] += 0.5
    yx = np.array([[8.0, 8.0]])
    tip = np.zeros((3, 3), np.float32)
    grid = PatchGrid(image.shape, (8, 8), 4)
    jobs: tuple[tuple[str, Callable[[], object]], ...] = (
        ("local_maxima", lambda: local_maxima(image, window_px=3, threshold=0.5)),
        ("box_nms", lambda: box_nms(yx, np.ones(1, np.float32), side_px=4.0)),
        ("refine_gaussian", lambda: refine_gaussian(image, yx, radius_px=3.0)),
        ("refine_centroid", lambda: refine_centroid(image, yx, radius_px=3.0)),
        ("resize", lambda: resize(image, (8, 20))),
        ("dilate", lambda: dilate(image, tip)),
        ("erode", lambda: erode(image, tip)),
        ("certainty_map", lambda: certainty_map(image, tip)),
        (
            "estimate_tip",
            lambda: (estimate_tip(image, tip, threshold=0.1), estimate_tip(image, tip, threshold=0.1, full=True)),
        ),
        ("pair_top_hat", lambda: pair_top_hat(image, np.zeros(1, np.float32), reach_px=1)),
        ("sliding_median", lambda: sliding_median(image, radius_px=2)),
        ("extract_patches", lambda: extract_patches(image, grid)),
        ("blend_patches", lambda: blend_patches(np.zeros((len(grid), 8, 8), np.float32), grid)),
        ("map_patches", lambda: map_patches(image, lambda patches: patches, grid)),
        ("majority_vote", lambda: majority_vote(np.zeros((3, 3), np.int32), grid, classes=2)),
        ("squared_error_map", lambda: squared_error_map(image, np.zeros((len(grid), 8, 8), np.float32), grid)),
        ("taper", lambda: taper((8, 8))),
    )
    seconds = {}
    for name, job in jobs:
        start = time.perf_counter()
        job()
        seconds[name] = time.perf_counter() - start
    return seconds

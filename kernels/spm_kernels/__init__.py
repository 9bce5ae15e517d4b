"""Compiled kernels of Adatom: pure functions on arrays, with NumPy and Numba and nothing else.

=====================  ==============================================================================
`local_maxima`         peaks of a score map: maxima of the square window around them
`box_nms`              the best of overlapping squares, by score
`refine_gaussian`      sub-pixel positions with their standard deviation, by Gaussian fits
`refine_centroid`      sub-pixel positions by iterated centroids: cheaper, less exact
`sliding_median`       running median over a large window, the background of an image
`resize`               an image on another grid, smoothed where it shrinks
`dilate`               what a tip makes of a surface: grey dilation
`erode`                the highest surface that an image and its tip allow: grey erosion
`certainty_map`        where the tip is known to have touched the surface
`estimate_tip`         the bluntest tip that an image allows: blind estimation, partial and full
`pair_top_hat`         what an opening by two points takes away: the sign of a second apex
`extract_patches`      overlapping windows of an image (`PatchGrid`), with context around them
`blend_patches`        the weighted mean of overlapping windows, without seams (`taper`)
`map_patches`          a whole image through a function of patches, in bands of bounded memory
`majority_vote`        the label of each pixel, from the labels of the windows that cover it
`squared_error_map`    how far the reconstructed windows of an image are from it
`warm`                 compiles all of them ahead of time
=====================  ==============================================================================

Images are ``(H, W)`` float32, row 0 at the top; positions are ``(N, 2)`` float64 of ``(y, x)`` in pixels, pixel centres
at integers. Non-finite pixels are missing. No function changes its input. Wrong shapes and types raise ValueError, which
says what was seen and what was expected.

The kernels run on one thread, those that take ``threads`` on as many as they are told, and release Python's global lock.
Numba compiles each one on its first call (all of them: about 8 s, see `warm`) and keeps the result beside the source file, so
later processes load it in half a second. A read-only installation uses the user's cache folder, or the one that the environment
variable ``NUMBA_CACHE_DIR`` names; where none can be written a warning says so once and every process compiles anew.
"""

from __future__ import annotations

from spm_kernels._jit import cache_folder
from spm_kernels._warm import warm
from spm_kernels.background import sliding_median
from spm_kernels.blind_tip import estimate_tip
from spm_kernels.morphology import certainty_map, dilate, erode
from spm_kernels.nms import box_nms
from spm_kernels.pairs import pair_top_hat
from spm_kernels.patches import PatchGrid, blend_patches, extract_patches, map_patches, taper
from spm_kernels.peaks import local_maxima
from spm_kernels.refine import Centroids, GaussianFits, refine_centroid, refine_gaussian
from spm_kernels.resample import resize
from spm_kernels.voting import majority_vote, squared_error_map

__all__ = [
    "Centroids",
    "GaussianFits",
    "PatchGrid",
    "blend_patches",
    "box_nms",
    "cache_folder",
    "certainty_map",
    "dilate",
    "erode",
    "estimate_tip",
    "extract_patches",
    "local_maxima",
    "majority_vote",
    "map_patches",
    "pair_top_hat",
    "refine_centroid",
    "refine_gaussian",
    "resize",
    "sliding_median",
    "squared_error_map",
    "taper",
    "warm",
]

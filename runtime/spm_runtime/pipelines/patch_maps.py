"""Stage one of the UCL report on a whole image: character map, error map, and how new the surface is.

Source: UCL report, section 2 (windows of 32 × 32, labels by K-means and majority vote, squared reconstruction error averaged over
the windows that cover a pixel). Windows share their convolutions, so an image is encoded at once.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from spm_kernels.patches import PatchGrid
from spm_kernels.voting import majority_vote, squared_error_map
from spm_runtime.session import Session

__all__ = ["CONTEXT_PX", "PatchMaps", "patch_maps"]

#: Side of a window and the context that the encoder sees around it, in pixels.
WINDOW_PX, CONTEXT_PX = 32, 7
#: Distance of the windows of the character map, and of those of the error map in windows of the former.
STRIDE_PX, ERROR_EVERY = 8, 2
#: So many windows are decoded at once.
BATCH = 512


@dataclass(frozen=True, eq=False)
class PatchMaps:
    """What the patch autoencoder says of an image.

    Parameters
    ----------
    image
        ``(H, W)`` float32 that it has seen.
    character
        ``(H, W)`` int32 cluster at every pixel.
    error
        ``(H, W)`` float32 squared error, smoothed, in units of the square of the image's range.
    distance
        ``(R, C)`` float32 distance of every window's latents from the centre of its cluster.
    """

    image: NDArray[np.float32]
    character: NDArray[np.int32]
    error: NDArray[np.float32]
    distance: NDArray[np.float32]


def patch_maps(
    encoder: Session, decoder: Session, image: NDArray[np.float32], *, clusters: int, smoothing_px: float
) -> PatchMaps:
    """Encode, label and decode all windows of an image.

    Parameters
    ----------
    encoder
        Graph with the input ``image`` ``(B, 1, H + 14, W + 14)`` and the outputs ``latent``, ``label`` and ``distance``.
    decoder
        Graph from ``latent`` ``(N, D)`` to ``reconstruction`` ``(N, 1, 32, 32)``.
    image
        ``(H, W)`` float32 in [0, 1].
    clusters
        Number of labels.
    smoothing_px
        Gaussian σ of the smoothing of the error map.

    Notes
    -----
    The image is continued by reflection to a whole number of strides, so that windows cover its last rows and columns too.
    """
    height, width = image.shape
    step = STRIDE_PX * ERROR_EVERY
    grown = [(0, max(WINDOW_PX - n, 0) + (-max(n - WINDOW_PX, 0)) % step) for n in image.shape]
    padded = np.pad(image, grown, mode="symmetric") if max(image.shape) > 0 else image
    framed = np.pad(padded, CONTEXT_PX, mode="symmetric")
    found = encoder.run({"image": framed[None, None]})
    labels = np.ascontiguousarray(np.rint(found["label"][0, 0]).astype(np.int32))
    coarse = PatchGrid(padded.shape, (WINDOW_PX, WINDOW_PX), STRIDE_PX)
    character = majority_vote(labels, coarse, classes=clusters)[:height, :width]

    latent = found["latent"][0][:, ::ERROR_EVERY, ::ERROR_EVERY]
    flat = np.ascontiguousarray(latent.reshape(len(latent), -1).T)
    parts = [decoder.run({"latent": flat[n : n + BATCH]})["reconstruction"][:, 0] for n in range(0, len(flat), BATCH)]
    sparse = PatchGrid(padded.shape, (WINDOW_PX, WINDOW_PX), step)
    error = squared_error_map(padded, np.ascontiguousarray(np.concatenate(parts)), sparse)[:height, :width]
    smooth = ndimage.gaussian_filter(error, smoothing_px, mode="nearest") if smoothing_px > 0 else error
    return PatchMaps(image, np.ascontiguousarray(character), smooth.astype(np.float32), found["distance"][0, 0])

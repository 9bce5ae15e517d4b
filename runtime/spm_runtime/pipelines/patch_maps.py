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
#: So many windows are decoded at once, and so many pixels are encoded at once (0.5 kB each in the widest layer).
BATCH, BAND_PIXELS = 512, 1_000_000


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
        ``(R, C)`` float32 distance of every window's latents from the centre of its cluster; the window at ``[r, c]`` begins
        at ``(8 r, 8 c)``.
    """

    image: NDArray[np.float32]
    character: NDArray[np.int32]
    error: NDArray[np.float32]
    distance: NDArray[np.float32]

    def typical_distance(self, valid: NDArray[np.bool_]) -> float:
        """Median of `distance` over the windows whose middle was measured, 0 where none was.

        Parameters
        ----------
        valid
            ``(H, W)`` bool.
        """
        rows, columns = (
            np.minimum(STRIDE_PX * np.arange(windows) + WINDOW_PX // 2, size - 1)
            for windows, size in zip(self.distance.shape, valid.shape, strict=True)
        )
        values = self.distance[valid[rows[:, None], columns]]
        return float(np.median(values)) if values.size else 0.0


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
    padded = np.pad(image, grown, mode="symmetric")
    found = _encoded(encoder, np.pad(padded, CONTEXT_PX, mode="symmetric"))
    labels = np.ascontiguousarray(np.rint(found["label"][0]).astype(np.int32))
    coarse = PatchGrid(padded.shape, (WINDOW_PX, WINDOW_PX), STRIDE_PX)
    character = majority_vote(labels, coarse, classes=clusters)[:height, :width]

    latent = found["latent"][:, ::ERROR_EVERY, ::ERROR_EVERY]
    flat = np.ascontiguousarray(latent.reshape(len(latent), -1).T)
    parts = [decoder.run({"latent": flat[n : n + BATCH]})["reconstruction"][:, 0] for n in range(0, len(flat), BATCH)]
    sparse = PatchGrid(padded.shape, (WINDOW_PX, WINDOW_PX), step)
    error = squared_error_map(padded, np.ascontiguousarray(np.concatenate(parts)), sparse)[:height, :width]
    smooth = ndimage.gaussian_filter(error, smoothing_px, mode="nearest") if smoothing_px > 0 else error
    return PatchMaps(image, np.ascontiguousarray(character), smooth.astype(np.float32), found["distance"][0])


def _encoded(encoder: Session, framed: NDArray[np.float32]) -> dict[str, NDArray[np.float32]]:
    """Outputs of the encoder without the batch axis, in bands of whole rows of windows: a window knows nothing of the band."""
    reach = WINDOW_PX + 2 * CONTEXT_PX
    rows = (framed.shape[0] - reach) // STRIDE_PX + 1
    most = max((BAND_PIXELS // framed.shape[1] - reach) // STRIDE_PX + 1, 1)
    parts = []
    for first in range(0, rows, most):
        last = min(first + most, rows) - 1
        band = framed[STRIDE_PX * first : STRIDE_PX * last + reach]
        parts.append(encoder.run({"image": band[None, None]}))
    return {name: np.concatenate([part[name][0] for part in parts], axis=1) for name in parts[0]}

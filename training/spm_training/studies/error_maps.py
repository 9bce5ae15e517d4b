"""How well the error map of the first autoencoder tells true defects from the rest of an image."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from scipy import ndimage
from scipy.stats import rankdata
from torch import Tensor

from spm_kernels import PatchGrid, squared_error_map
from spm_training.networks.ae1 import MARGIN_PX, SIDE_PX, Ae1
from spm_training.studies.samples import STRIDE_PX, Frame, latents_of

__all__ = ["defect_auc", "error_map"]

#: σ of the smoothing of error maps, in pixels. The UCL report (section 2.2) smooths and prints no width: that of a small defect.
_SMOOTHING_PX = 2.0
#: Places of the background that defects are compared with, per image.
_PLACES = 300
#: Smallest circle in which the largest error is taken, and what is kept between a defect and the background, in pixels.
_LEAST_PX, _APART_PX = 2.0, 3.0
_BATCH = 256


def error_map(network: Ae1, frame: Frame, *, scales: Sequence[int] = (1,)) -> NDArray[np.float32]:
    """Squared error of the reconstruction at every pixel, averaged over the windows that cover it, then smoothed.

    Parameters
    ----------
    network
        In evaluation mode.
    frame
        The image.
    scales
        Pixels, along either axis, that are averaged to one before. Of several the map is the mean, each relative to its median;
        near the border, where a coarser one does not reach, of those that do.

    Returns
    -------
    ``(H, W)`` of the image without its context.
    """
    if tuple(scales) == (1,):
        return _smooth(_errors(network, frame.image))
    maps = []
    for scale in scales:
        height, width = (side // scale for side in frame.image.shape)
        blocks = frame.image[: height * scale, : width * scale].reshape(height, scale, width, scale)
        small = blocks.mean(axis=(1, 3))
        rows, columns = ((side - 2 * MARGIN_PX) // STRIDE_PX * STRIDE_PX for side in small.shape)
        if min(rows, columns) < SIDE_PX:
            raise ValueError(f"an image of {frame.image.shape} is too small to be read at scale {scale}")
        errors = _smooth(_errors(network, small[: rows + 2 * MARGIN_PX, : columns + 2 * MARGIN_PX]))
        whole = np.full(frame.image.shape, np.nan, np.float32)
        first = scale * MARGIN_PX
        fine = np.repeat(np.repeat(errors, scale, axis=0), scale, axis=1)
        whole[first : first + fine.shape[0], first : first + fine.shape[1]] = fine / max(
            float(np.median(errors)), 1e-12
        )
        maps.append(whole[MARGIN_PX:-MARGIN_PX, MARGIN_PX:-MARGIN_PX])
    return np.asarray(np.nanmean(maps, axis=0), np.float32)


def defect_auc(errors: NDArray[np.floating], frame: Frame, *, seed: int = 0) -> float:
    """Chance that a defect stands out more than a place without one, in one image.

    Parameters
    ----------
    errors
        ``(H, W)`` error map.
    frame
        Its image, with the true defects.
    seed
        Of the places.

    Returns
    -------
    Area under the ROC curve of the largest error within a circle: around each defect with its radius, and around places of the
    background with the radii of the defects. NaN where there is no defect, or no room between them.
    """
    if not len(frame.yx_px):
        return float("nan")
    rng = np.random.default_rng((seed, frame.number))
    radius = np.maximum(frame.radius_px, _LEAST_PX)
    yx = rng.uniform(-0.5, np.array(errors.shape) - 0.5, size=(_PLACES, 2))
    reach = rng.choice(radius, _PLACES)
    away = np.hypot(*np.moveaxis(yx[:, None] - frame.yx_px[None], -1, 0)) - radius[None] - reach[:, None]
    bare = away.min(axis=1) > _APART_PX
    if not bare.any():
        return float("nan")
    there = [_largest(errors, place, size) for place, size in zip(frame.yx_px, radius, strict=True)]
    absent = [_largest(errors, place, size) for place, size in zip(yx[bare], reach[bare], strict=True)]
    ranks = rankdata([*there, *absent])[: len(there)]
    return float((ranks.sum() - len(there) * (len(there) + 1) / 2) / (len(there) * len(absent)))


@torch.no_grad()
def _errors(network: Ae1, image: NDArray[np.float32]) -> NDArray[np.float32]:
    inner = np.ascontiguousarray(image[MARGIN_PX:-MARGIN_PX, MARGIN_PX:-MARGIN_PX])
    latents: Tensor = latents_of(network, image)
    windows = torch.cat([network.decode(part)[:, 0] for part in torch.split(latents, _BATCH)]).numpy()
    grid = PatchGrid((inner.shape[0], inner.shape[1]), (SIDE_PX, SIDE_PX), STRIDE_PX)
    return squared_error_map(inner, windows, grid)


def _smooth(errors: NDArray[np.float32]) -> NDArray[np.float32]:
    return np.asarray(ndimage.gaussian_filter(errors, _SMOOTHING_PX, mode="nearest"), np.float32)


def _largest(errors: NDArray[np.floating], place: NDArray[np.float64], radius: float) -> float:
    """Largest value in a circle; of its nearest pixel where it holds none."""
    low = np.clip(np.round(place - radius).astype(int), 0, np.array(errors.shape) - 1)
    high = np.clip(np.round(place + radius).astype(int) + 1, low + 1, errors.shape)
    part = errors[low[0] : high[0], low[1] : high[1]]
    y, x = np.ogrid[low[0] : high[0], low[1] : high[1]]
    inside = (y - place[0]) ** 2 + (x - place[1]) ** 2 <= radius**2
    return float(part[inside].max() if inside.any() else part.max())

"""Where the atoms of an image are, by the votes of its patches: each names the place of its nearest atom."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.ndimage import gaussian_filter

from spm_kernels import PatchGrid, extract_patches, local_maxima, refine_centroid
from spm_training.metrics import Counts, count
from spm_training.networks.cae import PatchDenoiser
from spm_training.simulate.scene import in_frame
from spm_training.simulate.splat import sum_gaussians

__all__ = ["BORDER_PX", "Setting", "best_setting", "counts_of", "peaks_of", "smoothed", "vote_map", "votes_of"]

Image = NDArray[np.float32]
Positions = NDArray[np.float64]

#: Distance of the patches that vote.
STRIDE_PX = 2
#: Side of the window that a peak is the maximum of, and the radius of its centroid.
_WINDOW_PX, _RADIUS_PX = 5, 2.0
#: Atoms so near to the border need not be found.
BORDER_PX = 2.0
#: Patches that go through the network at once.
_BATCH = 4096


class Setting(NamedTuple):
    """How peaks are found: σ of the Gaussian in pixels, and the least height, as a share of the range of the smooth map."""

    sigma_px: float
    share: float


def votes_of(network: PatchDenoiser, image: Image) -> Positions:
    """Where each patch of an image says that its nearest atom is.

    Parameters
    ----------
    network
        `PatchDenoiser` of `spm_training.networks.cae.CaeTwin`.
    image
        ``(H, W)`` in units of the view.

    Returns
    -------
    ``(N, 2)`` in pixels of the image; some lie outside of it.
    """
    grid = PatchGrid((image.shape[0], image.shape[1]), (network.side_px, network.side_px), STRIDE_PX)
    patches = torch.from_numpy(extract_patches(image, grid))[:, None]
    with torch.no_grad():
        offset = torch.cat([network(part).offset_yx_px for part in torch.split(patches, _BATCH)])
    return np.asarray(grid.origins + (network.side_px - 1) / 2 + offset.double().numpy(), np.float64)


def vote_map(votes: Positions, sigma_px: float, shape: tuple[int, int]) -> Image:
    """``(H, W)`` how many votes agree on a place, but for a Gaussian of σ."""
    return sum_gaussians(votes, np.ones(len(votes)), sigma_px, shape).astype(np.float32)


def smoothed(image: Image, sigma_px: float) -> Image:
    """The image after a Gaussian of σ."""
    return np.asarray(gaussian_filter(image, sigma_px), np.float32)


def peaks_of(smooth: Image, share: float) -> Positions:
    """``(N, 2)`` sub-pixel places of the maxima of a smooth map that reach a share of its range; its ends are percentiles."""
    low, high = np.percentile(smooth, (0.5, 99.5))
    threshold = float(low + share * (high - low))
    yx = local_maxima(smooth, window_px=_WINDOW_PX, threshold=threshold).astype(np.float64)
    return refine_centroid(smooth, yx, radius_px=_RADIUS_PX).yx


def counts_of(found: Positions, truth: Positions, tolerance_px: float, shape: tuple[int, int]) -> Counts:
    """Right, wrong and missed atoms; those at the border of an image ``(H, W)`` may be found or not."""
    required = in_frame(truth, shape, margin_px=-BORDER_PX)
    return count(found, truth, required, tolerance_px)


def best_setting(
    score: Callable[[Setting], Counts], sigmas_px: Iterable[float], shares: Sequence[float]
) -> tuple[Setting, Counts]:
    """The setting with the highest F1, of equal ones the first."""
    settings = [Setting(sigma, share) for sigma in sigmas_px for share in shares]
    counts = [score(one) for one in settings]
    best = max(range(len(settings)), key=lambda number: counts[number].f1)
    return settings[best], counts[best]

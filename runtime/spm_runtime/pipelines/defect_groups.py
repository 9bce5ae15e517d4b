"""Stage two of the UCL report: to which group a defect belongs by its look alone.

Source: UCL report, sections 2.4 (patches of 32 × 32 around defects, each scaled to [0, 1]) and 2.5 (mixture of 20 Gaussians with
full covariance in eight latent numbers; it is soft, so the probabilities are kept).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from spm_runtime.pipelines.patch_maps import BATCH, WINDOW_PX
from spm_runtime.session import Session

__all__ = ["DefectGroups", "defect_groups", "patches_around"]


@dataclass(frozen=True, eq=False)
class DefectGroups:
    """What the mixture says of N defects.

    Parameters
    ----------
    group
        ``(N,)`` int32 number of the most probable component, from 1: defects of one group look alike, whatever they are called.
    chance
        ``(N, K)`` float32 probability of each named class, from the classes that each component held in training.
    """

    group: NDArray[np.int32]
    chance: NDArray[np.float32]


def defect_groups(
    classes: Session, levelled: NDArray[np.float32], yx_px: NDArray[np.float64], shares: NDArray[np.float32]
) -> DefectGroups:
    """Give every defect its group.

    Parameters
    ----------
    classes
        Graph from ``patch`` ``(N, 1, 32, 32)`` of any scale to ``log_probability`` ``(N, C)``.
    levelled
        ``(H, W)`` float32 heights levelled terrace by terrace; NaN where missing.
    yx_px
        ``(N, 2)`` centres.
    shares
        ``(C, K)`` of each component's patches in training, the share of each class.
    """
    if not len(yx_px):
        return DefectGroups(np.empty(0, np.int32), np.empty((0, shares.shape[1]), np.float32))
    patches = patches_around(levelled, yx_px)[:, None]
    parts = [classes.run({"patch": patches[n : n + BATCH]})["log_probability"] for n in range(0, len(patches), BATCH)]
    log_probability = np.concatenate(parts)
    chance = np.exp(log_probability) @ shares
    return DefectGroups(log_probability.argmax(axis=1).astype(np.int32) + 1, chance.astype(np.float32))


def patches_around(image: NDArray[np.float32], yx_px: NDArray[np.float64]) -> NDArray[np.float32]:
    """Cut ``(N, 32, 32)`` patches around centres, as in training moved into the image where they would reach out of it.

    Parameters
    ----------
    image
        ``(H, W)`` float32; what is missing is given the median. A smaller image is continued as in a mirror.
    yx_px
        ``(N, 2)`` centres.
    """
    there = np.isfinite(image)
    whole = np.where(there, image, np.median(image[there]) if there.any() else np.float32(0)).astype(np.float32)
    whole = np.pad(whole, [(0, max(WINDOW_PX - side, 0)) for side in image.shape], mode="symmetric")
    last = np.asarray(whole.shape) - WINDOW_PX
    y, x = np.clip(np.rint(yx_px - WINDOW_PX / 2).astype(int), 0, last).T
    return np.ascontiguousarray(np.lib.stride_tricks.sliding_window_view(whole, (WINDOW_PX, WINDOW_PX))[y, x])

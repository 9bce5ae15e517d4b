"""From the maps of the finder to defects: peaks, extents, classes."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.spatial import cKDTree

from spm_kernels import local_maxima

__all__ = ["Marks", "find_marks", "regions_of"]

#: Window of the max-pool, in working pixels.
WINDOW_PX = 5
#: Of two peaks nearer than this share of the larger radius the weaker one goes: one defect has one centre.
SHARED = 0.6
#: A defect reaches at most so many of its radii.
REACH = 1.5


@dataclass(frozen=True, eq=False)
class Marks:
    """Defects on the working pixels, best score first.

    Parameters
    ----------
    yx_px
        ``(N, 2)`` float64 centres.
    score
        ``(N,)`` float32 presence at the centre.
    radius_px
        ``(N,)`` float64.
    chance
        ``(N, K)`` float32 probability of each class.
    """

    yx_px: NDArray[np.float64]
    score: NDArray[np.float32]
    radius_px: NDArray[np.float64]
    chance: NDArray[np.float32]

    def __len__(self) -> int:
        return len(self.score)


def find_marks(
    presence: NDArray[np.float32],
    radius_px: NDArray[np.float32],
    chance: NDArray[np.float32],
    *,
    threshold: float,
    valid: NDArray[np.bool_],
) -> Marks:
    """Peaks of the presence, one for each defect.

    Parameters
    ----------
    presence
        ``(H, W)`` float32 in [0, 1].
    radius_px
        ``(H, W)`` float32 radius of a defect centred at the pixel.
    chance
        ``(K, H, W)`` float32 probability of each class of a defect centred at the pixel.
    threshold
        Lowest presence.
    valid
        ``(H, W)`` bool: False where nothing was measured.
    """
    peaks = local_maxima(presence, window_px=WINDOW_PX, threshold=threshold, valid=valid)
    y, x = peaks[:, 0], peaks[:, 1]
    yx, score, radius = _centred(presence, peaks), presence[y, x], radius_px[y, x].astype(np.float64)
    kept = _apart(yx, radius)
    return Marks(yx[kept], score[kept], radius[kept], np.ascontiguousarray(chance[:, y, x].T)[kept])


def regions_of(marks: Marks, inside: NDArray[np.float32], *, least: float = 0.5) -> NDArray[np.int32]:
    """Which pixels belong to which defect.

    Parameters
    ----------
    marks
        The defects.
    inside
        ``(H, W)`` float32 probability that a pixel lies on a defect.
    least
        Pixels above it belong to the defect that is nearest in units of its radius, up to one and a half of them. The
        centre belongs to its defect in any case.

    Returns
    -------
    ``(H, W)`` int32 index into the marks, −1 for none.
    """
    owner = np.full(inside.shape, -1, np.int32)
    nearest = np.full(inside.shape, np.inf)
    for index, (centre, radius) in enumerate(zip(marks.yx_px, marks.radius_px, strict=True)):
        reach = REACH * max(radius, 1.0)
        low = np.maximum(np.ceil(centre - reach).astype(int), 0)
        high = np.minimum(np.floor(centre + reach).astype(int) + 1, inside.shape)
        box = np.s_[low[0] : high[0], low[1] : high[1]]
        y, x = np.ogrid[low[0] : high[0], low[1] : high[1]]
        distance = np.hypot(y - centre[0], x - centre[1]) / max(radius, 1.0)
        mine = (distance <= REACH) & (inside[box] > least) & (distance < nearest[box])
        owner[box] = np.where(mine, index, owner[box])
        nearest[box] = np.where(mine, distance, nearest[box])
    place = np.clip(np.rint(marks.yx_px).astype(int), 0, np.asarray(inside.shape) - 1)
    order = np.arange(len(marks) - 1, -1, -1)  # of two at the same pixel the better one, written last, has it
    owner[place[order, 0], place[order, 1]] = order
    return owner


def _centred(presence: NDArray[np.float32], peaks: NDArray[np.int32]) -> NDArray[np.float64]:
    """Centres of mass of the presence in the 3 × 3 pixels around each peak; the border is a mirror: nothing pulls inwards."""
    padded = np.pad(presence, 1, mode="reflect")
    window = np.arange(3)
    around = padded[peaks[:, 0, None, None] + window[:, None], peaks[:, 1, None, None] + window].astype(np.float64)
    total = np.maximum(around.sum(axis=(1, 2)), np.finfo(np.float64).tiny)
    offset = np.stack([(around.sum(axis=2) @ (window - 1)), (around.sum(axis=1) @ (window - 1))], axis=1)
    return np.asarray(peaks + offset / total[:, None])


def _apart(yx: NDArray[np.float64], radius: NDArray[np.float64]) -> NDArray[np.bool_]:
    """Which marks stay, the best first: those that no better one is too near to."""
    kept = np.ones(len(yx), bool)
    if len(yx) < 2:
        return kept
    tree = cKDTree(yx)
    pairs = tree.query_pairs(SHARED * float(radius.max()), output_type="ndarray")
    distance = np.hypot(*(yx[pairs[:, 0]] - yx[pairs[:, 1]]).T)
    close = pairs[distance < SHARED * np.maximum(*radius[pairs].T)]
    for better, weaker in close[
        np.lexsort((close[:, 1], close[:, 0]))
    ]:  # the first index is the lower: the better score
        if kept[better]:
            kept[weaker] = False
    return kept

"""What the peers see of a scan, and how an anomaly map becomes marks: the same for all of them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, Protocol

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage
from skimage.feature import peak_local_max

from spm_runtime.errors import ParameterError
from spm_runtime.levelling import fill_with_nearest, fit_plane
from spm_runtime.pipelines.surface import nm_per_unit
from spm_runtime.results import Defects
from spm_runtime.scan import Scan
from spm_runtime.terraces import find_terraces
from spm_training.defects.evaluate import marks

__all__ = [
    "MAD_STD",
    "AnomalyFinder",
    "AnomalyMap",
    "How",
    "Look",
    "Marking",
    "heights_nm",
    "look_at",
    "places",
    "robust_z",
]

#: Finer pixels are averaged to about this size: an atom then fills a few of them at every magnification.
_PIXEL_NM = 0.06
#: Marks this near to a step are left out by those that know the steps.
_STEP_NM = 0.8
#: Half the side of the box of a mark.
_BOX_NM = 0.6
#: A normal distribution's standard deviation over its median absolute deviation.
MAD_STD = 1.4826

How = Literal["regions", "peaks"]


@dataclass(frozen=True, eq=False)
class Look:
    """A scan as a peer sees it.

    Parameters
    ----------
    image
        ``(h, w)`` float32 levelled heights in nm, pixels averaged to about 0.06 nm.
    ignore
        ``(h, w)`` bool pixels at steps; none where the peer does not know of steps.
    pixel_size_nm
        Side of a pixel of `image`.
    factor
        Pixels of the scan along a side of a pixel of `image`.
    """

    image: NDArray[np.float32]
    ignore: NDArray[np.bool_]
    pixel_size_nm: float
    factor: int

    def in_scan(self, yx_px: NDArray[np.float64]) -> NDArray[np.float64]:
        """Positions of the scan, from ``(N, 2)`` of `image`."""
        return yx_px * self.factor + (self.factor - 1) / 2


def heights_nm(scan: Scan) -> tuple[NDArray[np.float32], float]:
    """Heights and side of a pixel in nm; what is missing is filled from the nearest pixel.

    Raises
    ------
    ParameterError
        If the scan is no calibrated topography.
    """
    gain = nm_per_unit(scan.unit)
    if gain is None or scan.pixel_size_nm is None or not scan.valid.any():
        raise ParameterError(
            f"{scan.path or scan.label}: unit {scan.unit!r}, pixel size {scan.pixel_size_nm} nm; expected measured heights in "
            "a length and a known pixel size. Choose a topography channel."
        )
    heights = fill_with_nearest(scan.image.astype(np.float64) * gain, scan.valid)
    # The middle goes first, so that picometres on top of micrometres survive float32.
    return (heights - np.median(heights)).astype(np.float32), float(np.sqrt(np.prod(scan.pixel_size_nm)))


def look_at(scan: Scan, *, terraces: bool) -> Look:
    """Level a scan for a peer.

    Parameters
    ----------
    scan
        As a reader gives it.
    terraces
        True: steps are found and taken out, each terrace is levelled by itself (`spm_runtime.terraces`). False: a plane, and the
        median of every row.

    Raises
    ------
    ParameterError
        If the scan is no calibrated topography.
    """
    heights, pixel = heights_nm(scan)
    if terraces:
        found = find_terraces(heights, pixel)
        levelled = found.levelled
        ignore = ndimage.distance_transform_edt(~found.steps) * pixel <= _STEP_NM if found.steps.any() else found.steps
    else:
        flat = heights - fit_plane(heights)
        levelled = (flat - np.median(flat, axis=1, keepdims=True)).astype(np.float32)
        ignore = np.zeros(levelled.shape, bool)
    factor = max(int(_PIXEL_NM / pixel), 1)
    return Look(
        np.ascontiguousarray(_averaged(levelled, factor)),
        _averaged(np.asarray(ignore, np.float32), factor) > 0.5,
        pixel * factor,
        factor,
    )


def _averaged(image: NDArray[np.float32], factor: int) -> NDArray[np.float32]:
    """Means of blocks; pixels that fill no block at the far borders are left out."""
    height, width = (side // factor for side in image.shape)
    blocks = image[: height * factor, : width * factor].reshape(height, factor, width, factor)
    return np.asarray(blocks.mean(axis=(1, 3), dtype=np.float32))


def robust_z(values: NDArray[np.floating], use: NDArray[np.bool_]) -> NDArray[np.float32]:
    """``(h, w)`` map in robust standard deviations above its median, both over the pixels of `use`."""
    chosen = values[use] if use.any() else values
    middle = np.median(chosen)
    spread = MAD_STD * np.median(np.abs(chosen - middle))
    return np.asarray((values - middle) / max(float(spread), 1e-12), np.float32)


class AnomalyMap(Protocol):
    """A method with its settings: from a look to an ``(h, w)`` map that is high at defects."""

    def __call__(self, look: Look) -> NDArray[np.float32]:
        """The map."""
        ...


@dataclass(frozen=True)
class Marking:
    """How marks are made from a map in robust standard deviations.

    Parameters
    ----------
    how
        ``regions``: the centre of mass of every connected region above the threshold. ``peaks``: maxima 0.6 nm apart.
    threshold
        In robust standard deviations.
    frame_px
        Marks this near to the frame are left out.
    """

    how: How
    threshold: float
    frame_px: int

    def __call__(self, z: NDArray[np.float32], look: Look) -> Defects:
        """Marks in pixels of the scan."""
        return self.kept(*places(z, look, self.how, self.threshold), look)

    def kept(self, yx: NDArray[np.float64], height: NDArray[np.float32], look: Look) -> Defects:
        """Marks from `places` of this threshold, or of a lower one where they are peaks."""
        last = np.asarray(look.image.shape) - 1
        inside = np.minimum(yx, last - yx).min(axis=1, initial=np.inf) >= self.frame_px
        inside &= height > self.threshold
        return marks(look.in_scan(yx[inside]), _BOX_NM / look.pixel_size_nm * look.factor, score=height[inside])


def places(
    z: NDArray[np.float32], look: Look, how: How, threshold: float
) -> tuple[NDArray[np.float64], NDArray[np.float32]]:
    """Places ``(N, 2)`` in the look above a threshold, and the largest value of each.

    Peaks of a lower threshold hold those of a higher one; regions do not.
    """
    seen = np.where(look.ignore, np.float32(-np.inf), z)
    if how == "peaks":
        apart = max(round(_BOX_NM / look.pixel_size_nm), 1)
        found = peak_local_max(  # type: ignore[no-untyped-call]
            seen, min_distance=apart, threshold_abs=threshold, exclude_border=False
        )
        return found.astype(np.float64), seen[found[:, 0], found[:, 1]]
    labels, _ = ndimage.label(seen > threshold, np.ones((3, 3), bool))
    y, x = np.nonzero(labels)
    which, weight = labels[y, x] - 1, z[y, x].astype(np.float64)
    total = np.bincount(which, weight)
    yx = np.stack([np.bincount(which, weight * part) / total for part in (y, x)], axis=1).reshape(-1, 2)
    height = np.zeros(len(total), np.float32)
    np.maximum.at(height, which, z[y, x])
    return yx, height


@dataclass(frozen=True)
class AnomalyFinder:
    """A peer with all its settings.

    Parameters
    ----------
    method
        Makes the map.
    marking
        Makes the marks.
    terraces
        Whether it knows the steps (`look_at`).
    """

    method: AnomalyMap
    marking: Marking
    terraces: bool

    def __call__(self, scan: Scan) -> Defects:
        """Marks of one class."""
        look = look_at(scan, terraces=self.terraces)
        return self.marking(robust_z(self.method(look), ~look.ignore), look)

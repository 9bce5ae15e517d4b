"""Where the patch autoencoder sees a defect that the finder does not.

Source: UCL report, section 2.3 (union of high errors and target clusters, six morphological steps). The error of an image
without defects is more than its noise: remains of steps, scars of the tip, a lattice that is told badly. So regions are outlined
by the noise of the image, and the level from which one is reported is that of defect-free images of the validation.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from spm_runtime.pipelines.defect_mask import EIGHT, MaskSettings, calibrate_threshold, defect_mask
from spm_runtime.pipelines.patch_maps import PatchMaps

__all__ = ["OUTLINE_ALARMS", "Unexplained", "alarm_level", "find_unexplained"]

#: Chance that noise alone makes a region: where regions end, not whether they are reported.
OUTLINE_ALARMS = 0.1
#: So near to a region of the finder, in working pixels, nothing is unexplained.
NEAR_PX = 2


@dataclass(frozen=True, eq=False)
class Unexplained:
    """Regions that hold no mark of the finder.

    Parameters
    ----------
    pieces
        ``(H, W)`` int32 number of the region at each pixel from 1, 0 for none.
    strength
        ``(N,)`` float64 error in each region, in units of what noise alone hardly exceeds; infinite for target clusters.
    """

    pieces: NDArray[np.int32]
    strength: NDArray[np.float64]

    @property
    def strongest(self) -> float:
        """Largest finite strength, 0 where there is none."""
        return float(np.max(self.strength, where=np.isfinite(self.strength), initial=0.0))

    def above(self, level: float) -> NDArray[np.bool_]:
        """``(H, W)``: the regions that are stronger."""
        return np.asarray(np.concatenate([[False], self.strength > level])[self.pieces])


def find_unexplained(
    patches: PatchMaps, found: NDArray[np.bool_], beside: NDArray[np.bool_], settings: Mapping[str, object]
) -> Unexplained:
    """Regions of the error map and of target clusters that touch nothing of the finder.

    Parameters
    ----------
    patches
        What the autoencoder says.
    found
        ``(H, W)`` bool: pixels of the finder's defects.
    beside
        ``(H, W)`` bool: pixels near steps and missing ones, which say nothing.
    settings
        Of the package: ``smoothing_px`` and ``target_clusters``.
    """
    if beside.all():
        return Unexplained(np.zeros(beside.shape, np.int32), np.empty(0))
    smoothing_px, targets = float(str(settings["smoothing_px"])), settings["target_clusters"]
    threshold = calibrate_threshold(
        patches.error, patches.image, smoothing_px=smoothing_px, false_alarms=OUTLINE_ALARMS, ignore=beside
    )
    shape = MaskSettings(target_clusters=tuple(int(n) for n in targets) if isinstance(targets, list) else ())
    mask = defect_mask(patches.error, patches.character, threshold.value, shape, ignore=beside)
    pieces, _ = ndimage.label(mask, EIGHT)
    explained = np.unique(pieces[ndimage.binary_dilation(found, iterations=NEAR_PX)])
    pieces, count = ndimage.label(mask & ~np.isin(pieces, explained), EIGHT)
    index = np.arange(1, count + 1)
    # One pixel says little: what stands out has some extent.
    error = ndimage.maximum(ndimage.grey_erosion(patches.error, (3, 3)), pieces, index)
    target = ndimage.maximum(np.isin(patches.character, shape.target_clusters), pieces, index)
    strength = np.where(np.asarray(target, bool), np.inf, np.asarray(error, np.float64) / threshold.value)
    return Unexplained(pieces.astype(np.int32), strength.reshape(-1))


def alarm_level(settings: Mapping[str, object], false_alarms: float) -> float:
    """Strength that the strongest region of an image without defects exceeds with the given chance.

    Parameters
    ----------
    settings
        Of the package: ``alarm_levels`` are the strongest regions of defect-free images; without them the noise alone counts.
    false_alarms
        Chance per image.
    """
    levels = settings.get("alarm_levels")
    return max(1.0, float(np.quantile(levels, 1 - false_alarms))) if isinstance(levels, list) and levels else 1.0

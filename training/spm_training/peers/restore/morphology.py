"""Blind tip estimation and erosion with settings, by Gwyddion's library and by this project's kernels."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from spm_kernels import erode, estimate_tip
from spm_runtime.scan import Scan
from spm_training.peers.restore.gwyddion import gwyddion
from spm_training.restore.scenes import NM_TO_M
from spm_training.restore.score import Restored
from spm_training.simulate.tips import TipScene

__all__ = ["Blind", "GwyddionBlind", "gwyddion_true_tip"]

#: Where there is no tip, it is this many ranges of the image below its apex: Gwyddion takes finite heights only.
_NO_TIP = 2.0


@dataclass(frozen=True)
class Blind:
    """Blind estimation, then erosion by the estimated tip; a call does it with this project's kernels.

    They give what Gwyddion gives but for its rounding and its border (`spm_runtime.pipelines.tip_classical`), in a fraction of
    the time: settings are tuned with them.

    Parameters
    ----------
    full
        Ask every pixel, or the maxima only (Gwyddion's "full" and "partial").
    tip_px
        Side of the tip, an odd number of pixels.
    threshold
        Height by which the image may contradict the tip, as a share of the range of the image.
    turned
        Turn the estimated tip by 180° before erosion, as is right. Gwyddion does not: what it estimates is the picture of a
        spike, what it erodes by is the tip.
    """

    full: bool
    tip_px: int
    threshold: float
    turned: bool = False

    def __call__(self, image: NDArray[np.float32]) -> NDArray[np.float32]:
        """``(H, W)`` heights, all finite, to the restored heights."""
        return self.erode(image, self.estimate(image))

    def estimate(self, image: NDArray[np.float32]) -> NDArray[np.float32]:
        """The tip, as `spm_kernels.dilate` takes it."""
        start = np.zeros((self.tip_px, self.tip_px), np.float32)
        return estimate_tip(image, start, threshold=self.height(image), full=self.full)

    def erode(self, image: NDArray[np.float32], tip: NDArray[np.float32]) -> NDArray[np.float32]:
        """Erosion by an estimated tip."""
        return erode(image, tip if self.turned else np.ascontiguousarray(tip[::-1, ::-1]))

    def height(self, image: NDArray[np.float32]) -> float:
        """The threshold in the unit of the image."""
        return self.threshold * float(np.ptp(image))

    def __str__(self) -> str:
        turned = ", tip turned" if self.turned else ""
        return (
            f"{'full' if self.full else 'partial'}, {self.tip_px} px, threshold {self.threshold:g} of the range{turned}"
        )


@dataclass(frozen=True)
class GwyddionBlind:
    """Gwyddion's blind estimation and its erosion by what it estimated; ``settings`` say how."""

    settings: Blind

    def __call__(self, scan: Scan) -> Restored:
        """Restore a scan without missing pixels."""
        library, how = gwyddion(), self.settings
        side = (how.tip_px, how.tip_px)
        tip = library.estimate(scan.image, side, threshold=how.height(scan.image), full=how.full, use_edges=False)
        taken = tip[::-1, ::-1] if how.turned else tip
        restored = library.erosion(scan.image, taken).astype(np.float32)
        return Restored(restored, library.certainty(scan.image, taken), tip)

    def __str__(self) -> str:
        return str(self.settings)


def gwyddion_true_tip(scene: TipScene) -> Restored | None:
    """Gwyddion's erosion by the true tip, a bound; None where the image was made by a convolution."""
    if scene.family == "convolution":
        return None
    span = float(np.ptp(scene.image))
    tip = _cut_to_what_touches(np.where(np.isfinite(scene.tip), scene.tip, -_NO_TIP * span), span)[::-1, ::-1]
    library = gwyddion()
    restored = library.erosion(scene.image, tip) * float(NM_TO_M)
    return Restored(restored.astype(np.float32), library.certainty(scene.image, tip))


def _cut_to_what_touches(tip: NDArray[np.floating], span: float) -> NDArray[np.floating]:
    """The square around the middle outside which the tip is lower than the range of the image: Gwyddion does not look for it."""
    middle = tip.shape[0] // 2
    reach = int(np.abs(np.argwhere(tip > -span) - middle).max())
    return tip[middle - reach : middle + reach + 1, middle - reach : middle + reach + 1]

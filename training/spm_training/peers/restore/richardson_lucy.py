"""Deconvolution with the true point-spread function: a bound for images that were made by a convolution."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from skimage.restoration import richardson_lucy

from spm_training.restore.scenes import NM_TO_M
from spm_training.restore.score import Restored
from spm_training.simulate.tips import TipScene

__all__ = ["TruePsf"]


@dataclass(frozen=True)
class TruePsf:
    """Richardson–Lucy deconvolution (scikit-image) with the true point-spread function.

    Parameters
    ----------
    iterations
        Number of iterations: more are sharper and noisier.
    base
        Height that is added first, as a share of the range of the image: the method is made for positive values, and the smaller
        they are the less they may change.
    """

    iterations: int
    base: float

    def __call__(self, scene: TipScene) -> Restored | None:
        """None in families other than ``convolution``."""
        if scene.family != "convolution":
            return None
        return Restored(self.deconvolved(scene.image, scene.tip) * NM_TO_M)

    def deconvolved(self, image: NDArray[np.float32], psf: NDArray[np.float32]) -> NDArray[np.float32]:
        """``(H, W)`` heights; they are mirrored at the border, half a function wide."""
        rim = psf.shape[0] // 2
        span = float(np.ptp(image)) or 1.0
        zero = float(image.min()) - self.base * span
        shown = np.pad((image.astype(np.float64) - zero) / span, rim, mode="symmetric")
        sharp = richardson_lucy(shown, psf.astype(np.float64), num_iter=self.iterations, clip=False)  # type: ignore[no-untyped-call]
        return np.asarray(sharp[rim:-rim, rim:-rim] * span + zero, np.float32)

    def __str__(self) -> str:
        return f"{self.iterations} iterations, heights from {self.base:g} of the range up"

"""Anomaly maps of the peers: what is left of the image without its lattice, what few components do not explain, what is rare.

Each is tuned on simulated scenes of the validation split (`spm_training.peers.defects.tuning`).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage
from sklearn.ensemble import IsolationForest

from spm_kernels.patches import PatchGrid, blend_patches, extract_patches
from spm_kernels.voting import squared_error_map
from spm_training.peers.defects.look import Look, robust_z

__all__ = ["IsolationScore", "NotchLog", "PcaError"]

#: σ of the Laplacians in nm: from an atom to a halo.
_SIGMAS_NM = (0.15, 0.25, 0.45, 0.8)
#: Frequencies below so many periods per image are no lattice.
_LOWEST_PERIODS = 4
#: Distance of the windows in pixels: of those that are reconstructed, and of those that are only scored.
_STRIDE, _SCORE_STRIDE = 2, 4
#: Trees and windows that each of them sees, the defaults of the method's authors. Source: Liu, Ting and Zhou, ICDM 2008, 413.
_TREES, _SAMPLES = 100, 256


@dataclass(frozen=True)
class NotchLog:
    """Bragg peaks suppressed in the spectrum, then Laplacians of Gaussian of the magnitude of what is left.

    Parameters
    ----------
    factor
        A Fourier component stronger than so many times the median of its ring is reduced to that.
    smoothing_nm
        σ of a Gaussian before the magnitude is taken; 0 for none.
    """

    factor: float
    smoothing_nm: float

    def __call__(self, look: Look) -> NDArray[np.float32]:
        """The largest of the Laplacians, each in robust standard deviations."""
        residual = self.residual(look.image)
        if self.smoothing_nm:
            residual = ndimage.gaussian_filter(residual, self.smoothing_nm / look.pixel_size_nm, mode="reflect")
        size = np.abs(residual - np.median(residual))
        maps = [
            robust_z(
                -ndimage.gaussian_laplace(size, max(sigma / look.pixel_size_nm, 1.0), mode="reflect"), ~look.ignore
            )
            for sigma in _SIGMAS_NM
        ]
        return np.asarray(np.max(maps, axis=0), np.float32)

    def residual(self, image: NDArray[np.float32]) -> NDArray[np.float64]:
        """``(h, w)`` image without its lattice."""
        spectrum = np.fft.fft2(image.astype(np.float64))
        power = np.abs(spectrum) ** 2
        side = max(image.shape)
        frequency = np.hypot(np.fft.fftfreq(image.shape[0])[:, None], np.fft.fftfreq(image.shape[1])[None])
        ring = np.rint(frequency * side).astype(int)
        median = np.asarray(ndimage.median(power, ring, np.arange(ring.max() + 1)))
        most = self.factor * np.maximum(median[ring], 1e-30)
        gain = np.where((power > most) & (ring >= _LOWEST_PERIODS), np.sqrt(most / np.maximum(power, 1e-30)), 1.0)
        return np.asarray(np.fft.ifft2(spectrum * gain).real)


@dataclass(frozen=True)
class PcaError:
    """Windows from their principal components, fitted to the image itself: the smoothed squared error.

    Parameters
    ----------
    side_px
        Side of a window.
    components
        How many are kept.
    smoothing_px
        σ of the Gaussian over the error map.
    """

    side_px: int
    components: int
    smoothing_px: float

    def __call__(self, look: Look) -> NDArray[np.float32]:
        """Root of the smoothed squared error."""
        grid, windows = _windows(look.image, self.side_px, _STRIDE)
        centred = windows - windows.mean(axis=0)
        axes = _axes(centred, self.components)
        answer = (centred @ axes.T @ axes + windows.mean(axis=0)).reshape(-1, *grid.side_px)
        error = squared_error_map(look.image, np.ascontiguousarray(answer, np.float32), grid)
        smooth = ndimage.gaussian_filter(error, self.smoothing_px, mode="nearest")
        return np.asarray(np.sqrt(np.maximum(smooth, 0)), np.float32)


@dataclass(frozen=True)
class IsolationScore:
    """Windows that few cuts tell from all others: isolation forest on principal components, mean and spread of the windows.

    Parameters
    ----------
    side_px
        Side of a window.
    components
        How many principal components of the windows it sees.
    """

    side_px: int
    components: int

    def __call__(self, look: Look) -> NDArray[np.float32]:
        """The score of the windows, blended."""
        grid, windows = _windows(look.image, self.side_px, _SCORE_STRIDE)
        mean, spread = windows.mean(axis=1, keepdims=True), windows.std(axis=1, keepdims=True)
        centred = windows - windows.mean(axis=0)
        axes = _axes(centred, self.components)
        seen = centred @ axes.T
        error = np.sqrt(np.square(centred - seen @ axes).mean(axis=1, keepdims=True))
        features = np.concatenate([seen, mean, spread, error], axis=1)
        forest = IsolationForest(n_estimators=_TREES, max_samples=min(_SAMPLES, len(features)), random_state=0)
        score = -forest.fit(features).score_samples(features)
        constant = np.repeat(score.astype(np.float32)[:, None], self.side_px**2, axis=1)
        return blend_patches(np.ascontiguousarray(constant.reshape(-1, *grid.side_px)), grid)


def _windows(image: NDArray[np.float32], side_px: int, stride_px: int) -> tuple[PatchGrid, NDArray[np.float32]]:
    """Overlapping windows as rows."""
    grid = PatchGrid((image.shape[0], image.shape[1]), (side_px, side_px), stride_px)
    return grid, extract_patches(image, grid).reshape(len(grid), -1)


def _axes(centred: NDArray[np.float32], count: int) -> NDArray[np.float32]:
    """``(count, D)`` principal axes of ``(N, D)`` centred rows."""
    covariance = centred.T.astype(np.float64) @ centred.astype(np.float64)
    return np.asarray(np.linalg.eigh(covariance)[1][:, : -count - 1 : -1].T, np.float32)

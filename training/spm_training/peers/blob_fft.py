"""Maxima of a filter for blobs, Laplacian of Gaussian or difference of Gaussians, at the scale of the spectrum."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage
from skimage.feature import peak_local_max

from spm_training.atoms.evaluate import Finder, Found
from spm_training.peers.tuning import Look, Tuning, best_settings, levelled_and_spacing

__all__ = ["BlobFinder", "tuned_blob_finder"]

Filter = Literal["log", "dog"]

_SIGMAS = (0.14, 0.18, 0.22, 0.28, 0.35)
_DISTANCES = (0.35, 0.5, 0.65)
_THRESHOLDS = (0.0, 0.4, 0.8, 1.2, 1.6, 2.0, 2.4, 2.8)
#: Ratio of the two σ at which a difference of Gaussians is most like a Laplacian. Source: Marr and Hildreth 1980.
_DOG_RATIO = 1.6


@dataclass(frozen=True)
class BlobFinder:
    """Maxima of the filtered image, to a fraction of a pixel.

    Parameters
    ----------
    kind
        ``log``, the negative Laplacian of Gaussian, or ``dog``, the difference of Gaussians.
    sigma_spacings
        σ of the (narrower) Gaussian in units of the spacing that the spectrum tells.
    distance_spacings
        Least distance of two maxima in the same unit.
    threshold_std
        Least height of a maximum in standard deviations of the filtered image.
    """

    kind: Filter
    sigma_spacings: float
    distance_spacings: float
    threshold_std: float

    def __call__(self, image: NDArray[np.float32]) -> Found:
        """Positions and the spacing of the spectrum."""
        levelled, spacing = levelled_and_spacing(image)
        return Found(self.positions(levelled, spacing), spacing)

    def positions(self, levelled: NDArray[np.float32], spacing_px: float) -> NDArray[np.float64]:
        """Positions ``(N, 2)`` in a levelled image whose spacing is known."""
        filtered = _filtered(levelled, self.kind, self.sigma_spacings * spacing_px)
        peaks, height = _maxima(filtered, self.distance_spacings * spacing_px)
        return _parabola(filtered, peaks[height > self.threshold_std])


def tuned_blob_finder(kind: Filter, tuning: Tuning) -> Finder:
    """The finder with the best F1 on the tuning scenes."""

    def propose(look: Look) -> Iterator[tuple[BlobFinder, NDArray[np.float64]]]:
        for sigma in _SIGMAS:
            filtered = _filtered(look.levelled, kind, sigma * look.spacing_px)
            for distance in _DISTANCES:
                peaks, height = _maxima(filtered, distance * look.spacing_px)
                yx = _parabola(filtered, peaks)
                for threshold in _THRESHOLDS:
                    yield BlobFinder(kind, sigma, distance, threshold), yx[height > threshold]

    return best_settings(tuning.looks, propose)


def _filtered(levelled: NDArray[np.float32], kind: Filter, sigma_px: float) -> NDArray[np.float64]:
    image = levelled.astype(np.float64)
    if kind == "log":
        return np.asarray(-ndimage.gaussian_laplace(image, sigma_px, mode="reflect"))
    narrow = ndimage.gaussian_filter(image, sigma_px, mode="reflect")
    return np.asarray(narrow - ndimage.gaussian_filter(image, _DOG_RATIO * sigma_px, mode="reflect"))


def _maxima(filtered: NDArray[np.float64], distance_px: float) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    """Maxima ``(N, 2)`` above zero, and their heights in standard deviations of the filtered image."""
    peaks: NDArray[np.int64] = peak_local_max(  # type: ignore[no-untyped-call]
        filtered, min_distance=max(round(distance_px), 1), threshold_abs=0.0, exclude_border=False
    )
    return peaks, filtered[peaks[:, 0], peaks[:, 1]] / max(float(filtered.std()), 1e-12)


def _parabola(values: NDArray[np.float64], peaks: NDArray[np.int64]) -> NDArray[np.float64]:
    """Refine ``(N, 2)`` integer maxima along each axis; those on the border stay."""
    refined = peaks.astype(np.float64)
    padded = np.pad(values, 1, mode="edge")
    y, x = peaks.T + 1
    for axis, (dy, dx) in enumerate(((1, 0), (0, 1))):
        before, here, after = padded[y - dy, x - dx], padded[y, x], padded[y + dy, x + dx]
        curvature = before - 2 * here + after
        shift = np.divide(0.5 * (before - after), curvature, out=np.zeros_like(here), where=curvature < 0)
        refined[:, axis] += np.clip(shift, -0.5, 0.5)
    return refined

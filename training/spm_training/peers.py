"""A classical finder to compare with: Laplacian of Gaussian at the scale of the strongest period, tuned fairly.

Library defaults prove nothing, so its three numbers are chosen on images of the same kind as those that are scored (same
families, noise and range of spacings), drawn from other seeds.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage
from skimage.feature import peak_local_max

from spm_runtime.levelling import level_for_network
from spm_training.data import Split, rng_for
from spm_training.evaluate import EVALUATION_SEED, TOLERANCES, Finder, Found
from spm_training.metrics import Counts, count
from spm_training.simulate.columns import FAMILIES, NOISE_LEVELS, Scene, simulate_columns

__all__ = ["NAME", "LogFinder", "strongest_period_px", "tuned_finder"]

#: Name of the peer in tables.
NAME = "LoG-FFT-tuned"

_SIGMAS = (0.14, 0.18, 0.22, 0.28, 0.35)
_DISTANCES = (0.35, 0.5, 0.65)
_THRESHOLDS = (0.3, 0.6, 0.9, 1.2, 1.6, 2.0)


@dataclass(frozen=True)
class LogFinder:
    """Maxima of the negative Laplacian of Gaussian.

    Parameters
    ----------
    sigma_periods
        σ of the filter in units of the strongest period.
    distance_periods
        Least distance of two maxima in the same unit.
    threshold_std
        Least height of a maximum in standard deviations of the filtered image.
    """

    sigma_periods: float
    distance_periods: float
    threshold_std: float

    def __call__(self, image: NDArray[np.float32]) -> Found:
        """Positions to a fraction of a pixel (parabola through the neighbours) and the period as the spacing."""
        levelled = level_for_network(image)
        period = strongest_period_px(levelled)
        return Found(self.positions(levelled, period), period)

    def positions(self, levelled: NDArray[np.float32], period: float) -> NDArray[np.float64]:
        """Positions ``(N, 2)`` in a levelled image whose period in pixels is known."""
        filtered = -ndimage.gaussian_laplace(levelled.astype(np.float64), self.sigma_periods * period, mode="reflect")
        peaks = peak_local_max(  # type: ignore[no-untyped-call]
            filtered,
            min_distance=max(round(self.distance_periods * period), 1),
            threshold_abs=self.threshold_std * float(filtered.std()),
            exclude_border=False,
        )
        return _parabola(filtered, peaks)


def strongest_period_px(levelled: NDArray[np.float32]) -> float:
    """Period of the most prominent spot of the power spectrum, in pixels.

    Parameters
    ----------
    levelled
        ``(H, W)`` image without background.

    Notes
    -----
    Prominent is what stands out of its own ring (noise and texture fill a ring, a lattice makes spots on it). The weight and the
    factor were the best of a grid on simulated images: 61 % of the spacings within 25 %, against 26 % by the ring's mean power.
    """
    height, width = levelled.shape
    side = min(height, width)
    window = np.hanning(height)[:, None] * np.hanning(width)
    frequency = np.hypot(np.fft.fftfreq(height)[:, None], np.fft.rfftfreq(width))
    # What is left of the background falls with the frequency.
    power = np.abs(np.fft.rfft2(levelled * window)) ** 2 * frequency**1.5
    power = ndimage.gaussian_filter(power, 0.7)
    ring = np.rint(frequency * side).astype(int)
    rings = np.arange(4, int(side / 2.5))  # periods from 2.5 px to a quarter of the image
    prominence = np.asarray(ndimage.maximum(power, ring, rings)) - 8 * np.asarray(ndimage.median(power, ring, rings))
    return float(side / rings[int(np.argmax(prominence))])


def tuned_finder(spacing_px: tuple[float, float], *, side_px: int = 192, images: int = 1) -> Finder:
    """The finder with the best F1 (tolerance 0.25) over every family and noise level.

    Parameters
    ----------
    spacing_px
        Range of the spacings, as in the evaluation.
    side_px, images
        Size and number of the tuning images per family and noise level.
    """
    scenes = [
        simulate_columns(
            rng_for(EVALUATION_SEED, Split.VALIDATION, family_index * len(NOISE_LEVELS) + noise_index, index),
            shape=(side_px, side_px),
            families=[family],
            spacing_px=spacing_px,
            detectability=detectability,
        )
        for family_index, family in enumerate(FAMILIES)
        for noise_index, detectability in enumerate(NOISE_LEVELS.values())
        for index in range(images)
    ]
    levelled = [level_for_network(scene.image) for scene in scenes]
    looks = [(scene, image, strongest_period_px(image)) for scene, image in zip(scenes, levelled, strict=True)]
    finders = (LogFinder(*numbers) for numbers in itertools.product(_SIGMAS, _DISTANCES, _THRESHOLDS))
    return max(finders, key=lambda finder: _f1(finder, looks))


def _f1(finder: LogFinder, looks: Sequence[tuple[Scene, NDArray[np.float32], float]]) -> float:
    total = Counts()
    for scene, levelled, period in looks:
        found = finder.positions(levelled, period)
        total += count(found, scene.yx_px, scene.required, TOLERANCES[0] * scene.spacing_px)
    return total.f1


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

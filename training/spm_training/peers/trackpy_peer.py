"""Trackpy: the algorithm of Crocker and Grier (J. Colloid Interface Sci. 179, 298, 1996), band pass, maxima, centroids."""

from __future__ import annotations

import itertools
import warnings
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from spm_runtime.levelling import level_for_network
from spm_training.atoms.evaluate import Finder, Found
from spm_training.peers.optional import import_peer
from spm_training.peers.tuning import Look, Tuning, best_settings, levelled_and_spacing, mean_neighbour_px

__all__ = ["REMEDY", "TrackpyFinder", "default_trackpy_finder", "tuned_trackpy_finder"]

REMEDY = 'pip install "adatom[peers]"'

_DIAMETERS = (0.6, 0.85, 1.1)
_SEPARATIONS = (0.5, 0.7)
_NOISE_SIZES = (0.1, 0.18)
#: Low, because the mass decides; the library's 64 leaves out columns of dense images.
_PERCENTILES = (30.0,)
#: Least mass over the diameter squared, in standard deviations of the image.
_MASSES = (0.0, 0.05, 0.1, 0.15, 0.2, 0.3, 0.4, 0.5, 0.65)
#: The diameter of the library's own walk-through; there is no default.
_WALKTHROUGH_DIAMETER = 11


@dataclass(frozen=True)
class TrackpyFinder:
    """`trackpy.locate` with lengths in units of the spacing that the spectrum tells.

    Parameters
    ----------
    diameter_spacings
        Size of a feature; rounded to an odd number of pixels, 3 or more.
    separation_spacings
        Least distance of two features.
    noise_spacings
        Width of the smoothing Gaussian.
    percentile
        A feature's peak is brighter than this percentile of the pixels.
    mass_density
        Least mass (``minmass``) over the diameter squared. The levelled image has unit standard deviation: it holds at any
        contrast.
    """

    diameter_spacings: float
    separation_spacings: float
    noise_spacings: float
    percentile: float
    mass_density: float

    def __call__(self, image: NDArray[np.float32]) -> Found:
        """Positions and the spacing of the spectrum."""
        levelled, spacing = levelled_and_spacing(image)
        yx, mass = self.features(levelled, spacing)
        return Found(yx[mass >= self.mass_density], spacing)

    def features(
        self, levelled: NDArray[np.float32], spacing_px: float
    ) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """All positions ``(N, 2)`` and masses over the diameter squared, in a levelled image of known spacing."""
        diameter = max(3, 2 * int(self.diameter_spacings * spacing_px / 2) + 1)
        # The library leaves a margin out; mirrored columns fill it.
        margin = min(diameter + int(np.ceil(spacing_px)), min(levelled.shape) - 1)
        yx, mass = _locate(
            np.pad(levelled, margin, mode="reflect"),
            diameter,
            separation=max(self.separation_spacings * spacing_px, 2.0),
            noise_size=max(self.noise_spacings * spacing_px, 0.5),
            percentile=self.percentile,
        )
        yx = yx - margin
        inside = np.all((yx >= -0.5) & (yx < np.asarray(levelled.shape) - 0.5), axis=1)
        return yx[inside], mass[inside] / diameter**2


def tuned_trackpy_finder(tuning: Tuning) -> Finder:
    """The finder with the best F1 on the tuning scenes.

    Raises
    ------
    ParameterError
        If trackpy is not installed.
    """

    def propose(look: Look) -> Iterator[tuple[TrackpyFinder, NDArray[np.float64]]]:
        for lengths in itertools.product(_DIAMETERS, _SEPARATIONS, _NOISE_SIZES, _PERCENTILES):
            yx, mass = TrackpyFinder(*lengths, 0.0).features(look.levelled, look.spacing_px)
            for density in _MASSES:
                yield TrackpyFinder(*lengths, density), yx[mass >= density]

    return best_settings(tuning.looks, propose)


def default_trackpy_finder() -> Finder:
    """`trackpy.locate` with its defaults and the diameter of its walk-through (11), on the levelled image.

    Raises
    ------
    ParameterError
        If trackpy is not installed, at the first image.
    """

    def find(image: NDArray[np.float32]) -> Found:
        yx, _ = _locate(level_for_network(image), _WALKTHROUGH_DIAMETER)
        return Found(yx, mean_neighbour_px(yx))

    return find


def _locate(
    image: NDArray[np.float32], diameter: int, **options: float
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Positions and masses; none from an image that shows nothing."""
    trackpy = import_peer("trackpy", REMEDY)
    if not np.ptp(image) > 0:
        return np.empty((0, 2)), np.empty(0)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # what it uses of pandas
        warnings.filterwarnings("ignore", message="No maxima survived", category=UserWarning)
        warnings.filterwarnings("ignore", message="Image contains no local maxima", category=UserWarning)
        warnings.filterwarnings("ignore", message="All local maxima were in the margins", category=UserWarning)
        table = trackpy.locate(image.astype(np.float64), diameter, characterize=False, **options)
    if not len(table):
        return np.empty((0, 2)), np.empty(0)
    return table[["y", "x"]].to_numpy(np.float64), table["mass"].to_numpy(np.float64)

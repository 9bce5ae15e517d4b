"""Atomap (Nord et al., Adv. Struct. Chem. Imaging 3, 9, 2017): maxima at a least separation, centre of mass, 2-D Gaussians."""

from __future__ import annotations

import itertools
import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from spm_training.atoms.evaluate import Finder, Found
from spm_training.peers.optional import import_peer
from spm_training.peers.tuning import Look, Tuning, best_settings, levelled_and_spacing

__all__ = ["REMEDY", "AtomapFinder", "tuned_atomap_finder"]

REMEDY = 'pip install "adatom[peers]"'

_SEPARATIONS = (0.35, 0.5, 0.65)
_SMOOTHINGS = (0.1, 0.17, 0.25)
_THRESHOLDS = (0.02, 0.2, 0.35, 0.45, 0.55, 0.65)
#: Neighbours that the library looks at before it refines, itself among them: fewer columns are left where they are.
_NEIGHBOURS = 9
#: Radius of the centre of mass and of the Gaussian's mask over the distance to the nearest neighbour: the library's defaults.
_MASS_RADIUS, _GAUSSIAN_RADIUS = 0.25, 0.4


@dataclass(frozen=True)
class AtomapFinder:
    """`get_atom_positions`, then a `Sublattice` refined by centre of mass and by 2-D Gaussians.

    Parameters
    ----------
    separation_spacings
        Least separation in units of the spacing that the spectrum tells.
    smoothing_spacings
        σ of a Gaussian that smooths the image before the search, in the same unit: the library searches the pixels as they are,
        and fails in noise without it. The refinement sees the image without smoothing.
    threshold_rel
        Least height of a maximum, as a share of the brightest pixel above the darkest.
    """

    separation_spacings: float
    smoothing_spacings: float
    threshold_rel: float

    def __call__(self, image: NDArray[np.float32]) -> Found:
        """Refined positions and the spacing of the spectrum."""
        levelled, spacing = levelled_and_spacing(image)
        return Found(_refined(levelled, self.candidates(levelled, spacing)[0]), spacing)

    def candidates(
        self, levelled: NDArray[np.float32], spacing_px: float
    ) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Positions ``(N, 2)`` in whole pixels before the refinement, and their heights on the scale of the threshold."""
        atomap = import_peer("atomap.api", REMEDY)
        hyperspy = import_peer("hyperspy.api", REMEDY)
        separation = max(self.separation_spacings * spacing_px, 1.0)
        # The library leaves a border as wide as the separation out; mirrored columns fill it.
        margin = min(int(np.ceil(spacing_px)) + 1, min(levelled.shape) - 1)
        smooth = ndimage.gaussian_filter(levelled.astype(np.float64), self.smoothing_spacings * spacing_px)
        smooth = (smooth - smooth.min()) / max(float(np.ptp(smooth)), 1e-12)
        with _quiet():
            xy = atomap.get_atom_positions(
                hyperspy.signals.Signal2D(np.pad(smooth, margin, mode="reflect")),
                separation=separation,
                threshold_rel=self.threshold_rel,
            )
        yx = np.asarray(xy, dtype=np.int64).reshape(-1, 2)[:, ::-1] - margin
        yx = yx[np.all((yx >= 0) & (yx < levelled.shape), axis=1)]
        return yx.astype(np.float64), smooth[yx[:, 0], yx[:, 1]]


def tuned_atomap_finder(tuning: Tuning) -> Finder:
    """The finder with the best F1 on the tuning scenes, tuned before the refinement (which moves, but never adds a column).

    Raises
    ------
    ParameterError
        If Atomap is not installed.
    """

    def propose(look: Look) -> Iterator[tuple[AtomapFinder, NDArray[np.float64]]]:
        for lengths in itertools.product(_SEPARATIONS, _SMOOTHINGS):
            # A higher threshold takes the lowest maxima away and changes nothing else: the library keeps the brightest of two.
            yx, height = AtomapFinder(*lengths, _THRESHOLDS[0]).candidates(look.levelled, look.spacing_px)
            for threshold in _THRESHOLDS:
                yield AtomapFinder(*lengths, threshold), yx[height > threshold]

    return best_settings(tuning.looks, propose)


def _refined(levelled: NDArray[np.float32], yx: NDArray[np.float64]) -> NDArray[np.float64]:
    """Centre of mass, then a 2-D Gaussian free to rotate: the two steps of the library's own introduction."""
    if len(yx) < _NEIGHBOURS:
        return yx
    atomap = import_peer("atomap.api", REMEDY)
    with _quiet():
        sublattice = atomap.Sublattice(yx[:, ::-1], image=(levelled - levelled.min()).astype(np.float64))
        sublattice.find_nearest_neighbors(nearest_neighbors=_NEIGHBOURS)
        sublattice.refine_atom_positions_using_center_of_mass(percent_to_nn=_MASS_RADIUS, show_progressbar=False)
        sublattice.refine_atom_positions_using_2d_gaussian(percent_to_nn=_GAUSSIAN_RADIUS, show_progressbar=False)
    return np.stack([sublattice.y_position, sublattice.x_position], axis=1).astype(np.float64)


@contextmanager
def _quiet() -> Iterator[None]:
    """Silence what the dependencies deprecate, and fits that fail: the library puts the centre of mass in their place."""
    log = logging.getLogger("hyperspy")
    level = log.level
    log.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        log.setLevel(level)

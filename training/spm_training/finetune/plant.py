"""Truth for scans that have none: defects of the simulator, planted where a finder sees nothing.

What the finder is sure of counts as true as well, and what it doubts is left open: it may be found or not.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from spm_kernels import local_maxima
from spm_runtime.levelling import remove_background
from spm_runtime.pipelines.defect_mask import noise_std
from spm_runtime.pipelines.marks import Marks, find_marks
from spm_runtime.pipelines.surface import MAD_STD, SurfaceImage, finder_input
from spm_runtime.pipelines.turning import run_mirrored
from spm_runtime.session import Session
from spm_runtime.terraces import find_terraces
from spm_training.finetune.scans import View
from spm_training.simulate.surfaces import DEFECT_CLASSES, FAMILIES, REQUIRED_DETECTABILITY
from spm_training.simulate.surfaces.corrugation import Site
from spm_training.simulate.surfaces.defects import Defect, add_lobes, build_defect, extent

__all__ = ["DOUBTFUL", "SURE", "Ground", "Planted", "class_shares", "plant", "survey"]

#: From the first score on the finder may be right, from the second on it is taken at its word.
DOUBTFUL, SURE = 0.1, 0.6
#: Nothing is planted nearer to a step, or to what is missing.
FROM_STEP_NM = 1.5
#: A smaller radius is a single pixel to the eye, a larger share of the image a landscape; so much of the image may be covered.
SMALLEST_PX, LARGEST_SHARE, COVERAGE = 1.2, 0.3, 0.15
#: Range of the expected number of planted defects, log-uniform; the lowest in a view that is to have some; and one view in so
#: many has none.
EXPECTED, SOME, EMPTY = (2.0, 30.0), 8.0, 10
#: What is so many standard deviations higher or lower than its terrace, in the mean over a Gaussian of this σ, is no free place.
ODD_HEIGHT, ODD_OVER_NM = 4.0, 0.5
#: A planted defect stands out from the surface's own corrugation by this factor, as a matched filter would see it.
CONTRAST = 3.0
#: So many vacancies of ten are atoms of the scan that are taken away, where it shows any: a dip of so many times the height of
#: the atom above the mean, and of this σ in spacings. The others are as small as on the closest surfaces.
OWN, OWN_DEPTH, OWN_WIDTH, SMALL_NM = 8, (1.0, 2.0), (0.25, 0.4), 0.35
#: Range in which the spacing of the surface is looked for, what is taken where none shows, and how far its peak stands out.
SPACINGS_NM, SPACING_NM, SPACING_CONTRAST = (0.2, 0.9), 0.3, 30.0
#: Classes that any surface may have, with their shares; what the finder is sure of has as much to say from so many marks on.
ANY_SURFACE, ENOUGH_MARKS = FAMILIES["unnamed"].defects, 10
#: Under a planted defect of this height two thirds of the lattice are hidden, as in the simulator.
HIDING_NM = 0.05


@dataclass(frozen=True, eq=False)
class Ground:
    """A view, and what can be planted there.

    Parameters
    ----------
    view
        The view.
    marks
        What the finder sees with a score of `DOUBTFUL` or more.
    steps
        ``(H, W)`` bool: steps as the finder sees them.
    distance_px
        ``(H, W)`` float64 distance of every pixel from the next one where nothing may be planted.
    fine
        ``(H, W)`` float32 nm without background; 0 where missing.
    spacing_nm
        Distance of what the scan resolves.
    noise_nm
        Standard deviation of the noise.
    spread_nm
        Standard deviation of `fine`, by its median: noise and corrugation.
    atoms_px, relief_nm
        ``(N, 2)`` places of what looks like atoms, and ``(N,)`` how far each stands out.
    """

    view: View
    marks: Marks
    steps: NDArray[np.bool_]
    distance_px: NDArray[np.float64]
    fine: NDArray[np.float32]
    spacing_nm: float
    noise_nm: float
    spread_nm: float
    atoms_px: NDArray[np.int64]
    relief_nm: NDArray[np.float64]

    @property
    def sure(self) -> NDArray[np.bool_]:
        """``(N,)`` which marks are taken for true."""
        return np.asarray(self.marks.score >= SURE)


@dataclass(frozen=True, eq=False)
class Planted:
    """A view with planted defects.

    Parameters
    ----------
    surface
        The view's surface with the defects in it.
    yx_px, radius_px, kind
        ``(N, 2)``, ``(N,)`` and ``(N,)`` of the planted ones, on working pixels, and index into `DEFECT_CLASSES`.
    """

    surface: SurfaceImage
    yx_px: NDArray[np.float64]
    radius_px: NDArray[np.float64]
    kind: NDArray[np.int32]


def survey(view: View, finder: Session) -> Ground:
    """Find out where in a view nothing is.

    Parameters
    ----------
    view
        The view.
    finder
        The shipped finder.
    """
    surface, pixel = view.surface, view.pixel_size_nm
    found = run_mirrored(finder, finder_input(surface, finder.package.settings["channels"]))
    marks = find_marks(found["presence"], found["radius_px"], found["kind"], threshold=DOUBTFUL, valid=surface.valid)
    steps = (found["step"] > 0.5) & surface.valid
    there = np.where(surface.valid, surface.heights, np.float32(np.nan))
    edges = steps | find_terraces(there, pixel).steps | ~surface.valid
    distance = np.minimum(_distance(edges) - FROM_STEP_NM / pixel, _distance(_odd(view)))
    y, x = np.ogrid[: distance.shape[0], : distance.shape[1]]
    for centre, radius in zip(marks.yx_px, marks.radius_px, strict=True):
        distance = np.minimum(distance, np.hypot(y - centre[0], x - centre[1]) - radius)
    fine = np.nan_to_num(remove_background(there)).astype(np.float32)
    spacing = _spacing_nm(fine, pixel)
    atoms, relief = _atoms(fine, surface.valid, spacing / pixel)
    noise = max(noise_std(there), 1e-4)
    spread = max(MAD_STD * float(np.median(np.abs(fine[surface.valid]))), noise)
    return Ground(view, marks, steps, distance, fine, spacing, noise, spread, atoms, relief)


def class_shares(grounds: Sequence[Ground]) -> NDArray[np.float64]:
    """``(classes,)`` how often each class is planted: half as on any surface, half as the finder is sure to see them.

    Parameters
    ----------
    grounds
        All views that are learned from.
    """
    share = np.array([ANY_SURFACE.get(name, 0.0) for name in DEFECT_CLASSES])
    share /= share.sum()
    seen = np.zeros(len(DEFECT_CLASSES))
    for ground in grounds:
        kinds = ground.marks.chance[ground.sure].argmax(axis=1)
        seen += np.bincount(kinds, minlength=len(seen))
    return share if seen.sum() < ENOUGH_MARKS else 0.5 * share + 0.5 * seen / seen.sum()


def plant(rng: np.random.Generator, ground: Ground, shares: NDArray[np.float64], *, always: bool = False) -> Planted:
    """Plant defects into a view.

    Parameters
    ----------
    rng
        The only source of randomness.
    ground
        Where.
    shares
        ``(classes,)`` from `class_shares`.
    always
        Plant in any case; otherwise one view in `EMPTY` is left as it is.
    """
    surface, pixel = ground.view.surface, ground.view.pixel_size_nm
    shape = surface.heights.shape
    tall, flat = np.zeros(shape), np.zeros(shape)
    centres, radii, kinds = np.empty((0, 2)), np.empty(0), np.empty(0, np.int32)
    fewest, most = np.log(EXPECTED)
    count = int(rng.poisson(np.exp(rng.uniform(np.log(SOME) if always else fewest, most))))
    if not always and rng.integers(EMPTY) == 0:
        count = 0
    places = np.argwhere(ground.distance_px > SMALLEST_PX)
    for _ in range(4 * count):
        if len(radii) >= count or not len(places):
            break
        kind = int(rng.choice(len(shares), p=shares))
        centre = places[int(rng.integers(len(places)))] + rng.uniform(-0.5, 0.5, 2)
        defect, centre = _drawn(rng, ground, kind, centre)
        radius = defect.radius_nm / pixel
        room = ground.distance_px[tuple(np.clip(np.rint(centre).astype(int), 0, np.asarray(shape) - 1))]
        if not SMALLEST_PX <= radius <= min(LARGEST_SHARE * min(shape), float(room)):
            continue
        if len(radii) and float((np.hypot(*(centres - centre).T) - radii - radius).min()) < 1:
            continue
        if np.pi * float(radii @ radii + radius**2) > COVERAGE * np.prod(shape) and len(radii):
            continue
        if not _shows(defect, ground):
            continue
        add_lobes(tall if defect.tall else flat, centre, defect.lobes, pixel)
        centres, radii = np.concatenate([centres, centre[None]]), np.append(radii, radius)
        kinds = np.append(kinds, np.int32(kind))
    hidden = 1 - np.exp(-np.maximum(tall, 0) / HIDING_NM)
    added = np.where(surface.valid, tall + flat - ground.fine * hidden, 0.0)
    heights = (surface.heights + added).astype(np.float32)
    return Planted(dataclasses.replace(surface, heights=heights), centres, radii, kinds)


def _drawn(
    rng: np.random.Generator, ground: Ground, kind: int, centre: NDArray[np.float64]
) -> tuple[Defect, NDArray[np.float64]]:
    """A defect of a class, and its centre."""
    name = DEFECT_CLASSES[kind]
    if name == "vacancy" and len(ground.atoms_px) and rng.integers(10) < OWN:
        nearest = int(np.argmin(np.hypot(*(ground.atoms_px - centre).T)))
        width = float(rng.uniform(*OWN_WIDTH)) * ground.spacing_nm
        depth = -float(rng.uniform(*OWN_DEPTH) * ground.relief_nm[nearest])
        lobes = np.array([(0.0, 0.0, width, width, 0.0, depth, 1.0)])
        own = Defect(name, np.zeros(2), lobes, False, (0.0, 1.0), *extent(lobes))
        return own, ground.atoms_px[nearest].astype(np.float64)
    angle = float(rng.uniform(0, 2 * np.pi))
    bearings = angle + np.arange(6) * np.pi / 3
    neighbours = ground.spacing_nm * np.stack([np.sin(bearings), np.cos(bearings)], axis=1)
    surface = FAMILIES["unnamed"].build(rng, angle, 1.0)
    surface = dataclasses.replace(surface, spacing_nm=min(ground.spacing_nm, SMALL_NM))
    return build_defect(rng, name, surface, Site(np.zeros(2), angle, 0.0, neighbours)), centre


def _shows(defect: Defect, ground: Ground) -> bool:
    """Whether a defect can be told from the noise, as in the simulator, and from the corrugation.

    A corrugation of spread s is like noise whose values are alike over half a spacing: the squared height of the defect is
    compared with s² and that area.
    """
    root = float(np.sqrt(defect.energy))
    from_noise = root / (ground.noise_nm * ground.view.pixel_size_nm)
    from_corrugation = root / (ground.spread_nm * 0.5 * ground.spacing_nm)
    return from_noise >= REQUIRED_DETECTABILITY and from_corrugation >= CONTRAST


def _odd(view: View) -> NDArray[np.bool_]:
    """Pixels whose surroundings are unusually high or low for their terrace: the inside of a large adsorbate."""
    there = np.isfinite(view.levelled)
    smooth = ndimage.gaussian_filter(np.where(there, view.levelled, 0.0), ODD_OVER_NM / view.pixel_size_nm)
    away = np.abs(smooth - np.median(smooth[there]))
    return np.asarray(there & (away > ODD_HEIGHT * MAD_STD * np.median(away[there])))


def _distance(blocked: NDArray[np.bool_]) -> NDArray[np.float64]:
    if not blocked.any():
        return np.full(blocked.shape, np.inf)
    return np.asarray(ndimage.distance_transform_edt(~blocked), np.float64)


def _spacing_nm(fine: NDArray[np.float32], pixel: float) -> float:
    """Period of the strongest wave among those as long as atoms are apart; `SPACING_NM` where none stands out."""
    window = np.hanning(fine.shape[0] + 2)[1:-1, None] * np.hanning(fine.shape[1] + 2)[1:-1]
    power = np.abs(np.fft.rfft2(fine * window)) ** 2
    wave = np.hypot(np.fft.fftfreq(fine.shape[0])[:, None], np.fft.rfftfreq(fine.shape[1])) / pixel
    band = (wave > 1 / SPACINGS_NM[1]) & (wave < min(1 / SPACINGS_NM[0], 0.4 / pixel))
    if not band.any() or power[band].max() < SPACING_CONTRAST * np.median(power[band]):
        return SPACING_NM
    return float(1 / wave[band][np.argmax(power[band])])


def _atoms(
    fine: NDArray[np.float32], valid: NDArray[np.bool_], spacing_px: float
) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    """Maxima a spacing apart, and how far each stands out above its surroundings."""
    if spacing_px < 2.5:
        return np.empty((0, 2), np.int64), np.empty(0)
    smooth = ndimage.gaussian_filter(fine, 0.15 * spacing_px)
    window = 2 * max(round(0.35 * spacing_px), 1) + 1
    places = np.asarray(local_maxima(smooth, window_px=window, threshold=0.0, valid=valid), np.int64)
    around = ndimage.uniform_filter(smooth, 2 * round(spacing_px) + 1)
    relief = (smooth - around)[places[:, 0], places[:, 1]].astype(np.float64)
    stands_out = relief > 0
    return places[stands_out], relief[stands_out]

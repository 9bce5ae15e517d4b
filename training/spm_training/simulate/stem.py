"""Scenes of crystals in a scanning transmission electron microscope.

A column is the incoherent sum of the multislice responses of its single atoms (`spm_training.simulate.responses`), blurred by the
size of the electron source and the atoms' vibration. Agreement with a full multislice calculation is tested.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from spm_training.simulate.crystals import CRYSTALS, Crystal
from spm_training.simulate.disturb import add_noise, adsorbates, arbitrary_units, background, slow_drift, support
from spm_training.simulate.lattices import nearest_neighbour_distances
from spm_training.simulate.place import disorder, random_pose
from spm_training.simulate.responses import ELEMENTS, load_responses
from spm_training.simulate.scene import REQUIRED_HEIGHT, Columns, Scene, in_frame
from spm_training.simulate.splat import sum_tables

__all__ = ["simulate_crystal"]

#: Families without a lattice: their scale is the width of their atoms.
LONELY = ("isolated-atoms",)
#: σ of a column over the "spacing" of atoms that have no neighbours.
LONELY_WIDTH = 0.21
#: Share of the images of atoms without a lattice that lie on a rough support.
ROUGH_SUPPORT = 0.6
#: Columns broader than this share of their spacing cannot be told apart; the microscope is made sharper.
WIDEST = 0.31
#: Least σ of a column in pixels: the microscope is blurred to it where the pixels are coarse.
NARROWEST_PX = 0.6
#: An element up to sulphur beside one from titanium on is light: nobody asks for it (the thesis does not annotate S).
LIGHT_UP_TO, HEAVY_FROM = 16, 22
#: Atomic number by symbol, of the elements that the responses know.
ATOMIC_NUMBER = dict(zip(ELEMENTS, (
    5, 6, 7, 8, 9, 12, 13, 14, 15, 16, 20, 22, 23, 24, 25, 26, 27, 28, 29, 30, 31, 32, 33, 34, 38, 40, 41, 42, 44, 45, 46, 47,
    48, 49, 50, 51, 52, 53, 55, 56, 57, 60, 72, 73, 74, 75, 77, 78, 79, 82, 83,
), strict=True))  # fmt: skip
#: Radius in nm of the trial crystal from which the spacing is measured.
_TRIAL_NM = 2.0


@dataclass(frozen=True, eq=False)
class _Microscope:
    """What one microscope makes of the kinds of columns of a crystal.

    Parameters
    ----------
    tables
        ``(K, T, T)`` float32 shapes, that of a full-height column of peak 1.
    to_table
        ``(2, 2)`` steps of the table per pixel, the direction of the astigmatism included.
    full
        Index of the kind of peak 1.
    """

    tables: NDArray[np.float32]
    to_table: NDArray[np.float64]
    full: int

    @property
    def peaks(self) -> NDArray[np.float64]:
        """``(K,)`` peak height of every kind."""
        half = self.tables.shape[1] // 2
        return self.tables[:, half, half].astype(np.float64)

    def one(self, shift_yx: tuple[float, float] = (0.0, 0.0)) -> NDArray[np.float64]:
        """Image of one full-height column in the middle of a field that holds it."""
        reach = int(np.ceil(self.tables.shape[1] / 2 / np.sqrt(abs(np.linalg.det(self.to_table))))) + 1
        where = np.array([[reach + shift_yx[0], reach + shift_yx[1]]])
        kind = np.array([self.full], np.int32)
        return sum_tables(where, np.ones(1), kind, self.tables, self.to_table, (2 * reach + 1, 2 * reach + 1))


def simulate_crystal(
    rng: np.random.Generator, family: str, shape: tuple[int, int], spacing: float, d_prime: float
) -> Scene:
    """Draw a scene of a crystal.

    Parameters
    ----------
    rng
        The only source of randomness.
    family
        A name in `spm_training.simulate.crystals.CRYSTALS`.
    shape
        ``(H, W)`` in pixels.
    spacing
        Mean nearest-neighbour distance of the required columns in pixels.
    d_prime
        Detectability of a full-height column: one that the brightest tenth of the columns in the frame begins with.
    """
    seed, trial = _trial(rng, family)
    look = _draw_look(rng)
    tables, width_nm = look.tables(trial)
    spacing_nm = _spacing_nm(trial, tables)
    sharper = min(1.0, WIDEST * spacing_nm / width_nm)
    look, width_nm = replace(look, step_nm=look.step_nm * sharper), width_nm * sharper
    pixel_nm = (width_nm / LONELY_WIDTH if family in LONELY else spacing_nm) / spacing
    look, width_nm = look.sampled(width_nm, pixel_nm)
    radius_nm = (np.hypot(*shape) / 2 + 4 * spacing) * 1.06 * pixel_nm
    crystal = CRYSTALS[family](np.random.default_rng(seed), max(radius_nm, _TRIAL_NM))

    pose = random_pose(rng, shape, spacing)
    count = len(crystal.yx_nm)
    columns = Columns(pose(crystal.yx_nm / pixel_nm), np.ones(count), crystal.sublattice, crystal.kind)
    angle = rng.uniform(0, 2 * np.pi)
    turn = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    microscope = _normalised(look.tables(crystal)[0], turn * (pixel_nm / look.step_nm), crystal, columns, shape)
    columns = slow_drift(rng, columns, shape, spacing) if rng.random() < 0.4 else columns
    columns, _ = disorder(rng, columns, shape, spacing)
    image = sum_tables(columns.yx, columns.height, columns.kind, microscope.tables, microscope.to_table, shape)
    image += _film(rng, crystal, microscope, pose(crystal.amorphous / pixel_nm), shape)
    cover = adsorbates(rng, shape, spacing, tall=False)
    image += cover
    image += background(rng, shape, spacing)
    if family in LONELY and rng.random() < ROUGH_SUPPORT:
        image += support(rng, shape, spacing)
    alone = microscope.one()
    noise = float(np.sqrt((alone**2).sum()) / d_prime)
    image = add_noise(rng, image, noise, stm=False, spacing=spacing)

    columns = columns.shown(shape, spacing)
    height = columns.height * microscope.peaks[columns.kind]
    buried = ndimage.map_coordinates(cover, columns.yx.T, order=1, mode="nearest") > 0.25
    return Scene(
        image=arbitrary_units(rng, image),
        yx_px=columns.yx,
        required=(height >= REQUIRED_HEIGHT) & ~buried & ~_light(crystal)[columns.kind] & in_frame(columns.yx, shape),
        sublattice=columns.site,
        crb_px=_bound(microscope, noise) / np.maximum(height, 1e-3),
        spacing_px=spacing,
        width_px=width_nm / pixel_nm,
        detectability=d_prime,
        noise_px=noise,
        family=family,
        contrast="stem",
    )


def _trial(rng: np.random.Generator, family: str) -> tuple[int, Crystal]:
    """A seed and the small crystal that it makes; one with at least one column."""
    while True:
        seed = int(rng.integers(2**32))
        crystal = CRYSTALS[family](np.random.default_rng(seed), _TRIAL_NM)
        if len(crystal.yx_nm):
            return seed, crystal


@dataclass(frozen=True)
class _Look:
    """Optics out of the tables, the step in nm of the shapes, and the blur of source and vibration in steps."""

    optics: int
    step_nm: float
    blur_steps: float

    def tables(self, crystal: Crystal) -> tuple[NDArray[np.float32], float]:
        """Shapes ``(K, T, T)`` of the crystal's kinds, and the σ in nm of the brightest."""
        responses = load_responses()
        tables = np.stack([responses.kernel(self.optics, kind) for kind in crystal.kinds])
        margin = int(np.ceil(max(self.blur_steps - 6, 0) * 2))  # a strong blur needs room
        tables = np.pad(tables, ((0, 0), (margin, margin), (margin, margin)))
        blur = (0, self.blur_steps, self.blur_steps)
        tables = ndimage.gaussian_filter(tables, blur, mode="constant", truncate=3.0).astype(np.float32)
        return tables, _peak_width(tables[int(np.argmax(tables.max(axis=(1, 2))))]) * self.step_nm

    def sampled(self, width_nm: float, pixel_nm: float) -> tuple[_Look, float]:
        """The look blurred until pixels of this size can sample it, and its σ in nm: nobody records atoms between the pixels."""
        wanted = NARROWEST_PX * pixel_nm
        if width_nm >= wanted:
            return self, width_nm
        more = (wanted**2 - width_nm**2) / self.step_nm**2
        return replace(self, blur_steps=float(np.sqrt(self.blur_steps**2 + more))), wanted


def _draw_look(rng: np.random.Generator) -> _Look:
    responses = load_responses()
    step_nm = responses.step_nm * rng.uniform(0.85, 1.2)
    return _Look(int(rng.integers(len(responses.optics))), step_nm, rng.uniform(0.025, 0.055) / step_nm)


def _peak_width(table: NDArray[np.float32]) -> float:
    """σ in steps of the Gaussian with the curvature of the peak, the mean of both axes."""
    half = table.shape[0] // 2
    reach = 2
    top = float(table[half, half])
    sides = np.mean([table[half + dy, half + dx] for dy, dx in ((reach, 0), (-reach, 0), (0, reach), (0, -reach))])
    return float(reach / np.sqrt(2 * np.log(top / max(float(sides), 1e-9 * top))))


def _normalised(
    tables: NDArray[np.float32],
    to_table: NDArray[np.float64],
    crystal: Crystal,
    columns: Columns,
    shape: tuple[int, int],
) -> _Microscope:
    """Shapes in units of a full-height column: the brightest tenth of the heavy columns in the frame begins with it."""
    half = tables.shape[1] // 2
    peaks = tables[:, half, half]
    inside = np.all((columns.yx >= 0) & (columns.yx < np.asarray(shape)), axis=1)
    shown = columns.kind[inside & ~_light(crystal)[columns.kind]]
    full = int(np.argmax(peaks))
    if len(shown):
        order = shown[np.argsort(peaks[shown], kind="stable")]
        full = int(order[int(0.9 * (len(order) - 1))])
    return _Microscope(tables / peaks[full], to_table, full)


def _spacing_nm(crystal: Crystal, tables: NDArray[np.float32]) -> float:
    """Mean nearest-neighbour distance of the required columns in the middle of a crystal."""
    half = tables.shape[1] // 2
    peaks = tables[:, half, half]
    heavy = ~_light(crystal)[crystal.kind]
    full = np.quantile(peaks[crystal.kind[heavy]], 0.9)
    required = heavy & (peaks[crystal.kind] >= REQUIRED_HEIGHT * full)
    yx = crystal.yx_nm[required]
    distance = nearest_neighbour_distances(yx)
    inner = np.hypot(*yx.T) <= 0.75 * _TRIAL_NM
    chosen = distance[inner & np.isfinite(distance)] if inner.any() else distance[np.isfinite(distance)]
    return float(chosen.mean()) if len(chosen) else 0.25


def _light(crystal: Crystal) -> NDArray[np.bool_]:
    """``(K,)`` which kinds hold nothing but light elements beside heavy ones."""
    heaviest = np.array([max(ATOMIC_NUMBER[element] for element in kind) for kind in crystal.kinds])
    return np.asarray((heaviest <= LIGHT_UP_TO) & (heaviest.max() >= HEAVY_FROM))


def _film(
    rng: np.random.Generator,
    crystal: Crystal,
    microscope: _Microscope,
    yx: NDArray[np.float64],
    shape: tuple[int, int],
) -> NDArray[np.float64]:
    """The amorphous film under the crystal: single atoms whose positions are not asked for."""
    if not len(yx):
        return np.zeros(shape)
    full = crystal.kinds[microscope.full]
    share = ATOMIC_NUMBER[crystal.amorphous_element] ** 1.7 / sum(n * ATOMIC_NUMBER[e] ** 1.7 for e, n in full.items())
    kind = np.full(len(yx), microscope.full, np.int32)
    height = np.full(len(yx), share * rng.uniform(0.6, 1.2))
    return sum_tables(yx, height, kind, microscope.tables, microscope.to_table, shape)


def _bound(microscope: _Microscope, noise: float) -> float:
    """Cramér–Rao bound of the distance in pixels of one full-height column of known shape in white noise."""
    half = 0.05
    slopes = [
        (microscope.one(plus) - microscope.one(minus)).ravel() / (2 * half)
        for plus, minus in (((half, 0.0), (-half, 0.0)), ((0.0, half), (0.0, -half)))
    ]
    # Both coordinates are unknown: under astigmatism along a diagonal their errors go together.
    information = np.stack(slopes) @ np.stack(slopes).T / noise**2
    return float(np.sqrt(np.trace(np.linalg.inv(information))))

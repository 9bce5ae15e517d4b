"""The surfaces: lattice constants, step heights, corrugations, and how each is usually imaged."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import MappingProxyType

import numpy as np
from numpy.typing import NDArray

from spm_training.simulate.lattices import ARRANGEMENTS
from spm_training.simulate.surfaces.corrugation import (
    AtomPattern,
    Herringbone,
    Pattern,
    WavePattern,
    hexagonal_cell,
    reciprocal,
    square_cell,
)

__all__ = ["FAMILIES", "SILICON_NM", "Family", "Surface"]

#: Distance of neighbouring atoms in the surface of bulk-terminated silicon: a / √2 of 0.5431 nm.
SILICON_NM = 0.3840

#: Lattice constant and height of a layer, nm.
_TMD = {
    "MoS2": (0.316, 0.615),
    "WS2": (0.315, 0.616),
    "MoSe2": (0.329, 0.647),
    "WSe2": (0.328, 0.648),
    "NbSe2": (0.344, 0.627),
}


@dataclass(frozen=True, eq=False)
class Surface:
    """One crystal face with its orientation, as the simulator needs it.

    Parameters
    ----------
    name
        Material and reconstruction.
    pattern
        Its corrugation.
    step_nm
        Height of a monatomic step.
    spacing_nm
        Distance of neighbouring atoms, or of what the tip resolves.
    ripple_nm
        Wavelength of the standing waves around defects and along steps (half of the Fermi wavelength); 0 for none.
    """

    name: str
    pattern: Pattern
    step_nm: float
    spacing_nm: float
    ripple_nm: float = 0.0


@dataclass(frozen=True)
class Family:
    """A kind of surface.

    Parameters
    ----------
    build
        Function of a generator, an angle in radians and the extent of the image in nm.
    pixel_size_nm
        Range from which the pixel size is drawn, log-uniformly.
    defects
        Classes of defects that it has, with their shares.
    weight
        How often it is drawn.
    """

    build: Callable[[np.random.Generator, float, float], Surface]
    pixel_size_nm: tuple[float, float]
    defects: Mapping[str, float]
    weight: float


def _log_uniform(rng: np.random.Generator, low: float, high: float) -> float:
    return float(np.exp(rng.uniform(np.log(low), np.log(high))))


def _fill(cell: NDArray[np.float64], basis: NDArray[np.float64], extent: float) -> NDArray[np.float64]:
    """``(N, 2)`` atoms within 0.8 extents of the middle of the image; `basis` in nm. Atoms of a cell follow each other."""
    middle = np.full(2, 0.5 * extent)
    reach = int(np.ceil(0.8 * extent / np.abs(np.linalg.svd(cell, compute_uv=False)).min())) + 2
    steps = np.stack(np.meshgrid(*[np.arange(-reach, reach + 1)] * 2, indexing="ij"), axis=-1).reshape(-1, 2)
    origin = np.rint(middle @ np.linalg.inv(cell)) @ cell
    corners = steps @ cell + origin
    corners = corners[np.hypot(*(corners - middle).T) <= 0.8 * extent + 1.0]
    return np.asarray((corners[:, None] + basis[None]).reshape(-1, 2))


def _si001(rng: np.random.Generator, angle: float, extent: float) -> Surface:
    """Dimers 0.384 nm apart in rows 0.768 nm apart; rows turn by 90° from terrace to terrace.

    Each dimer shows its two hydrogen atoms, 0.35 nm apart, merged into a bar by most tips. Heights: rows of 20 to 60 pm, as
    published images of the hydrogen-terminated surface show them (Croshaw et al., Beilstein J. Nanotechnol. 11, 1346 (2020)).
    """
    sigma = rng.uniform(0.12, 0.19)
    height = _log_uniform(rng, 0.02, 0.05)
    split = rng.uniform(0.10, 0.18)
    atoms, sites, angles = [], [], []
    for turn in (0.0, np.pi / 2):
        row = angle + turn
        along, across = np.array([np.sin(row), np.cos(row)]), np.array([np.cos(row), -np.sin(row)])
        cell = np.stack([SILICON_NM * along, 2 * SILICON_NM * across])
        shift = rng.random(2) @ cell
        dimers = _fill(cell, np.zeros((1, 2)), extent) + shift
        sites.append(dimers)
        atoms.append((dimers[:, None] + split * np.stack([-across, across])[None]).reshape(-1, 2))
        angles.append(row)
    count = min(len(places) for places in atoms)
    atoms = [places[:count] for places in atoms]
    pattern = AtomPattern(
        atoms, np.full(count, height), [np.empty((0, 2))] * 2, 0.0, sigma, sites, angles, pitch_nm=2 * SILICON_NM
    )
    return Surface("Si(001)-2x1:H", pattern, 0.1358, SILICON_NM)


def _si111(rng: np.random.Generator, angle: float, extent: float) -> Surface:
    """Twelve adatoms and a corner hole in a cell of 2.688 nm (Takayanagi et al., J. Vac. Sci. Technol. A 3, 1502 (1985))."""
    unit = np.sqrt(3.0) * SILICON_NM  # the arrangement counts in nearest distances of adatoms
    sites = ARRANGEMENTS["si111-7x7"](rng, 0.8 * extent / unit + 8)
    turn = np.array([[np.sin(angle), np.cos(angle)], [np.cos(angle), -np.sin(angle)]])  # a1, along y there, to `angle`
    height = _log_uniform(rng, 0.05, 0.22)
    sigma = rng.uniform(0.16, 0.25)
    atoms, holes = [], []
    for _ in range(3):  # domains of neighbouring terraces are not in register
        shift = np.full(2, 0.5 * extent) + rng.uniform(-1.4, 1.4, 2)
        atoms.append(sites.yx @ turn * unit + shift)
        holes.append(sites.holes @ turn * unit + shift)
    # Real corner holes are the darkest places by far: as deep as an adatom is high, and wider.
    pattern = AtomPattern(
        atoms, height * sites.height, holes, height * rng.uniform(0.1, 1.3), sigma,
        atoms, [angle] * 3, pitch_nm=unit, hole_sigma_nm=sigma * rng.uniform(1.0, 2.0),
    )  # fmt: skip
    return Surface("Si(111)-7x7", pattern, 0.3135, unit)


def _hexagonal(
    rng: np.random.Generator,
    angle: float,
    constant: float,
    height: float,
    *,
    phase: float = 0.0,
    stacking: int = 1,
    superlattice: WavePattern | None = None,
    ridges: Herringbone | None = None,
) -> WavePattern:
    cell = hexagonal_cell(constant, angle)
    first, second = reciprocal(cell)
    waves = np.stack([first, second, -first - second])
    origin = rng.random(2) @ cell
    shifts = origin + np.arange(stacking)[:, None] * ((cell[0] + cell[1]) / 3)[None]
    return WavePattern(
        cell=cell, waves=waves, phases=np.full(3, phase), height_nm=height,
        sharpness=float(rng.uniform(0.7, 1.3)), shifts_nm=shifts, superlattice=superlattice,
        modulation=float(rng.uniform(0, 0.6)) if superlattice is not None else 0.0, ridges=ridges,
    )  # fmt: skip


def _metal111(name: str, constant: float, step: float, ripple: float) -> Callable[..., Surface]:
    """A close-packed metal: corrugation of 2 to 30 pm at small distances, stacking ABC from terrace to terrace."""

    def build(rng: np.random.Generator, angle: float, extent: float) -> Surface:
        ridges = None
        if name == "Au(111)" and rng.random() < 0.75:
            bend = rng.uniform(9, 18) if rng.random() < 0.7 else 0.0
            ridges = Herringbone(
                angle + rng.integers(3) * np.pi / 3 + np.pi / 6, rng.uniform(0, 6.3), bend, rng.uniform(0.010, 0.022)
            )
        pattern = _hexagonal(rng, angle, constant, _log_uniform(rng, 0.002, 0.03), stacking=3, ridges=ridges)
        return Surface(name, pattern, step, constant, ripple)

    return build


def _graphite(rng: np.random.Generator, angle: float, extent: float) -> Surface:
    """One sublattice of the honeycomb (that over no atom of the next layer) dominates: triangles of 0.246 nm."""
    phase = rng.uniform(0.15, 0.8) * np.pi / 3 * rng.choice([-1, 1])
    pattern = _hexagonal(rng, angle, 0.2461, _log_uniform(rng, 0.015, 0.15), phase=float(phase), stacking=2)
    return Surface("graphite", pattern, 0.3354, 0.2461)


def _tmd(rng: np.random.Generator, angle: float, extent: float) -> Surface:
    name = str(rng.choice(list(_TMD)))
    constant, step = _TMD[name]
    moire = None
    if rng.random() < 0.75:  # against a substrate of another constant, turned by some degrees
        beat = 0.0
        while not 0.9 <= beat <= 14.0:  # the substrate and the turn that give a moiré one can see
            other = float(rng.choice([0.2461, 0.2884, 0.250, *[pair[0] for pair in _TMD.values()]]))
            own = reciprocal(hexagonal_cell(constant, angle))
            cell = hexagonal_cell(other, angle + rng.uniform(-0.35, 0.35))
            difference = own - reciprocal(cell)
            beat = float(2 * np.pi / np.hypot(*difference[0]))
        moire = WavePattern(
            cell=reciprocal(difference), waves=np.stack([*difference, -difference.sum(axis=0)]),
            phases=np.full(3, rng.choice([0.0, np.pi, rng.uniform(0, 1.0)])), height_nm=_log_uniform(rng, 0.01, 0.1),
            sharpness=float(rng.uniform(0.5, 2.5)), shifts_nm=rng.uniform(0, 5, (1, 2)),
        )  # fmt: skip
    phase = float(rng.uniform(0.0, 0.6))
    pattern = _hexagonal(rng, angle, constant, _log_uniform(rng, 0.01, 0.08), phase=phase, superlattice=moire)
    return Surface(name + (" with moiré" if moire else ""), pattern, step, constant)


def _square(
    name: str, constant: float, step: float, heights: tuple[float, float], ripple: float
) -> Callable[..., Surface]:
    def build(rng: np.random.Generator, angle: float, extent: float) -> Surface:
        cell = square_cell(constant, angle)
        origin = rng.random(2) @ cell
        shifts = origin + np.stack([np.zeros(2), 0.5 * cell.sum(axis=0)])
        pattern = WavePattern(
            cell, reciprocal(cell), np.zeros(2), _log_uniform(rng, *heights), float(rng.uniform(0.7, 1.3)), shifts
        )
        return Surface(name, pattern, step, constant, ripple)

    return build


def _unnamed(rng: np.random.Generator, angle: float, extent: float) -> Surface:
    """A random oblique cell, often under a random longer one: reconstructions, films and pore networks not in this list."""
    constant = _log_uniform(rng, 0.22, 0.6)

    def lattice(length: float, height: float, sharp: tuple[float, float]) -> WavePattern:
        second = angle + (np.pi / 3 if rng.random() < 0.4 else rng.uniform(1.05, 1.75))
        lengths = length * np.array([1.0, rng.uniform(1.0, 1.7)])
        if second == angle + np.pi / 3:
            lengths[1] = length
        both = np.array([angle, second])
        cell = lengths[:, None] * np.stack([np.sin(both), np.cos(both)], axis=1)
        b1, b2 = reciprocal(cell)
        count = int(rng.integers(2, 6))
        waves = np.stack([b1, b2, -b1 - b2, b1 - b2, 2 * b1])[:count]
        phases = rng.uniform(0, 2 * np.pi, count) if rng.random() < 0.6 else np.full(count, np.pi)
        return WavePattern(cell, waves, phases, height, float(rng.uniform(*sharp)), rng.random((2, 2)) @ cell)

    longer = None
    if rng.random() < 0.6:
        length = constant * rng.uniform(3, 9)
        longer = lattice(length, _log_uniform(rng, 0.02, 0.25), (0.4, 2.5))
    fine = lattice(constant, _log_uniform(rng, 0.003, 0.08), (0.6, 1.8))
    pattern = WavePattern(
        fine.cell, fine.waves, fine.phases, fine.height_nm, fine.sharpness, fine.shifts_nm, longer, rng.uniform(0, 0.5)
    )
    return Surface("unnamed", pattern, float(rng.uniform(0.13, 0.4)), constant)


_METAL = {"vacancy": 1.0, "adatom": 1.0, "molecule": 1.0, "cluster": 0.5, "dopant-bright": 0.4, "dopant-dark": 0.7}
_LAYERED = {"vacancy": 1.5, "adatom": 0.7, "molecule": 0.6, "cluster": 0.4, "dopant-bright": 0.8, "dopant-dark": 0.8}
_SI001 = {
    "dimer-vacancy": 1.5, "dangling-bond": 1.5, "dangling-bond-pair": 1.2, "dopant-bright": 1.0,
    "dopant-dark": 1.0, "adatom": 0.5, "molecule": 0.5, "cluster": 0.4,
}  # fmt: skip
_SI111 = {"vacancy": 4.0, "adatom": 0.8, "molecule": 0.6, "cluster": 0.5, "dopant-bright": 0.3, "dopant-dark": 0.4}

#: Every family by name. Lattice constants and step heights at room temperature from the bulk crystals; half Fermi wavelengths of
#: the surface states of Cu, Ag and Au(111): 1.5, 3.8 and 1.8 nm.
FAMILIES: Mapping[str, Family] = MappingProxyType(
    {
        "si001-2x1-h": Family(_si001, (0.03, 0.20), _SI001, 3.5),
        "si111-7x7": Family(_si111, (0.04, 0.25), _SI111, 2.0),
        "au111": Family(_metal111("Au(111)", 0.2884, 0.2355, 1.8), (0.025, 0.35), _METAL, 1.2),
        "cu111": Family(_metal111("Cu(111)", 0.2556, 0.2087, 1.5), (0.02, 0.3), _METAL, 0.8),
        "ag111": Family(_metal111("Ag(111)", 0.2889, 0.2359, 3.8), (0.02, 0.3), _METAL, 0.6),
        "graphite": Family(_graphite, (0.010, 0.12), _LAYERED, 1.2),
        "tmd": Family(_tmd, (0.015, 0.16), _LAYERED, 1.4),
        "cu100": Family(_square("Cu(100)", 0.2556, 0.1807, (0.003, 0.03), 0.0), (0.02, 0.2), _METAL, 0.5),
        "fe001": Family(_square("Fe(001)", 0.2866, 0.1433, (0.003, 0.03), 0.0), (0.02, 0.2), _METAL, 0.5),
        "nacl": Family(_square("NaCl(001)", 0.3988, 0.2820, (0.01, 0.04), 0.0), (0.03, 0.2), _METAL, 0.5),
        "unnamed": Family(_unnamed, (0.02, 0.2), _METAL, 1.2),
    }
)

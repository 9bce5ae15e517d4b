"""Point defects: how large, how high, of what shape. Every one is a sum of lobes.

Sizes and heights are ranges of apparent ones at constant current, as published images of many groups show them; they depend
on the bias, so the ranges are wide.

| class | apparent height, nm | full width, nm | sources |
|---|---|---|---|
| vacancy | −0.015 to −0.12, on 7×7 to −0.35; on graphite 0.08 to 0.25 | 0.2 to 0.9 | 1, 2 |
| dimer-vacancy | −0.04 to −0.14 | 0.5 across, 0.4 to 1.2 along the row | 3 |
| adatom | 0.03 to 0.15 | 0.35 to 0.8 | |
| dangling-bond, also in pairs | 0.05 to 0.2, with a dark halo where charged | 0.5 to 0.9 per lobe | 3, 4 |
| dopant-bright, dopant-dark | ±0.006 to ±0.04 | 1.2 to 4 | 5 |
| molecule | 0.06 to 0.35 | 0.5 to 1.6 | |
| cluster | 0.12 to 1.2; molecules side by side 0.08 to 0.3 | 1 to 6 | |

Sources: 1 chalcogen vacancies: Barja et al., Nat. Commun. 10, 3382 (2019). 2 graphite, bright and with a √3 pattern: Ugeda et
al., Phys. Rev. Lett. 104, 096804 (2010). 3 Croshaw et al., Beilstein J. Nanotechnol. 11, 1346 (2020). 4 Livadaru et al., New J.
Phys. 12, 083018 (2010). 5 As below Si(001):H: Sinthiptharakoon et al., J. Phys. Condens. Matter 26, 012001 (2014).
On 7×7 a vacancy is one to four missing adatoms, 0.7 to 1.7 times as deep as they are high.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import MappingProxyType

import numpy as np
from numpy.typing import NDArray

from spm_kernels._jit import kernel
from spm_training.simulate.surfaces.corrugation import Site
from spm_training.simulate.surfaces.materials import SILICON_NM, Surface

__all__ = ["ENERGY_SHARE", "Defect", "Lobe", "add_lobes", "build_defect", "extent"]

#: Share of the squared height that counts as the extent of a defect.
ENERGY_SHARE = 0.95

#: Lobes lower than this share of the highest are halos and rims.
MAIN_SHARE = 0.3

#: The grid on which extents are measured: its half side, and for every point the ring of a quarter of a pixel it lies in.
GRID_HALF = 24
GRID_RING = np.asarray(
    4 * np.hypot(*np.mgrid[-GRID_HALF : GRID_HALF + 1, -GRID_HALF : GRID_HALF + 1]), dtype=np.int64
).ravel()

#: One lobe: offset y, x and widths along its own two axes in nm, direction of the first axis in radians, height in nm, power p of
#: ``exp(−(r² / 2)^p)``: 1 is a Gaussian, above 1 a flat top.
Lobe = tuple[float, float, float, float, float, float, float]


@dataclass(frozen=True, eq=False)
class Defect:
    """A defect on the sample.

    Parameters
    ----------
    kind
        Its class.
    yx_nm
        ``(2,)`` centre.
    lobes
        ``(K, 7)`` `Lobe` rows around the centre.
    tall
        It stands on the surface: the shape of the tip broadens it and the lattice does not show through.
    ripple
        ``(amplitude_nm, decay_nm)`` of the standing wave or the √3 pattern around it.
    radius_nm
        Radius of the circle that holds `ENERGY_SHARE` of its squared height, without ripple, halo and rim.
    energy
        Integral of its squared height over the surface, in nm² of height and nm² of area, without ripple, halo and rim.
    """

    kind: str
    yx_nm: NDArray[np.float64]
    lobes: NDArray[np.float64]
    tall: bool
    ripple: tuple[float, float]
    radius_nm: float
    energy: float


def build_defect(rng: np.random.Generator, kind: str, surface: Surface, site: Site) -> Defect:
    """Draw a defect of a class at a site.

    Parameters
    ----------
    rng
        Source of randomness.
    kind
        One of `DEFECT_CLASSES`.
    surface
        The surface.
    site
        Where the lattice puts it.
    """
    lobes = np.array(BUILDERS[kind](rng, surface, site), dtype=np.float64)
    # The truth is the middle and the extent of what shows: a halo or a rim does not count.
    main = np.abs(lobes[:, 5]) >= MAIN_SHARE * np.abs(lobes[:, 5]).max()
    weight = np.abs(lobes[main, 5]) * lobes[main, 2] * lobes[main, 3]
    centre = weight @ lobes[main, :2] / weight.sum()
    lobes[:, :2] -= centre
    ripple = (0.0, 1.0)
    if surface.ripple_nm and kind not in ("dopant-bright",) and rng.random() < 0.7:
        ripple = (
            float(np.exp(rng.uniform(np.log(0.001), np.log(0.006)))),
            float(rng.uniform(0.7, 2.0)) * surface.ripple_nm,
        )
    elif surface.name == "graphite" and kind == "vacancy":
        ripple = (float(rng.uniform(0.2, 0.5)) * float(lobes[0, 5]), float(rng.uniform(0.6, 1.5)))
    tall = kind in ("molecule", "cluster") and float(lobes[0, 5]) > 0
    return Defect(kind, site.yx_nm + centre, lobes, tall, ripple, *extent(lobes[main]))


def _uniform(rng: np.random.Generator, low: float, high: float) -> float:
    return float(rng.uniform(low, high))


def _log_uniform(rng: np.random.Generator, low: float, high: float) -> float:
    return float(np.exp(rng.uniform(np.log(low), np.log(high))))


def _axes(site: Site) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Unit vectors along and across the lattice direction, ``(y, x)``."""
    along = np.array([np.sin(site.angle), np.cos(site.angle)])
    return along, np.array([along[1], -along[0]])


def _vacancy(rng: np.random.Generator, surface: Surface, site: Site) -> list[Lobe]:
    if surface.name == "Si(111)-7x7":  # the adatom is gone, or reacted and dim; often one or two of its neighbours too
        width = _uniform(rng, 0.19, 0.25)
        height = -site.height_nm * _uniform(rng, 0.7, 1.7)
        lobes: list[Lobe] = [(0.0, 0.0, width, width, 0.0, height, 1.0)]
        more = int(rng.choice([0, 1, 2, 3], p=[0.6, 0.22, 0.13, 0.05]))
        for place in rng.permutation(site.neighbours_nm)[:more]:
            lobes.append((*place, width, width, 0.0, height * _uniform(rng, 0.8, 1.0), 1.0))
        return lobes
    width = max(_uniform(rng, 0.35, 0.8) * surface.spacing_nm, 0.09)
    if surface.name == "graphite":
        return [(0.0, 0.0, width, width, 0.0, _log_uniform(rng, 0.08, 0.25), 1.0)]
    lobes = [(0.0, 0.0, width, width, 0.0, -_log_uniform(rng, 0.015, 0.12), 1.0)]
    if rng.random() < 0.3:  # relaxed or charged surroundings: a bright rim
        rim = _uniform(rng, 1.8, 2.6) * width
        lobes.append((0.0, 0.0, rim, rim, 0.0, -lobes[0][5] * _uniform(rng, 0.1, 0.3), 1.0))
    return lobes


def _dimer_vacancy(rng: np.random.Generator, surface: Surface, site: Site) -> list[Lobe]:
    count = int(rng.choice([1, 2, 3], p=[0.6, 0.28, 0.12]))
    along = SILICON_NM * (0.30 + 0.42 * (count - 1))
    flat = 1.0 if count == 1 else 1.6
    offset = _axes(site)[0] * 0.5 * SILICON_NM * (count - 1)
    return [(*offset, along, _uniform(rng, 0.20, 0.28), site.angle, -_log_uniform(rng, 0.04, 0.14), flat)]


def _adatom(rng: np.random.Generator, surface: Surface, site: Site) -> list[Lobe]:
    width = _uniform(rng, 0.15, 0.33)
    offset = site.neighbours_nm[0] * rng.choice([0.0, 0.5]) if rng.random() < 0.5 else np.zeros(2)
    return [(*offset, width, width * _uniform(rng, 0.85, 1.15), 0.0, _log_uniform(rng, 0.03, 0.15), 1.0)]


def _bond(rng: np.random.Generator, offset: NDArray[np.float64], height: float) -> Lobe:
    width = _uniform(rng, 0.21, 0.33)
    return (float(offset[0]), float(offset[1]), width, width * _uniform(rng, 0.85, 1.15), 0.0, height, 1.0)


def _charge(rng: np.random.Generator, middle: NDArray[np.float64], height: float) -> list[Lobe]:
    """The dark halo of a negative charge, in four cases of ten."""
    if rng.random() > 0.4:
        return []
    width = _uniform(rng, 0.6, 1.2)
    return [(float(middle[0]), float(middle[1]), width, width, 0.0, -height * _uniform(rng, 0.06, 0.2), 1.0)]


def _dangling_bond(rng: np.random.Generator, surface: Surface, site: Site) -> list[Lobe]:
    offset = _axes(site)[1] * 0.19 * rng.choice([-1.0, 1.0])  # on one atom of the dimer
    height = _log_uniform(rng, 0.05, 0.2)
    return [_bond(rng, offset, height), *_charge(rng, offset, height)]


def _dangling_bond_pair(rng: np.random.Generator, surface: Surface, site: Site) -> list[Lobe]:
    along, across = _axes(site)
    height = _log_uniform(rng, 0.05, 0.2)
    if rng.random() < 0.5:  # both atoms of a dimer
        first, second = -0.26 * across, 0.26 * across
    else:  # the same side of two dimers of a row, or the facing sides of two rows
        first = 0.19 * across
        second = first + (
            along * SILICON_NM * rng.choice([1, 2]) if rng.random() < 0.6 else across * (2 * SILICON_NM - 0.38)
        )
    lobes = [_bond(rng, first, height), _bond(rng, second, height * _uniform(rng, 0.85, 1.0))]
    return lobes + _charge(rng, 0.5 * (first + second), height)


def _dopant(sign: float) -> Callable[[np.random.Generator, Surface, Site], list[Lobe]]:
    def build(rng: np.random.Generator, surface: Surface, site: Site) -> list[Lobe]:
        width = _log_uniform(rng, 0.5, 1.7)
        height = sign * _log_uniform(rng, 0.006, 0.04)
        return [(0.0, 0.0, width, width * _uniform(rng, 0.8, 1.25), _uniform(rng, 0, np.pi), height, 1.0)]

    return build


def _dark_molecule(rng: np.random.Generator) -> list[Lobe]:
    """What lowers the density of states where it sits, as CO on copper: a wide dip, often with a bright rim and a bump."""
    depth, width = -_log_uniform(rng, 0.012, 0.09), _uniform(rng, 0.22, 0.45)
    lobes: list[Lobe] = [(0.0, 0.0, width, width, 0.0, depth, 1.0)]
    if rng.random() < 0.6:
        rim = width * _uniform(rng, 1.5, 2.4)
        lobes.append((0.0, 0.0, rim, rim, 0.0, -depth * _uniform(rng, 0.1, 0.35), 1.0))
    if rng.random() < 0.25:
        lobes.append((0.0, 0.0, 0.4 * width, 0.4 * width, 0.0, -depth * _uniform(rng, 0.2, 0.6), 1.0))
    return lobes


def _molecule(rng: np.random.Generator, surface: Surface, site: Site) -> list[Lobe]:
    if surface.ripple_nm and rng.random() < 0.3:
        return _dark_molecule(rng)
    count = int(rng.choice([1, 2, 3, 4, 6]))
    height = _log_uniform(rng, 0.06, 0.35)
    width = _uniform(rng, 0.17, 0.32)
    if count == 1:  # a ball
        size = _uniform(rng, 0.25, 0.5)
        return [(0.0, 0.0, size, size, 0.0, height, 1.4)]
    ring = width * (1.0 if count == 2 else 1.3) * _uniform(rng, 1.0, 1.5)
    start = site.angle + _uniform(rng, 0, np.pi)
    angles = start + 2 * np.pi * np.arange(count) / count
    lobes: list[Lobe] = [
        (ring * float(np.sin(a)), ring * float(np.cos(a)), width, width, 0.0, height * _uniform(rng, 0.75, 1.0), 1.0)
        for a in angles
    ]
    if count > 2 and rng.random() < 0.5:
        lobes.append((0.0, 0.0, width, width, 0.0, height * _uniform(rng, -0.3, 0.8), 1.0))
    return lobes


def _cluster(rng: np.random.Generator, surface: Surface, site: Site) -> list[Lobe]:
    if rng.random() < 0.35:
        return _flock(rng, site)
    size = _log_uniform(rng, 0.35, 2.2)
    height = min(_log_uniform(rng, 0.12, 1.2), 1.2 * size)
    round_, turn = _uniform(rng, 0.7, 1.3), _uniform(rng, 0, np.pi)
    lobes: list[Lobe] = [(0.0, 0.0, size, size * round_, turn, height * 0.75, _uniform(rng, 1.0, 2.5))]
    for _ in range(int(rng.integers(2, 9))):
        reach, bearing = size * 1.1 * np.sqrt(rng.random()), rng.uniform(0, 2 * np.pi)
        width = _uniform(rng, 0.2, 0.45) * max(size, 0.5)
        rise = height * _uniform(rng, 0.1, 0.4)
        lobes.append((reach * np.sin(bearing), reach * np.cos(bearing), width, width, 0.0, rise, 1.0))
    return lobes


def _flock(rng: np.random.Generator, site: Site) -> list[Lobe]:
    """Molecules side by side, of nearly the same height."""
    size, pitch = _log_uniform(rng, 0.7, 2.5), _uniform(rng, 0.55, 0.95)
    count = int(np.ceil(size / pitch)) + 1
    steps = np.stack(np.meshgrid(*[np.arange(-count, count + 1)] * 2), axis=-1).reshape(-1, 2)
    places = (
        pitch * (steps @ np.array([[0.0, 1.0], [np.sqrt(0.75), 0.5]])) + rng.normal(size=(len(steps), 2)) * 0.15 * pitch
    )
    places = places[(np.hypot(*places.T) < size) & (rng.random(len(places)) < 0.85)]
    if len(places) < 2:
        places = pitch * np.array([[0.0, -0.5], [0.0, 0.5]])
    height, width = _log_uniform(rng, 0.08, 0.3), 0.38 * pitch
    return [(float(y), float(x), width, width, 0.0, height * _uniform(rng, 0.7, 1.2), 1.0) for y, x in places]


BUILDERS: Mapping[str, Callable[[np.random.Generator, Surface, Site], list[Lobe]]] = MappingProxyType(
    {
        "vacancy": _vacancy,
        "dimer-vacancy": _dimer_vacancy,
        "adatom": _adatom,
        "dangling-bond": _dangling_bond,
        "dangling-bond-pair": _dangling_bond_pair,
        "dopant-bright": _dopant(1.0),
        "dopant-dark": _dopant(-1.0),
        "molecule": _molecule,
        "cluster": _cluster,
    }
)


def add_lobes(
    out: NDArray[np.float64], yx_px: NDArray[np.float64], lobes: NDArray[np.float64], pixel_size_nm: float
) -> None:
    """Add the lobes of one defect to ``(H, W)`` heights in nm, in place.

    Parameters
    ----------
    out
        Heights.
    yx_px
        ``(2,)`` centre in pixels.
    lobes
        ``(K, 7)`` rows.
    pixel_size_nm
        Side of a pixel.
    """
    _add_lobes(out, float(yx_px[0]), float(yx_px[1]), np.ascontiguousarray(lobes, np.float64), float(pixel_size_nm))


def extent(lobes: NDArray[np.float64]) -> tuple[float, float]:
    """Radius in nm and energy of a sum of lobes.

    Parameters
    ----------
    lobes
        ``(K, 7)`` rows.

    Returns
    -------
    The radius of the circle around the origin that holds `ENERGY_SHARE` of the integral of the squared height (of a Gaussian
    1.73 σ), and that integral in nm⁴.
    """
    reach = float(np.max(np.hypot(lobes[:, 0], lobes[:, 1]) + 3.0 * np.maximum(lobes[:, 2], lobes[:, 3])))
    side = 2 * GRID_HALF + 1
    grid = np.zeros((side, side))
    pixel = reach / GRID_HALF
    _add_lobes(grid, float(GRID_HALF), float(GRID_HALF), np.ascontiguousarray(lobes), pixel)
    energy = np.bincount(GRID_RING, np.square(grid).ravel())
    total = np.cumsum(energy)
    radius = float(np.interp(ENERGY_SHARE * total[-1], total, (np.arange(len(total)) + 0.5) / 4 * pixel))
    return radius, float(total[-1]) * pixel**2


@kernel()
def _add_lobes(out: NDArray[np.float64], y0: float, x0: float, lobes: NDArray[np.float64], pixel: float) -> None:
    rows, columns = out.shape
    for k in range(len(lobes)):
        along, across, power = lobes[k, 2], lobes[k, 3], lobes[k, 6]
        cos, sin = np.cos(lobes[k, 4]), np.sin(lobes[k, 4])
        cy, cx = y0 + lobes[k, 0] / pixel, x0 + lobes[k, 1] / pixel
        reach = 4.5 * max(along, across) / pixel
        top, bottom = max(int(np.ceil(cy - reach)), 0), min(int(np.floor(cy + reach)) + 1, rows)
        left, right = max(int(np.ceil(cx - reach)), 0), min(int(np.floor(cx + reach)) + 1, columns)
        for y in range(top, bottom):
            dy = (y - cy) * pixel
            for x in range(left, right):
                dx = (x - cx) * pixel
                u = (cos * dx + sin * dy) / along
                v = (cos * dy - sin * dx) / across
                half = 0.5 * (u * u + v * v)
                if half < 10.0:
                    out[y, x] += lobes[k, 5] * np.exp(-(half if power == 1.0 else half**power))

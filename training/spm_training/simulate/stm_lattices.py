"""Scanning tunnelling images of five lattices, cut by a tilted plane: the simulator of the USC study, with its truth.

Source: USC report, sections 3.2 to 3.4 and Table 1. A lattice is cut by the plane ``z = tan α (x cos θ + y sin θ)``; of every
column of atoms the highest one that is not above the plane is seen, the nearer to the plane the brighter. So a small tilt
gives terraces, a large one rows. The report leaves open, and this module chooses:

- Positions on the picture are distances *in the plane* (its axes are uphill and level), turned by φ·π: nothing is foreshortened.
- The plane's height and the lattice's place are drawn too, so that no step and no atom has a fixed place in the picture.
- An atom is a Gaussian with σ a quarter of the distance of nearest neighbours; brightness falls by 0.7 per lattice unit of
  distance from the plane. Brightness 1, an atom in the plane, is the unit of every strength of noise.
- Thermal noise is white and the same everywhere; shot noise has its standard deviation at brightness 1 and falls with the
  root of the signal. Striations run along the fast axis: each line wanders about zero on its own, with a correlation length of
  64 pixels.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType

import numpy as np
from numpy.typing import NDArray
from scipy.signal import lfilter

from spm_runtime.errors import ParameterError
from spm_training.simulate.scene import in_frame
from spm_training.simulate.splat import sum_gaussians

__all__ = [
    "ADATOM",
    "ATOM",
    "LATTICES",
    "NOISE_LEVELS",
    "VACANCY",
    "Cut",
    "Lattice",
    "LatticeScene",
    "Noise",
    "simulate_lattice",
]

#: σ of an atom over the distance of nearest neighbours.
WIDTH = 0.25
#: Loss of brightness per lattice unit of distance from the plane.
FALL = 0.7
#: Correlation length of a striation in pixels.
STRIATION_PX = 64.0
#: Largest tilt and azimuth. Source: USC report, section 3.3.
LARGEST_ANGLE = np.pi / 3

#: What stands at a site of the truth.
ATOM, VACANCY, ADATOM = 0, 1, 2


@dataclass(frozen=True)
class Lattice:
    """A lattice as columns along z that repeat in a rectangular cell; lengths in lattice units, period 1 along z.

    Parameters
    ----------
    cell
        ``(a, b)`` of the cell along x and y.
    columns
        ``(x, y, z)`` of one atom of each column of the cell.
    spread_px
        Pixels per lattice unit. Source: USC report, Table 1.
    neighbour
        Distance of nearest neighbours.
    """

    cell: tuple[float, float]
    columns: tuple[tuple[float, float, float], ...]
    spread_px: float
    neighbour: float


#: The five lattices by name. Source: USC report, section 3.3 and Table 1; the report's row heights of ``a/2`` and ``3a/2`` give
#: no regular triangles, so hexagonal-1 is the regular triangular net (rows ``a √3/2`` apart) and hexagonal-2, whose rows the
#: report calls clearly defined, has them ``3a/2`` apart, every other one shifted by ``a/2``.
LATTICES: Mapping[str, Lattice] = MappingProxyType(
    {
        "cubic": Lattice((1.0, 1.0), ((0.0, 0.0, 0.0),), 10.0, 1.0),
        "bcc": Lattice((1.0, 1.0), ((0.0, 0.0, 0.0), (0.5, 0.5, 0.5)), 13.0, np.sqrt(0.75)),
        "fcc": Lattice(
            (1.0, 1.0), ((0.0, 0.0, 0.0), (0.5, 0.5, 0.0), (0.5, 0.0, 0.5), (0.0, 0.5, 0.5)), 18.0, np.sqrt(0.5)
        ),
        "hexagonal-1": Lattice((1.0, np.sqrt(3.0)), ((0.0, 0.0, 0.0), (0.5, np.sqrt(0.75), 0.0)), 14.0, 1.0),
        "hexagonal-2": Lattice((1.0, 3.0), ((0.0, 0.0, 0.0), (0.5, 1.5, 0.0)), 10.0, 1.0),
    }
)


@dataclass(frozen=True)
class Noise:
    """Strength of each disturbance; 0 is none.

    Parameters
    ----------
    thermal
        Standard deviation of the Gaussian noise.
    shot
        Standard deviation of the Poisson noise at brightness 1.
    striation
        Standard deviation of the striations.
    position
        Standard deviation of an atom's place along each axis, in distances of nearest neighbours.
    brightness
        Standard deviation of an atom's brightness, relative.
    """

    thermal: float = 0.0
    shot: float = 0.0
    striation: float = 0.0
    position: float = 0.02
    brightness: float = 0.05

    def __post_init__(self) -> None:
        for name, value in vars(self).items():
            if not 0 <= value < np.inf:
                raise ParameterError(f"noise {name} {value!r}: expected a finite number of 0 or more. Correct it.")


#: Levels of noise that the tables report: white noise of rms 0.07, 0.18 and 0.36 on an atom in the plane, and striations. Jitter
#: belongs to the surface: the clean image has it too.
NOISE_LEVELS: Mapping[str, Noise] = MappingProxyType(
    {
        "low": Noise(thermal=0.05, shot=0.05, striation=0.03),
        "medium": Noise(thermal=0.15, shot=0.10, striation=0.06),
        "high": Noise(thermal=0.30, shot=0.20, striation=0.12),
    }
)


@dataclass(frozen=True)
class Cut:
    """How the plane cuts the lattice.

    Parameters
    ----------
    alpha, theta
        Tilt of the plane and the azimuth of the tilt in radians.
    phi
        Turn of the picture in half turns.
    shift
        ``(x, y, z)`` place of the picture's middle in the lattice, in lattice units.
    """

    alpha: float
    theta: float
    phi: float
    shift: tuple[float, float, float] = (0.0, 0.0, 0.0)

    def __post_init__(self) -> None:
        if not 0 <= self.alpha <= LARGEST_ANGLE:
            raise ParameterError(f"alpha {self.alpha!r}: expected 0 to π/3 radians. Correct it.")

    @classmethod
    def drawn(cls, rng: np.random.Generator, lattice: Lattice) -> Cut:
        """Angles as the report draws them, and any place in the cell."""
        alpha, theta = rng.random(2) * LARGEST_ANGLE
        x, y, z = rng.random(3) * (*lattice.cell, 1.0)
        return cls(float(alpha), float(theta), float(rng.random()), (float(x), float(y), float(z)))


@dataclass(frozen=True, eq=False)
class LatticeScene:
    """An image with its truth. Brightness 1 is an atom in the plane.

    Parameters
    ----------
    image
        ``(H, W)`` float32 with noise.
    clean
        ``(H, W)`` float32 of the same surface without noise.
    perfect
        ``(H, W)`` float32 of the surface without its defects, without noise; `clean` itself where there are none.
    yx_px
        ``(N, 2)`` float64 sites whose middle lies in the image.
    brightness
        ``(N,)`` float64 height of each Gaussian, of the one that is missing at a vacancy.
    state
        ``(N,)`` int8: `ATOM`, `VACANCY`, `ADATOM`.
    name
        Which lattice.
    spread_px, width_px
        Pixels per lattice unit; σ of an atom in pixels.
    cut, noise
        What it was made with.
    """

    image: NDArray[np.float32]
    clean: NDArray[np.float32]
    perfect: NDArray[np.float32]
    yx_px: NDArray[np.float64]
    brightness: NDArray[np.float64]
    state: NDArray[np.int8]
    name: str
    spread_px: float
    width_px: float
    cut: Cut
    noise: Noise

    @property
    def class_index(self) -> int:
        """Place of the lattice in `LATTICES`."""
        return tuple(LATTICES).index(self.name)

    @property
    def noise_rms(self) -> float:
        """Root mean square of what stands between the image and the clean one."""
        return float(np.sqrt(np.mean((self.image - self.clean) ** 2)))

    @property
    def perfect_image(self) -> NDArray[np.float32]:
        """``(H, W)`` the surface without its defects under the very same noise: what a denoiser's answer is compared with."""
        return self.image - self.clean + self.perfect


def simulate_lattice(
    rng: np.random.Generator,
    name: str,
    *,
    shape: tuple[int, int] = (256, 256),
    noise: Noise = NOISE_LEVELS["medium"],
    spread_px: float | None = None,
    cut: Cut | None = None,
    vacancies: float = 0.0,
    adatoms: float = 0.0,
) -> LatticeScene:
    """An image of a lattice.

    Parameters
    ----------
    rng
        Every draw comes from it.
    name
        One of `LATTICES`.
    shape
        ``(H, W)``, any size.
    noise
        Strengths.
    spread_px
        Pixels per lattice unit; that of the report by default.
    cut
        The plane; drawn by default.
    vacancies, adatoms
        Share of the sites whose atom is missing, or has the next atom of its column on top of it.

    Raises
    ------
    ParameterError
        If the lattice is unknown or a number out of range.
    """
    if name not in LATTICES:
        raise ParameterError(f"lattice {name!r}: unknown; expected one of {', '.join(LATTICES)}. Name one of them.")
    if min(shape) < 1 or vacancies < 0 or adatoms < 0 or vacancies + adatoms > 1:
        raise ParameterError(
            f"shape {shape}, vacancies {vacancies}, adatoms {adatoms}: expected 1 pixel or more along both axes, and two shares "
            "that add up to at most 1. Correct them."
        )
    lattice = LATTICES[name]
    spread = lattice.spread_px if spread_px is None else float(spread_px)
    if not 1.0 <= spread < np.inf:
        raise ParameterError(f"spread_px {spread_px!r}: expected 1 pixel or more per lattice unit. Correct it.")
    cut = Cut.drawn(rng, lattice) if cut is None else cut
    width = WIDTH * lattice.neighbour * spread
    yx, distance, uphill = _sites(lattice, cut, spread, shape, 4 * width)
    yx += rng.normal(0.0, noise.position * lattice.neighbour * spread, yx.shape)
    factor = np.clip(1 + rng.normal(0.0, noise.brightness, len(yx)), 0.0, None)
    drawn = rng.random(len(yx))
    state = np.select([drawn < vacancies, drawn < vacancies + adatoms], [VACANCY, ADATOM], ATOM).astype(np.int8)
    there = factor * (1 - FALL * distance)
    perfect = sum_gaussians(yx, there, width, shape)
    clean = perfect
    if (state != ATOM).any():
        top = state == ADATOM  # the next atom of the column, one lattice unit higher, takes the place of this one
        there[top] = factor[top] * (1 + FALL * (np.cos(cut.alpha) - distance[top]))
        yx[top] += uphill
        clean = sum_gaussians(yx[state != VACANCY], there[state != VACANCY], width, shape)
    inside = in_frame(yx, shape)
    return LatticeScene(
        _noisy(rng, clean, noise),
        clean.astype(np.float32),
        perfect.astype(np.float32),
        yx[inside],
        there[inside],
        state[inside],
        name,
        spread,
        width,
        cut,
        noise,
    )


def _sites(
    lattice: Lattice, cut: Cut, spread: float, shape: tuple[int, int], margin_px: float
) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.float64]]:
    """Places of the visible atoms, up to a margin outside the frame, and their distances from the plane in lattice units.

    The last is the step on the picture in pixels ``(dy, dx)`` from an atom to the next one above it.
    """
    radius = (np.hypot(*shape) / 2 + margin_px) / spread + 1  # the picture's furthest corner, wherever it is turned
    a, b = lattice.cell
    i, j = (np.arange(-np.ceil(radius / side), np.ceil(radius / side) + 1) for side in (a, b))
    cells = np.stack(np.meshgrid(i * a, j * b, [0.0], indexing="ij"), axis=-1).reshape(-1, 1, 3)
    x, y, z = (cells + np.asarray(lattice.columns)).reshape(-1, 3).T
    x, y, z = x - cut.shift[0], y - cut.shift[1], z - cut.shift[2]
    along = x * np.cos(cut.theta) + y * np.sin(cut.theta)
    plane = np.tan(cut.alpha) * along
    height = z + np.floor(plane - z)  # the column's highest atom that is not above the plane
    uphill = along * np.cos(cut.alpha) + height * np.sin(cut.alpha)
    level = y * np.cos(cut.theta) - x * np.sin(cut.theta)
    cos, sin = np.cos(cut.phi * np.pi), np.sin(cut.phi * np.pi)
    u, v = cos * uphill + sin * level, cos * level - sin * uphill
    yx = np.stack([v, u], axis=1) * spread + (np.asarray(shape) - 1) / 2
    near = in_frame(yx, shape, margin_px=margin_px)
    step = np.sin(cut.alpha) * spread * np.array([-sin, cos])
    return yx[near], ((plane - height) * np.cos(cut.alpha))[near], step


def _noisy(rng: np.random.Generator, clean: NDArray[np.float64], noise: Noise) -> NDArray[np.float32]:
    image = clean
    if noise.shot:
        counts = 1 / noise.shot**2  # at brightness 1
        image = rng.poisson(np.clip(clean, 0.0, None) * counts) / counts
    if noise.thermal:
        image = image + noise.thermal * rng.standard_normal(clean.shape)
    if noise.striation:
        kept = np.exp(-1 / STRIATION_PX)
        push = rng.standard_normal(clean.shape)
        push[:, 1:] *= np.sqrt(
            1 - kept**2
        )  # the first pixel has the full spread: the line is stationary from its start
        image = image + noise.striation * lfilter([1.0], [1.0, -kept], push, axis=1)
    return np.asarray(image, np.float32)

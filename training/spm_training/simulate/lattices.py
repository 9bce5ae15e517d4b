"""Two-dimensional arrangements of columns, each with the sites of its unit cell.

Lengths are in units of the mean nearest-neighbour distance of the *required* columns, so that a scene is scaled by
its spacing alone.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import MappingProxyType

import numpy as np
from numpy.typing import NDArray
from scipy.spatial import cKDTree

__all__ = ["ARRANGEMENTS", "Sites", "nearest_neighbour_distances"]


@dataclass(frozen=True, eq=False)
class Sites:
    """Columns on a disc around the origin.

    Parameters
    ----------
    yx
        ``(N, 2)`` float64 positions, in units of the spacing.
    height
        ``(N,)`` relative peak heights, about 1 for the brightest kind.
    sublattice
        ``(N,)`` index of the site in its unit cell.
    holes
        ``(M, 2)`` centres of dark features that belong to the structure (corner holes).
    """

    yx: NDArray[np.float64]
    height: NDArray[np.float64]
    sublattice: NDArray[np.int32]
    holes: NDArray[np.float64]


def nearest_neighbour_distances(yx: NDArray[np.float64]) -> NDArray[np.float64]:
    """Distance of each of ``(N, 2)`` points to its nearest neighbour; inf for a lonely point."""
    if len(yx) < 2:
        return np.full(len(yx), np.inf)
    return np.asarray(cKDTree(yx).query(yx, k=2)[0][:, 1], dtype=np.float64)


def _periodic(
    radius: float,
    a1: tuple[float, float],
    a2: tuple[float, float],
    basis: list[tuple[float, float]],
    heights: list[float],
    holes: list[tuple[float, float]] | None = None,
) -> Sites:
    """Fill a disc with a unit cell; basis in fractional coordinates, a length unit of its own."""
    cell = np.array([a1, a2], dtype=np.float64)
    reach = int(np.ceil(radius / np.abs(np.linalg.svd(cell, compute_uv=False)).min())) + 2
    ij = np.stack(np.meshgrid(*[np.arange(-reach, reach + 1)] * 2, indexing="ij"), axis=-1).reshape(-1, 1, 2)

    def fill(fractions: list[tuple[float, float]]) -> tuple[NDArray[np.float64], NDArray[np.int32]]:
        frac = ij + np.asarray(fractions, dtype=np.float64).reshape(1, -1, 2)
        kind = np.broadcast_to(np.arange(len(fractions), dtype=np.int32), frac.shape[:2]).ravel()
        points = frac.reshape(-1, 2) @ cell
        inside = np.hypot(*points.T) <= radius
        return points[inside], kind[inside]

    yx, kind = fill(basis)
    dark = fill(holes)[0] if holes else np.empty((0, 2))
    return Sites(yx, np.asarray(heights, dtype=np.float64)[kind], kind, dark)


def _oblique(rng: np.random.Generator, radius: float) -> Sites:
    angle = np.deg2rad(rng.uniform(62, 90))
    length = rng.uniform(1.0, 1.6)
    return _periodic(radius, (1.0, 0.0), (length * np.cos(angle), length * np.sin(angle)), [(0, 0)], [1.0])


def _square(rng: np.random.Generator, radius: float) -> Sites:
    return _periodic(radius, (1.0, 0.0), (0.0, 1.0), [(0, 0)], [1.0])


def _hexagonal(rng: np.random.Generator, radius: float) -> Sites:
    return _periodic(radius, (1.0, 0.0), (0.5, np.sqrt(0.75)), [(0, 0)], [1.0])


def _centred(rng: np.random.Generator, radius: float) -> Sites:
    """Perovskite-like: a square lattice with a second, weaker column in the middle and light ones on the edges."""
    side = np.sqrt(2.0)
    light = rng.choice([0.0, rng.uniform(0.08, 0.25)])
    basis = [(0, 0), (0.5, 0.5), (0.5, 0.0), (0.0, 0.5)]
    heights = [1.0, rng.uniform(0.4, 1.0), light, light]
    keep = 2 if light == 0.0 else 4
    return _periodic(radius, (side, 0.0), (0.0, side), basis[:keep], heights[:keep])


def _honeycomb(rng: np.random.Generator, radius: float) -> Sites:
    side = np.sqrt(3.0)
    second = rng.choice([1.0, rng.uniform(0.45, 1.0)])
    return _periodic(
        radius, (side, 0.0), (side / 2, 1.5), [(1 / 3, 1 / 3), (2 / 3, 2 / 3)], [1.0, float(second)]
    )  # fmt: skip


def _dichalcogenide(rng: np.random.Generator, radius: float) -> Sites:
    """2H monolayer: heavy columns on a triangular net (spacing 1), light ones beside them."""
    light = rng.uniform(0.08, 0.35)
    return _periodic(radius, (1.0, 0.0), (0.5, np.sqrt(0.75)), [(0, 0), (1 / 3, 1 / 3)], [1.0, light])


def _zigzag(rng: np.random.Generator, radius: float) -> Sites:
    """1T″-like: four heavy columns per cell, shifted from a triangular net into diamond chains."""
    shift = rng.uniform(0.08, 0.22)
    basis = [(0.0, 0.0), (0.5, 0.0), (0.0, 0.5), (0.5, 0.5)]
    push = rng.uniform(-1.0, 1.0, (4, 2))
    push = shift * push / np.maximum(np.hypot(*push.T)[:, None], 1e-6)
    moved = [(u + du / 2, v + dv / 2) for (u, v), (du, dv) in zip(basis, push, strict=True)]
    return _periodic(radius, (2.0, 0.0), (1.0, np.sqrt(3.0)), moved, [1.0, 1.0, 1.0, 1.0])


def _dumbbell(rng: np.random.Generator, radius: float) -> Sites:
    """Diamond or zinc blende along [110]: close pairs, a quarter of the cell apart."""
    ratio = rng.uniform(0.6, 1.0)
    scale = rng.uniform(2.0, 2.6)
    return _periodic(
        radius, (scale, 0.0), (scale / 2, scale / np.sqrt(2)), [(0, 0), (1.0 / scale, 0.0)], [1.0, ratio]
    )  # fmt: skip


def _si111_7x7(rng: np.random.Generator, radius: float) -> Sites:
    """Si(111)-7×7: twelve adatoms and a corner hole per cell (dimer–adatom–stacking-fault model).

    In units of the 1×1 lattice constant the adatoms of one half stand at (1, 1), (3, 1), (5, 1), (1, 3), (3, 3), (1, 5) of a
    cell with side 7 and 60° between its vectors, those of the other half at the inverted points; across a dimer row
    and around a corner hole they are √3 apart.
    """
    half = [(1, 1), (3, 1), (5, 1), (1, 3), (3, 3), (1, 5)]
    basis = [(u / 7, v / 7) for u, v in half] + [(1 - u / 7, 1 - v / 7) for u, v in half]
    fault, centre = rng.uniform(0.5, 1.0), rng.uniform(0.6, 1.2)
    corner = {(1, 1), (5, 1), (1, 5)}
    first = [1.0 if site in corner else centre for site in half]
    side = 7 / np.sqrt(3.0)
    heights = first + [fault * height for height in first]
    return _periodic(radius, (side, 0.0), (side / 2, side * np.sqrt(0.75)), basis, heights, holes=[(0.0, 0.0)])


def _isolated(rng: np.random.Generator, radius: float) -> Sites:
    """Single atoms without a lattice, no two closer than one spacing."""
    density = 10 ** rng.uniform(-1.6, -0.2)
    count = max(3, int(density * np.pi * radius**2))
    points = rng.uniform(-radius, radius, (count, 2))
    kept = np.ones(count, bool)
    for first, second in sorted(cKDTree(points).query_pairs(1.0)):  # the earlier point stays
        kept[second] &= not kept[first]
    yx = points[kept]
    height = rng.uniform(0.55, 1.0, len(yx))
    return Sites(yx, height, np.zeros(len(yx), np.int32), np.empty((0, 2)))


def _random(rng: np.random.Generator, radius: float) -> Sites:
    """A cell that nobody has grown: one to four columns at random in a random cell, and sometimes light ones between them.

    It stands for all the structures that are not in this list.
    """
    count = int(rng.integers(1, 5))
    for _ in range(200):
        angle = np.deg2rad(rng.choice([90.0, rng.uniform(60, 90)]))
        a = np.sqrt(count) * rng.uniform(0.95, 1.6)
        b = max(a * rng.choice([1.0, rng.uniform(1.0, 1.8)]), 1.0)
        cell = np.array([(a, 0.0), (b * np.cos(angle), b * np.sin(angle))])
        basis = rng.random((count, 2))
        images = (basis + np.stack(np.meshgrid(*[(-1, 0, 1)] * 2), axis=-1).reshape(-1, 1, 2)) @ cell
        distance = np.hypot(*(images.reshape(-1, 1, 2) - (basis @ cell)[None]).transpose(2, 0, 1))
        distance[distance < 1e-9] = np.inf
        if distance.min() >= 0.75 and distance.min() <= 1.25 * a:
            break
    else:
        return _oblique(rng, radius)
    heights = [1.0, *rng.uniform(0.45, 1.0, count - 1)]
    extra = int(rng.integers(0, 3)) if rng.random() < 0.3 else 0
    basis = np.concatenate([basis, rng.random((extra, 2))])
    heights += list(rng.uniform(0.05, 0.3, extra))
    (ay, ax), (by, bx) = cell
    return _periodic(radius, (ay, ax), (by, bx), [(u, v) for u, v in basis], heights)


#: Every arrangement by name; each is a function of a generator and the radius of the disc.
ARRANGEMENTS: Mapping[str, Callable[[np.random.Generator, float], Sites]] = MappingProxyType(
    {
        "square": _square,
        "hexagonal": _hexagonal,
        "oblique": _oblique,
        "centred": _centred,
        "honeycomb": _honeycomb,
        "dichalcogenide": _dichalcogenide,
        "zigzag": _zigzag,
        "dumbbell": _dumbbell,
        "si111-7x7": _si111_7x7,
        "isolated": _isolated,
        "random": _random,
    }
)

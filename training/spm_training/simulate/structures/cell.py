"""Projected unit cells, and discs filled with them.

Lengths are in nm. A crystal seen along a lattice direction is a plane lattice of *columns*: every atom of its primitive cell
falls on one column of the projected cell, whose content repeats along the beam with the period of that direction.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import product

import numpy as np
from numpy.typing import NDArray
from scipy.spatial import cKDTree

__all__ = ["Cell", "Columns", "Crystal", "assemble", "fill", "grow", "project", "rotation", "thin_pairs"]

#: Atoms nearer than this in projection form one column at the place of the heavier kind (the Ti and O of polar PbTiO3 lie
#: 0.033 nm apart, Pb and O 0.046 nm; the closest pair that images show apart, the dumbbell of diamond along 110, is 0.089 nm).
MERGE_NM = 0.05

#: Most atoms that a column of a three-dimensional crystal holds.
MAX_ATOMS = 40


@dataclass(frozen=True, eq=False)
class Crystal:
    """Columns on a disc around the origin, seen along the beam.

    Parameters
    ----------
    yx_nm
        ``(N, 2)`` float64 positions of the columns.
    kind
        ``(N,)`` int32 index into `kinds`.
    sublattice
        ``(N,)`` int32 index of the site in its projected unit cell; two materials of one structure share none.
    kinds
        For each kind the number of atoms of each element in a column.
    amorphous
        ``(M, 2)`` float64 positions of the single atoms of an amorphous film under the columns; empty without a film.
    amorphous_element
        Element of the film; an empty string without a film.
    """

    yx_nm: NDArray[np.float64]
    kind: NDArray[np.int32]
    sublattice: NDArray[np.int32]
    kinds: tuple[Mapping[str, float], ...]
    amorphous: NDArray[np.float64] = field(default_factory=lambda: np.empty((0, 2)))
    amorphous_element: str = ""


@dataclass(frozen=True, eq=False)
class Cell:
    """A projected unit cell.

    Parameters
    ----------
    name
        Formula of the material and the direction of the beam.
    vectors_nm
        ``(2, 2)`` cell vectors as rows (y, x); the first one lies along x.
    yx_nm
        ``(S, 2)`` positions of the columns; the order is that of the sublattices, heaviest element first.
    contents
        For each column the number of atoms of each element in one period (in the whole layer where there is no period).
    period_nm
        Repeat length along the beam; 0 for a two-dimensional material, whose columns are as they are.
    frame
        ``(3, 3)`` unit vectors y, x and beam as rows, in the Cartesian axes of the crystal.
    """

    name: str
    vectors_nm: NDArray[np.float64]
    yx_nm: NDArray[np.float64]
    contents: tuple[Mapping[str, float], ...]
    period_nm: float = 0.0
    frame: NDArray[np.float64] = field(default_factory=lambda: np.eye(3))

    @property
    def area_nm2(self) -> float:
        """Area of the projected cell."""
        return float(abs(np.linalg.det(self.vectors_nm)))

    def nearest_nm(self) -> float:
        """Smallest distance between two columns."""
        shifts = np.array(list(product((-1, 0, 1), repeat=2))) @ self.vectors_nm
        distance = np.linalg.norm(self.yx_nm[:, None, None] - self.yx_nm[None, :, None] - shifts, axis=-1)
        return float(distance[distance > 1e-6].min())

    def thickened(self, periods: float) -> Cell:
        """The cell of a slab that many periods thick, every column at least one atom and at most `MAX_ATOMS` of an element."""
        if self.period_nm == 0:
            return self
        contents = tuple(
            {element: float(np.clip(np.round(n * periods), 1, MAX_ATOMS)) for element, n in content.items()}
            for content in self.contents
        )
        return replace(self, contents=contents)

    def drawn_thickness(self, rng: np.random.Generator) -> Cell:
        """The cell of a slab whose richest column holds 1 to `MAX_ATOMS` atoms of an element, log-uniform."""
        atoms = np.exp(rng.uniform(0, np.log(MAX_ATOMS)))
        return self.thickened(atoms / max(max(content.values()) for content in self.contents))


@dataclass(frozen=True, eq=False)
class Columns:
    """Positions ``(N, 2)`` in nm and the sublattice ``(N,)`` of the columns of one cell."""

    yx: NDArray[np.float64]
    site: NDArray[np.int32]

    def keep(self, mask: NDArray[np.bool_]) -> Columns:
        """The columns where `mask` is True."""
        return Columns(self.yx[mask], self.site[mask])

    def move(self, matrix: NDArray[np.float64], shift: NDArray[np.float64]) -> Columns:
        """Positions multiplied by `matrix` from the left, then shifted."""
        return Columns(self.yx @ matrix.T + shift, self.site)


def rotation(angle: float) -> NDArray[np.float64]:
    """Matrix that turns a column vector (y, x) by `angle` radians."""
    return np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])


def fill(
    cell: Cell, radius_nm: float, *, turn: NDArray[np.float64] | None = None, origin: NDArray[np.float64] | None = None
) -> Columns:
    """Every column within `radius_nm` of the origin.

    Parameters
    ----------
    cell
        The unit cell.
    radius_nm
        Radius of the disc.
    turn
        ``(2, 2)`` matrix applied to the crystal first (identity by default).
    origin
        Where the origin of the crystal comes to lie (y, x) in nm (0, 0 by default).
    """
    matrix = np.eye(2) if turn is None else turn
    shift = np.zeros(2) if origin is None else origin
    vectors, basis = cell.vectors_nm @ matrix.T, cell.yx_nm @ matrix.T
    inverse = np.linalg.inv(vectors)
    reach = radius_nm * np.linalg.norm(inverse, axis=0)  # of the indices, over the disc
    columns, sites = [], []
    for site, place in enumerate(basis + shift):
        centre = -place @ inverse
        i, j = (np.arange(np.ceil(c - r), np.floor(c + r) + 1) for c, r in zip(centre, reach, strict=True))
        yx = (i[:, None, None] * vectors[0] + j[None, :, None] * vectors[1] + place).reshape(-1, 2)
        yx = yx[np.einsum("ij,ij->i", yx, yx) <= radius_nm**2]
        columns.append(yx)
        sites.append(np.full(len(yx), site, dtype=np.int32))
    return Columns(np.concatenate(columns), np.concatenate(sites))


def assemble(parts: Sequence[tuple[Cell, Columns]]) -> Crystal:
    """One structure out of the columns of several cells: different cells share no sublattice, equal contents share a kind."""
    kinds: list[Mapping[str, float]] = []
    yx, kind, sublattice = [np.empty((0, 2))], [np.empty(0, np.int32)], [np.empty(0, np.int32)]
    offset: dict[int, int] = {}
    used = 0
    for cell, columns in parts:
        if id(cell) not in offset:
            offset[id(cell)] = used
            used += len(cell.contents)
        for content in cell.contents:
            if content not in kinds:
                kinds.append(content)
        index = np.array([kinds.index(content) for content in cell.contents], dtype=np.int32)
        yx.append(columns.yx)
        kind.append(index[columns.site])
        sublattice.append((columns.site + offset[id(cell)]).astype(np.int32))
    return Crystal(np.concatenate(yx), np.concatenate(kind), np.concatenate(sublattice), tuple(kinds))


def grow(cell: Cell, rng: np.random.Generator, radius_nm: float) -> Crystal:
    """A disc of one crystal with a random thickness, direction and origin."""
    thick = cell.drawn_thickness(rng)
    return assemble([(thick, fill(thick, radius_nm, turn=_random_turn(rng), origin=_random_origin(rng, cell)))])


def _random_turn(rng: np.random.Generator) -> NDArray[np.float64]:
    return rotation(rng.uniform(0, 2 * np.pi)) @ np.diag([1.0, rng.choice([-1.0, 1.0])])  # seen from either side


def _random_origin(rng: np.random.Generator, cell: Cell) -> NDArray[np.float64]:
    return np.asarray(rng.random(2) @ cell.vectors_nm)


def thin_pairs(yx: NDArray[np.float64], distance: float) -> NDArray[np.bool_]:
    """Mask that leaves no two of ``(N, 2)`` points nearer than `distance`: of each such pair the later one goes."""
    keep = np.ones(len(yx), dtype=np.bool_)
    if len(yx) > 1:
        pairs = cKDTree(yx).query_pairs(distance, output_type="ndarray")
        keep[pairs.max(axis=1)] = False
    return keep


def project(
    name: str,
    lattice_nm: NDArray[np.float64],
    primitive: NDArray[np.float64],
    atoms: Sequence[tuple[str, tuple[float, float, float]]],
    zone: tuple[int, int, int],
) -> Cell:
    """Project a crystal along a lattice direction.

    Parameters
    ----------
    name
        Formula of the material.
    lattice_nm
        ``(3, 3)`` vectors of the conventional cell as rows.
    primitive
        ``(3, 3)`` vectors of the primitive cell as rows, in units of the conventional ones.
    atoms
        Element and position, in units of the conventional vectors, of the atoms of one *primitive* cell, heaviest first.
    zone
        Direction of the beam [uvw] in the conventional cell.
    """
    beam = np.asarray(zone, dtype=np.float64) @ lattice_nm
    beam /= np.linalg.norm(beam)
    nodes = np.array(list(product(range(-4, 5), repeat=3))) @ primitive @ lattice_nm
    along = nodes @ beam
    flat = nodes - along[:, None] * beam
    length = np.linalg.norm(flat, axis=1).round(
        9
    )  # rounded, so that ties are broken in the same way for every material
    period = along[(length == 0) & (along > 1e-9)].min()
    order = np.argsort(length, kind="stable")
    first = flat[order[length[order] > 0][0]]
    area = np.linalg.norm(np.cross(flat, first), axis=1)
    second = flat[order[(length[order] > 0) & (area[order] > 1e-9)][0]]
    x = first / np.linalg.norm(first)
    frame = np.stack([np.cross(beam, x), x, beam])
    vectors = np.stack([first, second]) @ frame[:2].T
    places: list[NDArray[np.float64]] = []
    contents: list[dict[str, float]] = []
    shifts = np.array(list(product((-1, 0, 1), repeat=2)))
    for element, position in atoms:
        fractional = (np.asarray(position) @ lattice_nm @ frame[:2].T) @ np.linalg.inv(vectors)
        place = ((fractional + 1e-9) % 1 - 1e-9) @ vectors
        for known, content in zip(places, contents, strict=True):
            if np.linalg.norm(place - known + shifts @ vectors, axis=1).min() < MERGE_NM:
                content[element] = content.get(element, 0.0) + 1.0
                break
        else:
            places.append(place)
            contents.append({element: 1.0})
    label = f"{name} {''.join(map(str, zone))}"
    return Cell(label, vectors, np.array(places), tuple(contents), float(period), frame)

"""Structures of more than one crystal, of no crystal, and of crystals that no table holds."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from spm_training.simulate.structures.bulk import BCC, FCC, bcc, bulk_cells, fcc
from spm_training.simulate.structures.cell import (
    MAX_ATOMS,
    Cell,
    Crystal,
    assemble,
    fill,
    grow,
    rotation,
    thin_pairs,
)
from spm_training.simulate.structures.layers import TMD_2H, layer_cells, two_h

__all__ = [
    "alloy",
    "coherent_pair",
    "grain_boundary",
    "heterostructure",
    "isolated_atoms",
    "join_halves",
    "nanoparticle",
    "random_crystal",
]

#: Families whose crystals grow on each other with their cells in line.
COHERENT_FAMILIES = ("perovskite-001", "perovskite-110", "diamond-110", "rocksalt-001", "fcc-001", "fcc-110", "bcc-001")
#: Largest difference of two lattice constants that a coherent interface takes up.
COHERENT_MISFIT = 0.06
#: Families of which grain boundaries are made, two-dimensional and three-dimensional ones.
FLAT_FAMILIES: tuple[str, ...] = ("mos2-2h", "ws2-2h", "wse2-2h", "mote2", "tmd-1t", "graphene", "h-bn")
DEEP_FAMILIES: tuple[str, ...] = (
    "fcc-001",
    "fcc-110",
    "fcc-111",
    "bcc-001",
    "perovskite-001",
    "diamond-110",
    "rocksalt-001",
    "hcp-0001",
)
#: Columns of two grains stay this part of the crystal's own smallest distance apart.
BOUNDARY_GAP = 0.85

#: Elements of supported particles.
PARTICLE_ELEMENTS = ("Au", "Pt", "Pd", "Ag", "Cu", "Ni", "Rh", "Ir")
#: Elements of single-atom catalysts and of other heavy single atoms.
SINGLE_ELEMENTS = ("Pt", "Re", "Au", "W", "Ir", "Pd", "Bi", "La", "Hf")
#: Single atoms are never nearer to each other in projection, in nm.
SINGLE_GAP_NM = 0.22
#: Elements of random crystals.
RANDOM_ELEMENTS = ("Ti", "Fe", "Ni", "Ga", "Se", "Sr", "Zr", "Mo", "Pd", "In", "Te", "La", "Hf", "W", "Pt", "Pb")

#: Amorphous carbon of 2.0 g/cm³ holds so many atoms per nm³ (2.0 / 12.011 · 602.2).
CARBON_PER_NM3 = 100.3

#: Solid solutions: fcc and bcc pairs that mix over wide ranges, and pairs of 2H monolayers with one chalcogen (Mo1-xWxS2).
FCC_PAIRS = (
    ("Au", "Cu"),
    ("Au", "Ag"),
    ("Au", "Pd"),
    ("Pt", "Pd"),
    ("Pt", "Ni"),
    ("Pt", "Cu"),
    ("Pd", "Ag"),
    ("Ir", "Rh"),
)
BCC_PAIRS = (("W", "Mo"), ("Ta", "Nb"), ("W", "V"), ("Mo", "Nb"), ("Ta", "W"), ("Mo", "Cr"))
TMD_PAIRS = (("WS2", "MoS2"), ("WSe2", "MoSe2"), ("NbSe2", "WSe2"))


def _pick(rng: np.random.Generator, cells: tuple[Cell, ...]) -> Cell:
    return cells[int(rng.integers(len(cells)))]


def _film(
    rng: np.random.Generator, radius: float, thickness_nm: tuple[float, float] = (1.0, 4.0)
) -> NDArray[np.float64]:
    """Projected positions of the atoms of an amorphous carbon film on a disc."""
    count = int(rng.poisson(CARBON_PER_NM3 * rng.uniform(*thickness_nm) * np.pi * radius**2))
    return _on_disc(rng, count, radius)


def _on_disc(rng: np.random.Generator, count: int, radius: float) -> NDArray[np.float64]:
    """``(count, 2)`` points spread evenly over a disc."""
    r, angle = radius * np.sqrt(rng.random(count)), rng.uniform(0, 2 * np.pi, count)
    return np.stack([r * np.sin(angle), r * np.cos(angle)], axis=1)


def heterostructure(rng: np.random.Generator, radius_nm: float) -> Crystal:
    """Two materials with a straight interface.

    It is coherent, the second material strained along it to the first, or joins crystals of any two directions.
    """
    if rng.random() < 0.7:
        first, second = coherent_pair(rng)
        turns = [np.eye(2), np.eye(2)]
        origins = [
            np.array([1e-6, rng.random() * first.vectors_nm[0, 1]])
        ] * 2  # the row at the interface is of the second
    else:
        first, second = _any_pair(rng)
        turns = [rotation(rng.uniform(0, 2 * np.pi)) for _ in range(2)]
        origins = [rng.random(2) @ cell.vectors_nm for cell in (first, second)]
    return join_halves(rng, radius_nm, (first, second), turns, origins)


def join_halves(
    rng: np.random.Generator,
    radius: float,
    cells: tuple[Cell, Cell],
    turns: list[NDArray[np.float64]],
    origins: list[NDArray[np.float64]],
) -> Crystal:
    """One crystal where y < 0, another where y ≥ 0; then the interface is turned and moved at random.

    A column of the second one that comes too near to one of the first is left out.

    Parameters
    ----------
    rng
        Draws where the interface lies.
    radius
        Radius of the disc in nm.
    cells
        The two projected cells.
    turns
        ``(2, 2)`` matrix of each, applied before the interface is turned.
    origins
        Origin (y, x) in nm of each, measured from the interface.
    """
    middle = np.array([rng.uniform(-0.5, 0.5) * radius, rng.uniform(-0.1, 0.1) * radius])  # of the disc
    turn = rotation(rng.uniform(0, 2 * np.pi))
    halves = []
    for cell, matrix, origin, above in zip(cells, turns, origins, (False, True), strict=True):
        columns = fill(cell, radius, turn=matrix, origin=origin - middle)
        columns = columns.keep((columns.yx[:, 0] + middle[0] >= 0) == above)
        halves.append(columns.move(turn, np.zeros(2)))
    keep = thin_pairs(
        np.concatenate([half.yx for half in halves]), BOUNDARY_GAP * min(cell.nearest_nm() for cell in cells)
    )
    halves[1] = halves[1].keep(keep[len(halves[0].yx) :])
    return assemble(list(zip(cells, halves, strict=True)))


def coherent_pair(rng: np.random.Generator) -> tuple[Cell, Cell]:
    """Two cells of one structure and one thickness, the second one strained along x to the first."""
    if rng.random() < 0.3:  # lateral heterostructures of monolayers
        pool = tuple(two_h(name) for name in TMD_2H)
    else:
        pool = bulk_cells()[COHERENT_FAMILIES[int(rng.integers(len(COHERENT_FAMILIES)))]]
    width = np.array([cell.vectors_nm[0, 1] for cell in pool])
    misfit = np.abs(width / width[:, None] - 1)
    same_sites = np.array([[len(one.contents) == len(two.contents) for two in pool] for one in pool])
    candidates = np.argwhere((misfit < COHERENT_MISFIT) & same_sites & ~np.eye(len(pool), dtype=bool))
    first, second = candidates[int(rng.integers(len(candidates)))]
    lower, upper = _same_thickness(rng, pool[first], pool[second])
    strain = np.array([1.0, width[first] / width[second]])
    return lower, replace(upper, vectors_nm=upper.vectors_nm * strain, yx_nm=upper.yx_nm * strain)


def _any_pair(rng: np.random.Generator) -> tuple[Cell, Cell]:
    """Two cells of any two families, both two-dimensional or both three-dimensional."""
    if rng.random() < 0.3:
        families, cells = FLAT_FAMILIES[:5], layer_cells()
    else:
        families, cells = DEEP_FAMILIES, bulk_cells()
    one, two = (families[i] for i in rng.choice(len(families), 2, replace=False))
    return _same_thickness(rng, _pick(rng, cells[one]), _pick(rng, cells[two]))


def _same_thickness(rng: np.random.Generator, lower: Cell, upper: Cell) -> tuple[Cell, Cell]:
    thick = lower.drawn_thickness(rng)
    if lower.period_nm == 0:
        return thick, upper
    periods = max(thick.contents[0].values()) / max(lower.contents[0].values())
    return thick, upper.thickened(periods * lower.period_nm / upper.period_nm)


def grain_boundary(rng: np.random.Generator, radius_nm: float) -> Crystal:
    """Two grains of one material, tilted about the beam by 3° to 60°; half of the boundaries are symmetric."""
    if rng.random() < 0.4:
        cell = _pick(rng, layer_cells()[FLAT_FAMILIES[int(rng.integers(len(FLAT_FAMILIES)))]])
    else:
        cell = _pick(rng, bulk_cells()[DEEP_FAMILIES[int(rng.integers(len(DEEP_FAMILIES)))]])
    cell = cell.drawn_thickness(rng)
    tilt = np.radians(rng.uniform(3, 60))
    start = 0.0 if rng.random() < 0.5 else rng.uniform(0, np.pi)
    turns = [rotation(start + side * tilt / 2) for side in (-1, 1)]
    return join_halves(rng, radius_nm, (cell, cell), turns, [rng.random(2) @ cell.vectors_nm for _ in range(2)])


def nanoparticle(rng: np.random.Generator, radius_nm: float) -> Crystal:
    """Faceted or round fcc particles of 2 to 8 nm along a direction of low indices, on amorphous carbon.

    A column holds the atoms of the chord that the particle's shape cuts from it, so that the rim is thinner. The first particle
    covers the origin; others lie around it where they find room.
    """
    element = PARTICLE_ELEMENTS[int(rng.integers(len(PARTICLE_ELEMENTS)))]
    names = ("fcc-001", "fcc-110", "fcc-111")
    zones = [bulk_cells()[name][list(FCC).index(element)] for name in names]
    cell = zones[int(rng.integers(3))]
    # Kind n - 1 is a column of n atoms.
    kinds = tuple({element: float(n)} for n in range(1, MAX_ATOMS + 1))
    centres, sizes = _places(rng, radius_nm)
    yx, kind = [], []
    for centre, size in zip(centres, sizes, strict=True):
        columns, atoms = _particle(rng, cell, size)
        columns = columns @ rotation(rng.uniform(0, 2 * np.pi)).T + centre
        inside = np.linalg.norm(columns, axis=1) <= radius_nm
        yx.append(columns[inside])
        kind.append(atoms[inside] - 1)
    places = np.concatenate(yx)
    return Crystal(
        places,
        np.concatenate(kind).astype(np.int32),
        np.zeros(len(places), dtype=np.int32),
        kinds,
        _film(rng, radius_nm),
        "C",
    )


def _places(rng: np.random.Generator, radius: float) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Centres and radii of particles that do not touch; the first one covers the origin."""
    wanted = 1 + int(rng.poisson(rng.uniform(0, 0.04) * np.pi * radius**2))
    sizes = rng.uniform(1.0, 4.0, wanted)
    centres = _on_disc(rng, wanted, radius)
    centres[0] = _on_disc(rng, 1, 0.7 * min(sizes[0], radius))[0]
    kept = [0]
    for i in range(1, wanted):
        room = np.linalg.norm(centres[kept] - centres[i], axis=1) - sizes[kept] - sizes[i]
        if room.min() > 0.4:
            kept.append(i)
    return centres[kept], sizes[kept]


def _particle(rng: np.random.Generator, cell: Cell, radius: float) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    """Columns of one particle around the origin, and the number of atoms in each."""
    columns = fill(cell, radius, origin=rng.random(2) @ cell.vectors_nm).yx
    if rng.random() < 0.4:
        chord = 2 * np.sqrt(radius**2 - np.einsum("ij,ij->i", columns, columns))
    else:  # a truncated octahedron between {111} and {100} planes, centred
        octahedron = np.array([[x, y, z] for x in (1, -1) for y in (1, -1) for z in (1, -1)]) / np.sqrt(3)
        cube = np.concatenate([np.eye(3), -np.eye(3)])
        normals = np.concatenate([octahedron, cube]) @ cell.frame.T
        # Distance of the {100} planes relative to the {111} planes: √3 is a full octahedron, 0.9 nearly a cube.
        far = 0.75 * radius
        distance = np.concatenate([np.full(8, far), np.full(6, far * rng.uniform(0.9, 1.5))])
        chord = _chord(columns, normals, distance)
    atoms = np.round(chord / cell.period_nm + rng.uniform(-0.3, 0.3, len(chord))).astype(np.int64)
    return columns[atoms > 0], np.minimum(atoms[atoms > 0], MAX_ATOMS)


def _chord(
    columns: NDArray[np.float64], normals: NDArray[np.float64], distance: NDArray[np.float64]
) -> NDArray[np.float64]:
    """Length that the half spaces ``normal · r ≤ distance`` leave of the line along the beam through each column."""
    rest = distance - columns @ normals[:, :2].T
    slope = normals[:, 2]
    up, down, level = slope > 1e-9, slope < -1e-9, np.abs(slope) <= 1e-9
    top = (rest[:, up] / slope[up]).min(axis=1)
    bottom = (rest[:, down] / slope[down]).max(axis=1)
    chord = np.maximum(top - bottom, 0)
    return np.where((rest[:, level] >= 0).all(axis=1), chord, 0.0)


def isolated_atoms(rng: np.random.Generator, radius_nm: float) -> Crystal:
    """Single heavy atoms at random on amorphous carbon, some in pairs and small clusters, 0.1 to 4 per nm²."""
    density = np.exp(rng.uniform(np.log(0.1), np.log(4.0)))
    seeds = _on_disc(rng, max(1, int(rng.poisson(density * np.pi * radius_nm**2))), radius_nm)
    clustered = np.flatnonzero(rng.random(len(seeds)) < rng.choice([0.0, 0.1, 0.3]))
    family = np.repeat(clustered, rng.integers(1, 6, len(clustered)))
    # Neighbours in a cluster: at touching distance or a little more, in projection.
    step, angle = rng.uniform(SINGLE_GAP_NM, 0.4, len(family)), rng.uniform(0, 2 * np.pi, len(family))
    around = seeds[family] + step[:, None] * np.stack([np.sin(angle), np.cos(angle)], axis=1)
    yx = np.concatenate([seeds, around])
    yx = yx[np.linalg.norm(yx, axis=1) <= radius_nm]
    yx = yx[thin_pairs(yx, SINGLE_GAP_NM)]
    elements = rng.choice(SINGLE_ELEMENTS, 1 if rng.random() < 0.7 else 2, replace=False)
    kind = rng.integers(len(elements), size=len(yx)).astype(np.int32)
    kinds = tuple({str(element): 1.0} for element in elements)
    return Crystal(yx, kind, np.zeros(len(yx), np.int32), kinds, _film(rng, radius_nm), "C")


def random_crystal(rng: np.random.Generator, radius_nm: float) -> Crystal:
    """A random cell (oblique, rectangular, square or hexagonal) with one to four columns of random elements.

    The mean nearest-neighbour distance is 0.15 to 0.4 nm, and no two columns are nearer than 0.7 of it.
    """
    sites = int(rng.integers(1, 5))
    shape = int(rng.integers(4))
    ratio = rng.uniform(1.0, 1.6) if shape < 2 else 1.0
    angle = np.radians((rng.uniform(60, 90), 90.0, 90.0, 120.0)[shape])
    unit = np.array([[0.0, 1.0], [ratio * np.sin(angle), ratio * np.cos(angle)]])
    places = _spread(rng, unit, sites)
    nearest = _nearest(places, unit)
    scale = rng.uniform(0.15, 0.4) / nearest.mean()
    elements = rng.choice(RANDOM_ELEMENTS, sites, replace=bool(rng.random() < 0.3))
    contents: tuple[dict[str, float], ...] = tuple({str(element): 1.0} for element in elements)
    return grow(Cell("random", unit * scale, places * scale, contents, period_nm=0.3), rng, radius_nm)


def _spread(rng: np.random.Generator, unit: NDArray[np.float64], sites: int) -> NDArray[np.float64]:
    """Places in a cell whose smallest distance is at least 0.7 of their mean nearest-neighbour distance."""
    while True:
        # Of some random draws the one with the widest smallest distance: neither a lattice of its own nor a heap.
        draws = [rng.random((sites, 2)) @ unit for _ in range(6)]
        distances = [_nearest(places, unit) for places in draws]
        best = int(np.argmax([d.min() for d in distances]))
        room = np.sqrt(abs(np.linalg.det(unit)) / sites)
        if distances[best].min() >= max(0.7 * distances[best].mean(), 0.5 * room):
            return draws[best]


def _nearest(places: NDArray[np.float64], unit: NDArray[np.float64]) -> NDArray[np.float64]:
    """Distance of each site of a cell to its nearest neighbour, with all periodic images."""
    steps = np.arange(-2, 3)
    shifts = np.stack(np.meshgrid(steps, steps, indexing="ij"), axis=-1).reshape(-1, 2) @ unit
    distance = np.linalg.norm(places[:, None, None] - places[None, :, None] - shifts, axis=-1)
    distance[distance < 1e-9] = np.inf
    return np.asarray(distance.min(axis=(1, 2)))


def alloy(rng: np.random.Generator, radius_nm: float) -> Crystal:
    """A random solid solution: each metal atom is one of two elements; the lattice constant follows Vegard's rule."""
    share = rng.uniform(0.1, 0.9)
    structure = int(rng.integers(3))
    if structure == 0:
        one, two = TMD_PAIRS[int(rng.integers(len(TMD_PAIRS)))]
        a = share * TMD_2H[one][2] + (1 - share) * TMD_2H[two][2]
        cell = two_h(one)
        cell = replace(cell, vectors_nm=cell.vectors_nm * a / TMD_2H[one][2], yx_nm=cell.yx_nm * a / TMD_2H[one][2])
        first, second = TMD_2H[one][0], TMD_2H[two][0]
    else:
        table, pairs, build = (FCC, FCC_PAIRS, fcc) if structure == 1 else (BCC, BCC_PAIRS, bcc)
        zones = ((0, 0, 1), (1, 1, 0), (1, 1, 1)) if structure == 1 else ((0, 0, 1), (1, 1, 1))
        first, second = pairs[int(rng.integers(len(pairs)))]
        a = share * table[first] + (1 - share) * table[second]
        cell = build(first, zones[int(rng.integers(len(zones)))], a)
    return _substitute(rng, grow(cell, rng, radius_nm), first, second, share)


def _substitute(rng: np.random.Generator, crystal: Crystal, first: str, second: str, share: float) -> Crystal:
    """Exchange atoms of `first` for `second` at random, keeping `share` of them."""
    atoms = int(crystal.kinds[0][first])
    rest = crystal.kinds[1:]
    mixed = tuple(
        {element: float(n) for element, n in ((first, k), (second, atoms - k)) if n} for k in range(atoms + 1)
    )
    kind = crystal.kind + atoms  # the other kinds move behind the mixed ones
    host = crystal.kind == 0
    kind[host] = rng.binomial(atoms, share, int(host.sum()))
    return replace(crystal, kind=kind.astype(np.int32), kinds=mixed + rest)

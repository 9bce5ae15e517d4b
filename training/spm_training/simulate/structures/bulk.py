"""Three-dimensional crystals, projected along directions of low indices.

Sources of the lattice constants (room temperature): elements, semiconductors, rocksalt, rutile and wurtzite structures from
R. W. G. Wyckoff, Crystal Structures 1 (1963), and the CRC Handbook of Chemistry and Physics; polar displacements of PbTiO3
from G. Shirane, R. Pepinsky and B. C. Frazer, Acta Cryst. 9 (1956) 131, of BaTiO3 from G. H. Kwei et al., J. Phys. Chem. 97
(1993) 2368; the orthorhombic and rhombohedral perovskites by their pseudo-cubic cells.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import cache
from itertools import product

import numpy as np
from numpy.typing import NDArray

from spm_training.simulate.structures.cell import Cell, project

__all__ = ["ATOMIC_NUMBER", "BCC", "FCC", "bcc", "bulk_cells", "fcc"]

Zone = tuple[int, int, int]
Atom = tuple[str, tuple[float, float, float]]

#: Atomic numbers of every element that the library uses.
ATOMIC_NUMBER: Mapping[str, int] = {
    **{
        "B": 5,
        "C": 6,
        "N": 7,
        "O": 8,
        "Mg": 12,
        "Al": 13,
        "Si": 14,
        "P": 15,
        "S": 16,
        "Ca": 20,
        "Ti": 22,
        "V": 23,
        "Cr": 24,
    },
    **{
        "Mn": 25,
        "Fe": 26,
        "Co": 27,
        "Ni": 28,
        "Cu": 29,
        "Zn": 30,
        "Ga": 31,
        "Ge": 32,
        "As": 33,
        "Se": 34,
        "Sr": 38,
        "Zr": 40,
    },
    **{
        "Nb": 41,
        "Mo": 42,
        "Ru": 44,
        "Rh": 45,
        "Pd": 46,
        "Ag": 47,
        "Cd": 48,
        "In": 49,
        "Sn": 50,
        "Te": 52,
        "Ba": 56,
        "La": 57,
    },
    **{"Ce": 58, "Nd": 60, "Hf": 72, "Ta": 73, "W": 74, "Re": 75, "Ir": 77, "Pt": 78, "Au": 79, "Pb": 82, "Bi": 83},
}

#: Lattice constants a in nm.
FCC = {
    **{"Al": 0.40495, "Ni": 0.35240, "Cu": 0.36149, "Rh": 0.38034, "Pd": 0.38907, "Ag": 0.40857},
    **{"Ir": 0.38390, "Pt": 0.39242, "Au": 0.40782},
}
BCC = {"V": 0.3024, "Cr": 0.2885, "Fe": 0.28665, "Nb": 0.33004, "Mo": 0.3147, "Ta": 0.33013, "W": 0.31652}

#: Diamond and zincblende: heavier element, lighter element, a in nm.
DIAMOND = {
    **{"C": ("C", "C", 0.35668), "Si": ("Si", "Si", 0.54310), "Ge": ("Ge", "Ge", 0.56575), "SiC": ("Si", "C", 0.43596)},
    **{
        "GaP": ("Ga", "P", 0.54505),
        "GaAs": ("As", "Ga", 0.56533),
        "AlAs": ("As", "Al", 0.56611),
        "InP": ("In", "P", 0.58687),
    },
    **{"InAs": ("In", "As", 0.60584), "ZnSe": ("Se", "Zn", 0.56687), "ZnTe": ("Te", "Zn", 0.61037)},
    **{"CdTe": ("Te", "Cd", 0.64810)},
}
ROCKSALT = {
    **{"MgO": ("Mg", "O", 0.4212), "NiO": ("Ni", "O", 0.4177), "CoO": ("Co", "O", 0.4261), "SrO": ("Sr", "O", 0.5160)},
    **{"TiN": ("Ti", "N", 0.4242), "TiC": ("Ti", "C", 0.4328), "VN": ("V", "N", 0.4139), "PbS": ("Pb", "S", 0.5936)},
    **{"PbSe": ("Pb", "Se", 0.6124), "PbTe": ("Pb", "Te", 0.6462), "SnTe": ("Te", "Sn", 0.6327)},
}
#: Rutile: metal, a, c in nm, parameter u of the oxygen.
RUTILE = {
    **{"TiO2": ("Ti", 0.45937, 0.29587, 0.3053), "SnO2": ("Sn", 0.47373, 0.31864, 0.3056)},
    **{"RuO2": ("Ru", 0.44919, 0.31066, 0.3058), "IrO2": ("Ir", 0.44983, 0.31544, 0.3077)},
}
#: Hexagonal close packing: a, c in nm.
HCP = {
    **{"Mg": (0.32094, 0.52107), "Ti": (0.29506, 0.46835), "Co": (0.25071, 0.40686), "Zn": (0.26649, 0.49468)},
    **{"Zr": (0.32316, 0.51475), "Ru": (0.27058, 0.42816), "Re": (0.27608, 0.44580), "Hf": (0.31946, 0.50511)},
}
#: Wurtzite: heavier element, lighter element, a, c in nm (u = 3/8 does not show along c).
WURTZITE = {
    **{"GaN": ("Ga", "N", 0.3189, 0.5186), "AlN": ("Al", "N", 0.3112, 0.4982), "InN": ("In", "N", 0.3545, 0.5703)},
    **{"ZnO": ("Zn", "O", 0.3250, 0.5207), "CdSe": ("Cd", "Se", 0.4299, 0.7011)},
}
#: Perovskites ABO3: A, B, a, c in nm, and the fractional heights along c of B, of the oxygen above B and of the two beside it.
PEROVSKITE = {
    "SrTiO3": ("Sr", "Ti", 0.3905, 0.3905, 0.5, 0.0, 0.5),
    "BaTiO3": ("Ba", "Ti", 0.3994, 0.4034, 0.5224, -0.0244, 0.4895),
    "PbTiO3": ("Pb", "Ti", 0.3904, 0.4152, 0.5377, 0.1118, 0.6174),
    "CaTiO3": ("Ca", "Ti", 0.3822, 0.3822, 0.5, 0.0, 0.5),
    "LaAlO3": ("La", "Al", 0.3790, 0.3790, 0.5, 0.0, 0.5),
    "SrRuO3": ("Sr", "Ru", 0.3925, 0.3925, 0.5, 0.0, 0.5),
    "LaNiO3": ("La", "Ni", 0.3840, 0.3840, 0.5, 0.0, 0.5),
    "LaMnO3": ("La", "Mn", 0.3940, 0.3940, 0.5, 0.0, 0.5),
    "NdGaO3": ("Nd", "Ga", 0.3860, 0.3860, 0.5, 0.0, 0.5),
    "BiFeO3": ("Bi", "Fe", 0.3965, 0.3965, 0.5, 0.0, 0.5),
    "BaSnO3": ("Ba", "Sn", 0.4116, 0.4116, 0.5, 0.0, 0.5),
    "BaZrO3": ("Ba", "Zr", 0.4193, 0.4193, 0.5, 0.0, 0.5),
}

_FACE_CENTRED = np.array([[0.0, 0.5, 0.5], [0.5, 0.0, 0.5], [0.5, 0.5, 0.0]])
_BODY_CENTRED = np.array([[-0.5, 0.5, 0.5], [0.5, -0.5, 0.5], [0.5, 0.5, -0.5]])
_SIMPLE = np.eye(3)


def _hexagonal(a: float, c: float) -> NDArray[np.float64]:
    return np.array([[a, 0.0, 0.0], [-a / 2, a * np.sqrt(3) / 2, 0.0], [0.0, 0.0, c]])


def fcc(element: str, zone: Zone, a: float | None = None) -> Cell:
    """A face-centred cubic metal; `a` in nm replaces the tabulated constant (alloys)."""
    return project(element, np.eye(3) * (a or FCC[element]), _FACE_CENTRED, [(element, (0, 0, 0))], zone)


def bcc(element: str, zone: Zone, a: float | None = None) -> Cell:
    """A body-centred cubic metal; `a` in nm replaces the tabulated constant (alloys)."""
    return project(element, np.eye(3) * (a or BCC[element]), _BODY_CENTRED, [(element, (0, 0, 0))], zone)


def diamond(name: str, zone: Zone) -> Cell:
    """Diamond or zincblende structure."""
    heavy, light, a = DIAMOND[name]
    atoms: list[Atom] = [(heavy, (0, 0, 0)), (light, (0.25, 0.25, 0.25))]
    return project(name, np.eye(3) * a, _FACE_CENTRED, atoms, zone)


def rocksalt(name: str, zone: Zone) -> Cell:
    """Rocksalt structure."""
    heavy, light, a = ROCKSALT[name]
    return project(name, np.eye(3) * a, _FACE_CENTRED, [(heavy, (0, 0, 0)), (light, (0.5, 0.5, 0.5))], zone)


def rutile(name: str, zone: Zone) -> Cell:
    """Rutile structure."""
    metal, a, c, u = RUTILE[name]
    atoms: list[Atom] = [(metal, (0, 0, 0)), (metal, (0.5, 0.5, 0.5))]
    atoms += [("O", (s * u, s * u, 0)) for s in (1, -1)] + [("O", (0.5 + s * u, 0.5 - s * u, 0.5)) for s in (1, -1)]
    return project(name, np.diag([a, a, c]), _SIMPLE, atoms, zone)


def hcp(name: str, zone: Zone) -> Cell:
    """Hexagonal close packing."""
    atoms: list[Atom] = [(name, (1 / 3, 2 / 3, 0.25)), (name, (2 / 3, 1 / 3, 0.75))]
    return project(name, _hexagonal(*HCP[name]), _SIMPLE, atoms, zone)


def wurtzite(name: str, zone: Zone) -> Cell:
    """Wurtzite structure."""
    heavy, light, a, c = WURTZITE[name]
    metal: list[Atom] = [(heavy, (1 / 3, 2 / 3, 0.0)), (heavy, (2 / 3, 1 / 3, 0.5))]
    other: list[Atom] = [(light, (1 / 3, 2 / 3, 0.375)), (light, (2 / 3, 1 / 3, 0.875))]
    return project(name, _hexagonal(a, c), _SIMPLE, metal + other, zone)


def perovskite(name: str, zone: Zone) -> Cell:
    """Cubic or tetragonal perovskite; across the polar axis the displacements show."""
    a_site, b_site, a, c, z_b, z_o1, z_o2 = PEROVSKITE[name]
    atoms: list[Atom] = [(a_site, (0, 0, 0)), (b_site, (0.5, 0.5, z_b))]
    atoms += [("O", (0.5, 0.5, z_o1)), ("O", (0.5, 0.0, z_o2)), ("O", (0.0, 0.5, z_o2))]
    return project(name, np.diag([a, a, c]), _SIMPLE, sorted(atoms, key=lambda atom: -ATOMIC_NUMBER[atom[0]]), zone)


def _all(build: Callable[[str, Zone], Cell], names: Mapping[str, object], *zones: Zone) -> tuple[Cell, ...]:
    return tuple(build(name, zone) for name, zone in product(names, zones))


@cache
def bulk_cells() -> Mapping[str, tuple[Cell, ...]]:
    """Cells of the three-dimensional crystals by family; one is drawn of each family at random."""
    polar = [name for name, constants in PEROVSKITE.items() if constants[2] != constants[3]]
    cubic = [name for name in PEROVSKITE if name not in polar]
    # [100] and [110] look across the polar axis of a tetragonal cell.
    perovskite_001 = tuple(perovskite(name, (1, 0, 0)) for name in (*cubic, *polar))
    perovskite_110 = tuple(perovskite(name, (1, 1, 0)) for name in (*cubic, *polar))
    return {
        "perovskite-001": perovskite_001,
        "perovskite-110": perovskite_110,
        "fcc-001": _all(fcc, FCC, (0, 0, 1)),
        "fcc-110": _all(fcc, FCC, (1, 1, 0)),
        "fcc-111": _all(fcc, FCC, (1, 1, 1)),
        "bcc-001": _all(bcc, BCC, (0, 0, 1)),
        "bcc-111": _all(bcc, BCC, (1, 1, 1)),
        "diamond-110": _all(diamond, DIAMOND, (1, 1, 0)),
        "diamond-001": _all(diamond, DIAMOND, (0, 0, 1)),
        "rocksalt-001": _all(rocksalt, ROCKSALT, (0, 0, 1)),
        "rutile-001": _all(rutile, RUTILE, (0, 0, 1)),
        "hcp-0001": _all(hcp, HCP, (0, 0, 1)) + _all(wurtzite, WURTZITE, (0, 0, 1)),
    }

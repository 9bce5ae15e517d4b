"""Two-dimensional materials, seen along the normal of the layer.

Sources of the lattice constants: the 2H and 1T dichalcogenides from J. A. Wilson and A. D. Yoffe, Adv. Phys. 18 (1969) 193
(2H MoS2: a = 0.315 nm as in the paper on AtomID); 1T' MoTe2 from B. E. Brown, Acta Cryst. 20 (1966) 268; graphite and h-BN from
R. W. G. Wyckoff, Crystal Structures 1 (1963).
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache

import numpy as np
from numpy.typing import NDArray

from spm_training.simulate.structures.cell import Cell

__all__ = ["TMD_2H", "layer_cells", "two_h"]

#: Lattice constant a in nm of trigonal-prismatic dichalcogenides: metal, chalcogen, a.
TMD_2H: Mapping[str, tuple[str, str, float]] = {
    "MoS2": ("Mo", "S", 0.3150),
    "WS2": ("W", "S", 0.3153),
    "MoSe2": ("Mo", "Se", 0.3288),
    "WSe2": ("W", "Se", 0.3282),
    "MoTe2": ("Mo", "Te", 0.3519),
    "NbSe2": ("Nb", "Se", 0.3445),
}

#: The same of octahedral dichalcogenides.
TMD_1T: Mapping[str, tuple[str, str, float]] = {
    "HfS2": ("Hf", "S", 0.3635),
    "HfSe2": ("Hf", "Se", 0.3748),
    "ZrS2": ("Zr", "S", 0.3662),
    "ZrSe2": ("Zr", "Se", 0.3770),
    "TiS2": ("Ti", "S", 0.3407),
    "TiSe2": ("Ti", "Se", 0.3540),
    "TaS2": ("Ta", "S", 0.3365),
    "VSe2": ("V", "Se", 0.3353),
    "PtS2": ("Pt", "S", 0.3543),
    "PtSe2": ("Pt", "Se", 0.3728),
    "PtTe2": ("Pt", "Te", 0.4026),
    "SnS2": ("Sn", "S", 0.3648),
    "SnSe2": ("Sn", "Se", 0.3811),
}

#: Cell of 1T'' ReS2: a, b, c in nm and α, β, γ in degrees (the model that the paper on AtomID simulates).
RES2_CELL = (0.6670, 0.6793, 0.7200, 91.83, 104.15, 118.81)

#: Fractional coordinates of its four Re atoms.
RES2_RE = (
    (0.0642, 0.3162, 0.4908),
    (0.9358, 0.6838, 0.5092),
    (0.4867, 0.2909, 0.4968),
    (0.5133, 0.7091, 0.5032),
)

#: The S atoms cap the eight triangles of the Re net, in turn from above and below. The model above lists no S: each is put over
#: the centroid of its three Re atoms, given as (index into `RES2_RE`, cells along a, cells along b).
RES2_S = (
    ((3, 0, 0), (1, -1, 0), (0, 0, 0)),
    ((1, -1, 0), (3, 0, 0), (2, 0, 1)),
    ((1, -1, -1), (2, 0, 0), (0, 0, 0)),
    ((2, 0, 0), (3, 0, 0), (0, 0, 0)),
    ((3, 0, 0), (2, 0, 0), (1, 0, 0)),
    ((2, 0, 0), (0, 1, 0), (1, 0, 0)),
    ((0, 1, 0), (2, 0, 0), (3, 0, -1)),
    ((0, 1, 1), (3, 0, 0), (1, 0, 0)),
)

#: 1T' MoTe2: a, b, c in nm and β in degrees; the atoms of one layer, of which the inversion at the origin makes the other half.
MOTE2_1TP_CELL = (0.6330, 0.3469, 1.386, 93.55)
MOTE2_1TP = (
    ("Mo", (0.1829, 0.25, 0.0079)),
    ("Te", (0.5882, 0.25, 0.1063)),
    ("Te", (0.0972, 0.75, 0.1492)),
)


def _hexagonal(a: float) -> NDArray[np.float64]:
    """Rows (y, x) of a hexagonal cell with 120° between its vectors."""
    return a * np.array([[0.0, 1.0], [np.sqrt(3) / 2, -0.5]])


def _trigonal(name: str, a: float, contents: tuple[dict[str, float], ...], places: tuple[int, ...]) -> Cell:
    """Columns on the three-fold axes of a hexagonal cell: place n is (n/3, 2n/3)."""
    vectors = _hexagonal(a)
    return Cell(name, vectors, np.array([[n / 3, 2 * n / 3] for n in places]) % 1 @ vectors, contents)


def two_h(name: str) -> Cell:
    """A trigonal-prismatic monolayer: the metal on one sublattice of a honeycomb, two chalcogens on the other."""
    metal, chalcogen, a = TMD_2H[name]
    return _trigonal(name, a, ({metal: 1.0}, {chalcogen: 2.0}), (1, 2))


def one_t(name: str) -> Cell:
    """An octahedral monolayer: metal, upper and lower chalcogen on the three three-fold axes."""
    metal, chalcogen, a = TMD_1T[name]
    return _trigonal(name, a, ({metal: 1.0}, {chalcogen: 1.0}, {chalcogen: 1.0}), (0, 1, 2))


def res2() -> Cell:
    """The distorted 1T monolayer of ReS2, with its chains of Re4 diamonds."""
    a, b, c = RES2_CELL[:3]
    alpha, beta, gamma = np.radians(RES2_CELL[3:])
    vectors = np.array([[0.0, a], [b * np.sin(gamma), b * np.cos(gamma)]])
    c_yx = c * np.array([(np.cos(alpha) - np.cos(beta) * np.cos(gamma)) / np.sin(gamma), np.cos(beta)])
    re = np.array(RES2_RE)
    re_yx = re[:, :2] @ vectors + (re[:, 2:] - 0.5) * c_yx
    triangles = np.array(RES2_S)
    s_yx = (re_yx[triangles[..., 0]] + triangles[..., 1:] @ vectors).mean(axis=1)
    return Cell("ReS2", vectors, np.concatenate([re_yx, s_yx]), ({"Re": 1.0},) * 4 + ({"S": 1.0},) * 8)


def mote2_1tp() -> Cell:
    """The 1T' monolayer of MoTe2, with its zigzag chains of Mo."""
    a, b, c = MOTE2_1TP_CELL[:3]
    c_x = c * np.cos(np.radians(MOTE2_1TP_CELL[3]))
    yx, contents = [], []
    for element, (u, v, w) in MOTE2_1TP:
        place = np.array([v * b, u * a + w * c_x])
        yx += [place, -place]
        contents += [{element: 1.0}, {element: 1.0}]
    # The short vector first, along x.
    swap = np.array([[0.0, 1.0], [1.0, 0.0]])
    return Cell("MoTe2 1T'", np.diag([b, a]) @ swap, np.array(yx) @ swap, tuple(contents))


def boron_nitride(layers: int) -> Cell:
    """h-BN in AA' stacking: B and N take turns along a column."""
    most, least = float((layers + 1) // 2), float(layers // 2)
    contents: tuple[dict[str, float], ...] = ({"B": most, "N": least}, {"N": most, "B": least})
    contents = tuple({element: n for element, n in content.items() if n} for content in contents)
    return _trigonal(f"h-BN, {layers} layers", 0.2504, contents, (1, 2))


@cache
def layer_cells() -> Mapping[str, tuple[Cell, ...]]:
    """Cells of the two-dimensional materials by family; one is drawn of each family at random."""
    graphene = _trigonal("graphene", 0.2461, ({"C": 1.0}, {"C": 1.0}), (1, 2))
    bilayer = _trigonal("graphene AB", 0.2461, ({"C": 2.0}, {"C": 1.0}, {"C": 1.0}), (0, 1, 2))
    return {
        "mos2-2h": (two_h("MoS2"),),
        "res2-1t": (res2(),),
        "ws2-2h": (two_h("WS2"),),
        "wse2-2h": (two_h("WSe2"),),
        "mote2": (two_h("MoTe2"), mote2_1tp()),
        "tmd-1t": tuple(one_t(name) for name in TMD_1T),
        "graphene": (graphene, graphene, graphene, bilayer),
        "h-bn": tuple(boron_nitride(layers) for layers in (1, 1, 1, 2, 3)),
    }

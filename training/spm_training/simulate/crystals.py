"""The library of crystal structures that the STEM simulator draws from, projected along the beam.

Each family is a function of a random generator and a radius in nm that returns the columns on a disc around the origin:
material, direction, origin and thickness are drawn anew by every call. Point defects and the microscope are not its matter.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from types import MappingProxyType

import numpy as np

from spm_training.simulate.structures.bulk import bulk_cells
from spm_training.simulate.structures.cell import Cell, Crystal, grow
from spm_training.simulate.structures.layers import layer_cells
from spm_training.simulate.structures.mixed import (
    alloy,
    grain_boundary,
    heterostructure,
    isolated_atoms,
    nanoparticle,
    random_crystal,
)

__all__ = ["CRYSTALS", "Crystal"]

Family = Callable[[np.random.Generator, float], Crystal]


def _single(cells: tuple[Cell, ...]) -> Family:
    """A family of perfect crystals: one of `cells` per call."""

    def draw(rng: np.random.Generator, radius_nm: float) -> Crystal:
        return grow(cells[int(rng.integers(len(cells)))], rng, radius_nm)

    return draw


#: Every family by name: ``CRYSTALS[name](rng, radius_nm)`` is a new `Crystal`.
CRYSTALS: Mapping[str, Family] = MappingProxyType(
    {
        **{name: _single(cells) for name, cells in (*layer_cells().items(), *bulk_cells().items())},
        "heterostructure": heterostructure,
        "grain-boundary": grain_boundary,
        "nanoparticle": nanoparticle,
        "isolated-atoms": isolated_atoms,
        "random-crystal": random_crystal,
        "alloy": alloy,
    }
)

"""What one atom sends to an annular dark-field detector as the probe of a STEM moves over it: tables out of a cache.

High-angle scattering of different atoms is nearly incoherent (Pennycook and Jesson, Ultramicroscopy 37 (1991) 14), so that the
image of a thin specimen is the sum of the images of its atoms. `spm_training.simulate.compute_responses` calculates those
single-atom images by multislice with abTEM and writes them into ``responses.npz`` beside this module; reading them needs
NumPy only.

What the tables hold, and what they leave to the builder of a scene:

* elastic scattering of an atom **at rest**. Thermal vibration moves the atom under the probe; in the incoherent picture its mean
  effect is a Gaussian blur of the response with the r.m.s. displacement along one axis (0.005 to 0.010 nm at room temperature).
* a **point source**. The finite source of a real microscope is one more Gaussian blur, of σ 0.02 to 0.05 nm.
* **one atom**. Channelling along thick columns and interference between atoms are left out. Interference shows most between
  atoms exactly above one another: against full multislice of a MoS₂ layer at rest, S₂ is −16 % (200 kV) to +22 % (60 kV) off.
* the axes of the astigmatism are those of the table; rotate the table for another direction.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from spm_runtime.errors import ParameterError

__all__ = ["ELEMENTS", "RESPONSES_PATH", "Optics", "Responses", "load_responses"]

#: Where the cache lies: beside this module, in the wheel too.
RESPONSES_PATH = Path(__file__).with_name("responses.npz")

#: Elements of the tables, by atomic number: those of common two-dimensional materials, perovskites, metals and semiconductors.
ELEMENTS: tuple[str, ...] = (
    *("B", "C", "N", "O", "F", "Mg", "Al", "Si", "P", "S", "Ca", "Ti", "V", "Cr", "Mn", "Fe", "Co", "Ni", "Cu", "Zn"),
    *("Ga", "Ge", "As", "Se", "Sr", "Zr", "Nb", "Mo", "Ru", "Rh", "Pd", "Ag", "Cd", "In", "Sn", "Sb", "Te", "I", "Cs"),
    *("Ba", "La", "Nd", "Hf", "Ta", "W", "Re", "Ir", "Pt", "Au", "Pb", "Bi"),
)


@dataclass(frozen=True)
class Optics:
    """A probe and a detector.

    Parameters
    ----------
    name
        For people, as ``100 kV 30 mrad, focused, HAADF``.
    energy_kev
        Energy of the electrons in keV.
    semiangle_mrad
        Convergence semi-angle of the probe in mrad.
    defocus_nm
        Defocus in nm; positive is underfocus (abTEM's sign, −C₁).
    astigmatism_nm
        Twofold astigmatism A₁ = C₁₂ in nm, along the axes of the table: the defocus of the rays in the plane of x is
        ``defocus_nm − astigmatism_nm``, of those in the plane of y ``defocus_nm + astigmatism_nm``.
    inner_mrad, outer_mrad
        Angles that the detector covers, in mrad.
    spherical_aberration_mm
        C₃ in mm; 0 for a corrected microscope.
    """

    name: str
    energy_kev: float
    semiangle_mrad: float
    defocus_nm: float
    astigmatism_nm: float
    inner_mrad: float
    outer_mrad: float
    spherical_aberration_mm: float = 0.0


@dataclass(frozen=True, eq=False)
class Responses:
    """Single-atom responses of every element under every optics.

    Parameters
    ----------
    elements
        Symbols of the elements, the second axis of the table.
    optics
        Probes with their detectors, the first axis of the table.
    step_nm
        Distance of two neighbouring points of the table in nm.
    table
        ``(n_optics, n_elements, 2K+1, 2K+1)`` float32, axes (…, y, x), the atom at ``[K, K]``: the **fraction of the incident
        probe that lands on the detector**. It falls to zero at the radius ``K · step_nm``.
    """

    elements: tuple[str, ...]
    optics: tuple[Optics, ...]
    step_nm: float
    table: NDArray[np.float32]

    @property
    def radius_nm(self) -> float:
        """Distance in nm from the atom at which the tables end."""
        return int(self.table.shape[-1] // 2) * self.step_nm

    def kernel(self, optics_index: int, column: Mapping[str, float]) -> NDArray[np.float32]:
        """Response of a column of atoms: the incoherent sum of its atoms.

        Parameters
        ----------
        optics_index
            Position in `optics`.
        column
            Number of atoms by element; a fraction stands for a partly occupied site.

        Returns
        -------
        numpy.ndarray
            ``(2K+1, 2K+1)`` float32, fraction of the incident probe on the detector; zeros for an empty column.

        Raises
        ------
        ParameterError
            For an optics or an element that the tables lack, or a number of atoms that is negative or not finite.
        """
        if not 0 <= optics_index < len(self.optics):
            raise ParameterError(f"optics_index is {optics_index}: the tables have 0 to {len(self.optics) - 1}")
        total = np.zeros(self.table.shape[-2:], dtype=np.float32)
        for element, count in column.items():
            if element not in self.elements:
                raise ParameterError(
                    f"no response for the element {element!r}: the tables have {', '.join(self.elements)}"
                )
            if not 0 <= count < np.inf:
                raise ParameterError(f"{count} atoms of {element} in a column: expected a finite number, zero or more")
            total += np.float32(count) * self.table[optics_index, self.elements.index(element)]
        return total


@cache
def load_responses() -> Responses:
    """The shipped tables, read once per process.

    Returns
    -------
    Responses
        Its table is read-only, for every caller gets the same one.
    """
    with np.load(RESPONSES_PATH, allow_pickle=False) as cached:
        optics = tuple(Optics(**fields) for fields in json.loads(str(cached["optics"])))
        elements = tuple(str(symbol) for symbol in cached["elements"])
        step_nm, fine_step_nm = float(cached["step_nm"]), float(cached["profile_step_nm"])
        peak, profiles, quadrants = cached["peak"], cached["profiles"], cached["quadrants"]
        between = _interpolation(cached["atomic_numbers"], cached["shape_atomic_numbers"])
    side = quadrants.shape[-1]
    is_round = np.array([probe.astigmatism_nm == 0 for probe in optics])
    shapes = np.empty((len(optics), between.shape[1], side, side), dtype=np.float32)
    shapes[is_round] = _revolve(profiles.astype(np.float32), fine_step_nm, step_nm, side)
    shapes[~is_round] = quadrants
    table = _mirror(np.einsum("es,osyx->oeyx", between, shapes) * peak[:, :, None, None])
    table.flags.writeable = False
    return Responses(elements, optics, step_nm, table)


def _interpolation(atomic_numbers: NDArray[np.int64], known: NDArray[np.int64]) -> NDArray[np.float32]:
    """Weights ``(elements, shapes)`` that interpolate linearly between the elements whose shape is stored."""
    columns = [np.interp(atomic_numbers, known, unit) for unit in np.eye(len(known))]
    return np.stack(columns, axis=1).astype(np.float32)


def _revolve(profiles: NDArray[np.float32], profile_step_nm: float, step_nm: float, side: int) -> NDArray[np.float32]:
    """Quadrants of round responses: ``(…, R)`` profiles over the distance become ``(…, side, side)``."""
    axis = np.arange(side) * step_nm
    place = np.hypot(axis[:, None], axis[None, :]) / profile_step_nm
    low = np.minimum(place.astype(np.int64), profiles.shape[-1] - 2)
    share = np.minimum(place - low, 1.0).astype(np.float32)  # the last point of a profile is zero: so is all beyond it
    revolved: NDArray[np.float32] = profiles[..., low] * (1 - share) + profiles[..., low + 1] * share
    return revolved


def _mirror(quadrants: NDArray[np.float32]) -> NDArray[np.float32]:
    """Whole tables out of the quadrant y ≥ 0, x ≥ 0: ``(…, S, S)`` becomes ``(…, 2S−1, 2S−1)``."""
    right = np.concatenate([quadrants[..., :0:-1, :], quadrants], axis=-2)
    return np.concatenate([right[..., :0:-1], right], axis=-1)

"""Atomic corrugation as a good tip sees it: sums of waves for lattices, sums of atoms for the reconstructions of silicon."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray
from scipy.spatial import cKDTree

from spm_training.simulate.splat import sum_gaussians
from spm_training.simulate.surfaces.frame import Raster

__all__ = ["AtomPattern", "Pattern", "Site", "WavePattern", "hexagonal_cell", "reciprocal", "square_cell"]


class Site(NamedTuple):
    """A place of the lattice where a defect can sit.

    Parameters
    ----------
    yx_nm
        ``(2,)`` place.
    angle
        Direction of the lattice there in radians, from x towards y.
    height_nm
        Height of the atom there; 0 where atoms have none of their own.
    neighbours_nm
        ``(K, 2)`` vectors to the nearest atoms.
    """

    yx_nm: NDArray[np.float64]
    angle: float
    height_nm: float
    neighbours_nm: NDArray[np.float64]


class Pattern(Protocol):
    """What a surface gives to the simulator. `level` is the index of a terrace."""

    def corrugation(
        self, raster: Raster, y: NDArray[np.float64], x: NDArray[np.float64], level: NDArray[np.int32]
    ) -> NDArray[np.float64]:
        """``(H, W)`` corrugation in nm around an arbitrary mean."""
        ...

    def site(self, yx_nm: NDArray[np.float64], level: int) -> Site:
        """The site nearest to a place on a terrace."""
        ...

    def angle(self, level: NDArray[np.int32]) -> NDArray[np.float64]:
        """Direction of the lattice on terraces, in radians from x towards y."""
        ...


def hexagonal_cell(constant_nm: float, angle: float) -> NDArray[np.float64]:
    """``(2, 2)`` rows a1 and a2 as ``(y, x)``, 60° apart, a1 at `angle` from x towards y."""
    both = np.array([angle, angle + np.pi / 3])
    return constant_nm * np.stack([np.sin(both), np.cos(both)], axis=1)


def square_cell(constant_nm: float, angle: float) -> NDArray[np.float64]:
    """``(2, 2)`` rows a1 and a2 as ``(y, x)`` at a right angle."""
    both = np.array([angle, angle + np.pi / 2])
    return constant_nm * np.stack([np.sin(both), np.cos(both)], axis=1)


def reciprocal(cell: NDArray[np.float64]) -> NDArray[np.float64]:
    """Rows b1 and b2 with ``a_i · b_j = 2π δ_ij``."""
    return np.asarray(2 * np.pi * np.linalg.inv(cell).T)


def resolved(wavelength_px: float) -> float:
    """Share of a corrugation that survives its sampling: 1 from 3 pixels per wave on, 0 at 2."""
    return float(np.clip(wavelength_px - 2.0, 0.0, 1.0))


@dataclass(frozen=True, eq=False)
class WavePattern:
    """A lattice as a few plane waves, sharpened, with what modulates it.

    Parameters
    ----------
    cell
        ``(2, 2)`` lattice vectors in nm.
    waves
        ``(M, 2)`` wave vectors in rad/nm.
    phases
        ``(M,)`` phases: 0 everywhere gives bumps, π holes, between them the triangles of graphite.
    height_nm
        Peak-to-valley corrugation.
    sharpness
        Exponent on the normalised corrugation: above 1 narrow peaks, below 1 narrow valleys.
    shifts_nm
        ``(C, 2)`` offset of the lattice on terrace ``index mod C``.
    superlattice
        A second, longer pattern: a moiré or a pore network.
    modulation
        How far the superlattice modulates the corrugation.
    ridges
        Pairs of ridges of the herringbone.
    """

    cell: NDArray[np.float64]
    waves: NDArray[np.float64]
    phases: NDArray[np.float64]
    height_nm: float
    sharpness: float
    shifts_nm: NDArray[np.float64]
    superlattice: WavePattern | None = None
    modulation: float = 0.0
    ridges: Herringbone | None = None

    def corrugation(
        self, raster: Raster, y: NDArray[np.float64], x: NDArray[np.float64], level: NDArray[np.int32]
    ) -> NDArray[np.float64]:
        """``(H, W)`` corrugation in nm."""
        pitch = float(np.min(2 * np.pi / np.hypot(*self.waves.T)))
        height = self.height_nm * resolved(pitch / raster.pixel_size_nm)
        out = np.zeros(y.shape)
        if height:
            shift = self.shifts_nm[level % len(self.shifts_nm)] if len(self.shifts_nm) > 1 else self.shifts_nm[0]
            out = height * self._normalised(y - shift[..., 0], x - shift[..., 1])
        if self.superlattice is not None:
            longer = self.superlattice.corrugation(raster, y, x, level)
            if self.modulation and self.superlattice.height_nm:
                out *= 1 + self.modulation * (longer / self.superlattice.height_nm - 0.5)
            out += longer
        return out if self.ridges is None else out + self.ridges.height(y, x)

    def _normalised(self, y: NDArray[np.float64], x: NDArray[np.float64]) -> NDArray[np.float64]:
        low, high = self._range()
        total = np.zeros(y.shape)
        for (qy, qx), phase in zip(self.waves, self.phases, strict=True):
            total += np.cos(qy * y + qx * x + phase)
        total = np.clip((total - low) / (high - low), 0.0, 1.0)
        return total if self.sharpness == 1.0 else np.asarray(total**self.sharpness)

    def _range(self) -> tuple[float, float]:
        """Lowest and highest sum of the waves, over the unit cell."""
        steps = np.stack(np.meshgrid(*[np.linspace(0, 1, 24, endpoint=False)] * 2), axis=-1).reshape(-1, 2)
        total = np.cos(steps @ self.cell @ self.waves.T + self.phases).sum(axis=1)
        return float(total.min()), float(total.max())

    def site(self, yx_nm: NDArray[np.float64], level: int) -> Site:
        """The nearest corner of a cell."""
        origin = self.shifts_nm[level % len(self.shifts_nm)]
        fraction = np.rint((yx_nm - origin) @ np.linalg.inv(self.cell))
        steps = np.array([(1, 0), (0, 1), (-1, 0), (0, -1)])
        return Site(fraction @ self.cell + origin, self._angle(), 0.0, steps @ self.cell)

    def angle(self, level: NDArray[np.int32]) -> NDArray[np.float64]:
        """The same on every terrace."""
        return np.full(level.shape, self._angle())

    def _angle(self) -> float:
        return float(np.arctan2(self.cell[0, 0], self.cell[0, 1]))


@dataclass(frozen=True)
class Herringbone:
    """The 22×√3 reconstruction of Au(111): pairs of ridges every 6.3 nm that bend by 120°.

    Source: Barth et al., Phys. Rev. B 42, 9307 (1990).
    """

    angle: float
    offset_nm: float
    bend_nm: float
    height_nm: float

    def height(self, y: NDArray[np.float64], x: NDArray[np.float64]) -> NDArray[np.float64]:
        """``(H, W)`` height of the ridges in nm."""
        period, gap, width = 6.3, 2.5, 0.55
        v = np.cos(self.angle) * x + np.sin(self.angle) * y
        u = -np.sin(self.angle) * x + np.cos(self.angle) * y
        if self.bend_nm > 0:
            # A triangular wave with slopes of ±30°, rounded at its bends.
            wave = self.bend_nm / np.pi * np.arcsin(0.97 * np.sin(np.pi * v / self.bend_nm))
            u = u + np.tan(np.pi / 6) * wave
            # Measured across the mean direction.
            period, gap, width = (length / np.cos(np.pi / 6) for length in (period, gap, width))
        phase = (u - self.offset_nm) % period
        total = np.zeros(y.shape)
        for centre in (0.5 * (period - gap), 0.5 * (period + gap)):
            total += np.exp(-0.5 * ((phase - centre) / width) ** 2)
        return self.height_nm * total


@dataclass(frozen=True, eq=False)
class AtomPattern:
    """A reconstruction as a sum of Gaussian atoms and holes.

    Parameters
    ----------
    atoms_nm
        For each kind of terrace, ``(N, 2)`` places of the atoms.
    heights_nm
        ``(N,)`` heights of the atoms, the same on every terrace.
    holes_nm
        For each kind of terrace, ``(M, 2)`` centres of the holes.
    hole_nm
        Depth of the holes.
    sigma_nm
        Width of an atom.
    sites_nm
        For each kind of terrace, ``(K, 2)`` places where defects sit.
    angles
        For each kind of terrace, the direction of its lattice in radians.
    pitch_nm
        Shortest distance that must be sampled for the atoms to show.
    hole_sigma_nm
        Width of a hole.
    """

    atoms_nm: Sequence[NDArray[np.float64]]
    heights_nm: NDArray[np.float64]
    holes_nm: Sequence[NDArray[np.float64]]
    hole_nm: float
    sigma_nm: float
    sites_nm: Sequence[NDArray[np.float64]]
    angles: Sequence[float]
    pitch_nm: float
    hole_sigma_nm: float = 0.0
    _trees: dict[int, cKDTree] = field(default_factory=dict)

    def corrugation(
        self, raster: Raster, y: NDArray[np.float64], x: NDArray[np.float64], level: NDArray[np.int32]
    ) -> NDArray[np.float64]:
        """``(H, W)`` corrugation in nm."""
        share = resolved(self.pitch_nm / raster.pixel_size_nm)
        out = np.zeros(raster.shape)
        kinds = level % len(self.atoms_nm)
        present = np.unique(kinds)
        for kind in present:
            for places, heights, sigma in (
                (self.atoms_nm[kind], self.heights_nm, self.sigma_nm),
                (self.holes_nm[kind], np.full(len(self.holes_nm[kind]), -self.hole_nm), self.hole_sigma_nm),
            ):
                px = raster.to_px(places)
                near = np.clip(np.rint(px).astype(np.int64), 0, np.asarray(raster.shape) - 1)
                here = kinds[near[:, 0], near[:, 1]] == kind
                out += sum_gaussians(px[here], share * heights[here], sigma / raster.pixel_size_nm, raster.shape)
        return out

    def site(self, yx_nm: NDArray[np.float64], level: int) -> Site:
        """The nearest of `sites_nm`."""
        kind = level % len(self.sites_nm)
        if kind not in self._trees:
            self._trees[kind] = cKDTree(self.sites_nm[kind])
        index = self._trees[kind].query(yx_nm, k=5)[1]
        places = self.sites_nm[kind][index]
        height = float(self.heights_nm[index[0]]) if len(self.heights_nm) == len(self.sites_nm[kind]) else 0.0
        return Site(places[0], self.angles[kind], height, places[1:] - places[0])

    def angle(self, level: NDArray[np.int32]) -> NDArray[np.float64]:
        """That of each kind of terrace."""
        return np.asarray(np.asarray(self.angles)[level % len(self.angles)])

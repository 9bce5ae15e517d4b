"""Surfaces for the scanning tunnelling microscope: atoms, steps and what lies on them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from types import MappingProxyType

import numpy as np
from numpy.typing import NDArray

from spm_training.simulate.tips.primitives import between, log_between, rotated_grid, self_affine
from spm_training.simulate.tips.surfaces import Surface

__all__ = ["STM_SURFACES"]

Field = NDArray[np.float64]
Shape = tuple[int, int]


def _cell(rng: np.random.Generator, spacing: float) -> NDArray[np.float64]:
    """Two base vectors in pixels: square, hexagonal, rectangular or oblique, turned by any angle."""
    kind = rng.random()
    gamma = np.pi / 3 if kind < 0.5 else (np.pi / 2 if kind < 0.85 else between(rng, 1.0, 1.5))
    ratio = 1.0 if kind < 0.7 else between(rng, 1.1, 2.0)
    angle = between(rng, 0, 2 * np.pi)
    return spacing * np.array(
        [[np.sin(angle), np.cos(angle)], [ratio * np.sin(angle + gamma), ratio * np.cos(angle + gamma)]]
    )


def _sites(rng: np.random.Generator, shape: Shape, cell: NDArray[np.float64]) -> NDArray[np.float64]:
    """``(N, 2)`` nodes of a lattice that reach a cell beyond the frame."""
    diagonal = np.hypot(*shape) / 2
    reach = int(np.ceil(diagonal / min(np.linalg.norm(cell, axis=1)) / np.sin(np.pi / 3))) + 2
    i, j = np.mgrid[-reach : reach + 1, -reach : reach + 1].reshape(2, -1)
    yx = np.stack([i, j], 1) @ cell + np.asarray(shape) / 2 + rng.uniform(0, 1, 2) @ cell
    margin = 1.5 * float(np.abs(cell).max())
    return np.asarray(yx[np.all((yx > -margin) & (yx < np.asarray(shape) + margin), axis=1)])


def _stamp(field: Field, yx: NDArray[np.float64], height: NDArray[np.float64], width: NDArray[np.float64]) -> None:
    """Add Gaussian bumps of given heights and widths (σ), in place."""
    rows, columns = field.shape
    for (y, x), h, s in zip(yx, height, width, strict=True):
        reach = int(np.ceil(3.5 * s))
        top, left = max(int(y) - reach, 0), max(int(x) - reach, 0)
        bottom, right = min(int(y) + reach + 1, rows), min(int(x) + reach + 1, columns)
        if top < bottom and left < right:
            along_y = np.exp(-0.5 * ((np.arange(top, bottom) - y) / s) ** 2)
            along_x = np.exp(-0.5 * ((np.arange(left, right) - x) / s) ** 2)
            field[top:bottom, left:right] += h * along_y[:, None] * along_x


def _atoms(
    rng: np.random.Generator, shape: Shape, spacing: float, corrugation: float
) -> tuple[Field, NDArray[np.float64]]:
    """Corrugation of a lattice with one to five atoms of different heights in its cell, with vacancies; and its nodes."""
    atoms = int(rng.choice([1, 1, 1, 2, 3, 5]))
    cell = _cell(rng, spacing * np.sqrt(atoms))
    nodes = _sites(rng, shape, cell)
    vacant = log_between(rng, 1e-4, 0.06)
    field = np.zeros(shape)
    for place in rng.uniform(0, 1, (atoms, 2)) @ cell:
        kept = nodes[rng.random(len(nodes)) > vacant] + place
        rise = corrugation * (1.0 if atoms == 1 else between(rng, 0.5, 1.2)) * rng.normal(1, 0.03, len(kept))
        _stamp(field, kept, rise, np.full(len(kept), spacing * between(rng, 0.24, 0.36)))
    return field, nodes


def _adsorbates(
    rng: np.random.Generator, field: Field, nodes: NDArray[np.float64], spacing: float, tall: float
) -> None:
    """Adatoms, molecules of a few lobes and dark depressions on sites of the lattice, in place; up to ``tall`` high."""
    count = min(int(rng.integers(0, 25)), len(nodes))
    for site in nodes[rng.choice(len(nodes), count, replace=False)]:
        kind = rng.random()
        if kind < 0.5:
            lobes = np.zeros((1, 2))
        elif kind < 0.8:
            lobes = rng.normal(0, 0.8 * spacing, (int(rng.integers(2, 6)), 2))
        else:
            _stamp(
                field, site[None], np.array([-0.4 * tall * rng.random()]), np.array([spacing * between(rng, 0.3, 1.0)])
            )
            continue
        rise = tall * between(rng, 0.3, 1.0) * np.ones(len(lobes)) / np.sqrt(len(lobes))
        _stamp(field, site + lobes, rise, spacing * rng.uniform(0.3, 0.7, len(lobes)))


def lattice(rng: np.random.Generator, shape: Shape) -> Surface:
    """Atoms resolved one by one, with vacancies and adsorbates."""
    spacing = log_between(rng, 5, 32)
    corrugation = spacing * log_between(rng, 0.03, 0.4)
    field, nodes = _atoms(rng, shape, spacing, corrugation)
    _adsorbates(rng, field, nodes, spacing, corrugation * log_between(rng, 0.8, 5))
    field += corrugation * between(rng, 0, 0.3) * self_affine(rng, shape, hurst=1.0, correlation=8 * spacing)
    return Surface(field, log_between(rng, 0.2, 0.7) / spacing)


def steps(rng: np.random.Generator, shape: Shape) -> Surface:
    """Atomic terraces, the lattice on them resolved or nearly so, with adsorbates that gather at the steps."""
    spacing = log_between(rng, 3.5, 16)
    layer = spacing * between(rng, 0.5, 1.2)
    corrugation = layer * log_between(rng, 0.03, 0.35)
    field, nodes = _atoms(rng, shape, spacing, corrugation)
    _, u = rotated_grid(rng, shape)
    width = log_between(rng, 40, 250)
    wander = self_affine(
        rng, shape, hurst=between(rng, 0.8, 1.3), correlation=log_between(rng, 30, 150), shortest=between(rng, 2, 8)
    )
    level = (u + between(rng, 0.05, 0.3) * width * wander) / width
    below = level - np.floor(level)
    soft = 0.25 * spacing / width
    field += layer * (np.floor(level) + np.clip((below - 1 + soft) / soft, 0, 1))
    _adsorbates(rng, field, nodes, spacing, layer * between(rng, 0.3, 1.5))
    if rng.random() < 0.5:  # decorated edges
        at_edge = np.argwhere(below > 1 - 0.5 * spacing / width)
        chosen = at_edge[rng.random(len(at_edge)) < between(rng, 0.2, 1.0) / spacing**2]
        _stamp(
            field,
            chosen.astype(float),
            layer * rng.uniform(0.1, 0.8, len(chosen)),
            spacing * rng.uniform(0.3, 0.7, len(chosen)),
        )
    return Surface(field, between(rng, 0.2, 0.45) / spacing)


def clusters(rng: np.random.Generator, shape: Shape) -> Surface:
    """Islands of molecules and clusters on a flat metal, far taller than the atoms."""
    size = log_between(rng, 4, 16)
    tall = size * log_between(rng, 0.15, 0.8)
    field = tall * log_between(rng, 0.005, 0.05) * self_affine(rng, shape, hurst=0.8, correlation=40)
    nodes = _sites(rng, shape, _cell(rng, size * between(rng, 1.4, 2.2)))
    cover = self_affine(rng, shape, hurst=between(rng, 0.6, 1.0), correlation=log_between(rng, 30, 150))
    inside = np.clip(np.rint(nodes).astype(int), 0, np.asarray(shape) - 1)
    island = nodes[cover[inside[:, 0], inside[:, 1]] > between(rng, -0.5, 2.0)]
    island = island[rng.random(len(island)) > between(rng, 0, 0.15)]
    loose = rng.uniform(0, 1, (int(rng.integers(3, 50)), 2)) * shape
    shape_px = rng.normal(0, 0.35 * size, (int(rng.choice([1, 2, 3, 4])), 2)) * (rng.random() < 0.6)
    for lobe in shape_px:
        _stamp(field, island + lobe, tall * rng.normal(1, 0.06, len(island)), np.full(len(island), 0.4 * size))
    _stamp(field, loose, tall * rng.uniform(0.3, 2.0, len(loose)), size * rng.uniform(0.25, 0.6, len(loose)))
    return Surface(field, between(rng, 0.5, 1.2) / size)


#: Kinds of surfaces by name.
STM_SURFACES: Mapping[str, Callable[[np.random.Generator, Shape], Surface]] = MappingProxyType(
    {"lattice": lattice, "steps": steps, "clusters": clusters}
)

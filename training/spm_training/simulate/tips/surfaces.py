"""Surfaces for the atomic force microscope, drawn to scale and then given their size in nanometres."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage
from scipy.spatial import cKDTree

from spm_training.simulate.tips.primitives import (
    add_ball,
    between,
    log_between,
    rotated_grid,
    self_affine,
    tube,
    walk,
)

__all__ = ["AFM_SURFACES", "Surface"]

Field = NDArray[np.float64]
Shape = tuple[int, int]


class Surface(NamedTuple):
    """A surface drawn to scale.

    Parameters
    ----------
    heights_px
        ``(H, W)`` float64 heights in the edge of a pixel.
    pixel_size_nm
        Edge of a pixel.
    """

    heights_px: Field
    pixel_size_nm: float


def ground(rng: np.random.Generator, shape: Shape, rms: float) -> Field:
    """What is under everything else: a little roughness."""
    return rms * self_affine(rng, shape, hurst=between(rng, 0.4, 1.0), correlation=log_between(rng, 6, 60))


def rough(rng: np.random.Generator, shape: Shape) -> Surface:
    """Self-affine roughness, isotropic or stretched, symmetric or with rounded hills or sharp ridges."""
    stretch = log_between(rng, 1, 5) if rng.random() < 0.25 else 1.0
    drawn = (shape[0], int(np.ceil(shape[1] / stretch)) + 1)
    field = self_affine(
        rng, drawn, hurst=between(rng, 0.3, 1.0), correlation=log_between(rng, 10, 120), shortest=between(rng, 2.0, 6.0)
    )
    if stretch > 1:
        field = ndimage.zoom(field, (1, stretch), order=3)
    field = field[:, : shape[1]]
    bent = rng.random()
    if bent < 0.2:
        field = np.exp(0.6 * field)
    elif bent < 0.35:
        field = -np.abs(field)
    return Surface(field / field.std() * log_between(rng, 0.4, 5.0), log_between(rng, 1.0, 40.0))


def grains(rng: np.random.Generator, shape: Shape) -> Surface:
    """A film of rounded grains, round or long: each pixel belongs to the grain that stands highest there."""
    size = log_between(rng, 6, 40)
    long = log_between(rng, 1.5, 6) if rng.random() < 0.35 else 1.0
    v, u = rotated_grid(rng, shape)
    wave = size * between(rng, 0.0, 0.5) * self_affine(rng, shape, hurst=1.0, correlation=6 * size)
    frame = np.stack([v + wave, u / long], -1)
    low, high = frame.min(axis=(0, 1)) - 2 * size, frame.max(axis=(0, 1)) + 2 * size
    seeds = rng.uniform(low, high, (max(int(np.prod((high - low) / size)), 4), 2))
    rise = rng.normal(0, between(rng, 0.05, 0.35), len(seeds)) * size
    distance, index = cKDTree(seeds).query(frame, k=min(4, len(seeds)))
    radius = size * between(rng, 0.7, 2.5)
    field = np.max(rise[index] - distance**2 / (2 * radius), axis=-1)
    field = field + ground(rng, shape, 0.02 * size * between(rng, 0, 1))
    return Surface(field * log_between(rng, 0.25, 1.0), log_between(rng, 1.0, 15.0))


def wall(distance: Field, width: float) -> Field:
    """From 0 to 1 across an edge with a flank of some width."""
    return np.clip(distance / width + 0.5, 0, 1)


def grating(rng: np.random.Generator, shape: Shape) -> Surface:
    """Lines at any angle: rectangular with steep flanks, triangular, trapezoidal or sinusoidal, with rough edges."""
    period = log_between(rng, 10, 70)
    _, u = rotated_grid(rng, shape)
    u = u + between(rng, 0, 0.05) * period * self_affine(rng, shape, hurst=0.7, correlation=4 * period)
    phase = np.abs((u / period) % 1 - 0.5) * period  # distance from the middle of a line
    profile = rng.random()
    if profile < 0.55:
        half = between(rng, 0.15, 0.35) * period
        field = wall(half - phase, log_between(rng, 0.5, 0.25 * period))
    elif profile < 0.8:
        field = 1 - phase / (0.5 * period)
    else:
        field = 0.5 + 0.5 * np.cos(2 * np.pi * u / period)
    height = log_between(rng, 0.12, 0.8) * period
    dirt = ground(rng, shape, height * log_between(rng, 0.002, 0.03))
    if rng.random() < 0.3:
        litter(rng, dirt, count=int(rng.integers(1, 12)), radius=(1.0, 0.15 * period))
    return Surface(height * field + dirt, log_between(rng, 4.0, 120.0))


def pillars(rng: np.random.Generator, shape: Shape) -> Surface:
    """A calibration sample: pillars or holes, round, square, conical or domed, on a square or hexagonal net."""
    period = log_between(rng, 14, 70)
    v, u = rotated_grid(rng, shape, angle=between(rng, 0, np.pi / 2) if rng.random() < 0.6 else rng.normal(0, 0.1))
    row_height = period * (np.sqrt(0.75) if rng.random() < 0.4 else 1.0)
    row = np.floor(v / row_height)
    shift = 0.5 * period * (row % 2) if row_height < period else 0.0
    v, u = v - (row + 0.5) * row_height, (u + shift) % period - period / 2
    roundness = between(rng, 1.8, 2.2) if rng.random() < 0.6 else between(rng, 6.0, 14.0)
    radius = between(rng, 0.2, 0.38) * period
    distance = radius - (np.abs(v / radius) ** roundness + np.abs(u / radius) ** roundness) ** (1 / roundness) * radius
    form = rng.random()
    if form < 0.6:
        field = wall(distance, log_between(rng, 0.5, 0.5 * radius))
    elif form < 0.8:  # domes
        field = np.sqrt(np.clip(1 - (1 - np.minimum(distance / radius, 1)) ** 2, 0, None)) * (distance > 0)
    else:  # cones: sharp points that show the tip
        field = np.clip(distance / radius, 0, None)
    if rng.random() < 0.35:
        field = -field
    height = log_between(rng, 0.1, 0.7) * period
    dirt = ground(rng, shape, height * log_between(rng, 0.002, 0.02))
    if rng.random() < 0.3:
        litter(rng, dirt, count=int(rng.integers(1, 10)), radius=(1.0, 0.12 * period))
    return Surface(height * field + dirt, log_between(rng, 10.0, 200.0))


def litter(rng: np.random.Generator, field: Field, *, count: int, radius: tuple[float, float]) -> None:
    """Put small particles anywhere, in place."""
    low, high = radius[0], max(radius[1], radius[0] * 1.01)
    for _ in range(count):
        add_ball(
            field, rng.uniform(-0.05, 1.05, 2) * field.shape, log_between(rng, low, high), sunk=between(rng, 0, 0.5)
        )


def particles(rng: np.random.Generator, shape: Shape) -> Surface:
    """Balls of one or of many sizes on a flat ground, alone, in clusters or as a dense layer."""
    mean = log_between(rng, 2.0, 14.0)
    spread = between(rng, 0.03, 0.5)
    field = ground(rng, shape, mean * log_between(rng, 0.005, 0.08))
    cover = log_between(rng, 0.02, 0.6)
    count = int(np.clip(cover * np.prod(shape) / (np.pi * mean**2), 2, 700))
    centres = rng.uniform(-0.05, 1.05, (count, 2)) * shape
    if rng.random() < 0.35:  # gathered round a few places
        hubs = rng.uniform(0, 1, (int(rng.integers(2, 10)), 2)) * shape
        centres = hubs[rng.integers(len(hubs), size=count)] + rng.normal(0, mean * between(rng, 2, 6), (count, 2))
    flatness = between(rng, 0.25, 0.6) if rng.random() < 0.4 else between(rng, 0.8, 1.0)
    sunk = between(rng, 0, 0.4)
    for centre, radius in zip(centres, mean * np.exp(spread * rng.standard_normal(count)), strict=True):
        add_ball(field, centre, min(float(radius), 40.0), flatness=flatness, sunk=sunk)
    return Surface(field, log_between(rng, 0.8, 30.0))


def fibres(rng: np.random.Generator, shape: Shape) -> Surface:
    """Stiff fibres or nanotubes that lie on one another."""
    radius = log_between(rng, 1.2, 7.0)
    field = ground(rng, shape, radius * log_between(rng, 0.01, 0.15))
    persistence = log_between(rng, 40, 1500)
    for _ in range(int(log_between(rng, 3, 40))):
        points = walk(rng, rng.uniform(0.1, 0.9, 2) * shape, between(rng, 0.4, 1.6) * max(shape), persistence)
        lying = tube(shape, points, radius * between(rng, 0.7, 1.3))
        # A fibre that crosses another climbs over it, softly: it is stiff.
        lift = ndimage.gaussian_filter(np.where(lying > 0, np.maximum(field, 0), 0), 2 * radius)
        field = np.maximum(field, (lying + lift) * (lying > 0))
    return Surface(field * between(rng, 0.4, 1.0), log_between(rng, 1.0, 15.0))


def strands(rng: np.random.Generator, shape: Shape) -> Surface:
    """DNA-like strands, open and closed, sometimes with proteins on them, on nearly flat mica.

    Diameter 2 nm, persistence length 50 nm (C. Bustamante et al., Science 265 (1994) 1599); dried on mica they appear
    about half as high.
    """
    pixel = log_between(rng, 0.6, 3.0)
    field = ground(rng, shape, log_between(rng, 0.02, 0.15) / pixel)
    for _ in range(int(rng.integers(2, 16))):
        length = between(rng, 60, 900) / pixel
        closed = rng.random() < 0.35
        points = walk(rng, rng.uniform(0.1, 0.9, 2) * shape, length, 50 / pixel, closed=closed)
        radius = max(1.0 / pixel, 0.6)
        strand = tube(shape, points, radius) * (between(rng, 0.4, 0.9) / pixel / radius)
        field = np.maximum(field, strand + 0.3 * field) + 0.25 * np.minimum(np.maximum(field, 0), strand)
        if rng.random() < 0.4:
            for index in rng.integers(len(points), size=int(rng.integers(1, 4))):
                add_ball(field, points[index], between(rng, 2.0, 6.0) / pixel, flatness=0.6)
    return Surface(field, pixel)


def terraces(rng: np.random.Generator, shape: Shape) -> Surface:
    """Terraces one layer apart behind wavy or torn edges, with islands, pits and dirt."""
    _, u = rotated_grid(rng, shape)
    width = log_between(rng, 15, 120)
    longest = log_between(rng, 20, 150)
    wander = self_affine(rng, shape, hurst=between(rng, 0.8, 1.3), correlation=longest, shortest=between(rng, 2, 8))
    level = np.floor((u + between(rng, 0.05, 0.5) * min(width, longest) * wander) / width)
    patches = self_affine(rng, shape, hurst=between(rng, 0.8, 1.3), correlation=log_between(rng, 20, 80), shortest=4.0)
    if rng.random() < 0.6:
        level = level + (patches > between(rng, 1.2, 2.2))
    if rng.random() < 0.6:
        level = level - (patches < -between(rng, 1.2, 2.2))
    height = log_between(rng, 0.4, 6.0)
    field = height * ndimage.gaussian_filter(level, between(rng, 0.0, 0.7)) + ground(rng, shape, 0.03 * height)
    if rng.random() < 0.5:
        litter(rng, field, count=int(rng.integers(2, 30)), radius=(0.8, 1.0 + height))
    step_nm = log_between(rng, 0.2, 3.0)
    return Surface(field, step_nm / height)


#: Kinds of surfaces by name.
AFM_SURFACES: Mapping[str, Callable[[np.random.Generator, Shape], Surface]] = MappingProxyType(
    {
        "rough": rough,
        "grains": grains,
        "grating": grating,
        "pillars": pillars,
        "particles": particles,
        "fibres": fibres,
        "strands": strands,
        "terraces": terraces,
    }
)

"""Terraces: staircases with straight, meandering or kinked edges, islands and pits, screw dislocations."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

__all__ = ["Relief", "draw_relief"]

#: Share of images with nothing but one terrace, and shares of those with something else.
FLAT = 0.45
KINDS = {"staircase": 0.56, "islands": 0.28, "screw": 0.16}


@dataclass(frozen=True, eq=False)
class Relief:
    """Terraces on the pixels of a raster.

    Parameters
    ----------
    height_nm
        ``(H, W)`` heights; terraces meet at sharp edges.
    terrace
        ``(H, W)`` int32 height in steps, 0 for the lowest.
    steps
        ``(H, W)`` bool, pixels on either side of an edge.
    """

    height_nm: NDArray[np.float64]
    terrace: NDArray[np.int32]
    steps: NDArray[np.bool_]


def draw_relief(
    rng: np.random.Generator,
    y: NDArray[np.float64],
    x: NDArray[np.float64],
    step_nm: float,
    along: float,
    unit_nm: float,
    *,
    alternate: bool,
) -> Relief:
    """Draw terraces.

    Parameters
    ----------
    rng
        Source of randomness.
    y, x
        ``(H, W)`` places in nm.
    step_nm
        Height of a monatomic step.
    along
        Angle of a close-packed direction in radians, from x towards y: edges like to run along it.
    unit_nm
        Depth of a kink.
    alternate
        Every other edge is smooth: S_A and S_B steps of Si(001).
    """
    kind = "flat" if rng.random() < FLAT else str(rng.choice(list(KINDS), p=list(KINDS.values())))
    if kind == "staircase":
        level = _staircase(rng, y, x, along, unit_nm, alternate=alternate)
    elif kind == "islands":
        level = _islands(rng, y, x, along, unit_nm)
    elif kind == "screw":
        # One turn around a dislocation of Si(001) must not turn the dimer rows: its step is a double one.
        return _screw(rng, y, x, step_nm, 2 if alternate else 1)
    else:
        level = np.zeros(y.shape, np.int32)
    height = np.asarray(level * step_nm, dtype=np.float64)
    return Relief(height, level - level.min(), _edges(height, 0.5 * step_nm))


def _edges(height: NDArray[np.float64], least: float) -> NDArray[np.bool_]:
    """Pixels that differ from a neighbour by more than `least`."""
    found = np.zeros(height.shape, bool)
    jump = np.abs(np.diff(height, axis=0)) > least
    found[1:] |= jump
    found[:-1] |= jump
    jump = np.abs(np.diff(height, axis=1)) > least
    found[:, 1:] |= jump
    found[:, :-1] |= jump
    return found


def _profile(
    rng: np.random.Generator, count: int, spacing_nm: float, unit_nm: float, rough: float
) -> NDArray[np.float64]:
    """How far an edge strays from a straight line, every `spacing_nm` along it.

    Thermal meander is a random walk whose amplitude grows with the root of the length; kinks make it a staircase of its own.
    """
    style = rng.choice(["straight", "meander", "kinks"], p=[0.25, 0.45, 0.3])
    if style == "straight":
        return np.zeros(count)
    diffusivity = rough * np.exp(rng.uniform(np.log(0.05), np.log(0.5)))
    walk = np.cumsum(rng.normal(size=count)) * diffusivity * np.sqrt(unit_nm * spacing_nm)
    walk -= np.linspace(walk[0], walk[-1], count)
    if style == "meander":
        return np.asarray(ndimage.gaussian_filter1d(walk, rng.uniform(0.2, 1.0) * unit_nm / spacing_nm, mode="nearest"))
    walk = ndimage.gaussian_filter1d(walk, 1.5 * unit_nm / spacing_nm, mode="nearest")
    walk = walk + rng.normal() * 0.08 * spacing_nm * np.arange(count)  # a miscut against the close-packed direction
    return np.asarray(np.rint(walk / unit_nm) * unit_nm)


def _staircase(
    rng: np.random.Generator,
    y: NDArray[np.float64],
    x: NDArray[np.float64],
    along: float,
    unit_nm: float,
    *,
    alternate: bool,
) -> NDArray[np.int32]:
    size = max(float(np.ptp(y)), float(np.ptp(x)))
    angle = along + rng.choice([0.0, np.pi / 2, np.pi]) if rng.random() < 0.5 else rng.uniform(0, 2 * np.pi)
    middle_y, middle_x = float(y.mean()), float(x.mean())
    v = np.cos(angle) * (x - middle_x) + np.sin(angle) * (y - middle_y)
    u = -np.sin(angle) * (x - middle_x) + np.cos(angle) * (y - middle_y)
    count = int(rng.choice([1, 1, 2, 3, 5, 8]))
    grid = max(size / 512, 0.02)
    station = np.asarray((v + 0.8 * size) / grid, dtype=np.int32)
    length = int(1.6 * size / grid) + 2
    station = np.clip(station, 0, length - 1)
    if count == 1:
        offsets = np.array([rng.uniform(-0.4, 0.4) * size])
    else:
        widths = rng.lognormal(0.0, 0.5, count)
        offsets = (np.cumsum(widths) / widths.sum() - rng.uniform(0.3, 0.7)) * size * rng.uniform(0.5, 1.2)
    level = np.zeros(y.shape, np.int32)
    edge = np.full(length, -np.inf)
    shared = _profile(rng, length, grid, unit_nm, 1.0)
    for number, offset in enumerate(offsets):
        rough = 0.25 if alternate and number % 2 else 1.0
        own = _profile(rng, length, grid, unit_nm, rough)
        # An edge cannot overtake the one before it: they bunch.
        edge = np.maximum(edge + 0.5 * unit_nm, offset + (own if count <= 2 else 0.6 * shared + 0.6 * own))
        level += u > edge[station]
    return level


def _outline(
    rng: np.random.Generator, y: NDArray[np.float64], x: NDArray[np.float64], radius: float, along: float
) -> NDArray[np.bool_]:
    """Inside of an island: round and wavy, or a polygon along close-packed directions."""
    size = np.array([np.ptp(y), np.ptp(x)])
    centre = np.array([y.min(), x.min()]) + rng.uniform(-0.05, 1.05, 2) * size
    dy, dx = y - centre[0], x - centre[1]
    bearing = np.linspace(-np.pi, np.pi, 721)
    reach = np.full(bearing.shape, radius)
    if rng.random() < 0.4:
        corners = int(rng.choice([3, 4, 6]))
        sector = (bearing - along + np.pi / corners) % (2 * np.pi / corners) - np.pi / corners
        reach *= np.cos(np.pi / corners) / np.cos(sector)
    else:
        for order in range(2, 9):
            reach += radius * rng.normal() * 0.25 / order * np.cos(order * bearing + rng.uniform(0, 2 * np.pi))
    nearest = np.rint((np.arctan2(dy, dx) + np.pi) * (720 / (2 * np.pi))).astype(np.int32)
    return np.asarray(dy * dy + dx * dx < np.square(np.maximum(reach, 0.0))[nearest])


def _islands(
    rng: np.random.Generator, y: NDArray[np.float64], x: NDArray[np.float64], along: float, unit_nm: float
) -> NDArray[np.int32]:
    size = max(float(np.ptp(y)), float(np.ptp(x)))
    level = np.zeros(y.shape, np.int32)
    sign = -1 if rng.random() < 0.3 else 1  # vacancy islands
    for _ in range(int(rng.integers(1, 5))):
        radius = max(np.exp(rng.uniform(np.log(0.06), np.log(0.4))) * size, 3 * unit_nm)
        level[_outline(rng, y, x, radius, along)] = sign
    return level


def _screw(
    rng: np.random.Generator, y: NDArray[np.float64], x: NDArray[np.float64], step_nm: float, multiple: int
) -> Relief:
    """A step that ends, or winds, at a screw dislocation.

    Source: isotropic elasticity; the surface rises by b θ / 2π around the core. The cut is moved to where the step runs.
    """
    size = max(float(np.ptp(y)), float(np.ptp(x)))
    centre = np.array([y.min(), x.min()]) + rng.uniform(0.15, 0.85, 2) * np.array([np.ptp(y), np.ptp(x)])
    hand = rng.choice([-1.0, 1.0])
    dy, dx = y - centre[0], hand * (x - centre[1])
    radius, theta = np.hypot(dy, dx), np.arctan2(dy, dx)
    # A spiral of equidistant turns, or a wavy ray where the distance of turns is far beyond the frame.
    turns = radius / (size * rng.uniform(0.25, 0.6)) if rng.random() < 0.4 else 0.0
    start, wave = rng.uniform(0, 2 * np.pi), rng.uniform(2, 8)
    sway = rng.normal() * 0.25 * np.sin(radius / size * wave) if rng.random() < 0.7 else 0.0
    level = -np.floor((theta - start + sway) / (2 * np.pi) + turns).astype(np.int32) * multiple
    height = (level / multiple + theta / (2 * np.pi)) * multiple * step_nm
    if rng.random() < 0.5:
        height, level = -height, -level
    return Relief(height - height.mean(), level - level.min(), _edges(height, 0.5 * multiple * step_nm))

"""From a structure to columns in an image: origin, rotation, grains, vacancies, dopants, edges, voids."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage
from scipy.spatial import cKDTree

from spm_training.simulate.disturb import smooth_field
from spm_training.simulate.lattices import ARRANGEMENTS, Sites, nearest_neighbour_distances
from spm_training.simulate.scene import REQUIRED_HEIGHT, Columns

__all__ = ["disorder", "place_arrangement", "random_pose"]


def place_arrangement(
    rng: np.random.Generator, family: str, shape: tuple[int, int], spacing: float
) -> tuple[Columns, NDArray[np.float64]]:
    """Cut the structure: random origin, rotation, a little shear, sometimes two grains."""
    radius = (np.hypot(*shape) / 2) / spacing + 6.0
    sites = ARRANGEMENTS[family](rng, radius)
    heavy = sites.height >= REQUIRED_HEIGHT
    central = np.hypot(*sites.yx.T) <= max(radius - 3.0, radius / 2)
    distance = nearest_neighbour_distances(sites.yx[heavy])[central[heavy]]
    unit = float(np.mean(distance)) if len(distance) and np.isfinite(distance).all() else 1.0
    if family == "isolated":
        unit = 1.0  # the spacing of isolated atoms is their size: the nearest distance that was allowed

    def put(yx: NDArray[np.float64], angle: float, shift: NDArray[np.float64]) -> NDArray[np.float64]:
        turn = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
        return np.asarray((yx / unit * spacing) @ turn.T @ shear.T + shift)

    shear = np.eye(2) + rng.uniform(-0.04, 0.04, (2, 2))
    centre = (np.asarray(shape) - 1) / 2
    angle = rng.uniform(0, 2 * np.pi)
    shift = centre + rng.uniform(-3, 3, 2) * spacing
    columns = Columns(
        put(sites.yx, angle, shift), sites.height.copy(), sites.sublattice, np.zeros(len(sites.yx), np.int32)
    )
    holes = put(sites.holes, angle, shift)
    if family != "isolated" and rng.random() < 0.12:
        columns, holes = _second_grain(rng, sites, columns, holes, put, shape=shape, spacing=spacing)
    return columns, holes


def _second_grain(
    rng: np.random.Generator,
    sites: Sites,
    columns: Columns,
    holes: NDArray[np.float64],
    put: Callable[[NDArray[np.float64], float, NDArray[np.float64]], NDArray[np.float64]],
    *,
    shape: tuple[int, int],
    spacing: float,
) -> tuple[Columns, NDArray[np.float64]]:
    """Replace one side of a straight line by the same structure, turned."""
    centre = (np.asarray(shape) - 1) / 2
    normal = rng.normal(size=2)
    normal /= np.linalg.norm(normal)
    offset = rng.uniform(-0.3, 0.3) * min(shape)
    angle = rng.uniform(0, 2 * np.pi)
    shift = centre + rng.uniform(-3, 3, 2) * spacing
    second = put(sites.yx, angle, shift)

    def beyond(yx: NDArray[np.float64]) -> NDArray[np.float64]:
        return np.asarray((yx - centre) @ normal - offset)

    first = columns.keep(beyond(columns.yx) < 0)
    inside = beyond(second) >= 0
    if len(first.yx) and inside.any():
        inside &= cKDTree(first.yx).query(second)[0] > 0.75 * spacing
    joined = Columns(
        np.concatenate([first.yx, second[inside]]),
        np.concatenate([first.height, sites.height[inside]]),
        np.concatenate([first.site, sites.sublattice[inside]]),
        np.zeros(len(first.yx) + int(inside.sum()), np.int32),
    )
    dark = put(sites.holes, angle, shift)
    return joined, np.concatenate([holes[beyond(holes) < 0], dark[beyond(dark) >= 0]])


def disorder(
    rng: np.random.Generator, columns: Columns, shape: tuple[int, int], spacing: float
) -> tuple[Columns, NDArray[np.float64]]:
    """Vacancies, dopants, jitter, and sometimes an edge or voids; returns the columns and the empty places."""
    count = len(columns.yx)
    height = columns.height * (1 + rng.uniform(0.02, 0.12) * rng.normal(size=count))
    if rng.random() < 0.4:
        dopant = rng.random(count) < rng.uniform(0, 0.06)
        height = np.where(dopant, height * rng.uniform(0.55, 2.0), height)
    yx = columns.yx + rng.uniform(0.0, 0.035) * spacing * rng.normal(size=(count, 2))
    empty = rng.random(count) < (rng.uniform(0, 0.1) if rng.random() < 0.6 else 0.0)
    outside = np.zeros(count, bool)
    if rng.random() < 0.25:  # a crystal that ends, or one with voids
        field = smooth_field(rng, shape, rng.uniform(2, 8) * spacing)
        level = np.quantile(field, rng.uniform(0.1, 0.6))
        outside = ndimage.map_coordinates(field, columns.yx.T, order=1, mode="nearest") < level
    changed = columns._replace(yx=yx, height=np.maximum(height, 0.02))
    return changed.keep(~(empty | outside)), columns.yx[empty & ~outside]


def random_pose(
    rng: np.random.Generator, shape: tuple[int, int], spacing: float
) -> Callable[[NDArray[np.float64]], NDArray[np.float64]]:
    """A random rotation, a little shear and a random origin near the middle; maps ``(N, 2)`` pixels about 0 into the image."""
    angle = rng.uniform(0, 2 * np.pi)
    turn = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    shear = np.eye(2) + rng.uniform(-0.03, 0.03, (2, 2))
    shift = (np.asarray(shape) - 1) / 2 + rng.uniform(-3, 3, 2) * spacing
    return lambda yx: np.asarray(yx @ (shear @ turn).T + shift)

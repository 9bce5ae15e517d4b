"""Pieces that surfaces are made of. All lengths are in pixels, heights too: the surface is drawn to scale."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy import fft, ndimage
from scipy.spatial import cKDTree

__all__ = ["add_ball", "between", "log_between", "rotated_grid", "self_affine", "tube", "walk"]

Field = NDArray[np.float64]


def between(rng: np.random.Generator, low: float, high: float) -> float:
    """A number from a uniform range."""
    return float(rng.uniform(low, high))


def log_between(rng: np.random.Generator, low: float, high: float) -> float:
    """A number whose logarithm is uniform."""
    return float(np.exp(rng.uniform(np.log(low), np.log(high))))


def rotated_grid(
    rng: np.random.Generator, shape: tuple[int, int], *, angle: float | None = None
) -> tuple[Field, Field]:
    """Coordinates (v, u) of every pixel in a frame turned by an angle (any, where none is given), from a random origin."""
    angle = between(rng, 0, 2 * np.pi) if angle is None else angle
    y, x = np.mgrid[: shape[0], : shape[1]] - rng.uniform(0, 1, (2, 1, 1)) * np.asarray(shape)[:, None, None]
    return np.cos(angle) * y - np.sin(angle) * x, np.sin(angle) * y + np.cos(angle) * x


def self_affine(
    rng: np.random.Generator, shape: tuple[int, int], *, hurst: float, correlation: float, shortest: float = 2.0
) -> Field:
    """Self-affine random roughness of unit standard deviation.

    Parameters
    ----------
    rng
        The only source of randomness.
    shape
        ``(H, W)`` in pixels.
    hurst
        Roughness exponent: the power spectrum falls as q^(−2 − 2 hurst) beyond the roll-off.
    correlation
        Wavelength in pixels above which the spectrum is flat.
    shortest
        Wavelength in pixels below which there is nothing.

    Notes
    -----
    Spectrum: Persson et al., J. Phys.: Condens. Matter 17 (2005) R1, section 2.1.
    """
    rows, columns = (fft.next_fast_len(int(n) + int(correlation)) for n in shape)  # not periodic within the frame
    q = np.hypot(fft.fftfreq(rows)[:, None], fft.rfftfreq(columns))
    amplitude = np.maximum(q, 1 / correlation) ** (-1 - hurst) * np.exp(-((q * shortest) ** 4))
    amplitude[0, 0] = 0
    white = fft.rfft2(rng.standard_normal((rows, columns)))
    rough = fft.irfft2(white * amplitude, (rows, columns))[: shape[0], : shape[1]]
    return np.asarray((rough - rough.mean()) / max(float(rough.std()), 1e-12))


def add_ball(
    surface: Field, centre: NDArray[np.float64], radius: float, *, flatness: float = 1.0, sunk: float = 0.0
) -> None:
    """Put a ball on the surface, in place.

    Parameters
    ----------
    surface
        ``(H, W)`` heights, changed.
    centre
        ``(y, x)``, may lie outside.
    radius
        Of the ball.
    flatness
        Height of the ball over its width.
    sunk
        How much of the radius is under the surface, −1 … 1.
    """
    reach = int(np.ceil(radius)) + 1
    top, left = (int(np.floor(c)) - reach for c in centre)
    window = np.s_[max(top, 0) : max(top + 2 * reach + 2, 0), max(left, 0) : max(left + 2 * reach + 2, 0)]
    part = surface[window]
    if not part.size:
        return
    y, x = np.ogrid[: part.shape[0], : part.shape[1]]
    square = (y + max(top, 0) - centre[0]) ** 2 + (x + max(left, 0) - centre[1]) ** 2
    inside = square < radius**2
    if not inside.any():
        return
    base = float(np.median(part[inside]))
    dome = base + flatness * (np.sqrt(np.maximum(radius**2 - square, 0)) + radius * (1 - 2 * sunk))
    part[inside] = np.maximum(part, dome)[inside]


def walk(
    rng: np.random.Generator, middle: NDArray[np.float64], length: float, persistence: float, *, closed: bool = False
) -> NDArray[np.float64]:
    """``(N, 2)`` points half a pixel apart along a worm-like chain.

    Parameters
    ----------
    rng
        The only source of randomness.
    middle
        ``(y, x)`` of the point half-way.
    length, persistence
        Contour length and persistence length; the direction turns by a variance of ds over the persistence length.
    closed
        Whether the ends meet, as those of a plasmid.
    """
    count = max(int(length * 2), 4)
    turn = rng.standard_normal(count) * np.sqrt(0.5 / persistence)
    angle = rng.uniform(0, 2 * np.pi) + np.cumsum(turn)
    if closed:
        angle += (2 * np.pi - (angle[-1] - angle[0])) * np.linspace(0, 1, count)
    steps = 0.5 * np.stack([np.sin(angle), np.cos(angle)], 1)
    if closed:
        steps -= steps.mean(axis=0)
    points = np.cumsum(steps, axis=0)
    return np.asarray(middle + points - points[count // 2])


def tube(shape: tuple[int, int], points: NDArray[np.float64], radius: float) -> Field:
    """Upper half of a tube of circular section that lies on the ground along a curve; 0 beside it.

    Its height at a distance d from the curve is ``radius + √(radius² − d²)``.
    """
    raster = np.ones(shape, bool)
    inside = np.rint(points).astype(int)
    reach = int(np.ceil(radius)) + 2
    near = np.all((inside >= -reach) & (inside < np.asarray(shape) + reach), axis=1)
    field = np.zeros(shape)
    if not near.any():
        return field
    clipped = np.clip(inside[near], 0, np.asarray(shape) - 1)
    raster[clipped[:, 0], clipped[:, 1]] = False
    y, x = np.nonzero(ndimage.distance_transform_edt(raster) <= radius + 2)
    distance, _ = cKDTree(points[near]).query(np.stack([y, x], 1), distance_upper_bound=radius)
    beside = np.isinf(distance)
    field[y, x] = np.where(beside, 0.0, radius + np.sqrt(np.maximum(radius**2 - np.where(beside, 0, distance) ** 2, 0)))
    return field

"""What stands between a structure and its image: steps, adsorbates, background, line jitter, noise, gain."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from spm_training.simulate.scene import Columns

__all__ = [
    "add_noise",
    "adsorbates",
    "arbitrary_units",
    "background",
    "reregister",
    "slow_drift",
    "smooth_field",
    "support",
    "terraces",
]


def terraces(
    rng: np.random.Generator, shape: tuple[int, int], spacing: float
) -> tuple[NDArray[np.float64], NDArray[np.int32]]:
    """Heights of one or two terraces behind wavy step edges, in column heights, and the terrace of each pixel."""
    y, x = np.mgrid[: shape[0], : shape[1]]
    angle = rng.uniform(0, 2 * np.pi)
    along = -np.sin(angle) * x + np.cos(angle) * y
    across = np.cos(angle) * (x - shape[1] / 2) + np.sin(angle) * (y - shape[0] / 2)
    phase = rng.uniform(0, 2 * np.pi, 3)
    wave = np.zeros(shape)
    for shift in phase:
        height, length = rng.uniform(0, 1.5) * spacing, rng.uniform(5, 30) * spacing
        wave += height * np.sin(2 * np.pi * along / length + shift)
    edges = rng.uniform(-0.45, 0.45, int(rng.integers(1, 3))) * min(shape)
    softness = rng.uniform(0.15, 0.6) * spacing
    field = np.zeros(shape)
    terrace = np.zeros(shape, np.int32)
    step = rng.choice([-1, 1]) * 10 ** rng.uniform(0, 1.2)
    for edge in edges:
        field += step * 0.5 * (1 + np.tanh((across + wave - edge) / softness))
        terrace += (across + wave > edge).astype(np.int32)
    return field, terrace


def reregister(rng: np.random.Generator, columns: Columns, terrace: NDArray[np.int32], spacing: float) -> Columns:
    """Shift the lattice from terrace to terrace and take away what stands on an edge."""
    inside = np.clip(np.rint(columns.yx).astype(int), 0, np.asarray(terrace.shape) - 1)
    level = terrace[inside[:, 0], inside[:, 1]]
    shift = rng.uniform(-0.5, 0.5, (int(terrace.max()) + 1, 2)) * spacing
    edge = ndimage.morphological_gradient(terrace, size=3) > 0
    distance = ndimage.distance_transform_edt(~edge) if edge.any() else np.full(terrace.shape, np.inf)
    moved = columns.yx + shift[level]
    place = np.clip(np.rint(moved).astype(int), 0, np.asarray(terrace.shape) - 1)
    clear = distance[place[:, 0], place[:, 1]] > 0.45 * spacing
    return columns._replace(yx=moved).keep(clear)


def smooth_field(rng: np.random.Generator, shape: tuple[int, int], length: float) -> NDArray[np.float64]:
    """Smooth random field of unit standard deviation with a correlation length in pixels."""
    step = max(int(length / 2), 1)
    coarse = rng.normal(size=(shape[0] // step + 4, shape[1] // step + 4))
    coarse = ndimage.gaussian_filter(coarse, length / step / 2)
    y = np.linspace(1, coarse.shape[0] - 2, shape[0])
    x = np.linspace(1, coarse.shape[1] - 2, shape[1])
    field = ndimage.map_coordinates(coarse, np.meshgrid(y, x, indexing="ij"), order=1)
    return np.asarray((field - field.mean()) / max(float(field.std()), 1e-9))


def slow_drift(rng: np.random.Generator, columns: Columns, shape: tuple[int, int], spacing: float) -> Columns:
    """Move columns as a sample that drifts while it is scanned: a smooth shift that depends on the line."""
    rows = np.linspace(-0.5, 1.5, 8)
    amount = rng.uniform(0.0, 0.6) * spacing
    line = columns.yx[:, 0] / shape[0]
    shift = np.stack(
        [np.interp(line, rows, ndimage.gaussian_filter1d(rng.normal(size=8), 1.0)) for _ in range(2)], axis=1
    )
    return columns._replace(yx=columns.yx + amount * shift)


def adsorbates(rng: np.random.Generator, shape: tuple[int, int], spacing: float, *, tall: bool) -> NDArray[np.float64]:
    """Flat-topped bright islands of contamination, larger than a column, with a texture of their own."""
    cover = np.zeros(shape)
    if rng.random() > 0.3:
        return cover
    y, x = np.mgrid[: shape[0], : shape[1]]
    for _ in range(int(rng.integers(1, 4))):
        centre = rng.uniform(-0.1, 1.1, 2) * shape
        radius = rng.uniform(1.0, 4.0) * spacing
        wobble = 1 + 0.2 * np.sin(
            int(rng.integers(2, 5)) * np.arctan2(y - centre[0], x - centre[1]) + rng.uniform(0, 6)
        )
        r = np.hypot(y - centre[0], x - centre[1]) / (radius * wobble)
        blob = 0.5 * (1 - np.tanh((r - 1) * radius / (rng.uniform(0.3, 0.8) * spacing)))
        cover = np.maximum(cover, rng.uniform(0.8, 6.0 if tall else 3.0) * blob)
    texture = smooth_field(rng, shape, rng.uniform(0.6, 2.0) * spacing)
    return np.asarray(cover * np.maximum(1 + rng.uniform(0, 0.15) * texture, 0))


def background(rng: np.random.Generator, shape: tuple[int, int], spacing: float) -> NDArray[np.float64]:
    """A tilted plane and slow unevenness."""
    y, x = np.mgrid[: shape[0], : shape[1]] / max(shape)
    slope = rng.normal(size=2) * 10 ** rng.uniform(-1, 1)
    plane = slope[0] * y + slope[1] * x
    return np.asarray(plane + 10 ** rng.uniform(-1.5, 0.3) * smooth_field(rng, shape, rng.uniform(4, 15) * spacing))


def support(rng: np.random.Generator, shape: tuple[int, int], spacing: float) -> NDArray[np.float64]:
    """Thickness of a rough carbon support: unevenness of all sizes from that of an atom to six spacings, in column heights."""
    lengths = spacing * np.geomspace(rng.uniform(0.5, 1.2), 6.0, 4)
    rough = rng.uniform(-0.3, 0.8)
    fields = sum((length / spacing) ** rough * smooth_field(rng, shape, length) for length in lengths)
    return np.asarray(10 ** rng.uniform(-1.0, 0.0) * fields / np.std(fields))


def add_noise(
    rng: np.random.Generator, image: NDArray[np.float64], noise: float, *, stm: bool, spacing: float
) -> NDArray[np.float64]:
    """What the microscope adds: line jitter, white and shot noise, line offsets, scars."""
    rows = image.shape[0]
    if rng.random() < 0.5:
        jitter = rng.normal(size=(rows,)) * (rng.uniform(0.0, 0.06) * spacing)
        columns = np.arange(image.shape[1], dtype=np.float64)
        image = np.stack([np.interp(columns + jitter[row], columns, image[row]) for row in range(rows)])
    white = rng.normal(size=image.shape)
    if not stm and rng.random() < 0.5:  # shot noise grows with the signal; full strength on a column
        level = (image - image.min()) / max(float(np.ptp(image)), 1e-9)
        white *= np.sqrt(0.35 + 0.65 * level)
    if rng.random() < 0.25:  # a detector or amplifier slower than the pixel clock
        white = ndimage.gaussian_filter1d(white, rng.uniform(0.3, 0.9), axis=1)
    image = image + noise * white
    if stm or rng.random() < 0.2:
        image = image + rng.normal(size=(rows, 1)) * 10 ** rng.uniform(-2, -0.5)
    if stm and rng.random() < 0.3:
        for _ in range(int(rng.integers(1, 5))):
            row, start = int(rng.integers(rows)), int(rng.integers(image.shape[1]))
            image[row, start : start + int(rng.integers(5, 60))] += rng.normal() * 2
    return image


def arbitrary_units(rng: np.random.Generator, image: NDArray[np.float64]) -> NDArray[np.float32]:
    """Gain and offset of an unknown instrument."""
    return (image * 10 ** rng.uniform(-1, 2) + rng.normal() * 10).astype(np.float32)

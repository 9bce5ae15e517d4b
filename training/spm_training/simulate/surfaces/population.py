"""The defects of one image: how many, of which classes, where; and the layers that they make."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from spm_kernels._jit import kernel
from spm_training.simulate.surfaces.corrugation import WavePattern, reciprocal
from spm_training.simulate.surfaces.defects import Defect, add_lobes, build_defect
from spm_training.simulate.surfaces.frame import Raster
from spm_training.simulate.surfaces.materials import Family, Surface
from spm_training.simulate.surfaces.relief import Relief

__all__ = ["Layers", "populate", "render"]

#: A defect smaller than this many pixels in radius is a single pixel to the eye; one larger than this share of the image is
#: a landscape.
SMALLEST_PX, LARGEST_SHARE = 1.2, 0.3

#: Defects may take up this share of the image, clusters and halos included.
COVERAGE = 0.2


def populate(
    rng: np.random.Generator, family: Family, surface: Surface, raster: Raster, relief: Relief, margin_px: int
) -> tuple[list[Defect], NDArray[np.float64]]:
    """Draw the defects of an image and the sites they sit on.

    Parameters
    ----------
    rng
        Source of randomness.
    family, surface
        What the image shows.
    raster
        Its pixels, `margin_px` of them on every side outside the image.
    relief
        Its terraces.
    margin_px
        Width of the margin.

    Returns
    -------
    The defects, and ``(N, 2)`` where they show in pixels of the raster.
    """
    names = list(family.defects)
    share = np.array([family.defects[name] for name in names])
    keep = rng.choice(len(names), size=min(len(names), int(rng.integers(1, 6))), replace=False, p=share / share.sum())
    share = share[keep] / share[keep].sum()
    count = int(rng.poisson(np.exp(rng.uniform(np.log(2.0), np.log(35.0)))))
    inner = np.asarray(raster.shape) - 2 * margin_px
    places = np.argwhere(relief.steps) if relief.steps.any() and rng.random() < 0.25 else np.empty((0, 2), np.int64)
    found: list[Defect] = []
    centres, radii = np.empty((0, 2)), np.empty(0)
    for _ in range(2 * count):
        if len(found) >= count:
            break
        kind = names[keep[int(rng.choice(len(keep), p=share))]]
        pixel = rng.uniform(0, np.asarray(raster.shape) - 1)
        if len(places) and kind in ("molecule", "cluster"):  # what moves about on a surface ends there
            pixel = places[int(rng.integers(len(places)))] + rng.normal(size=2)
        near = np.clip(np.rint(pixel).astype(int), 0, np.asarray(raster.shape) - 1)
        place = _place(raster, pixel)
        defect = build_defect(rng, kind, surface, surface.pattern.site(place, int(relief.terrace[near[0], near[1]])))
        radius = defect.radius_nm / raster.pixel_size_nm
        centre = raster.to_px(defect.yx_nm[None])[0]
        outside = np.max(np.maximum(margin_px - centre, centre - (margin_px + inner - 1)))
        if not SMALLEST_PX <= radius <= LARGEST_SHARE * inner.min() or outside > radius:
            continue
        area = np.pi * float(radii @ radii + radius**2)
        if found and area > COVERAGE * inner.prod():
            continue
        # Most stand apart; one in ten may touch another.
        apart = np.hypot(*(centres - centre).T) - radii - radius
        if len(found) and float(apart.min()) < 0 and not (rng.random() < 0.1 and float((apart + radius).min()) > 0):
            continue
        found.append(defect)
        centres, radii = np.concatenate([centres, centre[None]]), np.append(radii, radius)
    return found, centres


def _place(raster: Raster, pixel: NDArray[np.float64]) -> NDArray[np.float64]:
    """Place in nm of a pixel position."""
    row = np.interp(pixel[0], np.arange(raster.shape[0]), raster.row_shift[:, 0])
    right = np.interp(pixel[0], np.arange(raster.shape[0]), raster.row_shift[:, 1])
    column = np.interp(pixel[1], np.arange(raster.shape[1]), raster.column_shift)
    return np.asarray(pixel * raster.pixel_size_nm + np.array([row, right + column]))


@dataclass(frozen=True, eq=False)
class Layers:
    """What defects add, in nm.

    Parameters
    ----------
    tall
        ``(H, W)`` what stands on the surface.
    flat
        ``(H, W)`` everything else.
    """

    tall: NDArray[np.float64]
    flat: NDArray[np.float64]


def render(
    rng: np.random.Generator,
    defects: Sequence[Defect],
    centres_px: NDArray[np.float64],
    surface: Surface,
    raster: Raster,
) -> Layers:
    """Lay the defects down.

    Parameters
    ----------
    rng
        Source of randomness (phases of standing waves).
    defects
        On the sample.
    centres_px
        ``(N, 2)`` where they show.
    surface
        The surface.
    raster
        The pixels.
    """
    layers = Layers(np.zeros(raster.shape), np.zeros(raster.shape))
    waves = np.empty((0, 2))
    if isinstance(surface.pattern, WavePattern) and not surface.ripple_nm:
        b1, b2 = reciprocal(surface.pattern.cell)
        waves = np.stack([2 * b1 + b2, b1 + 2 * b2, b1 - b2]) / 3  # between the valleys of a honeycomb
    for defect, centre in zip(defects, centres_px, strict=True):
        add_lobes(layers.tall if defect.tall else layers.flat, centre, defect.lobes, raster.pixel_size_nm)
        amplitude, decay = defect.ripple
        if amplitude:
            phase = float(rng.uniform(0, 2 * np.pi))
            _add_ripple(
                layers.flat,
                centre[0],
                centre[1],
                amplitude,
                decay,
                surface.ripple_nm,
                phase,
                waves,
                raster.pixel_size_nm,
            )
    return layers


@kernel()
def _add_ripple(
    out: NDArray[np.float64],
    y0: float,
    x0: float,
    amplitude: float,
    decay: float,
    wavelength: float,
    phase: float,
    waves: NDArray[np.float64],
    pixel: float,
) -> None:
    """Rings of a surface state, or where `wavelength` is 0 the √3 pattern of scattering between valleys."""
    rows, columns = out.shape
    reach = int(3.5 * decay / pixel) + 1
    for y in range(max(int(y0) - reach, 0), min(int(y0) + reach + 2, rows)):
        for x in range(max(int(x0) - reach, 0), min(int(x0) + reach + 2, columns)):
            dy, dx = (y - y0) * pixel, (x - x0) * pixel
            radius = np.sqrt(dy * dy + dx * dx)
            if radius > 3.5 * decay:
                continue
            if wavelength > 0:
                t = radius / wavelength
                value = np.cos(2 * np.pi * t + phase) * (1 - np.exp(-4 * t * t))
            else:
                value = 0.0
                for k in range(len(waves)):
                    value += np.cos(waves[k, 0] * dy + waves[k, 1] * dx) / len(waves)
            out[y, x] += amplitude * np.exp(-radius / decay) * value

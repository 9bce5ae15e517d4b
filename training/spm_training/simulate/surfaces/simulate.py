"""One image of a surface, from the lattice to the noise."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from spm_kernels._jit import kernel
from spm_training.simulate.surfaces.defects import Defect
from spm_training.simulate.surfaces.frame import draw_raster
from spm_training.simulate.surfaces.materials import FAMILIES, Family, Surface
from spm_training.simulate.surfaces.population import Layers, populate, render
from spm_training.simulate.surfaces.relief import Relief, draw_relief
from spm_training.simulate.surfaces.scanner import add_noise, feedback_lag, tilt_and_bow
from spm_training.simulate.surfaces.scene import (
    DEFECT_CLASSES,
    NOISE_LEVELS,
    Defects,
    SurfaceScene,
    white_noise_nm,
)
from spm_training.simulate.surfaces.tip import DECAY_PER_NM, Tip, blunt, double, draw_tip

__all__ = ["simulate_surface"]

#: Range of d′ when none is asked for: from the lowest level to the quietest of real scans.
ALL_LEVELS = (NOISE_LEVELS["low"][0], 3 * NOISE_LEVELS["clear"][1])

#: Radius of `ENERGY_SHARE` of a Gaussian, in σ: √−ln 0.05.
GAUSSIAN_EXTENT = 1.73

#: A second image fainter than this share of the first is no ghost but part of the noise.
FAINTEST_GHOST = 0.1

#: Under a molecule or a cluster of this height two thirds of the lattice are hidden.
HIDING_NM = 0.05


def simulate_surface(
    rng: np.random.Generator,
    *,
    shape: tuple[int, int],
    families: Sequence[str] | None = None,
    pixel_size_nm: float | None = None,
    noise: str | float | None = None,
    defects: bool = True,
) -> SurfaceScene:
    """Draw one constant-current image with its truth.

    Parameters
    ----------
    rng
        The only source of randomness.
    shape
        ``(H, W)`` in pixels, 16 at least.
    families
        Names out of `FAMILIES`; all when None.
    pixel_size_nm
        Side of a pixel; drawn from the family's range when None.
    noise
        Name out of `NOISE_LEVELS`, or d′ of the reference defect in the white noise; drawn log-uniformly over all
        levels and beyond the clearest when None.
    defects
        False for a surface without point defects: terraces and the microscope's disturbances stay.

    Raises
    ------
    ValueError
        If a family or a noise level is unknown, or a number is not positive.
    """
    name, family = _draw_family(rng, families)
    pixel = _draw_pixel_size(rng, family) if pixel_size_nm is None else float(pixel_size_nm)
    d_prime = _detectability(rng, noise)
    if min(shape) < 16 or pixel <= 0:
        raise ValueError(f"shape {shape}, pixel size {pixel} nm: expected 16 pixels a side and a positive size")
    white = white_noise_nm(d_prime, pixel)
    angle = float(rng.uniform(0, 2 * np.pi))

    # The second apex and the blur see beyond the frame: a margin is simulated and cut off.
    probe = family.build(np.random.default_rng(0), angle, 1.0)
    tip = draw_tip(rng, probe.spacing_nm)
    margin = 8 + (0 if tip.shift_nm is None else int(np.ceil(max(map(abs, tip.shift_nm)) / pixel)))
    raster = draw_raster(rng, (shape[0] + 2 * margin, shape[1] + 2 * margin), pixel)
    y, x = raster.places()
    surface = family.build(rng, angle, float(raster.size_nm.max()))
    relief = draw_relief(rng, y, x, surface.step_nm, angle, surface.spacing_nm, alternate=name == "si001-2x1-h")
    nothing: tuple[list[Defect], NDArray[np.float64]] = ([], np.empty((0, 2)))
    present, centres = populate(rng, family, surface, raster, relief, margin) if defects else nothing
    layers = render(rng, present, centres, surface, raster)
    lattice = surface.pattern.corrugation(raster, y, x, relief.terrace) + _at_steps(rng, surface, relief, pixel)
    lattice += _standing_waves(rng, surface, y, x)
    plane = tilt_and_bow(rng, y, x)
    lag = float(rng.uniform(0.2, 1.2)) if rng.random() < 0.5 else 0.0
    inner = np.s_[margin : margin + shape[0], margin : margin + shape[1]]

    def imaged(layer: Layers | None) -> NDArray[np.float64]:
        return feedback_lag(_under_tip(relief, lattice, layer, tip, pixel) + plane, lag)[inner]

    pristine = imaged(None)
    clean = imaged(layers) if present else pristine
    image, jumps = add_noise(rng, clean, white)
    return SurfaceScene(
        image=image.astype(np.float32),
        clean=clean.astype(np.float32),
        pristine=pristine.astype(np.float32),
        jumps=jumps.astype(np.float32),
        pixel_size_nm=pixel,
        defects=_truth(present, centres - margin, pixel, tip, lag, clean - pristine, white),
        steps=np.ascontiguousarray(relief.steps[inner]),
        terrace=np.ascontiguousarray(relief.terrace[inner]),
        orientation_deg=(np.rad2deg(surface.pattern.angle(relief.terrace[inner])) % 180.0).astype(np.float32),
        surface=surface.name,
        family=name,
        detectability=d_prime,
        white_noise_nm=white,
    )


def _draw_family(rng: np.random.Generator, families: Sequence[str] | None) -> tuple[str, Family]:
    names = list(FAMILIES) if families is None else list(families)
    unknown = sorted(set(names) - set(FAMILIES))
    if unknown or not names:
        raise ValueError(f"families {unknown or names}: expected some of {list(FAMILIES)}")
    weights = np.array([FAMILIES[name].weight for name in names])
    name = names[int(rng.choice(len(names), p=weights / weights.sum()))]
    return name, FAMILIES[name]


def _draw_pixel_size(rng: np.random.Generator, family: Family) -> float:
    """From the family's range; one image in eight is an overview, in which atoms are hardly seen."""
    low, high = np.log(family.pixel_size_nm)
    overview = rng.uniform(1.0, 3.0) if rng.random() < 1 / 8 else 0.0
    return float(np.exp(rng.uniform(low, high)) if not overview else np.exp(high) * overview)


def _detectability(rng: np.random.Generator, noise: str | float | None) -> float:
    if noise is None or isinstance(noise, str):
        if isinstance(noise, str) and noise not in NOISE_LEVELS:
            raise ValueError(f"noise {noise!r}: expected one of {list(NOISE_LEVELS)} or a positive number")
        low, high = ALL_LEVELS if noise is None else NOISE_LEVELS[noise]
        return float(np.exp(rng.uniform(np.log(low), np.log(high))))
    if not noise > 0:
        raise ValueError(f"noise {noise}: expected one of {list(NOISE_LEVELS)} or a positive number")
    return float(noise)


def _at_steps(rng: np.random.Generator, surface: Surface, relief: Relief, pixel: float) -> NDArray[np.float64]:
    """What the electrons do at an edge: a bright rim above and a dark one below, standing waves on some metals."""
    out = np.zeros(relief.height_nm.shape)
    rim, width = rng.uniform(0.0, 0.25), rng.uniform(0.2, 0.5)
    phase, amplitude, decay = rng.uniform(0, 2 * np.pi), rng.uniform(0.0, 0.004), rng.uniform(1.0, 4.0)
    if not relief.steps.any():
        return out
    # Around a screw dislocation the surface rises smoothly too: the difference is taken from the sharp edges only.
    out += rim * (relief.height_nm - ndimage.gaussian_filter(relief.height_nm, width / pixel, truncate=3.0))
    if surface.ripple_nm:
        distance = ndimage.distance_transform_edt(~relief.steps) * pixel
        out += amplitude * np.cos(2 * np.pi * distance / surface.ripple_nm + phase) * np.exp(-distance / decay)
    return out


def _standing_waves(
    rng: np.random.Generator, surface: Surface, y: NDArray[np.float64], x: NDArray[np.float64]
) -> NDArray[np.float64]:
    """Waves of a surface state between scatterers that the image does not show: speckles that are no defects."""
    out = np.zeros(y.shape)
    if not surface.ripple_nm or rng.random() < 0.5:
        return out
    k, amplitude = 2 * np.pi / surface.ripple_nm, np.exp(rng.uniform(np.log(0.0003), np.log(0.003)))
    count = int(rng.integers(3, 9))
    for angle, phase in rng.uniform(0, 2 * np.pi, (count, 2)):
        out += amplitude / np.sqrt(count) * np.cos(k * (np.sin(angle) * y + np.cos(angle) * x) + phase)
    return out


def _under_tip(
    relief: Relief, lattice: NDArray[np.float64], layers: Layers | None, tip: Tip, pixel: float
) -> NDArray[np.float64]:
    """Heights that the tip follows over the terraces, what stands on them, the lattice and its defects."""
    if layers is None:
        surface = blunt(relief.height_nm, tip.radius_nm, pixel) + lattice
    else:
        hidden = np.exp(-np.maximum(layers.tall, 0.0) / HIDING_NM)
        surface = blunt(relief.height_nm + layers.tall, tip.radius_nm, pixel) + (lattice + layers.flat) * hidden
    if tip.blur_nm:
        surface = ndimage.gaussian_filter(surface, tip.blur_nm / pixel)
    return surface if tip.shift_nm is None else double(surface, tip.shift_nm, tip.gap_nm, pixel)


def _truth(
    present: Sequence[Defect],
    yx: NDArray[np.float64],
    pixel: float,
    tip: Tip,
    lag_px: float,
    difference: NDArray[np.float64],
    white: float,
) -> Defects:
    """Where each defect shows in the image, how large, how high and how clearly.

    Height and d′ are those of the defect alone, and not above what the whole image shows at its place.
    """
    shape = np.asarray(difference.shape)
    yx = yx.copy()
    if lag_px > 0:  # what the feedback delays
        yx[:, 1] += 1.0 / np.expm1(1.0 / lag_px)
    kind = np.array([DEFECT_CLASSES.index(defect.kind) for defect in present], np.int32)
    height = np.array([defect.lobes[np.argmax(np.abs(defect.lobes[:, 5])), 5] for defect in present])
    own = np.array([defect.radius_nm for defect in present]) / pixel
    widening = [_flank(tip, height[n]) if defect.tall else 0.0 for n, defect in enumerate(present)]
    radius = np.sqrt(own**2 + (GAUSSIAN_EXTENT * tip.blur_nm / pixel) ** 2 + (np.array(widening) / pixel) ** 2)
    energy = np.array([defect.energy for defect in present]) / pixel**2
    # A convolution keeps the volume; over what is tall the paraboloid keeps the height.
    flat = np.array([not defect.tall for defect in present], bool)
    energy = np.where(flat, energy * (own / radius) ** 2, energy * (radius / own) ** 2)
    ghost = np.zeros(len(present), bool)
    if tip.shift_nm is not None:
        weight = np.exp(-DECAY_PER_NM * tip.gap_nm)
        shadow = np.log1p(weight * np.expm1(DECAY_PER_NM * height) / (1 + weight)) / DECAY_PER_NM / height
        shift = np.asarray(tip.shift_nm) / pixel
        seen = (np.abs(shadow) > FAINTEST_GHOST) & (np.hypot(*shift) > 0.5 * radius)
        yx, kind = np.concatenate([yx, yx[seen] - shift]), np.concatenate([kind, kind[seen]])
        radius, ghost = np.concatenate([radius, radius[seen]]), np.append(ghost, np.ones(int(seen.sum()), bool))
        energy, height = np.append(energy, (energy * shadow**2)[seen]), np.append(height, (height * shadow)[seen])
    near = np.all((yx > -0.5 - radius[:, None]) & (yx < shape - 0.5 + radius[:, None]), axis=1)
    yx, kind, radius, ghost, height = yx[near], kind[near], radius[near], ghost[near], height[near]
    there, extreme = np.zeros(len(yx)), np.zeros(len(yx))
    _measure(np.ascontiguousarray(difference), yx, 1.3 * radius, np.sign(height), there, extreme)
    beyond = np.max(
        np.maximum(-0.5 - (yx - radius[:, None]), yx + radius[:, None] - shape + 0.5), axis=1, initial=-np.inf
    )
    return Defects(
        yx_px=yx,
        kind=kind,
        radius_px=radius,
        height_nm=np.sign(height) * np.minimum(np.abs(height) * 1.5, extreme),
        detectability=np.sqrt(np.minimum(energy[near], there)) / white,
        cut=np.asarray(beyond > 0),
        ghost=ghost,
    )


def _flank(tip: Tip, height_nm: float) -> float:
    """By how much, in nm and in quadrature, the paraboloid widens what is so high.

    A spike of height h becomes a paraboloid that reaches √(2Rh); 95 % of its squared height lie within 0.79 of that. Low features
    are convolved with a Gaussian.
    """
    parabola = 0.79 * np.sqrt(2 * tip.radius_nm * max(height_nm, 0.0))
    return float(max(GAUSSIAN_EXTENT * np.sqrt(tip.radius_nm / DECAY_PER_NM), parabola))


@kernel()
def _measure(
    difference: NDArray[np.float64],
    yx: NDArray[np.float64],
    radius: NDArray[np.float64],
    sign: NDArray[np.float64],
    energy: NDArray[np.float64],
    extreme: NDArray[np.float64],
) -> None:
    """Sum of squares and largest value, in the direction of `sign`, of what the defects change in a circle around each."""
    rows, columns = difference.shape
    for n in range(len(yx)):
        top, bottom = max(int(np.ceil(yx[n, 0] - radius[n])), 0), min(int(np.floor(yx[n, 0] + radius[n])) + 1, rows)
        left, right = max(int(np.ceil(yx[n, 1] - radius[n])), 0), min(int(np.floor(yx[n, 1] + radius[n])) + 1, columns)
        for y in range(top, bottom):
            for x in range(left, right):
                if (y - yx[n, 0]) ** 2 + (x - yx[n, 1]) ** 2 <= radius[n] ** 2:
                    value = difference[y, x]
                    energy[n] += value * value
                    extreme[n] = max(extreme[n], sign[n] * value)

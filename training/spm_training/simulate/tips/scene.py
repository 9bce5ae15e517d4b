"""A scan with a bad tip, and everything that is true of it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from scipy.signal import fftconvolve

from spm_kernels import dilate, erode
from spm_runtime.pipelines.relief import STEP_PX
from spm_training.simulate.tips.disturb import Disturbance, disturb, draw_disturbance
from spm_training.simulate.tips.shapes import SIDE_PX, DrawnTip, blunt_tip, double_tip, gaussian_psf, hackathon_tip
from spm_training.simulate.tips.stm import STM_SURFACES
from spm_training.simulate.tips.surfaces import AFM_SURFACES

__all__ = ["FAMILIES", "SPLITS", "SURFACES", "Split", "TipScene", "local_height", "scene_rng", "simulate_tip_scene"]

Modality = Literal["afm", "stm"]
Split = Literal["train", "validation", "test"]

#: Kinds of corruption, never mixed: dilation by a tip with one apex, by one with two, by the hackathon's Gaussian tip, whose apex
#: is off the middle, and convolution with a Gaussian.
FAMILIES = ("blunt", "double", "hackathon", "convolution")
#: Kinds of surfaces by microscope.
SURFACES: Mapping[str, tuple[str, ...]] = MappingProxyType({"afm": tuple(AFM_SURFACES), "stm": tuple(STM_SURFACES)})
#: Sets that share no random stream, and so no surface and no tip.
SPLITS: tuple[Split, ...] = ("train", "validation", "test")
#: The surface is drawn half a tip wider than the tip's way over it, and that half a tip wider than the frame.
HALF = SIDE_PX // 2
WAY = np.s_[HALF:-HALF, HALF:-HALF]
FRAME = np.s_[2 * HALF : -2 * HALF, 2 * HALF : -2 * HALF]
#: A gap below this share of the relief is a touch: heights are rounded to float32.
TOUCH = 1e-5


@dataclass(frozen=True, eq=False)
class TipScene:
    """A simulated scan with its truth. Heights and lengths are in nanometres, all arrays but the tip of the same shape.

    Parameters
    ----------
    image
        ``(H, W)`` float32: what the microscope saves.
    clean
        ``(H, W)`` float32: the surface.
    blurred
        ``(H, W)`` float32: what the tip makes of it, before noise, scars and line offsets.
    touched
        ``(H, W)`` bool: where the tip touched the surface somewhere on its way, so that erosion by the true tip gives the surface
        itself; all True in the family ``convolution``, which hides nothing.
    tip
        ``(61, 61)`` float32 heights, as `spm_kernels.dilate` takes them; −inf where there is no tip. In the family
        ``convolution`` weights that sum to 1.
    apex_yx_px
        Position of the apex relative to the middle of ``tip``: (0, 0) but in the family ``hackathon``.
    second_yx_px
        Position of the second apex relative to the first in the family ``double``, None elsewhere.
    pixel_size_nm
        Edge of a pixel.
    relief_nm
        From the lowest to the highest point of the surface under the whole scan.
    disturbance
        Strengths of what came after the tip, as shares of the relief.
    family
        A name in `FAMILIES`.
    surface
        A name in `SURFACES`.
    tip_kind
        Name of the tip's shape.
    tip_scale_px
        Distance from the apex at which the tip, or the first of two, is as high as what stands next to each other on the surface;
        σ of a Gaussian.
    modality
        ``afm`` or ``stm``.
    """

    image: NDArray[np.float32]
    clean: NDArray[np.float32]
    blurred: NDArray[np.float32]
    touched: NDArray[np.bool_]
    tip: NDArray[np.float32]
    apex_yx_px: tuple[float, float]
    second_yx_px: tuple[float, float] | None
    pixel_size_nm: float
    relief_nm: float
    disturbance: Disturbance
    family: str
    surface: str
    tip_kind: str
    tip_scale_px: float
    modality: Modality


def scene_rng(split: Split, index: int, *, seed: int = 0) -> np.random.Generator:
    """Random stream of one scene of a set: no two scenes of any sets share it, whatever is drawn from it.

    Parameters
    ----------
    split
        A name in `SPLITS`.
    index
        Number of the scene, 0 or more.
    seed
        Seed of all three sets.
    """
    return np.random.default_rng(np.random.SeedSequence((seed, SPLITS.index(split), index)))


def simulate_tip_scene(
    rng: np.random.Generator,
    *,
    shape: tuple[int, int] = (256, 256),
    modality: Modality = "afm",
    families: Sequence[str] | None = None,
    surfaces: Sequence[str] | None = None,
    disturbance: Disturbance | None = None,
) -> TipScene:
    """Draw a scene.

    Parameters
    ----------
    rng
        The only source of randomness.
    shape
        ``(H, W)`` in pixels.
    modality
        Microscope: its surfaces are drawn.
    families, surfaces
        Names out of `FAMILIES` and ``SURFACES[modality]`` to draw from; all where none are given.
    disturbance
        What comes after the tip; drawn where none is given.

    Raises
    ------
    ValueError
        If a name is unknown.

    Notes
    -----
    The surface, the tip and the noise have random streams of their own: the same generator gives the same surface in every
    family.
    The surface goes on beyond the frame, and so does the tip's way over it.
    """
    makers = AFM_SURFACES if modality == "afm" else STM_SURFACES
    families, surfaces = families or FAMILIES, surfaces or tuple(makers)
    for name, known in [(f, FAMILIES) for f in families] + [(s, tuple(makers)) for s in surfaces]:
        if name not in known:
            raise ValueError(f"{name}: unknown; expected one of {', '.join(known)}")
    surface_rng, tip_rng, noise_rng = rng.spawn(3)
    surface = str(surface_rng.choice(surfaces))
    drawn = makers[surface](surface_rng, (shape[0] + 4 * HALF, shape[1] + 4 * HALF))
    field = (drawn.heights_px + _tilt(surface_rng, drawn.heights_px)) * drawn.pixel_size_nm
    clean = field[FRAME]
    field = (field - clean.mean()).astype(np.float32)
    relief = max(float(np.ptp(clean)), 1e-6)
    family = str(tip_rng.choice(families))
    tip = _draw_tip(tip_rng, family, relief, min(local_height(clean), relief))
    blurred, touched = _apply(field, tip, family, TOUCH * relief)
    disturbance = disturbance or draw_disturbance(noise_rng)
    return TipScene(
        image=disturb(noise_rng, blurred, relief, disturbance),
        clean=field[FRAME].copy(),
        blurred=blurred,
        touched=touched,
        tip=tip.heights.astype(np.float32),
        apex_yx_px=tip.apex_yx,
        second_yx_px=tip.second_yx,
        pixel_size_nm=drawn.pixel_size_nm,
        relief_nm=relief,
        disturbance=disturbance,
        family=family,
        surface=surface,
        tip_kind=tip.kind,
        tip_scale_px=tip.scale_px,
        modality=modality,
    )


def _tilt(rng: np.random.Generator, heights: NDArray[np.float64]) -> NDArray[np.float64]:
    """A plane, as every sample has one; most scans are levelled."""
    slope = rng.normal(0, 1, 2) * (rng.random() < 0.3) * 0.3 * float(heights.std()) / max(heights.shape)
    return np.asarray(np.add.outer(slope[0] * np.arange(heights.shape[0]), slope[1] * np.arange(heights.shape[1])))


def local_height(clean: NDArray[np.floating]) -> float:
    """Height of what stands next to each other on a surface: three times the rms difference of heights eight pixels apart."""
    clean, step = np.asarray(clean, np.float64), STEP_PX
    squares = [np.mean((clean[step:] - clean[:-step]) ** 2), np.mean((clean[:, step:] - clean[:, :-step]) ** 2)]
    return 3 * float(np.sqrt(np.mean(squares))) + 1e-6


def _draw_tip(rng: np.random.Generator, family: str, relief: float, local: float) -> DrawnTip:
    if family == "blunt":
        return blunt_tip(rng, relief, local)
    if family == "double":
        return double_tip(rng, relief, local)
    return hackathon_tip(rng, relief) if family == "hackathon" else gaussian_psf(rng)


def _apply(
    field: NDArray[np.float32], tip: DrawnTip, family: str, gap: float
) -> tuple[NDArray[np.float32], NDArray[np.bool_]]:
    """What the tip makes of the surface, and where it touched it, both in the frame."""
    clean = field[FRAME]
    if family == "convolution":
        blurred = fftconvolve(field, tip.heights, mode="same").astype(np.float32)
        return blurred[FRAME].copy(), np.ones(clean.shape, np.bool_)
    heights = tip.heights.astype(np.float32)
    whole = dilate(field, heights)[WAY]  # the pixels that know the surface under the whole tip
    return whole[WAY].copy(), (erode(whole, heights)[WAY] - clean) <= gap

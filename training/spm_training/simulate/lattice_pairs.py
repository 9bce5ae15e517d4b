"""Simulated images of lattices, and of other surfaces, with what a network that denoises is to make of them.

A training keeps these images in a cache by the digest of this module and of all that it imports: nothing else may have a say.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from spm_runtime.levelling import fit_plane
from spm_runtime.pipelines.denoise_view import DenoiseView, denoise_view
from spm_training.simulate.stm_lattices import LATTICES, VACANCY, Noise, simulate_lattice
from spm_training.simulate.surfaces import SurfaceScene, simulate_surface

__all__ = ["SLOW_PX", "LatticeImage", "draw_lattice_image", "without_noise"]

#: Noise that is smoother than a Gaussian of this σ, in pixels, is left in a surface: it cannot be told from a plane or a bow.
SLOW_PX = 16.0


class LatticeImage(NamedTuple):
    """An image with its truth, in the units of its `spm_runtime.pipelines.denoise_view.DenoiseView`.

    ``image`` and ``clean`` ``(H, W)`` float16; ``yx_px`` ``(N, 2)`` float32 places of the atoms that are there; ``height`` of an
    atom in the plane, in the same units; ``lattice`` its number in `LATTICES`. Of another surface no atoms are named, its
    height is 1, the relief, and its number −1.
    """

    image: NDArray[np.float16]
    clean: NDArray[np.float16]
    yx_px: NDArray[np.float32]
    height: float
    lattice: int


def draw_lattice_image(
    rng: np.random.Generator,
    number: int,
    *,
    image_px: int,
    names: tuple[str, ...],
    spread_factor: tuple[float, float],
    thermal: tuple[float, float],
    shot: tuple[float, float],
    striation: tuple[float, float],
    vacancies_max: float,
    adatoms_max: float,
    surfaces_share: float,
    inverted_share: float,
    families: tuple[str, ...],
    detectability: tuple[float, float],
) -> LatticeImage:
    """One image; takes a fifth of a second.

    Parameters
    ----------
    rng
        Every draw comes from it.
    number
        The lattices take turns: which one it is.
    image_px, names, spread_factor, thermal, shot, striation, vacancies_max, adatoms_max, surfaces_share, inverted_share
        As in `spm_training.options.LatticeImageOptions`.
    families, detectability
        Of the other surfaces: names out of `spm_training.simulate.surfaces.FAMILIES`, none for all, and the ends of d′.
    """
    shape = (image_px, image_px)
    sign = -1 if rng.random() < inverted_share else 1
    if rng.random() < surfaces_share:
        surface = simulate_surface(rng, shape=shape, families=families or None, noise=_drawn(rng, detectability))
        view = denoise_view(sign * surface.image)
        return _image(view, sign * without_noise(surface), np.empty((0, 2)), 1.0, -1)
    name = (names or tuple(LATTICES))[number % len(names or LATTICES)]
    scene = simulate_lattice(
        rng,
        name,
        shape=shape,
        noise=Noise(_drawn(rng, thermal), _drawn(rng, shot), _drawn(rng, striation)),
        spread_px=LATTICES[name].spread_px * _drawn(rng, spread_factor),
        vacancies=float(rng.uniform(0, vacancies_max)),
        adatoms=float(rng.uniform(0, adatoms_max)),
    )
    view = denoise_view(sign * scene.image)
    there = scene.yx_px[scene.state != VACANCY]
    return _image(view, sign * scene.clean, there, 1 / view.scale, tuple(LATTICES).index(name))


def without_noise(surface: SurfaceScene) -> NDArray[np.float64]:
    """What a denoiser can make of an image: its pixels, lines and scars without noise, and all else as it is.

    Parameters
    ----------
    surface
        A simulated surface. Its clean image also lacks the drift of the electronics and the jumps of heights where the apex
        changed for good; nobody can know what these were.

    Returns
    -------
    ``(H, W)`` nm.
    """
    settled = surface.clean.astype(np.float64) + surface.jumps
    noise = surface.image - settled
    plane = fit_plane(noise.astype(np.float32))
    return np.asarray(settled + plane + ndimage.gaussian_filter(noise - plane, SLOW_PX))


def _drawn(rng: np.random.Generator, ends: tuple[float, float]) -> float:
    """Log-uniform between two ends; 0 between two zeros."""
    return float(np.exp(rng.uniform(*np.log(ends)))) if ends[1] else 0.0


def _image(
    view: DenoiseView, clean: NDArray[np.floating], yx_px: NDArray[np.float64], height: float, lattice: int
) -> LatticeImage:
    seen, truth = (one.astype(np.float16) for one in (view.image, view.normalised(clean)))
    return LatticeImage(seen, truth, yx_px.astype(np.float32), height, lattice)

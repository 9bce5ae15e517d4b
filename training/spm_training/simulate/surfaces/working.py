"""Simulated surfaces as the runtime's pipeline hands them to its networks."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from spm_runtime.pipelines.surface import WORKING_PIXEL_NM, SurfaceImage, on_working_pixels
from spm_training.simulate.surfaces.materials import FAMILIES
from spm_training.simulate.surfaces.scene import SurfaceScene
from spm_training.simulate.surfaces.simulate import simulate_surface

__all__ = ["draw_working_surface", "in_working_pixels"]

#: Finer pixels are averaged away anyway and take long to simulate.
_FINEST_NM = 0.03
#: One image in so many is an overview with pixels up to three times the coarsest of its family.
_OVERVIEW = 8


def draw_working_surface(
    rng: np.random.Generator,
    image_px: int,
    *,
    families: tuple[str, ...],
    detectability: tuple[float, float],
    defects: bool,
) -> tuple[SurfaceScene, SurfaceImage]:
    """Simulate a surface that fills an image of about ``image_px`` working pixels a side.

    Parameters
    ----------
    rng
        The only source of randomness.
    image_px
        Side of the working image.
    families
        Names of families; empty for all.
    detectability
        Range of d′ of the reference defect, log-uniform.
    defects
        With point defects or without.

    Returns
    -------
    The scene on the pixels of the scan, and what `spm_runtime.pipelines.surface.on_working_pixels` makes of it.
    """
    names = list(families or FAMILIES)
    share = np.array([FAMILIES[name].weight for name in names])
    family = names[int(rng.choice(len(names), p=share / share.sum()))]
    low, high = np.log(FAMILIES[family].pixel_size_nm)
    pixel = float(np.exp(rng.uniform(max(low, np.log(_FINEST_NM)), high)))
    if rng.integers(_OVERVIEW) == 0:
        pixel = float(np.exp(high) * rng.uniform(1.0, 3.0))
    side = round(image_px * max(WORKING_PIXEL_NM / pixel, 1.0))
    scene = simulate_surface(
        rng,
        shape=(side, side),
        families=[family],
        pixel_size_nm=pixel,
        noise=float(np.exp(rng.uniform(*np.log(detectability)))),
        defects=defects,
    )
    return scene, on_working_pixels(scene.image, (pixel, pixel), 1.0)


def in_working_pixels(yx_px: NDArray[np.float64], surface: SurfaceImage) -> NDArray[np.float64]:
    """``(N, 2)`` positions of the scan in pixels of the working image."""
    return np.asarray((yx_px + 0.5) * np.asarray(surface.factor) - 0.5)

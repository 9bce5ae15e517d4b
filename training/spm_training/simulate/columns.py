"""A fast simulator of atomic-resolution images: columns, their disorder and the microscope's disturbances.

Two kinds of families. Crystals (`spm_training.simulate.crystals`) are seen by a scanning transmission electron microscope:
every column is the sum of the responses of its atoms (`spm_training.simulate.stem`). Arrangements
(`spm_training.simulate.lattices`) have Gaussian columns of free width and height: what a scanning tunnelling microscope
shows, and whatever has no name.

Noise is stated by the matched-filter detectability d′ of one full-height column in white noise: the root of the sum of its
squared pixels over the standard deviation of the noise; for a Gaussian ``height · √π · σ_px / σ_noise``.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
from scipy import ndimage
from skimage.transform import resize

from spm_training.simulate.crystals import CRYSTALS
from spm_training.simulate.disturb import (
    add_noise,
    adsorbates,
    arbitrary_units,
    background,
    reregister,
    slow_drift,
    terraces,
)
from spm_training.simulate.lattices import ARRANGEMENTS
from spm_training.simulate.place import disorder, place_arrangement
from spm_training.simulate.scene import BORDER, NOISE_LEVELS, REQUIRED_HEIGHT, Scene, in_frame
from spm_training.simulate.splat import sum_gaussians
from spm_training.simulate.stem import simulate_crystal

__all__ = ["FAMILIES", "NOISE_LEVELS", "PAPER_FAMILIES", "UNSEEN_FAMILIES", "Scene", "simulate_columns"]

#: Families of structures that `simulate_columns` draws from.
FAMILIES: tuple[str, ...] = (*CRYSTALS, *ARRANGEMENTS)

#: The two materials of the PolyU thesis.
PAPER_FAMILIES: tuple[str, ...] = ("mos2-2h", "res2-1t")

#: What the twin of the default model never sees: honeycombs, perovskites, WSe₂ and isolated atoms, and what may contain them.
UNSEEN_FAMILIES: tuple[str, ...] = (
    "graphene",
    "h-bn",
    "honeycomb",
    "perovskite-001",
    "perovskite-110",
    "centred",
    "wse2-2h",
    "isolated-atoms",
    "isolated",
)

#: Width σ of a column over the spacing at which neighbours merge. At 0.5 the corrugation of a triangular net of Gaussians
#: has fallen to 2 % of their height: 9 · 2πσ²/A · exp(−8π²σ²/3) with A = √3/2, its first Fourier components.
BLURRED_WIDTH = (0.5, 0.85)


def simulate_columns(
    rng: np.random.Generator,
    *,
    shape: tuple[int, int],
    families: Sequence[str] | None = None,
    spacing_px: tuple[float, float] = (2.5, 36.0),
    detectability: tuple[float, float] = (3.5, 60.0),
) -> Scene:
    """Draw one scene.

    Parameters
    ----------
    rng
        The only source of randomness.
    shape
        ``(H, W)`` in pixels.
    families
        Names out of `FAMILIES`; all when None.
    spacing_px
        Range of the spacing. Its logarithm is drawn from a beta(2, 2) distribution: most often near the geometric middle,
        where a pipeline brings an image before it looks for atoms, and less often at the ends.
    detectability
        Range of d′, drawn log-uniformly.

    Returns
    -------
    Scene

    Raises
    ------
    ValueError
        If a family is unknown.
    """
    names = list(families) if families is not None else list(FAMILIES)
    unknown = sorted(set(names) - set(FAMILIES))
    if unknown:
        raise ValueError(f"unknown families {unknown}; expected some of {list(FAMILIES)}")
    family = names[int(rng.integers(len(names)))]
    simulate = simulate_crystal if family in CRYSTALS else _simulate
    low, high = np.log(spacing_px)
    spacing = float(np.exp(low + (high - low) * rng.beta(2, 2)))
    d_prime = float(np.exp(rng.uniform(*np.log(detectability))))
    # One image in six was sampled coarsely and enlarged, as the pipeline does with narrow spacings.
    factor = float(rng.uniform(1.5, 4.0)) if rng.random() < 1 / 6 else 1.0
    factor = max(1.0, min(factor, spacing / 2.3))
    if factor < 1.2:
        return simulate(rng, family, shape, spacing, d_prime)
    coarse_shape = (int(np.ceil(shape[0] / factor)) + 2, int(np.ceil(shape[1] / factor)) + 2)
    return _enlarge(simulate(rng, family, coarse_shape, spacing / factor, d_prime), shape, spacing)


def _simulate(rng: np.random.Generator, family: str, shape: tuple[int, int], spacing: float, d_prime: float) -> Scene:
    """Draw a scene of a given family, spacing in pixels and detectability."""
    stm = family == "si111-7x7" or (family not in ("dumbbell", "dichalcogenide") and rng.random() < 0.4)
    # One STM image in eight was taken with a tip too blunt for its atoms: there is a pattern, and nothing to be found.
    blurred = stm and family != "isolated" and rng.random() < 1 / 8
    broad = rng.uniform(*BLURRED_WIDTH) if blurred else rng.uniform(0.22, 0.42)
    narrow = rng.uniform(0.13, 0.28)
    if family == "isolated":  # nothing but their size tells the scale of single atoms: tie it to the spacing
        broad = narrow = rng.uniform(0.19, 0.23)
    # A pixel and the microscope's resolution bound the width from below.
    width = max(spacing * (broad if stm else narrow), 0.7)

    columns, holes = place_arrangement(rng, family, shape, spacing)
    columns = slow_drift(rng, columns, shape, spacing) if rng.random() < 0.3 else columns
    columns, vacancies = disorder(rng, columns, shape, spacing)
    height_field, terrace = terraces(rng, shape, spacing) if stm and rng.random() < 0.35 else (None, None)
    if terrace is not None:
        columns = reregister(rng, columns, terrace, spacing)

    image = sum_gaussians(columns.yx, columns.height, width, shape)
    depth = rng.uniform(0.0, 0.9) if stm else 0.0
    if depth and len(vacancies):
        image -= sum_gaussians(vacancies, np.full(len(vacancies), depth), spacing * 0.45, shape)
    if len(holes):
        image -= sum_gaussians(
            holes, np.full(len(holes), rng.uniform(0.2, 0.9)), spacing * rng.uniform(0.35, 0.6), shape
        )
    if height_field is not None:
        image += height_field
    cover = adsorbates(rng, shape, spacing, tall=stm)
    image += cover
    image += background(rng, shape, spacing)
    noise = float(np.sqrt(np.pi) * width / d_prime)
    image = add_noise(rng, image, noise, stm=stm, spacing=spacing)

    columns = columns.shown(shape, spacing)
    columns = columns.keep(np.full(len(columns.yx), not blurred))
    buried = ndimage.map_coordinates(cover, columns.yx.T, order=1, mode="nearest") > 0.25
    return Scene(
        image=arbitrary_units(rng, image),
        yx_px=columns.yx,
        required=(columns.height >= REQUIRED_HEIGHT) & ~buried & in_frame(columns.yx, shape),
        sublattice=columns.site,
        # √2 σ / d′ along each axis, for a full-height Gaussian.
        crb_px=2 * width / (d_prime * columns.height),
        spacing_px=spacing,
        width_px=width,
        detectability=d_prime,
        noise_px=noise,
        family=family,
        contrast="stm" if stm else "stem",
    )


def _enlarge(scene: Scene, shape: tuple[int, int], spacing: float) -> Scene:
    """Interpolate a coarse scene to a wider spacing and cut it to shape."""
    factor = spacing / scene.spacing_px
    size = tuple(round(n * factor) for n in scene.image.shape)
    image = resize(  # type: ignore[no-untyped-call]
        scene.image, size, order=3, mode="reflect", anti_aliasing=False, preserve_range=True, clip=False
    )
    true_factor = np.asarray(size) / np.asarray(scene.image.shape)
    yx = (scene.yx_px + 0.5) * true_factor - 0.5
    shown = in_frame(yx, shape, margin_px=BORDER * spacing)
    return replace(
        scene,
        image=np.ascontiguousarray(image[: shape[0], : shape[1]], dtype=np.float32),
        yx_px=yx[shown],
        required=(scene.required & in_frame(yx, shape))[shown],
        sublattice=scene.sublattice[shown],
        crb_px=scene.crb_px[shown] * factor,
        spacing_px=spacing,
        width_px=scene.width_px * factor,
    )

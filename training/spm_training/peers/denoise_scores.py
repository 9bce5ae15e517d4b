"""How good a denoised lattice is: against the clean image, and by what it leaves of the defects."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from skimage.metrics import structural_similarity

from spm_training.data import Split, rng_for
from spm_training.peers.denoise import Denoiser
from spm_training.simulate.stm_lattices import (
    ADATOM,
    ATOM,
    LATTICES,
    VACANCY,
    LatticeScene,
    Noise,
    simulate_lattice,
)

__all__ = ["DenoiseScores", "compare", "contrast_left", "defect_contrast", "draw_lattices", "has_defects", "score"]

#: The range that PSNR and SSIM refer to: the height of an atom in the plane.
DATA_RANGE = 1.0
#: Radius of the surroundings of a defect, in σ of an atom.
_NEAR = 2.0


@dataclass(frozen=True)
class DenoiseScores:
    """Figures of merit against the clean image.

    Parameters
    ----------
    mse
        Mean squared error; an atom in the plane has height 1.
    psnr_db
        Peak signal-to-noise ratio, with the height of an atom in the plane as the peak.
    ssim
        Structural similarity for the same range, with Gaussian weights of σ 1.5 (Wang et al. 2004).
    """

    mse: float
    psnr_db: float
    ssim: float


def score(found: NDArray[np.float32], clean: NDArray[np.float32]) -> DenoiseScores:
    """Scores of an image ``(H, W)``, 11 pixels or more along both axes, against the clean one."""
    mse = float(np.mean((found.astype(np.float64) - clean) ** 2))
    ssim = structural_similarity(  # type: ignore[no-untyped-call]
        clean, found, data_range=DATA_RANGE, gaussian_weights=True, sigma=1.5, use_sample_covariance=False
    )
    psnr = 10 * np.log10(DATA_RANGE**2 / mse) if mse > 0 else np.inf
    return DenoiseScores(mse, float(psnr), float(ssim))


def defect_contrast(scene: LatticeScene, denoiser: Denoiser) -> dict[str, float]:
    """Share of the contrast of vacancies and adatoms that a denoiser leaves standing.

    The surface is denoised with its defects and without, under the very same noise. What the defects add to the answer is
    compared with what they add to the clean image, by least squares over the surroundings of the defects of a kind: 1 is all of
    it, 0 is a lattice made perfect. Noise and whatever the denoiser does to the lattice itself cancel.

    Parameters
    ----------
    scene
        An image with defects.
    denoiser
        Is told the root mean square of the noise.

    Returns
    -------
    Shares by ``vacancy`` and ``adatom``; NaN where the image has none.
    """
    answers = (denoiser(image, scene.noise_rms) for image in (scene.image, scene.perfect_image))
    return contrast_left(scene, *answers)


def contrast_left(
    scene: LatticeScene, answer: NDArray[np.float32], answer_to_perfect: NDArray[np.float32]
) -> dict[str, float]:
    """The shares of `defect_contrast` from the answers to ``scene.image`` and to ``scene.perfect_image``."""
    added = answer.astype(np.float64) - answer_to_perfect
    truth = scene.clean.astype(np.float64) - scene.perfect
    y, x = np.mgrid[: truth.shape[0], : truth.shape[1]]
    shares = {}
    for name, state in (("vacancy", VACANCY), ("adatom", ADATOM)):
        near = np.zeros(truth.shape, bool)
        for row, column in scene.yx_px[scene.state == state]:
            near |= np.hypot(y - row, x - column) <= _NEAR * scene.width_px
        power = float(np.sum(truth[near] ** 2))
        shares[name] = float(np.sum(added[near] * truth[near]) / power) if power else float("nan")
    return shares


def has_defects(scene: LatticeScene) -> bool:
    """Whether a vacancy or an adatom stands in the image."""
    return bool((scene.state != ATOM).any())


def draw_lattices(
    seed: int,
    split: Split,
    noise: Noise,
    *,
    names: Sequence[str] = tuple(LATTICES),
    count: int = 1,
    side_px: int = 256,
    vacancies: float = 0.0,
    adatoms: float = 0.0,
) -> list[LatticeScene]:
    """Images of a split, ``count`` of each lattice; those of different splits never share a draw.

    The surfaces of a seed are the same at every noise level.
    """
    return [
        simulate_lattice(
            rng_for(seed, split, tuple(LATTICES).index(name), index),
            name,
            shape=(side_px, side_px),
            noise=noise,
            vacancies=vacancies,
            adatoms=adatoms,
        )
        for name in names
        for index in range(count)
    ]


def compare(denoisers: Mapping[str, Denoiser], scenes: Sequence[LatticeScene]) -> dict[str, dict[str, DenoiseScores]]:
    """Mean scores of denoisers, of the noisy image (``none``) too, by denoiser and lattice.

    The mean of the PSNR is that of the decibels.
    """
    table: dict[str, dict[str, DenoiseScores]] = {}
    for title, denoiser in {"none": _nothing, **denoisers}.items():
        scores: dict[str, list[DenoiseScores]] = {}
        for scene in scenes:
            found = denoiser(scene.image, scene.noise_rms)
            scores.setdefault(scene.name, []).append(score(found, scene.clean))
        table[title] = {name: _mean(every) for name, every in scores.items()}
    return table


def _nothing(image: NDArray[np.float32], sigma: float) -> NDArray[np.float32]:
    return image


def _mean(scores: Sequence[DenoiseScores]) -> DenoiseScores:
    return DenoiseScores(*(float(np.mean([vars(one)[name] for one in scores])) for name in ("mse", "psnr_db", "ssim")))

"""Scores of denoisers, above all of model packages, on simulated lattices with known truth.

A package is scored through the runtime's own pipeline: what a user gets, not what the network alone could do.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from spm_runtime.errors import ParameterError
from spm_runtime.models import ModelPackage
from spm_runtime.pipelines import analyse
from spm_runtime.results import Result
from spm_runtime.scan import Scan
from spm_runtime.session import Device
from spm_training.denoise.scenes import SETTINGS, DenoiseOptions, Shown, scan_of, setting_of
from spm_training.peers.denoise import Denoiser
from spm_training.peers.denoise_scores import DenoiseScores, contrast_left, has_defects, score
from spm_training.simulate.stm_lattices import NOISE_LEVELS, LatticeScene

__all__ = [
    "AS_RECORDED",
    "ByLevel",
    "LatticeScore",
    "as_recorded",
    "at_every_level",
    "denoised_of",
    "evaluate_all",
    "package_denoiser",
    "package_scan_denoiser",
]

#: A method by `spm_training.denoise.scenes.SETTINGS`: peers have other settings at each level of noise, and of surfaces.
ByLevel = Mapping[str, Denoiser]
#: Name of what every method is compared with.
AS_RECORDED = "as recorded"


@dataclass(frozen=True)
class LatticeScore:
    """Scores of one image.

    Parameters
    ----------
    lattice, noise
        What it shows, a lattice or `spm_training.denoise.scenes.SURFACES`, and at what level of noise.
    before, after
        Of the image as it was, and of the answer.
    vacancy, adatom
        Share of the contrast that was left standing (`contrast_left`); NaN where there is none of the kind, and of surfaces. Of
        the image as recorded it is 1.
    index
        Its number among the images of its kind and level.
    seconds
        Time of the denoiser.
    """

    lattice: str
    noise: str
    before: DenoiseScores
    after: DenoiseScores
    vacancy: float
    adatom: float
    index: int = 0
    seconds: float = float("nan")

    @property
    def gain_db(self) -> float:
        """Of the PSNR."""
        return self.after.psnr_db - self.before.psnr_db


def as_recorded(image: NDArray[np.float32], sigma: float) -> NDArray[np.float32]:
    """The image itself."""
    return image


def at_every_level(denoiser: Denoiser) -> ByLevel:
    """One denoiser for all levels of noise."""
    return dict.fromkeys(SETTINGS, denoiser)


def package_denoiser(package: ModelPackage, device: Device = "cpu") -> Denoiser:
    """A package as what the peers are: an image in, the image without noise out. It is not told how much noise there is.

    Raises
    ------
    ParameterError
        If the package is of another task.
    """
    denoise = package_scan_denoiser(package, device)
    return lambda image, sigma: denoise(scan_of(image))


def package_scan_denoiser(package: ModelPackage, device: Device = "cpu") -> Callable[[Scan], NDArray[np.float32]]:
    """The runtime's own pipeline with a package, for any scan.

    Raises
    ------
    ParameterError
        If the package is of another task.
    """
    if package.task != "denoise":
        raise ParameterError(
            f"{package.folder}: a package of the task {package.task!r}; expected one of the task 'denoise'. Name another."
        )
    return lambda scan: denoised_of(analyse(scan, "denoise", model=package.folder, device=device))


def denoised_of(result: Result) -> NDArray[np.float32]:
    """The map of a result of the task ``denoise``.

    Raises
    ------
    RuntimeError
        If it has none: the pipeline's mistake.
    """
    for one in result.maps:
        if one.name == "denoised":
            return np.asarray(one.data, np.float32)
    raise RuntimeError("the denoise pipeline returned a result without the map 'denoised'")


def evaluate_all(
    methods: Mapping[str, ByLevel],
    options: DenoiseOptions,
    *,
    on_image: Callable[[LatticeScore], object] | None = None,
    on_scene: Callable[[Shown, Mapping[str, NDArray[np.float32]]], object] | None = None,
) -> dict[str, list[LatticeScore]]:
    """Score methods side by side, image after image, so that whatever else slows the machine down slows all of them.

    Parameters
    ----------
    methods
        What is scored, by name. Each sees the first image once before the clock runs: compiling and loading are not counted.
    options
        Which images.
    on_image
        Called after every image of every method, for a progress bar.
    on_scene
        Called with what all methods made of an image, for pictures.

    Returns
    -------
    By the same names one score per image, level after level.

    Raises
    ------
    ValueError
        If an answer has another shape or is not finite: the method's mistake.
    """
    scores: dict[str, list[LatticeScore]] = {name: [] for name in methods}
    warm: set[str] = set()
    for level in NOISE_LEVELS:
        for shown in options.shown(level):
            made: dict[str, NDArray[np.float32]] = {}
            for name, by_level in methods.items():
                denoiser = by_level[setting_of(level, shown.scene.name)]
                if name not in warm:
                    denoiser(shown.scene.image, shown.scene.noise_rms)
                    warm.add(name)
                made[name], found = _score_one(name, denoiser, shown)
                scores[name].append(found)
                if on_image is not None:
                    on_image(found)
            if on_scene is not None:
                on_scene(shown, made)
    return scores


def _score_one(name: str, denoiser: Denoiser, shown: Shown) -> tuple[NDArray[np.float32], LatticeScore]:
    scene = shown.scene
    sigma = scene.noise_rms
    started = time.perf_counter()
    answer = denoiser(scene.image, sigma)
    seconds = time.perf_counter() - started
    if answer.shape != scene.clean.shape or not np.isfinite(answer).all():
        raise ValueError(f"{name}: expected finite values of the shape {scene.clean.shape}, got {answer.shape}")
    contrast = {"vacancy": float("nan"), "adatom": float("nan")}
    if isinstance(scene, LatticeScene) and has_defects(scene):
        contrast = contrast_left(scene, answer, denoiser(scene.perfect_image, sigma))
    return answer, LatticeScore(
        scene.name,
        shown.level,
        score(scene.image, scene.clean),
        score(answer, scene.clean),
        contrast["vacancy"],
        contrast["adatom"],
        shown.number,
        seconds,
    )

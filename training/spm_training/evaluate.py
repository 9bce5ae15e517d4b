"""Scores of a finder of atoms, above all of a model package, on simulated images with known truth.

A package is scored through the runtime's own pipeline: what a user gets, not what the network alone could do.

The images come from `EVALUATION_SEED` and the split `EVALUATION`, which no training draws from. Every family of arrangements
is shown at every noise level (d′ as `spm_training.simulate.columns.NOISE_LEVELS` defines it) over the whole range of spacings.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from spm_runtime.errors import ParameterError
from spm_runtime.models import ModelPackage
from spm_runtime.pipelines import analyse
from spm_runtime.scan import Scan
from spm_runtime.session import Device
from spm_training.data import Split
from spm_training.metrics import Counts, chamfer_px, count, unforgiven
from spm_training.simulate.columns import FAMILIES, NOISE_LEVELS, Scene, simulate_columns

__all__ = [
    "EVALUATION_SEED",
    "TOLERANCES",
    "EvaluationOptions",
    "Finder",
    "Found",
    "ImageScore",
    "evaluate",
    "evaluation_scenes",
    "package_finder",
    "score_scene",
]

#: Seed of the evaluation set; changing it would make the published tables incomparable.
EVALUATION_SEED = 77_001

#: Tolerances of a match in units of the true spacing.
TOLERANCES = (0.25, 0.5)


@dataclass(frozen=True)
class EvaluationOptions:
    """Which images are scored.

    Parameters
    ----------
    images
        Images of every family at every noise level.
    side_px
        Side of an image.
    spacing_px
        Range of the spacing.
    """

    images: int = 4
    side_px: int = 256
    spacing_px: tuple[float, float] = (4.0, 30.0)

    @property
    def total(self) -> int:
        """Number of all images."""
        return self.images * len(FAMILIES) * len(NOISE_LEVELS)


@dataclass(frozen=True)
class ImageScore:
    """Score of one image.

    Parameters
    ----------
    family, noise
        What the image shows, and at what noise level.
    spacing_px
        True spacing.
    found_spacing_px
        Spacing that the pipeline reports.
    counts
        By tolerance in units of the spacing.
    chamfer_px
        Sum of both mean nearest distances between found and required positions.
    seconds
        Time of the whole pipeline.
    """

    family: str
    noise: str
    spacing_px: float
    found_spacing_px: float
    counts: dict[float, Counts]
    chamfer_px: float
    seconds: float


def evaluation_scenes(options: EvaluationOptions) -> Iterator[tuple[str, Scene]]:
    """Noise level and scene, one after the other, the same for the same options."""
    for family_index, family in enumerate(FAMILIES):
        for noise_index, (noise, detectability) in enumerate(NOISE_LEVELS.items()):
            for index in range(options.images):
                entropy = (EVALUATION_SEED, int(Split.EVALUATION), family_index, noise_index, index)
                scene = simulate_columns(
                    np.random.default_rng(np.random.SeedSequence(entropy)),
                    shape=(options.side_px, options.side_px),
                    families=[family],
                    spacing_px=options.spacing_px,
                    detectability=detectability,
                )
                yield noise, scene


class Found(NamedTuple):
    """What a finder says of an image: ``(N, 2)`` positions and the mean spacing, both in pixels."""

    yx_px: NDArray[np.float64]
    spacing_px: float


#: Takes an ``(H, W)`` image as a microscope saves it.
Finder = Callable[[NDArray[np.float32]], Found]


def package_finder(package: ModelPackage, device: Device = "cpu") -> Finder:
    """The runtime's own pipeline with a model package.

    Raises
    ------
    ParameterError
        If the package is of a task that has no evaluation.
    """
    if package.task != "atoms":
        raise ParameterError(
            f"{package.folder}: task {package.task!r} has no evaluation; expected a package of the task 'atoms'."
        )

    def find(image: NDArray[np.float32]) -> Found:
        result = analyse(Scan(image), "atoms", model=package.folder, device=device)
        if result.atoms is None:
            raise RuntimeError("the atoms pipeline returned a result without atoms")
        return Found(result.atoms.yx_px, result.quantities["predicted_spacing_px"])

    return find


def evaluate(
    finder: Finder, options: EvaluationOptions, *, on_image: Callable[[ImageScore], object] | None = None
) -> list[ImageScore]:
    """Score a finder on the whole evaluation set.

    Parameters
    ----------
    finder
        What is scored.
    options
        Which images.
    on_image
        Called after every image, for a progress bar.

    Returns
    -------
    One score per image.
    """
    scores = []
    for noise, scene in evaluation_scenes(options):
        started = time.perf_counter()
        found = finder(scene.image)
        score = score_scene(found, scene, noise=noise, seconds=time.perf_counter() - started)
        scores.append(score)
        if on_image is not None:
            on_image(score)
    return scores


def score_scene(found: Found, scene: Scene, *, noise: str, seconds: float) -> ImageScore:
    """Score what was found in a scene against its truth."""
    counts = {
        tolerance: count(found.yx_px, scene.yx_px, scene.required, tolerance * scene.spacing_px)
        for tolerance in TOLERANCES
    }
    judged = unforgiven(found.yx_px, scene.yx_px, scene.required, TOLERANCES[0] * scene.spacing_px)
    return ImageScore(
        family=scene.family,
        noise=noise,
        spacing_px=scene.spacing_px,
        found_spacing_px=found.spacing_px,
        counts=counts,
        chamfer_px=chamfer_px(judged, scene.yx_px[scene.required]),
        seconds=seconds,
    )

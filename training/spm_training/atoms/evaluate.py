"""Scores of a finder of atoms, above all of a model package, on simulated images with known truth.

A package is scored through the runtime's own pipeline: what a user gets, not what the network alone could do.

The images come from `EVALUATION_SEED` and the split `EVALUATION`, which no training draws from. Every family of arrangements
is shown at every noise level (d′ as `spm_training.simulate.columns.NOISE_LEVELS` defines it) over the whole range of spacings.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from skimage.feature import blob_log

from spm_runtime.errors import ParameterError
from spm_runtime.models import ModelPackage
from spm_runtime.pipelines import analyse
from spm_runtime.scan import Scan
from spm_runtime.session import Device
from spm_training.data import Split, rng_for
from spm_training.metrics import Counts, Judgement, chamfer_px, judge
from spm_training.simulate.columns import FAMILIES, NOISE_LEVELS, Scene, simulate_columns

__all__ = [
    "EVALUATION_SEED",
    "TOLERANCES",
    "Detections",
    "EvaluationOptions",
    "Finder",
    "Found",
    "ImageScore",
    "blob_log_seconds",
    "evaluate",
    "evaluate_all",
    "evaluation_scenes",
    "package_finder",
    "score_scene",
    "validation_scenes",
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
    families
        Names out of `FAMILIES`.
    """

    images: int = 4
    side_px: int = 256
    spacing_px: tuple[float, float] = (4.0, 30.0)
    families: tuple[str, ...] = FAMILIES

    @property
    def total(self) -> int:
        """Number of all images."""
        return self.images * len(self.families) * len(NOISE_LEVELS)

    def kinds(self) -> Iterator[tuple[str, int, str, int]]:
        """Family and noise level, each followed by its index: a family's images are the same whatever others there are."""
        for family in self.families:
            for index, noise in enumerate(NOISE_LEVELS):
                yield family, FAMILIES.index(family), noise, index


@dataclass(frozen=True, eq=False)
class Detections:
    """What a finder with scores said of the judged positions of an image (those that answer optional columns are left out).

    Parameters
    ----------
    score
        ``(N,)`` scores in [0, 1].
    is_true
        ``(N,)`` whether the position is right within 0.25 of the spacing.
    found_yx_px, true_yx_px
        ``(N, 2)`` positions; the true one is NaN where there is none.
    std_px
        ``(N,)`` standard deviation of one coordinate as the finder believes it, NaN where it says none.
    """

    score: NDArray[np.float64]
    is_true: NDArray[np.bool_]
    found_yx_px: NDArray[np.float64]
    true_yx_px: NDArray[np.float64]
    std_px: NDArray[np.float64]


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
    blob_log_seconds
        Time of scikit-image's `blob_log` on the same image; NaN where it was not measured.
    detections
        Scores and errors of the single positions, None from a finder without scores.
    """

    family: str
    noise: str
    spacing_px: float
    found_spacing_px: float
    counts: dict[float, Counts]
    chamfer_px: float
    seconds: float
    blob_log_seconds: float = float("nan")
    detections: Detections | None = field(default=None, compare=False)


def evaluation_scenes(options: EvaluationOptions) -> Iterator[tuple[str, Scene]]:
    """Noise level and scene, one after the other, the same for the same options."""
    for family, family_index, noise, noise_index in options.kinds():
        for index in range(options.images):
            entropy = (EVALUATION_SEED, int(Split.EVALUATION), family_index, noise_index, index)
            yield noise, _scene(np.random.default_rng(np.random.SeedSequence(entropy)), options, family, noise)


def validation_scenes(options: EvaluationOptions) -> Iterator[tuple[str, Scene]]:
    """Like `evaluation_scenes`, but of the validation split: what may be looked at to tune or to calibrate."""
    for family, family_index, noise, noise_index in options.kinds():
        for index in range(options.images):
            # The peers are tuned on the first indices.
            rng = rng_for(
                EVALUATION_SEED, Split.VALIDATION, family_index * len(NOISE_LEVELS) + noise_index, 1000 + index
            )
            yield noise, _scene(rng, options, family, noise)


def _scene(rng: np.random.Generator, options: EvaluationOptions, family: str, noise: str) -> Scene:
    return simulate_columns(
        rng,
        shape=(options.side_px, options.side_px),
        families=[family],
        spacing_px=options.spacing_px,
        detectability=NOISE_LEVELS[noise],
    )


class Found(NamedTuple):
    """What a finder says of an image.

    Parameters
    ----------
    yx_px
        ``(N, 2)`` positions in pixels.
    spacing_px
        Mean spacing in pixels.
    score
        ``(N,)`` confidence in [0, 1] of every position, or None.
    position_std_px
        ``(N,)`` standard deviation of one coordinate in pixels, NaN where unknown, or None.
    """

    yx_px: NDArray[np.float64]
    spacing_px: float
    score: NDArray[np.floating] | None = None
    position_std_px: NDArray[np.floating] | None = None


#: Takes an ``(H, W)`` image as a microscope saves it.
Finder = Callable[[NDArray[np.float32]], Found]


def package_finder(
    package: ModelPackage, device: Device = "cpu", *, params: Mapping[str, float] | None = None
) -> Finder:
    """The runtime's own pipeline with a model package.

    Parameters
    ----------
    package
        A package of the task ``atoms``.
    device
        Where the runtime computes.
    params
        Model parameters that differ from the package's defaults.

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
        result = analyse(Scan(image), "atoms", model=package.folder, device=device, params=params)
        atoms = result.atoms
        if atoms is None:
            raise RuntimeError("the atoms pipeline returned a result without atoms")
        return Found(atoms.yx_px, result.quantities["predicted_spacing_px"], atoms.score, atoms.position_std_px)

    return find


def evaluate(
    finder: Finder, options: EvaluationOptions, *, on_image: Callable[[ImageScore], object] | None = None
) -> list[ImageScore]:
    """Score one finder on the whole evaluation set; parameters as of `evaluate_all`."""
    return evaluate_all({"": finder}, options, on_image=on_image)[""]


def evaluate_all(
    finders: Mapping[str, Finder],
    options: EvaluationOptions,
    *,
    compare_time: bool = False,
    on_image: Callable[[ImageScore], object] | None = None,
) -> dict[str, list[ImageScore]]:
    """Score finders side by side, image after image, so that whatever else slows the machine down slows all of them.

    Parameters
    ----------
    finders
        What is scored, by name. Each sees the first image once before the clock runs: compiling and loading are not counted.
    options
        Which images.
    compare_time
        Whether to measure `blob_log_seconds` of every image too.
    on_image
        Called after every image of every finder, for a progress bar.

    Returns
    -------
    By the same names one score per image.
    """
    scores: dict[str, list[ImageScore]] = {name: [] for name in finders}
    for index, (noise, scene) in enumerate(evaluation_scenes(options)):
        if not index:
            for finder in finders.values():
                finder(scene.image)
        reference = blob_log_seconds(scene.image) if compare_time else float("nan")
        for name, finder in finders.items():
            started = time.perf_counter()
            found = finder(scene.image)
            seconds = time.perf_counter() - started
            score = score_scene(found, scene, noise=noise, seconds=seconds, blob_log_seconds=reference)
            scores[name].append(score)
            if on_image is not None:
                on_image(score)
    return scores


def blob_log_seconds(image: NDArray[np.float32]) -> float:
    """Time that scikit-image's `blob_log` takes for an image brought to [0, 1], every setting at its default: a yardstick."""
    started = time.perf_counter()
    low, span = float(image.min()), float(np.ptp(image)) or 1.0
    blob_log((image - low) / span)  # type: ignore[no-untyped-call]
    return time.perf_counter() - started


def score_scene(
    found: Found, scene: Scene, *, noise: str, seconds: float, blob_log_seconds: float = float("nan")
) -> ImageScore:
    """Score what was found in a scene against its truth."""
    judged = {
        tolerance: judge(found.yx_px, scene.yx_px, scene.required, tolerance * scene.spacing_px)
        for tolerance in TOLERANCES
    }
    strict = judged[TOLERANCES[0]]
    return ImageScore(
        family=scene.family,
        noise=noise,
        spacing_px=scene.spacing_px,
        found_spacing_px=found.spacing_px,
        counts={tolerance: one.counts(scene.crb_px) for tolerance, one in judged.items()},
        chamfer_px=chamfer_px(np.delete(found.yx_px, strict.forgiven, axis=0), scene.yx_px[scene.required]),
        seconds=seconds,
        blob_log_seconds=blob_log_seconds,
        detections=_detections(found, scene, strict),
    )


def _detections(found: Found, scene: Scene, judged: Judgement) -> Detections | None:
    if found.score is None:
        return None
    count = len(found.yx_px)
    truth = np.full((count, 2), np.nan)
    truth[judged.pairs.found] = scene.yx_px[judged.pairs.truth]
    std = np.full(count, np.nan) if found.position_std_px is None else np.asarray(found.position_std_px, np.float64)
    kept = np.setdiff1d(np.arange(count), judged.forgiven)
    return Detections(
        score=np.asarray(found.score, np.float64)[kept],
        is_true=np.isfinite(truth[kept, 0]),
        found_yx_px=np.asarray(found.yx_px, np.float64)[kept],
        true_yx_px=truth[kept],
        std_px=std[kept],
    )

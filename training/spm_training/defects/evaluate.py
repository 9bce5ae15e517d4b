"""Scores of finders of defects, above all of model packages, on simulated surfaces with known truth.

A package is scored through the runtime's own pipeline: what a user gets, not what the network alone could do.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from spm_runtime.errors import ParameterError
from spm_runtime.models import ModelPackage
from spm_runtime.pipelines import analyse
from spm_runtime.results import Defects
from spm_runtime.scan import Scan
from spm_runtime.session import Device
from spm_training.defects.scenes import DefectOptions, Shown, evaluation_scenes, scan_of
from spm_training.defects.score import ImageScore, score_scene
from spm_training.simulate.surfaces import SurfaceScene

__all__ = ["Finder", "Oracle", "evaluate", "evaluate_all", "marks", "package_finder"]

#: Finds defects in a scan as a file gives it.
Finder = Callable[[Scan], Defects]
#: Finds defects with knowledge of the truth: a bound, no competitor.
Oracle = Callable[[SurfaceScene], Defects]


def marks(
    yx_px: NDArray[np.floating],
    radius_px: NDArray[np.floating] | float,
    *,
    score: NDArray[np.floating] | None = None,
    names: Sequence[str] | None = None,
) -> Defects:
    """`Defects` of finders that say less: square boxes, by default one class.

    Parameters
    ----------
    yx_px
        ``(N, 2)`` centres.
    radius_px
        Half the side of a box: one for all, or ``(N,)``.
    score
        ``(N,)`` anything that is larger where a defect is more certain; the order of the marks by default. It is given as the
        rank in (0, 1].
    names
        The class of each; ``defect`` for all by default.
    """
    yx = np.asarray(yx_px, np.float64).reshape(-1, 2)
    count = len(yx)
    radius = np.broadcast_to(np.asarray(radius_px, np.float64), (count,))
    order = np.arange(count) if score is None else np.argsort(-np.asarray(score, np.float64), kind="stable")
    chosen = ["defect"] * count if names is None else list(names)
    known = tuple(sorted(set(chosen))) or ("defect",)
    return Defects(
        yx_px=yx[order],
        size_px=np.repeat(2 * radius[order, None], 2, axis=1),
        area_px=np.pi * radius[order] ** 2,
        kind=np.array([known.index(chosen[n]) for n in order], np.int32),
        names=known,
        probability=np.ones(count, np.float32),
        score=((count - np.arange(count)) / max(count, 1)).astype(np.float32),
        confirmed=np.full(count, -1, np.int8),
    )


def package_finder(
    package: ModelPackage, device: Device = "cpu", *, params: Mapping[str, float] | None = None
) -> Finder:
    """The runtime's own pipeline with a model package.

    Parameters
    ----------
    package
        A package of the task ``defects``.
    device
        Where the runtime computes.
    params
        Model parameters that differ from the package's defaults.

    Raises
    ------
    ParameterError
        If the package is of another task.
    """
    if package.task != "defects":
        raise ParameterError(
            f"{package.folder}: a package of the task {package.task!r}; expected one of the task 'defects'. Name another."
        )

    def find(scan: Scan) -> Defects:
        result = analyse(scan, "defects", model=package.folder, device=device, params=params)
        if result.defects is None:
            raise RuntimeError("the defects pipeline returned a result without defects")
        return result.defects

    return find


def evaluate(finder: Finder, options: DefectOptions) -> list[ImageScore]:
    """Score one finder on the whole evaluation set."""
    return evaluate_all({"": finder}, options)[""]


def evaluate_all(
    finders: Mapping[str, Finder],
    options: DefectOptions,
    *,
    oracles: Mapping[str, Oracle] | None = None,
    on_image: Callable[[ImageScore], object] | None = None,
) -> dict[str, list[ImageScore]]:
    """Score finders side by side, image after image, so that whatever else slows the machine down slows all of them.

    Parameters
    ----------
    finders
        What is scored, by name. Each sees the first image once before the clock runs: compiling and loading are not counted.
    options
        Which images.
    oracles
        Bounds that know the truth, by name.
    on_image
        Called after every image of every finder, for a progress bar.

    Returns
    -------
    By the same names one score per image.
    """
    every: dict[str, Callable[[Shown, Scan], Defects]] = {}
    every.update({name: _of_scan(finder) for name, finder in finders.items()})
    every.update({name: _of_scene(oracle) for name, oracle in (oracles or {}).items()})
    scores: dict[str, list[ImageScore]] = {name: [] for name in every}
    for index, shown in enumerate(evaluation_scenes(options)):
        scan = scan_of(shown.scene)
        for name, find in every.items():
            if not index:
                find(shown, scan)
            started = time.perf_counter()
            found = find(shown, scan)
            seconds = time.perf_counter() - started
            score = score_scene(found, shown.scene, noise=shown.noise, empty=shown.empty, seconds=seconds)
            scores[name].append(score)
            if on_image is not None:
                on_image(score)
    return scores


def _of_scan(finder: Finder) -> Callable[[Shown, Scan], Defects]:
    return lambda _, scan: finder(scan)


def _of_scene(oracle: Oracle) -> Callable[[Shown, Scan], Defects]:
    return lambda shown, _: oracle(shown.scene)

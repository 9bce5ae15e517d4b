"""Scores of what restores surfaces, above all of model packages, on simulated scans with known truth.

A package is scored through the runtime's own pipeline: what a user gets, not what the network alone could do.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import numpy as np

from spm_kernels import erode
from spm_runtime.errors import ParameterError
from spm_runtime.models import ModelPackage
from spm_runtime.pipelines import analyse
from spm_runtime.results import Result
from spm_runtime.scan import Scan
from spm_runtime.session import Device
from spm_training.restore.scenes import NM_TO_M, RestoreOptions, Shown, evaluation_scenes, scan_of
from spm_training.restore.score import ImageScore, Restored, score_restored
from spm_training.simulate.tips import TipScene

__all__ = [
    "AS_RECORDED",
    "REFERENCES",
    "TRUE_TIP",
    "Method",
    "Oracle",
    "Restorer",
    "Scores",
    "evaluate_all",
    "package_restorer",
    "pipeline_restorer",
    "restored_of",
]

#: Restores a scan as a file gives it.
Restorer = Callable[[Scan], Restored]
#: Restores with knowledge of the truth: a bound, no competitor. None where the method does not apply.
Oracle = Callable[[TipScene], Restored | None]
Method = Restorer | Oracle
#: One score per image; None where the method does not apply to the image.
Scores = Sequence[ImageScore | None]

#: Names of what every package is compared with.
AS_RECORDED, TRUE_TIP = "as recorded", "erosion, true tip"


def package_restorer(package: ModelPackage, device: Device = "cpu") -> Restorer:
    """The runtime's own pipeline with a model package.

    Parameters
    ----------
    package
        A package of the task ``restore``.
    device
        Where the runtime computes.

    Raises
    ------
    ParameterError
        If the package is of another task.
    """
    if package.task != "restore":
        raise ParameterError(
            f"{package.folder}: a package of the task {package.task!r}; expected one of the task 'restore'. Name another."
        )
    return pipeline_restorer(package.folder, device)


def pipeline_restorer(model: str | Path, device: Device = "cpu") -> Restorer:
    """The runtime's own pipeline with the folder of a package or the name of a built-in method, as ``classical``."""
    return lambda scan: restored_of(analyse(scan, "restore", model=model, device=device))


def restored_of(result: Result) -> Restored:
    """The maps of a result of the task ``restore``.

    Raises
    ------
    RuntimeError
        If it has no restored map: the pipeline's mistake.
    """
    maps = {one.name: one.data for one in result.maps}
    if "restored" not in maps:
        raise RuntimeError("the restore pipeline returned a result without the map 'restored'")
    certainty = maps.get("certainty")
    return Restored(
        np.asarray(maps["restored"], np.float32),
        None if certainty is None else np.asarray(certainty, np.float32),
        None if result.tip is None else np.asarray(result.tip.data, np.float64),
        instead=result.instead_of is not None,
    )


def as_recorded(scan: Scan) -> Restored:
    """The scan itself."""
    return Restored(scan.image)


def true_tip(scene: TipScene) -> Restored | None:
    """Erosion by the true tip, the most that morphology can do; None where the image was made by a convolution."""
    if scene.family == "convolution":
        return None
    return Restored(erode(scene.image, scene.tip) * NM_TO_M)


#: What every package is compared with; neither needs anything else installed.
REFERENCES: tuple[Mapping[str, Restorer], Mapping[str, Oracle]] = ({AS_RECORDED: as_recorded}, {TRUE_TIP: true_tip})


def evaluate_all(
    restorers: Mapping[str, Restorer],
    options: RestoreOptions,
    *,
    oracles: Mapping[str, Oracle] | None = None,
    on_image: Callable[[ImageScore | None], object] | None = None,
    on_scene: Callable[[Shown, Mapping[str, Restored]], object] | None = None,
) -> dict[str, list[ImageScore | None]]:
    """Score restorers side by side, image after image, so that whatever else slows the machine down slows all of them.

    Parameters
    ----------
    restorers
        What is scored, by name. Each sees the first image once before the clock runs: compiling and loading are not counted.
    options
        Which images.
    oracles
        Bounds that know the truth, by name.
    on_image
        Called after every image of every method, for a progress bar.
    on_scene
        Called with what all methods made of a scene, for pictures.

    Returns
    -------
    By the same names one score per image, None where an oracle does not apply.
    """
    every: dict[str, Callable[[TipScene, Scan], Restored | None]] = {}
    every.update({name: _of_scan(restorer) for name, restorer in restorers.items()})
    every.update({name: _of_scene(oracle) for name, oracle in (oracles or {}).items()})
    scores: dict[str, list[ImageScore | None]] = {name: [] for name in every}
    for number, shown in enumerate(evaluation_scenes(options)):
        scan = scan_of(shown.scene)
        made: dict[str, Restored] = {}
        for name, restore in every.items():
            if not number:
                restore(shown.scene, scan)
            started = time.perf_counter()
            restored = restore(shown.scene, scan)
            seconds = time.perf_counter() - started
            score = None if restored is None else score_restored(restored, shown, seconds=seconds)
            scores[name].append(score)
            if restored is not None:
                made[name] = restored
            if on_image is not None:
                on_image(score)
        if on_scene is not None:
            on_scene(shown, made)
    return scores


def _of_scan(restorer: Restorer) -> Callable[[TipScene, Scan], Restored | None]:
    return lambda _, scan: restorer(scan)


def _of_scene(oracle: Oracle) -> Callable[[TipScene, Scan], Restored | None]:
    return lambda scene, _: oracle(scene)

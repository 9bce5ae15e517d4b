"""Detectors on one and the same confidence map, with the time that each takes.

Source: PolyU thesis (AtomID-net), Table 3, which replaces only the detection stage.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from itertools import islice

import numpy as np

from spm_runtime.models import ModelPackage
from spm_runtime.pipelines import analyse
from spm_runtime.scan import Scan
from spm_runtime.session import Device
from spm_training.atoms.evaluate import TOLERANCES, EvaluationOptions, evaluation_scenes, validation_scenes
from spm_training.metrics import Counts, count
from spm_training.peers.same_map import MapOfScene, detectors, tuned_settings
from spm_training.simulate.columns import NOISE_LEVELS, Scene
from spm_training.tables import markdown_table

__all__ = ["StageScore", "compare_detectors", "detectors_markdown", "scene_count"]


#: The settings are tuned on every so many-th validation scene: a quarter of them, all noise levels in turn.
TUNED_ON_EVERY = 4


@dataclass(frozen=True)
class StageScore:
    """What a detector made of the maps.

    Parameters
    ----------
    counts
        By noise level, at 0.25 of the spacing.
    seconds
        Mean time for a map.
    """

    counts: Mapping[str, Counts]
    seconds: float


def compare_detectors(
    package: ModelPackage,
    options: EvaluationOptions,
    device: Device = "cpu",
    *,
    on_image: Callable[[object], object] | None = None,
) -> dict[str, StageScore]:
    """Score the detectors on the maps of a package, their settings tuned on its maps of validation scenes.

    Parameters
    ----------
    package
        A package of the task ``atoms``.
    options
        The evaluated images; the first of every family and noise level is taken.
    device
        Where the runtime computes.
    on_image
        Called after every scene, tuning ones included: `scene_count` times.
    """

    def told(scene: Scene) -> Scene:
        if on_image is not None:
            on_image(scene)
        return scene

    one_each = replace(options, images=1)
    tuning = islice(validation_scenes(one_each), 0, None, TUNED_ON_EVERY)
    maps = (_map_of(package, told(scene), device) for _, scene in tuning)
    chosen = detectors(tuned_settings(maps))
    counts = {name: dict.fromkeys(NOISE_LEVELS, Counts()) for name in chosen}
    seconds = dict.fromkeys(chosen, 0.0)
    for noise, scene in evaluation_scenes(one_each):
        one = _map_of(package, told(scene), device)
        for name, detector in chosen.items():
            started = time.perf_counter()
            yx = detector(one.confidence, one.spacing_px)
            seconds[name] += time.perf_counter() - started
            counts[name][noise] += count(yx, one.yx_px, one.required, TOLERANCES[0] * one.true_spacing_px)
    return {name: StageScore(counts[name], seconds[name] / one_each.total) for name in chosen}


def scene_count(options: EvaluationOptions) -> int:
    """How many scenes `compare_detectors` looks at."""
    total = replace(options, images=1).total
    return total + -(-total // TUNED_ON_EVERY)


def detectors_markdown(scores: Mapping[str, StageScore]) -> str:
    """The table."""
    rows = []
    for name, score in scores.items():
        levels = [f"{score.counts[level].f1:.3f}" for level in NOISE_LEVELS]
        total = sum(score.counts.values(), Counts())
        rows.append([name, f"{total.f1:.3f}", *levels, f"{1e3 * score.seconds:.1f}"])
    lines = [
        markdown_table(["detector", "F1", *NOISE_LEVELS, "ms for a map"], rows),
        "The detection stage alone, on the same confidence maps in pixels of the scan and with the same predicted spacing; σ or "
        "window, and threshold, tuned on the network's own maps of validation scenes. F1 within 0.25 of the spacing; whole "
        "pixels.",
    ]
    return "\n".join(lines) + "\n"


def _map_of(package: ModelPackage, scene: Scene, device: Device) -> MapOfScene:
    result = analyse(Scan(scene.image), "atoms", model=package.folder, device=device)
    confidence = next(one.data for one in result.maps if one.name == "confidence")
    spacing = result.quantities["predicted_spacing_px"]
    return MapOfScene(np.nan_to_num(confidence), spacing, scene.yx_px, scene.required, scene.spacing_px)

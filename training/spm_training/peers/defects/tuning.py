"""How the peers get their settings: the best mean F1 of the three noise levels on scenes of the validation split.

What was found is kept in a JSON file, under a key that changes with scenes and grids: a second evaluation starts at once.
"""

from __future__ import annotations

import dataclasses
import hashlib
import itertools
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import NamedTuple

import numpy as np

from spm_runtime.errors import ParameterError
from spm_runtime.results import Defects
from spm_training.defects.scenes import DefectOptions, Shown, scan_of, validation_scenes
from spm_training.defects.score import judge_defects, tolerance_px
from spm_training.files import write_atomically
from spm_training.metrics import Counts
from spm_training.peers.defects.look import AnomalyFinder, AnomalyMap, How, Look, Marking, look_at, places, robust_z
from spm_training.simulate.surfaces import SurfaceScene

__all__ = ["MARKINGS", "DefectTuning", "Tuned", "mean_f1", "scene_counts", "tuned_finder"]

#: What is tried of the marking, for every map.
HOWS: tuple[How, ...] = ("regions", "peaks")
THRESHOLDS = (3.0, 4.0, 5.0, 6.0, 8.0, 10.0, 13.0, 17.0, 22.0, 30.0)
FRAMES_PX = (0, 4)
MARKINGS = tuple(Marking(how, threshold, frame) for how in HOWS for threshold in THRESHOLDS for frame in FRAMES_PX)


def _silent(_: str) -> None:
    """Report nothing."""


class Tuned(NamedTuple):
    """Settings and what they scored on the tuning scenes."""

    finder: AnomalyFinder
    f1: float


@dataclass(frozen=True, eq=False)
class DefectTuning:
    """Where the peers take their settings from.

    Parameters
    ----------
    options
        How many scenes of which families and size; those with defects are used.
    cache
        JSON file of the settings that were found; None for none.
    runs
        Folder with the runs of the report's networks.
    report
        Takes a line now and then.
    """

    options: DefectOptions = field(default_factory=lambda: DefectOptions(images=8))
    cache: Path | None = Path("runs/peers/defects.json")
    runs: Path = Path("runs/peers")
    report: Callable[[str], object] = _silent

    @cached_property
    def shown(self) -> tuple[Shown, ...]:
        """The scenes, with defects."""
        return tuple(itertools.islice(validation_scenes(self.options), self.options.total // 2))

    @cached_property
    def looks(self) -> Mapping[bool, tuple[Look, ...]]:
        """The scenes as peers see them, without (False) and with (True) steps known."""
        scans = [scan_of(one.scene) for one in self.shown]
        return {terraces: tuple(look_at(scan, terraces=terraces) for scan in scans) for terraces in (False, True)}


def mean_f1(counts: Mapping[str, Counts]) -> float:
    """Mean of the F1 of noise levels."""
    return float(np.mean([level.f1 for level in counts.values()]))


def scene_counts(found: Defects, scene: SurfaceScene) -> Counts:
    """What `spm_training.defects.score.score_scene` counts, without the rest of it."""
    truth = scene.defects
    reach = tolerance_px(truth.radius_px, scene.pixel_size_nm)
    return judge_defects(found.yx_px, truth.yx_px, reach, scene.required).counts()


def tuned_finder(name: str, grid: Sequence[AnomalyMap], tuning: DefectTuning, *, terraces: bool) -> AnomalyFinder:
    """The finder with the best mean F1 out of a grid of maps and all `MARKINGS`.

    Parameters
    ----------
    name
        Of the peer, for the cache.
    grid
        Maps with different settings, frozen dataclasses.
    tuning
        The scenes and the cache.
    terraces
        Whether the peer knows the steps.
    """
    key = _key(name, grid, tuning, terraces)
    known = _read(tuning.cache)
    candidates = {
        _text(AnomalyFinder(method, marking, terraces)): (method, marking) for method in grid for marking in MARKINGS
    }
    if key in known and known[key]["settings"] in candidates:
        return AnomalyFinder(*candidates[known[key]["settings"]], terraces)
    best = max(_tried(grid, tuning, terraces), key=lambda one: one.f1)
    tuning.report(f"{name}: mean F1 {best.f1:.3f} on the tuning scenes with {_text(best.finder)}")
    if tuning.cache is not None:
        known = {
            **_read(tuning.cache),
            key: {"peer": name, "settings": _text(best.finder), "mean_f1": f"{best.f1:.4f}"},
        }
        tuning.cache.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(tuning.cache, (json.dumps(known, indent=2) + "\n").encode())
    return best.finder


def _tried(grid: Sequence[AnomalyMap], tuning: DefectTuning, terraces: bool) -> Iterator[Tuned]:
    """Every map with every marking, and what it scores."""
    for method in grid:
        counts = {marking: {one.noise: Counts() for one in tuning.shown} for marking in MARKINGS}
        for look, one in zip(tuning.looks[terraces], tuning.shown, strict=True):
            z = robust_z(method(look), ~look.ignore)
            for how, threshold in itertools.product(HOWS, THRESHOLDS):
                if how == "regions" or threshold == THRESHOLDS[0]:
                    found = places(z, look, how, threshold)
                for frame in FRAMES_PX:
                    marking = Marking(how, threshold, frame)
                    counts[marking][one.noise] += scene_counts(marking.kept(*found, look), one.scene)
        for marking, by_noise in counts.items():
            yield Tuned(AnomalyFinder(method, marking, terraces), mean_f1(by_noise))


def _text(finder: AnomalyFinder) -> str:
    return f"{finder.method} {finder.marking}"


def _key(name: str, grid: Sequence[AnomalyMap], tuning: DefectTuning, terraces: bool) -> str:
    """Changes with everything that the result depends on, but for the code."""
    what = [
        name,
        terraces,
        dataclasses.asdict(tuning.options),
        [str(method) for method in grid],
        [str(m) for m in MARKINGS],
    ]
    return hashlib.sha256(json.dumps(what).encode()).hexdigest()[:16]


def _read(cache: Path | None) -> dict[str, dict[str, str]]:
    """What is known; nothing where there is no file yet."""
    if cache is None or not cache.is_file():
        return {}
    try:
        found: dict[str, dict[str, str]] = json.loads(cache.read_text(encoding="utf-8"))
    except json.JSONDecodeError as error:
        raise ParameterError(
            f"{cache}: no JSON ({error}); expected the settings of the peers. Remove the file: they are tuned again."
        ) from error
    return found

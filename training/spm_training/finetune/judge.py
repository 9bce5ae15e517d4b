"""Two packages on the same images: scans that nothing was learned from, and simulated ones.

Everything goes through the runtime's own pipeline. On a scan without truth the truth is planted (`spm_training.finetune.plant`);
a mark that answers nothing planted and nothing that the shipped finder is sure of counts as a false one, for both packages alike.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from spm_runtime.pipelines import analyse
from spm_runtime.results import Defects, Result
from spm_runtime.scan import Scan
from spm_training.defects.scenes import DefectOptions, scan_of, validation_scenes
from spm_training.defects.score import Interval, judge_defects, score_scene, tolerance_px
from spm_training.finetune.plant import Ground, Planted, plant
from spm_training.finetune.samples import home_rng
from spm_training.metrics import Counts

__all__ = ["HeldOutView", "Looks", "Simulated", "f1_of", "judge_simulated", "judge_view", "paired_difference"]

#: Tiles along a side of a view that the bootstrap draws: there are too few images to draw those.
TILES = 4
#: Tells the plantings that judge from those that are learned from.
_JUDGES = 3


@dataclass(frozen=True, eq=False)
class Looks:
    """What one package says of a view as it is.

    Parameters
    ----------
    defects
        Its marks.
    kept
        Share of the defects that the shipped finder is sure of which it marks too; NaN without any.
    others
        Its other marks.
    novelty
        Distance of the surface from what is known, 1 at the limit of a warning; None without patch autoencoders.
    error
        ``(TILES²,)`` mean squared error of the reconstruction, in units of the square of the image's range; None as above.
    error_map
        ``(H, W)``, None as above.
    planted
        ``(rounds, TILES², 3)`` true positives, false positives and misses in views with planted defects.
    """

    defects: Defects
    kept: float
    others: int
    novelty: float | None
    error: NDArray[np.float64] | None
    error_map: NDArray[np.float32] | None
    planted: NDArray[np.int64]


@dataclass(frozen=True, eq=False)
class HeldOutView:
    """A held-out view before and after.

    Parameters
    ----------
    ground
        The view, and what the shipped finder sees.
    example
        One planting.
    looks
        By package.
    """

    ground: Ground
    example: Planted
    looks: Mapping[str, Looks]


def judge_view(
    ground: Ground, packages: Mapping[str, Path], shares: NDArray[np.float64], *, rounds: int, seed: int, number: int
) -> HeldOutView:
    """Look at one held-out view with every package.

    Parameters
    ----------
    ground
        The view.
    packages
        Folders by name.
    shares
        How often each class is planted.
    rounds
        How often defects are planted anew.
    seed, number
        Of the plantings, and which view it is.
    """
    rngs = [home_rng(seed, _JUDGES, number, turn) for turn in range(rounds)]
    plantings = [plant(rng, ground, shares, always=True) for rng in rngs]
    scan = _scan(ground, ground.view.surface.heights)
    looks = {}
    for name, folder in packages.items():
        result = _analysed(scan, folder)
        error = next((one.data for one in result.maps if one.name == "error_map"), None)
        there = ground.view.surface.valid
        kept, others = _kept(_defects(result), ground)
        looks[name] = Looks(
            defects=_defects(result),
            kept=kept,
            others=others,
            novelty=result.quantities.get("novelty"),
            error=None if error is None else _by_tile(np.where(there, error, np.nan)),
            error_map=None if error is None else np.asarray(error, np.float32),
            planted=np.stack([_answer(folder, ground, one) for one in plantings]),
        )
    return HeldOutView(ground, plantings[0], looks)


@dataclass(frozen=True, eq=False)
class Simulated:
    """Two packages on simulated scenes of the validation split.

    Parameters
    ----------
    counts
        By package, the counts of every image with defects.
    false_per_empty
        By package, marks in an image without defects.
    error
        By package, ``(images,)`` mean error of the reconstruction; empty without patch autoencoders.
    """

    counts: Mapping[str, Sequence[Counts]]
    false_per_empty: Mapping[str, float]
    error: Mapping[str, NDArray[np.float64]]

    def f1(self, name: str) -> float:
        """Of one package over all images."""
        return sum(self.counts[name], Counts()).f1


def judge_simulated(
    packages: Mapping[str, Path], options: DefectOptions, *, on_image: Callable[[], object] = lambda: None
) -> Simulated:
    """Look at simulated scenes with every package.

    Parameters
    ----------
    packages
        Folders by name.
    options
        Which scenes.
    on_image
        Called after every scene.
    """
    counts: dict[str, list[Counts]] = {name: [] for name in packages}
    empty: dict[str, list[int]] = {name: [] for name in packages}
    error: dict[str, list[float]] = {name: [] for name in packages}
    for shown in validation_scenes(options):
        scan = scan_of(shown.scene)
        for name, folder in packages.items():
            result = _analysed(scan, folder)
            one = score_scene(_defects(result), shown.scene, noise=shown.noise, empty=shown.empty)
            if shown.empty:
                empty[name].append(one.false_positives)
            else:
                counts[name].append(one.counts)
            maps = [found.data for found in result.maps if found.name == "error_map"]
            error[name] += [float(np.nanmean(data)) for data in maps]
        on_image()
    means = {name: float(np.mean(numbers)) if numbers else float("nan") for name, numbers in empty.items()}
    return Simulated(counts, means, {name: np.array(numbers) for name, numbers in error.items()})


def f1_of(table: NDArray[np.integer]) -> NDArray[np.float64]:
    """F1 of ``(…, 3)`` counts; NaN where there is nothing to count."""
    hits, false, missed = np.moveaxis(np.asarray(table, np.float64), -1, 0)
    below = 2 * hits + false + missed
    return np.asarray(np.divide(2 * hits, below, out=np.full(below.shape, np.nan), where=below > 0), np.float64)


def paired_difference(
    before: NDArray[np.integer], after: NDArray[np.integer], *, samples: int = 2000, seed: int = 0
) -> Interval:
    """Difference of the F1 of two packages on the same parts, with the 95 % interval of a bootstrap over the parts.

    Parameters
    ----------
    before, after
        ``(parts, 3)`` counts.
    samples
        Number of draws.
    seed
        Of the draws.
    """
    drawn = np.random.default_rng(seed).integers(len(before), size=(samples, len(before)))
    change = f1_of(after[drawn].sum(axis=1)) - f1_of(before[drawn].sum(axis=1))
    change = change[np.isfinite(change)]
    value = float(f1_of(after.sum(axis=0)) - f1_of(before.sum(axis=0)))
    if not len(change):
        return Interval(value, float("nan"), float("nan"))
    low, high = (float(end) for end in np.percentile(change, (2.5, 97.5)))
    return Interval(value, low, high)


def _analysed(scan: Scan, folder: Path) -> Result:
    return analyse(scan, "defects", model=folder, device="cpu")


def _defects(result: Result) -> Defects:
    if result.defects is None:
        raise RuntimeError("the defects pipeline returned a result without defects")
    return result.defects


def _scan(ground: Ground, heights: NDArray[np.float32]) -> Scan:
    """Heights on the working pixels as a scan of their own, which the pipeline levels once more."""
    view = ground.view
    pixel = view.pixel_size_nm
    return dataclasses.replace(
        view.scan,
        image=np.where(view.surface.valid, heights, np.float32(np.nan)),
        unit="nm",
        pixel_size_nm=(pixel, pixel),
        path=None,
    )


def _kept(found: Defects, ground: Ground) -> tuple[float, int]:
    """Share of the sure defects that are marked, and the number of all other marks."""
    marks = ground.marks
    reach = tolerance_px(marks.radius_px[ground.sure], ground.view.pixel_size_nm)
    judged = judge_defects(found.yx_px, marks.yx_px[ground.sure], reach, np.ones(len(reach), bool))
    return len(judged.pairs) / len(reach) if len(reach) else float("nan"), len(judged.wrong)


def _answer(folder: Path, ground: Ground, planted: Planted) -> NDArray[np.int64]:
    """``(TILES², 3)`` hits, false marks and misses of a package, each in the tile where it lies."""
    found = _defects(_analysed(_scan(ground, planted.surface.heights), folder))
    marks, sure = ground.marks, ground.sure
    truth = np.concatenate([planted.yx_px, marks.yx_px[sure]])
    radius = np.concatenate([planted.radius_px, marks.radius_px[sure]])
    required = np.arange(len(truth)) < len(planted.yx_px)
    judged = judge_defects(found.yx_px, truth, tolerance_px(radius, ground.view.pixel_size_nm), required)
    parts = (truth[judged.pairs.truth], found.yx_px[judged.wrong], truth[judged.missed])
    return np.stack([np.bincount(_tile(yx, ground.steps.shape), minlength=TILES**2) for yx in parts], axis=1)


def _tile(yx: NDArray[np.float64], shape: tuple[int, ...]) -> NDArray[np.int64]:
    """``(N,)`` tile of each place."""
    cell = np.clip((yx * TILES / np.asarray(shape)).astype(np.int64), 0, TILES - 1)
    return np.asarray(cell[:, 0] * TILES + cell[:, 1])


def _by_tile(image: NDArray[np.floating]) -> NDArray[np.float64]:
    """``(TILES²,)`` mean of every tile; NaN where nothing was measured."""
    tile = _tile(np.argwhere(np.isfinite(image)).astype(np.float64), image.shape)
    total = np.bincount(tile, image[np.isfinite(image)].astype(np.float64), minlength=TILES**2)
    count = np.bincount(tile, minlength=TILES**2)
    return np.asarray(np.divide(total, count, out=np.full(TILES**2, np.nan), where=count > 0), np.float64)

"""Scores of finders on real scans that people have annotated, with the rules of the simulated ones."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from spm_runtime.results import Defects
from spm_training.defects.annotated import AnnotatedScan, AnnotatedSet
from spm_training.defects.evaluate import Finder
from spm_training.defects.score import NEAR_STEP_NM, Interval, f1_interval, judge_defects, tolerance_px
from spm_training.metrics import Counts
from spm_training.tables import interval_cell, markdown_table

__all__ = ["TILE_NM", "WITHOUT_SIZE", "RealScore", "RealScores", "score_annotated_scan", "score_annotated_set"]

#: Side of the tiles that the bootstrap draws, for there are too few images to draw those: a few cells of a reconstruction, so
#: that a group of defects stays together.
TILE_NM = 4.0

#: After the name of a finder that is not told the size of the pixels.
WITHOUT_SIZE = ", not told the pixel size"


@dataclass(frozen=True, eq=False)
class RealScore:
    """What became of one scan.

    Parameters
    ----------
    name
        Of the scan.
    tiles
        Counts by tile of `TILE_NM`, every defect and every wrong mark in the tile where it lies; tiles in which nothing is judged
        are left out.
    at_steps
        Marks within 1.5 nm of a step that answer no defect, judged otherwise or not.
    step_nm
        Length of the steps.
    """

    name: str
    tiles: tuple[Counts, ...]
    at_steps: int
    step_nm: float

    @property
    def counts(self) -> Counts:
        """Over the whole image."""
        return sum(self.tiles, Counts())


@dataclass(frozen=True, eq=False)
class RealScores:
    """Scores of several finders on one set.

    Parameters
    ----------
    annotated
        The set.
    by_finder
        One score for each scan, by what tables call the finder.
    """

    annotated: AnnotatedSet
    by_finder: Mapping[str, Sequence[RealScore]]

    def of(self, label: str) -> RealScores:
        """Only those of one finder, told the size of the pixels and not."""
        chosen = {name: own for name, own in self.by_finder.items() if name in (label, label + WITHOUT_SIZE)}
        return RealScores(self.annotated, chosen)

    def f1(self, label: str) -> Interval:
        """Over all scans, with the 95 % interval of a bootstrap that draws tiles of all of them with replacement."""
        return f1_interval([tile for score in self.by_finder[label] for tile in score.tiles])

    def total(self, label: str) -> Counts:
        """Over all scans."""
        return sum((score.counts for score in self.by_finder[label]), Counts())

    def markdown(self, level: int = 2) -> str:
        """A heading of that level, what the scans are, and a table with one row for each finder."""
        names = [one.name for one in self.annotated.scans]
        scans = [f"{name}: found / false / missed" for name in names]
        rows = []
        for label, own in self.by_finder.items():
            f1, total = self.f1(label), self.total(label)
            counts = [one.counts for one in own]
            figures = [interval_cell(f1.value, f1.low, f1.high), f"{total.precision:.3f} / {total.recall:.3f}"]
            figures += [f"{one.true_positive} / {one.false_positive} / {one.false_negative}" for one in counts]
            rows.append([label, *figures, f"{_per_100_nm(own):.1f}"])
        table = markdown_table(["", "F1 [95 %]", "P / R", *scans, "at steps per 100 nm"], rows)
        rules = (
            "Matched as the simulated scans are, with the settings used there. The bootstrap draws tiles of "
            f"{TILE_NM:g} nm. At steps: marks within {NEAR_STEP_NM:g} nm of one that answer no defect."
        )
        note = f"{self.annotated.note} {rules}".strip()
        return f"{'#' * level} {self.annotated.heading}\n\n{table}\n{note}\n"

    def document(self) -> dict[str, object]:
        """The same for JSON, None for NaN."""
        return {
            "set": self.annotated.name,
            "heading": self.annotated.heading,
            "finders": [
                {
                    "finder": label,
                    **_plain(vars(self.f1(label)) | {"per_100_nm_step": _per_100_nm(own)}),
                    "precision": self.total(label).precision,
                    "recall": self.total(label).recall,
                    "scans": [
                        {
                            "name": one.name,
                            "found": one.counts.true_positive,
                            "false": one.counts.false_positive,
                            "missed": one.counts.false_negative,
                            "at_steps": one.at_steps,
                            "step_nm": one.step_nm,
                        }
                        for one in own
                    ],
                }
                for label, own in self.by_finder.items()
            ],
        }


def score_annotated_set(
    annotated: AnnotatedSet,
    finders: Mapping[str, Finder],
    *,
    without_size: Sequence[str] = (),
    on_image: Callable[[RealScore], object] | None = None,
) -> RealScores:
    """Score finders on a set.

    Parameters
    ----------
    annotated
        The set.
    finders
        By what tables call them, each with the settings that it has everywhere.
    without_size
        Those that are also scored without being told the size of the pixels, where the files of the set do not know it.
    on_image
        Called after every scan of every finder.
    """
    every = dict(finders)
    if annotated.size_is_told:
        every |= {label + WITHOUT_SIZE: _untold(finders[label]) for label in without_size}
    scores: dict[str, list[RealScore]] = {name: [] for name in every}
    for scan in annotated.scans:
        for name, finder in every.items():
            score = score_annotated_scan(finder(scan.scan), scan)
            scores[name].append(score)
            if on_image is not None:
                on_image(score)
    return RealScores(annotated, scores)


def score_annotated_scan(found: Defects, truth: AnnotatedScan) -> RealScore:
    """Score the marks in one scan."""
    required = truth.required & ~truth.ignored(truth.yx_px)
    pixel = truth.pixel_nm
    reach = tolerance_px(truth.radius_px, float(np.sqrt(pixel.prod())))
    judged = judge_defects(found.yx_px, truth.yx_px, reach, required)
    no_defect = found.yx_px[judged.wrong]
    wrong = no_defect[~truth.ignored(no_defect)]
    shape = np.asarray(truth.scan.shape)
    grid = np.maximum(np.rint(shape * pixel / TILE_NM).astype(np.int64), 1)

    def by_tile(yx: NDArray[np.float64]) -> list[int]:
        cell = np.clip((yx * grid / shape).astype(np.int64), 0, grid - 1)
        return [int(number) for number in np.bincount(cell[:, 0] * grid[1] + cell[:, 1], minlength=int(grid.prod()))]

    parts = (truth.yx_px[judged.pairs.truth], wrong, truth.yx_px[judged.missed])
    counts = [Counts(*three) for three in zip(*(by_tile(part) for part in parts), strict=True)]
    # A tile in which nothing is judged says nothing, and must not thin out the others.
    middle = (np.argwhere(np.ones(grid, bool)) + 0.5) * shape / grid
    kept = tuple(one for one, out in zip(counts, truth.ignored(middle), strict=True) if not out or one != Counts())
    at_steps = int((truth.step_distance_nm(no_defect) <= NEAR_STEP_NM).sum())
    return RealScore(truth.name, kept, at_steps, truth.step_nm)


def _untold(finder: Finder) -> Finder:
    return lambda scan: finder(replace(scan, pixel_size_nm=None))


def _per_100_nm(scores: Sequence[RealScore]) -> float:
    length = sum(score.step_nm for score in scores)
    return 100 * sum(score.at_steps for score in scores) / length if length else float("nan")


def _plain(values: Mapping[str, float]) -> dict[str, float | None]:
    return {name: value if np.isfinite(value) else None for name, value in values.items()}

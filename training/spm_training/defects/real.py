"""The three images of Si(111)-7×7 that the package SPIEPy ships, annotated by eye: for scoring only, nothing is tuned on them.

How it was annotated. Enlarged tiles were looked at twice, the second time shifted by half a tile with the first marks drawn; a
lattice fitted to the adatoms (12 and a corner hole in every cell, bent by drift) told corner holes from missing adatoms; no
finder was looked at. Where the lattice has an adatom and the image shows none the vacancy is sure; where it shows a weak one it
is unsure. Missing adatoms that touch are one sure defect, and each of them an unsure one, so that both ways to count them are
right; the same holds for the parts of a cluster. Bright adatoms are sure where they stand out plainly. Unsure defects can
neither be missed nor found wrongly. Corner holes and steps are no defects; nobody can judge `image_with_step_edge`, only its
step.

The files do not know the size of their pixels; that of the annotation follows from the cell of the reconstruction.

``python -m spm_training.defects.real PACKAGE`` prints the scores of a model package.
"""

from __future__ import annotations

import csv
import json
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from importlib.resources import files

import click
import numpy as np
from numpy.typing import NDArray
from skimage.measure import points_in_poly

from spm_runtime import open as open_scan
from spm_runtime.demo import demo_scans
from spm_runtime.errors import ParameterError
from spm_runtime.models import find_model
from spm_runtime.scan import Scan
from spm_training.defects.evaluate import Finder, package_finder
from spm_training.defects.score import NEAR_STEP_NM, Interval, judge_defects, tolerance_px
from spm_training.metrics import Counts

__all__ = ["CELL_NM", "REAL_IMAGES", "RealAnnotation", "RealImageScore", "RealScores", "read_annotation", "real_scores"]

#: Side of the cell of Si(111)-7×7: seven times 0.384 nm. Source: Takayanagi et al., Surf. Sci. 164, 367 (1985).
CELL_NM = 2.688

#: The images, by the names of their files.
REAL_IMAGES = ("image_with_defects", "image_with_step_edge_and_atoms", "image_with_step_edge")

#: Side of the tiles that the bootstrap draws: a few cells, so that a group of defects stays together.
TILE_NM = 4.0

_COLUMNS = ["y_px", "x_px", "radius_px", "class", "certainty"]


@dataclass(frozen=True, eq=False)
class RealAnnotation:
    """What people see in one image.

    Parameters
    ----------
    name
        One of `REAL_IMAGES`.
    pixel_size_nm
        Side of a pixel, from the area of the cell.
    yx_px, radius_px
        ``(N, 2)`` centres and ``(N,)`` radii.
    classes
        Class of each.
    sure
        ``(N,)`` whether it must be found.
    steps
        A polyline ``(K, 2)`` of ``(y, x)`` in pixels for every step.
    ignore
        Polygons ``(K, 2)`` in which nothing is judged.
    """

    name: str
    pixel_size_nm: float
    yx_px: NDArray[np.float64]
    radius_px: NDArray[np.float64]
    classes: tuple[str, ...]
    sure: NDArray[np.bool_]
    steps: tuple[NDArray[np.float64], ...]
    ignore: tuple[NDArray[np.float64], ...]

    def ignored(self, yx_px: NDArray[np.float64]) -> NDArray[np.bool_]:
        """``(M,)`` which of ``(M, 2)`` positions lie where nothing is judged."""
        inside = np.zeros(len(yx_px), bool)
        for polygon in self.ignore:
            inside |= np.asarray(points_in_poly(yx_px, polygon), dtype=np.bool_)  # type: ignore[no-untyped-call]
        return inside

    def step_distance_nm(self, yx_px: NDArray[np.float64]) -> NDArray[np.float64]:
        """``(M,)`` distances of ``(M, 2)`` positions from the nearest step; infinite where there is none."""
        nearest = np.full(len(yx_px), np.inf)
        for line in self.steps:
            start, along = line[:-1], np.diff(line, axis=0)
            offset = yx_px[:, None] - start
            part = np.clip((offset * along).sum(axis=2) / (along**2).sum(axis=1), 0, 1)
            nearest = np.minimum(nearest, np.linalg.norm(offset - part[..., None] * along, axis=2).min(axis=1))
        return nearest * self.pixel_size_nm

    @property
    def step_nm(self) -> float:
        """Length of all steps."""
        return self.pixel_size_nm * sum(
            float(np.linalg.norm(np.diff(line, axis=0), axis=1).sum()) for line in self.steps
        )


def read_annotation(name: str) -> RealAnnotation:
    """The annotation of one image.

    Parameters
    ----------
    name
        One of `REAL_IMAGES`.

    Raises
    ------
    ParameterError
        If there is no annotation of that name.
    """
    if name not in REAL_IMAGES:
        raise ParameterError(f"{name}: not annotated; expected one of {', '.join(REAL_IMAGES)}.")
    folder = files("spm_training.defects") / "annotations"
    about = json.loads((folder / "spiepy.json").read_text(encoding="utf-8"))[name]
    rows = list(csv.DictReader((folder / f"spiepy_{name}.csv").read_text(encoding="utf-8").splitlines()))
    numbers = np.array([[float(row[column]) for column in _COLUMNS[:3]] for row in rows]).reshape(-1, 3)
    return RealAnnotation(
        name=name,
        pixel_size_nm=float(about["pixel_size_nm"]),
        yx_px=numbers[:, :2],
        radius_px=numbers[:, 2],
        classes=tuple(row["class"] for row in rows),
        sure=np.array([row["certainty"] == "sure" for row in rows], bool),
        steps=tuple(np.array(line, np.float64) for line in about["steps"]),
        ignore=tuple(np.array(area["yx_px"], np.float64) for area in about["ignore"]),
    )


@dataclass(frozen=True, eq=False)
class RealImageScore:
    """What became of one image.

    Parameters
    ----------
    name
        Of the image.
    tiles
        Counts by tile of `TILE_NM`, every defect and every wrong mark in the tile where it lies.
    marks
        All marks in the image, judged or not.
    at_steps
        Those of them within 1.5 nm of a step.
    step_nm
        Length of the steps.
    """

    name: str
    tiles: tuple[Counts, ...]
    marks: int
    at_steps: int
    step_nm: float

    @property
    def counts(self) -> Counts:
        """Over the whole image."""
        return sum(self.tiles, Counts())


@dataclass(frozen=True, eq=False)
class RealScores:
    """Scores of one finder.

    Parameters
    ----------
    images
        One for each image.
    precision, recall, f1
        Over all images, with the 95 % interval of a bootstrap that draws tiles of all images with replacement.
    """

    images: tuple[RealImageScore, ...]
    precision: Interval
    recall: Interval
    f1: Interval


def real_scores(
    finder: Finder, scans: Mapping[str, Scan], *, calibrated: bool = True, samples: int = 1000
) -> RealScores:
    """Score a finder with the rules of the simulated images.

    Parameters
    ----------
    finder
        With the settings that it has everywhere.
    scans
        The images as the reader gives them, by the names in `REAL_IMAGES`.
    calibrated
        Tell the finder the size of the pixels, as somebody would who knows it.
    samples
        Number of draws of the bootstrap.

    Raises
    ------
    ParameterError
        If an image is not annotated.
    """
    scores = []
    for name, scan in scans.items():
        truth = read_annotation(name)
        size = (truth.pixel_size_nm, truth.pixel_size_nm) if calibrated else None
        found = finder(replace(scan, pixel_size_nm=size)).yx_px
        scores.append(_score(np.asarray(found, np.float64).reshape(-1, 2), truth, scan.shape))
    tiles = [tile for score in scores for tile in score.tiles]
    precision = _interval(tiles, lambda counts: counts.precision, samples)
    recall = _interval(tiles, lambda counts: counts.recall, samples)
    f1 = _interval(tiles, lambda counts: counts.f1, samples)
    return RealScores(tuple(scores), precision, recall, f1)


def _score(found: NDArray[np.float64], truth: RealAnnotation, shape: tuple[int, int]) -> RealImageScore:
    required = truth.sure & ~truth.ignored(truth.yx_px)
    judged = judge_defects(found, truth.yx_px, tolerance_px(truth.radius_px, truth.pixel_size_nm), required)
    wrong = found[judged.wrong]
    wrong = wrong[~truth.ignored(wrong)]
    side = TILE_NM / truth.pixel_size_nm
    rows, columns = (max(1, round(length / side)) for length in shape)

    def by_tile(yx: NDArray[np.float64]) -> list[int]:
        grid = np.array([rows, columns])
        cell = np.clip((yx * grid / np.asarray(shape)).astype(np.int64), 0, grid - 1)
        return [int(number) for number in np.bincount(cell[:, 0] * columns + cell[:, 1], minlength=rows * columns)]

    parts = (truth.yx_px[judged.pairs.truth], wrong, truth.yx_px[judged.missed])
    # A tile in which nothing is judged says nothing, and must not thin out the others.
    y, x = np.mgrid[0:rows, 0:columns] + 0.5
    blind = truth.ignored(np.stack([y.ravel() * shape[0] / rows, x.ravel() * shape[1] / columns], axis=1))
    counts = [Counts(*three) for three in zip(*(by_tile(part) for part in parts), strict=True)]
    kept = tuple(one for one, out in zip(counts, blind, strict=True) if not out or one != Counts())
    near = int((truth.step_distance_nm(found) <= NEAR_STEP_NM).sum())
    return RealImageScore(truth.name, kept, len(found), near, truth.step_nm)


def _interval(tiles: Sequence[Counts], figure: Callable[[Counts], float], samples: int) -> Interval:
    """A figure of all tiles, and where it falls when tiles are drawn anew."""
    value = figure(sum(tiles, Counts()))
    if not tiles:
        return Interval(value, float("nan"), float("nan"))
    table = np.array([(one.true_positive, one.false_positive, one.false_negative) for one in tiles])
    rng = np.random.default_rng(0)
    sums = [table[rng.integers(len(table), size=len(table))].sum(axis=0) for _ in range(samples)]
    drawn = np.array([figure(Counts(*(int(number) for number in row))) for row in sums])
    drawn = drawn[np.isfinite(drawn)]
    if not len(drawn):
        return Interval(value, float("nan"), float("nan"))
    low, high = (float(end) for end in np.percentile(drawn, (2.5, 97.5)))
    return Interval(value, low, high)


def _main(model: str) -> None:
    """Print the scores of a package with and without the size of the pixels."""
    scans = {path.stem: open_scan(path) for path in demo_scans()}
    finder = package_finder(find_model(model))
    for calibrated in (True, False):
        scores = real_scores(finder, scans, calibrated=calibrated)
        figures = {"F1": scores.f1, "precision": scores.precision, "recall": scores.recall}
        said = ", ".join(f"{name} {one.value:.3f} [{one.low:.2f}, {one.high:.2f}]" for name, one in figures.items())
        click.echo(f"{'with' if calibrated else 'without'} the pixel size: {said}")


if __name__ == "__main__":
    _main(sys.argv[1])

"""Real scans whose defects people have annotated: for scoring only, no model of this project is trained or tuned on them.

Beside every scan lies a table of the same name with ``.defects.csv`` after it (``a.sxm.defects.csv``) with the columns
``y_px,x_px,radius_px`` and, where they are known, ``class`` and ``required`` (1 or 0; a defect that may be found but need not be
has 0). A table without rows says that there are none.
"""

from __future__ import annotations

import csv
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

import spm_runtime
from spm_runtime.errors import ParameterError
from spm_runtime.results import Defects
from spm_runtime.scan import Scan
from spm_training.defects.evaluate import Finder
from spm_training.defects.score import f1_interval, judge_defects, tolerance_px
from spm_training.metrics import Counts

__all__ = [
    "SUFFIX",
    "AnnotatedScan",
    "RealScore",
    "annotated_markdown",
    "read_annotated_scans",
    "score_annotated_scans",
]

#: What is added to the name of a scan for that of its table.
SUFFIX = ".defects.csv"

#: Tiles along a side of an image that the bootstrap draws: there are too few images to draw those.
_TILES = 4


@dataclass(frozen=True, eq=False)
class AnnotatedScan:
    """A real scan and where its defects are.

    Parameters
    ----------
    name
        Name of the file.
    scan
        As its reader gives it.
    yx_px, radius_px, required
        ``(N, 2)`` centres, ``(N,)`` radii, ``(N,)`` whether each must be found.
    """

    name: str
    scan: Scan
    yx_px: NDArray[np.float64]
    radius_px: NDArray[np.float64]
    required: NDArray[np.bool_]


@dataclass(frozen=True, eq=False)
class RealScore:
    """What became of one scan.

    Parameters
    ----------
    name
        Of the scan.
    tiles
        Counts by tile of the image, each mark and defect in the tile where it lies.
    """

    name: str
    tiles: tuple[Counts, ...]

    @property
    def counts(self) -> Counts:
        """Over the whole image."""
        return sum(self.tiles, Counts())


def read_annotated_scans(folder: Path) -> list[AnnotatedScan]:
    """Read all scans of a folder that have a table.

    Raises
    ------
    ParameterError
        If the folder is missing or has no table, or a table cannot be read.
    """
    tables = sorted(folder.glob(f"*{SUFFIX}")) if folder.is_dir() else []
    if not tables:
        raise ParameterError(
            f"--real {folder}: no tables; expected a folder with scans and, beside each, SCAN{SUFFIX}. Name another folder."
        )
    return [_read(table) for table in tables]


def _read(table: Path) -> AnnotatedScan:
    file = table.with_name(table.name.removesuffix(SUFFIX))
    if not file.is_file():
        raise ParameterError(
            f"{table}: its scan {file.name} is not there; expected it beside the table. Copy it there."
        )
    with table.open(encoding="utf-8", newline="") as stream:
        rows = csv.DictReader(stream)
        wanted = {"y_px", "x_px", "radius_px"}
        if not wanted <= set(rows.fieldnames or ()):
            raise ParameterError(
                f"{table}: columns {rows.fieldnames}; expected {', '.join(sorted(wanted))}. Name them so."
            )
        try:
            values = [
                (float(row["y_px"]), float(row["x_px"]), float(row["radius_px"]), int(row.get("required") or 1))
                for row in rows
            ]
        except (TypeError, ValueError) as error:
            raise ParameterError(f"{table}: line {rows.line_num}: {error}; expected numbers. Mend the line.") from error
    numbers = np.array(values, np.float64).reshape(-1, 4)
    scan = spm_runtime.open(file)
    if scan.pixel_size_nm is None:
        raise ParameterError(f"{file}: no pixel size in it; expected a calibrated scan, for the tolerance is in nm.")
    return AnnotatedScan(file.name, scan, numbers[:, :2], numbers[:, 2], numbers[:, 3] != 0)


def score_annotated_scans(
    finders: Mapping[str, Finder],
    scans: Sequence[AnnotatedScan],
    *,
    on_image: Callable[[RealScore], object] | None = None,
) -> dict[str, list[RealScore]]:
    """Score finders on real scans with the rules of the simulated ones.

    Parameters
    ----------
    finders
        By name, each with the settings that it has everywhere.
    scans
        The scans.
    on_image
        Called after every scan of every finder.
    """
    scores: dict[str, list[RealScore]] = {name: [] for name in finders}
    for scan in scans:
        for name, finder in finders.items():
            score = _score(finder(scan.scan), scan)
            scores[name].append(score)
            if on_image is not None:
                on_image(score)
    return scores


def _score(found: Defects, truth: AnnotatedScan) -> RealScore:
    pixel = truth.scan.pixel_size_nm
    if pixel is None:
        raise ValueError(f"{truth.name}: a scan without pixel size")
    reach = tolerance_px(truth.radius_px, float(np.sqrt(pixel[0] * pixel[1])))
    judged = judge_defects(found.yx_px, truth.yx_px, reach, truth.required)
    shape = truth.scan.shape

    def by_tile(yx: NDArray[np.float64]) -> NDArray[np.int64]:
        cell = np.clip((yx * _TILES / np.asarray(shape)).astype(np.int64), 0, _TILES - 1)
        return np.bincount(cell[:, 0] * _TILES + cell[:, 1], minlength=_TILES**2)

    parts = (truth.yx_px[judged.pairs.truth], found.yx_px[judged.wrong], truth.yx_px[judged.missed])
    hits, wrong, missed = (by_tile(yx).tolist() for yx in parts)
    return RealScore(truth.name, tuple(Counts(*three) for three in zip(hits, wrong, missed, strict=True)))


def annotated_markdown(scores: Mapping[str, Sequence[RealScore]], labels: Mapping[str, str]) -> str:
    """A table with one row per finder, by name of the finder and its label."""
    names = [score.name for score in next(iter(scores.values()))]
    lines = ["| | F1 [95 %] | P / R | " + " | ".join(f"{name}: found / false / missed" for name in names) + " |"]
    lines.append("|---|---:|---:|" + "---:|" * len(names))
    for finder, own in scores.items():
        f1, total = (
            f1_interval([tile for score in own for tile in score.tiles]),
            sum((score.counts for score in own), Counts()),
        )
        cells = [
            f"{one.counts.true_positive} / {one.counts.false_positive} / {one.counts.false_negative}" for one in own
        ]
        figures = f"{f1.value:.3f} [{f1.low:.2f}, {f1.high:.2f}] | {total.precision:.3f} / {total.recall:.3f}"
        lines.append(f"| {labels[finder]} | {figures} | " + " | ".join(cells) + " |")
    lines += [
        "",
        f"Matched as the simulated ones, with the settings used there. The bootstrap draws {_TILES}×{_TILES} tiles of images.",
    ]
    return "\n".join(lines) + "\n"

"""One page of pictures: what every method makes of the same scans, simulated ones and real ones."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure
from numpy.typing import NDArray

import spm_runtime
from spm_runtime.errors import AdatomError
from spm_runtime.levelling import fit_plane
from spm_runtime.scan import Scan
from spm_training.restore.evaluate import Restorer
from spm_training.restore.metrics import inner, quality
from spm_training.restore.scenes import NM_TO_M, Shown
from spm_training.restore.score import Restored, comparable_tips
from spm_training.simulate.tips import TipScene
from spm_training.simulate.tips.scene import local_height
from spm_training.studies.page import Page
from spm_training.studies.plots import Picture, grey_scale, pictures
from spm_training.wanted import check_real

__all__ = ["Examples", "RealExample", "add_examples", "add_real", "real_examples"]

Pixels = NDArray[np.floating]


@dataclass(eq=False)
class Examples:
    """Keeps what all methods made of the first scenes of every family and modality.

    Parameters
    ----------
    each
        How many of each.
    """

    each: int = 2
    kept: list[tuple[Shown, Mapping[str, Restored]]] = field(default_factory=list)
    _seen: Counter[tuple[str, str]] = field(default_factory=Counter)

    def __call__(self, shown: Shown, made: Mapping[str, Restored]) -> None:
        """Keep a scene, or not."""
        key = (shown.scene.modality, shown.group)
        if self._seen[key] < self.each:
            self.kept.append((shown, dict(made)))
        self._seen[key] += 1


@dataclass(frozen=True, eq=False)
class RealExample:
    """A real scan and what every method made of it, or why a method could not, by name."""

    scan: Scan
    made: Mapping[str, Restored]
    refused: Mapping[str, str]


def real_examples(
    folder: Path, restorers: Mapping[str, Restorer], *, say: Callable[[str], object]
) -> Iterator[RealExample]:
    """Restore every scan of a folder that can be read.

    Parameters
    ----------
    folder
        Scans of any format, also in folders within.
    restorers
        By name.
    say
        Takes a line about every file that cannot be read.

    Raises
    ------
    ParameterError
        If there is no such folder.
    """
    check_real(folder)
    for file in sorted(path for path in folder.rglob("*") if path.is_file()):
        try:
            scan = spm_runtime.open(file)
        except AdatomError as error:
            say(f"{file.name}: not read: {error}")
            continue
        made: dict[str, Restored] = {}
        refused: dict[str, str] = {}
        for name, restore in restorers.items():
            try:
                made[name] = restore(scan)
            except AdatomError as error:
                refused[name] = str(error)
        yield RealExample(scan, made, refused)


def add_examples(page: Page, examples: Examples, order: Sequence[str], detailed: Sequence[str]) -> None:
    """Add a row of pictures for every kept scene; all of a row have one grey scale, that of the clean surface.

    Parameters
    ----------
    page
        The report.
    examples
        What was kept.
    order
        Names of the methods; others are left out.
    detailed
        Names of those whose certainty and tip are shown too.
    """
    for shown, made in examples.kept:
        scene = shown.scene
        clean = np.asarray(inner(scene.clean), np.float64)
        panels: list[tuple[str, Pixels]] = [("clean", clean), (_title("scan", scene.image, clean), _cut(scene.image))]
        for name in order:
            if name in made:
                heights = np.asarray(made[name].heights, np.float64) / float(NM_TO_M)
                panels.append((_title(name, heights, clean), _cut(heights)))
        details = _details(scene, {name: made[name] for name in detailed if name in made})
        words = (
            f"{scene.modality.upper()}, {shown.group}, {scene.surface}, image {shown.index}: tip {scene.tip_kind}, "
            f"reach {scene.tip_scale_px:.1f} px, noise {100 * scene.disturbance.white:.1f} % of the relief"
        )
        page.figure(_grid([*panels, *details], grey_scale(clean), len(panels)), words)


def _details(scene: TipScene, made: Mapping[str, Restored]) -> list[tuple[str, Pixels]]:
    """Where the tip touched and the tip itself, both as they are and as methods say; nothing for a convolution."""
    if scene.family == "convolution" or not made:
        return []
    reach = local_height(scene.clean)
    panels: list[tuple[str, Pixels]] = [("touched", _cut(scene.touched))]
    panels += [(f"certainty: {name}", _cut(one.certainty)) for name, one in made.items() if one.certainty is not None]
    truth, _ = comparable_tips(np.zeros((1, 1)), scene)
    panels.append(("tip, as high as what stands nearby", 1 + truth / reach))
    for name, one in made.items():
        if one.tip is not None:
            panels.append((f"tip: {name}", 1 + comparable_tips(one.tip / NM_TO_M, scene)[1] / reach))
    return panels


def add_real(page: Page, examples: Sequence[RealExample]) -> None:
    """Add before, after and certainty of real scans, levelled by a plane for the eye; there is no truth to compare with."""
    for example in examples:
        scan = example.scan
        # What levels the scan levels what was made of it: otherwise a change of the plane would look like one of the surface.
        plane = fit_plane(scan.image)
        before = scan.image - plane
        low, high = grey_scale(before)
        panels: list[tuple[str, Pixels]] = [("scan", before)]
        further: list[tuple[str, Pixels]] = []
        for name, restored in example.made.items():
            after = restored.heights - plane
            panels.append((name, after))
            further.append((f"taken away, four times: {name}", 4 * (before - after) / (high - low)))
            if restored.certainty is not None:
                further.append((f"certainty: {name}", np.asarray(restored.certainty, np.float64)))
        refused = "".join(f"; {name}: {why}" for name, why in example.refused.items())
        file = "" if scan.path is None else scan.path.name
        words = f"{file}, {scan.label}, {scan.shape[0]}×{scan.shape[1]} px{refused}"
        page.figure(_grid([*panels, *further], (low, high), len(panels)), words)


def _grid(panels: Sequence[tuple[str, Pixels]], scale: tuple[float, float], heights: int) -> Figure:
    """Panels in rows; the first so many on one scale of heights, the others from 0 to 1."""
    return pictures([Picture(*panel, scale if number < heights else (0.0, 1.0)) for number, panel in enumerate(panels)])


def _cut(image: NDArray[np.generic]) -> NDArray[np.float64]:
    return np.asarray(inner(image), np.float64)


def _title(name: str, heights: NDArray[np.floating], clean: NDArray[np.float64]) -> str:
    figures = quality(_cut(heights), clean)
    return f"{name}\n{figures.psnr:.1f} / {figures.ssim:.2f} / {figures.vif:.2f}"

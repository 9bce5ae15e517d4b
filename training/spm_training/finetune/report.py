"""What fine-tuning has changed, as a page for a person."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Circle
from numpy.typing import NDArray

from spm_runtime.levelling import level_for_display
from spm_runtime.models import ModelPackage
from spm_runtime.results import Defects
from spm_training.defects.score import Interval
from spm_training.finetune.decide import (
    AFTER,
    BEFORE,
    LEAST_KEPT,
    MOST_LOST_F1,
    MOST_MORE_FALSE,
    MOST_WORSE_ERROR,
    FinderFigures,
    PatchFigures,
    Verdict,
)
from spm_training.finetune.judge import HeldOutView
from spm_training.finetune.loop import Effort
from spm_training.finetune.plant import DOUBTFUL, SURE
from spm_training.finetune.scans import Collection
from spm_training.studies.page import Cell, Page

__all__ = ["NAME", "Outcome", "tables", "write_report"]

#: Name of the report within the package, without suffix.
NAME = "before-after"
#: So many held-out images are shown.
MOST_SHOWN = 8
#: Height of a picture in inches.
_HIGH = 3.4


@dataclass(frozen=True, eq=False)
class Outcome:
    """Everything that a report tells.

    Parameters
    ----------
    parent
        Where it began.
    collection
        The scans.
    held_out
        The views of every held-out image.
    finder, patches
        Figures; None where the package has no patch autoencoder.
    verdicts
        What was decided, by part.
    efforts
        What each training cost, by part.
    """

    parent: ModelPackage
    collection: Collection
    held_out: Sequence[Sequence[HeldOutView]]
    finder: FinderFigures
    patches: PatchFigures | None
    verdicts: dict[str, Verdict]
    efforts: dict[str, Effort]

    @property
    def advice(self) -> str:
        """What the user should do."""
        tuned = [part for part, verdict in self.verdicts.items() if verdict.tuned]
        kept = [part for part, verdict in self.verdicts.items() if not verdict.tuned]
        words = [f"The {part} went on learning and is taken: {self.verdicts[part].reason}." for part in tuned]
        words += [f"The {part} is that of {self._parent}: {self.verdicts[part].reason}." for part in kept]
        if not tuned:
            words.append(f"The new package does what {self._parent} does: go on using that one.")
        return " ".join(words)

    @property
    def _parent(self) -> str:
        return f"{self.parent.name} {self.parent.version}"


def tables(outcome: Outcome) -> str:
    """The figures as Markdown, for the card."""
    lines = ["| | before | after |", "|---|---:|---:|"]
    lines += ["| " + " | ".join(map(_words, row[:3])) + " |" for row in _rows(outcome)]
    return "\n".join([outcome.advice, "", *lines, "", _reading(outcome), ""])


def write_report(outcome: Outcome, folder: Path) -> Path:
    """Write ``before-after.html`` with pictures, and the numbers beside it as JSON.

    Parameters
    ----------
    outcome
        What happened.
    folder
        The new package.
    """
    collection, efforts = outcome.collection, outcome.efforts.values()
    page = Page(
        f"{folder.name}: before and after",
        f"{len(collection)} images of a user, {len(collection.held_out)} of them held out; nothing was labelled. Began with "
        f"{outcome.parent.name} {outcome.parent.version} (sha256 {outcome.parent.reference.sha256[:12]}…). "
        f"{sum(one.flop for one in efforts):.3g} FLOP in {sum(one.seconds for one in efforts) / 60:.1f} min of training.",
    )
    page.recommend(outcome.advice)
    page.section("Figures")
    page.table(["", "before", "after", "what it says"], _rows(outcome))
    page.say(_reading(outcome))
    page.section("Held-out images")
    page.say(
        f"Marks of the packages: red from a score of {SURE:g} on, else orange. Cyan: one of the plantings that judged."
    )
    for views in outcome.held_out[:MOST_SHOWN]:
        page.figure(_picture(views[0]), views[0].ground.view.name)
    page.section("Scans")
    page.table(["file", "use", "views", "working pixels", "nm per working pixel"], _files(collection))
    if collection.left_out:
        page.table(["left out", "why"], [[one.path.name, one.reason] for one in collection.left_out])
    numbers: dict[str, object] = {
        "parent": {"name": outcome.parent.name, "version": outcome.parent.version, "sha256": outcome.parent.reference.sha256},
        "finder": asdict(outcome.finder),
        "patches": None if outcome.patches is None else asdict(outcome.patches),
        "verdicts": {name: asdict(one) for name, one in outcome.verdicts.items()},
        "efforts": {name: asdict(one) for name, one in outcome.efforts.items()},
    }  # fmt: skip
    return page.write(folder, NAME, numbers)


def _rows(outcome: Outcome) -> list[list[Cell]]:
    finder, patches = outcome.finder, outcome.patches
    every = None if np.isnan(finder.kept) else 1.0
    rows: list[list[Cell]] = [
        ["F1, planted defects, held-out scans", *finder.planted_f1, f"change {_interval(finder.change)}, bootstrap over tiles"],
        ["recall, planted defects, held-out scans", *finder.planted_recall, "at the threshold of the package"],
        ["other marks per held-out scan", *finder.others, f"that the shipped finder is not sure of (score below {SURE:g})"],
        ["sure defects still found", every, finder.kept, f"of score {SURE:g} before; at least {LEAST_KEPT:g} is asked for"],
        ["F1, simulated surfaces", *finder.simulated_f1, f"a loss of {MOST_LOST_F1:g} is borne"],
        ["marks per simulated image without defects", *finder.false_per_empty, f"{MOST_MORE_FALSE:g} more are borne"],
    ]  # fmt: skip
    if patches is not None:
        rows += [
            ["error, held-out scans", *patches.error, f"ratio {_interval(patches.ratio, '.2f')}, bootstrap over tiles"],
            ["novelty, held-out scans", *patches.novelty, "1 is where the warning of a new surface begins"],
            ["share of held-out scans called new", *patches.new, ""],
            ["error, simulated surfaces", *patches.simulated_error, f"a factor of {MOST_WORSE_ERROR:g} is borne"],
        ]  # fmt: skip
    return rows


def _reading(outcome: Outcome) -> str:
    return (
        "The truth of the held-out scans is planted by the simulator where the shipped finder sees nothing (scores below "
        f"{DOUBTFUL:g}); a mark counts as false where it answers nothing planted and nothing that the shipped finder is sure "
        "of. Real defects that nobody has labelled are among those: compare the two columns, not either with 1. Where the "
        "shipped finder is sure and wrong, this cannot show it: look at the pictures."
    )


def _interval(one: Interval, style: str = "+.3f") -> str:
    return f"{one.value:{style}} [{one.low:{style}}, {one.high:{style}}]"


def _words(cell: Cell) -> str:
    return cell if isinstance(cell, str) else "–" if cell is None or np.isnan(cell) else f"{cell:.3g}"


def _files(collection: Collection) -> list[list[Cell]]:
    rows: list[list[Cell]] = []
    for use, images in (("held out", collection.held_out), ("learned from", collection.training)):
        for image in images:
            view = image.views[0]
            size = " × ".join(map(str, view.surface.heights.shape))
            rows.append([image.path.name, use, len(image.views), size, view.pixel_size_nm])
    return rows


def _picture(view: HeldOutView) -> Figure:
    """One view with the marks before and after, and below the error maps where there are any."""
    maps = [view.looks[name].error_map for name in (BEFORE, AFTER)]
    shown = [one for one in maps if one is not None]
    rows = 2 if shown else 1
    height, width = view.ground.steps.shape
    wide = float(np.clip(_HIGH * width / height, 1.5, 2 * _HIGH))
    figure = Figure(figsize=(3 * wide, _HIGH * rows), layout="constrained")
    axes = figure.subplots(rows, 3, squeeze=False)
    surface = view.ground.view.surface
    grey = level_for_display(np.where(surface.valid, surface.heights, np.float32(np.nan)))
    for one, name in zip(axes[0], (BEFORE, AFTER), strict=False):
        look = view.looks[name]
        _draw(one, grey, f"{name}: {len(look.defects)} marks")
        _ring(one, look.defects)
    planted = view.example
    other = level_for_display(np.where(surface.valid, planted.surface.heights, np.float32(np.nan)))
    _draw(axes[0][2], other, f"with {len(planted.kind)} planted defects")
    for (y, x), radius in zip(planted.yx_px, planted.radius_px, strict=True):
        axes[0][2].add_patch(Circle((x, y), radius, fill=False, color="tab:cyan", linewidth=0.8))
    if shown:
        high = float(np.nanpercentile(np.stack(shown), 99.5))
        for one, name, data in zip(axes[1], (BEFORE, AFTER), maps, strict=False):
            _draw(one, data, f"error map {name}", high=high)
        axes[1][2].set_axis_off()
    return figure


def _draw(axes: Axes, image: NDArray[np.generic] | None, title: str, *, high: float | None = None) -> None:
    axes.set_axis_off()
    axes.set_title(title, fontsize="small")
    if image is not None:
        axes.imshow(image, cmap="gray" if high is None else "magma", vmin=0, vmax=255 if high is None else high)


def _ring(axes: Axes, defects: Defects) -> None:
    for (y, x), (h, w), score in zip(defects.yx_px, defects.size_px, defects.score, strict=True):
        colour = "tab:red" if score >= SURE else "tab:orange"
        axes.add_patch(Circle((x, y), max(h, w, 6.0) / 2, fill=False, color=colour, linewidth=0.8))

"""Scores of finders on real annotated images, beside the classical finder tuned as generously as is honest."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from spm_training.atoms.annotated import AnnotatedImage
from spm_training.atoms.evaluate import Finder
from spm_training.metrics import Counts
from spm_training.peers.blob_fft import BlobFinder
from spm_training.peers.tuning import levelled_and_spacing
from spm_training.tables import markdown_table, write_tables

__all__ = ["LEAVE_ONE_OUT", "AnnotatedReport", "score_annotated"]

#: Name of the peer whose settings are the best of the other sets.
LEAVE_ONE_OUT = "LoG + FFT scale, tuned on the other real sets"

#: The grid of that peer: wider than on simulated images, because single atoms on a rough support need high thresholds.
_SIGMAS = (0.14, 0.18, 0.22, 0.28, 0.35)
_DISTANCES = (0.35, 0.5)
_THRESHOLDS = (0.3, 0.6, 0.9, 1.2, 1.6, 2.0, 2.5, 3.0, 3.5, 4.0, 5.0, 6.0)


@dataclass(frozen=True, eq=False)
class AnnotatedReport:
    """Counts of every finder on every annotated image.

    Parameters
    ----------
    images
        The images.
    counts
        By finder, one for each image.
    """

    images: Sequence[AnnotatedImage]
    counts: Mapping[str, Sequence[Counts]]

    def by_set(self, finder: str) -> dict[str, Counts]:
        """Counts of a finder, added up over the images of each set."""
        totals: dict[str, Counts] = {}
        for image, counts in zip(self.images, self.counts[finder], strict=True):
            totals[image.group] = totals.get(image.group, Counts()) + counts
        return totals

    def markdown(self) -> str:
        """F1 with precision and recall by set and by finder, then what was judged how."""
        sets = list(dict.fromkeys(image.group for image in self.images))
        rows = []
        for finder in self.counts:
            totals = self.by_set(finder)
            cells = [f"{totals[one].f1:.3f} ({totals[one].precision:.3f} / {totals[one].recall:.3f})" for one in sets]
            rows.append([finder, *cells])
        lines = [
            markdown_table(["", *sets], rows),
            "F1 (precision / recall) against what people annotated. No model was trained or tuned on these images; the peer "
            f"“{LEAVE_ONE_OUT}” was, but for the set that is scored.",
            "",
        ]
        for image in self.images:
            doubt = f" **Not to be relied on: {image.doubt}.**" if image.doubt else ""
            lines.append(f"* {image.group}, `{image.name}`: {len(image.yx_px)} annotated, {image.rule}.{doubt}")
        return "\n".join(lines) + "\n"

    def document(self) -> dict[str, object]:
        """For JSON: by finder and image the counts and what follows from them."""
        return {
            finder: [
                {
                    "set": image.group,
                    "image": image.name,
                    "annotated": len(image.yx_px),
                    "rule": image.rule,
                    "doubt": image.doubt,
                    "true_positive": one.true_positive,
                    "false_positive": one.false_positive,
                    "false_negative": one.false_negative,
                    "precision": one.precision,
                    "recall": one.recall,
                    "f1": one.f1,
                    "rms_px": one.rms_px if one.true_positive else None,
                }
                for image, one in zip(self.images, counts, strict=True)
            ]
            for finder, counts in self.counts.items()
        }

    def save(self, folder: Path) -> tuple[Path, Path]:
        """Write ``annotated.json`` and ``annotated.md`` and give their paths."""
        return write_tables(folder / "annotated", self.document(), self.markdown())


def score_annotated(
    finders: Mapping[str, Finder],
    images: Sequence[AnnotatedImage],
    *,
    leave_one_out: bool = False,
    on_image: Callable[[object], object] | None = None,
) -> AnnotatedReport:
    """Score finders on annotated images.

    Parameters
    ----------
    finders
        By name.
    images
        The images.
    leave_one_out
        Add the classical finder tuned on the other sets, `LEAVE_ONE_OUT`.
    on_image
        Called after every image of every finder.
    """
    counts: dict[str, list[Counts]] = {}
    for name, finder in finders.items():
        counts[name] = []
        for image in images:
            counts[name].append(image.score(finder(image.image).yx_px))
            if on_image is not None:
                on_image(image)
    if leave_one_out:
        counts[LEAVE_ONE_OUT] = _leave_one_out(images, on_image)
    return AnnotatedReport(images, counts)


def _leave_one_out(images: Sequence[AnnotatedImage], on_image: Callable[[object], object] | None) -> list[Counts]:
    """Counts of the settings that have the best mean F1 over the images of all other sets, doubtful ones left out."""
    finders = [BlobFinder("log", *settings) for settings in itertools.product(_SIGMAS, _DISTANCES, _THRESHOLDS)]
    table: list[list[Counts]] = []
    for image in images:
        levelled, spacing = levelled_and_spacing(image.image)
        table.append([image.score(finder.positions(levelled, spacing)) for finder in finders])
        if on_image is not None:
            on_image(image)
    best = []
    for image, own in zip(images, table, strict=True):
        others = [
            [one.f1 for one in row]
            for other, row in zip(images, table, strict=True)
            if other.group != image.group and not other.doubt
        ]
        # A single set has no others: there it is the best on itself, the most generous of all.
        scores = np.mean(others, axis=0) if others else np.array([one.f1 for one in own])
        best.append(own[int(np.argmax(scores))])
    return best

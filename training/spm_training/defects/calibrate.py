"""From the scores of a finder of defects to probabilities, and the bound that is best then: on validation scenes only."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from spm_runtime.errors import ParameterError
from spm_runtime.models import ModelPackage
from spm_runtime.pipelines import analyse
from spm_runtime.session import Device
from spm_training.calibration import Knots, Reliability, fit_calibration, knots_of, on_top_of, reliability
from spm_training.defects.evaluate import Finder, package_finder
from spm_training.defects.scenes import DefectOptions, Shown, scan_of, validation_scenes
from spm_training.defects.score import judge_defects, tolerance_px
from spm_training.metrics import Counts
from spm_training.simulate.surfaces import NOISE_LEVELS
from spm_training.tables import markdown_table

__all__ = ["DefectCalibration", "ThresholdRow", "ToldMarks", "fit_defects", "marks_told", "with_ends"]

#: Marks of lower scores of the network are not looked at: the background has hundreds of them.
LOWEST_SCORE = 0.1
#: Few marks are high: every bin of the fit has as few as may be.
_BINS = 10_000
#: Nothing that was seen is more certain than this.
_LEAST_DOUBT = 1e-3
#: Probabilities at which the figures are given.
_BOUNDS = tuple(round(0.05 * step, 2) for step in range(1, 20))


@dataclass(frozen=True, eq=False)
class ToldMarks:
    """What a finder said of one scene, marks that answer no required defect but another one left out.

    Parameters
    ----------
    noise, empty
        As `Shown`.
    required
        Number of required defects.
    score, is_true
        ``(K,)`` scores of the marks, and whether each is right when all of lower score are left out.
    """

    noise: str
    empty: bool
    required: int
    score: NDArray[np.float64]
    is_true: NDArray[np.bool_]

    def counts(self, bound: float) -> Counts:
        """Of the marks from a score on."""
        there = self.score >= bound
        right = int(self.is_true[there].sum())
        return Counts(right, int(there.sum()) - right, self.required - right)


@dataclass(frozen=True)
class ThresholdRow:
    """Figures at one bound; NaN where nothing can be said.

    Parameters
    ----------
    probability, raw
        The bound as a probability, and as a score of the package.
    f1
        By noise level, over the images with defects.
    precision, recall
        Over all images with defects.
    false_per_empty
        Marks in an image without defects.
    """

    probability: float
    raw: float
    f1: dict[str, float]
    precision: float
    recall: float
    false_per_empty: float

    @property
    def mean_f1(self) -> float:
        """Of the noise levels, which weigh the same: what the peers are tuned to."""
        return float(np.mean(list(self.f1.values())))


@dataclass(frozen=True, eq=False)
class DefectCalibration:
    """A fitted calibration and what it does.

    Parameters
    ----------
    images
        What was said of the scenes, in their order.
    lower_bound
        The package's own bound, a score.
    lowest
        Marks of lower scores say nothing here.
    known
        The calibration that the package has already.
    alarm_levels
        Strongest region of every scene without defects that only the autoencoder sees, ascending; empty without one.

    Raises
    ------
    ParameterError
        If the scores do not tell right from wrong.
    """

    images: Sequence[ToldMarks]
    lower_bound: float
    lowest: float = LOWEST_SCORE
    known: Knots | None = None
    alarm_levels: tuple[float, ...] = ()

    @cached_property
    def knots(self) -> Knots:
        """From the scores of the package to probabilities, both strictly ascending from 0 to 1."""
        return self._fit(self.images)

    @property
    def network_knots(self) -> Knots:
        """From the scores of the network, for an export."""
        return on_top_of(self.known, self.knots)

    @cached_property
    def before(self) -> Reliability:
        """Of the scores of the marks that the package reports."""
        score, is_true = self._reported(self.images)
        return reliability(score, is_true)

    @cached_property
    def after(self) -> Reliability:
        """Of the probabilities of the same marks, each half of the scenes calibrated by the other half."""
        halves = self.images[::2], self.images[1::2]
        parts = []
        for fitted, judged in (halves, halves[::-1]):
            score, is_true = self._reported(judged)
            parts.append((np.interp(score, *self._fit(fitted)), is_true))
        return reliability(*(np.concatenate(both) for both in zip(*parts, strict=True)))

    @cached_property
    def rows(self) -> Sequence[ThresholdRow]:
        """Figures by bound."""
        raw, probability = self.knots
        return [self._row(bound, float(np.interp(bound, probability, raw))) for bound in _BOUNDS]

    @property
    def best(self) -> ThresholdRow:
        """The row with the best mean F1 of the noise levels."""
        return max(self.rows, key=lambda row: -math.inf if math.isnan(row.mean_f1) else row.mean_f1)

    def markdown(self) -> str:
        """What the calibration does, and the figures by bound."""
        best, count = self.best, int(self.before.count.sum())
        levels = [name for name in NOISE_LEVELS if name in best.f1]
        headings = ["bound", "score", *(f"F1 {name}" for name in levels), "mean F1", "P / R", "false per empty image"]
        rows = [
            [
                f"{row.probability:.2f}",
                f"{row.raw:.3f}",
                *(f"{row.f1[name]:.3f}" for name in levels),
                f"{row.mean_f1:.3f}",
                f"{row.precision:.3f} / {row.recall:.3f}",
                f"{row.false_per_empty:.2f}",
            ]
            for row in self.rows
        ]
        return (
            f"Validation scenes: {len(self.images)}. Expected calibration error of the {count} marks with a score of "
            f"{self.lower_bound:g} or more: {self.before.expected_error:.3f} before, {self.after.expected_error:.3f} after (each "
            f"half of the scenes with what the other half taught).\n\n{markdown_table(headings, rows)}\n"
            f"Best mean F1 of the noise levels: {best.mean_f1:.3f} at a probability of {best.probability:.2f} (score "
            f"{best.raw:.3f}), with {best.false_per_empty:.2f} false marks in an image without defects.\n"
        )

    def _fit(self, images: Sequence[ToldMarks]) -> Knots:
        score, is_true = (np.concatenate([getattr(one, name) for one in images]) for name in ("score", "is_true"))
        kept = score >= self.lowest
        return with_ends(*fit_calibration(score[kept], is_true[kept], bins=_BINS))

    def _reported(self, images: Sequence[ToldMarks]) -> tuple[NDArray[np.float64], NDArray[np.bool_]]:
        score, is_true = (np.concatenate([getattr(one, name) for one in images]) for name in ("score", "is_true"))
        kept = score >= self.lower_bound
        return score[kept], is_true[kept]

    def _row(self, probability: float, raw: float) -> ThresholdRow:
        shown = [one for one in self.images if not one.empty]
        empty = [one for one in self.images if one.empty]
        by_noise: dict[str, Counts] = {}
        for one in shown:
            by_noise[one.noise] = by_noise.get(one.noise, Counts()) + one.counts(raw)
        total = sum(by_noise.values(), Counts())
        false = sum(one.counts(raw).false_positive for one in empty)
        return ThresholdRow(
            probability,
            raw,
            {noise: counts.f1 for noise, counts in by_noise.items()},
            total.precision,
            total.recall,
            false / len(empty) if empty else math.nan,
        )


def fit_defects(
    package: ModelPackage,
    options: DefectOptions,
    device: Device = "cpu",
    *,
    on_image: Callable[[object], object] | None = None,
) -> DefectCalibration:
    """Calibrate a package, on top of the calibration that it was exported with.

    Parameters
    ----------
    package
        A package of the task ``defects``.
    options
        How many scenes of the validation split, and of what size.
    device
        Where the runtime computes.
    on_image
        Called after every scene.

    Raises
    ------
    ParameterError
        If the package does not tell right from wrong.
    """
    known = knots_of(package)
    lowest = LOWEST_SCORE if known is None else float(np.interp(LOWEST_SCORE, *known))
    lower_bound = package.parameters["lower_bound"].default
    finder = package_finder(package, device, params={"lower_bound": min(lowest, lower_bound), "unexplained": 0})
    images = []
    for shown in validation_scenes(options):
        images.append(marks_told(finder, shown))
        if on_image is not None:
            on_image(images[-1])
    levels = _alarm_levels(package, options, device) if "encoder" in package.attached else ()
    done = DefectCalibration(images, lower_bound, lowest, known, levels)
    try:
        _ = done.knots, done.after
    except ValueError as error:
        raise ParameterError(f"{package.folder}: {error}. Train it longer, or take more --images.") from error
    return done


def _alarm_levels(package: ModelPackage, options: DefectOptions, device: Device) -> tuple[float, ...]:
    """What the autoencoder alone sees in the scenes without defects, with the package's own bound."""
    found = (
        analyse(scan_of(shown.scene), "defects", model=package.folder, device=device)
        for shown in validation_scenes(options)
        if shown.empty
    )
    return tuple(sorted(round(result.quantities["strongest_unexplained"], 3) for result in found))


def marks_told(finder: Finder, shown: Shown) -> ToldMarks:
    """What a finder says of a scene."""
    scene = shown.scene
    found, truth = finder(scan_of(scene)), scene.defects
    reach = tolerance_px(truth.radius_px, scene.pixel_size_nm)
    judged = judge_defects(found.yx_px, truth.yx_px, reach, scene.required, score=found.score)
    kept = np.setdiff1d(np.arange(len(found)), judged.forgiven)
    return ToldMarks(
        shown.noise,
        shown.empty,
        int(scene.required.sum()),
        np.asarray(found.score, np.float64)[kept],
        np.isin(kept, judged.pairs.found),
    )


def with_ends(knots_x: NDArray[np.float64], knots_y: NDArray[np.float64]) -> Knots:
    """Knots in (0, 1) continued to (0, 0) and (1, 1), every probability moved away from certainty by up to a thousandth.

    Scores beyond the outer knots would all become the same probability otherwise: marks would have no order any more, and their
    peaks no top.
    """
    inner = _LEAST_DOUBT + (1 - 2 * _LEAST_DOUBT) * knots_y
    return np.r_[0.0, knots_x, 1.0], np.r_[0.0, inner, 1.0]

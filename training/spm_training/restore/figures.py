"""What many scores say together: means with their intervals, wins image by image, and the goals of restoration."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np

from spm_training.calibration import Reliability
from spm_training.defects.score import Interval
from spm_training.restore.metrics import Quality
from spm_training.restore.score import ImageScore, merged_reliability

__all__ = [
    "CertaintyFigures",
    "Goal",
    "Row",
    "TipFigures",
    "Wins",
    "certainty_figures",
    "chosen",
    "goal",
    "mean_interval",
    "row",
    "tip_figures",
    "wins",
]

#: A second apex is where it is when it is found within this distance.
NEAR_PX = 2.0

Scores = Sequence[ImageScore | None]


class Row(NamedTuple):
    """Means over the images of a group; NaN where there is none.

    Parameters
    ----------
    images
        Their number.
    raw, registered, fair
        Mean PSNR, SSIM and VIF (`ImageScore`).
    interval
        Of the mean fair PSNR, over images.
    change, harm
        Means of `ImageScore.change` and `ImageScore.harm`.
    unharmed
        Number of images that are (`ImageScore.unharmed`).
    seconds
        Mean time per image on the machine that evaluated.
    """

    images: int
    raw: Quality
    registered: Quality
    fair: Quality
    interval: Interval
    change: float
    harm: float
    unharmed: int
    seconds: float


class Wins(NamedTuple):
    """In how many of `images` one method is better than another, by PSNR, SSIM and VIF."""

    images: int
    psnr: int
    ssim: int
    vif: int

    def __str__(self) -> str:
        return f"{self.psnr} / {self.ssim} / {self.vif} of {self.images}" if self.images else "–"

    @property
    def least(self) -> float:
        """Share of the metric with the fewest wins; NaN without images."""
        return min(self.psnr, self.ssim, self.vif) / self.images if self.images else math.nan


class CertaintyFigures(NamedTuple):
    """Maps of certainty over a group: precision and recall of its pixels from 0.5 on, mean AUC of the images, calibration."""

    precision: float
    recall: float
    auc: float
    reliability: Reliability


class TipFigures(NamedTuple):
    """Estimated tips over a group.

    Parameters
    ----------
    error
        Mean of `TipScore.error`.
    two
        Images whose true tip shows a second apex.
    found, near
        In how many of them the estimate has one, and has it within two pixels of the true one.
    second_px
        Median distance of the second apexes where both are there.
    """

    error: float
    two: int
    found: int
    near: int
    second_px: float


class Goal(NamedTuple):
    """How much of what the true tip gains is gained without it.

    Parameters
    ----------
    gain_db
        Mean fair PSNR above that of the image as recorded.
    share
        The same over the gain of erosion by the true tip; NaN where that gains nothing or does not apply.
    ssim, vif
        Mean fair SSIM and VIF above those of erosion by the true tip; NaN where it does not apply.
    """

    gain_db: float
    share: float
    ssim: float
    vif: float


def chosen(scores: Scores, keep: Callable[[ImageScore], bool]) -> list[ImageScore]:
    """The scores of a group; images that a method does not apply to are left out."""
    return [score for score in scores if score is not None and keep(score)]


def mean_interval(values: Sequence[float], *, samples: int = 1000, seed: int = 0) -> Interval:
    """Mean, and the percentiles 2.5 and 97.5 of the means of as many values drawn with replacement; NaN without values."""
    if not values:
        return Interval(math.nan, math.nan, math.nan)
    every = np.asarray(values, np.float64)
    drawn = np.random.default_rng(seed).integers(0, len(every), (samples, len(every)))
    low, high = np.percentile(every[drawn].mean(axis=1), (2.5, 97.5))
    return Interval(float(every.mean()), float(low), float(high))


def row(scores: Sequence[ImageScore]) -> Row:
    """Means over images."""
    return Row(
        len(scores),
        _mean_quality([score.raw for score in scores]),
        _mean_quality([score.registered for score in scores]),
        _mean_quality([score.fair for score in scores]),
        mean_interval([score.fair.psnr for score in scores]),
        _mean([score.change for score in scores]),
        _mean([score.harm for score in scores]),
        sum(score.unharmed for score in scores),
        _mean([score.seconds for score in scores]),
    )


def wins(ours: Scores, theirs: Scores, keep: Callable[[ImageScore], bool]) -> Wins:
    """Count the images on which ours has the higher fair PSNR, SSIM and VIF; equal ones are no win.

    Parameters
    ----------
    ours, theirs
        Of the same images in the same order.
    keep
        Says of which group.
    """
    pairs = [
        (one.fair, other.fair)
        for one, other in zip(ours, theirs, strict=True)
        if one is not None and other is not None and keep(one)
    ]
    counts = [sum(one[metric] > other[metric] for one, other in pairs) for metric in range(3)]
    return Wins(len(pairs), *counts)


def certainty_figures(scores: Sequence[ImageScore]) -> CertaintyFigures | None:
    """Figures of the maps of certainty; None where there are none."""
    found = [score.certainty for score in scores if score.certainty is not None]
    if not found:
        return None
    right, wrong, missed = (sum(getattr(one, name) for one in found) for name in ("right", "wrong", "missed"))
    return CertaintyFigures(
        precision=right / (right + wrong) if right + wrong else math.nan,
        recall=right / (right + missed) if right + missed else math.nan,
        auc=_mean([one.auc for one in found if math.isfinite(one.auc)]),
        reliability=merged_reliability([one.reliability for one in found]),
    )


def tip_figures(scores: Sequence[ImageScore]) -> TipFigures | None:
    """Figures of the estimated tips; None where there are none."""
    found = [score.tip for score in scores if score.tip is not None]
    if not found:
        return None
    double = [one for one in found if one.true_two]
    both = [one.second_px for one in double if math.isfinite(one.second_px)]
    return TipFigures(
        error=_mean([one.error for one in found]),
        two=len(double),
        found=sum(one.found_two for one in double),
        near=sum(distance <= NEAR_PX for distance in both),
        second_px=float(np.median(both)) if both else math.nan,
    )


def goal(ours: Sequence[ImageScore], recorded: Sequence[ImageScore], true_tip: Sequence[ImageScore]) -> Goal:
    """What the issue of restoration asks for, over one group of images.

    Parameters
    ----------
    ours, recorded, true_tip
        Scores of the method, of the image as recorded, and of erosion by the true tip; the last is empty where it does not apply.
    """
    one, image, bound = (row(scores).fair for scores in (ours, recorded, true_tip))
    gain, most = one.psnr - image.psnr, bound.psnr - image.psnr
    return Goal(gain, gain / most if most > 0 else math.nan, one.ssim - bound.ssim, one.vif - bound.vif)


def _mean_quality(values: Sequence[Quality]) -> Quality:
    return Quality(*(_mean([value[metric] for value in values]) for metric in range(3)))


def _mean(values: Sequence[float]) -> float:
    return float(np.mean(values)) if len(values) else math.nan

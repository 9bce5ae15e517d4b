"""What a restorer gave for a scene, judged by what is true of it: pure functions of both."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage
from sklearn.metrics import roc_auc_score

from spm_training.calibration import Reliability, reliability
from spm_training.restore.metrics import Quality, inner, quality, register
from spm_training.restore.scenes import NM_TO_M, Shown
from spm_training.simulate.tips import TipScene
from spm_training.simulate.tips.scene import local_height

__all__ = [
    "CertaintyScore",
    "ImageScore",
    "Restored",
    "TipScore",
    "comparable_tips",
    "merged_reliability",
    "score_certainty",
    "score_restored",
    "score_tip",
    "second_apex",
]

#: From here on a pixel counts as certain.
CERTAIN = 0.5
#: Two apexes nearer than this are one.
LEAST_APART_PX = 2.0


class Restored(NamedTuple):
    """What a restorer gives for a scan.

    Parameters
    ----------
    heights
        ``(H, W)`` float32 in the unit of the scan.
    certainty
        ``(H, W)`` in [0, 1]: where the tip is known to have touched; None where nothing is said of it.
    tip
        ``(h, w)`` estimated tip in the unit of the scan, odd numbers of pixels, its apex in the middle; None where there is none.
    instead
        Whether something else than what was asked for did it, because the scan is outside its range.
    """

    heights: NDArray[np.float32]
    certainty: NDArray[np.floating] | NDArray[np.bool_] | None = None
    tip: NDArray[np.floating] | None = None
    instead: bool = False


@dataclass(frozen=True, eq=False)
class CertaintyScore:
    """A map of certainty against where the tip touched, in the inner frame.

    Parameters
    ----------
    auc
        Area under the ROC curve; NaN where the tip touched everywhere or nowhere.
    right, wrong, missed
        Pixels that are certain (0.5 or more) and were touched, that are certain and were not, that were touched and are not.
    reliability
        Certainty against the share that was touched.
    """

    auc: float
    right: int
    wrong: int
    missed: int
    reliability: Reliability


@dataclass(frozen=True)
class TipScore:
    """An estimated tip against the true one.

    Parameters
    ----------
    error
        Root mean square of the difference as a share of `local_height`, over the pixels where either tip is less than that below
        its apex; both are cut off there, because deeper parts hardly ever touch.
    true_two, found_two
        Whether the true tip, and the estimated one, show a second apex (`second_apex`).
    second_px
        Distance of the estimated second apex from the true one; NaN unless both are there.
    """

    error: float
    true_two: bool
    found_two: bool
    second_px: float


@dataclass(frozen=True, eq=False)
class ImageScore:
    """Score of one image.

    Parameters
    ----------
    modality, group, surface, index
        What the image shows, and its number in its group.
    raw, registered
        Quality of the heights as they are, and after `spm_training.restore.metrics.register`, in the same frame.
    shift_yx_px, offset
        What registration took out; the offset as a share of the range of the clean surface.
    change
        Root mean square of (restored − image) over that of all that was added after the tip (noise, scars, offsets of lines).
    harm
        Root mean square of (restored − clean) over that of (image − clean): below 1 the restored surface is nearer to the truth.
    certainty, tip
        None where the restorer says nothing, or the family has no such truth.
    seconds
        Time of the restorer.
    instead
        As of `Restored`.
    """

    modality: str
    group: str
    surface: str
    index: int
    raw: Quality
    registered: Quality
    shift_yx_px: tuple[float, float]
    offset: float
    change: float
    harm: float
    certainty: CertaintyScore | None
    tip: TipScore | None
    seconds: float
    instead: bool = False

    @property
    def unharmed(self) -> bool:
        """Whether it is changed by less than its noise, or nearer to the truth than before."""
        return self.change <= 1 or self.harm <= 1

    @property
    def fair(self) -> Quality:
        """What can be asked for: registered in the family ``hackathon``, whose tip has its apex off the middle; else raw."""
        return self.registered if self.group == "hackathon" else self.raw


def score_restored(restored: Restored, shown: Shown, *, seconds: float) -> ImageScore:
    """Judge what a restorer made of ``scan_of(shown.scene)``.

    Parameters
    ----------
    restored
        In metres, as the scan.
    shown
        The scene with its truth, in nanometres.
    seconds
        How long it took.

    Raises
    ------
    ValueError
        If the heights have another shape or are not all finite: a restorer's mistake.
    """
    scene = shown.scene
    heights = np.asarray(restored.heights, np.float64) / float(NM_TO_M)
    if heights.shape != scene.clean.shape or not np.isfinite(heights).all():
        raise ValueError(
            f"restored heights: expected finite ones of the shape {scene.clean.shape}, got {heights.shape}"
        )
    clean, image = scene.clean.astype(np.float64), scene.image.astype(np.float64)
    laid = register(heights, clean)
    truth = np.asarray(inner(clean))
    certainty = None if restored.certainty is None or scene.family == "convolution" else restored.certainty
    if certainty is not None and scene.family == "hackathon":
        certainty = _moved(certainty, laid.shift_yx_px)
    return ImageScore(
        modality=scene.modality,
        group=shown.group,
        surface=scene.surface,
        index=shown.index,
        raw=quality(np.asarray(inner(heights)), truth),
        registered=quality(laid.image, truth),
        shift_yx_px=laid.shift_yx_px,
        offset=laid.offset / (float(np.ptp(truth)) or 1.0),
        change=_ratio(heights - image, image - scene.blurred),
        harm=_ratio(heights - clean, image - clean),
        certainty=None if certainty is None else score_certainty(certainty, scene.touched),
        tip=None if restored.tip is None or scene.family == "convolution" else score_tip(restored.tip / NM_TO_M, scene),
        seconds=seconds,
        instead=restored.instead,
    )


def score_certainty(certainty: NDArray[np.generic], touched: NDArray[np.bool_]) -> CertaintyScore:
    """Judge a map of certainty in the inner frame.

    Parameters
    ----------
    certainty
        ``(H, W)`` in [0, 1], or bool.
    touched
        ``(H, W)`` the truth.
    """
    said = np.asarray(inner(certainty), np.float64).ravel()
    truth = np.asarray(inner(touched), np.bool_).ravel()
    certain = said >= CERTAIN
    mixed = bool(truth.any() and not truth.all())
    return CertaintyScore(
        auc=float(roc_auc_score(truth, said)) if mixed else float("nan"),
        right=int((certain & truth).sum()),
        wrong=int((certain & ~truth).sum()),
        missed=int((~certain & truth).sum()),
        reliability=reliability(said, truth),
    )


def merged_reliability(parts: Sequence[Reliability]) -> Reliability:
    """The bins of several images in one."""
    count = np.sum([part.count for part in parts], axis=0)
    there = np.where(count > 0, count, np.nan)

    def mean(values: Sequence[NDArray[np.float64]]) -> NDArray[np.float64]:
        sums = [np.nan_to_num(one) * part.count for one, part in zip(values, parts, strict=True)]
        return np.asarray(np.sum(sums, axis=0) / there)

    return Reliability(mean([part.mean_score for part in parts]), mean([part.share_true for part in parts]), count)


def score_tip(tip: NDArray[np.floating], scene: TipScene) -> TipScore:
    """Judge an estimated tip.

    Parameters
    ----------
    tip
        ``(h, w)`` heights in nanometres, the apex in the middle.
    scene
        A scene of dilation.
    """
    truth, guess = comparable_tips(tip, scene)
    reach = local_height(scene.clean)
    matters = (truth > -reach) | (guess > -reach)
    true_second, second = second_apex(truth), second_apex(guess)
    return TipScore(
        error=float(np.sqrt(np.mean((guess - truth)[matters] ** 2)) / reach),
        true_two=scene.second_yx_px is not None and true_second is not None,
        found_two=second is not None,
        second_px=float("nan") if second is None or true_second is None else math.dist(second, true_second),
    )


def comparable_tips(tip: NDArray[np.floating], scene: TipScene) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """The true tip and an estimated one as they are compared: the apex at 0 in the middle, cut off at `local_height`."""
    reach = local_height(scene.clean)
    truth = _cut_off(_centred(scene.tip, scene.apex_yx_px), reach)
    return truth, _cut_off(_framed(np.asarray(tip, np.float64), scene.tip.shape[0]), reach)


def second_apex(tip: NDArray[np.float64]) -> tuple[int, int] | None:
    """Where a tip that is cut off at its lowest value has its second apex, from the middle; None where it has none.

    The highest local maximum (of 3×3 pixels) that is above the cut and at least two pixels from the middle.
    """
    half = np.asarray(tip.shape) // 2
    tops = (ndimage.maximum_filter(tip, 3, mode="nearest") == tip) & (tip > tip.min())
    labels, count = ndimage.label(tops, np.ones((3, 3)))
    best: tuple[float, tuple[int, int]] | None = None
    for number in range(1, count + 1):
        # Of a flat top the middle counts, and the one around the first apex not at all.
        places = np.argwhere(labels == number)
        if np.hypot(*(places - half).T).min() < LEAST_APART_PX:
            continue
        if not _rises_above_its_rim(tip, labels == number):
            continue
        height = float(tip[tuple(places[0])])
        if best is None or height > best[0]:
            y, x = np.rint(places.mean(axis=0)).astype(int) - half
            best = height, (int(y), int(x))
    return None if best is None else best[1]


def _rises_above_its_rim(tip: NDArray[np.float64], top: NDArray[np.bool_]) -> bool:
    """Whether all that surrounds a flat top is lower: a shelf on a slope is no apex."""
    rim = ndimage.binary_dilation(top, np.ones((3, 3))) & ~top
    return bool(rim.any() and tip[rim].max() < tip[top].max())


def _ratio(error: NDArray[np.float64], noise: NDArray[np.float64]) -> float:
    """Root mean square over root mean square, in the inner frame."""
    below = float(np.sqrt(np.mean(np.asarray(inner(noise), np.float64) ** 2)))
    return float(np.sqrt(np.mean(np.asarray(inner(error), np.float64) ** 2))) / below if below else float("nan")


def _moved(certainty: NDArray[np.generic], shift: tuple[float, float]) -> NDArray[np.float64]:
    """What was at x + shift at x, by whole pixels; the shift is no longer than the rim, which is not judged."""
    whole = tuple(-round(value) for value in shift)
    return np.roll(np.asarray(certainty, np.float64), whole, axis=(0, 1))


def _cut_off(tip: NDArray[np.floating], reach: float) -> NDArray[np.float64]:
    return np.asarray(np.maximum(np.nan_to_num(tip, neginf=-2 * reach), -reach), np.float64)


def _centred(tip: NDArray[np.floating], apex_yx_px: tuple[float, float]) -> NDArray[np.float64]:
    """The tip with its apex in the middle, by whole pixels; −inf where nothing is known."""
    y, x = (round(value) for value in apex_yx_px)
    side = tip.shape[0]
    wide = np.pad(np.asarray(tip, np.float64), side // 2, constant_values=-np.inf)
    start = side // 2
    cut = wide[start + y : start + y + side, start + x : start + x + side]
    return np.asarray(cut - cut.max())


def _framed(tip: NDArray[np.float64], side: int) -> NDArray[np.float64]:
    """The tip in a square of a side, cut or with −inf around it."""
    grow = [max(0, (side - n) // 2) for n in tip.shape]
    wide = np.pad(tip, [(n, n) for n in grow], constant_values=-np.inf)
    cut = [(n - side) // 2 for n in wide.shape]
    return wide[cut[0] : cut[0] + side, cut[1] : cut[1] + side]

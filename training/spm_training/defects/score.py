"""Scores of found defects against the truth: pure functions of both.

A found mark and a true defect can belong together when their centres lie within the larger of the defect's radius and
`LEAST_TOLERANCE_NM`. Pairs are one to one: as many as possible, then the smallest total distance. Only required defects can
be missed (`spm_training.simulate.surfaces.SurfaceScene.required`); a mark that answers none of them but one of the others (a
ghost of a double tip, a defect too faint or with its centre outside the frame) is neither right nor wrong.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage
from scipy.optimize import linear_sum_assignment
from scipy.spatial.distance import cdist
from skimage.morphology import skeletonize
from sklearn.metrics import v_measure_score

from spm_runtime.results import Defects
from spm_training.metrics import Counts, Judgement, Matches
from spm_training.simulate.surfaces import DEFECT_CLASSES, SurfaceScene

__all__ = [
    "BORDER_PX",
    "LEAST_TOLERANCE_NM",
    "NEAR_STEP_NM",
    "ImageScore",
    "Interval",
    "f1_interval",
    "judge_defects",
    "near_step",
    "score_scene",
    "step_length_px",
    "tolerance_px",
    "total_counts",
    "v_measure",
    "v_measure_interval",
]

#: Centres this near belong together however small the defect: about two atoms.
LEAST_TOLERANCE_NM = 0.6
#: A false mark this near to a step is blamed on the step.
NEAR_STEP_NM = 1.5
#: Defects whose centre is this near to the border are counted apart.
BORDER_PX = 16.0

#: Lengths of a step of a digital line along a row or column, and along a diagonal, that make its length unbiased on average over
#: directions. Source: Dorst and Smeulders, Comput. Vision Graph. Image Process. 40, 311 (1987).
_STRAIGHT, _DIAGONAL = 0.948, 1.340


def tolerance_px(radius_px: NDArray[np.float64], pixel_size_nm: float) -> NDArray[np.float64]:
    """``(M,)`` largest distances of a pair in pixels, from the ``(M,)`` radii of the true defects."""
    return np.maximum(np.asarray(radius_px, np.float64), LEAST_TOLERANCE_NM / pixel_size_nm)


def judge_defects(
    found_yx_px: NDArray[np.float64],
    true_yx_px: NDArray[np.float64],
    tolerance: NDArray[np.float64],
    required: NDArray[np.bool_],
    *,
    score: NDArray[np.floating] | None = None,
) -> Judgement:
    """Match marks with defects, the required ones first.

    Parameters
    ----------
    found_yx_px
        ``(N, 2)`` marks.
    true_yx_px
        ``(M, 2)`` defects.
    tolerance
        ``(M,)`` largest distance of a pair in pixels, inclusive.
    required
        ``(M,)`` whether a finder must report the defect.
    score
        ``(N,)`` in [0, 1]: where several marks can answer a defect the one with the best score does, instead of the nearest. A
        mark is then right as it would be without all marks of lower score.
    """
    found = np.asarray(found_yx_px, np.float64).reshape(-1, 2)
    truth = np.asarray(true_yx_px, np.float64).reshape(-1, 2)
    value = None if score is None else np.asarray(score, np.float64)
    must, may = np.flatnonzero(required), np.flatnonzero(~np.asarray(required, bool))
    first = _pairs(found, truth[must], tolerance[must], value)
    pairs = Matches(first.found, must[first.truth], first.distance_px)
    rest = np.setdiff1d(np.arange(len(found)), pairs.found)
    forgiven = rest[_pairs(found[rest], truth[may], tolerance[may], None if value is None else value[rest]).found]
    return Judgement(pairs, forgiven, np.setdiff1d(rest, forgiven), np.setdiff1d(must, pairs.truth))


def _pairs(
    found: NDArray[np.float64],
    truth: NDArray[np.float64],
    tolerance: NDArray[np.float64],
    score: NDArray[np.float64] | None,
) -> Matches:
    if not len(found) or not len(truth):
        return Matches(np.zeros(0, np.int64), np.zeros(0, np.int64), np.zeros(0))
    distance = cdist(found, truth)
    possible = distance <= tolerance
    price = distance if score is None else np.broadcast_to(1.0 - score[:, None], distance.shape)
    # Dearer than any set of pairs, so that no pair is given up for shorter distances or better scores.
    absent = (min(distance.shape) + 1) * float(price.max(where=possible, initial=1.0))
    rows, columns = linear_sum_assignment(np.where(possible, price, absent))
    paired = possible[rows, columns]
    rows, columns = rows[paired].astype(np.int64), columns[paired].astype(np.int64)
    return Matches(rows, columns, distance[rows, columns])


def step_length_px(steps: NDArray[np.bool_]) -> float:
    """Length of the steps of an image in pixels.

    The pixels at an edge, one on either side, are thinned to a line of one pixel. Its links to neighbouring pixels count
    0.948 along a row or column and 1.340 along a diagonal, a diagonal only where no corner of two straight links says the same.

    Parameters
    ----------
    steps
        ``(H, W)`` pixels at the edge of a terrace, on either side, as `SurfaceScene.steps`.
    """
    line = skeletonize(np.asarray(steps, bool))  # type: ignore[no-untyped-call]
    straight = int(np.count_nonzero(line[1:] & line[:-1]) + np.count_nonzero(line[:, 1:] & line[:, :-1]))
    diagonal = 0
    for left, right in ((line[:, :-1], line[:, 1:]), (line[:, 1:], line[:, :-1])):
        # From (y, left) to (y + 1, right); its corners are (y, right) and (y + 1, left).
        diagonal += int(np.count_nonzero(left[:-1] & right[1:] & ~right[:-1] & ~left[1:]))
    return _STRAIGHT * straight + _DIAGONAL * diagonal


def near_step(yx_px: NDArray[np.float64], steps: NDArray[np.bool_], pixel_size_nm: float) -> NDArray[np.bool_]:
    """``(N,)`` whether marks lie within `NEAR_STEP_NM` of a pixel of a step."""
    yx = np.asarray(yx_px, np.float64).reshape(-1, 2)
    if not len(yx) or not steps.any():
        return np.zeros(len(yx), bool)
    distance = ndimage.distance_transform_edt(~steps)
    nearest = np.clip(np.rint(yx).astype(int), 0, np.asarray(steps.shape) - 1)
    return np.asarray(distance[nearest[:, 0], nearest[:, 1]] * pixel_size_nm <= NEAR_STEP_NM)


@dataclass(frozen=True, eq=False)
class ImageScore:
    """What became of the defects and the marks of one image. R: the number of required defects.

    Parameters
    ----------
    family, noise
        What the image shows, and at what noise level.
    empty
        The surface was simulated without defects.
    kind
        ``(R,)`` int32 class of each required defect, index into `DEFECT_CLASSES`.
    detectability
        ``(R,)`` their d′.
    border_px
        ``(R,)`` distance of their centres from the nearest border.
    answer
        For each of them the class that the finder gave it; None where it was missed.
    false_positives, false_at_steps
        Marks that are wrong, and those of them within `NEAR_STEP_NM` of a step.
    step_nm
        Length of the steps in the image (`step_length_px`).
    seconds
        Time of the finder.
    score, is_true
        ``(K,)`` scores of the judged marks and whether each is right; marks that answer no required defect but another one are
        left out.
    """

    family: str
    noise: str
    empty: bool
    kind: NDArray[np.int32]
    detectability: NDArray[np.float64]
    border_px: NDArray[np.float64]
    answer: tuple[str | None, ...]
    false_positives: int
    false_at_steps: int
    step_nm: float
    seconds: float
    score: NDArray[np.float64]
    is_true: NDArray[np.bool_]

    @property
    def hit(self) -> NDArray[np.bool_]:
        """``(R,)`` which of the required defects were found."""
        return np.array([name is not None for name in self.answer], bool)

    @property
    def counts(self) -> Counts:
        """True positives, false positives and misses."""
        hits = int(self.hit.sum())
        return Counts(hits, self.false_positives, len(self.answer) - hits)


def score_scene(
    found: Defects,
    scene: SurfaceScene,
    *,
    noise: str,
    empty: bool = False,
    seconds: float = 0.0,
) -> ImageScore:
    """Score the marks in one scene.

    Parameters
    ----------
    found
        What a finder says.
    scene
        Image and truth.
    noise
        Name of the noise level.
    empty
        Whether the scene was drawn without defects.
    seconds
        Time that it took to find them.
    """
    truth, required, pixel = scene.defects, scene.required, scene.pixel_size_nm
    judged = judge_defects(found.yx_px, truth.yx_px, tolerance_px(truth.radius_px, pixel), required)
    by_truth = dict(zip(judged.pairs.truth.tolist(), judged.pairs.found.tolist(), strict=True))
    chosen = np.flatnonzero(required)
    last = np.asarray(scene.image.shape, np.float64) - 1
    yx = truth.yx_px[chosen]
    wrong = found.yx_px[judged.wrong]
    kept = np.setdiff1d(np.arange(len(found)), judged.forgiven)
    return ImageScore(
        family=scene.family,
        noise=noise,
        empty=empty,
        kind=truth.kind[chosen],
        detectability=truth.detectability[chosen],
        border_px=np.minimum(yx, last - yx).min(axis=1) if len(yx) else np.zeros(0),
        answer=tuple(
            found.names[found.kind[by_truth[index]]] if index in by_truth else None for index in chosen.tolist()
        ),
        false_positives=len(wrong),
        false_at_steps=int(near_step(wrong, scene.steps, pixel).sum()),
        step_nm=step_length_px(scene.steps) * pixel,
        seconds=seconds,
        score=np.asarray(found.score, np.float64)[kept],
        is_true=np.isin(kept, judged.pairs.found),
    )


def total_counts(scores: Sequence[ImageScore]) -> Counts:
    """Counts over all images."""
    return sum((score.counts for score in scores), Counts())


def v_measure(scores: Sequence[ImageScore]) -> float:
    """V-measure of the found classes against the true ones over all matched defects; NaN without any.

    The harmonic mean of homogeneity and completeness: 1 when either partition tells the other, whatever the classes are called.
    Source: Rosenberg and Hirschberg, Proc. EMNLP-CoNLL 2007, 410.
    """
    true: list[str] = []
    found: list[str] = []
    for score in scores:
        for kind, name in zip(score.kind.tolist(), score.answer, strict=True):
            if name is not None:
                true.append(DEFECT_CLASSES[kind])
                found.append(name)
    return float(v_measure_score(true, found)) if true else float("nan")


@dataclass(frozen=True)
class Interval:
    """A figure with the 95 % interval of its bootstrap; NaN where it cannot be said.

    Parameters
    ----------
    value
        The figure itself.
    low, high
        Ends of the interval.
    """

    value: float
    low: float
    high: float


def f1_interval(counts: Sequence[Counts], *, samples: int = 1000, seed: int = 0) -> Interval:
    """F1 over parts, such as images, and how far it would move with other parts of the same kind.

    Parameters
    ----------
    counts
        The parts; they are drawn with replacement, as many as there are.
    samples
        Number of draws.
    seed
        Of the draws.

    Returns
    -------
    The figure of all parts, and the percentiles 2.5 and 97.5 of the draws in which there is anything to count; all NaN without
    parts.
    """
    if not counts:
        return Interval(float("nan"), float("nan"), float("nan"))
    table = np.array([(2 * one.true_positive, one.false_positive + one.false_negative) for one in counts], np.float64)
    drawn = np.random.default_rng(seed).integers(len(table), size=(samples, len(table)))
    twice, off = table[drawn].sum(axis=1).T
    there = twice + off > 0
    return _interval(sum(counts, Counts()).f1, twice[there] / (twice + off)[there])


def v_measure_interval(scores: Sequence[ImageScore], *, samples: int = 100, seed: int = 0) -> Interval:
    """`v_measure` with a bootstrap over images; parameters as of `f1_interval`."""
    rng = np.random.default_rng(seed)
    named = [score for score in scores if score.hit.any()]
    if not named:
        return Interval(float("nan"), float("nan"), float("nan"))
    drawn = [v_measure([named[n] for n in rng.integers(len(named), size=len(named))]) for _ in range(samples)]
    return _interval(v_measure(scores), np.array(drawn))


def _interval(value: float, drawn: NDArray[np.float64]) -> Interval:
    if not len(drawn):
        return Interval(value, float("nan"), float("nan"))
    low, high = (float(end) for end in np.percentile(drawn, (2.5, 97.5)))
    return Interval(value, low, high)

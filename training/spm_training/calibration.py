"""Whether a finder's scores are probabilities, its standard deviations honest, and its positions free of the pixel grid."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import yaml
from numpy.typing import ArrayLike, NDArray
from PIL import Image, ImageDraw, ImageFont

from spm_runtime.errors import ParameterError
from spm_runtime.models import ModelPackage
from spm_runtime.session import Device
from spm_training.atoms.evaluate import (
    Detections,
    EvaluationOptions,
    package_finder,
    score_scene,
    validation_scenes,
)
from spm_training.files import write_atomically

__all__ = [
    "MAX_KNOTS",
    "Coverage",
    "Knots",
    "Locking",
    "Reliability",
    "coverage",
    "fit_calibration",
    "fit_package",
    "joined",
    "knots_of",
    "on_top_of",
    "pixel_locking",
    "reliability",
    "write_knots",
]

#: Scores and probabilities, both strictly ascending, of a piecewise-linear map that is constant beyond its ends.
Knots = tuple[NDArray[np.float64], NDArray[np.float64]]

#: Most knots of a fitted calibration.
MAX_KNOTS = 16
#: Fewest scores behind a knot: a share of fewer says little.
_LEAST_SCORES = 30
#: Scores from here on are calibrated: below it a map of confidence is nothing but background.
_LOWEST_SCORE = 0.02
#: Least distance of two knots on the axis of the raw score.
_LEAST_GAP = 1e-3


@dataclass(frozen=True, eq=False)
class Reliability:
    """Scores against the share of them that is true, in bins of equal width from 0 to 1.

    Parameters
    ----------
    mean_score, share_true
        ``(B,)`` of every bin; NaN where it is empty.
    count
        ``(B,)`` positions in it.
    """

    mean_score: NDArray[np.float64]
    share_true: NDArray[np.float64]
    count: NDArray[np.int64]

    @property
    def expected_error(self) -> float:
        """Expected calibration error: mean distance of score and share, weighted by the bins' counts; NaN without scores.

        Source: Guo et al., On calibration of modern neural networks, ICML 2017.
        """
        filled = self.count > 0
        if not filled.any():
            return float("nan")
        gap = np.abs(self.mean_score - self.share_true)[filled]
        return float(np.average(gap, weights=self.count[filled]))

    def markdown(self, right: str, found: str) -> str:
        """The expected calibration error, and a table of the bins.

        Parameters
        ----------
        right
            When a position is right, in words.
        found
            What is found.
        """
        lines = [
            f"Expected calibration error {self.expected_error:.3f} (score against share {right}, ten bins):",
            "",
            f"| mean score | share true | {found} |",
            "|---:|---:|---:|",
            *(f"| {mean:.3f} | {share:.3f} | {count} |" for mean, share, count in self._filled()),
        ]
        return "\n".join(lines) + "\n"

    def document(self) -> dict[str, object]:
        """The same for JSON, None for NaN."""
        error = self.expected_error
        return {
            "expected_calibration_error": error if np.isfinite(error) else None,
            "reliability": [
                {"mean_score": mean, "share_true": share, "count": count} for mean, share, count in self._filled()
            ],
        }

    def _filled(self) -> list[tuple[float, float, int]]:
        bins = zip(self.mean_score.tolist(), self.share_true.tolist(), self.count.tolist(), strict=True)
        return [(mean, share, count) for mean, share, count in bins if count]

    def picture(self) -> Image.Image:
        """The reliability diagram: share of true positions over score, areas of the points by count."""
        side, margin = 400, 60
        image = Image.new("RGB", (side + 2 * margin, side + 2 * margin), "white")
        draw, font = ImageDraw.Draw(image), ImageFont.load_default(15)

        def place(score: float, share: float) -> tuple[float, float]:
            return margin + side * score, margin + side * (1 - share)

        for tick in np.linspace(0, 1, 6):
            draw.line([place(tick, 0), place(tick, 1)], fill="#e0e0e0")
            draw.line([place(0, tick), place(1, tick)], fill="#e0e0e0")
            x, y = place(tick, 0)
            draw.text((x, y + 8), f"{tick:.1f}", fill="black", font=font, anchor="mt")
            x, y = place(0, tick)
            draw.text((x - 8, y), f"{tick:.1f}", fill="black", font=font, anchor="rm")
        draw.line([place(0, 0), place(1, 1)], fill="#808080", width=2)
        filled = np.flatnonzero(self.count)
        points = [place(self.mean_score[index], self.share_true[index]) for index in filled]
        if len(points) > 1:
            draw.line(points, fill="#0060c0", width=2)
        for index, (x, y) in zip(filled, points, strict=True):
            radius = 4 + 10 * np.sqrt(self.count[index] / self.count.sum())
            draw.ellipse([x - radius, y - radius, x + radius, y + radius], fill="#0060c0")
        x, y = place(0.5, 0)
        draw.text((x, y + 30), "score", fill="black", font=font, anchor="mt")
        draw.text((margin - 40, 8), "share within 0.25 of the spacing", fill="black", font=font)
        said = f"expected calibration error {self.expected_error:.3f}, {int(self.count.sum())} positions"
        draw.text((margin - 40, 26), said, fill="black", font=font)
        return image


def reliability(score: ArrayLike, is_true: ArrayLike, *, bins: int = 10) -> Reliability:
    """Bin scores in [0, 1] and count how many of each bin are true.

    Parameters
    ----------
    score
        ``(N,)`` scores.
    is_true
        ``(N,)`` whether the position is right.
    bins
        Number of bins.
    """
    values, right = np.asarray(score, np.float64), np.asarray(is_true, bool)
    index = np.clip((values * bins).astype(np.int64), 0, bins - 1)
    count = np.bincount(index, minlength=bins)
    there = np.where(count > 0, count, np.nan)
    return Reliability(
        mean_score=np.bincount(index, values, bins) / there,
        share_true=np.bincount(index, right.astype(np.float64), bins) / there,
        count=count,
    )


@dataclass(frozen=True)
class Coverage:
    """Errors of single coordinates over the standard deviations that the finder gave them.

    Parameters
    ----------
    count
        Coordinates, two for each right position with a standard deviation.
    within_one, within_two
        Share of them below one and two standard deviations; 0.683 and 0.954 if honest and normal.
    robust_std
        1.4826 × median of the absolute ratio: 1 if honest, above if the finder is too sure.
    """

    count: int
    within_one: float
    within_two: float
    robust_std: float


def coverage(error_yx_px: ArrayLike, std_px: ArrayLike) -> Coverage:
    """Compare errors with what was believed of them.

    Parameters
    ----------
    error_yx_px
        ``(N, 2)`` found minus true position; rows with NaN are left out.
    std_px
        ``(N,)`` standard deviation of one coordinate; rows with NaN are left out.
    """
    error, std = np.asarray(error_yx_px, np.float64).reshape(-1, 2), np.asarray(std_px, np.float64)
    known = np.isfinite(error).all(axis=1) & np.isfinite(std) & (std > 0)
    if not known.any():
        nan = float("nan")
        return Coverage(0, nan, nan, nan)
    ratio = np.abs(error[known] / std[known, None]).ravel()
    return Coverage(len(ratio), float(np.mean(ratio < 1)), float(np.mean(ratio < 2)), 1.4826 * float(np.median(ratio)))


@dataclass(frozen=True)
class Locking:
    """How the fractional parts of positions are distributed: uniform, unless positions stick to the pixels.

    Parameters
    ----------
    count
        Coordinates.
    chi_square
        χ² of the fractional parts in ten bins against a uniform distribution, per degree of freedom: about 1 if uniform and
        independent.
    largest_deviation
        Largest relative deviation of a bin from a uniform distribution.
    """

    count: int
    chi_square: float
    largest_deviation: float


def pixel_locking(yx_px: ArrayLike, *, bins: int = 10) -> Locking:
    """Distribution of the fractional parts of ``(N, 2)`` positions in pixels, both coordinates together."""
    values = np.asarray(yx_px, np.float64).ravel()
    values = values[np.isfinite(values)]
    if not len(values):
        return Locking(0, float("nan"), float("nan"))
    index = np.minimum((np.mod(values, 1.0) * bins).astype(np.int64), bins - 1)
    expected = len(values) / bins
    deviation = np.bincount(index, minlength=bins) / expected - 1
    return Locking(len(values), expected * float(np.sum(deviation**2)) / (bins - 1), float(np.abs(deviation).max()))


def fit_calibration(scores: ArrayLike, is_true: ArrayLike, *, bins: int = 60) -> Knots:
    """Fit the monotone map from raw score to probability.

    Parameters
    ----------
    scores
        ``(N,)`` raw scores of found positions, of validation scenes only.
    is_true
        ``(N,)`` whether each is right.
    bins
        Most bins of equal count; more where few of the scores are high.

    Returns
    -------
    knots_x, knots_y
        ``(K,)`` knots of a piecewise-linear map, at most `MAX_KNOTS`, both strictly ascending; constant beyond its ends.

    Raises
    ------
    ValueError
        If the scores do not tell right from wrong positions: fewer than two levels are left.

    Notes
    -----
    Isotonic regression on bins of equal count, so that a share always stands on some dozens of positions; each of its steps
    becomes a knot at its mean score. Knots are then taken away one by one, always the one that the line between its neighbours
    misses least, weighted with the positions.
    """
    from sklearn.isotonic import IsotonicRegression  # takes seconds to import: only where it is used

    raw, right = np.asarray(scores, np.float64), np.asarray(is_true, np.float64)
    order = np.argsort(raw, kind="stable")
    parts = np.array_split(order, int(np.clip(len(raw) // _LEAST_SCORES, 1, bins)))
    mean = np.array([raw[one].mean() for one in parts])
    weight = np.array([len(one) for one in parts], np.float64)
    share = np.array([right[one].mean() for one in parts])
    fitted = IsotonicRegression(y_min=0.0, y_max=1.0).fit(mean, share, weight).predict(mean)
    rises = np.r_[False, np.diff(fitted) > 1e-9]
    for index in np.flatnonzero(rises):  # a ramp too steep for float32 is no better than a step
        rises[index] = mean[index] - mean[np.flatnonzero(np.r_[True, rises[1:index]])[-1]] > _LEAST_GAP
    step = np.cumsum(rises)
    total = np.bincount(step, weight)
    x, y = np.bincount(step, weight * mean) / total, np.bincount(step, weight * fitted) / total
    if len(x) < 2:
        raise ValueError(f"{len(raw)} scores do not tell right from wrong positions: no calibration can be fitted")
    while len(x) > MAX_KNOTS:
        line = y[:-2] + (y[2:] - y[:-2]) * (x[1:-1] - x[:-2]) / (x[2:] - x[:-2])
        least = 1 + int(np.argmin(total[1:-1] * (line - y[1:-1]) ** 2))
        x, y, total = np.delete(x, least), np.delete(y, least), np.delete(total, least)
    return x, y


def fit_package(
    package: ModelPackage,
    options: EvaluationOptions,
    device: Device = "cpu",
    *,
    on_image: Callable[[object], object] | None = None,
) -> Knots:
    """`fit_calibration` of a package on scenes of the validation split, on top of the one that it was exported with.

    Parameters
    ----------
    package
        A package of the task ``atoms``.
    options
        How many scenes, and of what size.
    device
        Where the runtime computes.
    on_image
        Called after every scene.

    Raises
    ------
    ParameterError
        If the package does not tell right from wrong.
    """
    finder = package_finder(package, device, params={"filter_lower_bound": _LOWEST_SCORE})
    told: list[Detections] = []
    for noise, scene in validation_scenes(options):
        score = score_scene(finder(scene.image), scene, noise=noise, seconds=0.0)
        told += [] if score.detections is None else [score.detections]
        if on_image is not None:
            on_image(score)
    every = joined(told)
    try:
        return on_top_of(knots_of(package), fit_calibration(every.score, every.is_true))
    except ValueError as error:
        raise ParameterError(f"{package.folder}: {error}. Train it longer, or take more --images.") from error


def knots_of(package: ModelPackage) -> Knots | None:
    """The calibration that a package was exported with, from the network's score to probability; None where there is none."""
    description = yaml.safe_load((package.folder / "rdf.yaml").read_text(encoding="utf-8"))
    found = description["config"]["spm"].get("calibration")
    return None if found is None else (np.array(found["raw"], np.float64), np.array(found["probability"], np.float64))


def on_top_of(first: Knots | None, second: Knots) -> Knots:
    """Knots from the network's score to probability, for `spm-train export`, from those that were fitted to a package's scores.

    A pipeline that looks at an image from several sides averages probabilities, which are then not quite what the first fit made
    them; the second one mends that.

    Parameters
    ----------
    first
        `knots_of` the package.
    second
        Fitted to its scores.

    Returns
    -------
    At most two more than `MAX_KNOTS`: of those of both the ones without which the map changes most.
    """
    if first is None:
        return second
    between = np.interp(second[0], first[1], first[0])
    # Knots nearer to each other than this would make a ramp too steep for float32.
    x = np.union1d(first[0], between)
    x = x[np.r_[True, np.diff(x) > _LEAST_GAP]]
    y = np.interp(np.interp(x, *first), *second)
    rises = np.r_[True, np.diff(y) > 1e-9]
    x, y = x[rises], y[rises]
    while len(x) > MAX_KNOTS + 2:
        line = y[:-2] + (y[2:] - y[:-2]) * (x[1:-1] - x[:-2]) / (x[2:] - x[:-2])
        least = 1 + int(np.argmin(np.abs(line - y[1:-1])))
        x, y = np.delete(x, least), np.delete(y, least)
    return x, y


def write_knots(
    file: Path, knots_x: NDArray[np.float64], knots_y: NDArray[np.float64], *, alarm_levels: Sequence[float] = ()
) -> None:
    """Write knots as the exporter reads them: JSON with the lists ``raw`` and ``probability``, and ``alarm_levels`` if any."""
    file.parent.mkdir(parents=True, exist_ok=True)
    content = {"raw": knots_x.tolist(), "probability": knots_y.tolist()}
    if alarm_levels:
        content["alarm_levels"] = list(alarm_levels)
    text = json.dumps(content, indent=2)
    write_atomically(file, (text + "\n").encode())


def joined(parts: Sequence[Detections]) -> Detections:
    """Detections of several images as one."""
    return Detections(*(np.concatenate([getattr(part, name) for part in parts]) for name in vars(parts[0])))

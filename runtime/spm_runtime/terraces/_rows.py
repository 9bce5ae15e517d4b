"""Tilt and line offsets of a surface with steps, by estimates that steps and adsorbates do not pull."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

__all__ = ["Fit", "align_within", "centre_of", "first_levelling", "fit_surface"]

#: Values beyond this many standard deviations have no weight. Source: Beaton and Tukey, Technometrics 16 (1974) 147: an
#: efficiency of 95 % for normal errors.
BIWEIGHT_STD = 4.685

#: The share of values in the shortest half of a normal distribution spans so many standard deviations.
SHORTEST_HALF_STD = 1.349

#: The slope is measured between pixels so far apart: several lattice constants, and less than most terraces.
SLOPE_REACH_NM = 1.2

#: A step along the fast axis passes within so many nm and rows.
PASSING_NM, SHORTEST_PASS = 0.8, 4

#: What stays after that is a step from so many nm on, and where it is so many standard deviations of what stays elsewhere: those
#: are told by a small quantile, because steps may be everywhere. The second is the quantile of a normal distribution's magnitude.
LEAST_JUMP_NM, JUMP_STD = 0.04, 5.0
QUIET, QUIET_STD = 0.2, 0.2533

#: A change of which so much happens between two rows is one of the tip.
SUDDEN = 0.8

#: Rows are aligned by what they share of terraces from this share of their length on.
LEAST_SHARED = 0.15

#: Corrections of the rows change over so many of them (σ).
DRIFT_ROWS = 4.0

#: Rounds of fitting rows, terraces and curvature in turn.
ROUNDS = 6

#: Curvature is fitted to about so many pixels.
SAMPLES = 6_000

#: The offset of a row is fitted to every pixel of a row of so many, and to as many of a longer one.
ROW_SAMPLES = 256


def centre_of(values: NDArray[np.float64]) -> NDArray[np.float64]:
    """Where most values of each row lie: the middle of the shortest half, refined by biweights; NaN counts for nothing.

    Parameters
    ----------
    values
        ``(R, N)`` float64.

    Returns
    -------
    ``(R,)`` float64; NaN for rows without a value.

    Notes
    -----
    A step that half of a row's pixels climb pulls a median, and far more a mean; the shortest half leaves it out (Rousseeuw, J.
    Am. Stat. Assoc. 79 (1984) 871).
    """
    count = np.isfinite(values).sum(axis=1)
    centre = np.full(len(values), np.nan)
    rows = np.flatnonzero(count)
    if not len(rows):
        return centre
    ordered = np.sort(values[rows], axis=1)  # NaN to the end
    half = np.maximum((count[rows] + 1) // 2, 1)
    first = np.arange(values.shape[1])
    last = np.minimum(first + half[:, None] - 1, values.shape[1] - 1)
    width = np.take_along_axis(ordered, last, axis=1) - ordered
    width[first + half[:, None] > count[rows][:, None]] = np.inf
    best = np.argmin(width, axis=1)
    at = np.arange(len(rows))
    middle = 0.5 * (ordered[at, best] + ordered[at, best + half - 1])
    centre[rows] = _refine(ordered, middle, np.maximum(width[at, best] / SHORTEST_HALF_STD, np.finfo(np.float32).tiny))
    return centre


def _refine(
    values: NDArray[np.float64], start: NDArray[np.float64], spread: NDArray[np.float64]
) -> NDArray[np.float64]:
    """Biweight means of each row of values, NaN left out, from a start on; the start itself where nothing lies near it."""
    there = np.isfinite(values)
    values = np.where(there, values, 0.0)
    middle = start
    for _ in range(4):
        rest = values - middle[:, None]
        weight = np.clip(1 - (rest / (BIWEIGHT_STD * spread[:, None])) ** 2, 0.0, None) ** 2 * there
        middle = middle + (weight * rest).sum(axis=1) / np.maximum(weight.sum(axis=1), 1e-12)
    return middle


def _spread(values: NDArray[np.float64]) -> float:
    """Standard deviation of normal values with outliers, from their shortest half; above 0."""
    ordered = np.sort(values)
    half = (len(ordered) + 1) // 2
    width = float(np.min(ordered[half - 1 :] - ordered[: len(ordered) - half + 1])) if half else 0.0
    return max(width / SHORTEST_HALF_STD, 1e-9)


def first_levelling(heights: NDArray[np.float64], pixel_size_nm: float) -> NDArray[np.float64]:
    """Subtract the tilt of the terraces and align the rows, before anything is known about steps.

    Parameters
    ----------
    heights
        ``(H, W)`` float64, NaN where missing.
    pixel_size_nm
        Side of a pixel.

    Notes
    -----
    Rows are aligned by the most frequent difference between neighbours, so that a step changes nothing; what a sum of differences
    strays from row to row is corrected by `fit_surface`. A step almost along the fast axis looks like a line offset that
    stays; `_lasting` tells them apart.
    """
    smooth = _smooth_rows(heights, max(3.0, 0.3 / pixel_size_nm))
    change = np.diff(smooth, axis=0)
    offset = np.nan_to_num(centre_of(change))
    offset = offset - _lasting(offset, change, pixel_size_nm)
    level = heights - np.concatenate([[0.0], np.cumsum(offset)])[:, None]
    width = heights.shape[1]
    reach = int(np.clip(round(SLOPE_REACH_NM / pixel_size_nm), 4, max(width // 8, 1)))
    if width > reach:
        soft = _smooth_rows(level, max(1.0, 0.3 / pixel_size_nm))
        rise = (soft[:, reach:] - soft[:, :-reach]).reshape(1, -1)
        slope = float(np.nan_to_num(centre_of(rise[:, :: max(1, rise.size // (4 * SAMPLES))])[0])) / reach
        level = level - slope * np.arange(width)
    return np.asarray(level)


def align_within(
    heights: NDArray[np.float64], labels: NDArray[np.int32], use: NDArray[np.bool_], pixel_size_nm: float
) -> NDArray[np.float64]:
    """Align rows by neighbours on the same terrace.

    Parameters
    ----------
    heights
        ``(H, W)`` float64 after `first_levelling`, NaN where missing.
    labels
        ``(H, W)`` int32 terraces.
    use
        ``(H, W)`` bool: pixels away from edges.
    pixel_size_nm
        Side of a pixel.

    Notes
    -----
    A step almost along the fast axis passes a part of every row, always upwards: before it is known it pulls the estimate of
    `first_levelling`, over many rows by a good part of its height.
    """
    smooth = _smooth_rows(heights, max(3.0, 0.3 / pixel_size_nm))
    same = (labels[1:] == labels[:-1]) & use[1:] & use[:-1]
    offset = centre_of(np.where(same, np.diff(smooth, axis=0), np.nan))
    offset[same.mean(axis=1) < LEAST_SHARED] = 0.0
    return np.asarray(heights - np.concatenate([[0.0], np.cumsum(np.nan_to_num(offset))])[:, None])


def _lasting(offset: NDArray[np.float64], change: NDArray[np.float64], pixel_size_nm: float) -> NDArray[np.float64]:
    """How much of the difference between neighbouring rows is a step along them.

    Parameters
    ----------
    offset
        ``(H - 1,)`` most frequent difference of each row to the one before it.
    change
        ``(H - 1, W)`` the difference of every pixel.
    pixel_size_nm
        Side of a pixel.

    Notes
    -----
    A line offset lasts for a row. A drift moves every row by as much. A change of the tip takes no more than the row in which it
    happens, where a step, blurred by the tip and never quite straight, passes over several.
    """
    reach = max(round(PASSING_NM / pixel_size_nm), SHORTEST_PASS)
    kept = np.zeros(len(offset))
    if len(offset) < 4 * reach:
        return kept
    walk = np.concatenate([[0.0], np.cumsum(offset)])
    windows = np.median(np.lib.stride_tricks.sliding_window_view(walk, reach), axis=1)
    jump = windows[reach:] - windows[:-reach]  # on either side of the gap between the rows `reach - 1` and `reach`
    drift = float(centre_of(jump[None])[0])
    jump = np.pad(jump - drift, (reach - 1, reach - 1))
    tilt = drift / reach
    spread = float(np.quantile(np.abs(jump[reach - 1 : 1 - reach]), QUIET)) / QUIET_STD
    found, count = ndimage.label(np.abs(jump) >= max(LEAST_JUMP_NM, JUMP_STD * spread))
    slow = np.diff(ndimage.median_filter(walk - tilt * np.arange(len(walk)), 2 * (reach // 4) + 1, mode="nearest"))
    measured = np.isfinite(change)
    mean = np.where(measured, change, 0.0).sum(axis=1) / np.maximum(measured.sum(axis=1), 1) - tilt
    for number in range(1, count + 1):
        rows = np.flatnonzero(found == number)
        total = float(mean[rows].sum())
        pair = mean[rows[:-1]] + mean[rows[1:]] if len(rows) > 1 else mean[rows]
        if np.abs(pair).max() < SUDDEN * abs(total):
            kept[rows] = slow[rows]
    return kept


def _smooth_rows(heights: NDArray[np.float64], sigma_px: float) -> NDArray[np.float64]:
    there = np.isfinite(heights)
    sums = ndimage.gaussian_filter1d(np.where(there, heights, 0.0), sigma_px, axis=1, truncate=3.0)
    if there.all():
        return np.asarray(sums)
    weight = ndimage.gaussian_filter1d(there.astype(np.float64), sigma_px, axis=1, truncate=3.0)
    return np.where(there, sums / np.maximum(weight, 1e-6), np.nan)


@dataclass(frozen=True, eq=False)
class Fit:
    """Heights = row offsets + terraces + tilt and bow + what is left.

    Parameters
    ----------
    background
        ``(H, W)`` float64: row offsets, tilt and bow.
    terrace
        ``(K,)`` float64 height of each terrace.
    """

    background: NDArray[np.float64]
    terrace: NDArray[np.float64]


def fit_surface(heights: NDArray[np.float64], labels: NDArray[np.int32], use: NDArray[np.bool_]) -> Fit:
    """Fit one offset for each row, one height for each terrace and a common bow, in turn.

    Parameters
    ----------
    heights
        ``(H, W)`` float64 after `first_levelling`, NaN where missing.
    labels
        ``(H, W)`` int32 terraces from 0 on.
    use
        ``(H, W)`` bool: pixels that count; step edges are better left out.
    """
    height, width = heights.shape
    use = use & np.isfinite(heights)
    count = int(labels.max()) + 1
    x = (np.arange(width) - 0.5 * (width - 1)) / width
    y = ((np.arange(height) - 0.5 * (height - 1)) / height)[:, None]
    # What depends on y alone is in the rows already.
    shapes = np.stack([np.broadcast_to(x, heights.shape), np.broadcast_to(x * x, heights.shape), x * y])
    chosen = np.flatnonzero(use)[:: max(1, int(use.sum()) // SAMPLES)]
    label, sampled = labels.ravel()[chosen], shapes.reshape(3, -1)[:, chosen]
    rows, bend = np.zeros(height), np.zeros(3)
    terrace = _medians(heights.ravel()[chosen], label, count)
    some = np.s_[:, :: max(1, width // ROW_SAMPLES)]
    used, part, part_labels, part_shapes = use[some], heights[some], labels[some], shapes[(slice(None), *some)]
    measured = np.flatnonzero(used.any(axis=1))
    for _ in range(ROUNDS):
        rest = np.where(used, part - rows[:, None] - np.tensordot(bend, part_shapes, 1) - terrace[part_labels], np.nan)
        spread = _spread(rest[used][:: max(1, int(used.sum()) // SAMPLES)])
        # The first levelling has aligned neighbours; what it strays by grows slowly from row to row. A row on its own would
        # follow an island that fills most of it.
        shift = np.zeros(height)
        shift[measured] = _refine(rest[measured], np.zeros(len(measured)), np.full(len(measured), spread))
        rows += ndimage.gaussian_filter1d(shift, DRIFT_ROWS, mode="nearest")
        values = (heights - rows[:, None]).ravel()[chosen]
        rest = values - bend @ sampled - terrace[label]
        weight = np.clip(1 - (rest / (BIWEIGHT_STD * spread)) ** 2, 0.0, None) ** 2
        terrace, bend = _solve(values, label, sampled, weight, terrace)
    return Fit(rows[:, None] + np.tensordot(bend, shapes, 1), terrace)


def _medians(values: NDArray[np.float64], label: NDArray[np.int32], count: int) -> NDArray[np.float64]:
    parts = np.split(values[np.argsort(label, kind="stable")], np.cumsum(np.bincount(label, minlength=count))[:-1])
    return np.array([np.median(part) if len(part) else 0.0 for part in parts])


def _solve(
    values: NDArray[np.float64],
    label: NDArray[np.int32],
    shapes: NDArray[np.float64],
    weight: NDArray[np.float64],
    before: NDArray[np.float64],
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Heights of the terraces and the bow at once: one after the other they would hide in each other.

    The heights are eliminated: within each terrace values and shapes count from their weighted means.
    """
    count = len(before)
    total = np.bincount(label, weight, minlength=count)
    safe = np.maximum(total, 1e-9)
    mean = np.stack([np.bincount(label, weight * shape, minlength=count) / safe for shape in shapes])
    level = np.bincount(label, weight * values, minlength=count) / safe
    inner = (shapes - mean[:, label]) * np.sqrt(weight)
    bend = np.linalg.lstsq(inner @ inner.T, inner @ ((values - level[label]) * np.sqrt(weight)), rcond=1e-9)[0]
    return np.where(total > 0, level - bend @ mean, before), np.asarray(bend)

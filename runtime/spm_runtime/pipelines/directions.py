"""Trace and retrace: the same line scanned twice, and what was found in both.

A scanner images every line twice, to the right and to the left. What belongs to the surface is in both; a tip change or a
noise spike is in one. The two are offset along the line by a few pixels, since feedback and scanner lag behind: by as much,
measured on real scans of three makers, at every place of the line.
"""

from __future__ import annotations

import dataclasses

import numpy as np
from numpy.typing import NDArray
from scipy.fft import irfft, next_fast_len, rfft
from scipy.spatial import KDTree

from spm_runtime.readers import read_scans
from spm_runtime.results import Defects
from spm_runtime.scan import Direction, Scan

__all__ = ["confirmed", "other_direction", "shift_between"]

OPPOSITE: dict[Direction, Direction] = {"forward": "backward", "backward": "forward"}

#: Largest offset that is looked for, as a share of the width. Real scans: up to 6 %.
MAX_SHIFT = 0.1

#: The correlation is read this many times finer than the pixels.
FINER = 8

#: Neighbouring rows are alike, so that this many of them count as one independent row.
ROWS_ALIKE = 8

#: Probability that any frequency of two images that have nothing in common is taken for one that they share.
FALSE_ALARM = 1e-3

#: Of maxima that are this close to the highest, the smallest offset is taken: a lattice fits itself again and again.
AS_HIGH = 0.95

#: Two centres belong to one defect when they are no farther apart than its radius, or than this.
NEAR_NM, NEAR_PX = 0.6, 2.0


def other_direction(scan: Scan) -> Scan | None:
    """The scan of the same channel and frame in the other fast direction.

    Parameters
    ----------
    scan
        As a reader returned it; its file is opened again.

    Returns
    -------
    Scan or None
        With the pixel size of `scan`, which a user may have set; None where the file has no other direction, or `scan` comes
        from no file or does not say its own direction.

    Raises
    ------
    ScanError
        If the file cannot be read any more, or is damaged where the other direction should be.
    """
    if scan.path is None or scan.direction is None:
        return None
    wanted = (scan.channel, OPPOSITE[scan.direction], scan.frame)
    for other in read_scans(scan.path):
        if (other.channel, other.direction, other.frame) == wanted and other.shape == scan.shape:
            return dataclasses.replace(other, pixel_size_nm=scan.pixel_size_nm)
    return None


def shift_between(scan: Scan, other: Scan) -> float | None:
    """How far the other direction is offset along the line.

    The cross-correlation of all rows together, each frequency weighted by its coherence γ² as γ²/(1 − γ²) (the
    maximum-likelihood weight), of frequencies whose coherence is no chance.

    Parameters
    ----------
    scan, other
        Two images of one size, the columns of both in the order of the surface.

    Returns
    -------
    float or None
        In pixels: what is at column x of `scan` is at ``x + shift`` of `other`. None where the two have nothing in common.

    References
    ----------
    Knapp & Carter, "The generalized correlation method for estimation of time delay", IEEE Trans. ASSP 24, 320 (1976).
    """
    one, two = _rows(scan.image), _rows(other.image)
    usable = scan.valid.any(axis=1) & other.valid.any(axis=1)
    one, two = one[usable], two[usable]
    width = scan.shape[1]
    first = _delay(one, two, MAX_SHIFT * width)
    if first is None:
        return None
    # Once more over the columns that both have: what only one has pulls towards zero.
    whole = round(first)
    left, right = max(0, -whole), width - max(0, whole)
    rest = _delay(one[:, left:right], two[:, left + whole : right + whole], 2.0)
    return first if rest is None else whole + rest


def confirmed(defects: Defects, other: Defects, shift_px: float | None, other_scan: Scan) -> NDArray[np.int8]:
    """Which defects were found in the other scan direction too.

    Two are the same where their centres, the offset taken off, are no farther apart than the radius of the first (half the
    mean side of its box), 0.6 nm or two pixels, whichever is the largest. Each defect of `other` confirms one, the closest
    first; classes are not compared.

    Parameters
    ----------
    defects
        Of the scan.
    other
        Of the other direction, in pixels of that image.
    shift_px
        From `shift_between`.
    other_scan
        The other direction: its frame, its missing pixels and its pixel size count.

    Returns
    -------
    ``(N,)`` int8, as `Defects.confirmed`: 1 found there too, 0 not, −1 where the other direction has no such place (beyond its
    frame, or missing) or the offset is not known.
    """
    answer = np.full(len(defects), -1, np.int8)
    if shift_px is None or not len(defects):
        return answer
    there = defects.yx_px + np.array([0.0, shift_px])
    answer[_is_measured(there, other_scan)] = 0
    if not len(other):
        return answer
    scale = np.array((1.0, 1.0) if other_scan.pixel_size_nm is None else other_scan.pixel_size_nm)
    least = NEAR_PX * scale.max()
    if other_scan.pixel_size_nm is not None:
        least = max(least, NEAR_NM)
    reach = np.maximum((defects.size_px * scale).mean(axis=1) / 2, least)
    near = KDTree(other.yx_px * scale).query_ball_point(there * scale, reach)
    pairs = [
        (float(np.hypot(*((there[i] - other.yx_px[j]) * scale)) / reach[i]), i, j)
        for i, neighbours in enumerate(near)
        for j in neighbours
        if answer[i] == 0
    ]
    taken: set[int] = set()
    for _, i, j in sorted(pairs):
        if answer[i] == 0 and j not in taken:
            answer[i] = 1
            taken.add(j)
    return answer


def _is_measured(yx_px: NDArray[np.float64], scan: Scan) -> NDArray[np.bool_]:
    """Whether each place lies on a measured pixel."""
    y, x = np.rint(yx_px).astype(int).T
    inside: NDArray[np.bool_] = (y >= 0) & (y < scan.shape[0]) & (x >= 0) & (x < scan.shape[1])
    inside[inside] = scan.valid[y[inside], x[inside]]
    return inside


def _rows(image: NDArray[np.float32]) -> NDArray[np.float64]:
    """Rows about zero without the common tilt, outliers cut off, missing pixels zero."""
    there = np.isfinite(image)
    rows = np.where(there, image, np.nan).astype(np.float64)
    rows -= _medians(rows)
    x = np.arange(rows.shape[1]) - (rows.shape[1] - 1) / 2
    square = float((there * x**2).sum())
    if square > 0:
        rows -= x * float(np.nansum(rows * x)) / square
    if there.any():
        rows = np.clip(rows, *np.nanpercentile(rows, [0.5, 99.5]))
    return np.nan_to_num(rows - _medians(rows))


def _medians(rows: NDArray[np.float64]) -> NDArray[np.float64]:
    """Median of each row, ``(H, 1)``; 0 where nothing was measured."""
    medians = np.zeros((len(rows), 1))
    full = np.isfinite(rows).any(axis=1)
    medians[full, 0] = np.nanmedian(rows[full], axis=1)
    return medians


def _delay(one: NDArray[np.float64], two: NDArray[np.float64], limit_px: float) -> float | None:
    """By how many pixels `two` lags behind `one`, within the limit; None where no frequency is common to both."""
    height, width = one.shape
    if height < 2 * ROWS_ALIKE or width < 2 * ROWS_ALIKE:
        return None
    window = np.hanning(width + 2)[1:-1]
    length = int(next_fast_len(2 * width, real=True))
    first, second = (rfft(rows * window, length, axis=1) for rows in (one, two))
    cross = (second * first.conj()).sum(axis=0)
    power = (np.abs(first) ** 2).sum(axis=0) * (np.abs(second) ** 2).sum(axis=0)
    coherence = np.zeros(len(cross))
    np.divide(np.abs(cross) ** 2, power, out=coherence, where=power > 0)
    # Of n independent rows that have nothing in common, γ² exceeds t with the probability (1 − t)ⁿ⁻¹.
    chance = 1.0 - (FALSE_ALARM / len(cross)) ** (1.0 / (height / ROWS_ALIKE - 1))
    shared = coherence > chance
    shared[0] = False  # the mean, which was taken off
    if not shared.any():
        return None
    coherence = np.clip(coherence, 0.0, 0.999)  # two equal images
    weight = np.where(shared, coherence / (1 - coherence), 0.0)
    phase = np.where(shared, cross / np.maximum(np.abs(cross), np.finfo(float).tiny), 0.0)
    height_at = irfft(phase * weight, FINER * length)
    reach = min(int(limit_px * FINER), FINER * length // 2 - 2)
    lags = np.arange(-reach, reach + 1)
    values = height_at[lags]
    ahead, behind = height_at[lags + 1], height_at[lags - 1]
    peaks = (values >= ahead) & (values > behind) & (values > 0)
    if not peaks.any():
        return None
    high = lags[peaks & (values >= AS_HIGH * values[peaks].max())]
    return float(high[np.argmin(np.abs(high))] / FINER)

"""Sub-pixel positions: the network's beside Gaussian fits on the scan's own pixels.

The pixels of a scan are independent measurements, those of a resampled image are not. So columns are fitted where they were
measured: on the scan itself, on blocks of its pixels where the columns are large, and on an enlarged copy only where a
spacing has too few pixels for a fit.

Both estimates see the same noise, so their errors go together and averaging them as if they were independent would promise
too much. The better of two estimates, if it uses all that the other one uses, cannot be improved by it: then their
covariance is the variance of the better one, and the best weight of the other is zero. `fuse` follows this rule, softened
where both are about equally good.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from spm_kernels import GaussianFits, refine_gaussian, resize
from spm_kernels.refine import MIN_RADIUS_PX
from spm_runtime.levelling import BACKGROUND_RADIUS_PX, fit_plane, remove_background
from spm_runtime.pipelines.scale import ScaledScan
from spm_runtime.results import Atoms
from spm_runtime.scan import Scan

__all__ = ["Estimates", "fuse", "locate", "network_positions", "to_scan"]

#: Radius of the fit's window in spacings: half-way to the neighbour, less the neighbour's flank.
FIT_RADIUS = 0.45
#: Spacings in pixels at which columns are fitted as they are …
FIT_SPACING_PX = (3.0, 16.0)
#: … and to about which others are brought, by blocks of pixels or by enlarging.
COARSE_SPACING_PX = 8.0
ENLARGED_SPACING_PX = 5.0
#: An image is not enlarged by more than this, nor beyond so many pixels.
MAX_ENLARGEMENT = 4.0
MAX_FIT_PIXELS = 2**25
#: Spacing in pixels below which the background is not coarsened further.
BACKGROUND_SPACING_PX = 4.0
#: The network's position is a start for the fit with this many times its own standard deviation …
START_STDS = 3.0
#: … within these parts of the spacing.
START_STD_SPACINGS = (0.1, 0.2)
#: A fit has run away that is farther from the network's position than this many standard deviations of both, or than this
#: part of the spacing, or whose width σ is above that part of it.
MAX_STDS = 4.0
MAX_DISTANCE_SPACINGS = 0.3
MAX_WIDTH_SPACINGS = 0.6
#: A fit knows of white noise alone; with line jitter, shapes that are no Gaussians and neighbours its normalised errors have a
#: robust standard deviation of 1.5 on simulated scenes of the validation split (the network's 0.8 to 1.1).
FIT_MODEL_ERROR = 1.5
#: The fit counts where it is this many times as sure as the network: with 1 the positions were 5 to 10 % worse on those scenes.
FIT_MUST_BE_SURER = 2.0
#: How sharply `fuse` goes over from one estimate to the other: with the power of the ratio of their standard deviations.
SHARPNESS = 4.0
#: Standard deviation of interpolated white noise over that of the pixels it came from, for cubic convolution at places
#: spread evenly between pixels: the root mean square of the four weights, along both axes.
INTERPOLATED_NOISE = 0.83


#: A column is no farther from the pixel of its peak than this; and no pixel is trusted as if it knew better than that.
_FARTHEST_PX, _SUREST_PX = 1.5, 1e-3


@dataclass(frozen=True, eq=False)
class Estimates:
    """Positions with their standard deviations.

    Parameters
    ----------
    yx
        ``(N, 2)`` float64 in pixels.
    std_px
        ``(N,)`` float64 standard deviation of one coordinate in pixels; NaN where it is not known.
    """

    yx: NDArray[np.float64]
    std_px: NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class _Grid:
    """The pixels that columns are fitted on: heights without background, and pixels of it per pixel of the scan."""

    heights: NDArray[np.float32]
    factor: NDArray[np.float64]
    spacing_px: float


def network_positions(
    peaks: NDArray[np.int32],
    confidence: NDArray[np.float32],
    offset_px: NDArray[np.float32] | None,
    std_px: NDArray[np.float32] | None,
) -> Estimates:
    """Where the network sees the columns of its peaks, in network pixels.

    Parameters
    ----------
    peaks
        ``(N, 2)`` pixels ``(y, x)``.
    confidence
        ``(H, W)`` the map that they are peaks of.
    offset_px
        ``(2, H, W)`` vector from each pixel to the nearest column; None where the network does not say.
    std_px
        ``(H, W)`` standard deviation of one coordinate of it; None where the network does not say.

    Notes
    -----
    What a pixel says is drawn a little towards that pixel. So the nine pixels around a peak are asked, with weights
    ``confidence / std²``, which more than halves the preference for whole pixels. They see the same noise: the standard
    deviation stays that of the peak.
    """
    at = tuple(peaks.T)
    yx = peaks.astype(np.float64)
    if offset_px is None or std_px is None:
        # A pixel of a peak is beside its column; a longer vector points at another one.
        moved = yx if offset_px is None else yx + np.clip(offset_px[(slice(None), *at)].T, -_FARTHEST_PX, _FARTHEST_PX)
        return Estimates(moved, np.full(len(peaks), np.nan))
    total, weights = np.zeros_like(yx), np.zeros(len(peaks))
    bounds = np.asarray(confidence.shape) - 1
    for step in np.ndindex(3, 3):
        place = np.clip(peaks + (np.asarray(step) - 1), 0, bounds)
        there = tuple(place.T)
        weight = confidence[there] / np.maximum(std_px[there], _SUREST_PX).astype(np.float64) ** 2
        vector = place - yx + offset_px[(slice(None), *there)].T
        total += weight[:, None] * np.clip(vector, -_FARTHEST_PX, _FARTHEST_PX)
        weights += weight
    std = std_px[at].astype(np.float64)
    return Estimates(yx + total / np.maximum(weights, 1e-12)[:, None], np.where(std > 0, std, np.nan))


def to_scan(yx: NDArray[np.float64], factor: tuple[float, float] | NDArray[np.float64]) -> NDArray[np.float64]:
    """Positions on another grid in pixels of the scan; ``factor`` is its pixels per pixel of the scan, ``(y, x)``."""
    return np.asarray((yx + 0.5) / np.asarray(factor) - 0.5)


def locate(scan: Scan, scaled: ScaledScan, network: Estimates, score: NDArray[np.float32]) -> Atoms:
    """Positions, widths and heights of columns that were found, in pixels of the scan.

    Parameters
    ----------
    scan, scaled
        The scan, and how the network saw it.
    network
        Where the network sees the columns, in network pixels; the standard deviation is NaN for a network that does not say.
    score
        ``(N,)`` confidence.

    Returns
    -------
    Atoms
        Those that lie on a measured pixel, in the order of the input. Width and intensity are NaN where no fit was
        believed; the standard deviation too where the network does not say one.
    """
    grid, unit = _normalised(_fit_grid(scan, scaled))
    start = to_scan(network.yx, scaled.factor)
    known = Estimates(start, network.std_px / scaled.zoom)
    zoom = float(np.sqrt(np.prod(grid.factor)))
    fits = refine_gaussian(
        grid.heights,
        (start + 0.5) * grid.factor - 0.5,
        radius_px=max(MIN_RADIUS_PX, FIT_RADIUS * grid.spacing_px),
        prior_std_px=_start_std(known.std_px * zoom, grid.spacing_px),
    )
    believed = fits.converged & (fits.sigma_px < MAX_WIDTH_SPACINGS * grid.spacing_px)
    # An enlarged image has more pixels than were measured, and interpolation makes their noise look weaker.
    spread = zoom / INTERPOLATED_NOISE if zoom > 1 else 1.0
    std = fits.yx_std_px * np.where(np.isfinite(known.std_px), FIT_MODEL_ERROR, 1.0) * spread / zoom
    fitted = Estimates(to_scan(fits.yx, grid.factor), np.where(believed, std, np.nan))
    place, believed = fuse(known, fitted, spacing_px=grid.spacing_px / zoom, surer=FIT_MUST_BE_SURER)
    inside = _measured(scan, place.yx)
    fits_px = _in_scan_pixels(fits, zoom)
    return Atoms(
        yx_px=place.yx[inside],
        score=score[inside],
        position_std_px=place.std_px[inside].astype(np.float32),
        width_px=np.where(believed, fits_px, np.nan)[inside].astype(np.float32),
        intensity=(np.where(believed, fits.background + fits.amplitude, np.nan)[inside] * unit).astype(np.float32),
        sublattice=np.full(int(inside.sum()), -1, np.int32),
    )


def fuse(
    network: Estimates, fitted: Estimates, *, spacing_px: float, surer: float = 1.0
) -> tuple[Estimates, NDArray[np.bool_]]:
    """One position out of two whose errors have the same noise for their cause.

    Parameters
    ----------
    network, fitted
        The two estimates in the same pixels. A fit whose standard deviation is NaN did not succeed; a network without
        standard deviations leaves every successful fit as it is.
    spacing_px
        Spacing of the columns.
    surer
        How many times as sure as the network a fit must be to count as much.

    Returns
    -------
    The estimates, and which fits were believed: those that end near the network's position.

    Notes
    -----
    The fit's weight is ``1 / (1 + (surer · std_fit / std_network)⁴)``; the variance of the result is that of two estimates whose
    covariance is the variance of the better one.
    """
    distance = np.hypot(*(fitted.yx - network.yx).T)
    known = np.isfinite(network.std_px)
    both = np.hypot(fitted.std_px, np.where(known, network.std_px, 0.0))
    # The distance has two coordinates, each with that standard deviation.
    near = ~known | ((distance < MAX_STDS * both) & (distance < MAX_DISTANCE_SPACINGS * spacing_px))
    believed = np.isfinite(fitted.std_px) & near
    f, n = np.where(believed, fitted.std_px, 1.0), np.where(known, network.std_px, 1.0)
    weight = np.where(known, 1.0 / (1.0 + (surer * f / n) ** SHARPNESS), 1.0)
    weight = np.where(believed, weight, 0.0)
    variance = (weight * f) ** 2 + ((1 - weight) * n) ** 2 + 2 * weight * (1 - weight) * np.minimum(f, n) ** 2
    std = np.where(believed | known, np.sqrt(variance), np.nan)
    yx = network.yx + weight[:, None] * np.where(believed[:, None], fitted.yx - network.yx, 0.0)
    return Estimates(yx, std), believed


def _start_std(std_px: NDArray[np.float64], spacing_px: float) -> NDArray[np.float64]:
    """Standard deviation of the start positions for the fit, in pixels of its grid."""
    low, high = (part * spacing_px for part in START_STD_SPACINGS)
    return np.clip(np.where(np.isfinite(std_px), START_STDS * std_px, high), low, high)


def _in_scan_pixels(fits: GaussianFits, zoom: float) -> NDArray[np.float64]:
    """Widths σ in pixels of the scan, without what blocks of pixels have added: (k² − 1)/12 for blocks of k."""
    added = max(1 / zoom**2 - 1, 0.0) / 12
    return np.sqrt(np.maximum((fits.sigma_px / zoom) ** 2 - added, 0.0))


def _measured(scan: Scan, yx: NDArray[np.float64]) -> NDArray[np.bool_]:
    """Whether positions lie on pixels that hold a measurement."""
    place = np.rint(yx).astype(np.int64)
    inside = np.all((place >= 0) & (place < scan.shape), axis=1)
    inside[inside] = scan.valid[tuple(place[inside].T)]
    return np.asarray(inside)


def _fit_grid(scan: Scan, scaled: ScaledScan) -> _Grid:
    """The grid whose spacing suits a fit and which is the scan's own where possible."""
    # Non-square pixels are made square as for the network, the coarser axis refined.
    square = np.asarray(scaled.factor) / min(scaled.factor)
    square[np.isclose(square, 1.0, rtol=0.01)] = 1.0
    spacing = scaled.spacing_px / min(scaled.factor)
    if np.allclose(scaled.factor, 1.0, rtol=0, atol=1e-9) and FIT_SPACING_PX[0] <= spacing <= FIT_SPACING_PX[1]:
        return _Grid(scaled.residual, np.ones(2), spacing)
    image = np.where(scan.valid, scan.image, np.float32(np.nan)).astype(np.float32)
    block = max(1, int(spacing / COARSE_SPACING_PX)) if spacing > FIT_SPACING_PX[1] else 1
    block = min(block, *image.shape)
    enlargement = ENLARGED_SPACING_PX / spacing if spacing < FIT_SPACING_PX[0] else 1.0
    grow = square * min(enlargement, MAX_ENLARGEMENT, max(1.0, float(np.sqrt(MAX_FIT_PIXELS / image.size))))
    if np.any(grow > 1):
        shape = (round(image.shape[0] * grow[0]), round(image.shape[1] * grow[1]))
        image = resize(_centred(image), shape)
    image = _blocks(_centred(image), block)
    factor = np.asarray(image.shape) / np.asarray(scan.shape) if block == 1 else square / block
    spacing *= float(np.sqrt(np.prod(factor / square)))
    return _Grid(image - _background(image, spacing, scaled.spacing_px), factor, spacing)


def _centred(image: NDArray[np.float32]) -> NDArray[np.float32]:
    """Subtract a typical height: picometres on top of micrometres survive float32."""
    there = np.isfinite(image)
    return np.asarray(image - (image[there][:: max(1, there.sum() // 10_000)].mean() if there.any() else 0), np.float32)


def _blocks(image: NDArray[np.float32], side: int) -> NDArray[np.float32]:
    """Means of square blocks, whole ones only; NaN where less than half of one was measured."""
    if side == 1:
        return image
    rows, columns = (n // side for n in image.shape)
    parts = image[: rows * side, : columns * side].reshape(rows, side, columns, side)
    there = np.isfinite(parts)
    count = there.sum(axis=(1, 3))
    total = np.where(there, parts, 0).sum(axis=(1, 3), dtype=np.float64)
    return np.where(2 * count >= side**2, total / np.maximum(count, 1), np.nan).astype(np.float32)


def _background(image: NDArray[np.float32], spacing_px: float, network_spacing_px: float) -> NDArray[np.float32]:
    """Slowly varying background: the running median of the network's levelling, on blocks of pixels.

    A constant below every column is fitted anyway; only slopes matter, and they need no fine grid.
    """
    block = min(max(1, int(spacing_px / BACKGROUND_SPACING_PX)), *image.shape)
    coarse = _blocks(image, block)
    radius = max(1, round(BACKGROUND_RADIUS_PX / network_spacing_px * spacing_px / block))
    # A plane first: at the border, where the median's window is cut off, it lags behind a slope.
    plane = fit_plane(coarse).astype(np.float32)
    median = coarse - remove_background(coarse - plane, radius_px=radius)
    # Missing blocks take a typical value: nothing is fitted there.
    there = np.isfinite(median)
    median = np.where(there, median, median[there].mean() if there.any() else 0).astype(np.float32)
    rows, columns = (n * block for n in coarse.shape)
    whole = resize(median, (rows, columns), kind="linear")
    return np.pad(whole, [(0, image.shape[0] - rows), (0, image.shape[1] - columns)], mode="edge")


def _normalised(grid: _Grid) -> tuple[_Grid, float]:
    """Heights are 1e-10 m or 1e5 counts; the fit works on numbers near one. Gives the unit too."""
    there = grid.heights[np.isfinite(grid.heights)]
    unit = (float(np.std(there, dtype=np.float64)) if there.size else 0.0) or 1.0
    return _Grid((grid.heights / np.float32(unit)).astype(np.float32), grid.factor, grid.spacing_px), unit

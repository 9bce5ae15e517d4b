"""From the maps of stage one to defects: threshold, union, six morphological steps, boxes.

Source: the UCL report, stage 1 (mask) for the steps and their order.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage, optimize, special
from skimage.measure import regionprops

from spm_runtime.errors import ParameterError

__all__ = [
    "EIGHT",
    "Boxes",
    "MaskSettings",
    "NoiseThreshold",
    "calibrate_threshold",
    "defect_boxes",
    "defect_mask",
    "noise_std",
]

Mask = NDArray[np.bool_]
Image = NDArray[np.float32]

#: A normal distribution's standard deviation over its median absolute deviation.
MAD_STD = 1.4826

#: Neighbours at corners belong together.
EIGHT = np.ones((3, 3), bool)

#: Range of shapes that the quartiles of a map may tell: from the mean of four squared errors to a constant map.
LEAST_SHAPE, MOST_SHAPE = 2.0, 1e4


@dataclass(frozen=True)
class MaskSettings:
    """How a defect mask is made. Lengths in pixels of the image.

    Parameters
    ----------
    target_clusters
        Labels of the character map that are defects.
    largest_aspect
        A region is line-like, and removed, where its long axis is more than so many times its short one.
    erosion_px, dilation_px, opening_px
        Radii of the discs; 0 leaves the step out.
    smoothing_px
        Gaussian σ; the smoothed mask is cut at one half. 0 leaves the step out.
    least_area_px
        Regions with fewer pixels are removed.

    Raises
    ------
    ParameterError
        If a number is out of range.
    """

    target_clusters: tuple[int, ...] = ()
    largest_aspect: float = 6.0
    erosion_px: int = 1
    smoothing_px: float = 1.0
    dilation_px: int = 2
    least_area_px: int = 12
    opening_px: int = 1

    def __post_init__(self) -> None:
        for name in ("erosion_px", "smoothing_px", "dilation_px", "least_area_px", "opening_px"):
            value = getattr(self, name)
            if not (np.isfinite(value) and value >= 0):
                raise ParameterError(f"{name} {value}: expected 0 or more.")
        if not self.largest_aspect >= 1:
            raise ParameterError(f"largest_aspect {self.largest_aspect}: expected 1 or more.")


def defect_mask(
    error: Image,
    character: NDArray[np.int32],
    threshold: float,
    settings: MaskSettings,
    *,
    ignore: Mask | None = None,
) -> Mask:
    """Union of high errors and target clusters, then the six steps.

    In order: removal of line-like regions, erosion, Gaussian smoothing, dilation, removal of small areas, opening.

    Parameters
    ----------
    error
        ``(H, W)`` float32; NaN where missing.
    character
        ``(H, W)`` int32 labels, negative for none.
    threshold
        An error above it is a defect.
    settings
        What the model was trained with, or the user set.
    ignore
        ``(H, W)`` bool: pixels that are never a defect, such as those at steps.

    Returns
    -------
    ``(H, W)`` bool. Beyond the border everything is taken to go on as at the border: a defect that the frame cuts stays.

    Raises
    ------
    ParameterError
        If the maps have different shapes.
    """
    if character.shape != error.shape or (ignore is not None and ignore.shape != error.shape):
        raise ParameterError(f"maps of different shapes: error {error.shape}, character map {character.shape}.")
    wanted = (error > threshold) | np.isin(character, np.array(settings.target_clusters, np.int64))
    wanted &= np.isfinite(error)
    if ignore is not None:
        wanted &= ~ignore
    wanted = _without_lines(wanted, settings.largest_aspect)
    wanted = _eroded(wanted, settings.erosion_px)
    if settings.smoothing_px > 0:
        wanted = ndimage.gaussian_filter(wanted.astype(np.float32), settings.smoothing_px, mode="nearest") >= 0.5
    wanted = _dilated(wanted, settings.dilation_px)
    wanted = _without_small(wanted, settings.least_area_px)
    wanted = _dilated(_eroded(wanted, settings.opening_px), settings.opening_px)
    # Dilation and smoothing reach beyond what was allowed.
    return np.asarray(wanted & np.isfinite(error) if ignore is None else wanted & np.isfinite(error) & ~ignore)


@dataclass(frozen=True, eq=False)
class Boxes:
    """Connected regions of a mask, the largest first.

    Parameters
    ----------
    yx_px
        ``(N, 2)`` float64 centres of mass, pixel centres at integers.
    corner_px
        ``(N, 2)`` int64 first row and column.
    size_px
        ``(N, 2)`` int64 height and width.
    area_px
        ``(N,)`` int64 number of pixels of the region.
    region
        ``(H, W)`` int32: index of the region at each pixel, −1 for none.
    """

    yx_px: NDArray[np.float64]
    corner_px: NDArray[np.int64]
    size_px: NDArray[np.int64]
    area_px: NDArray[np.int64]
    region: NDArray[np.int32]

    def __len__(self) -> int:
        return len(self.area_px)


def defect_boxes(mask: Mask) -> Boxes:
    """Boxes of the connected regions of a mask; pixels that touch at a corner are connected.

    Parameters
    ----------
    mask
        ``(H, W)`` bool.
    """
    labels, count = ndimage.label(mask, EIGHT)
    found = sorted(_regions(labels), key=lambda part: (-part.area, part.bbox))
    place = np.full(count + 1, -1, np.int32)
    place[[part.label for part in found]] = np.arange(count, dtype=np.int32)
    corners = np.array([part.bbox for part in found], np.int64).reshape(-1, 4)
    return Boxes(
        yx_px=np.array([part.centroid for part in found], np.float64).reshape(-1, 2),
        corner_px=corners[:, :2],
        size_px=corners[:, 2:] - corners[:, :2],
        area_px=np.array([round(part.area) for part in found], np.int64),
        region=place[labels],
    )


def noise_std(image: Image) -> float:
    """Standard deviation of the white noise, from what a row and its two neighbours do not share; 0 where there is none.

    Parameters
    ----------
    image
        ``(H, W)`` float32; NaN where missing.

    Notes
    -----
    The second difference between rows of the second difference along them: offsets of lines, tilt and bow drop out, and so does
    most of a lattice. Source of the mask: Immerkær, Comput. Vis. Image Underst. 64 (1996) 300. The median
    leaves outliers out.
    """
    twice = np.diff(np.diff(image.astype(np.float64), n=2, axis=0), n=2, axis=1)
    twice = twice[np.isfinite(twice)]
    return float(MAD_STD * np.median(np.abs(twice)) / 6.0) if twice.size else 0.0


@dataclass(frozen=True)
class NoiseThreshold:
    """A threshold on an error map, and what it rests on.

    Parameters
    ----------
    value
        The threshold.
    false_alarms
        Chance that an image without defects has a pixel above it.
    places
        Independent places of the map.
    shape
        Half the number of independent squared errors in the mean at a place, as the map's quartiles tell it.
    noise_std
        Standard deviation of the white noise of the image.
    """

    value: float
    false_alarms: float
    places: float
    shape: float
    noise_std: float


def calibrate_threshold(
    error: Image,
    image: Image,
    *,
    smoothing_px: float,
    false_alarms: float = 0.1,
    ignore: Mask | None = None,
) -> NoiseThreshold:
    """The error that an image without defects, as noisy as this one, exceeds anywhere with a given chance.

    Parameters
    ----------
    error
        ``(H, W)`` float32 squared errors after Gaussian smoothing; NaN where missing.
    image
        ``(H, W)`` float32 image, in the unit whose square the error has.
    smoothing_px
        σ of that smoothing.
    false_alarms
        Chance per image, between 0 and 1.
    ignore
        ``(H, W)`` bool: pixels that are not looked at, such as those at steps.

    Raises
    ------
    ParameterError
        If nothing is left to look at, or a number is out of range.

    Notes
    -----
    The mean of squared normal errors nearly follows a gamma distribution; smoothing by σ averages 4πσ² of them. The lower
    two quartiles of the map give its scale and shape, which defects in less than half of the image hardly move. What a network
    cannot reproduce anywhere, a low-contrast lattice for one, raises them and stays silent. The map is never taken to be quieter
    than the noise of the image. Maxima of a smooth map are more than one per correlation area: σ²/2 per independent place, in
    which high levels are as frequent as on smoothed noise (measured for σ of 1.5 to 5 pixels at a chance of 0.1: 0.06 to 0.13).
    """
    if not 0 < false_alarms < 1:
        raise ParameterError(f"false_alarms {false_alarms}: expected a chance between 0 and 1.")
    if not (np.isfinite(smoothing_px) and smoothing_px > 0):
        raise ParameterError(f"smoothing_px {smoothing_px}: expected a positive number of pixels.")
    use = np.isfinite(error) if ignore is None else np.isfinite(error) & ~ignore
    values = error[use].astype(np.float64)
    if not values.size:
        raise ParameterError("threshold: no pixel of the error map is left to measure the noise on.")
    noise = noise_std(image)
    averaged = max(4 * np.pi * smoothing_px**2, 1.0)
    low, middle = np.quantile(values, (0.25, 0.5))
    shape = min(_shape_of(float(low), float(middle)), 0.5 * averaged)
    mean = max(float(middle) / _quantile(shape, 0.5), noise**2)
    places = max(2 * values.size / smoothing_px**2, 1.0)
    chance = -np.expm1(np.log1p(-false_alarms) / places)
    value = mean * _quantile(shape, float(chance), upper=True)
    return NoiseThreshold(value, false_alarms, float(places), float(shape), noise)


def _quantile(shape: float, chance: float, *, upper: bool = False) -> float:
    """Quantile of a Gaussian-weighted mean of squared normal values, in units of its expectation.

    `shape` is half the effective number of values, 1 / (relative standard deviation)². Third cumulants of Gaussian weights in a
    plane make the skewness 4/3 of that of equal weights; a shifted gamma distribution has these three moments.
    """
    skewed = 9 / 16 * shape
    value = special.gammainccinv(skewed, chance) if upper else special.gammaincinv(skewed, chance)
    return float(1 + (value - skewed) * 4 / (3 * shape))


def _shape_of(low: float, middle: float) -> float:
    """Shape of the distribution with this ratio of its lower quartile to its median."""

    def off(log_shape: float) -> float:
        shape = float(np.exp(log_shape))
        return _quantile(shape, 0.25) / _quantile(shape, 0.5) - low / middle

    least, most = float(np.log(LEAST_SHAPE)), float(np.log(MOST_SHAPE))
    if not middle > 0 or off(least) >= 0:
        return LEAST_SHAPE
    return MOST_SHAPE if off(most) <= 0 else float(np.exp(optimize.brentq(off, least, most)))


def _regions(labels: NDArray[np.int32]) -> list[Any]:
    return list(regionprops(labels))  # type: ignore[no-untyped-call]


def _disc(radius_px: int) -> Mask:
    y, x = np.ogrid[-radius_px : radius_px + 1, -radius_px : radius_px + 1]
    return np.asarray(y * y + x * x <= radius_px * (radius_px + 0.5))


def _eroded(mask: Mask, radius_px: int) -> Mask:
    if radius_px == 0:
        return mask
    return np.asarray(ndimage.binary_erosion(mask, _disc(radius_px), border_value=1))


def _dilated(mask: Mask, radius_px: int) -> Mask:
    return mask if radius_px == 0 else np.asarray(ndimage.binary_dilation(mask, _disc(radius_px)))


def _without_small(mask: Mask, least_px: int) -> Mask:
    labels, count = ndimage.label(mask, EIGHT)
    keep = np.bincount(labels.ravel(), minlength=count + 1) >= least_px
    keep[0] = False
    return np.asarray(keep[labels])


def _without_lines(mask: Mask, largest_aspect: float) -> Mask:
    """Without the regions whose axes, those of the ellipse with the same second moments, are in a larger ratio."""
    labels, count = ndimage.label(mask, EIGHT)
    keep = np.zeros(count + 1, bool)
    pixel = 4 / np.sqrt(12)  # an axis is four standard deviations, and a pixel has an extent of its own
    for part in _regions(labels):
        keep[part.label] = max(part.axis_major_length, pixel) <= largest_aspect * max(part.axis_minor_length, pixel)
    return np.asarray(keep[labels])

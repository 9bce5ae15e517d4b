"""What the networks for surfaces see: line offsets removed, pixels of one size, heights in units of the image's own spread.

Training uses these very functions.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from spm_kernels import resize
from spm_runtime.levelling import fit_plane, remove_background
from spm_runtime.scan import to_nm

__all__ = [
    "FINDER_CHANNELS",
    "WORKING_PIXEL_NM",
    "FinderView",
    "SurfaceImage",
    "finder_input",
    "finder_view",
    "in_unit_range",
    "nm_per_unit",
    "on_working_pixels",
    "remove_line_offsets",
    "unit_range",
]

#: Pixels finer than this are averaged: an atom is three to four of them wide, and a halo of a dopant fits into the networks'
#: view. Coarser scans keep their pixels.
WORKING_PIXEL_NM = 0.08

#: Line offsets are what changes between rows faster than over so many of them (Gaussian σ).
OFFSET_ROWS = 6.0

#: What `finder_input` makes: what differs within, and what differs between, windows of 33 pixels; and two numbers that tell
#: the scale, without which a dopant cannot be told from a vacancy.
FINDER_CHANNELS = ("fine", "coarse", "spread", "pixel")

#: The numbers are logarithms of the spread and of the pixel in these units.
SPREAD_UNIT_NM, PIXEL_UNIT_NM = 0.01, 0.08

#: The coarse channel, in units of this many spreads: a terrace is many times as high as the corrugation.
COARSE_SPREADS = 4.0

#: The logarithms are kept within this of 0.
MOST_LOG = 4.0

#: A normal distribution's standard deviation over its median absolute deviation.
MAD_STD = 1.4826


@dataclass(frozen=True, eq=False)
class SurfaceImage:
    """Heights on the working pixels.

    Parameters
    ----------
    heights
        ``(H, W)`` float32 in the unit of the scan, without line offsets and tilt; 0 where missing.
    valid
        ``(H, W)`` bool.
    factor
        Rows and columns of the working image for one of the scan: position p of the scan is at ``(p + 0.5) · factor − 0.5``.
    pixel_size_nm
        Side of a working pixel; None where the scan has none.
    nm_per_unit
        Nanometres of one unit of the heights; None where the scan is no map of heights.
    """

    heights: NDArray[np.float32]
    valid: NDArray[np.bool_]
    factor: tuple[float, float]
    pixel_size_nm: float | None
    nm_per_unit: float | None


def nm_per_unit(unit: str) -> float | None:
    """Nanometres in one unit of the heights of a scan; None where its values are no heights.

    Parameters
    ----------
    unit
        As in `spm_runtime.scan.Scan.unit`: there ``A`` is the ampere of a current, an ångström is written ``Å``.
    """
    return None if unit.strip() == "A" else to_nm(1.0, unit)


def remove_line_offsets(heights: NDArray[np.float32]) -> NDArray[np.float32]:
    """Subtract what every row has as a whole, as far as it changes from row to row.

    Parameters
    ----------
    heights
        ``(H, W)`` float32; NaN where missing.

    Returns
    -------
    ``(H, W)`` float32; NaN where missing.

    Notes
    -----
    The median of the differences between neighbouring rows leaves out a step that crosses them. Their sum strays
    over many rows as a random walk does, so only its fast part is taken for offsets.
    """
    there = np.isfinite(heights)
    both = there[1:] & there[:-1]
    difference = np.where(both, np.diff(heights, axis=0), np.nan)
    change = np.zeros(len(difference))
    some = both.any(axis=1)
    if both.all():
        change = np.median(difference, axis=1)
    elif some.any():
        change[some] = np.nanmedian(difference[some], axis=1)
    walk = np.concatenate([[0.0], np.cumsum(change, dtype=np.float64)])
    rows = np.arange(len(walk)) - (len(walk) - 1) / 2
    walk -= rows * (rows @ walk) / max(float(rows @ rows), 1.0)  # a tilt is slow; the filter would bend it at the ends
    offset = walk - ndimage.gaussian_filter1d(walk, OFFSET_ROWS, mode="nearest")
    return np.asarray(heights - offset[:, None].astype(np.float32))


def on_working_pixels(
    heights: NDArray[np.float32], pixel_size_nm: tuple[float, float] | None, nm_per_unit: float | None
) -> SurfaceImage:
    """Level a scan and bring it to square pixels of `WORKING_PIXEL_NM`, or to its own where they are coarser.

    Parameters
    ----------
    heights
        ``(H, W)`` float32 in any unit; NaN where missing.
    pixel_size_nm
        Height and width of a pixel; None keeps the pixels.
    nm_per_unit
        Nanometres of one unit of the heights; None where they are none.

    Returns
    -------
    SurfaceImage
    """
    there = np.isfinite(heights)
    middle = np.float32(np.median(heights[there])) if there.any() else np.float32(0)
    flat = remove_line_offsets(np.where(there, heights - middle, np.float32(np.nan)))
    flat = np.where(there, flat - fit_plane(flat), 0.0).astype(np.float32)
    if pixel_size_nm is None:
        return SurfaceImage(flat, there, (1.0, 1.0), None, nm_per_unit)
    side = max(WORKING_PIXEL_NM, *pixel_size_nm)
    rows, columns = (max(round(n * size / side), 1) for n, size in zip(flat.shape, pixel_size_nm, strict=True))
    weight = resize(there.astype(np.float32), (rows, columns), kind="linear")
    valid = weight > 0.5
    small = resize(flat, (rows, columns), kind="linear")
    if not there.all():
        small = np.where(valid, small / np.maximum(weight, np.float32(0.5)), np.float32(0))
    factor = rows / flat.shape[0], columns / flat.shape[1]
    return SurfaceImage(small, valid, factor, side, nm_per_unit)


@dataclass(frozen=True, eq=False)
class FinderView:
    """An image as the finder of defects sees it; `stacked` makes its input.

    Parameters
    ----------
    maps
        ``(2, H, W)`` float32: the image less the median over windows of 33 pixels, and that median. Both as asinh(z / s), s the
        robust standard deviation of the first (four times that for the second): linear for the corrugation, logarithmic for
        what stands out. 0 where missing.
    log_spread
        ln(s / 10 pm); None where the scan is no map of heights.
    log_pixel
        ln(side of a pixel / 0.08 nm); None where it is not known.
    """

    maps: NDArray[np.float32]
    log_spread: float | None
    log_pixel: float | None

    def stacked(self, channels: Sequence[str]) -> NDArray[np.float32]:
        """``(C, H, W)`` float32: channels by their names out of `FINDER_CHANNELS`; a number that is not known is 0."""
        numbers = {"spread": self.log_spread or 0.0, "pixel": self.log_pixel or 0.0}
        images = dict(zip(FINDER_CHANNELS, self.maps, strict=False))
        shape = self.maps.shape[1:]
        return np.stack(
            [images[name] if name in images else np.full(shape, numbers[name], np.float32) for name in channels]
        )


def finder_view(surface: SurfaceImage) -> FinderView:
    """What the finder of defects sees of a surface.

    Parameters
    ----------
    surface
        Heights on the working pixels.

    Returns
    -------
    FinderView
    """
    there = np.where(surface.valid, surface.heights, np.float32(np.nan))
    fine = remove_background(there)
    coarse = there - fine
    values = np.abs(fine[surface.valid])
    spread = MAD_STD * float(np.median(values)) if values.size else 0.0
    # A spread at the rounding error of the heights is a constant image.
    spread = max(spread, 1e-6 * float(np.max(np.abs(surface.heights), initial=0.0)), float(np.finfo(np.float32).tiny))
    if surface.valid.any():
        coarse -= np.float32(np.median(coarse[surface.valid]))
    maps = np.stack([np.arcsinh(fine / spread), np.arcsinh(coarse / (COARSE_SPREADS * spread))])
    log_spread = log_pixel = None
    if surface.nm_per_unit is not None:
        log_spread = float(np.clip(np.log(spread * surface.nm_per_unit / SPREAD_UNIT_NM), -MOST_LOG, MOST_LOG))
    if surface.pixel_size_nm is not None:
        log_pixel = float(np.clip(np.log(surface.pixel_size_nm / PIXEL_UNIT_NM), -MOST_LOG, MOST_LOG))
    return FinderView(np.where(surface.valid, maps, 0.0).astype(np.float32), log_spread, log_pixel)


def finder_input(surface: SurfaceImage, channels: Sequence[str] = FINDER_CHANNELS) -> NDArray[np.float32]:
    """The input of a finder of defects that sees these channels: ``(C, H, W)`` float32."""
    return finder_view(surface).stacked(channels)


def unit_range(image: NDArray[np.floating], clip_percent: float) -> tuple[float, float]:
    """Heights that become 0 and 1 when an image is scaled as a whole.

    Parameters
    ----------
    image
        ``(H, W)`` levelled heights; NaN where missing.
    clip_percent
        Per cent of the pixels beyond each end; 0 takes the extremes.

    Returns
    -------
    Lower and upper end; 1 apart around the value of a constant image, 0 and 1 for an image without pixels.
    """
    values = image[np.isfinite(image)]
    if not values.size:
        return 0.0, 1.0
    low, high = (float(value) for value in np.percentile(values, (clip_percent, 100.0 - clip_percent)))
    return (low, high) if high > low else (low - 0.5, low + 0.5)


def in_unit_range(image: NDArray[np.float32], clip_percent: float) -> NDArray[np.float32]:
    """What the patch autoencoders see: levelled heights scaled to [0, 1] as a whole and clipped.

    Parameters
    ----------
    image
        ``(H, W)`` float32 levelled heights; NaN where missing.
    clip_percent
        As in `unit_range`.

    Returns
    -------
    ``(H, W)`` float32 in [0, 1]; one half where missing.

    Notes
    -----
    Source: UCL report, section 2: each image is scaled as a whole, so that windows share their convolutions. Its
    extremes are those of the image; with them one tall adsorbate flattens the whole lattice.
    """
    low, high = unit_range(image, clip_percent)
    scaled = np.clip((image - np.float32(low)) / np.float32(high - low), 0, 1)
    return np.where(np.isfinite(image), scaled, np.float32(0.5)).astype(np.float32)

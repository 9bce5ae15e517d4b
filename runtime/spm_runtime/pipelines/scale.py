"""The scale of an image: how far its atoms are apart, and the image resampled so that a network is at ease with that.

The spacing branch of the network looks at the middle of the image. Where its answer is outside the comfortable range the image
is resampled to the nominal spacing and looked at again. Calibration is not used: it is often missing, and sometimes wrong.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray
from skimage.transform import resize

from spm_runtime.levelling import normalise_contrast, remove_background
from spm_runtime.pipelines.tiling import run_tiled
from spm_runtime.scan import Scan
from spm_runtime.session import Session

__all__ = ["ScaledScan", "find_scale", "interpolate"]

#: Spacings at which the network is used as it is; others are resampled to `NOMINAL_SPACING_PX`.
COMFORTABLE_SPACING_PX = (6.0, 14.0)
NOMINAL_SPACING_PX = 9.0
#: Side of the middle part from which the scale is taken.
LOOK_PX = 512
#: How often the image is resampled before the search is given up.
MAX_LOOKS = 4
#: Bounds of the resampling, and of the resampled image.
MIN_FACTOR, MAX_FACTOR = 1 / 16, 8.0
MAX_NETWORK_PIXELS = 2**25


@dataclass(frozen=True, eq=False)
class ScaledScan:
    """A scan as the network sees it.

    Parameters
    ----------
    residual
        ``(h, w)`` float32 heights above the background in the unit of the scan; NaN where missing.
    levelled
        ``(h, w)`` float32 input of the network.
    valid
        ``(h, w)`` pixels that were measured.
    factor
        Network pixels per scan pixel, ``(y, x)``.
    spacing_px
        Mean nearest-neighbour spacing in network pixels.
    certain
        Whether the spacing is in the comfortable range at this scale, or was given.
    confidence
        ``(h, w)`` float32, where the look covered the whole image already; None otherwise.
    """

    residual: NDArray[np.float32]
    levelled: NDArray[np.float32]
    valid: NDArray[np.bool_]
    factor: tuple[float, float]
    spacing_px: float
    certain: bool
    confidence: NDArray[np.float32] | None

    @property
    def zoom(self) -> float:
        """Network pixels per scan pixel, the geometric mean of both axes."""
        return float(np.sqrt(self.factor[0] * self.factor[1]))


def find_scale(scan: Scan, session: Session, *, given_px: float = 0.0) -> ScaledScan:
    """Bring a scan to the scale of the network.

    Parameters
    ----------
    scan
        The scan; non-square pixels are made square.
    session
        A network with the outputs ``confidence`` and ``spacing_px``.
    given_px
        Spacing in pixels of the scan (geometric mean of both axes) where the user knows it; 0 to find it.

    Returns
    -------
    ScaledScan
    """
    low, high = COMFORTABLE_SPACING_PX
    aspect = _square_pixels(scan)
    factor = 1.0
    if given_px > 0:
        square_px = given_px * float(np.sqrt(aspect[0] * aspect[1]))
        factor = (
            1.0 if low <= square_px <= high else float(np.clip(NOMINAL_SPACING_PX / square_px, MIN_FACTOR, MAX_FACTOR))
        )
        scaled = _resample(scan, aspect, factor)
        return replace(scaled, spacing_px=given_px * scaled.zoom, certain=True)
    for look in range(MAX_LOOKS):
        scaled = _look(session, _resample(scan, aspect, factor))
        wanted = float(np.clip(factor * NOMINAL_SPACING_PX / scaled.spacing_px, MIN_FACTOR, MAX_FACTOR))
        if scaled.certain or look == MAX_LOOKS - 1 or abs(wanted / factor - 1) < 0.02:
            break
        factor = wanted
    return scaled


def interpolate(image: NDArray[np.float32], shape: tuple[int, int], *, order: int) -> NDArray[np.float32]:
    """Resize an image: splines of an order when it grows, smoothed first when it shrinks; pixel centres are kept.

    Position p of the image is ``(p + 0.5) · factor − 0.5`` of the resized one.
    """
    if image.shape == shape:
        return image
    smaller = shape[0] < image.shape[0] or shape[1] < image.shape[1]
    resized = resize(  # type: ignore[no-untyped-call]
        image, shape, order=order, mode="edge", anti_aliasing=smaller, preserve_range=True, clip=False
    )
    return np.asarray(resized, dtype=np.float32)


def _square_pixels(scan: Scan) -> tuple[float, float]:
    """Factors that make the pixels square, the coarser axis refined."""
    if scan.pixel_size_nm is None or np.isclose(*scan.pixel_size_nm, rtol=0.01):
        return 1.0, 1.0
    finest = min(scan.pixel_size_nm)
    return scan.pixel_size_nm[0] / finest, scan.pixel_size_nm[1] / finest


def _resample(scan: Scan, aspect: tuple[float, float], factor: float) -> ScaledScan:
    """Bring a scan to a scale whose spacing is not known yet; it never outgrows `MAX_NETWORK_PIXELS`."""
    pixels = scan.image.size * aspect[0] * aspect[1] * factor**2
    factor *= min(1.0, float(np.sqrt(MAX_NETWORK_PIXELS / pixels)))
    valid = scan.valid
    middle = np.float32(np.median(scan.image[valid])) if valid.any() else np.float32(0)
    image = np.where(valid, scan.image - middle, np.float32(0))
    shape = max(1, round(scan.shape[0] * aspect[0] * factor)), max(1, round(scan.shape[1] * aspect[1] * factor))
    there = valid if shape == scan.shape else interpolate(valid.astype(np.float32), shape, order=1) > 0.99
    residual = remove_background(np.where(there, interpolate(image, shape, order=3), np.float32(np.nan)))
    return ScaledScan(
        residual=residual,
        levelled=normalise_contrast(residual),
        valid=there,
        factor=(shape[0] / scan.shape[0], shape[1] / scan.shape[1]),
        spacing_px=float("nan"),
        certain=False,
        confidence=None,
    )


def _look(session: Session, scaled: ScaledScan) -> ScaledScan:
    """Ask the network for the spacing in the middle of the image; keep the confidence if that was all of it."""
    y, x = (max(0, (n - LOOK_PX) // 2) for n in scaled.levelled.shape)
    outputs = run_tiled(session, np.ascontiguousarray(scaled.levelled[y : y + LOOK_PX, x : x + LOOK_PX]))
    spacing = float(outputs["spacing_px"][0])
    low, high = COMFORTABLE_SPACING_PX
    whole = outputs["confidence"].shape == scaled.levelled.shape
    return replace(
        scaled,
        spacing_px=spacing,
        certain=low <= spacing <= high,
        confidence=outputs["confidence"] if whole else None,
    )

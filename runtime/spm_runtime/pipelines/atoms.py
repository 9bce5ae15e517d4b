"""Atom positions: levelling, scale, network, peaks, suppression, sub-pixel refinement.

The image is brought to the scale at which the network works best: its spacing branch looks at a central part of the image and
says how far the columns are apart; the image is resampled when that is outside the comfortable range, and looked at again.
Positions are found and refined at the network's scale and given back in pixels of the scan.

Source: PolyU thesis (AtomID-net) for peaks by max-pool, boxes of the predicted spacing, NMS with IoU 0.3.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from skimage.transform import resize

from spm_kernels import box_nms, local_maxima, refine_gaussian
from spm_runtime.levelling import level_for_network
from spm_runtime.models import ModelPackage
from spm_runtime.pipelines.tiling import run_tiled
from spm_runtime.results import Atoms, Map, Result
from spm_runtime.scan import Scan
from spm_runtime.session import Session

__all__ = ["NMS_IOU", "find_atoms"]

#: Overlap of two boxes, as intersection over union, above which the weaker atom goes. Source: PolyU thesis.
NMS_IOU = 0.3
#: Spacings at which the network is used as it is; others are resampled to `NOMINAL_SPACING_PX`.
COMFORTABLE_SPACING_PX = (6.0, 14.0)
NOMINAL_SPACING_PX = 9.0
#: Side of the central part from which the scale is taken.
SCALE_CROP_PX = 768
#: Radius of the fit's window in spacings: half-way to the neighbour, less the neighbour's flank.
FIT_RADIUS = 0.45
#: The scan is never resampled beyond this many pixels.
MAX_NETWORK_PIXELS = 2**25


@dataclass(frozen=True)
class _Scaled:
    """The scan at the network's scale."""

    image: NDArray[np.float32]  # raw values, missing pixels filled
    valid: NDArray[np.bool_]
    factor: tuple[float, float]  # network pixels per scan pixel, (y, x)


def find_atoms(scan: Scan, package: ModelPackage, session: Session, parameters: Mapping[str, float]) -> Result:
    """Find atom positions.

    Parameters
    ----------
    scan
        Any scan; missing pixels are NaN.
    package, session
        A model of the task ``atoms`` and its loaded network.
    parameters
        ``filter_lower_bound`` (lowest confidence), ``filter_window_size`` (window of the max-pool in spacings) and
        ``spacing_px`` (spacing in pixels of the scan; 0 lets the network find it).

    Returns
    -------
    Result
        With `Atoms`, the map ``confidence`` and the quantities ``spacing_px``, ``spacing_nm`` (when calibrated) and
        ``network_scale``.
    """
    clock = _Clock()
    spacing, scaled, warnings = _find_scale(scan, package, session, parameters["spacing_px"])
    clock.stop("scale")
    levelled = level_for_network(np.where(scaled.valid, scaled.image, np.nan).astype(np.float32))
    clock.stop("level")
    confidence = run_tiled(session, levelled)["confidence"]
    confidence = np.where(scaled.valid, confidence, 0.0).astype(np.float32)
    clock.stop("network")
    window = max(3, 2 * round(parameters["filter_window_size"] * spacing / 2) + 1)
    peaks = local_maxima(
        confidence, window_px=window, threshold=parameters["filter_lower_bound"], valid=scaled.valid
    ).astype(np.float64)
    scores = confidence[tuple(peaks.astype(np.int64).T)]
    peaks = peaks[box_nms(peaks, scores, side_px=spacing, iou=NMS_IOU)]
    clock.stop("peaks")
    atoms = _refine(scaled, confidence, peaks, spacing)
    clock.stop("refine")
    native = float(spacing / np.sqrt(np.prod(scaled.factor)))
    quantities = {"spacing_px": native, "network_scale": float(np.sqrt(np.prod(scaled.factor)))}
    if scan.pixel_size_nm is not None:
        quantities["spacing_nm"] = native * float(np.sqrt(np.prod(scan.pixel_size_nm)))
    full = confidence if confidence.shape == scan.shape else _interpolate(confidence, scan.shape, order=1)
    confidence_map = np.where(scan.valid, np.clip(full, 0, 1), np.nan).astype(np.float32)
    clock.stop("map")
    return Result(
        scan=scan,
        task="atoms",
        model=package.reference,
        provider=session.provider,
        parameters=dict(parameters),
        timings_s=clock.laps,
        atoms=atoms,
        maps=(Map("confidence", confidence_map),),
        quantities=quantities,
        warnings=(*session.warnings, *warnings, *_trained_range(scan, package, spacing)),
    )


def _find_scale(
    scan: Scan, package: ModelPackage, session: Session, given_px: float
) -> tuple[float, _Scaled, tuple[str, ...]]:
    """The spacing in network pixels, and the scan at the scale where it is comfortable."""
    low, high = COMFORTABLE_SPACING_PX
    aspect = _square_pixels(scan)
    if given_px > 0:
        factor = 1.0 if low <= given_px <= high else NOMINAL_SPACING_PX / given_px
        scaled = _resample(scan, _limited(scan, aspect, factor))
        return given_px * float(np.sqrt(np.prod(scaled.factor) / np.prod(aspect))), scaled, ()
    factor = 1.0
    scaled = _resample(scan, _limited(scan, aspect, factor))
    spacing = _predict_spacing(session, scaled)
    for _ in range(3):
        if low <= spacing <= high:
            return spacing, scaled, ()
        factor = float(np.clip(factor * NOMINAL_SPACING_PX / spacing, 1 / 16, 8.0))
        limited = _limited(scan, aspect, factor)
        if np.allclose(limited, scaled.factor, rtol=0.02):
            break
        scaled = _resample(scan, limited)
        spacing = _predict_spacing(session, scaled)
    if low <= spacing <= high:
        return spacing, scaled, ()
    return (
        spacing,
        scaled,
        (
            f"the spacing of the atoms is uncertain (about {spacing:.1f} px at the network's scale): "
            "set it with --param spacing_px",
        ),
    )


def _square_pixels(scan: Scan) -> tuple[float, float]:
    """Factors that make the pixels square, the coarser axis refined."""
    if scan.pixel_size_nm is None or np.isclose(*scan.pixel_size_nm, rtol=0.01):
        return 1.0, 1.0
    finest = min(scan.pixel_size_nm)
    return scan.pixel_size_nm[0] / finest, scan.pixel_size_nm[1] / finest


def _limited(scan: Scan, aspect: tuple[float, float], factor: float) -> tuple[float, float]:
    pixels = scan.image.size * aspect[0] * aspect[1] * factor**2
    factor *= min(1.0, float(np.sqrt(MAX_NETWORK_PIXELS / pixels)))
    return aspect[0] * factor, aspect[1] * factor


def _resample(scan: Scan, factor: tuple[float, float]) -> _Scaled:
    """Bring the scan to the network's scale; missing pixels are filled with the median and masked."""
    valid = scan.valid
    middle = np.float32(np.median(scan.image[valid])) if valid.any() else np.float32(0)
    image = np.where(valid, scan.image - middle, np.float32(0))
    shape = max(1, round(scan.shape[0] * factor[0])), max(1, round(scan.shape[1] * factor[1]))
    if shape == scan.shape:
        return _Scaled(image, valid, (1.0, 1.0))
    scaled = _interpolate(image, shape, order=3)
    there = _interpolate(valid.astype(np.float32), shape, order=1) > 0.99
    true_factor = (shape[0] / scan.shape[0], shape[1] / scan.shape[1])
    return _Scaled(scaled, there, true_factor)


def _interpolate(image: NDArray[np.float32], shape: tuple[int, int], *, order: int) -> NDArray[np.float32]:
    """Splines of an order when enlarged; smoothed first when reduced."""
    smaller = shape[0] < image.shape[0] or shape[1] < image.shape[1]
    resized = resize(  # type: ignore[no-untyped-call]
        image, shape, order=order, mode="edge", anti_aliasing=smaller, preserve_range=True, clip=False
    )
    return np.asarray(resized, dtype=np.float32)


def _predict_spacing(session: Session, scaled: _Scaled) -> float:
    """What the spacing branch says of the central part of the image."""
    height, width = scaled.image.shape
    y, x = max(0, (height - SCALE_CROP_PX) // 2), max(0, (width - SCALE_CROP_PX) // 2)
    part = np.s_[y : y + SCALE_CROP_PX, x : x + SCALE_CROP_PX]
    levelled = level_for_network(np.where(scaled.valid[part], scaled.image[part], np.nan).astype(np.float32))
    return float(np.ravel(run_tiled(session, levelled)["spacing_px"])[0])


def _refine(scaled: _Scaled, confidence: NDArray[np.float32], peaks: NDArray[np.float64], spacing: float) -> Atoms:
    """Gaussian fits at the network's scale, handed back in pixels of the scan."""
    there = scaled.image[scaled.valid]
    # Heights are 1e-10 m or 1e5 counts; the fit works on numbers near one.
    unit = float(np.std(there, dtype=np.float64)) if there.size else 1.0
    unit = unit if unit > 0 else 1.0
    fits = refine_gaussian(
        (scaled.image / np.float32(unit)).astype(np.float32), peaks, radius_px=FIT_RADIUS * spacing, valid=scaled.valid
    )
    factor = np.asarray(scaled.factor)
    size = float(np.sqrt(np.prod(factor)))
    score = confidence[tuple(peaks.astype(np.int64).T)]
    return Atoms(
        yx_px=(fits.yx + 0.5) / factor - 0.5,
        score=np.clip(score, 0, 1).astype(np.float32),
        position_std_px=(fits.yx_std_px / size).astype(np.float32),
        width_px=np.where(fits.converged, fits.sigma_px / size, np.nan).astype(np.float32),
        intensity=(fits.amplitude * unit).astype(np.float32),
        sublattice=np.full(len(peaks), -1, np.int32),
    )


def _trained_range(scan: Scan, package: ModelPackage, spacing: float) -> tuple[str, ...]:
    """Sentences for a scan that is unlike what the model was trained on."""
    said = []
    if scan.pixel_size_nm is not None:
        low, high = package.pixel_size_nm
        outside = [p for p in scan.pixel_size_nm if not low <= p <= high]
        if outside:
            said.append(
                f"pixel size {outside[0]:.3g} nm is outside the range that model {package.name} was made for "
                f"({low:g} to {high:g} nm): check the calibration, and the atoms by eye"
            )
    if scan.modality != "unknown" and scan.modality not in package.modalities:
        said.append(
            f"model {package.name} was not trained on {scan.modality.upper()} images, only on {', '.join(package.modalities)}"
        )
    low, high = package.spacing_px
    if not low <= spacing <= high:
        said.append(
            f"a spacing of {spacing:.1f} px at the network's scale is outside its training ({low:g} to {high:g} px)"
        )
    return tuple(said)


class _Clock:
    """Seconds by stage."""

    def __init__(self) -> None:
        self.laps: dict[str, float] = {}
        self._last = time.perf_counter()

    def stop(self, stage: str) -> None:
        now = time.perf_counter()
        self.laps[stage] = now - self._last
        self._last = now

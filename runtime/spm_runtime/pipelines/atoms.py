"""Atom positions: scale, network, peaks, suppression, sub-pixel refinement.

Positions are found and refined at the scale of the network (`spm_runtime.pipelines.scale`) and given back in pixels of the scan.

Source: PolyU thesis (AtomID-net) for peaks by max-pool, boxes of the predicted spacing, NMS with IoU 0.3.
"""

from __future__ import annotations

import time
from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray
from scipy.spatial import cKDTree

from spm_kernels import box_nms, local_maxima, refine_gaussian
from spm_kernels.refine import MIN_RADIUS_PX
from spm_runtime.models import ModelPackage
from spm_runtime.pipelines.scale import ScaledScan, find_scale, interpolate
from spm_runtime.pipelines.tiling import run_tiled
from spm_runtime.results import Atoms, Map, Result
from spm_runtime.scan import Scan
from spm_runtime.session import Session

__all__ = ["NMS_IOU", "find_atoms"]

#: Overlap of two boxes, as intersection over union, above which the weaker atom goes. Source: PolyU thesis.
NMS_IOU = 0.3
#: Fewer atoms do not say how far they are apart.
MIN_ATOMS_FOR_SPACING = 10
#: Radius of the fit's window in spacings: half-way to the neighbour, less the neighbour's flank.
FIT_RADIUS = 0.45
#: Width σ in spacings up to which the tails of the neighbours are subtracted. Broader columns merge into a corrugation
#: whose width, height and background cannot be told apart: there each column is fitted alone, inside its window.
NARROW_WIDTH = 0.3


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
        With `Atoms`, the map ``confidence`` and the quantities ``spacing_px`` and, when calibrated, ``spacing_nm`` (the median
        distance to the nearest neighbour, where enough atoms were found), ``predicted_spacing_px`` and ``network_scale``.
    """
    clock = _Clock()
    scaled = find_scale(scan, session, given_px=parameters["spacing_px"])
    clock.stop("scale")
    confidence = (
        scaled.confidence if scaled.confidence is not None else run_tiled(session, scaled.levelled)["confidence"]
    )
    confidence = np.where(scaled.valid, confidence, np.float32(0))
    clock.stop("network")
    peaks = _peaks(scaled, confidence, parameters)
    clock.stop("peaks")
    atoms = _refine(scaled, confidence, peaks)
    clock.stop("refine")
    shown = np.where(scan.valid, interpolate(confidence, scan.shape, order=1), np.float32(np.nan))
    clock.stop("map")
    return Result(
        scan=scan,
        task="atoms",
        model=package.reference,
        provider=session.provider,
        parameters=dict(parameters),
        timings_s=clock.laps,
        atoms=atoms,
        maps=(Map("confidence", shown),),
        quantities=_quantities(scan, scaled, atoms),
        warnings=(*session.warnings, *_trained_range(scan, package, scaled)),
    )


def _peaks(scaled: ScaledScan, confidence: NDArray[np.float32], parameters: Mapping[str, float]) -> NDArray[np.float64]:
    """Peaks of the confidence that survive the suppression, ``(N, 2)`` in network pixels, best first."""
    window = max(3, 2 * round(parameters["filter_window_size"] * scaled.spacing_px / 2) + 1)
    peaks = local_maxima(confidence, window_px=window, threshold=parameters["filter_lower_bound"], valid=scaled.valid)
    yx = peaks.astype(np.float64)
    return yx[box_nms(yx, confidence[peaks[:, 0], peaks[:, 1]], side_px=scaled.spacing_px, iou=NMS_IOU)]


def _refine(scaled: ScaledScan, confidence: NDArray[np.float32], peaks: NDArray[np.float64]) -> Atoms:
    """Gaussian fits at the network's scale, handed back in pixels of the scan."""
    there = scaled.residual[scaled.valid]
    # Heights are 1e-10 m or 1e5 counts; the fit works on numbers near one.
    unit = (float(np.std(there, dtype=np.float64)) if there.size else 0.0) or 1.0
    heights = (scaled.residual / unit).astype(np.float32)
    radius = max(MIN_RADIUS_PX, FIT_RADIUS * scaled.spacing_px)
    fits = refine_gaussian(heights, peaks, radius_px=radius, neighbours=False)
    narrow = fits.sigma_px[fits.converged]
    if len(narrow) and np.median(narrow) < NARROW_WIDTH * scaled.spacing_px:
        fits = refine_gaussian(heights, peaks, radius_px=radius, neighbours=True)
    # The fit takes its pixels for independent; an enlarged image has zoom² pixels for each that was measured.
    spread = max(1.0, scaled.zoom)
    # A fit may walk off the image or into a missing part: nothing was measured there.
    place = np.rint(fits.yx).astype(np.int64)
    inside = np.all((place >= 0) & (place < scaled.valid.shape), axis=1)
    inside[inside] = scaled.valid[tuple(place[inside].T)]
    return Atoms(
        yx_px=(fits.yx[inside] + 0.5) / np.asarray(scaled.factor) - 0.5,
        score=confidence[tuple(peaks[inside].astype(np.int64).T)],
        position_std_px=(fits.yx_std_px[inside] * spread / scaled.zoom).astype(np.float32),
        width_px=(fits.sigma_px[inside] / scaled.zoom).astype(np.float32),
        intensity=((fits.background + fits.amplitude)[inside] * unit).astype(np.float32),
        sublattice=np.full(int(inside.sum()), -1, np.int32),
    )


def _quantities(scan: Scan, scaled: ScaledScan, atoms: Atoms) -> dict[str, float]:
    """Numbers that describe the whole scan."""
    found = {"predicted_spacing_px": scaled.spacing_px / scaled.zoom, "network_scale": scaled.zoom}
    if len(atoms) >= MIN_ATOMS_FOR_SPACING:
        square = atoms.yx_px * np.asarray(scaled.factor)
        distances, _ = cKDTree(square).query(square, k=2)
        found["spacing_px"] = float(np.median(distances[:, 1])) / scaled.zoom
        if scan.pixel_size_nm is not None:
            found["spacing_nm"] = found["spacing_px"] * float(np.sqrt(np.prod(scan.pixel_size_nm)))
    return found


def _trained_range(scan: Scan, package: ModelPackage, scaled: ScaledScan) -> tuple[str, ...]:
    """Sentences for a scan that is unlike what the model was trained on."""
    said = []
    if not scaled.certain:
        said.append(
            f"the spacing of the atoms is uncertain (about {scaled.spacing_px:.1f} px at the network's scale): "
            "set it with --param spacing_px"
        )
    low, high = package.spacing_px
    if not low <= scaled.spacing_px <= high:
        said.append(
            f"a spacing of {scaled.spacing_px:.2g} px at the network's scale is outside its training ({low:g} to {high:g} px)"
        )
    if scan.pixel_size_nm is not None:
        low, high = package.pixel_size_nm
        outside = [p for p in scan.pixel_size_nm if not low <= p <= high]
        if outside:
            said.append(
                f"pixel size {outside[0]:.3g} nm is outside the range that model {package.name} was made for "
                f"({low:g} to {high:g} nm): check the calibration, and the atoms by eye"
            )
    if scan.modality != "unknown" and scan.modality not in package.modalities:
        known = ", ".join(modality.upper() for modality in package.modalities)
        said.append(f"model {package.name} was not trained on {scan.modality.upper()} images, only on {known}")
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

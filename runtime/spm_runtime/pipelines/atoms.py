"""Atom positions: scale, network, peaks, suppression, sub-pixel refinement.

Columns are found at the scale of the network (`spm_runtime.pipelines.scale`) and located on the scan's own pixels
(`spm_runtime.pipelines.positions`).

Source: PolyU thesis (AtomID-net) for peaks by max-pool, boxes of the predicted spacing, NMS with IoU 0.3.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray
from scipy.spatial import cKDTree

from spm_kernels import box_nms, local_maxima, resize
from spm_runtime.models import ModelPackage
from spm_runtime.pipelines.common import Clock, unlike_training
from spm_runtime.pipelines.positions import Estimates, locate, network_positions
from spm_runtime.pipelines.scale import ScaledScan, find_scale
from spm_runtime.pipelines.turning import run_turned
from spm_runtime.results import Atoms, Map, Result
from spm_runtime.scan import Scan
from spm_runtime.session import Session

__all__ = ["NMS_IOU", "find_atoms"]

#: Overlap of two boxes, as intersection over union, above which the weaker atom goes. Source: PolyU thesis.
NMS_IOU = 0.3
#: Fewer atoms do not say how far they are apart.
MIN_ATOMS_FOR_SPACING = 10
#: Overlap above which two refined positions are one column: nearer than a quarter of the spacing along an axis.
SAME_IOU = 0.6


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
    clock = Clock()
    scaled = find_scale(scan, session, given_px=parameters["spacing_px"])
    clock.stop("scale")
    maps = _maps(package, session, scaled)
    confidence = np.where(scaled.valid, maps["confidence"], np.float32(0))
    clock.stop("network")
    network, score = _columns(scaled, confidence, maps, parameters)
    clock.stop("peaks")
    atoms = _single(locate(scan, scaled, network, score), scaled)
    clock.stop("refine")
    shown = np.where(scan.valid, resize(confidence, scan.shape, kind="linear"), np.float32(np.nan))
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


def _maps(package: ModelPackage, session: Session, scaled: ScaledScan) -> dict[str, NDArray[np.float32]]:
    """Outputs of the network on the whole scan."""
    # The look at the scale may have seen the whole image already; it kept the confidence alone.
    if scaled.confidence is not None and all(output.id != "offset_px" for output in package.outputs):
        return {"confidence": scaled.confidence}
    return run_turned(session, scaled.levelled)


def _columns(
    scaled: ScaledScan,
    confidence: NDArray[np.float32],
    maps: Mapping[str, NDArray[np.float32]],
    parameters: Mapping[str, float],
) -> tuple[Estimates, NDArray[np.float32]]:
    """Peaks of the confidence that survive the suppression, best first: where the network sees them, and their scores."""
    window = max(3, 2 * round(parameters["filter_window_size"] * scaled.spacing_px / 2) + 1)
    peaks = local_maxima(confidence, window_px=window, threshold=parameters["filter_lower_bound"], valid=scaled.valid)
    seen = network_positions(peaks, confidence, maps.get("offset_px"), maps.get("position_std_px"))
    score = confidence[peaks[:, 0], peaks[:, 1]]
    kept = box_nms(seen.yx, score, side_px=scaled.spacing_px, iou=NMS_IOU)
    return Estimates(seen.yx[kept], seen.std_px[kept]), score[kept]


def _single(atoms: Atoms, scaled: ScaledScan) -> Atoms:
    """Keep the best of atoms that were refined to the same place."""
    yx = (atoms.yx_px + 0.5) * np.asarray(scaled.factor) - 0.5
    kept = box_nms(yx, atoms.score, side_px=scaled.spacing_px, iou=SAME_IOU)
    return Atoms(**{name: values[kept] for name, values in vars(atoms).items()})


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
    if package.spacing_px is not None and not package.spacing_px[0] <= scaled.spacing_px <= package.spacing_px[1]:
        said.append(
            f"a spacing of {scaled.spacing_px:.2g} px at the network's scale is outside its training "
            f"({package.spacing_px[0]:g} to {package.spacing_px[1]:g} px)"
        )
    return (*said, *unlike_training(scan, package, "the atoms"))

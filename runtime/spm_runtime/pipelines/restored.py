"""What all ways of restoring a surface share: which scans they take, and what they leave."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from spm_runtime.errors import ParameterError
from spm_runtime.levelling import fit_plane
from spm_runtime.pipelines.surface import nm_per_unit
from spm_runtime.results import Map, ModelReference, Result
from spm_runtime.scan import Scan

__all__ = ["CERTAIN", "Restored", "check_heights", "restored_result"]

#: Channels of an atomic force microscope that are no topography, though some instruments write them in metres.
NO_HEIGHTS = (
    "adhesion", "amplitude", "current", "deflection", "deformation", "dissipation", "error", "friction", "indentation", "phase",
)  # fmt: skip
#: A pixel counts as certain from this certainty on.
CERTAIN = 0.5
#: Per cent of the pixels beyond each end of the range of heights by which a tip is measured: spikes.
SPIKES_PERCENT = 1.0
#: The file of the tip ends this many ranges of heights below the apex: nothing so deep touches anything.
DEEPEST = 2.0


@dataclass(frozen=True, eq=False)
class Restored:
    """A surface, how well it is known, and the tip.

    Parameters
    ----------
    heights
        ``(H, W)`` float32 in the unit of the scan; NaN where the scan is missing.
    certainty
        ``(H, W)`` from 0 to 1: whether the tip touched the surface there.
    tip
        ``(h, w)`` float32 in the unit of the scan, as `spm_kernels.dilate` takes it: 0 at the apex in the middle, −inf where
        there is no tip.
    """

    heights: NDArray[np.float32]
    certainty: NDArray[np.float32]
    tip: NDArray[np.float32]


def check_heights(scan: Scan) -> tuple[str, ...]:
    """Refuse a scan that is no map of heights.

    Parameters
    ----------
    scan
        Any scan.

    Returns
    -------
    A sentence where nobody knows whether it is one, else nothing.

    Raises
    ------
    ParameterError
        If it is none: by its modality, its unit or its channel.
    """
    remedy = "a tip can be taken out of a topography only: choose one with --channel (see `spm-infer info`), or another --task"
    if scan.modality == "stem":
        raise ParameterError(f"task 'restore' expects heights, got a STEM image ({scan.label}): {remedy}")
    unit = scan.unit.strip()
    if unit and nm_per_unit(unit) is None:
        raise ParameterError(f"task 'restore' expects heights, got the channel {scan.label!r} in {unit}: {remedy}")
    if any(word in scan.channel.casefold() for word in NO_HEIGHTS):
        raise ParameterError(f"task 'restore' expects heights, got the channel {scan.label!r}: {remedy}")
    if not unit:
        return ("the file gives no unit: its values are taken for heights",)
    return ()


def restored_result(
    scan: Scan,
    model: ModelReference,
    restored: Restored,
    *,
    provider: str,
    parameters: Mapping[str, float],
    timings_s: Mapping[str, float],
    quantities: Mapping[str, float],
    warnings: tuple[str, ...],
    wider: str,
) -> Result:
    """The result of the task ``restore``.

    Parameters
    ----------
    scan, model, provider, parameters, timings_s
        As in `Result`.
    restored
        What was found.
    quantities
        Numbers besides those that are calculated here.
    warnings
        Sentences besides that about the tip.
    wider
        What to do where the tip is wider than what was looked at.

    Returns
    -------
    Result
        With the maps ``restored`` and ``certainty``, the tip, and the quantities ``certain_share`` (share of the measured
        pixels whose certainty is at least one half), ``rms_change_nm`` (``rms_change`` where the file gives no unit), and
        ``tip_radius_px`` and, where calibrated, ``tip_radius_nm``: of a disc as large as the cross-section of the tip at half
        the height of the surface.
    """
    there = scan.valid
    radius_px, is_cut = _tip_radius(restored)
    if is_cut:
        rows, columns = restored.tip.shape
        warnings += (
            f"the tip is as wide as the {rows} × {columns} pixels that were looked at, at half the height of the surface: its "
            f"radius is a lower bound, and what it hides is larger than shown; {wider}",
        )
    maps = (
        Map("restored", restored.heights, scan.unit),
        Map("certainty", np.where(there, restored.certainty, np.nan).astype(np.float32)),
    )
    return Result(
        scan=scan,
        task="restore",
        model=model,
        provider=provider,
        parameters=dict(parameters),
        timings_s=timings_s,
        maps=maps,
        quantities=_quantities(scan, restored, radius_px) | dict(quantities),
        warnings=warnings,
        tip=Map("tip", _finite(restored, scan), scan.unit),
    )


def _finite(restored: Restored, scan: Scan) -> NDArray[np.float32]:
    """The tip down to where it matters: every program can read it."""
    known = scan.image[scan.valid].astype(np.float64)
    deepest = DEEPEST * float(np.ptp(known)) if known.size else 0.0
    return np.maximum(restored.tip, np.float32(-deepest))


def _tip_radius(restored: Restored) -> tuple[float, bool]:
    """Radius of the tip in pixels at half the height of the surface, and whether it is wider than its window there."""
    there = np.isfinite(restored.heights)
    if not there.any():
        return 0.0, False
    flat = (restored.heights - fit_plane(restored.heights))[there]
    low, high = np.percentile(flat, (SPIKES_PERCENT, 100 - SPIKES_PERCENT))
    cut = restored.tip >= -(high - low) / 2
    rim = cut.copy()
    rim[1:-1, 1:-1] = False
    return float(np.sqrt(cut.sum() / np.pi)), bool(high > low and rim.any())


def _quantities(scan: Scan, restored: Restored, radius_px: float) -> dict[str, float]:
    there = scan.valid
    if not there.any():
        return {}
    change = (restored.heights[there].astype(np.float64) - scan.image[there]) * (nm_per_unit(scan.unit) or 1.0)
    found = {
        "certain_share": float(np.mean(restored.certainty[there] >= CERTAIN)),
        "rms_change_nm" if scan.unit.strip() else "rms_change": float(np.sqrt(np.mean(change**2))),
        "tip_radius_px": radius_px,
    }
    if scan.pixel_size_nm is not None:
        found["tip_radius_nm"] = radius_px * float(np.sqrt(np.prod(scan.pixel_size_nm)))
    return found

"""A surface from its image without a network: blind tip estimation and erosion, as Gwyddion does it."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from spm_kernels import certainty_map, dilate, erode, estimate_tip
from spm_runtime.errors import ModelIntegrityError, ParameterError
from spm_runtime.methods import BuiltInMethod, Parameter
from spm_runtime.pipelines.common import Clock
from spm_runtime.pipelines.restored import Restored, check_heights, restored_result
from spm_runtime.pipelines.surface import nm_per_unit
from spm_runtime.results import Result
from spm_runtime.scan import Scan

__all__ = ["CLASSICAL", "ClassicalRestoration", "noise_of", "restore_classical"]

#: Gap, as a share of the range of heights, below which the tip rests on the surface: what rounding to float32 leaves.
TOUCH = 1e-6
#: Largest side of a tip that a user may ask for, in pixels: that of the networks for tips.
LARGEST_TIP_PX = 61


class ClassicalRestoration(NamedTuple):
    """What an image says of the surface, and of the tip.

    Parameters
    ----------
    restored
        ``(H, W)`` float32 in the unit of the image: the highest surface that the image and the tip allow; NaN where the image is.
    tip
        ``(tip_px, tip_px)`` float32 in the same unit, as `spm_kernels.dilate` takes it: 0 at the apex in the middle.
    certain
        ``(H, W)`` bool: where the tip is known to have touched the surface, if it is the estimated one.
    """

    restored: NDArray[np.float32]
    tip: NDArray[np.float32]
    certain: NDArray[np.bool_]


def restore_classical(
    image: NDArray[np.float32],
    *,
    tip: NDArray[np.float32] | None = None,
    tip_px: int = 15,
    threshold: float | None = None,
    full: bool = True,
    use_edges: bool = False,
) -> ClassicalRestoration:
    """Restore a surface by erosion with a tip that is known or estimated from the image alone.

    Parameters
    ----------
    image
        ``(H, W)`` float32 heights in any unit; non-finite pixels are missing.
    tip
        Known tip in the same unit, as `spm_kernels.dilate` takes it; estimated where none is given.
    tip_px
        Side of the estimated tip, an odd number of pixels. A tip is estimated too blunt where no feature of the image shows its
        sharpness, and the more so the larger it may be.
    threshold
        Height by which the image may contradict a tip, in its unit; four times the noise of the image where none is given.
    full
        Whether every pixel is asked for the tip, or the local maxima only: faster, and a blunter tip.
    use_edges
        Whether pixels near the border are asked for the tip, too.

    Raises
    ------
    ParameterError
        If ``tip_px`` is not odd and positive, or the threshold is negative or not finite.

    Notes
    -----
    Villarrubia, J. Res. Natl. Inst. Stand. Technol. 102 (1997) 425. The default side and threshold were chosen on simulated scans
    of eight kinds of surfaces. Tip and surface are those of Gwyddion's ``gwy_tip_estimate_full`` (or ``partial``) and
    ``gwy_tip_erosion`` but for its rounding to ten thousand steps, its repetition of the outermost pixels beyond the border, and
    the direction of the tip: what Gwyddion estimates it takes turned by 180° when it erodes, wrong for a tip that is not
    symmetric.
    """
    if tip is None:
        if tip_px < 1 or tip_px % 2 == 0:
            raise ParameterError(f"tip_px {tip_px}: expected an odd number of pixels, such as 15.")
        height = 4 * noise_of(image) if threshold is None else threshold
        if not (np.isfinite(height) and height >= 0):
            raise ParameterError(f"threshold {height:g}: expected a height of 0 or more in the unit of the image.")
        flat = np.zeros((tip_px, tip_px), np.float32)
        tip = estimate_tip(image, flat, threshold=float(height), full=full, use_edges=use_edges)
    surface = erode(image, tip)
    # Noise and what no tip explains are not asked where the tip touched: the image that the surface and the tip would make is.
    explained = dilate(surface, tip)
    known = np.isfinite(image)
    span = float(np.ptp(image[known])) if known.any() else 0.0
    certain = certainty_map(explained, tip, tolerance=TOUCH * span) & known
    return ClassicalRestoration(np.where(known, surface, np.float32(np.nan)), tip, certain)


def noise_of(image: NDArray[np.float32]) -> float:
    """Standard deviation of the pixel noise, from second differences along the lines; 0 where there are none.

    Parameters
    ----------
    image
        ``(H, W)`` float32; non-finite pixels are left out.

    Notes
    -----
    The median of the absolute values leaves edges out, 1.4826 makes it a standard deviation and √6 is the gain of the
    difference (1, −2, 1). Offsets between lines do not count.
    """
    second = np.diff(np.where(np.isfinite(image), image, np.nan).astype(np.float64), n=2, axis=1)
    second = second[np.isfinite(second)]
    return float(1.4826 * np.median(np.abs(second)) / np.sqrt(6)) if second.size else 0.0


def _restore(scan: Scan, parameters: Mapping[str, float]) -> Result:
    """The built-in method: `restore_classical` as a pipeline."""
    warnings = check_heights(scan)
    clock = Clock()
    threshold = parameters["threshold_nm"] / (nm_per_unit(scan.unit) or 1.0)
    side = round(parameters["tip_px"])
    found = restore_classical(
        scan.image, tip_px=side, threshold=threshold or None, full=bool(round(parameters["full"]))
    )
    clock.stop("restore")
    return restored_result(
        scan,
        CLASSICAL.reference,
        Restored(found.restored, found.certain.astype(np.float32), found.tip),
        provider="Numba",
        parameters=parameters,
        timings_s=clock.laps,
        quantities={},
        warnings=warnings,
        wider=f"look at more with --param tip_px={min(2 * side + 1, LARGEST_TIP_PX)}",
    )


def _self_test() -> float:
    """A needle shows the whole tip, and the tip is had back: largest difference as a share of its height.

    Raises
    ------
    ModelIntegrityError
        If it is more than rounding leaves.
    """
    side, height = 9, 10.0
    away = np.arange(side) - side // 2
    tip = (-0.2 * (away[:, None] ** 2 + away**2) - 0.5 * np.maximum(away, 0)).astype(np.float32)
    surface = np.zeros((48, 48), np.float32)
    surface[24, 24] = height
    found = restore_classical(dilate(surface, tip), tip_px=side)
    worst = float(np.abs(found.tip - tip).max()) / height
    if not worst <= TOUCH:
        raise ModelIntegrityError(
            f"method {CLASSICAL.name}: a known tip comes back with an error of {worst:.2g} of its height, expected at most "
            f"{TOUCH:g}. Install numba and adatom again."
        )
    return worst


#: ``--model classical``, for any map of heights.
CLASSICAL = BuiltInMethod(
    name="classical",
    version="1.0.0",
    description="Blind tip estimation and erosion, as Gwyddion does it: no network, no training.",
    task="restore",
    parameters=MappingProxyType(
        {
            "tip_px": Parameter(
                "tip_px", 15, 3, LARGEST_TIP_PX, "side of the estimated tip in pixels, an odd number", step=2
            ),
            "threshold_nm": Parameter(
                "threshold_nm", 0, 0, 1e6,
                "height by which the image may contradict the tip; 0 takes four times the noise of the image. In the unit of the "
                "values where the file gives none",
            ),
            "full": Parameter(
                "full", 1, 0, 1, "1 asks every pixel for the tip, 0 the local maxima only: faster, and a blunter tip", step=1
            ),
        }
    ),
    known_failures=(
        "where nothing on the surface is sharper than the tip, the tip comes out too blunt and too much is taken away",
        "spikes of noise make the tip too sharp, and too little is taken away",
    ),
    run=_restore,
    self_test=_self_test,
)  # fmt: skip

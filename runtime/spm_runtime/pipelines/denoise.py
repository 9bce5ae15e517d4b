"""Noise taken away from any map, by a network of whole images or of patches.

Source: USC report, challenges and future directions: patches become whole images by overlap, here with smooth weights.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from spm_kernels.patches import PatchGrid, map_patches
from spm_runtime.errors import ModelError
from spm_runtime.models import ModelPackage
from spm_runtime.pipelines.common import Clock, unlike_training
from spm_runtime.pipelines.denoise_view import DenoiseView, denoise_view, measured_part
from spm_runtime.pipelines.fourier_wiener import with_filtered, without_residue
from spm_runtime.pipelines.surface import nm_per_unit
from spm_runtime.pipelines.turning import run_mirrored
from spm_runtime.results import Map, Result
from spm_runtime.scan import Scan
from spm_runtime.session import Session

__all__ = ["DENOISED", "denoise_scan"]

Image = NDArray[np.float32]

#: Name of the output that a network must have.
DENOISED = "denoised"
#: Most patches that a network gets at once.
BATCH = 2048


def denoise_scan(scan: Scan, package: ModelPackage, session: Session, parameters: Mapping[str, float]) -> Result:
    """Take the noise away.

    Parameters
    ----------
    scan
        A map of any channel; missing pixels are NaN.
    package, session
        A model of the task ``denoise`` and its loaded network. Its setting ``kind`` is ``image``, for a network from ``image``
        ``(B, C, H, W)`` to ``denoised`` ``(B, 1, H, W)``, and ``windows_px`` lists the windows of `fourier_wiener` whose answers
        are the channels after the scan; or ``patch``, for one from ``patch`` ``(B, 1, P, P)`` to ``denoised``, with the settings
        ``patch_px`` P and ``stride_px``. Both see the scan as `denoise_view` has it; networks of whole images see the mirror
        images of a small scan too (`run_mirrored`): worth 0.1 dB on validation scenes. Only the measured part of a scan that was
        not finished is looked at.
    parameters
        Those of the package.

    Returns
    -------
    Result
        With the map ``denoised`` in the unit, offset and plane of the scan, and the quantities ``noise_before``, the standard
        deviation of the white noise, and ``taken_away_rms``, both as a share of the relief of the scan (the scale of its view);
        of heights in nanometres too, ``noise_before_nm`` and ``taken_away_rms_nm``.

    Raises
    ------
    ModelError
        If the package lacks a setting or an output.
    """
    _check(package)
    clock = Clock()
    part = measured_part(scan.image)
    view = denoise_view(scan.image[part])
    clock.stop("levelling")
    if package.settings["kind"] == "patch":
        seen = _by_patches(session, view.image, package.settings)
        clock.stop("network")
    else:
        told = view.image
        if sides := tuple(package.settings.get("windows_px", ())):
            told = with_filtered(told, sides)
            clock.stop("filter")
        answer = run_mirrored(session, told)[DENOISED]
        clock.stop("network")
        seen = without_residue(answer, view.image)
        clock.stop("residue")
    denoised = scan.image.copy()
    denoised[part] = view.restored(seen)
    return Result(
        scan=scan,
        task="denoise",
        model=package.reference,
        provider=session.provider,
        parameters=dict(parameters),
        timings_s=clock.laps,
        maps=(Map("denoised", denoised, scan.unit),),
        quantities=_quantities(scan, view, denoised[part] - scan.image[part]),
        warnings=(*session.warnings, *unlike_training(scan, package, "the denoised image")),
    )


def _check(package: ModelPackage) -> None:
    """Refuse a package that cannot be run, before anything is computed."""
    file, settings = package.folder / "rdf.yaml", package.settings
    remedy = "Export the model again with `spm-train export`."
    if settings.get("kind") not in ("image", "patch"):
        raise ModelError(f"{file}: setting kind {settings.get('kind')!r}, expected 'image' or 'patch'. {remedy}")
    if DENOISED not in (outputs := [one.id for one in package.outputs]):
        raise ModelError(f"{file}: outputs {', '.join(outputs)}, expected one with the name {DENOISED}. {remedy}")
    sides = settings.get("windows_px", [])
    if not (isinstance(sides, list) and all(isinstance(one, int) and one >= 4 and one % 2 == 0 for one in sides)):
        raise ModelError(
            f"{file}: setting windows_px {sides!r}, expected a list of even numbers of pixels from 4. {remedy}"
        )
    if settings["kind"] == "patch":
        side, stride = settings.get("patch_px"), settings.get("stride_px")
        if not (isinstance(side, int) and isinstance(stride, int) and 1 <= stride <= side):
            raise ModelError(
                f"{file}: settings patch_px {side!r} and stride_px {stride!r}, expected whole numbers of pixels, "
                f"the stride from 1 to the side of a patch. {remedy}"
            )


def _by_patches(session: Session, image: Image, settings: Mapping[str, Any]) -> Image:
    """The image through a network of patches, blended without seams."""
    side = int(settings["patch_px"])
    name = session.package.inputs[0].id

    def denoised(patches: Image) -> Image:
        parts = (patches[n : n + BATCH, None] for n in range(0, len(patches), BATCH))
        found = np.concatenate([session.run({name: part})[DENOISED] for part in parts])
        return np.ascontiguousarray(found[:, 0])

    return map_patches(image, denoised, PatchGrid(image.shape, (side, side), int(settings["stride_px"])), most=BATCH)


def _quantities(scan: Scan, view: DenoiseView, taken: Image) -> dict[str, float]:
    """Of the part that was measured; ``taken`` is what was added to it."""
    there = view.valid
    if not there.any():
        return {}
    rms = float(np.sqrt(np.mean(taken[there].astype(np.float64) ** 2)))
    found = {"noise_before": view.noise, "taken_away_rms": rms / view.scale}
    factor = nm_per_unit(scan.unit)
    if factor is not None:
        found |= {f"{name}_nm": value * view.scale * factor for name, value in found.items()}
    return found

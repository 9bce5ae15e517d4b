"""Surfaces under a blunt or double tip: what the tip is, what the surface is, and where nobody can know.

A network marks points of the image, another one draws the tip from what lies around them and from what the image says of the
tip otherwise, and says where a second apex is; a third one judges how blunt that tip is, and the last one, told of all that,
draws the surface from the image and its erosions. Scans whose pixels no network was made for are restored without one.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from spm_kernels import certainty_map, dilate, erode
from spm_runtime.models import ModelPackage
from spm_runtime.pipelines.common import Clock, unlike_training
from spm_runtime.pipelines.relief import (
    RESTORE_CHANNELS,
    ReliefView,
    marks_input,
    relief_view,
    restore_channels,
    surroundings,
    tip_evidence,
    tip_heights,
)
from spm_runtime.pipelines.restored import Restored, check_heights, restored_result
from spm_runtime.pipelines.tiling import run_tiled
from spm_runtime.pipelines.tip_candidates import candidate_facts, chosen_factor
from spm_runtime.pipelines.tip_classical import CLASSICAL, TOUCH, restore_classical
from spm_runtime.pipelines.tip_drawn import tip_code, with_second_apex
from spm_runtime.results import Result
from spm_runtime.scan import Scan
from spm_runtime.session import Session, shared_session

__all__ = ["restore_surface"]

#: Names of the network that marks points whose surroundings tell of the tip, of the one that draws it, and of the one that judges
#: how blunt it is.
MARKS, TIP, JUDGE = "marks", "tip", "judge"
#: The first sees the middle of a scan, at most so many pixels high and wide: the tip is the same everywhere.
MARKED_PX = 1024
#: Height and width of what it sees are multiples of this.
MARKED_MULTIPLE = 8


class _Tip(NamedTuple):
    """What is known of the tip of one image.

    Parameters
    ----------
    heights
        ``(h, w)`` float32 in units of the relief; −inf where there is no tip. As it meets the scan less its plane: of a tilted
        scan, the tip tilted the other way.
    beside
        What the main network is told of it, by the names of its inputs.
    families
        Probabilities of the kinds of tips by name; empty where nobody tells.
    """

    heights: NDArray[np.float32]
    beside: Mapping[str, NDArray[np.float32]]
    families: Mapping[str, float]


def restore_surface(scan: Scan, package: ModelPackage, session: Session, parameters: Mapping[str, float]) -> Result:
    """Give back the surface under a tip.

    Parameters
    ----------
    scan
        A map of heights; missing pixels are NaN.
    package, session
        A model of the task ``restore`` and its loaded network; the package may have the networks ``marks``, ``tip`` and
        ``judge`` attached. Its settings name the ``channels`` that the main network sees and, with a network ``tip``, the
        ``families`` of tips.
    parameters
        Those of the package.

    Returns
    -------
    Result
        As `restored_result` has it, heights in the unit, offset and plane of the scan, and the probabilities ``family_…`` of
        the kinds of tips. Where the package has no network ``tip``, the tip is the blind estimate of ``--model classical``, and
        so is the certainty where the main network does not tell it. Where the pixel size is outside the range of the package,
        all is that of ``--model classical``, and ``instead_of`` names the package.

    Raises
    ------
    ParameterError
        If the scan is no map of heights.
    """
    warnings = check_heights(scan)
    if _is_outside(scan, package):
        return _without_network(scan, package, parameters)
    clock = Clock()
    view = relief_view(scan.image)
    clock.stop("levelling")
    tip = _find_tip(view, package)
    clock.stop("tip")
    seen = _channels(view, tip, [str(name) for name in package.settings["channels"]])
    found = run_tiled(session, seen, beside=tip.beside)
    clock.stop("network")
    certainty = found["touched"] if "touched" in found else _touched(view, tip.heights)
    clock.stop("certainty")
    return restored_result(
        scan,
        package.reference,
        Restored(view.heights(found["restored"]), certainty, tip.heights * np.float32(view.scale)),
        provider=session.provider,
        parameters=parameters,
        timings_s=clock.laps,
        quantities={f"family_{name}": chance for name, chance in tip.families.items()},
        warnings=(*session.warnings, *warnings, *unlike_training(scan, package, "the restored surface")),
        wider="a scan with larger pixels would show it",
    )


def _is_outside(scan: Scan, package: ModelPackage) -> bool:
    low, high = package.pixel_size_nm
    return scan.pixel_size_nm is not None and not all(low <= size <= high for size in scan.pixel_size_nm)


def _without_network(scan: Scan, package: ModelPackage, parameters: Mapping[str, float]) -> Result:
    """What the built-in method says; parameters of the package that have the name of one of its own count for it."""
    result = CLASSICAL.run(scan, {**CLASSICAL.resolve(None), **parameters})
    low, high = package.pixel_size_nm
    sizes = " × ".join(f"{size:.3g}" for size in scan.pixel_size_nm or ())
    said = (
        f"pixels of {sizes} nm are outside the range that model {package.name} was made for ({low:g} to {high:g} nm): the "
        f"surface is restored without a network (--model {CLASSICAL.name})"
    )
    return dataclasses.replace(result, warnings=(said, *result.warnings), instead_of=package.reference)


def _find_tip(view: ReliefView, package: ModelPackage) -> _Tip:
    if TIP not in package.attached:
        seen = np.where(view.valid, view.image, np.float32(np.nan))
        return _Tip(restore_classical(seen).tip, {}, {})
    marks = shared_session(package.attached[MARKS], "cpu").run({"image": _middle(view)[None]})
    around = surroundings(*(marks[name][0] for name in ("points", "values", "features")))
    evidence = np.concatenate([tip_evidence(view), around])
    found = shared_session(package.attached[TIP], "cpu").run({"evidence": evidence[None]})
    names = [str(name) for name in package.settings["families"]]
    families = dict(zip(names, found["families"][0].tolist(), strict=True))
    visible = with_second_apex(found["visible"][0, 0], found["second"][0, 0], evidence)
    drawn, code = tip_heights(visible, view.local), tip_code(found["families"][0], evidence, visible)
    facts = np.concatenate([candidate_facts(view, drawn), code])[None]
    errors = shared_session(package.attached[JUDGE], "cpu").run({"facts": facts})["errors"][0]
    told = np.concatenate([code, errors])[None]
    return _Tip(np.float32(chosen_factor(errors)) * drawn, {"code": told}, families)


def _middle(view: ReliefView) -> NDArray[np.float32]:
    """What the network that marks points sees, ``(1, H, W)``; repeated at the border up to the multiple that it needs."""
    whole = marks_input(view)
    starts = [max((n - MARKED_PX) // 2, 0) for n in whole.shape[1:]]
    middle = whole[:, starts[0] : starts[0] + MARKED_PX, starts[1] : starts[1] + MARKED_PX]
    return np.pad(middle, [(0, 0), *((0, -n % MARKED_MULTIPLE) for n in middle.shape[1:])], mode="edge")


def _channels(view: ReliefView, tip: _Tip, names: list[str]) -> NDArray[np.float32]:
    """What the main network sees, ``(C, H, W)``."""
    if names == ["image"]:  # neither an erosion nor a certainty map is needed
        return view.image[None]
    seen = dict(zip(RESTORE_CHANNELS, restore_channels(view, tip.heights), strict=True))
    return np.stack([seen[name] for name in names])


def _touched(view: ReliefView, tip: NDArray[np.float32]) -> NDArray[np.float32]:
    """Where a tip touched, if it is that one: 1 or 0."""
    seen = np.where(view.valid, view.image, np.float32(np.nan))
    certain = certainty_map(dilate(erode(seen, tip), tip), tip, tolerance=TOUCH)
    return certain.astype(np.float32)

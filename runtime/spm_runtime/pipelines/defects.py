"""Defects on surfaces: a network that finds steps, centres, extents and classes, and the maps of the patch autoencoder.

Source: UCL report (character map, error map, union mask, classes). What it left open is closed here: steps are found first and
are no defects, every pixel up to the border is covered, the threshold of the error map follows the noise of the image, and a
surface that is unlike the training is said to be.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from spm_runtime.errors import ScanError
from spm_runtime.levelling import fill_with_nearest
from spm_runtime.models import ModelPackage
from spm_runtime.pipelines.common import Clock, unlike_training
from spm_runtime.pipelines.defect_groups import DefectGroups, defect_groups
from spm_runtime.pipelines.defect_mask import EIGHT
from spm_runtime.pipelines.directions import confirmed, other_direction, shift_between
from spm_runtime.pipelines.marks import Marks, find_marks, regions_of
from spm_runtime.pipelines.patch_maps import PatchMaps, patch_maps
from spm_runtime.pipelines.surface import SurfaceImage, finder_input, in_unit_range, nm_per_unit, on_working_pixels
from spm_runtime.pipelines.turning import run_mirrored
from spm_runtime.pipelines.unexplained import alarm_level, find_unexplained
from spm_runtime.results import Defects, Map, Result
from spm_runtime.scan import Scan
from spm_runtime.session import Session, shared_session
from spm_runtime.terraces import find_terraces

__all__ = ["find_defects"]

Pixel = TypeVar("Pixel", bound=np.generic)

#: Class of what the error map shows and the finder has no name for.
OTHER = "other"
#: A group gives its name to what is found by its look alone where so large a share of it is of one class.
MOST = 0.5
#: A pixel is at a step where the finder says so with this probability.
STEP = 0.5
#: What may be a step, to the autoencoder, from this probability on.
MAYBE_STEP = 0.2
#: Shorter pieces of a step are not reported.
SHORTEST_STEP_NM, SHORTEST_STEP_PX = 1.5, 8.0
#: Around a step, and around what is missing, so many working pixels of the error map say nothing: windows that hold an edge
#: reconstruct badly.
BESIDE_STEP_PX = 4


@dataclass(frozen=True, eq=False)
class _Seen:
    """What is known of one image, on the working pixels.

    Parameters
    ----------
    surface
        The image.
    marks, regions
        What the finder found, and which pixels belong to each (−1 for none).
    steps
        ``(H, W)`` bool.
    edges
        ``(H, W)`` bool: all that may be a step, short pieces and doubtful ones too.
    levelled
        ``(H, W)`` float32 heights levelled terrace by terrace; NaN where missing.
    rough
        There are no terraces to be told apart.
    """

    surface: SurfaceImage
    marks: Marks
    regions: NDArray[np.int32]
    steps: NDArray[np.bool_]
    edges: NDArray[np.bool_]
    levelled: NDArray[np.float32]
    rough: bool


def find_defects(scan: Scan, package: ModelPackage, session: Session, parameters: Mapping[str, float]) -> Result:
    """Find point defects and steps on a surface.

    Parameters
    ----------
    scan
        A constant-current image or another map of a surface; missing pixels are NaN.
    package, session
        A model of the task ``defects`` and its loaded finder; the package may have the patch autoencoders attached as
        ``encoder``, ``decoder`` and ``classes``.
    parameters
        ``lower_bound`` (lowest score), ``confirm`` (1 looks for each defect in the other scan direction), ``unexplained`` (1
        reports what only the error map shows, as class ``other``) and ``false_alarms`` (chance of such a report in an image
        without defects).

    Returns
    -------
    Result
        With `Defects` and the maps ``mask``, ``steps``, ``class_map`` and, with autoencoders, ``character_map`` and
        ``error_map``; the quantities ``step_length_nm`` or ``step_length_px``, ``defects_per_nm2`` where calibrated, and
        ``novelty`` (above 1: unlike the training) and ``strongest_unexplained`` (error in units of the noise).
        Defects have a ``group`` where ``classes`` is attached.
    """
    clock = Clock()
    seen = _look(scan, session, parameters["lower_bound"])
    clock.stop("finder")
    warnings = [*session.warnings, *unlike_training(scan, package, "the defects")]
    if scan.pixel_size_nm is None:
        warnings.append(
            "the file gives no pixel size, and without it atoms cannot be told from defects: set it with --pixel-size-nm"
        )
    if seen.rough:
        warnings.append(
            "the surface is too rough for terraces: what is marked are its largest features, look at them by eye"
        )
    patches, settings, strongest = None, package.settings, 0.0
    mask = seen.regions >= 0
    if {"encoder", "decoder"} <= set(package.attached):
        patches = _patches(seen, package)
        clock.stop("patches")
        unexplained = find_unexplained(patches, seen.regions >= 0, _beside(seen), settings)
        alarms = unexplained.above(alarm_level(settings, parameters["false_alarms"]))
        strongest, mask = unexplained.strongest, mask | alarms
        if parameters["unexplained"]:
            seen = _with_others(seen, alarms)
        warnings += _novelty(patches.typical_distance(seen.surface.valid), settings)
        clock.stop("mask")
    groups = None
    if "classes" in package.attached:
        groups = _groups(seen, package)
        seen = _with_names(seen, groups)
        clock.stop("groups")
    names = (*(str(name) for name in settings["classes"]), OTHER)
    defects = _defects(seen, names)
    if groups is not None:
        defects = replace(defects, group=groups.group)
    if parameters["confirm"]:
        try:
            defects = _confirm(scan, defects, session, parameters["lower_bound"], names)
        except ScanError as error:  # what was measured in this direction stays true
            warnings.append(f"no defect is confirmed, the other scan direction cannot be read: {error}")
        clock.stop("directions")
    maps = _maps(scan, seen, defects, mask, patches)
    clock.stop("maps")
    return Result(
        scan=scan,
        task="defects",
        model=package.reference,
        provider=session.provider,
        parameters=dict(parameters),
        timings_s=clock.laps,
        defects=defects,
        maps=maps,
        quantities=_quantities(scan, seen, defects, patches, settings, strongest),
        warnings=tuple(warnings),
    )


def _look(scan: Scan, session: Session, lower_bound: float) -> _Seen:
    """Run the finder on the scan and its mirror images, and find the terraces."""
    surface = on_working_pixels(scan.image, scan.pixel_size_nm, nm_per_unit(scan.unit))
    channels = session.package.settings["channels"]
    found = run_mirrored(session, finder_input(surface, channels))
    marks = find_marks(found["presence"], found["radius_px"], found["kind"], threshold=lower_bound, valid=surface.valid)
    inside = np.where(surface.valid, found["inside"], np.float32(0))
    regions = regions_of(marks, inside)
    steps = _long_enough((found["step"] > STEP) & surface.valid, surface)
    edges, rough = (found["step"] > MAYBE_STEP) & surface.valid, False
    levelled = np.where(surface.valid, surface.heights, np.float32(np.nan))
    if surface.nm_per_unit is not None:  # a current has no terraces
        terraces = find_terraces(levelled * np.float32(surface.nm_per_unit), surface.pixel_size_nm)
        levelled, edges, rough = terraces.levelled, edges | terraces.steps, terraces.rough
        # Each sees steps that the other does not: the finder narrow terraces, the terraces broad or bent edges. Where both see
        # one, or the finder a defect, the finder has the say.
        told = ndimage.binary_dilation(steps | (regions >= 0), iterations=BESIDE_STEP_PX)
        steps = steps | _long_enough(terraces.steps & ~told, surface)
    return _Seen(surface, marks, regions, steps, edges, levelled, rough)


def _long_enough(steps: NDArray[np.bool_], surface: SurfaceImage) -> NDArray[np.bool_]:
    """The pieces that are long enough for the edge of a terrace."""
    pieces, count = ndimage.label(steps, EIGHT)
    least = SHORTEST_STEP_PX
    if surface.pixel_size_nm is not None:
        least = max(least, SHORTEST_STEP_NM / surface.pixel_size_nm)
    keep = np.zeros(count + 1, bool)
    for number, box in enumerate(ndimage.find_objects(pieces), start=1):
        keep[number] = np.hypot(*(side.stop - side.start for side in box)) >= least
    return np.asarray(keep[pieces])


def _patches(seen: _Seen, package: ModelPackage) -> PatchMaps:
    """What the patch autoencoder says of the image, levelled terrace by terrace and without the edges between them."""
    settings = package.settings
    levelled, beside = seen.levelled, _beside(seen)
    if not beside.all():
        # An edge that is left would decide the range of the image, and spoil all windows that hold it.
        levelled = np.where(seen.surface.valid, fill_with_nearest(levelled, ~beside), np.float32(np.nan))
    image = in_unit_range(levelled, float(settings["clip_percent"]))
    encoder, decoder = (shared_session(package.attached[name], "cpu") for name in ("encoder", "decoder"))
    return patch_maps(
        encoder, decoder, image, clusters=int(settings["clusters"]), smoothing_px=float(settings["smoothing_px"])
    )


def _beside(seen: _Seen) -> NDArray[np.bool_]:
    """Pixels near edges and near what is missing."""
    return np.asarray(ndimage.binary_dilation(seen.edges | ~seen.surface.valid, iterations=BESIDE_STEP_PX))


def _with_others(seen: _Seen, unexplained: NDArray[np.bool_]) -> _Seen:
    """Append the regions that only the error map shows."""
    pieces, count = ndimage.label(unexplained, EIGHT)
    if not count:
        return seen
    marks, index = seen.marks, np.arange(1, count + 1)
    centre = np.asarray(ndimage.center_of_mass(unexplained, pieces, index)).reshape(-1, 2)
    area = np.bincount(pieces.ravel(), minlength=count + 1)[1:]
    lowest = float(marks.score.min()) if len(marks) else 0.5
    added = Marks(
        np.concatenate([marks.yx_px, centre]),
        np.concatenate([marks.score, np.full(count, min(lowest, 0.5), np.float32)]),
        np.concatenate([marks.radius_px, np.sqrt(area / np.pi)]),
        np.concatenate([marks.chance, np.zeros((count, marks.chance.shape[1]), np.float32)]),
    )
    regions = np.where(pieces > 0, len(marks) + pieces - 1, seen.regions).astype(np.int32)
    return replace(seen, marks=added, regions=regions)


def _groups(seen: _Seen, package: ModelPackage) -> DefectGroups:
    """What the second patch autoencoder says of every mark."""
    shares = np.array(package.settings["mixture_classes"], np.float32)
    session = shared_session(package.attached["classes"], "cpu")
    return defect_groups(session, seen.levelled, seen.marks.yx_px, shares)


def _with_names(seen: _Seen, groups: DefectGroups) -> _Seen:
    """Marks that the finder has no name for have that of their group, where most of the group is of one class."""
    chance = seen.marks.chance
    unnamed = chance.max(axis=1, initial=0.0) == 0
    sure = groups.chance.max(axis=1, initial=0.0) > MOST
    named = np.where((unnamed & sure)[:, None], groups.chance, chance)
    return replace(seen, marks=replace(seen.marks, chance=named))


def _novelty(typical: float, settings: Mapping[str, object]) -> list[str]:
    """A sentence for a surface that is unlike those of the training."""
    known = float(str(settings["novelty_distance"]))
    if typical <= known:
        return []
    return [
        f"this surface is unlike those that the model was trained on (latent distance {typical:.2g}, 99 of 100 images of the "
        f"training are below {known:.2g}): look at the defects by eye"
    ]


def _defects(seen: _Seen, names: tuple[str, ...]) -> Defects:
    """Marks on the pixels of the scan."""
    marks, factor = seen.marks, np.asarray(seen.surface.factor)
    boxes = ndimage.find_objects(seen.regions + 1, max_label=len(marks))
    # A mark may have lost all its pixels to a better one at the same place; it is a pixel all the same.
    size = np.array(
        [[1.0, 1.0] if box is None else [float(side.stop - side.start) for side in box] for box in boxes]
    ).reshape(-1, 2)
    area = np.maximum(np.bincount(seen.regions[seen.regions >= 0], minlength=len(marks)), 1).astype(np.float64)
    named = marks.chance.max(axis=1, initial=0.0) > 0
    kind = np.where(named, np.argmax(np.pad(marks.chance, ((0, 0), (0, 1))), axis=1), len(names) - 1)
    return Defects(
        yx_px=(marks.yx_px + 0.5) / factor - 0.5,
        size_px=size / factor,
        area_px=area / float(factor.prod()),
        kind=kind.astype(np.int32),
        names=names,
        probability=np.where(named, marks.chance.max(axis=1, initial=0.0), 1.0).astype(np.float32),
        score=np.asarray(marks.score, np.float32),
        confirmed=np.full(len(marks), -1, np.int8),
    )


def _confirm(scan: Scan, defects: Defects, session: Session, lower_bound: float, names: tuple[str, ...]) -> Defects:
    """The defects with what the other scan direction says of them; half the score is enough there."""
    other = other_direction(scan)
    if other is None or not len(defects):
        return defects
    there = _defects(_look(other, session, 0.5 * lower_bound), names)
    answer = confirmed(defects, there, shift_between(scan, other), other)
    return replace(defects, confirmed=answer)


def _maps(
    scan: Scan, seen: _Seen, defects: Defects, mask: NDArray[np.bool_], patches: PatchMaps | None
) -> tuple[Map, ...]:
    """Everything in the size of the scan."""
    rows, columns = (
        np.minimum(((np.arange(size) + 0.5) * factor).astype(int), limit - 1)
        for size, factor, limit in zip(scan.shape, seen.surface.factor, seen.surface.valid.shape, strict=True)
    )

    def full(values: NDArray[Pixel]) -> NDArray[Pixel]:
        return np.asarray(values[rows[:, None], columns], values.dtype)

    classes = np.concatenate([defects.kind + 1, [0]]).astype(np.uint8)[seen.regions]  # −1, no defect, is the last
    there = scan.valid
    maps = [
        Map("mask", full(mask) & there),
        Map("steps", full(seen.steps) & there),
        Map("class_map", np.where(there, full(classes), 0).astype(np.uint8), labels=("none", *defects.names)),
    ]
    if patches is not None:
        labels = (patches.character + 1).astype(np.uint8)
        clusters = ("none", *(f"cluster {number}" for number in range(1, int(labels.max()) + 1)))
        maps += [
            Map("character_map", np.where(there, full(labels), 0).astype(np.uint8), labels=clusters),
            Map("error_map", np.where(there, full(patches.error), np.nan).astype(np.float32)),
        ]
    return tuple(maps)


def _quantities(
    scan: Scan,
    seen: _Seen,
    defects: Defects,
    patches: PatchMaps | None,
    settings: Mapping[str, object],
    strongest: float,
) -> dict[str, float]:
    """Numbers that describe the whole scan."""
    # A line of the step map is about as long as its skeleton has pixels; diagonal ones are longer.
    length = _length_px(seen.steps)
    pixel = seen.surface.pixel_size_nm
    found = {"step_length_px": length / float(np.sqrt(np.prod(seen.surface.factor)))}
    if pixel is not None:
        found["step_length_nm"] = length * pixel
        found["defects_per_nm2"] = len(defects) / max(float(seen.surface.valid.sum()) * pixel**2, 1e-12)
    if patches is not None:
        found["novelty"] = patches.typical_distance(seen.surface.valid) / float(str(settings["novelty_distance"]))
        found["strongest_unexplained"] = strongest
    return found


def _length_px(steps: NDArray[np.bool_]) -> float:
    """Length of all lines of a mask."""
    from skimage.morphology import skeletonize  # half a second to import

    if not steps.any():
        return 0.0
    line: NDArray[np.bool_] = skeletonize(steps) > 0  # type: ignore[no-untyped-call]
    straight = (line[1:] & line[:-1]).sum() + (line[:, 1:] & line[:, :-1]).sum()
    diagonal = (line[1:, 1:] & line[:-1, :-1]).sum() + (line[1:, :-1] & line[:-1, 1:]).sum()
    return float(straight + np.sqrt(2) * diagonal)

"""Find the steps of a surface and level it terrace by terrace."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from spm_runtime.errors import ParameterError
from spm_runtime.levelling import fill_with_nearest
from spm_runtime.terraces._adsorbates import without_adsorbates
from spm_runtime.terraces._edges import StepResponse, respond, without_scars
from spm_runtime.terraces._open import open_steps
from spm_runtime.terraces._regions import basins, borders, join, merge, renumbered
from spm_runtime.terraces._rows import BIWEIGHT_STD, SAMPLES, align_within, first_levelling, fit_surface

__all__ = ["LEAST_STEP_NM", "Terraces", "find_terraces"]

#: The mean rise along a border that makes it a step: half of the lowest common one, 0.136 nm of Si(001), because the filter sees
#: less than the whole height where edges bend or lie close together.
LEAST_STEP_NM = 0.065

#: σ of the edge filter across the edge: wider than an atom, narrower than a terrace.
WIDTH_NM = 0.35
NARROWEST_PX, WIDEST_PX = 1.5, 16.0

#: Pixels are averaged in squares as long as the filter stays so wide: what it sees hardly changes, and the time falls fourfold.
NARROWEST_BINNED_PX = 2.0

#: Size of a pixel where the file does not say: that of an image of 256 pixels that shows atoms on 20 nm.
ASSUMED_PIXEL_NM = 0.08

#: Part of a border that rises less than this share of a step is none; a border of which more than that is none ends in the middle
#: of a terrace, as at a screw dislocation.
WEAK, OPEN = 0.6, 0.3

#: A border is a step where it is one along half of its length, however high: its rise counts up to so many times the lowest.
MOST = 2.0

#: So many filter widths of a border are as good as no border.
UNSURE = 2.0

#: Rows are aligned nearer to edges than heights are measured: beside a step along them little else is left.
NARROW = 0.75

#: A piece of a step that is shorter than this, in nm and in pixels, is not reported.
SHORTEST_NM, SHORTEST_PX = 1.5, 8.0

#: A surface is rough where the heights on its terraces spread by this share of the steps between them. Random fields, cut into
#: terraces, have 0.31 to 1.2, a film of graphite 0.26; crystals, the corrugation of 7×7 included, mostly below 0.1, a bunch of
#: steps 0.21.
ROUGH = 0.24

#: Smaller terraces than this are levelled by their height alone.
PLANE_PX = 600

#: Images smaller than this are taken for one terrace.
SMALLEST_PX = 16


@dataclass(frozen=True, eq=False)
class Terraces:
    """A surface taken apart.

    Parameters
    ----------
    levelled
        ``(H, W)`` float32 nm: heights without line offsets, tilt, bow and the height of each terrace; NaN where missing.
    steps
        ``(H, W)`` bool: pixels on either side of an edge, two wide in all.
    terrace
        ``(H, W)`` int32: 0 for the largest terrace, then by falling area; −1 where the scan is missing.
    height_nm
        ``(K,)`` float64 height of each terrace above the lowest.
    width_px
        Gaussian σ of the filter that found the edges: steps that lie closer than about two of them are seen as one.
    rough
        Whether the surface goes up and down as much as its steps would: then it has no terraces that could be told apart, there
        are no steps and one terrace, and `levelled` lacks nothing but a plane.
    """

    levelled: NDArray[np.float32]
    steps: NDArray[np.bool_]
    terrace: NDArray[np.int32]
    height_nm: NDArray[np.float64]
    width_px: float
    rough: bool = False


def find_terraces(
    heights_nm: NDArray[np.float32], pixel_size_nm: float | None, *, least_step_nm: float = LEAST_STEP_NM
) -> Terraces:
    """Find steps and terraces in a constant-current or topographic image.

    Parameters
    ----------
    heights_nm
        ``(H, W)`` float32 heights in nm, as measured; NaN where missing.
    pixel_size_nm
        Side of a pixel; None where it is not known (0.08 nm is then assumed).
    least_step_nm
        Lowest mean rise along an edge that counts as a step.

    Returns
    -------
    Terraces

    Raises
    ------
    ParameterError
        If the image is not two-dimensional, or a size is not positive.

    Notes
    -----
    A step along the fast axis that passes from one row to the next over the whole frame cannot be told from a change of the tip
    and is taken for one. Where rows were aligned before, both look like ramps: give heights as measured. Islands smaller than
    about 12 nm² are taken for adsorbates.
    """
    if heights_nm.ndim != 2:
        raise ParameterError(f"image of shape {heights_nm.shape}: expected (H, W).")
    pixel = ASSUMED_PIXEL_NM if pixel_size_nm is None else float(pixel_size_nm)
    for name, value in (("pixel_size_nm", pixel), ("least_step_nm", least_step_nm)):
        if not (np.isfinite(value) and value > 0):
            raise ParameterError(f"{name} {value:g}: expected a positive number of nanometres.")
    there = np.isfinite(heights_nm)
    width_px = float(np.clip(WIDTH_NM / pixel, NARROWEST_PX, WIDEST_PX))
    if min(heights_nm.shape) < SMALLEST_PX or there.sum() < SMALLEST_PX**2:
        middle = np.median(heights_nm[there]) if there.any() else 0.0
        return _undivided(heights_nm - middle, there, width_px)
    heights = heights_nm.astype(np.float64) - float(np.median(heights_nm[there]))
    # Rows are aligned better once the terraces are known, and terraces are found better in aligned rows.
    level = first_levelling(heights, pixel)
    labels, steps = _divide(level, there, width_px, pixel, least_step_nm)
    beside = _beside(steps, there, width_px)
    if steps.any():
        level = align_within(level, labels, _beside(steps, there, NARROW * width_px), pixel)
    level -= fit_surface(level, labels, beside).background
    labels, steps = _divide(level, there, width_px, pixel, least_step_nm)
    fit = fit_surface(level, labels, _beside(steps, there, width_px))
    labels, steps = _without_equals(labels, steps, fit.terrace, WEAK * least_step_nm)
    order = np.argsort(-np.bincount(labels[there], minlength=int(labels.max()) + 1), kind="stable")
    labels = np.argsort(order)[labels].astype(np.int32)
    beside = _beside(steps, there, width_px)
    fit = fit_surface(level, labels, beside)
    levelled = _level_planes(level - fit.background - fit.terrace[labels], labels, beside)
    if _is_rough(levelled, labels, fit.terrace, beside, width_px):
        return _undivided(_level_planes(heights, np.zeros_like(labels), there), there, width_px, rough=True)
    return Terraces(
        levelled.astype(np.float32), steps & there, np.where(there, labels, np.int32(-1)),
        fit.terrace - fit.terrace.min(), width_px,
    )  # fmt: skip


def _undivided(
    levelled: NDArray[np.floating], there: NDArray[np.bool_], width_px: float, *, rough: bool = False
) -> Terraces:
    """A surface of one terrace."""
    terrace = there.astype(np.int32) - 1
    return Terraces(levelled.astype(np.float32), np.zeros_like(there), terrace, np.zeros(1), width_px, rough)


def _divide(
    level: NDArray[np.float64], there: NDArray[np.bool_], width_px: float, pixel: float, least_nm: float
) -> tuple[NDArray[np.int32], NDArray[np.bool_]]:
    """Terraces as labels from 0 on, and the pixels at their edges."""
    image = without_scars(fill_with_nearest(level, there).astype(np.float32))
    by = max(1, int(width_px // NARROWEST_BINNED_PX))
    image, width_px = _binned(image, by), width_px / by
    response = respond(image, width_px=width_px)
    parts = basins(response)
    edges = borders(parts, response, most=MOST * least_nm)
    labels = merge(parts, edges, least=least_nm, unsure_px=UNSURE * width_px)
    soft = ndimage.gaussian_filter(image, width_px)
    labels = without_adsorbates(labels, soft, width_px=width_px, pixel_size_nm=by * pixel)
    joined, steps = _true_edges(labels, response, least_nm)
    ends = open_steps(response, steps, least=least_nm, pixel_size_nm=by * pixel)
    labels, joined, steps, ends = (_unbinned(part, by, level.shape) for part in (labels, joined, steps, ends))
    return joined, _long_enough((steps & _outline(labels)) | ends, pixel)


def _is_rough(
    levelled: NDArray[np.float64],
    labels: NDArray[np.int32],
    height: NDArray[np.float64],
    use: NDArray[np.bool_],
    width_px: float,
) -> bool:
    """Whether the terraces, seen by the filter and away from edges, are hardly flatter than the steps between them are high."""
    rises = [np.abs(height[one] - height[other])[one != other] for one, other in _neighbours(labels)]
    step = np.concatenate(rises)
    if not step.size:
        return False
    soft = ndimage.gaussian_filter(np.nan_to_num(levelled), width_px)[use]
    return bool(1.4826 * np.median(np.abs(soft - np.median(soft))) > ROUGH * np.median(step))


def _binned(image: NDArray[np.float32], by: int) -> NDArray[np.float32]:
    """Means over squares; the last ones take what is left."""
    if by == 1:
        return image
    padded = np.pad(image, [(0, -size % by) for size in image.shape], mode="edge")
    height, width = (size // by for size in padded.shape)
    return np.asarray(padded.reshape(height, by, width, by).mean(axis=(1, 3)), np.float32)


def _unbinned(part: NDArray[Any], by: int, shape: tuple[int, ...]) -> NDArray[Any]:
    return part.repeat(by, axis=0).repeat(by, axis=1)[: shape[0], : shape[1]]


def _true_edges(
    labels: NDArray[np.int32], response: StepResponse, least_nm: float
) -> tuple[NDArray[np.int32], NDArray[np.bool_]]:
    """Edge pixels where the surface does rise; terraces that are one around the end of an edge are joined."""
    edges = borders(labels, response, most=MOST * least_nm)
    steps = np.zeros(labels.shape, bool)
    if not len(edges.pair):
        return labels, steps
    strength = ndimage.maximum_filter(response.strength * response.crest, 3).ravel()[edges.place].max(axis=1)
    weak = strength < WEAK * least_nm
    steps.ravel()[edges.place[~weak]] = True
    share = np.bincount(edges.owner, weak, minlength=len(edges.pair)) / np.bincount(edges.owner)
    return join(labels, edges.pair[share > OPEN]), steps


def _without_equals(
    labels: NDArray[np.int32], steps: NDArray[np.bool_], height: NDArray[np.float64], least_nm: float
) -> tuple[NDArray[np.int32], NDArray[np.bool_]]:
    """Join neighbours that are on the same level as a whole: the valley between them was part of the corrugation."""
    sides = _neighbours(labels)
    pairs = np.concatenate([np.stack([one[one != other], other[one != other]], axis=1) for one, other in sides])
    pairs = pairs[np.abs(height[pairs[:, 0]] - height[pairs[:, 1]]) < least_nm]
    joined = join(labels, pairs.astype(np.int64))
    kept = steps & ~(_outline(labels) & ~_outline(joined))
    return joined, kept


def _neighbours(labels: NDArray[np.int32]) -> tuple[tuple[NDArray[np.int32], NDArray[np.int32]], ...]:
    return (labels[:-1], labels[1:]), (labels[:, :-1], labels[:, 1:])


def _outline(labels: NDArray[np.int32]) -> NDArray[np.bool_]:
    """Pixels with a neighbour of another label."""
    out = np.zeros(labels.shape, bool)
    for axis, (one, other) in enumerate(_neighbours(labels)):
        apart = one != other
        out[(slice(None),) * axis + (slice(None, -1),)] |= apart
        out[(slice(None),) * axis + (slice(1, None),)] |= apart
    return out


def _long_enough(steps: NDArray[np.bool_], pixel: float) -> NDArray[np.bool_]:
    """Without the pieces that are too short for a step; an edge is two pixels wide."""
    pieces, count = ndimage.label(steps, np.ones((3, 3)))
    length = np.bincount(pieces.ravel(), minlength=count + 1) / 2
    keep = length >= max(SHORTEST_PX, SHORTEST_NM / pixel)
    keep[0] = False
    return np.asarray(keep[pieces])


def _beside(steps: NDArray[np.bool_], there: NDArray[np.bool_], width_px: float) -> NDArray[np.bool_]:
    """Pixels away from edges, where a height is that of one terrace; all where hardly any would be left."""
    if not steps.any():
        return there
    away = there & (ndimage.distance_transform_edt(~steps) > 1.5 * width_px)
    return away if away.sum() > 0.2 * there.sum() else there


def _level_planes(rest: NDArray[np.float64], labels: NDArray[np.int32], use: NDArray[np.bool_]) -> NDArray[np.float64]:
    """Subtract from each terrace that is large enough the plane that most of its pixels lie in."""
    out = rest.copy()
    for number, box in enumerate(ndimage.find_objects(renumbered(labels) + 1)):
        inside = labels[box] == number
        y, x = np.nonzero(inside & use[box] & np.isfinite(rest[box]))
        if len(y) < PLANE_PX:
            continue
        chosen = np.s_[:: max(1, len(y) // SAMPLES)]
        design = np.stack([y[chosen], x[chosen], np.ones(len(y[chosen]))], axis=1).astype(np.float64)
        values = rest[box][y[chosen], x[chosen]]
        plane = np.array([0.0, 0.0, np.median(values)])
        for _ in range(4):
            off = values - design @ plane
            spread = max(1.4826 * float(np.median(np.abs(off))), 1e-12)
            weight = np.clip(1 - (off / (BIWEIGHT_STD * spread)) ** 2, 0.0, None)
            plane = np.linalg.lstsq(design * weight[:, None], values * weight, rcond=None)[0]
        rows, columns = np.nonzero(inside)
        out[box][rows, columns] -= plane[0] * rows + plane[1] * columns + plane[2]
    return out

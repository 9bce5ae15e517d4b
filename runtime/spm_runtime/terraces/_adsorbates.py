"""Small regions that are no terraces: what stands on a terrace, or is missing from it."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from spm_runtime.terraces._regions import renumbered

__all__ = ["LARGEST_ADSORBATE_NM2", "SMALLEST_ISLAND_NM2", "without_adsorbates"]

#: A region smaller than this is never called a terrace; one larger than that always is.
SMALLEST_ISLAND_NM2, LARGEST_ADSORBATE_NM2 = 12.0, 60.0

#: What is longer than this, and lies along the frame, is no adsorbate but the rim of a terrace.
LONGEST_ADSORBATE_NM = 8.0

#: Of an image of a few nanometres this share is enough for a terrace.
SMALLEST_SHARE = 0.08

#: Between the two sizes a region is an island where its middle is level with its rim within this share of its height:
#: clusters, as a tip images them, are domes, and some molecules rings.
DOME = 0.25

#: What the frame cuts is the corner of a terrace more often than a cluster: it may be so much of a dome where it is not small.
DOME_CUT, CUT_AREAS = 0.42, 1.5

#: A small neighbour along this share of the border may be the other part of a cluster.
PART_SHARE = 0.2

#: A narrow piece of a terrace between two steps: from this area on, where each of two others takes this share of its border and
#: its height lies so far between theirs.
SMALLEST_BETWEEN_NM2, BETWEEN_SHARE, BETWEEN_HEIGHT = 3.0, 0.3, 0.25


def without_adsorbates(
    labels: NDArray[np.int32], soft: NDArray[np.float32], *, width_px: float, pixel_size_nm: float
) -> NDArray[np.int32]:
    """Give small regions that are no islands to the region around them, the smallest first.

    Parameters
    ----------
    labels
        ``(H, W)`` int32 from 0 on.
    soft
        ``(H, W)`` float32 heights smoothed over `width_px`.
    width_px
        Width of the filter that found the edges: nearer to an edge heights are a mixture of both sides.
    pixel_size_nm
        Side of a pixel.
    """
    labels = labels.copy()
    boxes = list(ndimage.find_objects(labels + 1))
    area = np.bincount(labels.ravel()).astype(np.float64)
    largest = LARGEST_ADSORBATE_NM2 / pixel_size_nm**2
    smallest = min(SMALLEST_ISLAND_NM2 / pixel_size_nm**2, SMALLEST_SHARE * labels.size)
    waiting = set(np.flatnonzero(area <= largest).tolist())
    parts: set[int] = set()
    while waiting:
        least = min(waiting, key=lambda number: area[number])
        waiting.discard(least)
        box = _grown(boxes[least], round(4 * width_px) + 2, labels.shape)
        inside = labels[box] == least
        cut = area[least] >= CUT_AREAS * smallest and _touches_frame(boxes[least], labels.shape)
        dome = DOME_CUT if cut else DOME
        if inside.all():
            continue
        ring = ndimage.binary_dilation(inside) & ~inside
        shares = np.bincount(labels[box][ring]) / ring.sum()
        is_wide = _is_island(inside, soft[box], width_px, dome) or _lines_frame(
            boxes[least], labels.shape, LONGEST_ADSORBATE_NM / pixel_size_nm
        )
        is_terrace = (area[least] >= smallest and is_wide) or (
            area[least] >= SMALLEST_BETWEEN_NM2 / pixel_size_nm**2
            and _is_between(labels[box], soft[box], least, np.flatnonzero(shares >= BETWEEN_SHARE), width_px)
        )
        if is_terrace and least not in parts:
            small = np.flatnonzero((shares >= PART_SHARE) & (area[: len(shares)] <= largest))
            rest = _rest_of_dome(labels, soft, boxes, least, small, width_px)
            if rest is None:
                continue
            parts.add(rest)
            shares[rest] = 0.0  # each part goes to the terrace that it covers
        other = int(shares.argmax())
        labels[box][inside] = other
        area[other] += area[least]
        boxes[other] = _union(boxes[least], boxes[other])
        if area[other] > largest:
            waiting.discard(other)
    return renumbered(labels)


def _is_island(inside: NDArray[np.bool_], soft: NDArray[np.float32], width_px: float, dome: float) -> bool:
    """Whether a region is wide enough and flat enough for a terrace."""
    rim = 1.5 * width_px
    # The frame is no edge: an island that it cuts goes on beyond.
    depth = ndimage.distance_transform_edt(np.pad(inside, 1, mode="edge"))[1:-1, 1:-1] * inside
    deepest = float(depth.max())
    if deepest < 2 * rim:
        return False
    away = ndimage.distance_transform_edt(~inside)
    around = (away > rim) & (away < rim + width_px)
    if not around.any():
        return False
    shoulder = float(np.median(soft[(depth >= rim) & (depth <= 1.5 * rim)]))
    middle = float(np.median(soft[depth >= max(1.5 * rim, 0.75 * deepest)]))
    rise = shoulder - float(np.median(soft[around]))
    return abs(middle - shoulder) < dome * abs(rise)


def _rest_of_dome(
    labels: NDArray[np.int32],
    soft: NDArray[np.float32],
    boxes: list[tuple[slice, ...]],
    number: int,
    others: NDArray[np.int64],
    width_px: float,
) -> int | None:
    """The small neighbour that makes a region a dome which stands above everything around it: a cluster on a step."""
    for other in others:
        if _touches_frame(_union(boxes[number], boxes[other]), labels.shape):
            continue  # the upper end of a staircase stands above everything that is seen of it, too
        box = _grown(_union(boxes[number], boxes[other]), round(4 * width_px) + 2, labels.shape)
        one, two = labels[box] == number, labels[box] == other
        both = one | two
        away = ndimage.distance_transform_edt(~both)
        around = (away > 1.5 * width_px) & (away < 2.5 * width_px)
        if not around.any():
            continue
        above = float(np.quantile(soft[box][around], 0.9))
        stands = min(float(np.median(soft[box][one])), float(np.median(soft[box][two]))) > above
        if stands and not _is_island(both, soft[box], width_px, DOME):
            return int(other)
    return None


def _is_between(
    labels: NDArray[np.int32], soft: NDArray[np.float32], number: int, others: NDArray[np.int64], width_px: float
) -> bool:
    """Whether a region climbs from one of two neighbours to the other, as a terrace between two steps does.

    What stands on an edge is higher than both sides.
    """
    if len(others) != 2:
        return False
    inside = labels == number
    away = ndimage.distance_transform_edt(~inside)
    near = (away > 1.5 * width_px) & (away < 4 * width_px)
    if not all((near & (labels == other)).any() for other in others):
        return False
    low, high = sorted(float(np.median(soft[near & (labels == other)])) for other in others)
    margin = BETWEEN_HEIGHT * (high - low)
    return low + margin < float(np.median(soft[inside])) < high - margin


def _touches_frame(box: tuple[slice, ...], shape: tuple[int, ...]) -> bool:
    return any(side.start == 0 or side.stop == size for side, size in zip(box, shape, strict=True))


def _lines_frame(box: tuple[slice, ...], shape: tuple[int, ...], longest_px: float) -> bool:
    """Whether a region lies along half of a side of the frame, as what is seen of a terrace may."""
    for side, along, size, length in zip(box, box[::-1], shape, shape[::-1], strict=True):
        extent = along.stop - along.start
        if (side.start == 0 or side.stop == size) and extent >= max(0.5 * length, longest_px):
            return True
    return False


def _grown(box: tuple[slice, ...], by: int, shape: tuple[int, ...]) -> tuple[slice, ...]:
    return tuple(
        slice(max(side.start - by, 0), min(side.stop + by, size)) for side, size in zip(box, shape, strict=True)
    )


def _union(one: tuple[slice, ...], other: tuple[slice, ...]) -> tuple[slice, ...]:
    return tuple(slice(min(a.start, b.start), max(a.stop, b.stop)) for a, b in zip(one, other, strict=True))

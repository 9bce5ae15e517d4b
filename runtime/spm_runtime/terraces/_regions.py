"""Terraces from edges: basins of the edge map, merged where no step lies between them."""

from __future__ import annotations

import heapq
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import sparse
from skimage.segmentation import watershed

from spm_runtime.terraces._edges import FLAT, StepResponse

__all__ = ["Borders", "basins", "borders", "join", "merge", "renumbered"]

Labels = NDArray[np.int32]


@dataclass(frozen=True, eq=False)
class Borders:
    """Borders between neighbouring regions, one entry each.

    Parameters
    ----------
    pair
        ``(B, 2)`` int64 labels, the smaller one first.
    rise
        ``(B,)`` float64 sum over the border of the rise from the first to the second region, in image unit × pixels.
    length_px
        ``(B,)`` float64 length.
    place
        ``(P, 2)`` int64 flat indices of the two pixels of every pair of neighbours that the borders run between.
    owner
        ``(P,)`` int64 border of each of those pairs.
    """

    pair: NDArray[np.int64]
    rise: NDArray[np.float64]
    length_px: NDArray[np.float64]
    place: NDArray[np.int64]
    owner: NDArray[np.int64]

    @property
    def jump(self) -> NDArray[np.float64]:
        """``(B,)`` mean height of the step along each border, in the unit of the image, never negative."""
        return np.asarray(np.abs(self.rise) / self.length_px)


def basins(response: StepResponse) -> Labels:
    """Watershed basins of the strength, ``(H, W)`` int32 from 0 on: every crest of the map is a border."""
    found = watershed(response.strength)  # type: ignore[no-untyped-call]
    return np.asarray(found - found.min() if found.any() else found, np.int32)


def borders(labels: Labels, response: StepResponse, *, most: float) -> Borders:
    """The borders between regions, with the step at each.

    Parameters
    ----------
    labels
        ``(H, W)`` int32 from 0 on.
    response
        What the edge filter saw.
    most
        A step higher than this counts as this: a border that meets a high step at its end is none.

    Notes
    -----
    What counts is the rise *across* the border, with its sign: a border that runs across a step's flank, and corrugation that
    goes up here and down there, have none. A straight border of n vertical and m horizontal pairs is √(n² + m²) long.
    """
    # Only crests count: a border within a narrow terrace has the flanks of the steps on either side of it at its ends.
    share = response.crest * np.minimum(1.0, most / np.maximum(response.strength, FLAT))
    index = np.arange(labels.size).reshape(labels.shape)
    near, far, rise, axis = [], [], [], []
    for number, up in enumerate(response.uphill * share):
        here, there = (np.s_[:-1, :], np.s_[1:, :]) if number == 0 else (np.s_[:, :-1], np.s_[:, 1:])
        apart = labels[here] != labels[there]
        near.append(index[here][apart])
        far.append(index[there][apart])
        rise.append(0.5 * (up[here][apart] + up[there][apart]).astype(np.float64))
        axis.append(np.full(len(near[-1]), number))
    place = np.stack([np.concatenate(near), np.concatenate(far)], axis=1)
    first, second = labels.ravel()[place[:, 0]].astype(np.int64), labels.ravel()[place[:, 1]].astype(np.int64)
    signed = np.concatenate(rise) * np.where(first < second, 1.0, -1.0)
    base = int(labels.max(initial=0)) + 1
    key, owner = np.unique(np.minimum(first, second) * base + np.maximum(first, second), return_inverse=True)
    counts = [np.bincount(owner[np.concatenate(axis) == number], minlength=len(key)) for number in (0, 1)]
    return Borders(
        pair=np.stack([key // base, key % base], axis=1),
        rise=np.asarray(np.bincount(owner, signed, minlength=len(key)), np.float64),
        length_px=np.hypot(counts[0], counts[1]),
        place=place,
        owner=np.asarray(owner, np.int64),
    )


def merge(labels: Labels, edges: Borders, *, least: float, unsure_px: float) -> Labels:
    """Merge regions over the lowest step first, until every step that is left is `least` high.

    Parameters
    ----------
    labels
        ``(H, W)`` int32 from 0 on.
    edges
        Their borders.
    least
        Height of a step in the unit of the image.
    unsure_px
        A border of this length tells half of what a long one does: short ones are merged late.

    Returns
    -------
    ``(H, W)`` int32 labels from 0 on.
    """

    def rank(rise: float, length: float) -> float:
        return (abs(rise) + least * unsure_px) / (length + unsure_px)

    count = int(labels.max(initial=0)) + 1
    # Of each region its neighbours, with the rise towards them and the length of the border.
    around: list[dict[int, tuple[float, float]]] = [{} for _ in range(count)]
    heap = []
    for (a, b), rise, length in zip(edges.pair.tolist(), edges.rise.tolist(), edges.length_px.tolist(), strict=True):
        around[a][b], around[b][a] = (rise, length), (-rise, length)
        if abs(rise) < least * length:  # the others wait until a merger changes them
            heap.append((rank(rise, length), a, b, length))
    heapq.heapify(heap)
    into = np.arange(count)
    while heap:
        _, a, b, length = heapq.heappop(heap)
        if around[a].get(b, (0.0, 0.0))[1] != length:  # an older state of this border
            continue
        if len(around[a]) < len(around[b]):
            a, b = b, a
        into[b] = a
        del around[a][b]
        for c, (rise, length) in around[b].items():
            if c == a:
                continue
            del around[c][b]
            before = around[a].get(c, (0.0, 0.0))
            both = (before[0] + rise, before[1] + length)
            around[a][c], around[c][a] = both, (-both[0], both[1])
            if abs(both[0]) < least * both[1]:
                heapq.heappush(heap, (rank(*both), a, c, both[1]))
        around[b] = {}
    while not np.array_equal(into[into], into):
        into = into[into]
    return renumbered(into[labels])


def join(labels: Labels, pairs: NDArray[np.int64]) -> Labels:
    """Give regions that are joined by a chain of pairs one label.

    Parameters
    ----------
    labels
        ``(H, W)`` int32 from 0 on.
    pairs
        ``(N, 2)`` labels that belong together.
    """
    count = int(labels.max(initial=0)) + 1
    graph = sparse.coo_array((np.ones(len(pairs)), (pairs[:, 0], pairs[:, 1])), shape=(count, count))
    return renumbered(sparse.csgraph.connected_components(graph, directed=False)[1][labels])


def renumbered(labels: NDArray[np.integer]) -> Labels:
    """The same regions, numbered from 0 on without gaps; no label is negative."""
    used = np.bincount(labels.ravel()) > 0
    return np.asarray((np.cumsum(used) - 1)[labels], np.int32)

"""Scores of found positions against the truth, matched one to one.

Source for the tolerance and the standard meaning of precision and recall: the thesis of AtomID-net swaps the two words in
its equations 10 and 11; here precision is TP / found and recall TP / true.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import linear_sum_assignment
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components
from scipy.spatial import cKDTree

__all__ = ["Counts", "Judgement", "Matches", "chamfer_px", "count", "judge", "match", "unforgiven"]


@dataclass(frozen=True, eq=False)
class Matches:
    """One-to-one pairs.

    Parameters
    ----------
    found, truth
        ``(M,)`` int64 indices of the pairs, ascending in `found`.
    distance_px
        ``(M,)`` float64 distances of the pairs.
    """

    found: NDArray[np.int64]
    truth: NDArray[np.int64]
    distance_px: NDArray[np.float64]

    def __len__(self) -> int:
        return len(self.found)


def match(found_yx_px: NDArray[np.float64], true_yx_px: NDArray[np.float64], tolerance_px: float) -> Matches:
    """Pair found with true positions: as many pairs within the tolerance as possible, then the smallest total distance.

    Parameters
    ----------
    found_yx_px
        ``(N, 2)`` found positions.
    true_yx_px
        ``(M, 2)`` true positions.
    tolerance_px
        Largest distance of a pair, inclusive.

    Returns
    -------
    Matches

    Notes
    -----
    Only positions within the tolerance of each other can pair, so the assignment falls apart into the connected
    components of that graph, each solved exactly by itself. Every distance is below the price of one missing pair.
    """
    found = np.asarray(found_yx_px, dtype=np.float64).reshape(-1, 2)
    truth = np.asarray(true_yx_px, dtype=np.float64).reshape(-1, 2)
    if tolerance_px <= 0:
        raise ValueError(f"the tolerance is positive, got {tolerance_px} px")
    empty = np.zeros(0, np.int64)
    if not len(found) or not len(truth):
        return Matches(empty, empty, np.zeros(0))
    near = cKDTree(found).sparse_distance_matrix(cKDTree(truth), tolerance_px, output_type="ndarray")
    if not len(near):
        return Matches(empty, empty, np.zeros(0))
    edges_found, edges_truth, edges_distance = near["i"].astype(np.int64), near["j"].astype(np.int64), near["v"]
    nodes = len(found) + len(truth)
    graph = coo_array((np.ones(len(near)), (edges_found, edges_truth + len(found))), shape=(nodes, nodes))
    _, component = connected_components(graph, directed=False)
    of_edge = component[edges_found]
    order = np.argsort(of_edge, kind="stable")
    ends = np.flatnonzero(np.diff(of_edge[order])) + 1
    pairs = [
        _assign(edges_found[group], edges_truth[group], edges_distance[group], tolerance_px)
        for group in np.split(order, ends)
    ]
    rows = np.concatenate([pair[0] for pair in pairs])
    columns = np.concatenate([pair[1] for pair in pairs])
    distances = np.concatenate([pair[2] for pair in pairs])
    ascending = np.argsort(rows)
    return Matches(rows[ascending], columns[ascending], distances[ascending])


def _assign(
    found: NDArray[np.int64], truth: NDArray[np.int64], distance: NDArray[np.float64], tolerance_px: float
) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.float64]]:
    """Solve one connected component, given by its edges."""
    if len(found) == 1:
        return found, truth, distance
    rows, row = np.unique(found, return_inverse=True)
    columns, column = np.unique(truth, return_inverse=True)
    # Dearer than any set of pairs of this component, so that no pair is given up for shorter distances.
    absent = (min(len(rows), len(columns)) + 1) * tolerance_px
    cost = np.full((len(rows), len(columns)), absent)
    cost[row, column] = distance
    r, c = linear_sum_assignment(cost)
    paired = cost[r, c] < absent
    r, c = r[paired], c[paired]
    return rows[r], columns[c], cost[r, c]


@dataclass(frozen=True)
class Counts:
    """True positives, false positives and false negatives; adds up over images.

    Parameters
    ----------
    true_positive, false_positive, false_negative
        The counts.
    square_distance_px2
        Sum of the squared distances of the true positives.
    square_bound_px2
        Sum of the squared Cramér–Rao bounds of the same positives; 0 where they are unknown.
    """

    true_positive: int = 0
    false_positive: int = 0
    false_negative: int = 0
    square_distance_px2: float = 0.0
    square_bound_px2: float = 0.0

    def __add__(self, other: Counts) -> Counts:
        return Counts(
            self.true_positive + other.true_positive,
            self.false_positive + other.false_positive,
            self.false_negative + other.false_negative,
            self.square_distance_px2 + other.square_distance_px2,
            self.square_bound_px2 + other.square_bound_px2,
        )

    @property
    def precision(self) -> float:
        """Share of the found positions that are true; 1 when nothing was found."""
        found = self.true_positive + self.false_positive
        return self.true_positive / found if found else 1.0

    @property
    def recall(self) -> float:
        """Share of the true positions that were found; 1 when there are none."""
        true = self.true_positive + self.false_negative
        return self.true_positive / true if true else 1.0

    @property
    def f1(self) -> float:
        """Harmonic mean of precision and recall; 1 when nothing is there and nothing was found."""
        every = 2 * self.true_positive + self.false_positive + self.false_negative
        return 2 * self.true_positive / every if every else 1.0

    @property
    def jaccard(self) -> float:
        """Intersection over union, equal to F1 / (2 − F1)."""
        union = self.true_positive + self.false_positive + self.false_negative
        return self.true_positive / union if union else 1.0

    @property
    def rms_px(self) -> float:
        """Root mean square distance of the true positives; NaN when there are none."""
        return float(np.sqrt(self.square_distance_px2 / self.true_positive)) if self.true_positive else float("nan")

    @property
    def rms_over_bound(self) -> float:
        """Root mean square distance over the root mean square Cramér–Rao bound of the same positions; NaN without either."""
        known = self.true_positive > 0 and self.square_bound_px2 > 0
        return float(np.sqrt(self.square_distance_px2 / self.square_bound_px2)) if known else float("nan")


@dataclass(frozen=True, eq=False)
class Judgement:
    """What became of every found and every required position.

    Parameters
    ----------
    pairs
        Right ones; `Matches.truth` counts all true positions, required or not.
    forgiven
        ``(K,)`` int64 indices of the found positions that answer an optional true one: neither right nor wrong.
    wrong
        ``(L,)`` int64 indices of the other found positions.
    missed
        ``(P,)`` int64 indices of the required true positions without a pair.
    """

    pairs: Matches
    forgiven: NDArray[np.int64]
    wrong: NDArray[np.int64]
    missed: NDArray[np.int64]

    def counts(self, crb_px: NDArray[np.float64] | None = None) -> Counts:
        """The numbers; `crb_px` is the ``(M,)`` Cramér–Rao bound of the distance of every true position."""
        bound = 0.0 if crb_px is None else float(np.sum(crb_px[self.pairs.truth] ** 2))
        distance = float(np.sum(self.pairs.distance_px**2))
        return Counts(len(self.pairs), len(self.wrong), len(self.missed), distance, bound)


def judge(
    found_yx_px: NDArray[np.float64],
    true_yx_px: NDArray[np.float64],
    required: NDArray[np.bool_],
    tolerance_px: float,
) -> Judgement:
    """Match found positions with true ones of which some may be found, but need not be.

    The required positions are matched first. What is left over of the found ones and matches an optional position within
    the tolerance is neither right nor wrong.

    Parameters
    ----------
    found_yx_px
        ``(N, 2)`` found positions.
    true_yx_px
        ``(M, 2)`` true positions.
    required
        ``(M,)`` whether a finder must report the position.
    tolerance_px
        Largest distance of a pair.
    """
    found = np.asarray(found_yx_px, dtype=np.float64).reshape(-1, 2)
    truth = np.asarray(true_yx_px, dtype=np.float64).reshape(-1, 2)
    must, may = np.flatnonzero(required), np.flatnonzero(~np.asarray(required, bool))
    first = match(found, truth[must], tolerance_px)
    pairs = Matches(first.found, must[first.truth], first.distance_px)
    rest = np.setdiff1d(np.arange(len(found)), pairs.found)
    forgiven = rest[match(found[rest], truth[may], tolerance_px).found]
    return Judgement(pairs, forgiven, np.setdiff1d(rest, forgiven), np.setdiff1d(must, pairs.truth))


def count(
    found_yx_px: NDArray[np.float64],
    true_yx_px: NDArray[np.float64],
    required: NDArray[np.bool_],
    tolerance_px: float,
) -> Counts:
    """The counts of `judge`, whose parameters it takes."""
    return judge(found_yx_px, true_yx_px, required, tolerance_px).counts()


def unforgiven(
    found_yx_px: NDArray[np.float64],
    true_yx_px: NDArray[np.float64],
    required: NDArray[np.bool_],
    tolerance_px: float,
) -> NDArray[np.float64]:
    """The found ``(N', 2)`` positions without those that answer an optional true one; parameters as of `judge`."""
    found = np.asarray(found_yx_px, dtype=np.float64).reshape(-1, 2)
    return np.delete(found, judge(found, true_yx_px, required, tolerance_px).forgiven, axis=0)


def chamfer_px(found_yx_px: NDArray[np.float64], true_yx_px: NDArray[np.float64]) -> float:
    """Sum of the two mean nearest distances, found to true and true to found.

    Source: PolyU thesis, section on the figures of merit. Infinite when one of the sets is empty and the other is not, 0
    when both are.
    """
    found = np.asarray(found_yx_px, dtype=np.float64).reshape(-1, 2)
    truth = np.asarray(true_yx_px, dtype=np.float64).reshape(-1, 2)
    if not len(found) or not len(truth):
        return 0.0 if len(found) == len(truth) else float("inf")
    return float(cKDTree(truth).query(found)[0].mean() + cKDTree(found).query(truth)[0].mean())

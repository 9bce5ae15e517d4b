"""Ways to divide points into clusters, and what each is worth: by the points alone, and against true classes.

Source of the range of methods: UCL report, sections 2.2 (K-means: inertia, its derivative, silhouette) and 2.5 (Gaussian
mixtures by silhouette, Davies–Bouldin, AIC and BIC; DBSCAN, HDBSCAN and agglomerative clustering beside them).
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray
from sklearn.cluster import DBSCAN, HDBSCAN, AgglomerativeClustering, KMeans
from sklearn.exceptions import ConvergenceWarning
from sklearn.metrics import davies_bouldin_score, silhouette_score
from sklearn.mixture import GaussianMixture
from sklearn.neighbors import NearestNeighbors

__all__ = [
    "COVARIANCES",
    "Choice",
    "Labels",
    "Points",
    "Trial",
    "agglomerative",
    "choose",
    "density",
    "gain_interval",
    "hierarchical_density",
    "kmeans",
    "mixtures",
    "v_measure",
]

Floats = NDArray[np.float64]
Labels = NDArray[np.int32]

#: Source: UCL report, section 2.5.
COVARIANCES = ("spherical", "diag", "tied", "full")
#: Points of which silhouettes are computed: their cost grows with the square.
_SILHOUETTE_POINTS = 2000
#: Resamples of the images behind an interval.
_RESAMPLES = 400


@dataclass(frozen=True, eq=False)
class Points:
    """Points with what is known of them.

    Parameters
    ----------
    x
        ``(N, D)`` scaled latents.
    truths
        ``(N,)`` true classes by the name of the question.
    groups
        ``(N,)`` number of the image that a point comes from: points of one image are no independent witnesses.
    """

    x: Floats
    truths: Mapping[str, Labels]
    groups: Labels

    def __len__(self) -> int:
        return len(self.x)

    def take(self, chosen: NDArray[np.int64]) -> Points:
        """Some of the points."""
        return Points(self.x[chosen], {name: one[chosen] for name, one in self.truths.items()}, self.groups[chosen])

    def sample(self, most: int, seed: int = 0) -> Points:
        """So many points at the most, drawn at random."""
        if len(self) <= most:
            return self
        return self.take(np.sort(np.random.default_rng(seed).choice(len(self), most, replace=False)))


@dataclass(frozen=True, eq=False)
class Trial:
    """One way to divide points.

    Parameters
    ----------
    method
        Its name.
    settings
        Its settings by name.
    labels
        ``(N,)`` cluster of each point; −1 for points that it calls noise.
    silhouette, davies_bouldin
        Of the points that are no noise, the first of a sample; NaN with fewer than two clusters.
    v_measures
        Harmonic mean of homogeneity and completeness against each truth, noise being a cluster of its own.
    criteria
        What the method alone has: inertia, AIC, BIC.
    converged
        Whether the fit came to an end.
    """

    method: str
    settings: Mapping[str, int | float | str]
    labels: Labels
    silhouette: float
    davies_bouldin: float
    v_measures: Mapping[str, float]
    criteria: Mapping[str, float] = field(default_factory=dict)
    converged: bool = True

    @property
    def name(self) -> str:
        """Method and settings in words."""
        words = (
            f"{key} {value:.3g}" if isinstance(value, float) else f"{key} {value}"
            for key, value in self.settings.items()
        )
        return f"{self.method}: {', '.join(words)}"

    @property
    def clusters(self) -> int:
        """Number of clusters that have points, without the noise."""
        return len(np.unique(self.labels[self.labels >= 0]))

    @property
    def noise_share(self) -> float:
        """Share of the points that are in no cluster."""
        return float(np.mean(self.labels < 0))


def kmeans(points: Points, counts: Iterable[int], *, seed: int = 0, starts: int = 5) -> list[Trial]:
    """K-means with k-means++ for every number of clusters."""
    trials = []
    for count in counts:
        found = KMeans(count, init="k-means++", n_init=starts, random_state=seed).fit(points.x)
        trials.append(_trial(points, "K-means", {"k": count}, found.labels_, {"inertia": float(found.inertia_)}))
    return trials


def mixtures(
    points: Points,
    counts: Iterable[int],
    *,
    covariances: Sequence[str] = COVARIANCES,
    seed: int = 0,
    report: Callable[[str], None] = lambda _: None,
) -> list[Trial]:
    """Gaussian mixtures for every kind of covariance and every number of components."""
    counts = tuple(counts)
    trials = []
    for covariance in covariances:
        for count in counts:
            model = GaussianMixture(count, covariance_type=covariance, random_state=seed)
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", ConvergenceWarning)  # the trial says so itself
                labels = model.fit_predict(points.x)
            criteria = {"aic": float(model.aic(points.x)), "bic": float(model.bic(points.x))}
            settings: dict[str, int | float | str] = {"covariance": covariance, "k": count}
            trials.append(_trial(points, "mixture", settings, labels, criteria, converged=bool(model.converged_)))
        report(f"mixtures with {covariance} covariance: {len(counts)} fitted")
    return trials


def density(points: Points, shares: Iterable[float], neighbours: Iterable[int]) -> list[Trial]:
    """DBSCAN.

    Parameters
    ----------
    points
        The points.
    shares
        ε is the distance within which this share of the points has enough neighbours.
    neighbours
        How many neighbours are enough (``min_samples``).
    """
    shares = tuple(shares)
    trials = []
    for enough in neighbours:
        count = min(enough, len(points))
        far = NearestNeighbors(n_neighbors=count).fit(points.x).kneighbors(points.x)[0][:, -1]
        for share in shares:
            radius = max(float(np.quantile(far, share)), 1e-9)
            labels = DBSCAN(eps=radius, min_samples=enough).fit_predict(points.x)
            trials.append(_trial(points, "DBSCAN", {"eps": radius, "min_samples": enough}, labels))
    return trials


def hierarchical_density(points: Points, sizes: Iterable[int], neighbours: Iterable[int]) -> list[Trial]:
    """HDBSCAN for every smallest size of a cluster and every number of neighbours."""
    neighbours = tuple(neighbours)
    trials = []
    for size in sizes:
        for enough in neighbours:
            model = HDBSCAN(min_cluster_size=size, min_samples=min(enough, len(points)), copy=True)
            labels = model.fit_predict(points.x)
            trials.append(_trial(points, "HDBSCAN", {"min_cluster_size": size, "min_samples": enough}, labels))
    return trials


def agglomerative(points: Points, linkages: Iterable[str], counts: Iterable[int]) -> list[Trial]:
    """Agglomerative clustering; its cost grows with the square of the points: give a sample."""
    counts = tuple(counts)
    trials = []
    for linkage in linkages:
        for count in counts:
            labels = AgglomerativeClustering(n_clusters=count, linkage=linkage).fit_predict(points.x)
            trials.append(_trial(points, "agglomerative", {"linkage": linkage, "k": count}, labels))
    return trials


@dataclass(frozen=True, eq=False)
class Choice:
    """What to take.

    Parameters
    ----------
    best
        The recommended trial.
    candidate
        The best of the images that the choice was made on.
    gain
        Difference in V-measure between candidate and printed on the other images, and its 95 % interval.
    """

    best: Trial
    candidate: Trial
    gain: tuple[float, float, float]


def choose(trials: Sequence[Trial], printed: Trial, truth: Labels, groups: Labels, *, seed: int = 0) -> Choice:
    """Keep what is printed unless another is better on images that had no say in choosing it.

    Parameters
    ----------
    trials
        All of the same points.
    printed
        The setting to beat, one of the trials.
    truth
        ``(N,)`` classes that clusters are to follow.
    groups
        ``(N,)`` number of the image of each point; half of the images chooses, half confirms.
    seed
        Of the halves and of the resamples.
    """
    rng = np.random.default_rng(seed)
    images = rng.permutation(np.unique(groups))
    choosing = np.isin(groups, images[: len(images) // 2])

    def on_half(trial: Trial) -> float:
        return v_measure(_table(truth[choosing], trial.labels[choosing]))

    candidate = max(trials, key=on_half)
    gain = gain_interval(
        candidate.labels[~choosing], printed.labels[~choosing], truth[~choosing], groups[~choosing], seed=seed
    )
    return Choice(candidate if gain[1] > 0 else printed, candidate, gain)


def v_measure(table: NDArray[np.floating] | NDArray[np.integer]) -> float:
    """V-measure from a table of counts.

    Parameters
    ----------
    table
        ``(classes, clusters)`` how many points each pair has.

    Notes
    -----
    Source: Rosenberg and Hirschberg, EMNLP-CoNLL 2007, with β = 1. Computed here because intervals need it of hundreds of
    resampled tables; a test compares it with scikit-learn.
    """
    joint = table / table.sum()
    rows, columns = joint.sum(axis=1), joint.sum(axis=0)
    of_classes, of_clusters, of_both = (_entropy(one) for one in (rows, columns, joint.ravel()))
    mutual = of_classes + of_clusters - of_both
    if of_classes + of_clusters == 0:
        return 1.0
    return float(max(2 * mutual / (of_classes + of_clusters), 0.0))


def _entropy(shares: NDArray[np.floating]) -> float:
    there = shares[shares > 0]
    return float(-(there * np.log(there)).sum())


def _table(truth: Labels, labels: Labels) -> NDArray[np.int64]:
    """How many points have each class and each cluster."""
    classes, row = np.unique(truth, return_inverse=True)
    clusters, column = np.unique(labels, return_inverse=True)
    counts = np.bincount(row * len(clusters) + column, minlength=len(classes) * len(clusters))
    return counts.reshape(len(classes), len(clusters))


def gain_interval(
    one: Labels, other: Labels, truth: Labels, groups: Labels, *, seed: int = 0
) -> tuple[float, float, float]:
    """Difference of the V-measures of two ways to divide the same points, and its 95 % interval over resampled images.

    Parameters
    ----------
    one, other
        ``(N,)`` clusters of the points.
    truth, groups
        ``(N,)`` class and image of each.
    seed
        Of the resamples.
    """
    rng = np.random.default_rng(seed)
    images, place = np.unique(groups, return_inverse=True)
    tables = []
    for labels in (one, other):
        classes, row = np.unique(truth, return_inverse=True)
        clusters, column = np.unique(labels, return_inverse=True)
        size = len(classes) * len(clusters)
        counts = np.bincount(place * size + row * len(clusters) + column, minlength=len(images) * size)
        tables.append(counts.reshape(len(images), len(classes), len(clusters)))

    def difference(weights: NDArray[np.int64]) -> float:
        first, second = (v_measure(np.tensordot(weights, table, axes=1)) for table in tables)
        return first - second

    resampled = [
        difference(np.bincount(rng.integers(len(images), size=len(images)), minlength=len(images)))
        for _ in range(_RESAMPLES)
    ]
    low, high = (float(value) for value in np.quantile(resampled, (0.025, 0.975)))
    return difference(np.ones(len(images), np.int64)), low, high


def _trial(
    points: Points,
    method: str,
    settings: Mapping[str, int | float | str],
    found: NDArray[np.integer],
    criteria: Mapping[str, float] | None = None,
    *,
    converged: bool = True,
) -> Trial:
    labels = found.astype(np.int32)
    inside = np.flatnonzero(labels >= 0)
    silhouette = scatter = float("nan")
    if 2 <= len(np.unique(labels[inside])) < len(inside):
        scatter = float(davies_bouldin_score(points.x[inside], labels[inside]))
        few = np.random.default_rng(0).permutation(inside)[:_SILHOUETTE_POINTS]
        if 2 <= len(np.unique(labels[few])) < len(few):
            silhouette = float(silhouette_score(points.x[few], labels[few]))
    v_measures = {name: v_measure(_table(truth, labels)) for name, truth in points.truths.items()}
    return Trial(method, settings, labels, silhouette, scatter, v_measures, criteria or {}, converged)

"""How well the latents of patches tell what an image shows, and how much they say of each other."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import silhouette_score
from sklearn.model_selection import StratifiedGroupKFold
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

__all__ = [
    "POOLINGS",
    "Encoded",
    "Probed",
    "active_units",
    "correlations",
    "paired_gain",
    "pooled",
    "probe",
    "probe_all",
    "silhouette",
    "total_correlation",
]

Floats = NDArray[np.float64]
Numbers = NDArray[np.int64]

#: What an image's patches are pooled to, each with all that stands before it.
POOLINGS = ("mean", "std", "correlations", "quantiles")
#: Quantiles of each latent number over the patches.
_QUANTILES = (0.02, 0.1, 0.25, 0.5, 0.75, 0.9, 0.98)
#: Parts of the images; each part is told by a probe that learned from the others.
FOLDS = 5
#: Points of which silhouettes are computed: their cost grows with the square.
_SILHOUETTE_POINTS = 3000
#: A latent number is used when its mean varies this much between patches. Source: Y. Burda, R. Grosse, R. Salakhutdinov,
#: "Importance weighted autoencoders", ICLR 2016, section 5.2.
ACTIVE_VARIANCE = 0.01


@dataclass(frozen=True, eq=False)
class Encoded:
    """Latents of patches, image by image.

    Parameters
    ----------
    latents
        ``(I, N, D)`` of N patches of each image.
    label
        ``(I,)`` what the image shows, from 0.
    surface
        ``(I,)`` which surface it is: images of one surface, under other noise, are never told apart by a probe that saw it.
    """

    latents: Floats
    label: Numbers
    surface: Numbers

    @property
    def patches(self) -> Floats:
        """``(I · N, D)`` latents of all patches, image after image."""
        return self.latents.reshape(-1, self.latents.shape[-1])

    def some(self, count: int) -> Encoded:
        """With at most so many patches of each image, drawn once for all of them."""
        rng = np.random.default_rng(0)
        chosen = np.sort(rng.permutation(self.latents.shape[1])[:count])
        return Encoded(self.latents[:, chosen], self.label, self.surface)

    def of_patches(self, per_image: Numbers) -> Numbers:
        """What belongs to each image, for each of its patches."""
        return np.repeat(per_image, self.latents.shape[1])


@dataclass(frozen=True, eq=False)
class Probed:
    """What a linear probe says.

    Parameters
    ----------
    log_probability
        ``(M, C)`` of every class, by a probe that saw no image of the same surface.
    label
        ``(M,)`` the truth.
    """

    log_probability: Floats
    label: Numbers

    @property
    def right(self) -> NDArray[np.bool_]:
        """``(M,)`` whether the likeliest class is the true one."""
        return np.asarray(self.log_probability.argmax(axis=1) == self.label)

    @property
    def accuracy(self) -> float:
        """Share of those that are right."""
        return float(self.right.mean())


def pooled(latents: Floats, pooling: str) -> Floats:
    """Images ``(I, N, D)`` → features ``(I, F)``: over the patches, one of `POOLINGS` and all before it.

    Correlations are those of pairs of latent numbers.

    Raises
    ------
    ValueError
        If there is no such pooling.
    """
    if pooling not in POOLINGS:
        raise ValueError(f"pooling {pooling!r}: expected one of {POOLINGS}")
    mean, std = latents.mean(axis=1), latents.std(axis=1)
    scaled = np.divide(latents - mean[:, None], std[:, None], out=np.zeros_like(latents), where=std[:, None] > 0)
    rows, columns = np.triu_indices(latents.shape[2], 1)
    correlated = np.einsum("ind,ine->ide", scaled, scaled)[:, rows, columns] / latents.shape[1]
    parts = [mean, std, correlated, *np.quantile(latents, _QUANTILES, axis=1)]
    count = {"mean": 1, "std": 2, "correlations": 3, "quantiles": len(parts)}[pooling]
    return np.concatenate(parts[:count], axis=1)


def probe(features: Floats, label: Numbers, surface: Numbers) -> Probed:
    """Logistic regression on standardised features, each part of the surfaces told by the others.

    Parameters
    ----------
    features
        ``(M, F)``.
    label, surface
        ``(M,)``; every label needs at least two surfaces.
    """
    folds = min(FOLDS, *(len(np.unique(surface[label == one])) for one in np.unique(label)))
    said = np.full((len(label), int(label.max()) + 1), -np.inf)
    splits = StratifiedGroupKFold(folds, shuffle=True, random_state=0).split(features, label, surface)
    for learned, tested in splits:
        model = make_pipeline(StandardScaler(), LogisticRegression(max_iter=5000))
        model.fit(features[learned], label[learned])
        said[np.ix_(tested, model.classes_)] = model.predict_log_proba(features[tested])
    return Probed(said, label)


def probe_all(encoded: Encoded, patches_of_image: int = 64) -> Mapping[str, Probed]:
    """Probes of single patches, so many of each image, of their votes (the mean log-probability), and of all `POOLINGS`."""
    some = encoded.some(patches_of_image)
    patches = probe(some.patches, some.of_patches(some.label), some.of_patches(some.surface))
    images, count = some.latents.shape[:2]
    votes = patches.log_probability.reshape(images, count, -1).mean(axis=1)
    found = {"patch": patches, "votes": Probed(votes, encoded.label)}
    return found | {one: probe(pooled(encoded.latents, one), encoded.label, encoded.surface) for one in POOLINGS}


def silhouette(features: Floats, label: Numbers) -> float:
    """Mean silhouette by label of standardised features, from −1 to 1; of a part of them where there are many."""
    chosen = np.random.default_rng(0).permutation(len(features))[:_SILHOUETTE_POINTS]
    return float(silhouette_score(StandardScaler().fit_transform(features)[chosen], label[chosen]))


def paired_gain(new: Probed, old: Probed, surface: Numbers) -> tuple[float, float]:
    """How much more often one probe is right than another one on the same, and the standard error of that by surfaces."""
    difference = new.right.astype(float) - old.right
    by_surface = np.array([difference[surface == one].mean() for one in np.unique(surface)])
    return float(by_surface.mean()), float(by_surface.std(ddof=1) / np.sqrt(len(by_surface)))


def correlations(latents: Floats) -> Floats:
    """``(D, D)`` correlations of latents ``(M, D)``; those of a constant with others are 0."""
    centred = latents - latents.mean(axis=0)
    spread = centred.std(axis=0)
    scaled = np.divide(centred, spread, out=np.zeros_like(centred), where=spread > 0)
    found = scaled.T @ scaled / len(scaled)
    np.fill_diagonal(found, 1.0)
    return np.asarray(found)


def total_correlation(latents: Floats) -> float:
    """Total correlation in nats of a Gaussian with the covariance of latents ``(M, D)``: 0 where none says anything of another.

    ``−½ ln det R``. Source: S. Watanabe, "Information theoretical analysis of multivariate correlation", IBM J. Res. Dev. 4
    (1960) 66.
    """
    return max(float(-np.linalg.slogdet(correlations(latents))[1] / 2), 0.0)


def active_units(latents: Floats) -> int:
    """How many of the latents ``(M, D)`` of a variational network say something (`ACTIVE_VARIANCE`)."""
    return int((latents.var(axis=0) > ACTIVE_VARIANCE).sum())

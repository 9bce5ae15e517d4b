"""The report of the study of the latents of lattices."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from sklearn.decomposition import PCA
from sklearn.metrics import confusion_matrix
from sklearn.preprocessing import StandardScaler

from spm_training.simulate.stm_lattices import LATTICES, NOISE_LEVELS
from spm_training.studies.latent_scores import (
    POOLINGS,
    Encoded,
    Probed,
    active_units,
    correlations,
    paired_gain,
    pooled,
    total_correlation,
)
from spm_training.studies.page import Cell, Page
from spm_training.studies.plots import Cloud, Picture, clouds, pictures, sheet

__all__ = [
    "GOAL",
    "POOLED",
    "PRINCIPAL",
    "SUPERVISED",
    "Found",
    "Method",
    "Variational",
    "keeps_variational",
    "write_page",
]

#: Names of what the autoencoders stand between: the same layers taught the lattice, and the floor.
SUPERVISED, PRINCIPAL = "supervised", "PCA, 10 components"
#: The features of an image that decide.
POOLED = "quantiles"
#: What the probe of an image is to reach.
GOAL = 0.95
#: Points of a picture.
_POINTS = 2500


@dataclass(frozen=True, eq=False)
class Method:
    """One way from patches to ten numbers.

    Parameters
    ----------
    learned
        How long, or from how much, in words.
    encoded
        The latents.
    probed
        By what is told: ``patch``, ``votes`` and `POOLINGS`.
    silhouette_patches, silhouette_images
        By lattice, of single patches and of `POOLED` features.
    """

    learned: str
    encoded: Encoded
    probed: Mapping[str, Probed]
    silhouette_patches: float
    silhouette_images: float


@dataclass(frozen=True, eq=False)
class Variational:
    """The variational network: ``(10,)`` mean divergence of each number in nats; patches along each, the most telling first."""

    nats: NDArray[np.float64]
    walks: Mapping[str, NDArray[np.float32]]


@dataclass(frozen=True, eq=False)
class Found:
    """Everything that the report shows.

    Parameters
    ----------
    methods
        By name: autoencoders, `SUPERVISED` and `PRINCIPAL`.
    level
        ``(I,)`` number of each image's level in `NOISE_LEVELS`.
    variational
        Where that network is among them.
    supervised_patches
        Share of the patches that the supervised network's own answer has right.
    images
        Images of each lattice at each level.
    """

    methods: Mapping[str, Method]
    level: NDArray[np.int64]
    variational: Variational | None
    supervised_patches: float
    images: int

    @property
    def networks(self) -> list[str]:
        """The autoencoders."""
        return [name for name in self.methods if name not in (SUPERVISED, PRINCIPAL)]

    @property
    def best(self) -> str:
        """The autoencoder whose images are told best; of equal ones that whose patches are."""
        return max(
            self.networks,
            key=lambda name: (self.methods[name].probed[POOLED].accuracy, self.methods[name].probed["patch"].accuracy),
        )


def keeps_variational(new: Method, old: Method) -> tuple[bool, float, float]:
    """Whether the variational network separates better, with the gain per patch and its standard error.

    It has to tell more single patches right than the plain one, beyond twice the standard error over surfaces, and no fewer
    images.
    """
    count = len(new.probed["patch"].label) // len(new.encoded.surface)
    gain, error = paired_gain(new.probed["patch"], old.probed["patch"], np.repeat(new.encoded.surface, count))
    return gain > 2 * error and new.probed[POOLED].accuracy >= old.probed[POOLED].accuracy, gain, error


def write_page(
    out: Path, name: str, found: Found, *, flop: float, budget: float, given: Sequence[str], told: str = ""
) -> Path:
    """Write the report and give its path; ``told`` is what else the reader should know of the trainings."""
    trained = f"Networks that were not given were trained with {budget:.0%} of the epochs of their recipes ({flop:.3g} FLOP). "
    known = f"Given as finished runs: {', '.join(given)}. " if given else ""
    page = Page(
        "Do the latents tell the lattices apart",
        f"{trained}{known}{found.images} images of each lattice at each of {len(NOISE_LEVELS)} levels of noise, which no "
        "training draws; patches at every twelfth pixel, each in all eight orientations. A linear probe (logistic regression) "
        "learns from four fifths of the surfaces and tells the others, in turns. Of an image it sees, pooled over its patches: "
        f"means; also standard deviations; also correlations of pairs of numbers; also quantiles.{told}",
    )
    page.recommend(" ".join(_advice(found)))
    _probes(page, found)
    _levels(page, found)
    _confusions(page, found)
    _clouds(page, found)
    _disentanglement(page, found)
    return page.write(out, name, _numbers(found, flop=flop, budget=budget, given=given))


def _advice(found: Found) -> list[str]:
    best = found.methods[found.best].probed
    reached = "reached" if best[POOLED].accuracy >= GOAL else "missed"
    words = [
        f"{found.best} tells {best[POOLED].accuracy:.1%} of the images right from the pooled latents of its patches, at all "
        f"levels of noise together: the goal of {GOAL:.0%} is {reached}. Of single patches it is "
        f"{best['patch'].accuracy:.1%}; the same "
        f"encoder taught the lattice has {found.supervised_patches:.1%}, {PRINCIPAL} "
        f"{found.methods[PRINCIPAL].probed['patch'].accuracy:.1%}."
    ]
    if "cae-vae" in found.methods and "cae-a" in found.methods:
        kept, gain, error = keeps_variational(found.methods["cae-vae"], found.methods["cae-a"])
        words.append(
            f"The variational network {'separates better and is kept' if kept else 'does not separate better: leave it out'} "
            f"({100 * gain:+.1f} ± {100 * error:.1f} points per patch against cae-a)."
        )
    return words


def _probes(page: Page, found: Found) -> None:
    page.section("Linear probes and silhouettes")
    header = (
        "",
        "learned from",
        "per patch",
        "votes of 64",
        *(f"per image, {'' if one == POOLINGS[0] else '+ '}{one}" for one in POOLINGS),
        "silhouette, patches",
        "silhouette, images",
    )
    rows: list[Sequence[Cell]] = [
        (
            name,
            one.learned,
            *(f"{one.probed[what].accuracy:.1%}" for what in ("patch", "votes", *POOLINGS)),
            f"{one.silhouette_patches:.3f}",
            f"{one.silhouette_images:.3f}",
        )
        for name, one in found.methods.items()
    ]
    page.table(header, rows, chosen=[list(found.methods).index(found.best)])
    page.say(
        f"The supervised network's own answer is right for {found.supervised_patches:.1%} of all patches: what the same layers "
        f"get out of a patch of this size in {found.methods[SUPERVISED].learned}; longer, a little more. A patch on a flat dark "
        "place or across a step belongs to no lattice more than to another."
    )


def _levels(page: Page, found: Found) -> None:
    page.section("By noise")
    count = len(next(iter(found.methods.values())).probed["patch"].label) // len(found.level)
    header = ("", *(f"patch, {level}" for level in NOISE_LEVELS), *(f"image, {level}" for level in NOISE_LEVELS))
    rows: list[Sequence[Cell]] = []
    for name, one in found.methods.items():
        patch = one.probed["patch"].right.reshape(-1, count).mean(axis=1)
        by_image = one.probed[POOLED].right
        rows.append(
            (name, *(f"{x[found.level == n].mean():.1%}" for x in (patch, by_image) for n in range(len(NOISE_LEVELS))))
        )
    page.table(header, rows, caption="Share that is told right; of images from all that is pooled.")


def _confusions(page: Page, found: Found) -> None:
    page.section("What is taken for what")
    names = list(LATTICES)
    for what, title in (("patch", "patches"), (POOLED, "images")):
        one = found.methods[found.best].probed[what]
        table = confusion_matrix(
            one.label, one.log_probability.argmax(axis=1), labels=range(len(names)), normalize="true"
        )
        rows = [(name, *(f"{share:.1%}" for share in row)) for name, row in zip(names, table, strict=True)]
        page.table(
            ("shows", *names),
            rows,
            caption=f"{found.best}, {title}: a row for what is shown, a column for what is told.",
        )


def _clouds(page: Page, found: Found) -> None:
    page.section("Latents in three principal components")
    content = []
    for name, one in found.methods.items():
        patches = one.encoded.patches
        chosen = np.random.default_rng(0).permutation(len(patches))[:_POINTS]
        labels = one.encoded.of_patches(one.encoded.label)
        content += _planes(f"{name}, patches", patches[chosen], labels[chosen])
        content += _planes(f"{name}, images", pooled(one.encoded.latents, POOLED), one.encoded.label)
    page.figure(
        clouds(content, columns=4),
        "Standardised latents of patches, and all that is pooled of an image, by lattice: the second component over the first, "
        "and the third over the first, with their share of the variance.",
    )


def _planes(title: str, features: NDArray[np.float64], labels: NDArray[np.int64]) -> list[Cloud]:
    """Two planes of three principal components."""
    pca = PCA(3, random_state=0)
    xyz = pca.fit_transform(StandardScaler().fit_transform(features))
    first, *others = (f"{share:.0%}" for share in pca.explained_variance_ratio_)
    return [
        Cloud(f"{title}: {first}, {share}", xyz[:, (0, number)], labels, tuple(LATTICES))
        for number, share in enumerate(others, start=1)
    ]


def _disentanglement(page: Page, found: Found) -> None:
    page.section("How much the numbers say of each other")
    header = ("", "total correlation in nats", "largest correlation", "mean absolute correlation")
    matrices = {name: correlations(one.encoded.patches) for name, one in found.methods.items()}
    rows = [
        (name, total_correlation(found.methods[name].encoded.patches), *_off_diagonal(matrix))
        for name, matrix in matrices.items()
    ]
    page.table(
        header,
        rows,
        caption="Of the latents of patches; principal components of the training's patches are near 0 by construction.",
    )
    shown = [Picture(name, np.abs(matrix), (0.0, 1.0)) for name, matrix in matrices.items()]
    page.figure(pictures(shown), "Absolute correlations of the ten numbers: black 0, white 1.")
    variational = found.variational
    if variational is None:
        return
    page.section("The variational network")
    active = active_units(found.methods["cae-vae"].encoded.patches)
    order = np.argsort(-variational.nats)
    page.say(
        f"{active} of {len(order)} numbers are active (their means vary by more than 0.01); "
        f"{variational.nats.sum():.1f} nats a patch."
    )
    page.table(("number", *map(str, order)), [("nats", *(f"{nats:.2f}" for nats in variational.nats[order]))])
    page.figure(
        sheet({name: (one + 1) / 2 for name, one in variational.walks.items()}),
        "Each number moved from −2.5 to 2.5 of its standard deviations about the mean patch; the most telling first.",
    )


def _off_diagonal(matrix: NDArray[np.float64]) -> tuple[float, float]:
    others = np.abs(matrix[~np.eye(len(matrix), dtype=bool)])
    return float(others.max()), float(others.mean())


def _numbers(found: Found, *, flop: float, budget: float, given: Sequence[str]) -> dict[str, object]:
    kept = None
    if "cae-vae" in found.methods and "cae-a" in found.methods:
        kept = keeps_variational(found.methods["cae-vae"], found.methods["cae-a"])[0]
    variational = found.variational
    return {
        "best": found.best,
        "variational_kept": kept,
        "supervised_patches": found.supervised_patches,
        "flop": flop,
        "budget": budget,
        "given": list(given),
        "images": found.images,
        "nats": None if variational is None else variational.nats.tolist(),
        "methods": {
            name: {
                "learned": one.learned,
                **{what: one.probed[what].accuracy for what in ("patch", "votes", *POOLINGS)},
                "silhouette_patches": one.silhouette_patches,
                "silhouette_images": one.silhouette_images,
                "total_correlation": total_correlation(one.encoded.patches),
                "active_units": active_units(one.encoded.patches),
            }
            for name, one in found.methods.items()
        },
    }

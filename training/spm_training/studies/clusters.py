"""Study: how many clusters, of which kind, in the latents of the two patch autoencoders.

Source of what is tried: UCL report, sections 2.2 and 2.5. The report had to choose by the latents alone; the simulator knows
the classes, so the V-measure against them stands beside, and what is printed stays unless another setting is better on images
that had no say in choosing it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure
from numpy.typing import NDArray
from sklearn.decomposition import PCA
from sklearn.manifold import TSNE

from spm_training.clusters import KMEANS_CLUSTERS, MIXTURE_COMPONENTS, Scaling
from spm_training.run import RunFolder
from spm_training.simulate.surfaces import DEFECT_CLASSES
from spm_training.studies.decisions import Decision, by_numbers, numbers_of, row_numbers, winners, words_of
from spm_training.studies.page import Page, check_new
from spm_training.studies.plots import Cloud, Panel, clouds, panels, sheet
from spm_training.studies.samples import (
    CONTENTS,
    Sample,
    defect_sample,
    families_of,
    frames,
    trained_first,
    trained_second,
    window_sample,
)
from spm_training.studies.selection import (
    COVARIANCES,
    Points,
    Trial,
    agglomerative,
    choose,
    density,
    hierarchical_density,
    kmeans,
    mixtures,
)

__all__ = ["ClustersOptions", "study_clusters"]

NAME = "clusters"
#: Names of the truths.
SURFACE, CONTENT, BOTH = "surface", "content", "surface and content"


@dataclass(frozen=True)
class ClustersOptions:
    """How much is looked at.

    Parameters
    ----------
    images
        Images of each family of surfaces.
    windows_per_image, defects_per_image
        Windows of the first stage and patches of the second.
    kmeans_most, mixture_most
        Largest numbers of clusters that are tried.
    comparison_points
        Points for agglomerative clustering and t-SNE, whose cost grows with the square.
    """

    images: int = 24
    windows_per_image: int = 48
    defects_per_image: int = 24
    kmeans_most: int = 20
    mixture_most: int = 30
    comparison_points: int = 1500

    @classmethod
    def smoke(cls) -> ClustersOptions:
        """Everything in seconds."""
        return cls(2, 6, 3, 7, 4, 60)


def study_clusters(
    ae1: RunFolder, ae2: RunFolder, out: Path, options: ClustersOptions, *, report: Callable[[str], None]
) -> Path:
    """Run the study and write its report.

    Parameters
    ----------
    ae1, ae2
        Runs of the two autoencoders.
    out
        Folder of the report.
    options
        How much is looked at.
    report
        Takes one line for a person.

    Returns
    -------
    The HTML file.

    Raises
    ------
    ParameterError
        If a run is of another network, or the report is there already.
    ModelError
        If weights cannot be read.
    """
    check_new(out, NAME)
    first_recipe, first = trained_first(ae1)
    second_recipe, second = trained_second(ae2)
    page = Page(
        "Clusters in the latents of patches",
        f"Latents of the autoencoders {ae1.path.name} ({first.latent} numbers) and {ae2.path.name} ({second.latent}) on "
        f"{options.images} simulated validation images of each family of surfaces, min–max scaled. V-measures are against what "
        "the simulator knows; intervals hold 95 % of the resamples of the images.",
    )
    windows = window_sample(frames(first_recipe, options.images), first, per_image=options.windows_per_image)
    report(f"{len(windows)} windows encoded by the first autoencoder")
    one = _first_stage(page, windows, families_of(first_recipe), options, report)
    patches = defect_sample(second_recipe, second, options.images, per_image=options.defects_per_image)
    report(f"{len(patches)} defects encoded by the second autoencoder")
    two, others = _second_stage(page, patches, families_of(second_recipe), options, report)
    page.recommend(f"First stage: {words_of(one, BOTH)} Second stage: {words_of(two, CONTENT)}")
    numbers = {
        "first_stage": numbers_of(one),
        "second_stage": numbers_of(two),
        "second_stage_comparison": [row_numbers(trial) for trial in others],
    }
    return page.write(out, NAME, numbers)


def _first_stage(
    page: Page, sample: Sample, families: Sequence[str], options: ClustersOptions, report: Callable[[str], None]
) -> Decision:
    points = _points(sample)
    trials = kmeans(points, range(2, options.kmeans_most + 1))
    report(f"K-means: {len(trials)} fitted")
    printed = next(trial for trial in trials if trial.settings["k"] == KMEANS_CLUSTERS)
    decision = Decision(trials, printed, choose(trials, printed, points.truths[BOTH], points.groups))
    page.section("First stage: K-means of windows from anywhere")
    page.say(
        f"{len(sample)} windows of 32 × 32 px, up to half of each image's with a defect in them. Content is the class of the "
        "defect nearest to the middle of the window, or none."
    )
    inertia = np.array([trial.criteria["inertia"] for trial in trials])
    columns: dict[str, list[float]] = {
        "inertia": list(inertia),
        "its derivative: share that the last cluster takes away": [float("nan"), *(1 - inertia[1:] / inertia[:-1])],
        "silhouette (higher is better)": [trial.silhouette for trial in trials],
        "Davies–Bouldin (lower is better)": [trial.davies_bouldin for trial in trials],
        **{f"V: {name}": [trial.v_measures[name] for trial in trials] for name in (SURFACE, CONTENT, BOTH)},
    }
    page.figure(_over_clusters(decision, columns), "K-means over the number of clusters.")
    counts = [trial.settings["k"] for trial in trials]
    rows = list(zip(counts, *columns.values(), strict=True))
    page.table(("k", *columns), rows, chosen=[trials.index(decision.choice.best)])
    page.say(by_numbers(trials, ("silhouette", "davies_bouldin")))
    _pictures(page, sample, points, decision, families, options)
    report("first stage: pictures drawn")
    return decision


def _over_clusters(decision: Decision, columns: Mapping[str, Sequence[float]]) -> Figure:
    """The columns of the table of K-means as curves."""
    counts = [float(trial.settings["k"]) for trial in decision.trials]
    marks = {f"printed: {KMEANS_CLUSTERS}": float(KMEANS_CLUSTERS)}
    if decision.choice.best is not decision.printed:
        marks["recommended"] = float(decision.choice.best.settings["k"])
    return panels(
        [Panel(title, "clusters", {title: (counts, y)}, marks=marks) for title, y in columns.items()], columns=3
    )


def _second_stage(
    page: Page, sample: Sample, families: Sequence[str], options: ClustersOptions, report: Callable[[str], None]
) -> tuple[Decision, list[Trial]]:
    points = _points(sample)
    counts = sorted({*range(2, options.mixture_most + 1), MIXTURE_COMPONENTS})
    trials = mixtures(points, counts, report=report)
    printed = next(t for t in trials if (t.settings["covariance"], t.settings["k"]) == ("full", MIXTURE_COMPONENTS))
    decision = Decision(trials, printed, choose(trials, printed, points.truths[CONTENT], points.groups))
    page.section("Second stage: Gaussian mixtures of defects")
    page.say(f"{len(sample)} patches of 32 × 32 px around defects, each scaled to [0, 1] by its own extremes.")
    kinds = {name: [t for t in trials if t.settings["covariance"] == name] for name in COVARIANCES}
    curves = [
        Panel(title, "components", {name: (counts, [value(t) for t in some]) for name, some in kinds.items()})
        for title, value in _MEASURES.items()
    ]
    page.figure(panels(curves, columns=3), "Gaussian mixtures by covariance and number of components.")
    criteria = ("silhouette", "davies_bouldin", "aic", "bic")
    shown = sorted({*winners(trials, criteria), printed, decision.choice.candidate}, key=trials.index)
    page.table(
        ("mixture", "clusters with points", *_MEASURES),
        [(t.name, t.clusters, *(value(t) for value in _MEASURES.values())) for t in shown],
        caption="The printed setting, the best by each number, and the best of the choosing half of the images.",
        chosen=[shown.index(decision.choice.best)],
    )
    unfinished = sum(not trial.converged for trial in trials)
    page.say(f"{by_numbers(trials, criteria)} {unfinished} of {len(trials)} fits did not converge.")
    others = _comparison(page, points, options)
    report(f"DBSCAN, HDBSCAN, agglomerative: {len(others)} fitted")
    _pictures(page, sample, points, decision, families, options)
    report("second stage: pictures drawn")
    return decision, others


_MEASURES: Mapping[str, Callable[[Trial], float]] = {
    "silhouette (higher is better)": lambda t: t.silhouette,
    "Davies–Bouldin (lower is better)": lambda t: t.davies_bouldin,
    "AIC (lower is better)": lambda t: t.criteria["aic"],
    "BIC (lower is better)": lambda t: t.criteria["bic"],
    "V: class of the defect": lambda t: t.v_measures[CONTENT],
    "V: surface": lambda t: t.v_measures[SURFACE],
}


def _comparison(page: Page, points: Points, options: ClustersOptions) -> list[Trial]:
    """The other methods of the report, which cannot label new patches."""
    few = points.sample(options.comparison_points)
    counts = (KMEANS_CLUSTERS, len(DEFECT_CLASSES), MIXTURE_COMPONENTS)
    trials = [
        *density(points, (0.5, 0.7, 0.9, 0.97), (5, 10, 20)),
        *hierarchical_density(points, (10, 25, 60), (5, 15)),
        *agglomerative(few, ("ward", "average", "complete"), counts),
    ]
    page.section("Second stage: other methods, for comparison")
    page.say(
        "None of these can say what a new patch is, so none can stand in a model package; agglomerative clustering saw a "
        f"sample of {len(few)} patches. Noise counts as a cluster of its own in the V-measures, and is left out of the other two."
    )
    rows = [
        (
            t.name,
            t.clusters,
            t.noise_share,
            t.silhouette,
            t.davies_bouldin,
            t.v_measures[CONTENT],
            t.v_measures[SURFACE],
        )
        for t in trials
    ]
    page.table(
        ("method", "clusters", "noise", "silhouette", "Davies–Bouldin", "V: class of the defect", "V: surface"), rows
    )
    return trials


def _points(sample: Sample) -> Points:
    both = sample.family * len(CONTENTS) + sample.content
    truths = {SURFACE: sample.family, CONTENT: sample.content, BOTH: both}
    return Points(Scaling.of(sample.latent)(sample.latent), truths, sample.image)


def _pictures(
    page: Page,
    sample: Sample,
    points: Points,
    decision: Decision,
    families: Sequence[str],
    options: ClustersOptions,
) -> None:
    """The latents in the plane, and patches of every cluster."""
    labels = decision.choice.best.labels
    rng = np.random.default_rng(0)
    few = np.sort(rng.permutation(len(points))[: options.comparison_points])
    planes = {
        "PCA": PCA(2, random_state=0).fit_transform(points.x[few]),
        "t-SNE": TSNE(2, perplexity=min(30.0, (len(few) - 1) / 3), random_state=0).fit_transform(points.x[few]),
    }
    for name, xy in planes.items():
        content = (
            ("by cluster", labels, [str(label) for label in range(int(labels.max()) + 1)]),
            ("by surface", sample.family, families),
            ("by content", sample.content, CONTENTS),
        )
        figure = clouds([Cloud(f"{name}, {words}", xy, one[few], names) for words, one, names in content], columns=3)
        page.figure(figure, f"{name} of {len(few)} points, coloured by cluster and by what the simulator knows.")
    rows: dict[str, NDArray[np.floating]] = {}
    for label in np.unique(labels):
        mine = rng.permutation(np.flatnonzero(labels == label))
        rows[f"cluster {label} ({len(mine)})"] = sample.patch[mine[:14]]
    page.figure(sheet(rows), "Patches of every cluster, drawn at random.")

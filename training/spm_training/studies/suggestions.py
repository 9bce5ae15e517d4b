"""Study: what the UCL report suggests to improve the first autoencoder, each as a variant of its training on the same budget.

==================  ============================================================================================================
plain               the squared error alone, as printed
symmetric           windows and their mirrored and turned views are to have the same latents
contrastive         each window is to be found again among all others by a noisy, mirrored or turned view
two scales          images at half of the resolution are learned too, and error maps of both scales are added
pseudo-labels       half of the budget plain; then K-means of its latents gives labels, to whose centres the other half pulls
==================  ============================================================================================================

What decides is not the loss. The error map is to stand out at defects and the latents are to tell classes apart: a variant wins
when one of both is better than plain beyond the 95 % interval of resampled images, and the other is not worse beyond its own.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from spm_training.clusters import Scaling, fit_clusters
from spm_training.cost import cost_of
from spm_training.data import Split
from spm_training.networks.ae1 import Ae1
from spm_training.networks.folding import folded
from spm_training.options import LossOptions
from spm_training.patch_scores import STATED_NOISE, batches_of, score_network
from spm_training.recipe import Recipe
from spm_training.run import RunFolder
from spm_training.studies.error_maps import defect_auc, error_map
from spm_training.studies.page import Page, check_new
from spm_training.studies.plots import sheet
from spm_training.studies.samples import CONTENTS, Frame, frames, trained_first, window_sample
from spm_training.studies.selection import Labels, Points, gain_interval, kmeans
from spm_training.studies.variants import budget_recipe, crops_for, patch_steps, train_variant
from spm_training.tasks.patches import PatchBatch

__all__ = ["Figures", "SuggestionsOptions", "mean_gain", "study_suggestions", "wins"]

NAME = "suggestions"
PLAIN, SYMMETRIC, CONTRASTIVE, SCALES, LABELS = "plain", "symmetric", "contrastive", "two scales", "pseudo-labels"
#: Weights of the terms: each is a tenth to a half of the squared error of a network that has begun to learn (5e-3).
_LOSSES: Mapping[str, LossOptions] = {
    PLAIN: LossOptions(),
    SYMMETRIC: LossOptions(symmetry_weight=2e-3),
    CONTRASTIVE: LossOptions(contrast_weight=5e-4),
    SCALES: LossOptions(coarse_weight=0.5),
}
_CLUSTER_WEIGHT = 0.1
_LARGE_CROPS = ("data.crop_px=96", "data.batch=7")
_RESAMPLES = 2000


@dataclass(frozen=True)
class SuggestionsOptions:
    """What is trained, and how much is looked at.

    Parameters
    ----------
    overrides
        ``KEY=VALUE`` for the recipe, for all variants.
    images
        Validation images of each family of surfaces.
    windows_per_image
        Windows of each image whose latents are clustered.
    windows
        Validation windows for the error against the clean image.
    start
        A run of the recipe that all variants go on from; None begins with nothing.
    smoke
        The whole path in seconds.
    """

    overrides: tuple[str, ...] = ()
    images: int = 12
    windows_per_image: int = 48
    windows: int = 1024
    start: RunFolder | None = None
    smoke: bool = False


@dataclass(frozen=True, eq=False)
class Figures:
    """What one variant is worth.

    Parameters
    ----------
    auc
        One value per image, NaN where an image has no defect (`spm_training.studies.error_maps.defect_auc`).
    labels
        ``(N,)`` cluster of each window of the sample.
    v_measure
        Of these against what the windows hold.
    clean_mse
        Error against the clean image at the stated white noise.
    windows
        Patch-steps of its training.
    """

    auc: NDArray[np.float64]
    labels: Labels
    v_measure: float
    clean_mse: float
    windows: int


def study_suggestions(
    out: Path, options: SuggestionsOptions, *, resume: bool, device: str, report: Callable[[str], None]
) -> Path | None:
    """Train every variant and write the report.

    Parameters
    ----------
    out
        Folder of the report, and of a run per variant.
    options
        What is trained.
    resume, device, report
        As of `spm_training.studies.latent_size.study_latent_size`.

    Returns
    -------
    The HTML file; None when stopped by Ctrl-C.

    Raises
    ------
    ParameterError
        If an override is refused or a folder is taken.
    """
    if not resume:
        check_new(out, NAME)
    # Two scales need large crops, of which a batch has few: too few for batch norms to learn from.
    fixed = _LARGE_CROPS if options.start is None else (*_LARGE_CROPS, "network.batch_statistics=false")
    plain = budget_recipe(smoke=options.smoke, overrides=(*fixed, *options.overrides))
    recipes = {name: _equal_budget(plain, loss) for name, loss in _LOSSES.items()}
    flop = cost_of(plain).flop_total
    report(f"{len(recipes) + 1} variants, {flop:.3g} FLOP each")
    runs = {name: RunFolder(out / name.replace(" ", "-")) for name in recipes}
    for name, run in runs.items():
        if not train_variant(recipes[name], run, resume=resume, device=device, report=report, start=options.start):
            return None
    labelled = _pseudo_labels(plain, out, options, resume=resume, device=device, report=report)
    if labelled is None:
        return None
    recipes[LABELS], runs[LABELS] = labelled
    found = list(frames(plain, options.images))
    crops = batches_of(plain, Split.VALIDATION, crops_for(plain, options.windows))
    figures: dict[str, Figures] = {}
    for name, run in runs.items():
        # The pseudo-labels' other half was trained before.
        windows = patch_steps(plain if name == LABELS else recipes[name])
        figures |= _figures(name, _deployed(run), found, crops, windows, options)
        report(f"{name}: AUC {np.nanmean(figures[name].auc):.3f}, V-measure {figures[name].v_measure:.3f}")
    return _write(out, plain, figures, runs, found, options, flop)


def _equal_budget(plain: Recipe, loss: LossOptions) -> Recipe:
    """The same recipe with another loss, and so many steps that it costs as much."""
    variant = plain.model_copy(update={"loss": loss})
    share = cost_of(plain).flop_per_step / cost_of(variant).flop_per_step
    steps = max(round(plain.data.steps_per_epoch * share), 1)
    return variant.model_copy(update={"data": plain.data.model_copy(update={"steps_per_epoch": steps})})


def _pseudo_labels(
    plain: Recipe,
    out: Path,
    options: SuggestionsOptions,
    *,
    resume: bool,
    device: str,
    report: Callable[[str], None],
) -> tuple[Recipe, RunFolder] | None:
    """Half of the epochs plain, K-means of its latents, half of the epochs towards the centres; None after Ctrl-C."""
    first = _lasting(plain, max(plain.training.epochs // 2, 1))
    start, run, file = RunFolder(out / "pseudo-labels-start"), RunFolder(out / LABELS), out / "pseudo-labels.npz"
    if not train_variant(first, start, resume=resume, device=device, report=report, start=options.start):
        return None
    if not (resume and run.last.is_file() and file.is_file()):
        network = trained_first(start)[1]
        training = frames(plain, options.images, split=Split.TRAIN)
        sample = window_sample(training, network, per_image=options.windows_per_image)
        fit_clusters(sample.latent).write(file)
        report(f"pseudo-labels from {len(sample)} windows of the training split")
    loss = LossOptions(cluster_weight=_CLUSTER_WEIGHT, clusters_file=str(file))
    second = _lasting(plain, max(plain.training.epochs - first.training.epochs, 1)).model_copy(update={"loss": loss})
    if not train_variant(second, run, resume=resume, device=device, report=report, start=start):
        return None
    return second, run


def _lasting(recipe: Recipe, epochs: int) -> Recipe:
    warm_up = {"warmup_epochs": min(getattr(recipe.schedule, "warmup_epochs", 0.0), epochs / 2)}
    return recipe.model_copy(
        update={
            "training": recipe.training.model_copy(update={"epochs": epochs}),
            "schedule": recipe.schedule.model_copy(update=warm_up)
            if recipe.schedule.kind == "cosine"
            else recipe.schedule,
        }
    )


def _deployed(run: RunFolder) -> Ae1:
    """The network with the same answers in a third of the time."""
    network = trained_first(run)[1]
    network.decoder = folded(network.decoder)
    return network


def _figures(
    name: str,
    network: Ae1,
    found: list[Frame],
    crops: Sequence[PatchBatch],
    windows: int,
    options: SuggestionsOptions,
) -> dict[str, Figures]:
    """The figures of one variant; error maps of two scales tell what reading both is worth without having learned both."""
    points = _points(found, network, options)
    trial = kmeans(points, (len(CONTENTS),))[0]
    error = score_network(network, crops).clean_mse

    def read(scales: tuple[int, ...]) -> Figures:
        auc = np.array([defect_auc(error_map(network, frame, scales=scales), frame) for frame in found])
        return Figures(auc, trial.labels, trial.v_measures["content"], error, windows)

    if name == PLAIN:
        return {PLAIN: read((1,)), f"{PLAIN}, read at two": read((1, 2))}
    if name == SCALES:
        return {f"{SCALES}, read at one": read((1,)), SCALES: read((1, 2))}
    return {name: read((1,))}


def _points(found: list[Frame], network: Ae1, options: SuggestionsOptions) -> Points:
    sample = window_sample(found, network, per_image=options.windows_per_image)
    return Points(Scaling.of(sample.latent)(sample.latent), {"content": sample.content}, sample.image)


def mean_gain(one: NDArray[np.float64], other: NDArray[np.float64], *, seed: int = 0) -> tuple[float, float, float]:
    """Mean difference of two values per image and its 95 % interval over resampled images; NaN images are left out."""
    both = (one - other)[np.isfinite(one - other)]
    if not len(both):
        return (float("nan"),) * 3
    rng = np.random.default_rng(seed)
    means = both[rng.integers(len(both), size=(_RESAMPLES, len(both)))].mean(axis=1)
    low, high = (float(value) for value in np.quantile(means, (0.025, 0.975)))
    return float(both.mean()), low, high


def wins(auc: tuple[float, float, float], v_measure: tuple[float, float, float]) -> bool:
    """Whether one of two gains, each with its interval, is above 0 for certain and the other not below it for certain."""
    better = auc[1] > 0 or v_measure[1] > 0
    worse = auc[2] < 0 or v_measure[2] < 0
    return better and not worse


def _write(
    out: Path,
    plain: Recipe,
    figures: Mapping[str, Figures],
    runs: Mapping[str, RunFolder],
    found: list[Frame],
    options: SuggestionsOptions,
    flop: float,
) -> Path:
    shared = "All go on from one trained network. " if options.start else ""
    page = Page(
        "What the report suggests",
        f"Variants of the first autoencoder, {flop:.3g} FLOP of training each ({patch_steps(plain):,} patch-steps where nothing "
        f"is added): a small budget, meant for a CPU. {shared}{len(found)} simulated validation images with "
        f"{sum(len(frame.yx_px) for frame in found)} defects that can be found.",
    )
    base = figures[PLAIN]
    points = _points(found, trained_first(runs[PLAIN])[1], options)
    truth = points.truths["content"], points.groups
    gains = {
        name: (mean_gain(one.auc, base.auc), gain_interval(one.labels, base.labels, *truth))
        for name, one in figures.items()
        if one is not base
    }
    winners = [name for name, (auc, v) in gains.items() if wins(auc, v)]
    page.recommend(
        f"Take {', '.join(winners)}: better than the plain training beyond the interval, and worse in nothing that decides."
        if winners
        else "Keep the plain training: at this budget no suggestion is better beyond the interval without being worse elsewhere."
    )
    page.section("Figures")
    page.say(
        "AUC: chance that the error map stands out more at a defect than at a place of the same image without one, steps "
        f"included; mean over images. V-measure: K-means of latents ({len(CONTENTS)} clusters) against what a window holds, one "
        "of the classes of defects or none. Gains are against plain, with the 95 % interval over resampled images. "
        f"MSE: against the clean image at white noise of σ {STATED_NOISE:g}; it does not decide."
    )
    header = ("variant", "patch-steps", "AUC", "gain", "V-measure", "gain", "MSE, clean")
    rows = []
    for name, one in figures.items():
        auc, v = (_words(gain) for gain in gains[name]) if name in gains else ("", "")
        rows.append((name, one.windows, float(np.nanmean(one.auc)), auc, one.v_measure, v, one.clean_mse))
    page.table(header, rows, chosen=[number for number, name in enumerate(figures) if name in (winners or [PLAIN])])
    _pictures(page, runs, found)
    numbers = {
        "winners": winners,
        "flop_each": flop,
        "variants": {
            name: {
                "auc": float(np.nanmean(one.auc)),
                "v_measure": one.v_measure,
                "clean_mse": one.clean_mse,
                "patch_steps": one.windows,
                "gain_auc": gains[name][0] if name in gains else None,
                "gain_v_measure": gains[name][1] if name in gains else None,
            }
            for name, one in figures.items()
        },
    }
    return page.write(out, NAME, numbers)


def _pictures(page: Page, runs: Mapping[str, RunFolder], found: list[Frame]) -> None:
    page.section("Error maps")
    shown = [frame for frame in found if len(frame.yx_px)][:: max(len(found) // 5, 1)][:5]
    rows: dict[str, list[NDArray[np.float32]]] = {
        "image": [frame.inner for frame in shown],
        "defects": [_marks(frame) for frame in shown],
    }
    for name, run in runs.items():
        network = _deployed(run)
        maps = [error_map(network, frame, scales=(1, 2) if name == SCALES else (1,)) for frame in shown]
        rows[name] = [one / max(float(np.quantile(one, 0.99)), 1e-12) for one in maps]
    page.figure(
        sheet(rows, zoom=2.0), "Images, circles of their true defects, and error maps; white is the 99th percentile."
    )


def _marks(frame: Frame) -> NDArray[np.float32]:
    y, x = np.indices(frame.inner.shape)
    inside = np.zeros(frame.inner.shape, np.float32)
    for (row, column), radius in zip(frame.yx_px, frame.radius_px, strict=True):
        inside[(y - row) ** 2 + (x - column) ** 2 <= radius**2] = 1
    return inside


def _words(gain: tuple[float, float, float]) -> str:
    return f"{gain[0]:+.3f} ({gain[1]:+.3f} to {gain[2]:+.3f})"

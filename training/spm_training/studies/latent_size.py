"""Study: how many numbers describe a patch. The first autoencoder at every printed size of its latent space, on the same budget.

Source of the sizes and of the printed losses: UCL report, section 2.1. There the loss is the error against the image itself,
of which the noise is a part that no size should describe; here the error against the clean image at a stated white noise
decides, and PCA with as many components has to be beaten.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import nn

from spm_training.cost import cost_of
from spm_training.data import Split
from spm_training.networks.ae1 import windows_of
from spm_training.patch_scores import STATED_NOISE, ReconstructionScore, batches_of, score_network, score_pca
from spm_training.recipe import Recipe
from spm_training.run import RunFolder
from spm_training.studies.page import Page, check_new
from spm_training.studies.plots import Panel, panels, sheet
from spm_training.studies.samples import trained_first
from spm_training.studies.variants import budget_recipe, crops_for, patch_steps, train_variant
from spm_training.tasks.patches import PatchBatch

__all__ = ["PRINTED", "LatentSizeOptions", "Printed", "keras_parameters", "smallest_enough", "study_latent_size"]

NAME = "latent-size"
#: The layers whose size is that of the latent space.
_DENSE = ("to_latent.", "decoder.0.")
#: The windows that are shown are chosen from so many.
_SHOWN_OF = 200
#: Another doubling of the size has to take away this share of the error.
WORTH = 0.1


@dataclass(frozen=True)
class Printed:
    """What the report prints for one size: parameters, validation loss, ratio of compression to training loss."""

    parameters: int
    loss: float
    ratio: int


#: Source: UCL report, section 2.1; 4,012,611 parameters at 64 are a misprint there.
PRINTED: Mapping[int, Printed] = {
    16: Printed(3_226_129, 1.34e-3, 49_000),
    32: Printed(3_488_289, 8.91e-4, 35_000),
    64: Printed(4_012_609, 6.76e-4, 21_768),
    128: Printed(5_061_249, 4.19e-4, 16_359),
    256: Printed(7_158_529, 3.15e-4, 10_000),
}


@dataclass(frozen=True)
class LatentSizeOptions:
    """What is trained, and how much is looked at.

    Parameters
    ----------
    sizes
        Sizes of the latent space.
    overrides
        ``KEY=VALUE`` for the recipe, for all sizes.
    windows, pca_windows
        Windows of the validation split that decide, and of the training split that PCA is fitted to.
    start
        A run of the recipe whose convolutions all sizes begin with; the dense layers begin anew. None begins with nothing.
    smoke
        The whole path in seconds.
    """

    sizes: tuple[int, ...] = tuple(PRINTED)
    overrides: tuple[str, ...] = ()
    windows: int = 2048
    pca_windows: int = 6400
    start: RunFolder | None = None
    smoke: bool = False


@dataclass(frozen=True, eq=False)
class _Size:
    """A trained size with its figures; `noisy` at white noise, `scan` at the noise of the simulated microscope."""

    recipe: Recipe
    run: RunFolder
    network: nn.Module
    noisy: ReconstructionScore
    scan: ReconstructionScore

    @property
    def train_loss(self) -> float:
        """Training loss of the last epoch."""
        return float(self.run.metrics()[-1]["train_loss"])

    @property
    def loss(self) -> float:
        """Lowest validation loss."""
        return min(row["val_loss"] for row in self.run.metrics())

    def ratio(self, size: int) -> float:
        """The report's ratio of compression and training loss."""
        return 1024 / size / self.train_loss


def study_latent_size(
    out: Path, options: LatentSizeOptions, *, resume: bool, device: str, report: Callable[[str], None]
) -> Path | None:
    """Train every size and write the report.

    Parameters
    ----------
    out
        Folder of the report, and of a run per size (``latent-16`` …).
    options
        What is trained.
    resume
        Go on with what is there.
    device
        ``auto``, ``cpu`` or ``cuda``.
    report
        Takes one line for a person.

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
    recipes = {
        size: budget_recipe(smoke=options.smoke, overrides=(*options.overrides, f"network.latent={size}"))
        for size in options.sizes
    }
    flop = sum(cost_of(recipe).flop_total for recipe in recipes.values())
    report(f"{len(recipes)} sizes, {patch_steps(recipes[options.sizes[0]]):,} patch-steps each, {flop:.3g} FLOP in all")
    for size, recipe in recipes.items():
        run = RunFolder(out / f"latent-{size}")
        if not train_variant(
            recipe, run, resume=resume, device=device, report=report, start=options.start, anew=_DENSE
        ):
            return None
    first = recipes[options.sizes[0]]
    noisy, scan = (
        batches_of(first, Split.VALIDATION, crops_for(first, options.windows), white_noise=noise)
        for noise in (STATED_NOISE, None)
    )
    found: dict[int, _Size] = {}
    for size, recipe in recipes.items():
        run = RunFolder(out / f"latent-{size}")
        network = trained_first(run)[1]
        found[size] = _Size(recipe, run, network, score_network(network, noisy), score_network(network, scan))
        report(f"latent {size}: MSE {found[size].noisy.clean_mse:.3g} against the clean image")
    pca = {
        name: score_pca(
            batches_of(first, Split.TRAIN, crops_for(first, options.pca_windows), white_noise=noise),
            noisy,
            options.sizes,
        )
        for name, noise in (("same images", None), ("white noise", STATED_NOISE))
    }
    report("PCA scored")
    return _write(out, found, pca, noisy, flop, started=options.start is not None)


def smallest_enough(errors: Mapping[int, float]) -> int:
    """The smallest size after which the next one takes away less than `WORTH` of the error; sizes ascend."""
    for size, larger in itertools.pairwise(errors):
        if errors[larger] > (1 - WORTH) * errors[size]:
            return size
    return list(errors)[-1]


def keras_parameters(network: nn.Module) -> int:
    """Parameters as Keras counts them: the running means and variances of the batch norms too."""
    running = (value for name, value in network.named_buffers() if "running" in name)
    return sum(one.numel() for one in (*network.parameters(), *running))


def _write(
    out: Path,
    found: Mapping[int, _Size],
    pca: Mapping[str, Mapping[int, ReconstructionScore]],
    noisy: Sequence[PatchBatch],
    flop: float,
    *,
    started: bool,
) -> Path:
    shared = (
        ", all from the convolutions of one trained network, whose own size has an advantage: they were trained beside dense "
        "layers that began as its do"
        if started
        else ""
    )
    sizes = list(found)
    recipe = found[sizes[0]].recipe
    page = Page(
        "Size of the latent space",
        f"The first autoencoder ({'with' if _context(recipe) else 'without'} context) at {len(sizes)} sizes, each trained with "
        f"{patch_steps(recipe):,} patch-steps ({flop:.3g} FLOP in all){shared}. This is a small budget, meant for a CPU: "
        "the report's own is 150 epochs of 300,000 patches at the most, so its losses stand beside for orientation alone.",
    )
    errors = {size: one.noisy.clean_mse for size, one in found.items()}
    chosen = smallest_enough(errors)
    ahead = [size for size in sizes if errors[size] < min(scores[size].clean_mse for scores in pca.values())]
    page.recommend(
        f"{chosen} numbers: the error against the clean image is {errors[chosen]:.3g}, and the next size takes away less than "
        f"{WORTH:.0%} of it. Ahead of PCA with as many components: {', '.join(map(str, ahead)) or 'none'} of "
        f"{', '.join(map(str, sizes))}."
    )
    _losses(page, found, sizes.index(chosen))
    _errors(page, found, pca, sizes.index(chosen))
    _pictures(page, found, noisy)
    numbers = {
        "recommended": chosen,
        "ahead_of_pca": ahead,
        "patch_steps": patch_steps(recipe),
        "flop": flop,
        "white_noise": STATED_NOISE,
        "sizes": {
            size: _numbers(size, one, {name: scores[size] for name, scores in pca.items()})
            for size, one in found.items()
        },
    }
    return page.write(out, NAME, numbers)


def _losses(page: Page, found: Mapping[int, _Size], chosen: int) -> None:
    """The report's own table with ours beside it."""
    page.section("Losses and compression, as the report gives them")
    header = (
        "size", "parameters", "printed", "training loss", "validation loss", "printed", "compression / training loss", "printed",
    )  # fmt: skip
    rows = []
    for size, one in found.items():
        paper = PRINTED.get(size)
        known = (None, None, None) if paper is None else (paper.parameters, paper.loss, paper.ratio)
        count = keras_parameters(one.network)
        rows.append((size, count, known[0], one.train_loss, one.loss, known[1], one.ratio(size), known[2]))
    page.table(header, rows, chosen=[chosen])
    page.say(
        "The loss is the error against the image itself, noise included: on other images, with other noise, it is another "
        "number. A size that copies noise has a lower loss and is no better."
    )
    curves = {str(size): _curve(one, "val_loss") for size, one in found.items()}
    trained = {str(size): _curve(one, "train_loss") for size, one in found.items()}
    both = [Panel("validation loss", "epoch", curves, log_y=True), Panel("training loss", "epoch", trained, log_y=True)]
    page.figure(panels(both), "Losses by size over the epochs.")


def _curve(one: _Size, name: str) -> tuple[list[float], list[float]]:
    rows = one.run.metrics()
    return [row["epoch"] for row in rows], [row[name] for row in rows]


def _errors(
    page: Page, found: Mapping[int, _Size], pca: Mapping[str, Mapping[int, ReconstructionScore]], chosen: int
) -> None:
    page.section(f"Error against the clean image at white noise of σ {STATED_NOISE:g}")
    page.say(
        "Mean squared error on validation crops scaled to [0, 1]; below 1 in the second column the answer is nearer to the truth "
        "than the image was. PCA is fitted to windows of the training split: to the noisy images that the networks learn from, "
        "and to images with the white noise that it is judged at, which is an advantage."
    )
    header = (
        "size",
        "autoencoder",
        "… over the noise",
        *(f"PCA, {name}" for name in pca),
        "autoencoder on simulated scans",
    )
    rows = [
        (
            size,
            one.noisy.clean_mse,
            one.noisy.clean_over_noise,
            *(scores[size].clean_mse for scores in pca.values()),
            one.scan.clean_mse,
        )
        for size, one in found.items()
    ]
    page.table(header, rows, chosen=[chosen])
    sizes = [float(size) for size in found]
    curves = {"autoencoder": (sizes, [one.noisy.clean_mse for one in found.values()])}
    curves |= {f"PCA, {name}": (sizes, [scores[size].clean_mse for size in found]) for name, scores in pca.items()}
    losses = {"ours": (sizes, [one.loss for one in found.values()])}
    known = [size for size in found if size in PRINTED]
    losses["printed"] = ([float(size) for size in known], [PRINTED[size].loss for size in known])
    both = [
        Panel("error against the clean image", "size of the latent space", curves, log_x=True, log_y=True),
        Panel("validation loss", "size of the latent space", losses, log_x=True, log_y=True),
    ]
    page.figure(panels(both), "Errors by size.")


@torch.no_grad()
def _pictures(page: Page, found: Mapping[int, _Size], noisy: Sequence[PatchBatch]) -> None:
    page.section("Reconstructions")
    # A batch of small crops has few windows: as many batches as make a choice.
    count = -(-_SHOWN_OF // len(windows_of(noisy[0].clean)))
    batch = PatchBatch(*(torch.cat(tensors) for tensors in zip(*noisy[:count], strict=True)))
    windows = windows_of(batch.clean)[:, 0].numpy()
    # Windows with something in them: the flattest say nothing.
    shown = np.sort(np.argsort(windows.std(axis=(1, 2)))[len(windows) // 3 :: max(len(windows) // 20, 1)][:12])
    rows = {"clean": windows[shown], "image": windows_of(batch.target)[:, 0].numpy()[shown]}
    for size, one in found.items():
        rows[f"{size} numbers"] = windows_of(one.network(batch.image))[:, 0].numpy()[shown]
    page.figure(sheet(rows), "Windows of the validation split, with the white noise, and as each size describes them.")


def _numbers(size: int, one: _Size, pca: Mapping[str, ReconstructionScore]) -> dict[str, object]:
    return {
        "parameters": keras_parameters(one.network),
        "training_loss": one.train_loss,
        "validation_loss": one.loss,
        "compression_over_training_loss": one.ratio(size),
        "clean_mse": one.noisy.clean_mse,
        "clean_over_noise": one.noisy.clean_over_noise,
        "clean_mse_simulated_scans": one.scan.clean_mse,
        "clean_mse_pca": {name: score.clean_mse for name, score in pca.items()},
    }


def _context(recipe: Recipe) -> bool:
    return recipe.network.kind == "ae1" and recipe.network.context

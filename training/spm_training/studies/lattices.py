"""Study: the patch autoencoders of the USC report under its seven configurations on three lattices, with its own table beside.

Source: USC report, sections 4.3.2 (configurations) and 4.5 (Table 2). There the scores are those against the noisy patches at a
noise that is not stated: white noise of σ 0.12 alone is a mean squared error of 0.0152. So the printed numbers orient; what
decides is the error against the clean patch at a stated noise, beside principal components as many as there are latent numbers.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from sklearn.decomposition import PCA
from torch import Tensor, nn

from spm_training.cost import cost_of
from spm_training.data import Split
from spm_training.networks.cae import LATENT, CaeA, CaeB
from spm_training.recipe import Recipe, load_recipe
from spm_training.restore_losses import structural_similarity
from spm_training.run import RunFolder
from spm_training.simulate.stm_lattices import NOISE_LEVELS
from spm_training.studies.page import Cell, Page, check_new
from spm_training.studies.plots import Panel, panels, sheet
from spm_training.studies.variants import set_by_hand, train_variant
from spm_training.tasks.lattice_images import LatticePatches
from spm_training.trained import trained_network

__all__ = [
    "CONFIGURATIONS",
    "PRINTED",
    "Configuration",
    "LatticesOptions",
    "PatchScores",
    "PatchSet",
    "score_patches",
    "study_lattices",
]

NAME = "lattices"
#: Epochs, and patches of an image, as printed.
EPOCHS, PATCHES = 100, 3000
#: The noise of all images: the report does not state its own.
NOISE = "medium"
#: Patches that are shown of each lattice.
_SHOWN = 14


class Configuration(NamedTuple):
    """One training of the report. Source: USC report, section 4.3.2."""

    lr: float = 1e-3
    batch: int = 1024
    patches: int = PATCHES
    epochs: int = EPOCHS
    decay: bool = False

    @property
    def seen(self) -> int:
        """Patches of one image that are seen, again and again."""
        return self.patches * self.epochs


#: By the report's names. How the last one decays is not printed: along half a cosine.
CONFIGURATIONS: Mapping[str, Configuration] = {
    "Baseline": Configuration(),
    "Lower LR": Configuration(lr=1e-4),
    "Small Batch": Configuration(batch=256),
    "Large Batch": Configuration(lr=2e-3, batch=2048),
    "More Patches": Configuration(patches=4900),
    "Extended Training": Configuration(epochs=200),
    "LR Decay": Configuration(decay=True),
}
#: Mean squared error and SSIM of patches by lattice and configuration. Source: USC report, Table 2, which lacks the last one.
PRINTED: Mapping[str, Mapping[str, tuple[float, float]]] = {
    lattice: dict(zip(CONFIGURATIONS, values, strict=False))
    for lattice, values in {
        "cubic": (
            (0.0156, 0.8917), (0.0326, 0.8699), (0.0176, 0.9130), (0.0166, 0.9270), (0.0152, 0.9027), (0.0296, 0.9130),
        ),
        "bcc": (
            (0.0188, 0.8542), (0.0292, 0.7959), (0.0205, 0.9093), (0.0199, 0.8902), (0.0196, 0.9092), (0.0185, 0.8858),
        ),
        "fcc": (
            (0.0224, 0.8987), (0.0261, 0.8374), (0.0266, 0.7656), (0.0184, 0.8944), (0.0167, 0.8768), (0.0152, 0.9491),
        ),
    }.items()
}  # fmt: skip


@dataclass(frozen=True)
class LatticesOptions:
    """What is trained, and how much is looked at.

    Parameters
    ----------
    network
        Which autoencoder.
    lattices, configurations
        Names out of `PRINTED` (or of any other lattice), and out of `CONFIGURATIONS`.
    images
        Simulated images of each lattice that the patches come from.
    budget
        Share of the printed epochs.
    target
        What the networks learn: as printed the noisy patch itself, or the clean one.
    patches
        Patches of the validation split that decide.
    overrides
        ``KEY=VALUE`` for the recipe, for all trainings.
    smoke
        The whole path in seconds.
    """

    network: Literal["cae-a", "cae-b"] = "cae-a"
    lattices: tuple[str, ...] = tuple(PRINTED)
    configurations: tuple[str, ...] = tuple(CONFIGURATIONS)
    images: int = 20
    budget: float = 0.1
    target: Literal["noisy", "clean"] = "noisy"
    patches: int = 4096
    overrides: tuple[str, ...] = ()
    smoke: bool = False


class PatchSet(NamedTuple):
    """Patches on the report's scale: from −1 to 1 between the extremes of each noisy image.

    ``image``, ``clean`` ``(N, 1, P, P)`` in units of the view, ``gain`` ``(N, 1, 1, 1)`` to that scale.
    """

    image: Tensor
    clean: Tensor
    gain: Tensor

    @classmethod
    def of(cls, patches: LatticePatches, count: int) -> PatchSet:
        """The first patches of a data set."""
        keys = patches.keys(count)
        batch = patches.__getitems__(keys)
        images = patches.pool.image.astype(np.float32)
        span = np.ptp(images.reshape(len(images), -1), axis=1)[patches.image_numbers(keys)]
        return cls(batch.image, batch.clean, torch.from_numpy(2 / span)[:, None, None, None])


@dataclass(frozen=True)
class PatchScores:
    """Means over patches on the report's scale, against the noisy and against the clean patches.

    Parameters
    ----------
    noisy_mse, noisy_ssim
        Against what the network saw, as Table 2 has it.
    clean_mse, clean_ssim
        Against the truth.
    """

    noisy_mse: float
    noisy_ssim: float
    clean_mse: float
    clean_ssim: float


def score_patches(found: Tensor, patches: PatchSet) -> PatchScores:
    """Scores of answers ``(N, 1, P, P)`` in units of the view; SSIM for a range of 2, with all values moved above 0."""
    values = []
    for truth in (patches.image, patches.clean):
        error = (found - truth) * patches.gain
        pair = [one * patches.gain + 1 for one in (found, truth)]
        values += [float((error**2).mean()), float(structural_similarity(*pair, data_range=2.0).mean())]
    return PatchScores(*values)


@dataclass(frozen=True, eq=False)
class _Trained:
    """One training with its figures."""

    recipe: Recipe
    run: RunFolder
    scores: PatchScores


@dataclass(frozen=True, eq=False)
class _Lattice:
    """All trainings on one lattice, and what they are compared with."""

    trained: Mapping[str, _Trained]
    pca: dict[str, PatchScores]
    nothing: PatchScores
    pictures: Mapping[str, NDArray[np.float32]]


def study_lattices(
    out: Path, options: LatticesOptions, *, resume: bool, device: str, report: Callable[[str], None]
) -> Path | None:
    """Train every configuration on every lattice and write the report.

    Parameters
    ----------
    out
        Folder of the report, and of a run for each training (``cae-a-cubic-baseline`` …).
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
        check_new(out, f"{NAME}-{options.network}")
    recipes = {
        lattice: {name: _recipe(options, lattice, CONFIGURATIONS[name]) for name in options.configurations}
        for lattice in options.lattices
    }
    flop = sum(cost_of(recipe).flop_total for ones in recipes.values() for recipe in ones.values())
    report(f"{sum(map(len, recipes.values()))} trainings, {flop:.3g} FLOP in all")
    found = {}
    for lattice, ones in recipes.items():
        runs = {name: RunFolder(out / _folder(options.network, lattice, name)) for name in ones}
        for name, recipe in ones.items():
            if not train_variant(recipe, runs[name], resume=resume, device=device, report=report):
                return None
        found[lattice] = _judge(ones, runs, options)
        for name, one in found[lattice].trained.items():
            report(f"{lattice}, {name}: MSE {one.scores.clean_mse:.4f} against the clean patches")
    return _write(out, options, found, flop)


def _folder(network: str, lattice: str, configuration: str) -> str:
    return f"{network}-{lattice}-{configuration.lower().replace(' ', '-')}"


def _recipe(options: LatticesOptions, lattice: str, configuration: Configuration) -> Recipe:
    """The recipe of the network with what a configuration changes; an epoch is all patches of all images once."""
    noise = NOISE_LEVELS[NOISE]
    images = 2 if options.smoke else options.images
    patches = configuration.patches // 30 if options.smoke else configuration.patches
    batch = configuration.batch // 16 if options.smoke else configuration.batch
    words = (
        f'lattices.names=["{lattice}"]',
        *(f"lattices.{name}=[{value}, {value}]" for name in ("thermal", "shot", "striation") for value in [getattr(noise, name)]),
        f"lattices.patches={patches}",
        f"lattices.target={options.target}",
        f"data.pool={images}",
        f"data.batch={batch}",
        f"data.steps_per_epoch={max(images * patches // batch, 1)}",
        f"optimiser.lr={configuration.lr}",
        f"training.epochs={max(round(configuration.epochs * (0.01 if options.smoke else options.budget)), 1)}",
        *(("schedule.kind=cosine", "schedule.warmup_epochs=0", "schedule.lr_min=1e-5") if configuration.decay else ()),
    )  # fmt: skip
    return load_recipe(options.network, smoke=options.smoke, overrides=(*words, *options.overrides))


@torch.no_grad()
def _judge(recipes: Mapping[str, Recipe], runs: Mapping[str, RunFolder], options: LatticesOptions) -> _Lattice:
    """Scores on the same patches of the validation split, those of principal components too."""
    recipe = next(iter(recipes.values()))
    side = CaeA.SIDE_PX if options.network == "cae-a" else CaeB.SIDE_PX
    count = min(options.patches, 64) if options.smoke else options.patches
    tested = PatchSet.of(LatticePatches(recipe, Split.VALIDATION, side), count)
    shown = np.linspace(0, count - 1, _SHOWN).astype(int)
    pictures = {"clean": tested.clean, "noisy": tested.image}
    trained = {}
    for name, run in runs.items():
        network = trained_network(run)[0].eval()
        answer = torch.cat([_denoised(network, part) for part in torch.split(tested.image, 2048)])
        trained[name] = _Trained(recipes[name], run, score_patches(answer, tested))
        pictures[name] = answer
    learned = PatchSet.of(LatticePatches(recipe, Split.TRAIN, side), min(5 * count, recipe.data.pool * PATCHES))
    pca = {}
    for what, target in (("noisy", learned.image), ("clean", learned.clean)):
        answer = _by_components(target, tested.image)
        pca[f"PCA of {what} patches"] = score_patches(answer, tested)
        pictures[f"PCA of {what} patches"] = answer
    return _Lattice(
        trained,
        pca,
        score_patches(tested.image, tested),
        {name: _grey(one[shown], tested.clean[shown]) for name, one in pictures.items()},
    )


def _denoised(network: nn.Module, patches: Tensor) -> Tensor:
    denoised: Tensor = network(patches).denoised
    return denoised


def _by_components(learned: Tensor, seen: Tensor) -> Tensor:
    """Patches by as many principal components as there are latent numbers."""
    pca = PCA(LATENT, svd_solver="full").fit(learned.flatten(1).double().numpy())
    found = pca.inverse_transform(pca.transform(seen.flatten(1).double().numpy()))
    return torch.from_numpy(found.astype(np.float32)).reshape(seen.shape)


def _grey(patches: Tensor, clean: Tensor) -> NDArray[np.float32]:
    """Patches as pictures: the range of their clean ones is that from black to white."""
    low, high = clean.amin(dim=(1, 2, 3), keepdim=True), clean.amax(dim=(1, 2, 3), keepdim=True)
    return np.asarray(((patches - low) / (high - low).clamp(min=1e-6))[:, 0].numpy(), np.float32)


def _write(out: Path, options: LatticesOptions, found: Mapping[str, _Lattice], flop: float) -> Path:
    first = next(iter(next(iter(found.values())).trained.values())).recipe
    noise = NOISE_LEVELS[NOISE]
    total = sum(len(one.trained) for one in found.values())
    page = Page(
        f"Seven configurations: {options.network.upper()}",
        f"{total} trainings of {cost_of(first).parameters:,} parameters, {flop:.3g} FLOP in all, {options.budget:.0%} of the "
        f"printed epochs, {first.data.pool} images of each lattice; learned from the {options.target} patches. Noise: thermal "
        f"{noise.thermal:g}, shot {noise.shot:g}, striations {noise.striation:g} of an atom's height. The scale is the report's, "
        "from −1 to 1 between the extremes of an image; its own noise is not stated, so its numbers orient."
        + set_by_hand(options.overrides),
    )
    best = {lattice: min(one.trained, key=_clean_mse_of(one)) for lattice, one in found.items()}
    beaten = sum(
        score.scores.clean_mse < min(pca.clean_mse for pca in one.pca.values())
        for one in found.values()
        for score in one.trained.values()
    )
    page.recommend(
        "Lowest error against the clean patches: "
        + ", ".join(f"{lattice} {name} ({found[lattice].trained[name].scores.clean_mse:.4f})" for lattice, name in best.items())
        + f". {beaten} of {total} trainings are ahead of {LATENT} principal components."
    )  # fmt: skip
    for lattice, one in found.items():
        _table(page, lattice, one, best[lattice])
    _curves(page, found)
    for lattice, one in found.items():
        page.section(f"Pictures: {lattice}")
        page.figure(sheet(one.pictures, zoom=0.5), "Patches of the validation split; grey as in the clean ones.")
    numbers = {
        "network": options.network,
        "target": options.target,
        "budget": options.budget,
        "flop": flop,
        "noise": vars(noise),
        "set_by_hand": list(options.overrides),
        "best": best,
        "lattices": {lattice: _numbers(lattice, one) for lattice, one in found.items()},
    }
    return page.write(out, f"{NAME}-{options.network}", numbers)


def _clean_mse_of(one: _Lattice) -> Callable[[str], float]:
    return lambda name: one.trained[name].scores.clean_mse


def _table(page: Page, lattice: str, one: _Lattice, best: str) -> None:
    page.section(f"Scores: {lattice}")
    header = ("", "epochs", "steps", "MSE, noisy", "printed", "SSIM, noisy", "printed", "MSE, clean", "SSIM, clean")
    rows: list[Sequence[Cell]] = []
    for name, trained in one.trained.items():
        printed = PRINTED.get(lattice, {}).get(name, (None, None))
        epochs = trained.recipe.training.epochs
        steps = epochs * trained.recipe.data.steps_per_epoch
        rows.append((name, epochs, steps, *_cells(trained.scores, printed)))
    others = one.pca | {"the noisy patch": one.nothing}
    rows += [(name, None, None, *_cells(scores, (None, None))) for name, scores in others.items()]
    page.table(header, rows, chosen=[list(one.trained).index(best)])


def _cells(scores: PatchScores, printed: tuple[float | None, float | None]) -> tuple[Cell, ...]:
    return (
        f"{scores.noisy_mse:.4f}",
        printed[0],
        f"{scores.noisy_ssim:.3f}",
        printed[1],
        f"{scores.clean_mse:.4f}",
        f"{scores.clean_ssim:.3f}",
    )


def _curves(page: Page, found: Mapping[str, _Lattice]) -> None:
    page.section("During training")
    content = []
    for key, title in (("train_loss", "training loss"), ("val_loss", "validation loss")):
        for lattice, one in found.items():
            curves = {}
            for name, trained in one.trained.items():
                rows = trained.run.metrics()
                curves[name] = [row["epoch"] for row in rows], [row[key] for row in rows]
            content.append(Panel(f"{lattice}: {title}", "epoch", curves, log_y=True))
    page.figure(panels(content, columns=len(found)), "Losses in units of the view, by epoch.")


def _numbers(lattice: str, one: _Lattice) -> dict[str, object]:
    return {
        "trained": {
            name: {
                **vars(trained.scores),
                "printed": PRINTED.get(lattice, {}).get(name),
                "epochs": trained.recipe.training.epochs,
            }
            for name, trained in one.trained.items()
        },
        "others": {name: vars(scores) for name, scores in (one.pca | {"the noisy patch": one.nothing}).items()},
    }

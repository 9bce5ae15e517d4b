"""The whole of fine-tuning at home: from a folder of scans to a package that was judged."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn
from torch.utils.data import Dataset

from spm_runtime.errors import ModelError, ParameterError
from spm_runtime.models import ModelPackage
from spm_runtime.session import Session
from spm_training.defects.scenes import DefectOptions
from spm_training.distributed import world
from spm_training.finetune.decide import (
    AFTER,
    BEFORE,
    finder_figures,
    judge_finder,
    judge_patches,
    patch_figures,
)
from spm_training.finetune.judge import judge_simulated, judge_view
from spm_training.finetune.loop import Effort, go_on
from spm_training.finetune.plant import survey
from spm_training.finetune.rebuild import rebuilt_autoencoder, rebuilt_finder
from spm_training.finetune.report import NAME, Outcome, tables, write_report
from spm_training.finetune.samples import HomeFinderCrops, HomePatchCrops, framed
from spm_training.finetune.scans import Collection, read_collection, views_of
from spm_training.finetune.write import Parts, Story, check_name, write_package
from spm_training.networks.ae1 import Ae1
from spm_training.networks.finder import FinderNet
from spm_training.packages.stages import StageOne, learn_stage_one
from spm_training.recipe import Recipe, load_recipe
from spm_training.run import git_commit
from spm_training.tasks import task_of

__all__ = ["Home", "fit_at_home"]

Say = Callable[[str], object]
Trained = TypeVar("Trained", bound=nn.Module)

#: Names of the parts in reports.
FINDER, PATCHES = "finder", "patch autoencoder"
#: What differs from the training from scratch: short, at a low rate, on few simulated images.
_SHORT = ("training.epochs=6", "training.precision=float32", "optimiser.lr=2e-4")
_FINDER = (*_SHORT, "data.batch=8", "data.steps_per_epoch=40", "data.pool=192")
_PATCHES = (
    *_SHORT, "data.crop_px=128", "data.batch=4", "data.steps_per_epoch=30", "data.pool=64", "training.ema_decay=0.98",
    "schedule.kind=cosine", "schedule.warmup_epochs=0.2", "schedule.lr_min=1e-5",
)  # fmt: skip
#: What the user sets for the training of both.
_SHARED = ("training.", "optimiser.lr=", "data.cache=", "data.pool=", "surfaces.families=")
#: Views with planted defects that judge, and bounds of how often one view is planted; simulated images of every noise level, with
#: defects and without; images for the clusters.
PLANTINGS, ROUNDS, SIMULATED, CLUSTER_IMAGES = 40, (2, 8), 6, 24


@dataclass(frozen=True)
class Home:
    """What a user asks for.

    Parameters
    ----------
    data
        Folder of scans.
    out
        The new package.
    version
        Its version.
    smoke
        The whole path in seconds; its numbers mean nothing.
    overrides
        ``KEY=VALUE`` for the recipes of both trainings.
    device
        ``auto``, ``cpu`` or ``cuda``, for the training.
    """

    data: Path
    out: Path
    version: str = "0.1.0"
    smoke: bool = False
    overrides: Sequence[str] = ()
    device: str = "auto"


def fit_at_home(parent: ModelPackage, home: Home, *, report: Say) -> Path:
    """Let a package go on learning from a user's scans, and write a new one.

    The package appears whole or not at all.

    Parameters
    ----------
    parent
        Where it begins.
    home
        What the user asks for.
    report
        Takes one line for a person.

    Returns
    -------
    The report, within the new package.

    Raises
    ------
    ParameterError
        If the destination is taken, the scans are too few, or a setting is refused.
    ModelError
        If the package is of another task, or is none that can go on learning.
    """
    if parent.task != "defects":
        raise ModelError(
            f"{parent.folder}: a package of the task {parent.task!r}; expected one of the task 'defects'. Name another."
        )
    if "RANK" in os.environ:
        raise ParameterError("--data: expected a single process, not torchrun. Start it alone.")
    name = check_name(home.out)
    finder = rebuilt_finder(parent)
    patches = rebuilt_autoencoder(parent) if {"encoder", "decoder"} <= set(parent.attached) else None
    recipes = _recipes(parent, home, finder, patches)  # settings are right before anything is read
    collection = read_collection(home.data, parent)
    _tell(collection, report)
    home.out.parent.mkdir(parents=True, exist_ok=True)
    with (
        world(home.device) as place,
        tempfile.TemporaryDirectory(prefix=f".{name}-", dir=home.out.parent, ignore_cleanup_errors=True) as scratch,
    ):
        recipes = {part: _with_cache(recipe, Path(scratch)) for part, recipe in recipes.items()}
        work = _Work(parent, collection, recipes, place.device, Path(scratch), home, report)
        made = work.package(finder, patches)
        made.rename(home.out)
    return home.out / f"{NAME}.html"


class _Work:
    """The steps, with what all of them need."""

    def __init__(
        self,
        parent: ModelPackage,
        collection: Collection,
        recipes: dict[str, Recipe],
        device: torch.device,
        scratch: Path,
        home: Home,
        report: Say,
    ) -> None:
        self.parent, self.collection, self.recipes = parent, collection, recipes
        self.device, self.scratch, self.home, self.report = device, scratch, home, report
        self.efforts: dict[str, Effort] = {}

    def package(self, finder: FinderNet, patches: Ae1 | None) -> Path:
        """Train, judge, decide and write; the folder of the package."""
        session = Session(self.parent, "cpu")
        grounds = [survey(view, session) for view in views_of(self.collection.training)]
        samples = HomeFinderCrops(self.recipes[FINDER], grounds)
        tuned = Parts(
            self._trained(FINDER, finder, samples), True, None if patches is None else self._tuned_patches(patches)
        )
        both = self._written("tuned", "tuned", tuned, Story("tuned", self.home.version, {}, {}, "Not judged yet.\n"))
        outcome = self._judged(both, session, samples.shares)
        taken = {part for part, verdict in outcome.verdicts.items() if verdict.tuned}
        parts = Parts(
            tuned.finder if FINDER in taken else finder,
            FINDER in taken,
            tuned.patches if PATCHES in taken else None,
        )
        story = Story(self.home.out.name, self.home.version, self._facts(outcome), _metrics(outcome), tables(outcome))
        made = self._written("new", self.home.out.name, parts, story)
        write_report(outcome, made)
        self.report(outcome.advice)
        return made

    def _trained(self, part: str, network: Trained, samples: Dataset[Any]) -> Trained:
        """Go on with one network."""
        self.report(f"{part}:")
        task = task_of(self.recipes[part])
        trained, self.efforts[part] = go_on(
            network, task, samples, self.recipes[part], device=self.device, report=self.report
        )
        return trained

    def _tuned_patches(self, network: Ae1) -> tuple[Ae1, StageOne]:
        """The patch autoencoder, and what its latents say of simulated images and of the scans."""
        recipe, views = self.recipes[PATCHES], views_of(self.collection.training)
        trained = self._trained(PATCHES, network, HomePatchCrops(recipe, views))
        more = [framed(view, recipe.surfaces.clip_percent) for view in views]
        return trained, learn_stage_one(recipe, trained, CLUSTER_IMAGES, more=more)

    def _written(self, place: str, name: str, parts: Parts, story: Story) -> Path:
        folder = self.scratch / place / name
        folder.mkdir(parents=True)
        write_package(folder, self.parent, parts, story)
        return folder

    def _judged(self, tuned: Path, session: Session, shares: NDArray[np.float64]) -> Outcome:
        """Shipped and tuned package on the same images, and what follows."""
        self.report("judging on the held-out scans and on simulated ones")
        folders, smoke = {BEFORE: self.parent.folder, AFTER: tuned}, self.home.smoke
        views, seed = len(views_of(self.collection.held_out)), self.recipes[FINDER].training.seed
        rounds = 1 if smoke else min(max(PLANTINGS // views, ROUNDS[0]), ROUNDS[1])
        held_out = [
            [
                judge_view(
                    survey(view, session), folders, shares, rounds=rounds, seed=seed, number=100 * first + second
                )
                for second, view in enumerate(image.views)
            ]
            for first, image in enumerate(self.collection.held_out)
        ]
        simulated = judge_simulated(folders, DefectOptions(1, 64) if smoke else DefectOptions(SIMULATED))
        finder = finder_figures(held_out, simulated)
        verdicts, patches = {FINDER: judge_finder(finder)}, None
        if PATCHES in self.efforts:
            patches = patch_figures(held_out, simulated)
            verdicts[PATCHES] = judge_patches(patches)
        return Outcome(self.parent, self.collection, held_out, finder, patches, verdicts, self.efforts)

    def _facts(self, outcome: Outcome) -> dict[str, object]:
        """The facts of the training for the card; images, FLOP and hours count those of the parent too."""
        before, efforts = self.parent.training, self.efforts.values()
        facts: dict[str, object] = {
            "data": "scans of a user, unlabelled, with planted defects; every other sample simulated (spm_training.finetune)",
            "parent": f"{self.parent.name} {self.parent.version}, sha256 {self.parent.reference.sha256}",
            "families": before.get("families", "all"),
            "recipe": self.recipes[FINDER].name,
            "seed": self.recipes[FINDER].training.seed,
            "commit": git_commit() or "unknown (trained outside a checkout)",
            "scans_learned_from": len(self.collection.training),
            "scans_held_out": len(self.collection.held_out),
            "images_seen": int(str(before.get("images_seen", 0))) + self.efforts[FINDER].images,
            "flop": f"{float(str(before.get('flop', 0))) + sum(one.flop for one in efforts):.3g}",
            "flop_at_home": f"{sum(one.flop for one in efforts):.3g}",
            "hours": round(float(str(before.get("hours", 0))) + sum(one.seconds for one in efforts) / 3600, 2),
            "budget": "CPU budget" if self.device.type == "cpu" else "1 GPU(s)",
        }
        for part, verdict in outcome.verdicts.items():
            facts[part.replace(" ", "_")] = "went on learning" if verdict.tuned else "that of the parent"
        return facts | {"weights": before.get("weights", "float32")}


def _recipes(parent: ModelPackage, home: Home, finder: FinderNet, patches: Ae1 | None) -> dict[str, Recipe]:
    """The resolved recipes of the trainings, with the networks that the package has."""
    recipe = load_recipe("defects", smoke=home.smoke, overrides=(*(() if home.smoke else _FINDER), *home.overrides))
    sizes = {"base_width": finder.base_width, "depth": finder.depth, "channels": tuple(parent.settings["channels"])}
    recipes = {FINDER: recipe.model_copy(update={"network": recipe.network.model_copy(update=sizes)})}
    if patches is not None:
        shared = [entry for entry in home.overrides if entry.strip().startswith(_SHARED)]
        recipe = load_recipe("ae1", smoke=home.smoke, overrides=(*(() if home.smoke else _PATCHES), *shared))
        network = recipe.network.model_copy(update={"latent": patches.latent})
        clip = {"clip_percent": float(parent.settings["clip_percent"])}
        surfaces = recipe.surfaces.model_copy(update=clip)
        recipes[PATCHES] = recipe.model_copy(update={"network": network, "surfaces": surfaces})
    return recipes


def _with_cache(recipe: Recipe, scratch: Path) -> Recipe:
    """Simulated images come from the recipe's cache where there is one; else they are kept for as long as this takes."""
    if recipe.data.cache and Path(recipe.data.cache).is_dir():
        return recipe
    data = recipe.data.model_copy(update={"cache": str(scratch / "cache")})
    return recipe.model_copy(update={"data": data})


def _tell(collection: Collection, report: Say) -> None:
    training, held_out = len(views_of(collection.training)), len(views_of(collection.held_out))
    report(
        f"{len(collection)} images: {len(collection.training)} to learn from ({training} directions and frames), "
        f"{len(collection.held_out)} held out ({held_out}); {len(collection.left_out)} files left out"
    )
    for one in collection.left_out:
        report(f"  left out: {one.reason}")


def _metrics(outcome: Outcome) -> dict[str, float]:
    """The few numbers that stand in the description: of what was taken."""
    after = int(outcome.verdicts[FINDER].tuned)
    found = {
        "planted_f1_held_out": outcome.finder.planted_f1[after],
        "f1_simulated": outcome.finder.simulated_f1[after],
        "false_per_empty_image": outcome.finder.false_per_empty[after],
    }
    if outcome.patches is not None:
        taken = int(outcome.verdicts[PATCHES].tuned)
        found |= {"error_held_out": outcome.patches.error[taken], "novelty_held_out": outcome.patches.novelty[taken]}
    return {name: float(f"{value:.4g}") for name, value in found.items()}

"""Variants of one recipe, each trained in a folder of its own with the same budget; what is finished is not trained again."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Sequence

from spm_training.fit import fit
from spm_training.networks.ae1 import SIDE_PX
from spm_training.recipe import Recipe, load_recipe
from spm_training.run import RunFolder

__all__ = ["EPOCHS", "budget_recipe", "crops_for", "patch_steps", "set_by_hand", "shortened_recipe", "train_variant"]

#: Epochs of a study on a CPU, unless told otherwise: 192,000 patch-steps. The report's own budget is 150 epochs of 300,000.
EPOCHS = 12


def budget_recipe(*, smoke: bool, overrides: Sequence[str]) -> Recipe:
    """The recipe ae1 with a short and fixed length.

    The learning rate falls along a cosine, because a plateau is not met in so short a training, and nothing stops it early: all
    variants see as many patches.

    Parameters
    ----------
    smoke
        The recipe's own few steps.
    overrides
        ``KEY=VALUE`` of a user; they come last.

    Raises
    ------
    ParameterError
        If a key or a value is refused.
    """
    length = () if smoke else (f"training.epochs={EPOCHS}",)
    fixed = (*length, "schedule.kind=cosine", "schedule.warmup_epochs=0.5")
    recipe = load_recipe("ae1", smoke=smoke, overrides=(*fixed, *overrides))
    stopping = recipe.early_stopping.model_copy(update={"patience_epochs": recipe.training.epochs})
    return recipe.model_copy(update={"early_stopping": stopping})


def shortened_recipe(name: str, budget: float, *, smoke: bool, overrides: Sequence[str]) -> Recipe:
    """A recipe with a share of its epochs, one at least.

    Parameters
    ----------
    name
        Of the recipe, or a .toml file.
    budget
        Share of its epochs.
    smoke
        The recipe's own few steps instead.
    overrides
        ``KEY=VALUE`` of a user; ``training.epochs`` among them is what the share is of.

    Raises
    ------
    ParameterError
        If a key or a value is refused.
    """
    whole = load_recipe(name, smoke=smoke, overrides=overrides)
    if smoke:
        return whole
    return load_recipe(name, overrides=(*overrides, f"training.epochs={max(round(whole.training.epochs * budget), 1)}"))


def set_by_hand(overrides: Sequence[str]) -> str:
    """What a page says of the ``KEY=VALUE`` of a user, which take the place of what else it says; empty where there are none."""
    return f" Set by hand, whatever else is said here: {', '.join(overrides)}." if overrides else ""


def patch_steps(recipe: Recipe) -> int:
    """Windows that a training goes through, each as often as it is seen."""
    steps = recipe.training.epochs * recipe.data.steps_per_epoch
    return steps * recipe.data.batch * _windows_per_crop(recipe)


def crops_for(recipe: Recipe, windows: int) -> int:
    """Crops that hold at least so many windows."""
    return -(-windows // _windows_per_crop(recipe))


def _windows_per_crop(recipe: Recipe) -> int:
    return (recipe.data.crop_px // SIDE_PX) ** 2


def train_variant(
    recipe: Recipe,
    run: RunFolder,
    *,
    resume: bool,
    device: str,
    report: Callable[[str], None],
    start: RunFolder | None = None,
    anew: tuple[str, ...] = (),
) -> bool:
    """Train one variant, go on with it, or leave it as it is when it is finished.

    Parameters
    ----------
    recipe
        What to train.
    run
        Its folder.
    resume
        Whether an earlier call may have begun it.
    device, report, start, anew
        As of `spm_training.fit.fit`.

    Returns
    -------
    Whether it is finished; False after Ctrl-C.

    Raises
    ------
    ParameterError
        If the folder is taken, or holds a run of another recipe.
    """
    goes_on = resume and run.last.is_file()
    if goes_on:
        run.check_resumable(recipe)
        if run.best.is_file() and len(run.metrics()) >= recipe.training.epochs:
            report(f"{run.path}: finished already")
            return True
    elif resume and run.recipe_file.is_file():
        shutil.rmtree(run.path)  # ended before its first checkpoint: nothing of it can be used
    outcome = fit(
        recipe, run, resume=goes_on, start=None if goes_on else start, anew=anew, device=device, report=report
    )
    return outcome.stopped != "interrupted"

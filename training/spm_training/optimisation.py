"""The optimiser of a recipe, and the schedule of its learning rate.

Schedules count the steps of global batches: the same on one process and on many.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, Literal

from torch import nn
from torch.optim import Adam, AdamW, Optimizer
from torch.optim.lr_scheduler import LambdaLR, LRScheduler, ReduceLROnPlateau, StepLR

from spm_training.recipe import CosineOptions, PlateauOptions, Recipe

__all__ = ["Schedule", "build_optimiser", "build_schedule"]

_OPTIMISERS: dict[str, type[Adam]] = {"adam": Adam, "adamw": AdamW}


@dataclass
class Schedule:
    """A learning rate that changes after steps, after epochs, or by the validation loss.

    Parameters
    ----------
    scheduler
        torch's own.
    follows
        What moves it on.
    """

    scheduler: LRScheduler
    follows: Literal["step", "epoch", "loss"]

    def after_step(self) -> None:
        """To be called after every step of the optimiser."""
        if self.follows == "step":
            self.scheduler.step()

    def after_epoch(self, loss: float) -> None:
        """To be called after every epoch with the validation loss."""
        if self.follows == "epoch":
            self.scheduler.step()
        elif self.follows == "loss":
            self.scheduler.step(loss)  # type: ignore[arg-type]  # ReduceLROnPlateau's step takes the loss

    def state_dict(self) -> dict[str, Any]:
        """State for a checkpoint."""
        return self.scheduler.state_dict()

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take up a state of `state_dict`."""
        self.scheduler.load_state_dict(state)


def build_optimiser(recipe: Recipe, network: nn.Module) -> Optimizer:
    """The optimiser of a recipe for the parameters of a network."""
    options = recipe.optimiser
    return _OPTIMISERS[options.kind](network.parameters(), lr=options.lr, weight_decay=options.weight_decay)


def build_schedule(recipe: Recipe, optimiser: Optimizer) -> Schedule:
    """The schedule of a recipe for its optimiser."""
    options = recipe.schedule
    if isinstance(options, PlateauOptions):
        plateau = ReduceLROnPlateau(
            optimiser, factor=options.factor, patience=options.patience_epochs, min_lr=options.lr_min
        )
        return Schedule(plateau, "loss")
    if isinstance(options, CosineOptions):
        return Schedule(_cosine(recipe, options, optimiser), "step")
    return Schedule(StepLR(optimiser, step_size=options.every_epochs, gamma=options.factor), "epoch")


def _cosine(recipe: Recipe, options: CosineOptions, optimiser: Optimizer) -> LambdaLR:
    """Linear rise over the warm-up, then half a cosine from the full rate to ``lr_min`` at the last step."""
    total = recipe.training.epochs * recipe.data.steps_per_epoch
    warm_up = round(options.warmup_epochs * recipe.data.steps_per_epoch)
    lowest = options.lr_min / recipe.optimiser.lr

    def factor(step: int) -> float:
        if step < warm_up:
            return (step + 1) / (warm_up + 1)
        # The step after the last one has no use, but is asked for.
        share = min((step - warm_up) / max(total - 1 - warm_up, 1), 1.0)
        return lowest + (1 - lowest) * (1 + math.cos(math.pi * share)) / 2

    return LambdaLR(optimiser, factor)

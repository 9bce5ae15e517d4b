"""The short training at home: a fixed number of steps, no validation, no checkpoint; other images judge its end."""

from __future__ import annotations

import copy
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeVar, cast

import torch
from torch import nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn
from torch.utils.data import Dataset
from tqdm import tqdm

from spm_runtime.errors import ModelError
from spm_training.cost import cost_of
from spm_training.optimisation import build_optimiser, build_schedule
from spm_training.recipe import Recipe
from spm_training.tasks import Task

__all__ = ["Effort", "go_on"]

Network = TypeVar("Network", bound=nn.Module)


@dataclass(frozen=True)
class Effort:
    """What a training has cost.

    Parameters
    ----------
    images
        Images seen.
    flop
        Floating-point operations of all steps.
    seconds
        Of the wall clock.
    first_loss, last_loss
        Mean loss of the first and of the last epoch.
    """

    images: int
    flop: float
    seconds: float
    first_loss: float
    last_loss: float


def go_on(
    network: Network,
    task: Task[Any, Any],
    samples: Dataset[Any],
    recipe: Recipe,
    *,
    device: torch.device,
    report: Callable[[str], object],
) -> tuple[Network, Effort]:
    """Train a network for the epochs of a recipe.

    Parameters
    ----------
    network
        Where it begins; it is left as it is.
    task
        Loss and batches.
    samples
        Samples by ``(epoch, index)``.
    recipe
        Steps, rates, precision and moving average.
    device
        Where to compute.
    report
        Takes one line for a person.

    Returns
    -------
    The trained network on the CPU in evaluation mode, where the recipe has one with the moving average of its weights; and what
    it cost.

    Raises
    ------
    ModelError
        If the loss is no longer finite.
    """
    torch.manual_seed(recipe.training.seed)
    model = copy.deepcopy(network).to(device)
    decay = recipe.training.ema_decay
    average = None
    if decay:
        average = AveragedModel(model, multi_avg_fn=get_ema_multi_avg_fn(decay))  # type: ignore[no-untyped-call]
    optimiser, data, epochs = build_optimiser(recipe, model), recipe.data, recipe.training.epochs
    schedule = build_schedule(recipe, optimiser)
    flop = cost_of(recipe).flop_per_step * data.steps_per_epoch * epochs
    report(f"{epochs * data.steps_per_epoch} steps of {data.batch} images, {flop:.3g} FLOP at most")
    started, losses = time.perf_counter(), []
    model.train()
    for epoch in range(epochs):
        total = 0.0
        steps = tqdm(
            range(data.steps_per_epoch),
            desc=f"epoch {epoch + 1}/{epochs}",
            leave=False,
            disable=not sys.stderr.isatty(),
        )
        for step in steps:
            keys = [(epoch, step * data.batch + number) for number in range(data.batch)]
            batch = task.collate([samples[key] for key in keys]).to(device)
            precision = recipe.training.precision
            with torch.autocast(device.type, torch.bfloat16, enabled=precision == "bfloat16"):
                output = model(task.inputs(batch))
            loss = task.loss(output, batch)["loss"]
            optimiser.zero_grad(set_to_none=True)
            loss.backward()  # type: ignore[no-untyped-call]
            if recipe.optimiser.grad_clip_norm:
                nn.utils.clip_grad_norm_(model.parameters(), recipe.optimiser.grad_clip_norm)
            optimiser.step()
            schedule.after_step()
            if average is not None:
                average.update_parameters(model)
            total += float(loss.detach())
        losses.append(total / data.steps_per_epoch)
        if not abs(losses[-1]) < float("inf"):
            raise ModelError(f"the loss is {losses[-1]} in epoch {epoch + 1}; expected a number. Lower optimiser.lr.")
        report(f"epoch {epoch + 1}/{epochs}  loss {losses[-1]:.5f}  {time.perf_counter() - started:.0f} s")
    trained = model if average is None else cast(Network, average.module)
    effort = Effort(
        epochs * data.steps_per_epoch * data.batch, flop, time.perf_counter() - started, losses[0], losses[-1]
    )
    return trained.cpu().eval(), effort

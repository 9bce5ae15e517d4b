"""The short training at home: a fixed number of steps, no validation, no checkpoint; other images judge its end."""

from __future__ import annotations

import copy
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
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
    learner = _Learner(network, task, samples, recipe, device)
    data, epochs = recipe.data, recipe.training.epochs
    flop = cost_of(recipe).flop_per_step * data.steps_per_epoch * epochs
    report(f"{epochs * data.steps_per_epoch} steps of {data.batch} images, {flop:.3g} FLOP at most")
    started, losses = time.perf_counter(), []
    with _threads(recipe.training.threads):
        for epoch in range(epochs):
            losses.append(learner.epoch(epoch))
            if not abs(losses[-1]) < float("inf"):
                raise ModelError(
                    f"the loss is {losses[-1]} in epoch {epoch + 1}; expected a number. Lower optimiser.lr."
                )
            report(f"epoch {epoch + 1}/{epochs}  loss {losses[-1]:.5f}  {time.perf_counter() - started:.0f} s")
    seconds = time.perf_counter() - started
    effort = Effort(epochs * data.steps_per_epoch * data.batch, flop, seconds, losses[0], losses[-1])
    return cast(Network, learner.trained.cpu().eval()), effort


class _Learner:
    """A network with its optimiser."""

    def __init__(
        self, network: nn.Module, task: Task[Any, Any], samples: Dataset[Any], recipe: Recipe, device: torch.device
    ) -> None:
        self.task, self.samples, self.recipe, self.device = task, samples, recipe, device
        self.model = copy.deepcopy(network).to(device).train()
        self.optimiser = build_optimiser(recipe, self.model)
        self.schedule = build_schedule(recipe, self.optimiser)
        self.average: AveragedModel | None = None
        if recipe.training.ema_decay:
            decayed = get_ema_multi_avg_fn(recipe.training.ema_decay)  # type: ignore[no-untyped-call]
            self.average = AveragedModel(self.model, multi_avg_fn=decayed)

    @property
    def trained(self) -> nn.Module:
        """The network, or the moving average of its weights."""
        return self.model if self.average is None else self.average.module

    def epoch(self, epoch: int) -> float:
        """One epoch; its mean loss."""
        steps, total = self.recipe.data.steps_per_epoch, 0.0
        words = f"epoch {epoch + 1}/{self.recipe.training.epochs}"
        for step in tqdm(range(steps), desc=words, leave=False, disable=not sys.stderr.isatty()):
            total += self._step(epoch, step)
        self.schedule.after_epoch(total / steps)
        return total / steps

    def _step(self, epoch: int, step: int) -> float:
        batch_size, recipe = self.recipe.data.batch, self.recipe
        keys = [(epoch, step * batch_size + number) for number in range(batch_size)]
        batch = self.task.collate([self.samples[key] for key in keys]).to(self.device)
        with torch.autocast(self.device.type, torch.bfloat16, enabled=recipe.training.precision == "bfloat16"):
            output = self.model(self.task.inputs(batch))
        loss = self.task.loss(output, batch)["loss"]
        self.optimiser.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]
        if recipe.optimiser.grad_clip_norm:
            nn.utils.clip_grad_norm_(self.model.parameters(), recipe.optimiser.grad_clip_norm)
        self.optimiser.step()
        if self.average is not None:
            self.average.update_parameters(self.model)
        self.schedule.after_step()
        return float(loss.detach())


@contextmanager
def _threads(count: int) -> Iterator[None]:
    """So many threads for an operator meanwhile; 0 leaves them as they are."""
    before = torch.get_num_threads()
    torch.set_num_threads(count or before)
    try:
        yield
    finally:
        torch.set_num_threads(before)

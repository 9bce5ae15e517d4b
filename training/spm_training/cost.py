"""What a training costs, counted from the network before it starts."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch.utils.flop_counter import FlopCounterMode

from spm_training.recipe import Recipe
from spm_training.tasks import task_of

__all__ = ["Cost", "cost_of"]


@dataclass(frozen=True)
class Cost:
    """The cost of a recipe at its full length.

    Parameters
    ----------
    parameters
        Trainable numbers of the network.
    flop_per_image
        Floating-point operations of one inference on one input of the training, two per multiply and add.
    flop_per_step
        The same of one training step (forward and backward).
    flop_total
        The same of the whole training at its full number of epochs, validation included.
    cpu_hours
        Hours of computing on a CPU of the speed that the recipe states.
    cpu_gflops
        That speed.
    """

    parameters: int
    flop_per_image: float
    flop_per_step: float
    flop_total: float
    cpu_hours: float
    cpu_gflops: float

    def __str__(self) -> str:
        return (
            f"{self.parameters:,} parameters; {self.flop_per_step:.3g} FLOP per step, {self.flop_total:.3g} FLOP in all "
            f"(at most): about {self.cpu_hours:.1f} h at {self.cpu_gflops:.0f} GFLOP/s"
        )


def cost_of(recipe: Recipe) -> Cost:
    """Count the cost of a recipe on a network without storage; takes a fraction of a second, computes nothing."""
    task = task_of(recipe)
    with torch.device("meta"):
        network = task.build_network()
        batch = torch.empty(recipe.data.batch, *task.input_shape)
    counter = FlopCounterMode(display=False)
    with counter:
        output = network(batch)
        forward = counter.get_total_flops()
        outputs = output if isinstance(output, tuple) else (output,)
        torch.stack([one.sum() for one in outputs]).sum().backward()  # type: ignore[no-untyped-call]
    step = counter.get_total_flops()
    per_image = forward / recipe.data.batch
    epoch = step * recipe.data.steps_per_epoch + per_image * recipe.data.validation_images
    total = float(epoch * recipe.training.epochs)
    gflops = recipe.cpu_gflops_measured
    parameters = sum(parameter.numel() for parameter in network.parameters())
    return Cost(parameters, per_image, float(step), total, total / (gflops * 1e9) / 3600, gflops)

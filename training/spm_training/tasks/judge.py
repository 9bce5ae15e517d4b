"""Training of the network that judges how blunt an estimated tip is, `spm_training.networks.judge.JudgeNet`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from spm_training.data import Split
from spm_training.graphs.restore import JudgeGraph
from spm_training.networks.judge import JUDGED_WIDTH, JudgeNet
from spm_training.recipe import JudgeNetworkOptions, Recipe
from spm_training.tasks._task import stacked
from spm_training.tasks.tip_scenes import JudgeBatch, JudgeSamples

__all__ = ["JudgeTask"]

#: Temperature, in decades of the squared error, of the choice that the loss makes.
_TEMPERATURE = 0.1


class JudgeTask:
    """Facts on candidates through `JudgeNet`.

    Parameters
    ----------
    recipe
        The resolved recipe.
    """

    TERMS = ("loss", "foresight", "choice")
    sum_names = ("images", *TERMS, "gain", "best")
    shown = ("gain", "best")

    def __init__(self, recipe: Recipe) -> None:
        self.recipe = recipe

    @property
    def input_shape(self) -> tuple[int, ...]:
        """Facts of one scan."""
        return (JUDGED_WIDTH,)

    def build_network(self) -> JudgeNet:
        """The network with fresh weights from torch's global generator."""
        options = self.recipe.network
        if not isinstance(options, JudgeNetworkOptions):
            raise TypeError(f"network options of kind {options.kind!r} for the task of 'judge'")
        return JudgeNet(options.hidden, options.members, dropout=options.dropout)

    def graph(self, network: JudgeNet) -> JudgeGraph:
        """The network as it is exported."""
        return JudgeGraph(network)

    def dataset(self, split: Split) -> JudgeSamples:
        """Samples of a split."""
        return JudgeSamples(self.recipe, split)

    def collate(self, samples: Sequence[tuple[Tensor, ...]]) -> JudgeBatch:
        """A batch from samples."""
        return JudgeBatch(*stacked(samples))

    def inputs(self, batch: JudgeBatch) -> Tensor:
        """The facts."""
        return batch.facts

    def loss(self, output: Tensor, batch: JudgeBatch) -> Mapping[str, Tensor]:
        """``foresight``: absolute error of the foreseen errors; ``choice``: mean error of what would be chosen, softly."""
        errors = batch.errors[:, None]
        chosen = (-output / _TEMPERATURE).softmax(dim=2)
        terms = {
            "foresight": (output - errors).abs().mean(),
            "choice": (chosen * errors).sum(dim=2).mean(),
        }
        return {"loss": terms["foresight"] + terms["choice"], **terms}

    def validation_sums(self, output: Tensor, batch: JudgeBatch) -> list[float]:
        """Sums over the images, in the order of `sum_names`."""
        images = len(batch.facts)
        terms = self.loss(output, batch)  # every image weighs the same in each mean
        chosen = output.mean(dim=1).argmin(dim=1, keepdim=True)
        gain = -10 * batch.errors.gather(1, chosen).sum()
        best = -10 * batch.errors.amin(dim=1).sum()
        return [float(images), *(images * float(terms[name]) for name in self.TERMS), float(gain), float(best)]

    def validation_metrics(self, sums: list[float]) -> dict[str, float]:
        """Figures of merit: ``gain`` in PSNR of erosion by the chosen candidate, in dB, and that of the best one."""
        by_name = dict(zip(self.sum_names, sums, strict=True))
        return {name: by_name[name] / by_name["images"] for name in (*self.TERMS, "gain", "best")}

    def pictures(self, output: Tensor, batch: JudgeBatch) -> dict[str, NDArray[np.float32]]:
        """None: numbers say it all."""
        return {}

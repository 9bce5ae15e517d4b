"""Training of the network that estimates a tip, `spm_training.networks.tip.TipNet`, on simulated scans."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from spm_runtime.pipelines.relief import EVIDENCE
from spm_training.data import Split
from spm_training.networks.tip import PACKED_PX, TipNet, TipOutput
from spm_training.recipe import Recipe, TipNetworkOptions
from spm_training.restore_graphs import TipGraph
from spm_training.tasks._task import stacked
from spm_training.tasks.tip_scenes import TipBatch, TipSamples

__all__ = ["TipTask"]

#: Weights of the terms.
_WEIGHTS = {"tip": 1.0, "family": 0.1}
#: Errors count in units of the brightness of the whole tip plus this, in pixels: a second apex of a few pixels matters.
_LEAST_PX = 30.0


class TipTask:
    """Scans and their evidence through `TipNet`.

    Parameters
    ----------
    recipe
        The resolved recipe.
    """

    sum_names = ("images", "loss", *_WEIGHTS, "right", "upper")
    shown = ("tip", "upper", "family_accuracy")

    def __init__(self, recipe: Recipe) -> None:
        self.recipe = recipe

    @property
    def input_shape(self) -> tuple[int, ...]:
        """One scan and its evidence, packed."""
        return (self.recipe.tips.image_px // PACKED_PX) ** 2 + len(EVIDENCE), PACKED_PX, PACKED_PX

    def build_network(self) -> TipNet:
        """The network with fresh weights from torch's global generator."""
        options = self.recipe.network
        if not isinstance(options, TipNetworkOptions):
            raise TypeError(f"network options of kind {options.kind!r} for the task of 'tip'")
        return TipNet(options.base_width, options.depth)

    def graph(self, network: TipNet) -> TipGraph:
        """The network as it is exported."""
        return TipGraph(network)

    def dataset(self, split: Split) -> TipSamples:
        """Samples of a split."""
        return TipSamples(self.recipe, split)

    def collate(self, samples: Sequence[tuple[Tensor, ...]]) -> TipBatch:
        """A batch from samples."""
        return TipBatch(*stacked(samples))

    def inputs(self, batch: TipBatch) -> Tensor:
        """The packed scans."""
        return batch.packed

    def loss(self, output: TipOutput, batch: TipBatch) -> Mapping[str, Tensor]:
        """``tip``: absolute error over the brightness of the tip, near its apex four times as much; ``family``: cross-entropy."""
        true = batch.visible.clamp(max=1.0)
        error = (output.visible.sigmoid() - true).abs() * (1 + 3 * true)
        terms = {
            "tip": (error.sum(dim=(1, 2, 3)) / (true.sum(dim=(1, 2, 3)) + _LEAST_PX)).mean(),
            "family": functional.cross_entropy(output.families, batch.family),
        }
        total = torch.stack([_WEIGHTS[name] * value for name, value in terms.items()]).sum()
        return {"loss": total, **terms}

    def validation_sums(self, output: TipOutput, batch: TipBatch) -> list[float]:
        """Sums over the images, in the order of `sum_names`."""
        images = len(batch.family)
        terms = self.loss(output, batch)  # every image weighs the same in each mean
        right = (output.families.argmax(dim=1) == batch.family).float().sum()
        high = batch.visible > 0.3
        error = (output.visible.sigmoid() - batch.visible.clamp(max=1.0)).abs() * high
        upper = (error.sum(dim=(1, 2, 3)) / high.sum(dim=(1, 2, 3)).clamp(min=1)).sum()
        return [
            float(images),
            *(images * float(terms[name]) for name in ("loss", *_WEIGHTS)),
            float(right),
            float(upper),
        ]

    def validation_metrics(self, sums: list[float]) -> dict[str, float]:
        """Figures of merit: ``upper`` is the mean error of the visible tip where it is brighter than 0.3."""
        by_name = dict(zip(self.sum_names, sums, strict=True))
        mean = {name: by_name[name] / by_name["images"] for name in ("loss", *_WEIGHTS, "upper")}
        return mean | {"family_accuracy": by_name["right"] / by_name["images"]}

    def pictures(self, output: TipOutput, batch: TipBatch) -> dict[str, NDArray[np.float32]]:
        """True and estimated tips side by side."""
        both = torch.cat((batch.visible.clamp(max=1.0), output.visible.sigmoid().float()), dim=3)
        rows = list(both[:8, 0].cpu().numpy())
        return {"true_tip_estimated_tip": np.concatenate(rows).astype(np.float32)}

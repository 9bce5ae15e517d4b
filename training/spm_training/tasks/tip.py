"""Training of the network that estimates a tip, `spm_training.networks.tip.TipNet`, on simulated scans."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from spm_runtime.pipelines.relief import EVIDENCE, TIP_PX
from spm_training.data import Split
from spm_training.graphs.restore import TipGraph
from spm_training.networks.tip import PACKED_PX, TipNet, TipOutput
from spm_training.recipe import Recipe, TipNetworkOptions
from spm_training.tasks._task import stacked
from spm_training.tasks.tip_scenes import TipBatch, TipSamples

__all__ = ["TipTask"]

#: Weights of the terms.
_WEIGHTS = {"tip": 1.0, "second": 0.2, "family": 0.1}
#: Errors count in units of the brightness of the whole tip plus this, in pixels: a second apex of a few pixels matters.
_LEAST_PX = 30.0
#: A second apex is the highest of so many pixels in a row, brighter than this, and not within so many pixels of the first.
_WINDOW_PX, _BRIGHT, _APART_PX = 5, 0.3, 2


class TipTask:
    """Scans and their evidence through `TipNet`.

    Parameters
    ----------
    recipe
        The resolved recipe.
    """

    sum_names = ("images", "loss", *_WEIGHTS, "right", "upper", "doubles", "found", "invented")
    shown = ("tip", "upper", "second_found", "second_invented", "family_accuracy")

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
        """The terms and their weighted sum.

        ``tip``: absolute error over the brightness of the tip, near its apex four times as much; ``second`` and ``family``:
        cross-entropies of the place of the second apex and of the family.
        """
        true = batch.visible.clamp(max=1.0)
        error = (output.visible.sigmoid() - true).abs() * (1 + 3 * true)
        terms = {
            "tip": (error.sum(dim=(1, 2, 3)) / (true.sum(dim=(1, 2, 3)) + _LEAST_PX)).mean(),
            "second": functional.cross_entropy(output.second.flatten(1), _second_apex(batch.visible)),
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
        true, found = _second_apex(batch.visible), output.second.flatten(1).argmax(dim=1)
        middle = batch.visible[0].numel() // 2
        double = true != middle
        off = [(step(true) - step(found)).abs() for step in (_row, _column)]
        near = double & (found != middle) & (off[0] <= 1) & (off[1] <= 1)
        return [
            float(images),
            *(images * float(terms[name]) for name in ("loss", *_WEIGHTS)),
            float(right),
            float(upper),
            float(double.sum()),
            float(near.sum()),
            float((~double & (found != middle)).sum()),
        ]

    def validation_metrics(self, sums: list[float]) -> dict[str, float]:
        """Figures of merit.

        ``upper`` is the mean error of the visible tip where it is brighter than 0.3; ``second_found`` and ``second_invented`` are
        shares of the tips with and without a second apex for which one is found (within a pixel, or anywhere).
        """
        by_name = dict(zip(self.sum_names, sums, strict=True))
        mean = {name: by_name[name] / by_name["images"] for name in ("loss", *_WEIGHTS, "upper")}
        single = by_name["images"] - by_name["doubles"]
        return mean | {
            "family_accuracy": by_name["right"] / by_name["images"],
            "second_found": by_name["found"] / max(by_name["doubles"], 1.0),
            "second_invented": by_name["invented"] / max(single, 1.0),
        }

    def pictures(self, output: TipOutput, batch: TipBatch) -> dict[str, NDArray[np.float32]]:
        """True and estimated tips side by side."""
        both = torch.cat((batch.visible.clamp(max=1.0), output.visible.sigmoid().float()), dim=3)
        rows = list(both[:8, 0].cpu().numpy())
        return {"true_tip_estimated_tip": np.concatenate(rows).astype(np.float32)}


def _second_apex(visible: Tensor) -> Tensor:
    """Number of the pixel of the second apex of ``(B, 1, TIP_PX, TIP_PX)`` tips, ``(B,)``; the middle where there is none."""
    half = TIP_PX // 2
    highest = functional.max_pool2d(visible, _WINDOW_PX, 1, _WINDOW_PX // 2) == visible
    others = torch.where(highest & (visible > _BRIGHT), visible, 0.0)
    others[..., half - _APART_PX : half + _APART_PX + 1, half - _APART_PX : half + _APART_PX + 1] = _BRIGHT / 2
    return others.flatten(1).argmax(dim=1).where(others.flatten(1).amax(dim=1) > _BRIGHT, visible[0].numel() // 2)


def _row(pixel: Tensor) -> Tensor:
    return pixel // TIP_PX


def _column(pixel: Tensor) -> Tensor:
    return pixel % TIP_PX

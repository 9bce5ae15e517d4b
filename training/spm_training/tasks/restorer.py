"""Training of the networks that restore surfaces, on simulated scans under bad tips: ours and the hackathon's three."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from spm_runtime.pipelines.relief import RESTORE_CHANNELS
from spm_training.data import Split
from spm_training.graphs.restore import RestorerGraph
from spm_training.networks.restorer import RestorerNet, RestorerOutput
from spm_training.networks.tip_models import TipModel1, TipModel2, TipModel3
from spm_training.recipe import Recipe, RestorerNetworkOptions, TipModelOptions
from spm_training.restore_losses import restore_loss
from spm_training.tasks._task import stacked
from spm_training.tasks.tip_scenes import ScanBatch, ScanCrops

__all__ = ["RestorerTask"]

_TERMS = ("loss", "mae", "dissimilarity", "gradient", "touched")
_MODELS: dict[str, type[TipModel1 | TipModel2 | TipModel3]] = {"tip1": TipModel1, "tip2": TipModel2, "tip3": TipModel3}

Restorer = RestorerNet | TipModel1 | TipModel2 | TipModel3


class RestorerTask:
    """Crops of scans through a network that restores them.

    Parameters
    ----------
    recipe
        The resolved recipe.
    """

    sum_names = ("images", *_TERMS, "psnr", "gain", "right")

    def __init__(self, recipe: Recipe) -> None:
        self.recipe = recipe

    @property
    def shown(self) -> tuple[str, ...]:
        """The hackathon's networks do not say where the tip touched."""
        says = isinstance(self.recipe.network, RestorerNetworkOptions)
        return ("psnr", "gain", "touched_accuracy") if says else ("psnr", "gain")

    @property
    def input_shape(self) -> tuple[int, ...]:
        """One crop, and a channel with the code of the tip where there is one."""
        network, side = self.recipe.network, self.recipe.data.crop_px
        with_tip = isinstance(network, RestorerNetworkOptions) and network.with_tip
        return (len(RESTORE_CHANNELS) + 1 if with_tip else 1), side, side

    def build_network(self) -> Restorer:
        """The network with fresh weights from torch's global generator."""
        options = self.recipe.network
        if isinstance(options, RestorerNetworkOptions):
            return RestorerNet(options.base_width, options.depth, with_tip=options.with_tip)
        if isinstance(options, TipModelOptions):
            return _MODELS[options.kind]()
        raise TypeError(f"network options of kind {options.kind!r} for the task of restoring")

    def graph(self, network: Restorer) -> RestorerGraph:
        """The network as it is exported."""
        return RestorerGraph(network)

    def dataset(self, split: Split) -> ScanCrops:
        """Samples of a split."""
        return ScanCrops(self.recipe, split)

    def collate(self, samples: Sequence[tuple[Tensor, ...]]) -> ScanBatch:
        """A batch from samples."""
        return ScanBatch(*stacked(samples))

    def inputs(self, batch: ScanBatch) -> Tensor:
        """The channels."""
        return batch.image

    def loss(self, output: RestorerOutput | Tensor, batch: ScanBatch) -> Mapping[str, Tensor]:
        """Terms of `restore_loss`, and ``touched``, a cross-entropy, of a network that says it."""
        weights = self.recipe.loss
        restored = output.restored if isinstance(output, RestorerOutput) else output.float()
        terms = restore_loss(
            restored,
            batch.clean,
            mae=weights.mae_weight,
            ssim=weights.ssim_weight,
            gradient=weights.gradient_weight,
            unit=self._unit(batch),
        )
        touched = torch.zeros((), device=restored.device)
        if isinstance(output, RestorerOutput):
            touched = functional.binary_cross_entropy_with_logits(output.touched, batch.touched)
        return {**terms, "loss": terms["loss"] + weights.touched_weight * touched, "touched": touched}

    def _unit(self, batch: ScanBatch) -> Tensor | None:
        """Heights in which the errors count."""
        floor = self.recipe.loss.relative_floor
        if not floor:
            return None
        return (batch.image[:, :1] - batch.clean).abs().mean(dim=(1, 2, 3), keepdim=True) + floor

    def validation_sums(self, output: RestorerOutput | Tensor, batch: ScanBatch) -> list[float]:
        """Sums over the images, in the order of `sum_names`."""
        images = len(batch.family)
        terms = self.loss(output, batch)  # every image weighs the same in each mean
        restored = output.restored if isinstance(output, RestorerOutput) else output.float()
        span = (batch.clean.amax(dim=(1, 2, 3)) - batch.clean.amin(dim=(1, 2, 3))).clamp(min=1e-3)
        psnr, before = (
            20 * torch.log10(span / ((one - batch.clean) ** 2).mean(dim=(1, 2, 3)).clamp(min=1e-10).sqrt())
            for one in (restored, batch.image[:, :1])
        )
        right = 0.0
        if isinstance(output, RestorerOutput):
            right = float(((output.touched > 0) == (batch.touched > 0.5)).float().mean(dim=(1, 2, 3)).sum())
        return [
            float(images),
            *(images * float(terms[name]) for name in _TERMS),
            float(psnr.sum()),
            float((psnr - before).sum()),
            right,
        ]

    def validation_metrics(self, sums: list[float]) -> dict[str, float]:
        """Figures of merit: ``psnr`` of the crops in dB, ``gain`` over the image as it was."""
        by_name = dict(zip(self.sum_names, sums, strict=True))
        mean = {name: by_name[name] / by_name["images"] for name in (*_TERMS, "psnr", "gain")}
        return mean | {"touched_accuracy": by_name["right"] / by_name["images"]}

    def pictures(self, output: RestorerOutput | Tensor, batch: ScanBatch) -> dict[str, NDArray[np.float32]]:
        """Image, restored and clean surface on one grey scale, and where the tip touched."""
        restored = output.restored if isinstance(output, RestorerOutput) else output
        rows = []
        for i in range(min(len(batch.family), 6)):
            clean = batch.clean[i, 0].cpu().numpy()
            low, high = float(clean.min()), max(float(clean.max()), float(clean.min()) + 1e-6)
            three = (batch.image[i, 0].cpu().numpy(), restored[i, 0].float().cpu().numpy(), clean)
            row = [np.clip((one - low) / (high - low), 0, 1) for one in three]
            rows.append(np.concatenate([*row, batch.touched[i, 0].cpu().numpy()], axis=1))
        return {"image_restored_clean_touched": np.concatenate(rows).astype(np.float32)}

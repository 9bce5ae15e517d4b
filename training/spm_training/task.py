"""What the trainer needs to know of a task, and the task that trains the finder of atom columns."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn.functional import max_pool2d

from spm_training.data import AtomsBatch, AtomsDataset, Split
from spm_training.losses import atoms_loss
from spm_training.metrics import Counts, count
from spm_training.networks.atoms import AtomsNet, AtomsOutput
from spm_training.recipe import Recipe

__all__ = ["AtomsTask", "build_network"]

#: Maxima of the confidence map above this count as found when validating; the pipeline has its own parameter.
_VALIDATION_THRESHOLD = 0.4
#: Half a window of the maximum filter, and the tolerance of a match, in units of the true spacing.
_VALIDATION_REACH = 0.25


def build_network(recipe: Recipe) -> AtomsNet:
    """The network of a recipe with fresh weights from torch's global generator."""
    return AtomsNet(recipe.network.base_width, recipe.network.depth)


class AtomsTask:
    """Loss, validation sums and pictures of the atom finder.

    Parameters
    ----------
    recipe
        The resolved recipe.
    """

    #: Names of what `validation_sums` adds up, in order.
    SUMS = ("images", "loss", "confidence", "position", "spacing", "spacing_error", "tp", "fp", "fn", "d2")

    def __init__(self, recipe: Recipe) -> None:
        self.recipe = recipe

    def dataset(self, split: Split) -> AtomsDataset:
        """Samples of a split."""
        return AtomsDataset(self.recipe, split)

    def loss(self, output: AtomsOutput, batch: AtomsBatch) -> dict[str, Tensor]:
        """Terms of the loss by name, each a scalar; ``loss`` is the one to minimise."""
        options = self.recipe.loss
        terms = atoms_loss(
            output,
            target=batch.target,
            weight=batch.weight,
            offset=batch.offset,
            target_spacing_px=batch.spacing_px,
            confidence_weight=options.confidence_weight,
            position_weight=options.position_weight,
            spacing_weight=options.spacing_weight,
        )
        return {"loss": terms.total, "confidence": terms.confidence, "position": terms.position, "spacing": terms.spacing}

    def validation_sums(self, output: AtomsOutput, batch: AtomsBatch) -> list[float]:
        """Sums over the images of a batch, in the order of `SUMS`; they add up over batches and ranks."""
        confidence = output.confidence
        images = len(batch.image)
        terms = self.loss(output, batch)
        error = (output.spacing_px / batch.spacing_px).log().abs().sum()
        counts = sum(
            (
                _validation_counts(confidence[i], batch.target[i], batch.weight[i], float(batch.spacing_px[i]))
                for i in range(images)
            ),
            Counts(),
        )
        return [
            float(images),
            *(float(terms[name]) * images for name in ("loss", "confidence", "position", "spacing")),
            float(error),
            float(counts.true_positive),
            float(counts.false_positive),
            float(counts.false_negative),
            counts.square_distance_px2,
        ]

    def validation_metrics(self, sums: list[float]) -> dict[str, float]:
        """Figures of merit from the sums over all images.

        ``f1`` is at a tolerance of a quarter of the spacing, from the plain maxima of the confidence map: it orients during
        training; `spm-train evaluate` scores the whole pipeline. ``spacing_error`` is the mean of ``|ln(predicted / true)|``.
        """
        by_name = dict(zip(self.SUMS, sums, strict=True))
        images = by_name["images"]
        counts = Counts(int(by_name["tp"]), int(by_name["fp"]), int(by_name["fn"]), by_name["d2"])
        return {
            "loss": by_name["loss"] / images,
            "confidence": by_name["confidence"] / images,
            "position": by_name["position"] / images,
            "spacing": by_name["spacing"] / images,
            "spacing_error": by_name["spacing_error"] / images,
            "f1": counts.f1,
            "precision": counts.precision,
            "recall": counts.recall,
        }

    def pictures(self, output: AtomsOutput, batch: AtomsBatch) -> dict[str, NDArray[np.float32]]:
        """Grey pictures ``(h, w)`` in [0, 1] of the first images: image, target and confidence side by side."""
        confidence = output.confidence
        rows = []
        for i in range(min(len(batch.image), 4)):
            image = batch.image[i, 0].cpu().numpy()
            span = max(float(np.ptp(image)), 1e-9)
            grey = (image - image.min()) / span
            maps = (batch.target[i, 0].cpu().numpy(), np.clip(confidence[i, 0].float().cpu().numpy(), 0, 1))
            rows.append(np.concatenate((grey, *maps), axis=1))
        return {"image_target_confidence": np.concatenate(rows, axis=0).astype(np.float32)}


def _validation_counts(confidence: Tensor, target: Tensor, weight: Tensor, spacing_px: float) -> Counts:
    """Score the maxima of ``(1, H, W)`` confidence against those of the target; both to the nearest pixel."""
    reach = max(round(_VALIDATION_REACH * spacing_px), 1)
    found = _maxima(confidence, reach, _VALIDATION_THRESHOLD)
    truth = _maxima(target, reach, 0.5)
    # Maxima where the loss does not look are optional.
    optional = torch.nonzero(weight[0] < 0.5).cpu().numpy().astype(np.float64)
    positions = np.concatenate((truth, optional))
    required = np.arange(len(positions)) < len(truth)
    # Rounded to pixels on both sides: at the smallest spacings a quarter would be below the rounding.
    return count(found, positions, required, max(_VALIDATION_REACH * spacing_px, 1.0))


def _maxima(values: Tensor, reach: int, threshold: float) -> NDArray[np.float64]:
    highest = max_pool2d(values[None], 2 * reach + 1, stride=1, padding=reach)[0]
    return torch.nonzero(((values == highest) & (values > threshold))[0]).cpu().numpy().astype(np.float64)

"""What all finders of atom columns share: the samples, the batches, and how a confidence map is judged while training."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn.functional import max_pool2d

from spm_training.data import AtomsBatch, AtomsDataset, Split
from spm_training.metrics import Counts, count
from spm_training.recipe import Recipe
from spm_training.tasks._task import stacked

__all__ = ["ColumnsData", "confidence_pictures", "validation_counts"]

#: Maxima of the confidence map above this count as found when validating; the pipeline has its own parameter.
_VALIDATION_THRESHOLD = 0.4
#: Half a window of the maximum filter, and the tolerance of a match, in units of the true spacing.
_VALIDATION_REACH = 0.25


class ColumnsData:
    """Simulated images with the maps to learn, and the figures of merit of any network that gives confidence and spacing.

    Parameters
    ----------
    recipe
        The resolved recipe.
    """

    #: Names of the terms of the loss, ``loss`` the first.
    TERMS: tuple[str, ...]

    def __init__(self, recipe: Recipe) -> None:
        self.recipe = recipe

    @property
    def input_shape(self) -> tuple[int, ...]:
        """One levelled crop."""
        return 1, self.recipe.data.crop_px, self.recipe.data.crop_px

    def dataset(self, split: Split) -> AtomsDataset:
        """Samples of a split."""
        return AtomsDataset(self.recipe, split)

    def collate(self, samples: Sequence[tuple[Tensor, ...]]) -> AtomsBatch:
        """A batch from samples."""
        return AtomsBatch(*stacked(samples))

    def inputs(self, batch: AtomsBatch) -> Tensor:
        """``(B, 1, H, W)`` levelled images."""
        return batch.image

    @property
    def shown(self) -> tuple[str, ...]:
        """The figures of merit that a person reads."""
        return "f1", "spacing_error"

    @property
    def sum_names(self) -> tuple[str, ...]:
        """Names of what `sums_of` adds up, in order."""
        return ("images", *self.TERMS, "spacing_error", "tp", "fp", "fn", "d2")

    def sums_of(
        self, terms: Mapping[str, Tensor], confidence: Tensor, spacing_px: Tensor, batch: AtomsBatch
    ) -> list[float]:
        """Sums over the images of a batch, in the order of `sum_names`."""
        images = len(batch.image)
        counts = validation_counts(confidence, batch)
        return [
            float(images),
            *(float(terms[name]) * images for name in self.TERMS),
            float((spacing_px / batch.spacing_px).log().abs().sum()),
            float(counts.true_positive),
            float(counts.false_positive),
            float(counts.false_negative),
            counts.square_distance_px2,
        ]

    def validation_metrics(self, sums: list[float]) -> dict[str, float]:
        """Figures of merit; ``f1`` is that of `validation_counts`, ``spacing_error`` the mean of ``|ln(predicted / true)|``."""
        by_name = dict(zip(self.sum_names, sums, strict=True))
        counts = Counts(int(by_name["tp"]), int(by_name["fp"]), int(by_name["fn"]), by_name["d2"])
        return {name: by_name[name] / by_name["images"] for name in (*self.TERMS, "spacing_error")} | {
            "f1": counts.f1,
            "precision": counts.precision,
            "recall": counts.recall,
        }


def validation_counts(confidence: Tensor, batch: AtomsBatch) -> Counts:
    """Score the maxima of ``(B, 1, H, W)`` confidence against those of the target, both to the nearest pixel.

    At a tolerance of a quarter of the spacing; it orients during training, `spm-train evaluate` scores the whole pipeline.
    """
    images = (
        _counts_of_one(confidence[i], batch.target[i], batch.weight[i], float(batch.spacing_px[i]))
        for i in range(len(confidence))
    )
    return sum(images, Counts())


def confidence_pictures(confidence: Tensor, batch: AtomsBatch) -> dict[str, NDArray[np.float32]]:
    """A grey picture ``(h, w)`` in [0, 1] of the first images: image, target and confidence side by side."""
    rows = []
    for i in range(min(len(batch.image), 4)):
        image = batch.image[i, 0].cpu().numpy()
        span = max(float(np.ptp(image)), 1e-9)
        grey = (image - image.min()) / span
        maps = (batch.target[i, 0].cpu().numpy(), np.clip(confidence[i, 0].float().cpu().numpy(), 0, 1))
        rows.append(np.concatenate((grey, *maps), axis=1))
    return {"image_target_confidence": np.concatenate(rows, axis=0).astype(np.float32)}


def _counts_of_one(confidence: Tensor, target: Tensor, weight: Tensor, spacing_px: float) -> Counts:
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

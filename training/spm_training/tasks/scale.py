"""Training of the network that reads the scale off a power spectrum, `spm_training.networks.scale.ScaleNet`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from joblib import Memory
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional
from torch.utils.data import Dataset

from spm_runtime.pipelines.spectrum import ANGLES, BINS, BINS_PER_OCTAVE, CHANNELS, bin_of_period, log_polar_spectrum
from spm_training.data import Split, rng_for
from spm_training.graphs.base import ScaleGraph
from spm_training.networks.scale import ScaleNet
from spm_training.recipe import Recipe, ScaleNetworkOptions
from spm_training.simulate.columns import simulate_columns
from spm_training.tasks._task import stacked

__all__ = ["ScaleBatch", "ScaleTask", "target_distribution"]

#: Standard deviation of the distribution to learn, in bins: the spacing of a real crystal is not sharper than a few per cent.
_TARGET_STD_BINS = 0.6
#: Families that may have nothing in the frame, and the fewest columns that make an image of them.
_MAY_MISS, _FEWEST = ("nanoparticle", "isolated-atoms", "isolated"), 4


class ScaleBatch(NamedTuple):
    """A batch of samples.

    Parameters
    ----------
    spectrum
        ``(B, CHANNELS, BINS, ANGLES)`` float32.
    position
        ``(B,)`` float32 fractional bin of the true spacing.
    """

    spectrum: Tensor
    position: Tensor

    def to(self, device: torch.device) -> ScaleBatch:
        """The batch on a device."""
        return ScaleBatch(*(tensor.to(device, non_blocking=True) for tensor in self))


class _Spectra(Dataset[Any]):
    """Spectra of simulated images by ``(epoch, index)``; those of the training come from a pool, turned and mirrored anew."""

    def __init__(self, recipe: Recipe, split: Split) -> None:
        self.recipe = recipe
        self.split = split
        folder = recipe.data.cache or None
        self.spectrum = Memory(folder, verbose=0).cache(_simulated_spectrum)

    def __getitem__(self, key: tuple[int, int]) -> tuple[Tensor, Tensor]:
        """One sample: spectrum ``(CHANNELS, BINS, ANGLES)`` and bin of the spacing ``()``."""
        epoch, index = key
        options, data = self.recipe.simulator, self.recipe.data
        number = index
        if self.split is Split.TRAIN:
            number = (epoch * data.steps_per_epoch * data.batch + index) % data.pool
        spectrum, spacing_px = self.spectrum(
            self.recipe.training.seed,
            int(self.split),
            number,
            options.families,
            (options.spacing_min_px, options.spacing_max_px),
            (options.detectability_min, options.detectability_max),
        )
        spectrum = spectrum.astype(np.float32)
        if self.split is Split.TRAIN:
            rng = rng_for(self.recipe.training.seed, self.split, epoch + 1, index)
            spectrum = np.roll(spectrum, int(rng.integers(ANGLES)), axis=2)
            if rng.random() < 0.5:
                spectrum = spectrum[:, :, ::-1]
        position = np.float32(bin_of_period(spacing_px))
        return torch.from_numpy(np.ascontiguousarray(spectrum)), torch.tensor(position)


def _simulated_spectrum(
    seed: int,
    split: int,
    number: int,
    families: tuple[str, ...],
    spacing_px: tuple[float, float],
    detectability: tuple[float, float],
) -> tuple[NDArray[np.float16], float]:
    """Spectrum of one simulated image of any size and its true spacing; takes tens of milliseconds, hence the cache."""
    rng = rng_for(seed, Split(split), 0, number)
    while True:
        side = float(np.exp(rng.uniform(np.log(112), np.log(400))))
        shape = (round(side), round(side * rng.choice([1.0, 1.0, rng.uniform(0.5, 1.0)])))
        low, high = spacing_px[0], min(spacing_px[1], min(shape) / 5)
        spacing = float(np.exp(rng.uniform(np.log(low), np.log(max(high, low * 1.01)))))
        scene = simulate_columns(
            rng, shape=shape, families=families or None, spacing_px=(spacing, spacing), detectability=detectability
        )
        # A particle or a few atoms may lie beside the frame: nothing there has a spacing.
        if scene.family not in _MAY_MISS or scene.required.sum() >= _FEWEST:
            break
    return log_polar_spectrum(scene.image).astype(np.float16), scene.spacing_px


def target_distribution(position: Tensor) -> Tensor:
    """``(B, BINS)`` distribution around the ``(B,)`` true bins: a Gaussian of 0.6 bins."""
    bins = torch.arange(BINS, device=position.device)
    return functional.softmax(-0.5 * ((bins - position[:, None]) / _TARGET_STD_BINS) ** 2, dim=1)


class ScaleTask:
    """Cross-entropy between the stated and the true distribution of the spacing."""

    def __init__(self, recipe: Recipe) -> None:
        self.recipe = recipe

    sum_names = ("images", "loss", "error", "within_tenth", "within_quarter")
    shown = ("error", "within_tenth", "within_quarter")

    @property
    def input_shape(self) -> tuple[int, ...]:
        """One spectrum."""
        return CHANNELS, BINS, ANGLES

    def build_network(self) -> ScaleNet:
        """The network with fresh weights from torch's global generator."""
        options = self.recipe.network
        if not isinstance(options, ScaleNetworkOptions):
            raise TypeError(f"network options of kind {options.kind!r} for the task of 'scale'")
        return ScaleNet(options.width)

    def graph(self, network: ScaleNet) -> ScaleGraph:
        """The network as it is exported."""
        return ScaleGraph(network)

    def dataset(self, split: Split) -> _Spectra:
        """Samples of a split."""
        return _Spectra(self.recipe, split)

    def collate(self, samples: Sequence[tuple[Tensor, ...]]) -> ScaleBatch:
        """A batch from samples."""
        return ScaleBatch(*stacked(samples))

    def inputs(self, batch: ScaleBatch) -> Tensor:
        """The spectra."""
        return batch.spectrum

    def loss(self, output: Tensor, batch: ScaleBatch) -> dict[str, Tensor]:
        """``loss``: the mean cross-entropy."""
        return {"loss": functional.cross_entropy(output, target_distribution(batch.position))}

    def validation_sums(self, output: Tensor, batch: ScaleBatch) -> list[float]:
        """Sums over the images, in the order of `sum_names`."""
        octaves = (output.argmax(dim=1) - batch.position) / BINS_PER_OCTAVE
        ratio = (octaves * float(np.log(2))).exp()
        images = float(len(batch.position))
        return [
            images,
            float(self.loss(output, batch)["loss"]) * images,
            float(ratio.log().abs().sum()),
            float(((ratio - 1).abs() <= 0.1).sum()),
            float(((ratio - 1).abs() <= 0.25).sum()),
        ]

    def validation_metrics(self, sums: list[float]) -> dict[str, float]:
        """Loss, mean of ``|ln(predicted / true)|``, shares of the images whose spacing is right within 10 and 25 %."""
        by_name = dict(zip(self.sum_names, sums, strict=True))
        return {name: by_name[name] / by_name["images"] for name in self.sum_names[1:]}

    def pictures(self, output: Tensor, batch: ScaleBatch) -> dict[str, NDArray[np.float32]]:
        """Distributions of the first images: one row each, true bins in the upper half of the row."""
        truth, stated = target_distribution(batch.position), output.softmax(dim=1)
        rows = [
            np.repeat(pair[i].cpu().numpy()[None], 4, axis=0)
            for i in range(min(len(truth), 16))
            for pair in (truth, stated)
        ]
        return {"true_and_stated_spacing": np.clip(np.concatenate(rows) * 2, 0, 1).astype(np.float32)}

"""How well windows are described in a few numbers: an autoencoder beside PCA with as many components.

Three errors are told apart, means over all pixels of images scaled to [0, 1]: against the image itself (which the report prints),
against the image without noise (which decides), and that of the image itself against the one without noise. White noise of σ 0.03
alone makes the first 9e-4.

``python -m spm_training.patch_scores RUN`` prints the table of a run of the recipe ``ae1``.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import click
import numpy as np
import torch
from numpy.typing import NDArray
from sklearn.decomposition import PCA
from torch import nn

from spm_runtime.errors import ParameterError
from spm_training.data import Split
from spm_training.networks.ae1 import windows_of
from spm_training.recipe import Ae1NetworkOptions, Recipe
from spm_training.run import RunFolder
from spm_training.tasks import task_of
from spm_training.tasks.patches import Ae1Task, PatchBatch
from spm_training.trained import trained_network

__all__ = ["STATED_NOISE", "ReconstructionScore", "batches_of", "markdown", "score_network", "score_pca"]

#: Standard deviation of the white noise at which networks are judged, in units of an image's range: alone an MSE of 9e-4.
STATED_NOISE = 0.03
#: Samples that are made and held as one batch.
_BATCH = 16
#: Crops of the validation split that are scored, and of the training split that PCA is fitted to.
_SCORED, _FITTED = 2048, 6400


@dataclass(frozen=True)
class ReconstructionScore:
    """Mean squared errors of reconstructed windows.

    Parameters
    ----------
    mse
        Against the image itself.
    clean_mse
        Against the image without noise.
    noise_mse
        Of the image itself against the one without noise.
    """

    mse: float
    clean_mse: float
    noise_mse: float

    @property
    def excess_mse(self) -> float:
        """What the error against the image has beyond the noise; below 0 where noise is copied."""
        return self.mse - self.noise_mse

    @property
    def clean_over_noise(self) -> float:
        """Error against the truth as a share of the noise: below 1 the answer is nearer to the truth than the image was."""
        return self.clean_mse / self.noise_mse


def batches_of(
    recipe: Recipe, split: Split, samples: int, *, white_noise: float | None = STATED_NOISE
) -> list[PatchBatch]:
    """The first samples of a split as batches.

    Parameters
    ----------
    recipe
        Recipe of `spm_training.networks.ae1.Ae1`.
    split
        Which images.
    samples
        How many crops.
    white_noise
        Standard deviation of white noise on clean images, in units of their range; None for the noise of the simulated
        microscope, of which line offsets and drift are a part that within a window nothing can tell from the surface.

    Raises
    ------
    ParameterError
        If the recipe trains another network.
    """
    task = task_of(recipe)
    if not isinstance(task, Ae1Task):
        raise ParameterError(
            f"recipe {recipe.name}: trains the network {recipe.network.kind!r}; expected 'ae1'. Name another."
        )
    dataset = task.dataset(split, white_noise=white_noise)
    return [
        task.collate([dataset[0, index] for index in range(first, min(first + _BATCH, samples))])
        for first in range(0, samples, _BATCH)
    ]


@torch.no_grad()
def score_network(network: nn.Module, batches: Sequence[PatchBatch]) -> ReconstructionScore:
    """Score an autoencoder of patches, in evaluation mode, on batches with the context that it was trained with."""
    network.eval()
    return _score(batches, [network(batch.image) for batch in batches])


def score_pca(
    train: Sequence[PatchBatch], batches: Sequence[PatchBatch], components: Sequence[int]
) -> dict[int, ReconstructionScore]:
    """Score principal component analysis of the windows of 32 × 32 pixels.

    Parameters
    ----------
    train
        What it is fitted to: more windows than components.
    batches
        What it is scored on.
    components
        Numbers of components, each as large as a latent space.

    Returns
    -------
    Scores by number of components. Answers are clipped to [0, 1], as an autoencoder's are.
    """
    most = max(components)
    pca = PCA(most, random_state=0).fit(np.concatenate([_flat(batch.target) for batch in train]))
    scores = {}
    for count in components:
        outputs = []
        for batch in batches:
            flat = _flat(batch.target)
            axes = pca.components_[:count]
            answer = np.clip((flat - pca.mean_) @ axes.T @ axes + pca.mean_, 0, 1)
            outputs.append(torch.from_numpy(answer.astype(np.float32)))
        scores[count] = _score(batches, outputs)
    return scores


def markdown(scores: Mapping[str, ReconstructionScore]) -> str:
    """A table with one row per method."""
    lines = [
        "| | MSE against the image | excess over the noise | MSE against the clean image | clean over noise |",
        "|---|---|---|---|---|",
        *(
            f"| {name} | {one.mse:.3g} | {one.excess_mse:.3g} | {one.clean_mse:.3g} | {one.clean_over_noise:.3g} |"
            for name, one in scores.items()
        ),
    ]
    return "\n".join(lines) + "\n"


def _score(batches: Sequence[PatchBatch], outputs: Sequence[torch.Tensor]) -> ReconstructionScore:
    """From answers as images, or as flat windows row by row."""
    sums, pixels = np.zeros(3), 0
    for batch, output in zip(batches, outputs, strict=True):
        answer = output.numpy() if output.ndim == 2 else _flat(output)
        image, clean = _flat(batch.target), _flat(batch.clean)
        pairs = ((answer, image), (answer, clean), (image, clean))
        sums += [float(np.square(one - other, dtype=np.float64).sum()) for one, other in pairs]
        pixels += image.size
    mse, clean_mse, noise_mse = (float(value) for value in sums / pixels)
    return ReconstructionScore(mse, clean_mse, noise_mse)


def _flat(image: torch.Tensor) -> NDArray[np.float32]:
    """``(B, 1, 32 R, 32 C)`` → ``(B · R · C, 1024)``."""
    return windows_of(image).flatten(1).numpy()


def _main(path: str) -> None:
    """Print how a run describes windows beside PCA with as many components, which is fitted to images with the same noise."""
    run = RunFolder(Path(path))
    recipe, network = run.recipe(), trained_network(run)[0]
    if not isinstance(recipe.network, Ae1NetworkOptions):
        raise ParameterError(f"{path}: a run of the network {recipe.network.kind!r}; expected 'ae1'. Name another.")
    for noise, title in (
        (STATED_NOISE, f"White noise of σ {STATED_NOISE:g}"),
        (None, "Noise of the simulated microscope"),
    ):
        batches = batches_of(recipe, Split.VALIDATION, _SCORED, white_noise=noise)
        train = batches_of(recipe, Split.TRAIN, _FITTED, white_noise=noise)
        size = recipe.network.latent
        pca = {f"PCA, {count} components": one for count, one in score_pca(train, batches, [size, 2 * size]).items()}
        click.echo(f"{title}\n\n{markdown({run.path.name: score_network(network, batches), **pca})}")


if __name__ == "__main__":
    _main(sys.argv[1])

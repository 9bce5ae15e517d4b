"""Samples of the atom finders as pure functions of (seed, split, epoch, index); `spm_training.loading` batches them.

Because a sample depends on nothing else, the number of worker processes, the number of ranks and the moment of a resume
cannot change what the network sees. No generator outlives a sample, so there is no state to save.
"""

from __future__ import annotations

from enum import IntEnum
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.spatial import cKDTree
from torch import Tensor
from torch.utils.data import Dataset

from spm_runtime.levelling import level_for_network
from spm_training.recipe import Recipe, TargetOptions
from spm_training.simulate.columns import Scene, simulate_columns

__all__ = [
    "AtomsBatch",
    "AtomsDataset",
    "Split",
    "Target",
    "draw_scene",
    "rng_for",
    "target_of",
]


class Split(IntEnum):
    """What a sample is for; enters its seed, so that the splits never share an image."""

    TRAIN = 0
    VALIDATION = 1
    EVALUATION = 2


def rng_for(seed: int, split: Split, epoch: int, index: int) -> np.random.Generator:
    """The generator of one sample, independent of every other sample's.

    Parameters
    ----------
    seed
        Seed of the recipe.
    split
        What the sample is for.
    epoch
        Epoch from 0; always 0 outside training.
    index
        Index of the sample in the epoch.
    """
    return np.random.default_rng(np.random.SeedSequence((seed, int(split), epoch, index)))


def draw_scene(recipe: Recipe, split: Split, epoch: int, index: int) -> Scene:
    """The simulated scene of one sample, ``crop_px`` square."""
    options = recipe.simulator
    return simulate_columns(
        rng_for(recipe.training.seed, split, epoch, index),
        shape=(recipe.data.crop_px, recipe.data.crop_px),
        families=options.families or None,
        spacing_px=(options.spacing_min_px, options.spacing_max_px),
        detectability=(options.detectability_min, options.detectability_max),
    )


class Target(NamedTuple):
    """What the network is to say of one scene.

    Parameters
    ----------
    confidence
        ``(H, W)`` float32: a Gaussian of peak 1 at the sub-pixel position of every required column; where two overlap, that of
        the nearest column.
    weight
        ``(H, W)`` float32: 1, falling to 0 at a column that may be found or not (``required`` False).
    offset
        ``(2, H, W)`` float32 vector (dy, dx) in pixels from the pixel to the nearest required column; 0 where none is near.
    """

    confidence: NDArray[np.float32]
    weight: NDArray[np.float32]
    offset: NDArray[np.float32]


def target_of(scene: Scene, options: TargetOptions) -> Target:
    """The maps to learn.

    Parameters
    ----------
    scene
        The scene with its columns.
    options
        Width of the Gaussians.
    """
    shape = scene.image.shape[0], scene.image.shape[1]
    sigma = max(options.sigma_fraction * scene.spacing_px, options.sigma_min_px)
    confidence, offset = _nearest_column(scene.yx_px[scene.required], sigma, shape)
    optional, _ = _nearest_column(scene.yx_px[~scene.required], sigma, shape)
    # Where a required column is nearer the pixel counts in full, however close an optional one is.
    return Target(confidence, np.float32(1) - np.maximum(optional - confidence, np.float32(0)), offset)


def _nearest_column(
    yx_px: NDArray[np.float64], sigma_px: float, shape: tuple[int, int]
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Gaussian of the nearest column at every pixel, and the vector to it; both 0 beyond 5 σ (4e-6 of the peak)."""
    gaussian = np.zeros(shape, np.float32)
    vector = np.zeros((2, *shape), np.float32)
    if not len(yx_px):
        return gaussian, vector
    pixels = np.moveaxis(np.indices(shape, dtype=np.float64), 0, -1)
    distance, nearest = cKDTree(yx_px).query(pixels, distance_upper_bound=5 * sigma_px)
    near = np.isfinite(distance)
    gaussian[near] = np.exp(-0.5 * (distance[near] / sigma_px) ** 2)
    vector[:, near] = (yx_px[nearest[near]] - pixels[near]).T
    return gaussian, vector


class AtomsBatch(NamedTuple):
    """A batch of samples, stacked.

    Parameters
    ----------
    image
        ``(B, 1, H, W)`` float32 levelled images.
    target
        ``(B, 1, H, W)`` float32 confidence maps in [0, 1].
    weight
        ``(B, 1, H, W)`` float32 weights of the pixels in [0, 1].
    offset
        ``(B, 2, H, W)`` float32 vectors to the nearest column in pixels.
    spacing_px
        ``(B,)`` float32 mean nearest-neighbour spacing.
    """

    image: Tensor
    target: Tensor
    weight: Tensor
    offset: Tensor
    spacing_px: Tensor

    def to(self, device: torch.device) -> AtomsBatch:
        """The batch on a device, images in channels-last order (what the CPU's convolutions are fastest in)."""
        image = self.image.to(device, non_blocking=True, memory_format=torch.channels_last)
        return AtomsBatch(image, *(tensor.to(device, non_blocking=True) for tensor in self[1:]))


class AtomsDataset(Dataset[Any]):
    """Samples by ``(epoch, index)``; index runs over one epoch of all ranks."""

    def __init__(self, recipe: Recipe, split: Split) -> None:
        self.recipe = recipe
        self.split = split

    def __getitem__(self, key: tuple[int, int]) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
        """One sample: image, target and weight ``(1, H, W)``, offset ``(2, H, W)``, spacing ``()``."""
        epoch, index = key
        scene = draw_scene(self.recipe, self.split, epoch, index)
        target = target_of(scene, self.recipe.target)
        image = level_for_network(scene.image)
        return (
            torch.from_numpy(image)[None],
            torch.from_numpy(target.confidence)[None],
            torch.from_numpy(target.weight)[None],
            torch.from_numpy(target.offset),
            torch.tensor(scene.spacing_px, dtype=torch.float32),
        )

"""What the networks go on learning from: every other sample comes from the user's scans, the others are simulated as before.

The simulated half keeps what the networks know. Samples are functions of their keys alone, as everywhere in this package.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from spm_runtime.pipelines.surface import finder_view, in_unit_range
from spm_training.data import Split
from spm_training.finetune.plant import Ground, class_shares, plant
from spm_training.finetune.scans import View
from spm_training.networks.ae1 import MARGIN_PX, SIDE_PX
from spm_training.recipe import Recipe
from spm_training.tasks.finder import FinderCrops, FinderSurface
from spm_training.tasks.patches import SurfaceCrops

__all__ = ["HomeFinderCrops", "HomePatchCrops", "framed", "home_rng"]

#: Tells the draws at home from those of the simulated images.
_HOME = 77_010


def home_rng(seed: int, *numbers: int) -> np.random.Generator:
    """A generator of its own for everything that is drawn from a user's scans."""
    return np.random.default_rng(np.random.SeedSequence((_HOME, seed, *numbers)))


class HomeFinderCrops(FinderCrops):
    """Crops for the finder by ``(epoch, index)``: odd ones show the user's scans with planted defects, even ones are simulated.

    Parameters
    ----------
    recipe
        The resolved recipe.
    grounds
        The views that are learned from.
    """

    def __init__(self, recipe: Recipe, grounds: Sequence[Ground]) -> None:
        super().__init__(recipe, Split.TRAIN)
        self.grounds = grounds
        self.shares = class_shares(grounds)
        self._planted: dict[tuple[int, int], FinderSurface] = {}

    def __getitem__(self, key: tuple[int, int]) -> tuple[Tensor, ...]:
        """One sample in the order of `FinderBatch`, without the batch axis."""
        epoch, index = key
        if index % 2 == 0:
            return super().__getitem__(key)
        surface = self._surface(epoch, index // 2 % len(self.grounds))
        rng = home_rng(self.recipe.training.seed, epoch, index)
        return self.cut(surface, rng, surface.steps.shape)

    def _surface(self, epoch: int, number: int) -> FinderSurface:
        """One view with the defects of an epoch; made once."""
        if (epoch, number) not in self._planted:
            self._planted = {key: value for key, value in self._planted.items() if key[0] == epoch}
            rng = home_rng(self.recipe.training.seed, epoch, number, 0)
            self._planted[epoch, number] = self._made(rng, self.grounds[number])
        return self._planted[epoch, number]

    def _made(self, rng: np.random.Generator, ground: Ground) -> FinderSurface:
        planted, marks = plant(rng, ground, self.shares), ground.marks
        view = finder_view(planted.surface)
        # What was never measured is zero for the network: so is what a small scan lacks of a crop.
        more = [(0, max(self.recipe.data.crop_px - length, 0)) for length in ground.steps.shape]
        # What the finder doubts is open; what it is sure of, and what was planted, has to be found.
        required = np.concatenate([ground.sure, np.ones(len(planted.kind), bool)])
        return FinderSurface(
            np.pad(view.maps, [(0, 0), *more]).astype(np.float16),
            view.log_spread or 0.0,
            np.pad(ground.steps, more),
            np.concatenate([marks.yx_px, planted.yx_px]),
            np.concatenate([marks.radius_px, planted.radius_px]),
            np.concatenate([marks.chance.argmax(axis=1).astype(np.int32), planted.kind]),
            required,
            ground.view.pixel_size_nm,
        )


class HomePatchCrops(SurfaceCrops):
    """Crops for the patch autoencoder by ``(epoch, index)``: odd ones show the user's scans, even ones are simulated.

    Of a scan nobody knows the image without noise: in its place stands the image itself.

    Parameters
    ----------
    recipe
        The resolved recipe.
    views
        The views that are learned from.
    """

    def __init__(self, recipe: Recipe, views: Sequence[View]) -> None:
        super().__init__(recipe, Split.TRAIN, MARGIN_PX)
        least = recipe.data.crop_px + 2 * MARGIN_PX
        self.images = [_grown(in_unit_range(view.levelled, recipe.surfaces.clip_percent), least) for view in views]

    def __getitem__(self, key: tuple[int, int]) -> tuple[Tensor, Tensor, Tensor]:
        """One sample: image ``(1, H + 2 margin, W + 2 margin)``, clean ``(1, H, W)``, kind ``()``."""
        epoch, index = key
        if index % 2 == 0:
            return super().__getitem__(key)
        image = self.images[index // 2 % len(self.images)]
        rng = home_rng(self.recipe.training.seed, epoch, index, 1)
        side = self.recipe.data.crop_px + 2 * MARGIN_PX
        y, x = (int(rng.integers(length - side + 1)) for length in image.shape)
        seen = image[y : y + side, x : x + side]
        for axis in (0, 1):  # mirrored, not turned: the lines of the scan stay horizontal
            if rng.random() < 0.5:
                seen = np.flip(seen, axis)
        tensor = torch.from_numpy(np.ascontiguousarray(seen))[None]
        inner = tensor[:, MARGIN_PX:-MARGIN_PX, MARGIN_PX:-MARGIN_PX]
        return tensor, inner.clone(), torch.tensor(-1)


def framed(view: View, clip_percent: float) -> NDArray[np.float32]:
    """``(H + 14, W + 14)`` image of a view in [0, 1] with the context of its windows, as the pipeline shows it."""
    image = _grown(in_unit_range(view.levelled, clip_percent), SIDE_PX)
    return np.pad(image, MARGIN_PX, mode="symmetric")


def _grown(image: NDArray[np.float32], least_px: int) -> NDArray[np.float32]:
    return np.pad(image, [(0, max(least_px - length, 0)) for length in image.shape], mode="symmetric")

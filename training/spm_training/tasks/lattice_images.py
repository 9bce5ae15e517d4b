"""Simulated images of lattices, and of other surfaces, as the networks that denoise see them; crops and patches of them.

Source of the patches: USC report, sections 4.2 (stride 4, turned by quarters and mirrored on the fly) and 4.3 (3000, or 4900, of
each image).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from joblib import Memory
from numpy.typing import NDArray
from scipy.spatial import cKDTree
from torch import Tensor
from torch.utils.data import Dataset

from spm_runtime.pipelines.fourier_wiener import fourier_wiener
from spm_training.data import Split, rng_for
from spm_training.options import LatticeImageOptions
from spm_training.recipe import Recipe
from spm_training.simulate.lattice_pairs import LatticeImage, draw_lattice_image
from spm_training.simulate.stm_lattices import LATTICES
from spm_training.sources import source_digest

__all__ = ["CropBatch", "LatticeCrops", "LatticePatches", "PatchBatch", "drawn_by", "image_number", "lattice_image"]

Floats = NDArray[np.float32]

#: Images that patches of the validation and of the evaluation split are cut from.
_OTHER_IMAGES = 40
#: Random streams beside those of the images, in the place of the epoch.
_PLACES, _ORDER, _TURNS = 1, 2, 3
#: Distance between the patches of an image in pixels. Source: USC report, section 4.2.
PATCH_STRIDE_PX = 4


def lattice_image(seed: int, split: int, number: int, *, sources: str, **drawn: Any) -> LatticeImage:
    """One image, a pure function of its arguments.

    Parameters
    ----------
    seed, split, number
        Its seed.
    sources, drawn
        Those of `drawn_by`.
    """
    return draw_lattice_image(rng_for(seed, Split(split), 0, number), number, **drawn)


def filtered_image(
    seed: int, split: int, number: int, *, windows_px: tuple[int, ...], cache: str, filter_source: str, **drawn: Any
) -> NDArray[np.float16]:
    """``(N, H, W)`` float16: an image as `fourier_wiener` has it with each of N windows, a pure function of its arguments.

    Parameters
    ----------
    seed, split, number, drawn
        As for `lattice_image`.
    windows_px
        Sides of the windows.
    cache
        Folder of the images; empty for none.
    filter_source
        Digest of the filter.
    """
    drawn_image: LatticeImage = Memory(cache or None, verbose=0).cache(lattice_image)(seed, split, number, **drawn)
    image = drawn_image.image.astype(np.float32)
    return np.stack([fourier_wiener(image, side) for side in windows_px]).astype(np.float16)


def drawn_by(recipe: Recipe) -> dict[str, Any]:
    """All that an image depends on, options and sources: plain values, so that a cache knows them again."""
    surfaces = recipe.surfaces
    return {
        **recipe.lattices.model_dump(exclude={"leave_out", "patches", "target"}),
        "families": surfaces.families,
        "detectability": (surfaces.detectability_min, surfaces.detectability_max),
        "sources": source_digest(draw_lattice_image.__module__),
    }


def image_number(lattices: LatticeImageOptions, index: int) -> int:
    """Number of an image among those of all lattices, by its place among those that are not left out."""
    names = lattices.names or tuple(LATTICES)
    round_, place = divmod(index, len(lattices.taught))
    return round_ * len(names) + names.index(lattices.taught[place])


class CropBatch(NamedTuple):
    """A batch of crops of images.

    Parameters
    ----------
    image
        ``(B, 1, H, W)`` float32.
    clean
        ``(B, 1, H, W)`` float32 without noise.
    height
        ``(B,)`` float32: height of an atom in the plane, in the same units.
    beside
        ``(B, N, H, W)`` float32: the images as `fourier_wiener` has them with each of N windows.
    """

    image: Tensor
    clean: Tensor
    height: Tensor
    beside: Tensor

    def to(self, device: torch.device) -> CropBatch:
        """The batch on a device, images in channels-last order."""
        image = self.image.to(device, non_blocking=True, memory_format=torch.channels_last)
        return CropBatch(image, *(tensor.to(device, non_blocking=True) for tensor in self[1:]))


class LatticeCrops(Dataset[Any]):
    """Crops by ``(epoch, index)``, cut anywhere and mirrored; not turned: the lines of a scan stay horizontal.

    The images of the training come from a pool, those of the other splits are used once each.

    Parameters
    ----------
    recipe
        The resolved recipe.
    split
        Which images.
    windows_px
        Sides of the windows of `fourier_wiener`, each for a map beside the image.
    """

    def __init__(self, recipe: Recipe, split: Split, windows_px: tuple[int, ...] = ()) -> None:
        self.recipe = recipe
        self.split = split
        self.windows_px = windows_px
        self._draw = Memory(recipe.data.cache or None, verbose=0).cache(lattice_image)
        self._filter = Memory(recipe.data.cache or None, verbose=0).cache(filtered_image, ignore=["cache"])

    def __getitem__(self, key: tuple[int, int]) -> tuple[Tensor, ...]:
        """One sample of a `CropBatch`, without the batch axis."""
        epoch, index = key
        data, seed = self.recipe.data, self.recipe.training.seed
        number = index
        if self.split is Split.TRAIN:
            number = (epoch * data.steps_per_epoch * data.batch + index) % data.pool
        number = image_number(self.recipe.lattices, number)
        known = seed, int(self.split), number
        drawn: LatticeImage = self._draw(*known, **drawn_by(self.recipe))
        maps = np.stack([drawn.image, drawn.clean])
        if self.windows_px:
            source = source_digest(fourier_wiener.__module__)
            filtered = {"windows_px": self.windows_px, "cache": data.cache, "filter_source": source}
            maps = np.concatenate([maps, self._filter(*known, **filtered, **drawn_by(self.recipe))])
        rng = rng_for(seed, self.split, epoch + 1, index)
        y, x = (int(start) for start in rng.integers(0, self.recipe.lattices.image_px - data.crop_px + 1, size=2))
        mirrored = tuple(axis for axis in (1, 2) if rng.random() < 0.5)
        crop = np.flip(maps[:, y : y + data.crop_px, x : x + data.crop_px], mirrored)
        seen = torch.from_numpy(crop.astype(np.float32))
        return seen[:1], seen[1:2], torch.tensor(drawn.height, dtype=torch.float32), seen[2:]


class PatchBatch(NamedTuple):
    """A batch of patches.

    Parameters
    ----------
    image, clean, height
        As in `CropBatch`.
    centred
        ``(B, 1, P, P)`` float32: the clean image, moved so that the nearest atom is in the middle.
    offset_yx_px
        ``(B, 2)`` float32 from the middle of the patch to that atom.
    lattice
        ``(B,)`` int64 number in `spm_training.simulate.stm_lattices.LATTICES`.
    """

    image: Tensor
    clean: Tensor
    height: Tensor
    centred: Tensor
    offset_yx_px: Tensor
    lattice: Tensor

    def to(self, device: torch.device) -> PatchBatch:
        """The batch on a device, images in channels-last order."""
        image = self.image.to(device, non_blocking=True, memory_format=torch.channels_last)
        return PatchBatch(image, *(tensor.to(device, non_blocking=True) for tensor in self[1:]))


class _Pool(NamedTuple):
    """All images of a split, and where their patches begin."""

    image: NDArray[np.float16]  # (N, H, W)
    clean: NDArray[np.float16]
    height: Floats  # (N,)
    lattice: NDArray[np.int64]  # (N,)
    place: NDArray[np.int64]  # (patches, 3): image, row, column
    offset: Floats  # (patches, 2): from the middle of the patch to the nearest atom


class LatticePatches(Dataset[Any]):
    """Patches by ``(epoch, index)``: every patch of every image once per round, shuffled; turned by quarters and mirrored.

    An epoch is as long as its steps say: a round ends when all patches were seen. The patches of an image are always the same.

    Parameters
    ----------
    recipe
        The resolved recipe; ``data.pool`` is the number of images, `LatticeImageOptions.patches` that of patches of each.
    split
        Which images.
    side_px
        Side of a patch.
    """

    def __init__(self, recipe: Recipe, split: Split, side_px: int) -> None:
        self.recipe = recipe
        self.split = split
        self.side_px = side_px
        self._pool: _Pool | None = None
        self._order: tuple[int, NDArray[np.int64]] = (-1, np.empty(0, np.int64))
        self._turns: tuple[int, NDArray[np.int64]] = (-1, np.empty(0, np.int64))

    @property
    def pool(self) -> _Pool:
        """The images, simulated when they are first asked for."""
        if self._pool is None:
            self._pool = self._simulated()
        return self._pool

    def __getitem__(self, key: tuple[int, int]) -> tuple[Tensor, ...]:
        """One sample of a `PatchBatch`, without the batch axis."""
        return tuple(column[0] for column in self.__getitems__([key]))

    def __getitems__(self, keys: Sequence[tuple[int, int]]) -> PatchBatch:
        """A whole batch at once, as torch's loader asks for it."""
        pool = self.pool
        chosen = np.array([self._patch(*key) for key in keys], np.int64)
        number, y, x = pool.place[chosen].T
        offset = pool.offset[chosen]
        image, clean = (self._windows(one, number, y, x) for one in (pool.image, pool.clean))
        centred = self._moved(number, y, x, offset)
        maps = np.stack([image, clean, centred], axis=1)
        if self.split is Split.TRAIN:
            maps, offset = turned(maps, offset, np.array([self._turn(*key) for key in keys]))
        tensors = torch.from_numpy(maps)[:, :, None]
        height, lattice = torch.from_numpy(pool.height[number]), torch.from_numpy(pool.lattice[number])
        return PatchBatch(tensors[:, 0], tensors[:, 1], height, tensors[:, 2], torch.from_numpy(offset), lattice)

    def keys(self, count: int) -> list[tuple[int, int]]:
        """Of the first so many samples."""
        if self.split is not Split.TRAIN:
            return [(0, index) for index in range(count)]
        return [divmod(number, self._per_epoch) for number in range(count)]

    def image_numbers(self, keys: Sequence[tuple[int, int]]) -> NDArray[np.int64]:
        """Which image of the pool each sample is cut from."""
        return self.pool.place[[self._patch(*key) for key in keys], 0]

    def _patch(self, epoch: int, index: int) -> int:
        """Which patch: the order is shuffled anew in every round."""
        total = len(self.pool.place)
        passed = index + (epoch * self._per_epoch if self.split is Split.TRAIN else 0)
        round_, place = divmod(passed, total)
        if round_ != self._order[0]:
            rng = rng_for(self.recipe.training.seed, self.split, _ORDER, round_)
            self._order = round_, rng.permutation(total)
        return int(self._order[1][place])

    def _turn(self, epoch: int, index: int) -> int:
        """Which of the eight symmetries of a square."""
        if epoch != self._turns[0]:
            rng = rng_for(self.recipe.training.seed, self.split, _TURNS, epoch)
            self._turns = epoch, rng.integers(0, 8, self._per_epoch)
        return int(self._turns[1][index])

    @property
    def _per_epoch(self) -> int:
        return self.recipe.data.steps_per_epoch * self.recipe.data.batch

    def _simulated(self) -> _Pool:
        recipe = self.recipe
        draw = Memory(recipe.data.cache or None, verbose=0).cache(lattice_image)
        count = recipe.data.pool if self.split is Split.TRAIN else min(_OTHER_IMAGES, recipe.data.validation_images)
        images: list[LatticeImage] = [
            draw(recipe.training.seed, int(self.split), image_number(recipe.lattices, index), **drawn_by(recipe))
            for index in range(count)
        ]
        places, offsets = [], []
        for number, one in enumerate(images):
            rng = rng_for(recipe.training.seed, self.split, _PLACES, number)
            corners = patch_corners(rng, recipe.lattices.patches, recipe.lattices.image_px, self.side_px)
            middles = corners + (self.side_px - 1) / 2
            # An image without any atom cannot be: the steepest cut has one every few pixels.
            nearest = cKDTree(one.yx_px).query(middles)[1]
            places.append(np.column_stack([np.full(len(corners), number), corners]))
            offsets.append((one.yx_px[nearest] - middles).astype(np.float32))
        return _Pool(
            np.stack([one.image for one in images]),
            np.stack([one.clean for one in images]),
            np.array([one.height for one in images], np.float32),
            np.array([one.lattice for one in images]),
            np.concatenate(places),
            np.concatenate(offsets),
        )

    def _windows(
        self, stack: NDArray[np.float16], number: NDArray[np.int64], y: NDArray[np.int64], x: NDArray[np.int64],
        margin: int = 0,
    ) -> Floats:  # fmt: skip
        """``(B, P + 2 margin, P + 2 margin)`` float32; the border of the image is repeated beyond it."""
        reach = np.arange(-margin, self.side_px + margin)
        rows, columns = (np.clip(start[:, None] + reach, 0, stack.shape[1] - 1) for start in (y, x))
        return np.asarray(stack[number[:, None, None], rows[:, :, None], columns[:, None, :]], np.float32)

    def _moved(self, number: NDArray[np.int64], y: NDArray[np.int64], x: NDArray[np.int64], offset: Floats) -> Floats:
        """The clean patches moved by their offsets: cubic convolution (R. Keys, 1981)."""
        whole = np.floor(offset).astype(np.int64)
        wide = self._windows(self.pool.clean, number, y + whole[:, 0], x + whole[:, 1], margin=2)
        weight = _cubic(offset - whole)  # (B, 2, 4)
        side = self.side_px
        rows = np.stack([wide[:, 1 + i : 1 + i + side] for i in range(4)], axis=1)
        moved = np.einsum("bi,bihw->bhw", weight[:, 0], rows)
        columns = np.stack([moved[:, :, 1 + i : 1 + i + side] for i in range(4)], axis=1)
        return np.asarray(np.einsum("bi,bihw->bhw", weight[:, 1], columns), np.float32)


def patch_corners(rng: np.random.Generator, count: int, image_px: int, side_px: int) -> NDArray[np.int64]:
    """``(count, 2)`` upper left corners of the patches of an image: at every fourth pixel, or anywhere if these are too few."""
    for step in (PATCH_STRIDE_PX, 1):
        starts = np.arange(0, image_px - side_px + 1, step)
        if len(starts) ** 2 >= count:
            break
    chosen = rng.choice(len(starts) ** 2, min(count, len(starts) ** 2), replace=False)
    return np.stack([starts[chosen // len(starts)], starts[chosen % len(starts)]], axis=1)


def _cubic(fraction: Floats) -> Floats:
    """Weights ``(..., 4)`` of the pixels at −1, 0, 1, 2 for a place at ``fraction`` in [0, 1)."""
    t = fraction[..., None]
    powers = np.concatenate([np.ones_like(t), t, t**2, t**3], axis=-1)
    table = np.array([[0, -1, 2, -1], [2, 0, -5, 3], [0, 1, 4, -3], [0, 0, -1, 1]]) / 2
    return np.asarray(powers @ table.T, np.float32)


def turned(maps: Floats, offset: Floats, turns: NDArray[np.int64]) -> tuple[Floats, Floats]:
    """Maps ``(B, C, P, P)`` and vectors ``(B, 2)`` under symmetries: bit 0 mirrors rows, bit 1 columns, bit 2 swaps both."""
    maps, offset = maps.copy(), offset.copy()
    for bit, axis in ((1, 2), (2, 3)):
        mine = (turns & bit) > 0
        maps[mine] = np.flip(maps[mine], axis)
        offset[mine, axis - 2] *= -1
    mine = (turns & 4) > 0
    maps[mine] = maps[mine].swapaxes(2, 3)
    offset[mine] = offset[mine, ::-1]
    return maps, offset

"""Windows and patches of simulated surfaces with their latents and with what the simulator knows of them."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from spm_runtime.errors import ParameterError
from spm_training.data import Split
from spm_training.networks.ae1 import MARGIN_PX, SIDE_PX, Ae1
from spm_training.networks.ae2 import Ae2
from spm_training.recipe import Recipe
from spm_training.run import RunFolder
from spm_training.simulate.surfaces import DEFECT_CLASSES, FAMILIES
from spm_training.tasks.patches import DefectPatches, SurfaceCrops
from spm_training.trained import trained_network

__all__ = [
    "CONTENTS",
    "Frame",
    "Sample",
    "defect_sample",
    "families_of",
    "frames",
    "latents_of",
    "trained_first",
    "trained_second",
    "window_sample",
]

#: What a window may hold in its middle: a class of defect, or none.
CONTENTS = (*DEFECT_CLASSES, "no defect")
#: Distance of the windows of a frame: the stride of the report's error map (section 2.2).
STRIDE_PX = 16


@dataclass(frozen=True, eq=False)
class Sample:
    """Windows or patches.

    Parameters
    ----------
    latent
        ``(N, D)`` float32.
    patch
        ``(N, 32, 32)`` float32 in [0, 1], as the network saw them.
    family
        ``(N,)`` int32 index into the families of surfaces.
    content
        ``(N,)`` int32 index into `CONTENTS`.
    image
        ``(N,)`` int32 number of the image that each comes from.
    """

    latent: NDArray[np.float32]
    patch: NDArray[np.float32]
    family: NDArray[np.int32]
    content: NDArray[np.int32]
    image: NDArray[np.int32]

    def __len__(self) -> int:
        return len(self.latent)


@dataclass(frozen=True, eq=False)
class Frame:
    """One image as the first autoencoder meets it, with the defects that can be found.

    Parameters
    ----------
    image
        ``(H + 14, W + 14)`` float32 in [0, 1], with the context of its windows; H and W are multiples of `STRIDE_PX`.
    yx_px
        ``(N, 2)`` centres of the defects in the image without its context.
    radius_px, kind
        ``(N,)``.
    family
        Index into the families of surfaces.
    number
        Number of the image, different for each.
    """

    image: NDArray[np.float32]
    yx_px: NDArray[np.float64]
    radius_px: NDArray[np.float64]
    kind: NDArray[np.int32]
    family: int
    number: int

    @property
    def inner(self) -> NDArray[np.float32]:
        """``(H, W)``: the image without its context."""
        return self.image[MARGIN_PX:-MARGIN_PX, MARGIN_PX:-MARGIN_PX]


def trained_first(run: RunFolder) -> tuple[Recipe, Ae1]:
    """Recipe and network of a run of the first autoencoder.

    Raises
    ------
    ParameterError
        If it is no such run.
    ModelError
        If its weights cannot be read.
    """
    network = trained_network(run)[0]
    if not isinstance(network, Ae1):
        raise ParameterError(f"--ae1 {run.path}: a run of another network; expected one of the recipe ae1. Name that.")
    return run.recipe(), network


def trained_second(run: RunFolder) -> tuple[Recipe, Ae2]:
    """Recipe and network of a run of the second autoencoder; raises as `trained_first` does."""
    network = trained_network(run)[0]
    if not isinstance(network, Ae2):
        raise ParameterError(f"--ae2 {run.path}: a run of another network; expected one of the recipe ae2. Name that.")
    return run.recipe(), network


def families_of(recipe: Recipe) -> tuple[str, ...]:
    """Names of the families that a recipe draws from."""
    return recipe.surfaces.families or tuple(FAMILIES)


def of_family(recipe: Recipe, family: str) -> Recipe:
    """The same recipe with surfaces of one family alone: so every image's family is known."""
    return recipe.model_copy(update={"surfaces": recipe.surfaces.model_copy(update={"families": (family,)})})


def frames(recipe: Recipe, images: int, *, split: Split = Split.VALIDATION) -> Iterator[Frame]:
    """Images of every family in turn, scaled and clipped as the first autoencoder's training has them.

    Parameters
    ----------
    recipe
        Recipe of the first autoencoder.
    images
        Images of each family.
    split
        Of which split.
    """
    for family, name in enumerate(families_of(recipe)):
        crops = SurfaceCrops(of_family(recipe, name), split, MARGIN_PX)
        for number in range(images):
            surface = crops.surface(number)
            height, width = ((side - 2 * MARGIN_PX) // STRIDE_PX * STRIDE_PX for side in surface.image.shape)
            image = surface.image[: height + 2 * MARGIN_PX, : width + 2 * MARGIN_PX].astype(np.float32).clip(0, 1)
            yx = surface.yx_px - MARGIN_PX
            inside = np.all((yx > -0.5) & (yx < np.array([height, width]) - 0.5), axis=1)
            here = (surface.radius_px[inside], surface.kind[inside])
            yield Frame(image, yx[inside], *here, family, family * images + number)


@torch.no_grad()
def latents_of(network: Ae1, image: NDArray[np.float32]) -> Tensor:
    """Latents of the windows of a frame's image at `STRIDE_PX`: ``(R · C, D)``, row by row."""
    if network.context:
        whole = network.encode_image(torch.from_numpy(np.ascontiguousarray(image))[None, None], STRIDE_PX)
        return whole[0].flatten(1).T.contiguous()
    inner = torch.from_numpy(np.ascontiguousarray(image[MARGIN_PX:-MARGIN_PX, MARGIN_PX:-MARGIN_PX]))
    return network.encode(windows_at(inner)[:, None].contiguous())


def windows_at(inner: Tensor) -> Tensor:
    """``(R · C, 32, 32)`` windows of ``(H, W)`` at `STRIDE_PX`, row by row."""
    return inner.unfold(0, SIDE_PX, STRIDE_PX).unfold(1, SIDE_PX, STRIDE_PX).reshape(-1, SIDE_PX, SIDE_PX)


def window_sample(found: Iterable[Frame], network: Ae1, *, per_image: int) -> Sample:
    """Windows of the first stage, from anywhere in the images.

    A window holds the defect whose centre is nearest to its own, where one lies in it, and else none. Windows with defects are
    taken first, but never more than half: in the images they are few.

    Parameters
    ----------
    found
        The images.
    network
        The network in evaluation mode.
    per_image
        Windows of each image at the most.
    """
    parts: list[tuple[NDArray[np.generic], ...]] = []
    for frame in found:
        windows = windows_at(torch.from_numpy(np.ascontiguousarray(frame.inner))).numpy()
        content = _contents(frame)
        chosen = _half_and_half(content != len(DEFECT_CLASSES), per_image, frame.number)
        latent = latents_of(network, frame.image).numpy()[chosen]
        family, number = (np.full(len(chosen), value, np.int32) for value in (frame.family, frame.number))
        parts.append((latent, windows[chosen], family, content[chosen], number))
    return _joined(parts)


@torch.no_grad()
def defect_sample(
    recipe: Recipe, network: Ae2, images: int, *, per_image: int, split: Split = Split.VALIDATION
) -> Sample:
    """Patches around defects, as the second autoencoder's training has them.

    Parameters
    ----------
    recipe
        Recipe of the network's run.
    network
        The network in evaluation mode.
    images
        Images of each family.
    per_image
        Patches of each image; the same defect may come again, off its centre elsewhere.
    split
        Of which split.
    """
    parts: list[tuple[NDArray[np.generic], ...]] = []
    for family, name in enumerate(families_of(recipe)):
        patches = DefectPatches(of_family(recipe, name), split)
        for number in range(images):
            drawn = [patches[turn, number] for turn in range(per_image)]
            image = torch.stack([one for one, _, _ in drawn])
            kind = np.array([int(kind) for _, _, kind in drawn], np.int32)
            surface, place = (np.full(len(drawn), value, np.int32) for value in (family, family * images + number))
            parts.append((network.encode(image).numpy(), image[:, 0].numpy(), surface, kind, place))
    return _joined(parts)


def _contents(frame: Frame) -> NDArray[np.int32]:
    """``(R · C,)`` index into `CONTENTS` of every window of a frame."""
    rows, columns = ((side - SIDE_PX) // STRIDE_PX + 1 for side in frame.inner.shape)
    middle = np.stack(np.meshgrid(*(np.arange(n) * STRIDE_PX for n in (rows, columns)), indexing="ij"), axis=-1)
    away = np.abs(frame.yx_px[None] - (middle.reshape(-1, 1, 2) + (SIDE_PX - 1) / 2)).max(axis=-1)  # (windows, defects)
    content = np.full(len(away), len(DEFECT_CLASSES), np.int32)
    if away.shape[1]:
        inside = away.min(axis=1) < SIDE_PX / 2
        content[inside] = frame.kind[away.argmin(axis=1)[inside]]
    return content


def _half_and_half(with_defect: NDArray[np.bool_], most: int, number: int) -> NDArray[np.int64]:
    """Numbers of the windows to take: those with a defect up to the half, the rest without."""
    rng = np.random.default_rng(number)
    there, bare = (rng.permutation(np.flatnonzero(one)) for one in (with_defect, ~with_defect))
    there = there[: max(most // 2, most - len(bare))]
    return np.sort(np.concatenate([there, bare[: most - len(there)]]))


def _joined(parts: list[tuple[NDArray[np.generic], ...]]) -> Sample:
    columns = [np.concatenate(column) for column in zip(*parts, strict=True)]
    return Sample(*columns)

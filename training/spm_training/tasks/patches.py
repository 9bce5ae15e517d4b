"""Training of the patch autoencoders on simulated surfaces: `spm_training.networks.ae1.Ae1` and `spm_training.networks.ae2.Ae2`.

Source: UCL report, sections 2 (images scaled to [0, 1] one by one and split by image, windows of 32 × 32 side by
side, Adam, mean squared error against the image itself) and 2.4 (patches whose centre lies on a defect, each scaled to [0, 1]).

What decides is not the loss. A network that gives the image without its noise has a loss of the noise's variance, and one that
copies the noise has a lower one. The simulator knows the image without noise, so the error against that is measured too.
"""

from __future__ import annotations

import functools
import itertools
from collections import OrderedDict
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from joblib import Memory
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional
from torch.utils.data import Dataset

from spm_runtime.levelling import fit_plane
from spm_runtime.pipelines.surface import on_working_pixels, unit_range
from spm_runtime.terraces import find_terraces
from spm_training.clusters import Clusters
from spm_training.data import Split, rng_for
from spm_training.graphs.patches import DefectGraph, ImageEncoderGraph, WindowEncoderGraph
from spm_training.networks.ae1 import MARGIN_PX, SIDE_PX, Ae1
from spm_training.networks.ae1_views import Ae1Views, Ae1ViewsOutput
from spm_training.networks.ae2 import Ae2
from spm_training.networks.cae import scaled
from spm_training.patch_losses import cluster_loss, contrast_loss, symmetry_loss
from spm_training.recipe import Ae1NetworkOptions, Ae2NetworkOptions, Recipe
from spm_training.simulate.surfaces import simulate_surface
from spm_training.simulate.surfaces.working import draw_working_surface, in_working_pixels
from spm_training.tasks._task import stacked

__all__ = ["Ae1Task", "Ae2Task", "DefectPatches", "PatchBatch", "SurfaceCrops"]

Floats = NDArray[np.floating]
#: Farthest that the centre of a patch lies from that of a large defect, in pixels: the patch still holds its middle.
_FARTHEST_PX = 12.0
#: Images that a loader keeps in memory, 0.3 MB each: every one is cut into many patches.
_KEPT_IMAGES = 1500
#: Images of the validation and of the evaluation split: a sample is a window or a few, not a whole image.
_OTHER_IMAGES = 64
#: White noise of the view in which the contrast loss has to find a window again, in units of an image's range.
_VIEW_NOISE = 0.03


class PatchBatch(NamedTuple):
    """A batch of samples.

    Parameters
    ----------
    image
        ``(B, 1, H + 2 margin, W + 2 margin)`` float32 with noise, in [0, 1]; the margin is the context of the network.
    clean
        ``(B, 1, H, W)`` float32 without noise and without context, on the same scale.
    kind
        ``(B,)`` int64 index into `spm_training.simulate.surfaces.DEFECT_CLASSES` of the defect that a patch was cut around; −1
        for crops, which were cut anywhere.
    """

    image: Tensor
    clean: Tensor
    kind: Tensor

    @property
    def target(self) -> Tensor:
        """``(B, 1, H, W)``: the image without its context."""
        margin = (self.image.shape[-1] - self.clean.shape[-1]) // 2
        return self.image[:, :, margin : margin + self.clean.shape[-2], margin : margin + self.clean.shape[-1]]

    def to(self, device: torch.device) -> PatchBatch:
        """The batch on a device, images in channels-last order."""
        image = self.image.to(device, non_blocking=True, memory_format=torch.channels_last)
        return PatchBatch(image, *(tensor.to(device, non_blocking=True) for tensor in self[1:]))


class _Surface(NamedTuple):
    """A simulated image on the scale of its own range, unclipped, and the defects that can be found in it.

    ``image`` and ``clean`` ``(H, W)`` float16, ``yx_px`` ``(N, 2)``, ``radius_px`` and ``kind`` ``(N,)``.
    """

    image: NDArray[np.float16]
    clean: NDArray[np.float16]
    yx_px: NDArray[np.float64]
    radius_px: NDArray[np.float64]
    kind: NDArray[np.int32]


def _simulated(
    seed: int,
    split: int,
    number: int,
    image_px: int,
    families: tuple[str, ...],
    detectability: tuple[float, float],
    defects: bool,
    clip_percent: float,
    terraces: bool,
) -> _Surface:
    """Draw, level and scale one image; takes a second, hence the cache."""
    rng = rng_for(seed, Split(split), 0, number)
    # The levelling stands here and not in a function of its own: the cache notices a change of this body alone.
    if terraces:
        scene, working = draw_working_surface(
            rng, image_px, families=families, detectability=detectability, defects=defects
        )
        levelled = find_terraces(working.heights, working.pixel_size_nm).levelled
        # What was levelled away, so that the clean image is levelled the same way.
        clean = on_working_pixels(scene.clean, (scene.pixel_size_nm,) * 2, 1.0).heights + levelled - working.heights
        yx_px, zoom = in_working_pixels(scene.defects.yx_px, working), float(np.sqrt(np.prod(working.factor)))
    else:
        d_prime = float(np.exp(rng.uniform(*np.log(detectability))))
        scene = simulate_surface(
            rng, shape=(image_px, image_px), families=families or None, noise=d_prime, defects=defects
        )
        plane = fit_plane(scene.image)
        levelled, clean = (scene.image - plane).astype(np.float32), scene.clean - plane
        yx_px, zoom = scene.defects.yx_px, 1.0
    low, high = unit_range(levelled, clip_percent)
    image, clean = (((heights - low) / (high - low)).astype(np.float16) for heights in (levelled, clean))
    chosen = scene.required
    found = scene.defects
    return _Surface(image, clean, yx_px[chosen], zoom * found.radius_px[chosen], found.kind[chosen])


class _Surfaces(Dataset[Any]):
    """Simulated images by number, from the cache where there is one."""

    def __init__(self, recipe: Recipe, split: Split) -> None:
        self.recipe = recipe
        self.split = split
        self._cached = Memory(recipe.data.cache or None, verbose=0).cache(_simulated)
        self._recent: OrderedDict[int, _Surface] = OrderedDict()

    def number(self, epoch: int, index: int) -> int:
        """Which image a sample is cut from: training goes round the pool, the other splits round a few images."""
        data = self.recipe.data
        if self.split is not Split.TRAIN:
            return index % _OTHER_IMAGES
        return (epoch * data.steps_per_epoch * data.batch + index) % data.pool

    def surface(self, number: int) -> _Surface:
        """One image of the split."""
        if number not in self._recent:
            self._recent[number] = self._drawn(number)
            if len(self._recent) > _KEPT_IMAGES:
                self._recent.popitem(last=False)
        return self._recent[number]

    def _drawn(self, number: int) -> _Surface:
        options = self.recipe.surfaces
        surface: _Surface = self._cached(
            self.recipe.training.seed,
            int(self.split),
            number,
            options.image_px,
            options.families,
            (options.detectability_min, options.detectability_max),
            options.defects,
            options.clip_percent,
            options.terraces,
        )
        return surface

    def cut(
        self, surface: _Surface, rng: np.random.Generator, place: tuple[int, int], side: int, margin: int
    ) -> tuple[Tensor, Tensor]:
        """Image with and clean image without its margin at a place, mirrored at random: ``(1, H, W)`` float32 each.

        Mirrored, not turned: the lines of the scan stay horizontal, and the noise with them.
        """
        y, x = place
        outer = np.s_[y - margin : y + side + margin, x - margin : x + side + margin]
        pair = surface.image[outer], surface.clean[y : y + side, x : x + side]
        for axis in (0, 1):
            if rng.random() < 0.5:
                pair = np.flip(pair[0], axis), np.flip(pair[1], axis)
        image, clean = (torch.from_numpy(np.ascontiguousarray(one, np.float32))[None] for one in pair)
        return image, clean


class SurfaceCrops(_Surfaces):
    """Crops of images by ``(epoch, index)``, cut anywhere and clipped to [0, 1], with or without context.

    The crops of a recipe with context and of the same recipe without it show the same pixels.

    Parameters
    ----------
    recipe
        The resolved recipe.
    split
        Which images.
    margin_px
        Context around a crop.
    white_noise
        None keeps the noise of the simulated microscope. A number gives the clean image with white noise of this standard
        deviation instead, in units of the image's range and not clipped: a network is judged at a stated noise.
    """

    def __init__(self, recipe: Recipe, split: Split, margin_px: int, *, white_noise: float | None = None) -> None:
        super().__init__(recipe, split)
        self.margin_px = margin_px
        self.white_noise = white_noise

    def __getitem__(self, key: tuple[int, int]) -> tuple[Tensor, Tensor, Tensor]:
        """One sample: image ``(1, H + 2 margin, W + 2 margin)``, clean ``(1, H, W)``, kind ``()``."""
        epoch, index = key
        rng = rng_for(self.recipe.training.seed, self.split, epoch + 1, index)
        side, image_px = self.recipe.data.crop_px, self.recipe.surfaces.image_px
        y, x = (int(start) for start in rng.integers(MARGIN_PX, image_px - side - MARGIN_PX + 1, size=2))
        surface = self.surface(self.number(epoch, index))
        if self.white_noise is not None:
            # The clean image is needed with its margin: it stands in for the image, and the noise comes last.
            surface = surface._replace(image=surface.clean)
        image, clean = (one.clamp(0, 1) for one in self.cut(surface, rng, (y, x), side, self.margin_px))
        if self.white_noise is not None:
            image += self.white_noise * torch.from_numpy(rng.standard_normal(tuple(image.shape), np.float32))
        return image, clean, torch.tensor(-1)


class DefectPatches(_Surfaces):
    """Patches of 32 × 32 around defects by ``(epoch, index)``, each scaled to [0, 1] by its own extremes.

    The centre of a patch lies anywhere on its defect, as those of the pipeline's windows do. Where the mask of the first stage
    holds something else, no patch of it is seen here.
    """

    def __getitem__(self, key: tuple[int, int]) -> tuple[Tensor, Tensor, Tensor]:
        """One sample: image and clean image ``(1, 32, 32)``, kind ``()``."""
        epoch, index = key
        rng = rng_for(self.recipe.training.seed, self.split, epoch + 1, index)
        surface = self._with_defects(self.number(epoch, index))
        chosen = int(rng.integers(len(surface.kind)))
        away = min(float(surface.radius_px[chosen]), _FARTHEST_PX) * np.sqrt(rng.random())
        angle = rng.uniform(0, 2 * np.pi)
        centre = surface.yx_px[chosen] + away * np.array([np.sin(angle), np.cos(angle)])
        last = self.recipe.surfaces.image_px - SIDE_PX
        y, x = (int(start) for start in np.clip(np.round(centre - SIDE_PX / 2), 0, last))
        image, clean = self.cut(surface, rng, (y, x), SIDE_PX, 0)
        way = scaled(image[None], 0.0, 1.0)
        return way.image[0], ((clean - way.offset) / way.gain)[0], torch.tensor(int(surface.kind[chosen]))

    def _with_defects(self, number: int) -> _Surface:
        """The image, or one further on that has a defect to be found."""
        step = max(self.recipe.data.pool, self.recipe.data.validation_images)
        return next(found for n in itertools.count(number, step) if len((found := self.surface(n)).kind))


class _Autoencoding:
    """What both tasks share: the loss, and how an image is judged that was learned from itself."""

    sum_names = ("images", "loss", "clean", "noise")
    shown = ("clean_psnr_db", "clean_over_noise")

    def __init__(self, recipe: Recipe) -> None:
        self.recipe = recipe

    def collate(self, samples: Sequence[tuple[Tensor, ...]]) -> PatchBatch:
        """A batch from samples."""
        return PatchBatch(*stacked(samples))

    def inputs(self, batch: PatchBatch) -> Tensor:
        """The images with their context."""
        return batch.image

    def loss(self, output: Tensor, batch: PatchBatch) -> dict[str, Tensor]:
        """``loss``: the mean squared error against the image itself, noise included."""
        return {"loss": functional.mse_loss(output, batch.target)}

    def validation_sums(self, output: Tensor, batch: PatchBatch) -> list[float]:
        """Sums over the images, in the order of `sum_names`."""
        images = float(len(batch.image))
        pairs = ((output, batch.target), (output, batch.clean), (batch.target, batch.clean))
        return [images, *(float(functional.mse_loss(*pair)) * images for pair in pairs)]

    def validation_metrics(self, sums: list[float]) -> dict[str, float]:
        """Figures of merit.

        ``clean_mse`` is the error against the image without noise, ``noise_mse`` the noise itself, ``excess_mse`` what the loss
        has beyond the noise, ``clean_psnr_db`` the first as a peak signal-to-noise ratio for a range of 1, ``clean_over_noise``
        its share of the second: below 1 the answer is nearer to the truth than the image was.

        The noise is all that the microscope adds, line offsets and drift too, which within a window nothing can tell from the
        surface: `spm_training.patch_scores` judges at white noise of a stated strength.
        """
        images, loss, clean, noise = sums
        return {
            "loss": loss / images,
            "clean_mse": clean / images,
            "noise_mse": noise / images,
            "excess_mse": (loss - noise) / images,
            "clean_psnr_db": float(-10 * np.log10(clean / images)),
            "clean_over_noise": clean / noise,
        }

    def pictures(self, output: Tensor, batch: PatchBatch) -> dict[str, NDArray[np.float32]]:
        """Image, answer and clean image side by side."""
        maps = [one[:4, 0].float().cpu().numpy() for one in (batch.target, output, batch.clean)]
        rows = [np.concatenate(row, axis=1) for row in zip(*maps, strict=True)]
        return {"image_answer_clean": np.clip(np.concatenate(rows), 0, 1).astype(np.float32)}


class Ae1Task(_Autoencoding):
    """Crops of surfaces through `Ae1`, with context or as printed.

    Parameters
    ----------
    recipe
        The resolved recipe.
    """

    @property
    def input_shape(self) -> tuple[int, ...]:
        """One crop with its context."""
        side = self.recipe.data.crop_px + 2 * self._margin_px
        return 1, side, side

    @property
    def _options(self) -> Ae1NetworkOptions:
        options = self.recipe.network
        if not isinstance(options, Ae1NetworkOptions):
            raise TypeError(f"network options of kind {options.kind!r} for the task of 'ae1'")
        return options

    @property
    def _margin_px(self) -> int:
        return MARGIN_PX if self._options.context else 0

    def build_network(self) -> Ae1:
        """The network with fresh weights from torch's global generator."""
        options, loss = self._options, self.recipe.loss
        printed = options.model_dump(include={"context", "dropout", "batch_statistics"})
        if not loss.with_views:
            return Ae1(options.latent, **printed)
        return Ae1Views(
            options.latent,
            **printed,
            view=bool(loss.symmetry_weight or loss.contrast_weight),
            view_noise=_VIEW_NOISE if loss.contrast_weight else 0.0,
            coarse=bool(loss.coarse_weight),
        )

    def loss(self, output: Tensor | Ae1ViewsOutput, batch: PatchBatch) -> dict[str, Tensor]:
        """``loss``, and its terms where the recipe asks for more than the squared error."""
        if isinstance(output, Tensor):
            return super().loss(output, batch)
        options = self.recipe.loss
        terms = {"squares": functional.mse_loss(output.image, batch.target)}
        total = terms["squares"]
        if options.symmetry_weight:
            terms["symmetry"] = symmetry_loss(output.latent, output.view)
            total = total + options.symmetry_weight * terms["symmetry"]
        if options.contrast_weight:
            terms["contrast"] = contrast_loss(output.latent, output.view)
            total = total + options.contrast_weight * terms["contrast"]
        if options.cluster_weight:
            terms["cluster"] = cluster_loss(output.latent, self._clusters)
            total = total + options.cluster_weight * terms["cluster"]
        if options.coarse_weight:
            terms["coarse"] = output.coarse_error.mean()
            total = total + options.coarse_weight * terms["coarse"]
        return {"loss": total, **terms}

    @functools.cached_property
    def _clusters(self) -> Clusters:
        return Clusters.read(Path(self.recipe.loss.clusters_file))

    def graph(self, network: Ae1) -> ImageEncoderGraph | WindowEncoderGraph:
        """The encoder as it is exported, without clusters; `spm_training.graphs.patches` has the other graphs."""
        return ImageEncoderGraph(network) if network.context else WindowEncoderGraph(network)

    def dataset(self, split: Split, *, white_noise: float | None = None) -> SurfaceCrops:
        """Samples of a split, with the microscope's noise or with white noise of a stated strength."""
        return SurfaceCrops(self.recipe, split, self._margin_px, white_noise=white_noise)


class Ae2Task(_Autoencoding):
    """Patches around defects through `Ae2`.

    Parameters
    ----------
    recipe
        The resolved recipe; ``data.crop_px`` has no say.
    """

    @property
    def input_shape(self) -> tuple[int, ...]:
        """One patch."""
        return 1, SIDE_PX, SIDE_PX

    def build_network(self) -> Ae2:
        """The network with fresh weights from torch's global generator."""
        options = self.recipe.network
        if not isinstance(options, Ae2NetworkOptions):
            raise TypeError(f"network options of kind {options.kind!r} for the task of 'ae2'")
        return Ae2(options.latent, hidden=options.hidden, dropout=options.dropout)

    def graph(self, network: Ae2) -> DefectGraph:
        """The encoder as it is exported, without classes."""
        return DefectGraph(network)

    def dataset(self, split: Split) -> DefectPatches:
        """Samples of a split."""
        return DefectPatches(self.recipe, split)

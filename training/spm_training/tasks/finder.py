"""Training of the finder of defects and steps, `spm_training.networks.finder.FinderNet`, on simulated surfaces."""

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

from spm_runtime.pipelines.surface import PIXEL_UNIT_NM, FinderView, finder_view
from spm_training.data import Split, rng_for
from spm_training.graphs.finder import FinderOfDefectsGraph
from spm_training.metrics import Counts, count
from spm_training.networks.finder import FinderNet, FinderOutput
from spm_training.recipe import FinderNetworkOptions, Recipe
from spm_training.simulate.surfaces import DEFECT_CLASSES
from spm_training.simulate.surfaces.working import draw_working_surface, in_working_pixels
from spm_training.tasks._task import stacked

__all__ = ["FinderBatch", "FinderCrops", "FinderSurface", "FinderTask", "finder_loss"]

#: One image in so many has no defects: silence is learned there.
_EMPTY = 10
#: One of so many images does not tell its spread, and one its pixels.
_UNCALIBRATED = 0.1
#: σ of the peak at a centre: this share of the radius, within limits in pixels.
_PEAK_SHARE, _PEAK_PX = 0.35, (1.0, 4.0)
#: Radius and class are learned where the peak is above this.
_AT_PEAK = 0.4
#: When validating: lowest presence, half a window of the maximum filter and tolerance in pixels.
_VALIDATION_THRESHOLD, _VALIDATION_REACH, _TOLERANCE_NM = 0.3, 2, 0.6
#: Weights of the terms.
_WEIGHTS = {"presence": 1.0, "inside": 2.0, "step": 2.0, "radius": 0.5, "kind": 1.0}


class _Surface(NamedTuple):
    """An image on the working pixels with its truth there.

    ``maps`` ``(2, H, W)`` float16 and ``log_spread`` as in `FinderView`, ``steps`` ``(H, W)`` bool, ``yx_px`` ``(N, 2)``,
    ``radius_px``, ``kind`` and ``required`` ``(N,)``; a defect that is not required may be found or not.
    """

    maps: NDArray[np.float16]
    log_spread: float
    steps: NDArray[np.bool_]
    yx_px: NDArray[np.float64]
    radius_px: NDArray[np.float64]
    kind: NDArray[np.int32]
    required: NDArray[np.bool_]
    pixel_size_nm: float


def _simulated(
    seed: int, split: int, number: int, image_px: int, families: tuple[str, ...], detectability: tuple[float, float]
) -> _Surface:
    """Draw one image of ``image_px`` working pixels a side; takes tenths of a second, hence the cache."""
    rng = rng_for(seed, Split(split), 0, number)
    scene, surface = draw_working_surface(
        rng, image_px, families=families, detectability=detectability, defects=bool(rng.integers(_EMPTY))
    )
    steps = np.zeros(surface.heights.shape, bool)
    edge = np.argwhere(scene.steps).astype(np.float64)
    place = np.clip(np.rint(in_working_pixels(edge, surface)).astype(int), 0, np.asarray(steps.shape) - 1)
    steps[place[:, 0], place[:, 1]] = True
    found = scene.defects
    view = finder_view(surface)
    return _Surface(
        view.maps.astype(np.float16),
        view.log_spread or 0.0,
        steps,
        in_working_pixels(found.yx_px, surface),
        found.radius_px * float(np.sqrt(np.prod(surface.factor))),
        found.kind,
        scene.required,
        surface.pixel_size_nm or scene.pixel_size_nm,
    )


#: For other modules; images in the cache are stored under the private name.
FinderSurface = _Surface


class FinderBatch(NamedTuple):
    """A batch of samples.

    Parameters
    ----------
    image
        ``(B, C, H, W)`` float32.
    presence
        ``(B, 1, H, W)`` float32: peaks of 1 at the pixels nearest to the centres.
    weight
        ``(B, 1, H, W)`` float32: 0 on what may be found or not.
    inside, step
        ``(B, 1, H, W)`` float32: 1 on defects, and at the edges of terraces.
    log_radius
        ``(B, 1, H, W)`` float32 of the nearest defect, in pixels.
    kind
        ``(B, H, W)`` int64 class of the nearest defect.
    tolerance_px
        ``(B,)`` float32 for the figures of merit.
    """

    image: Tensor
    presence: Tensor
    weight: Tensor
    inside: Tensor
    step: Tensor
    log_radius: Tensor
    kind: Tensor
    tolerance_px: Tensor

    def to(self, device: torch.device) -> FinderBatch:
        """The batch on a device, images in channels-last order."""
        image = self.image.to(device, non_blocking=True, memory_format=torch.channels_last)
        return FinderBatch(image, *(tensor.to(device, non_blocking=True) for tensor in self[1:]))


class FinderCrops(Dataset[Any]):
    """Crops by ``(epoch, index)``, mirrored at random; not turned: the lines of the scan stay horizontal."""

    def __init__(self, recipe: Recipe, split: Split) -> None:
        self.recipe = recipe
        self.split = split
        self._cached = Memory(recipe.data.cache or None, verbose=0).cache(_simulated)

    def __getitem__(self, key: tuple[int, int]) -> tuple[Tensor, ...]:
        """One sample in the order of `FinderBatch`, without the batch axis."""
        epoch, index = key
        data, options = self.recipe.data, self.recipe.surfaces
        number = index
        if self.split is Split.TRAIN:
            number = (epoch * data.steps_per_epoch * data.batch + index) % data.pool
        surface = self._cached(
            self.recipe.training.seed,
            int(self.split),
            number,
            options.image_px,
            options.families,
            (options.detectability_min, options.detectability_max),
        )
        rng = rng_for(self.recipe.training.seed, self.split, epoch + 1, index)
        return self.cut(surface, rng, (options.image_px, options.image_px))

    def cut(self, surface: FinderSurface, rng: np.random.Generator, shape: tuple[int, int]) -> tuple[Tensor, ...]:
        """A sample from anywhere in an image of this shape, no smaller than a crop: as `__getitem__` returns it."""
        side = self.recipe.data.crop_px
        # Beyond the frame on purpose: a fifth of the crops shows a border of the image.
        y, x = (
            int(np.clip(rng.integers(-most // 8 - 1, most + most // 8 + 2), 0, most))
            for most in (length - side for length in shape)
        )
        maps = surface.maps[:, y : y + side, x : x + side].astype(np.float32)
        steps = surface.steps[y : y + side, x : x + side]
        yx = surface.yx_px - (y, x)
        for axis in (0, 1):
            if rng.random() < 0.5:
                maps, steps = np.flip(maps, axis + 1), np.flip(steps, axis)
                yx = np.where(np.arange(2) == axis, side - 1 - yx, yx)
        target = _target(yx, surface.radius_px, surface.kind, surface.required, side)
        return (
            torch.from_numpy(self._seen(maps, surface, rng)),
            *(torch.from_numpy(one)[None] for one in (target.presence, target.weight, target.inside)),
            torch.from_numpy(np.ascontiguousarray(steps, np.float32))[None],
            torch.from_numpy(target.log_radius)[None],
            torch.from_numpy(target.kind),
            torch.tensor(max(_TOLERANCE_NM / surface.pixel_size_nm, 3.0), dtype=torch.float32),
        )

    def _seen(self, maps: NDArray[np.float32], surface: FinderSurface, rng: np.random.Generator) -> NDArray[np.float32]:
        """``(C, H, W)`` input; now and then a training image has no calibration."""
        unknown = rng.random(2) < (_UNCALIBRATED if self.split is Split.TRAIN else 0.0)
        log_pixel = float(np.log(surface.pixel_size_nm / PIXEL_UNIT_NM))
        view = FinderView(maps, None if unknown[0] else surface.log_spread, None if unknown[1] else log_pixel)
        return view.stacked(_options(self.recipe).channels)


def _options(recipe: Recipe) -> FinderNetworkOptions:
    if not isinstance(recipe.network, FinderNetworkOptions):
        raise TypeError(f"network options of kind {recipe.network.kind!r} for the task of 'finder'")
    return recipe.network


class _Maps(NamedTuple):
    presence: NDArray[np.float32]
    weight: NDArray[np.float32]
    inside: NDArray[np.float32]
    log_radius: NDArray[np.float32]
    kind: NDArray[np.int64]


def _target(
    yx: NDArray[np.float64],
    radius: NDArray[np.float64],
    kind: NDArray[np.int32],
    required: NDArray[np.bool_],
    side: int,
) -> _Maps:
    """The maps to learn. Where peaks overlap, radius and class are those of the higher one."""
    shape = (side, side)
    presence, inside, optional = np.zeros(shape, np.float32), np.zeros(shape, np.float32), np.zeros(shape, bool)
    log_radius, kinds = np.zeros(shape, np.float32), np.zeros(shape, np.int64)
    pixels = np.arange(side, dtype=np.float64)
    for centre, r, k, wanted in zip(yx, radius, kind, required, strict=True):
        reach = max(r, 3 * _PEAK_PX[0]) + 3 * _PEAK_PX[1]
        box = tuple(slice(max(int(c - reach), 0), max(int(c + reach) + 2, 0)) for c in centre)
        square = (pixels[box[0], None] - centre[0]) ** 2 + (pixels[None, box[1]] - centre[1]) ** 2
        if not square.size:
            continue
        within = square <= max(r, 2.0) ** 2
        # A defect that the crop's edge hides is asked for only where its centre shows.
        if not wanted or not np.all((centre > -0.5) & (centre < side - 0.5)):
            optional[box] |= within
            if wanted:
                inside[box] = np.where(within, 1, inside[box])
            continue
        sigma = float(np.clip(_PEAK_SHARE * r, *_PEAK_PX))
        nearest = np.rint(centre)
        peak = np.exp(
            -0.5 * ((pixels[box[0], None] - nearest[0]) ** 2 + (pixels[None, box[1]] - nearest[1]) ** 2) / sigma**2
        )
        higher = peak > presence[box]
        presence[box] = np.where(higher, peak, presence[box])
        log_radius[box] = np.where(higher, np.log(max(r, 1.0)), log_radius[box])
        kinds[box] = np.where(higher, k, kinds[box])
        inside[box] = np.where(within, 1, inside[box])
    weight = np.where(optional & (presence < 0.1), 0, 1).astype(np.float32)
    return _Maps(presence, weight, inside, log_radius, kinds)


def finder_loss(output: FinderOutput, batch: FinderBatch) -> dict[str, Tensor]:
    """Terms of the loss and their weighted sum: means over the images, ``radius`` and ``kind`` over the pixels near peaks.

    ``presence`` is the penalty-reduced focal loss of Zhou et al. (arXiv 1904.07850, equation 1; α = 2, β = 4), divided by the
    mean number of peaks of a crop so that the gradient is of one size; ``inside`` and ``step`` are cross-entropies, ``radius``
    the absolute error of ln r and ``kind`` the cross-entropy of the class, both at the peaks.
    """
    images = len(batch.image)
    peaks = batch.presence == 1.0
    p = output.presence.sigmoid()
    found = functional.logsigmoid(output.presence) * (1 - p) ** 2
    silent = functional.logsigmoid(-output.presence) * p**2 * (1 - batch.presence) ** 4 * batch.weight
    presence = -torch.where(peaks, found, silent).sum() / images / _PEAKS_PER_CROP
    cross = functional.binary_cross_entropy_with_logits
    at = (batch.presence > _AT_PEAK).float()
    share = at / at.sum().clamp(min=1.0)
    terms = {
        "presence": presence,
        "inside": cross(output.inside, batch.inside, weight=torch.maximum(batch.weight, batch.inside)),
        "step": cross(output.step, batch.step),
        "radius": ((output.log_radius - batch.log_radius).abs() * share).sum(),
        "kind": (functional.cross_entropy(output.kind, batch.kind, reduction="none")[:, None] * share).sum(),
    }
    total = torch.stack([_WEIGHTS[name] * value for name, value in terms.items()]).sum()
    return {"loss": total, **terms}


#: A typical number of defects in a crop.
_PEAKS_PER_CROP = 3.0


class FinderTask:
    """Crops of surfaces through `FinderNet`.

    Parameters
    ----------
    recipe
        The resolved recipe.
    """

    TERMS = ("loss", *_WEIGHTS)
    sum_names = ("images", *TERMS, "tp", "fp", "fn", "d2", "right_kind", "kinds")
    shown = ("f1", "precision", "recall", "kind_accuracy", "step")

    def __init__(self, recipe: Recipe) -> None:
        self.recipe = recipe

    @property
    def input_shape(self) -> tuple[int, ...]:
        """One crop."""
        return len(_options(self.recipe).channels), self.recipe.data.crop_px, self.recipe.data.crop_px

    def build_network(self) -> FinderNet:
        """The network with fresh weights from torch's global generator."""
        options = _options(self.recipe)
        return FinderNet(
            options.base_width, options.depth, kinds=len(DEFECT_CLASSES), channels_in=len(options.channels)
        )

    def graph(self, network: FinderNet) -> FinderOfDefectsGraph:
        """The network as it is exported."""
        return FinderOfDefectsGraph(network, DEFECT_CLASSES, _options(self.recipe).channels)

    def dataset(self, split: Split) -> FinderCrops:
        """Samples of a split."""
        return FinderCrops(self.recipe, split)

    def collate(self, samples: Sequence[tuple[Tensor, ...]]) -> FinderBatch:
        """A batch from samples."""
        return FinderBatch(*stacked(samples))

    def inputs(self, batch: FinderBatch) -> Tensor:
        """The images."""
        return batch.image

    def loss(self, output: FinderOutput, batch: FinderBatch) -> dict[str, Tensor]:
        """Terms of `finder_loss`."""
        return finder_loss(output, batch)

    def validation_sums(self, output: FinderOutput, batch: FinderBatch) -> list[float]:
        """Sums over the images, in the order of `sum_names`; each image by itself, so that the batch does not matter."""
        images = float(len(batch.image))
        terms = dict.fromkeys(self.TERMS, 0.0)
        for i in range(len(batch.image)):
            one = FinderOutput(*(part[i : i + 1] for part in output)), FinderBatch(*(part[i : i + 1] for part in batch))
            for name, value in self.loss(*one).items():
                terms[name] += float(value)
        counts = sum((_counts(output.presence[i], batch, i) for i in range(len(batch.image))), Counts())
        at = (batch.presence == 1.0)[:, 0]
        right = (output.kind.argmax(dim=1) == batch.kind)[at]
        return [
            images,
            *terms.values(),
            float(counts.true_positive),
            float(counts.false_positive),
            float(counts.false_negative),
            counts.square_distance_px2,
            float(right.sum()),
            float(at.sum()),
        ]

    def validation_metrics(self, sums: list[float]) -> dict[str, float]:
        """Figures of merit: those of peaks matched to centres, and the share of right classes at the true centres."""
        by_name = dict(zip(self.sum_names, sums, strict=True))
        counts = Counts(int(by_name["tp"]), int(by_name["fp"]), int(by_name["fn"]), by_name["d2"])
        return {name: by_name[name] / by_name["images"] for name in self.TERMS} | {
            "f1": counts.f1,
            "precision": counts.precision,
            "recall": counts.recall,
            "kind_accuracy": by_name["right_kind"] / max(by_name["kinds"], 1.0),
        }

    def pictures(self, output: FinderOutput, batch: FinderBatch) -> dict[str, NDArray[np.float32]]:
        """Image, true and found centres, true and found steps side by side."""
        rows = []
        for i in range(min(len(batch.image), 4)):
            image = batch.image[i, 0].cpu().numpy()
            grey = (image - image.min()) / max(float(np.ptp(image)), 1e-9)
            others = (
                batch.presence[i, 0],
                output.presence[i, 0].sigmoid(),
                batch.step[i, 0],
                output.step[i, 0].sigmoid(),
            )
            rows.append(np.concatenate([grey, *(one.float().cpu().numpy() for one in others)], axis=1))
        return {"image_centres_found_steps_found": np.concatenate(rows).astype(np.float32)}


def _counts(presence: Tensor, batch: FinderBatch, i: int) -> Counts:
    p = presence.sigmoid()
    window = 2 * _VALIDATION_REACH + 1
    highest = functional.max_pool2d(p[None], window, stride=1, padding=_VALIDATION_REACH)[0]
    found = torch.nonzero(((p == highest) & (p > _VALIDATION_THRESHOLD))[0]).cpu().numpy().astype(np.float64)
    truth = torch.nonzero(batch.presence[i, 0] == 1.0).cpu().numpy().astype(np.float64)
    optional = torch.nonzero(batch.weight[i, 0] < 0.5).cpu().numpy().astype(np.float64)
    required = np.arange(len(truth) + len(optional)) < len(truth)
    return count(found, np.concatenate((truth, optional)), required, float(batch.tolerance_px[i]))

"""Simulated scans under bad tips as the networks that restore see them, and crops of them."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import torch
from joblib import Memory
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import Dataset

from spm_kernels import erode
from spm_runtime.errors import ParameterError
from spm_runtime.pipelines.relief import TIP_PX, ReliefView, relief_view, restore_channels, tip_evidence, visible_tip
from spm_runtime.pipelines.tip_candidates import FACTORS, candidate_facts
from spm_training.data import Split, rng_for
from spm_training.networks.tip import packed
from spm_training.recipe import Recipe, RestorerNetworkOptions
from spm_training.simulate.tips import FAMILIES, TipScene, simulate_tip_scene
from spm_training.tip_estimate import TipEstimator, digest_of

__all__ = ["JudgeBatch", "JudgeSamples", "ScanBatch", "ScanCrops", "ScanSample", "TipBatch", "TipSamples"]

#: Axes along which scans are mirrored; not turned: the lines of a scan stay horizontal.
_MIRRORS: tuple[tuple[int, ...], ...] = ((), (-1,), (-2,), (-2, -1))
#: Mean squares below this are rounding.
_LEAST_SQUARE = 1e-10
#: The hackathon's apex is up to so many pixels off the middle of its kernel, and the image is shifted by it.
_SHIFT_PX = 8


class ScanSample(NamedTuple):
    """A scan with its truth, in units of the image's relief.

    ``image`` and ``clean`` ``(H, W)`` float16, ``touched`` ``(H, W)`` bool, ``evidence`` float16 as `tip_evidence` makes it,
    ``visible`` ``(TIP_PX, TIP_PX)`` float16 as `visible_tip` makes it of the true tip (of a point-spread function: over its
    peak), ``family`` its number in `FAMILIES`, ``noise`` and ``local`` as in `ReliefView`.
    """

    image: NDArray[np.float16]
    clean: NDArray[np.float16]
    touched: NDArray[np.bool_]
    evidence: NDArray[np.float16]
    visible: NDArray[np.float16]
    family: int
    noise: float
    local: float


def _simulated(
    seed: int, split: int, number: int, image_px: int, modalities: tuple[str, ...], families: tuple[str, ...]
) -> ScanSample:
    """Draw one scan; takes a fifth of a second, hence the cache."""
    rng = rng_for(seed, Split(split), 0, number)
    modality: Any = modalities[int(rng.integers(len(modalities)))]
    side = image_px + 2 * _SHIFT_PX
    scene = simulate_tip_scene(rng, shape=(side, side), modality=modality, families=families)
    # The apex of the true tip is put in the middle: nobody can know from an image where it was.
    shift = tuple(int(np.rint(apex)) for apex in scene.apex_yx_px)
    clean, touched = (_inner(np.roll(one, shift, (0, 1))) for one in (scene.clean, scene.touched))
    view = relief_view(_inner(scene.image))
    return ScanSample(
        view.image.astype(np.float16),
        view.normalised(clean).astype(np.float16),
        touched,
        tip_evidence(view).astype(np.float16),
        _visible(scene, view, shift).astype(np.float16),
        FAMILIES.index(scene.family),
        view.noise,
        view.local,
    )


def _inner(image: NDArray[Any]) -> NDArray[Any]:
    return image[_SHIFT_PX:-_SHIFT_PX, _SHIFT_PX:-_SHIFT_PX]


def _visible(scene: TipScene, view: ReliefView, shift: tuple[int, ...]) -> NDArray[np.float32]:
    """The true tip as the view of the scan shows it: sheared by the plane that was taken away."""
    if scene.family == "convolution":
        return np.asarray(scene.tip / scene.tip.max())
    tip = np.roll(scene.tip, [-n for n in shift], (0, 1))
    offset = np.arange(TIP_PX) - TIP_PX // 2
    sheared = tip - np.add.outer(view.slope[0] * offset, view.slope[1] * offset)
    return visible_tip((sheared / view.scale).astype(np.float32), view.local)


class TipBatch(NamedTuple):
    """A batch for the network that estimates tips.

    Parameters
    ----------
    packed
        ``(B, k² + E, 64, 64)`` float32: images and evidence (`spm_training.networks.tip.packed`).
    visible
        ``(B, 1, TIP_PX, TIP_PX)`` float32.
    family
        ``(B,)`` int64.
    """

    packed: Tensor
    visible: Tensor
    family: Tensor

    def to(self, device: torch.device) -> TipBatch:
        """The batch on a device."""
        return TipBatch(*(tensor.to(device, non_blocking=True) for tensor in self))


class _Scans(Dataset[Any]):
    """Scans by ``(epoch, index)``, those of the training out of a pool."""

    def __init__(self, recipe: Recipe, split: Split) -> None:
        self.recipe = recipe
        self.split = split
        self._memory = Memory(recipe.data.cache or None, verbose=0)
        self._draw = self._memory.cache(_simulated)
        tips = recipe.tips
        self._drawn = (tips.image_px, tips.modalities, tips.families)

    def _number(self, key: tuple[int, int]) -> int:
        epoch, index = key
        data = self.recipe.data
        if self.split is not Split.TRAIN:
            return index
        return (epoch * data.steps_per_epoch * data.batch + index) % data.pool

    def _scan(self, number: int) -> ScanSample:
        scan: ScanSample = self._draw(self.recipe.training.seed, int(self.split), number, *self._drawn)
        return scan

    def _stream(self, key: tuple[int, int]) -> tuple[np.random.Generator, int]:
        """Random stream of a sample, and the number in `_MIRRORS` of how it is mirrored."""
        rng = rng_for(self.recipe.training.seed, self.split, key[0] + 1, key[1])
        mirror = int(rng.integers(len(_MIRRORS)))
        return rng, mirror if self.split is Split.TRAIN else 0


class TipSamples(_Scans):
    """Images, evidence and true tips: samples in the order of `TipBatch`."""

    def __getitem__(self, key: tuple[int, int]) -> tuple[Tensor, ...]:
        """One sample, without the batch axis."""
        scan = self._scan(self._number(key))
        axes = _MIRRORS[self._stream(key)[1]]
        image, evidence, visible = (
            torch.from_numpy(np.flip(one, axes).astype(np.float32)) for one in (scan.image, scan.evidence, scan.visible)
        )
        return packed(image, evidence), visible[None], torch.tensor(scan.family)


class ScanBatch(NamedTuple):
    """A batch for the networks that restore.

    Parameters
    ----------
    image
        ``(B, C, H, W)`` float32: what the network is called with.
    clean
        ``(B, 1, H, W)`` float32.
    touched
        ``(B, 1, H, W)`` float32.
    family
        ``(B,)`` int64.
    """

    image: Tensor
    clean: Tensor
    touched: Tensor
    family: Tensor

    def to(self, device: torch.device) -> ScanBatch:
        """The batch on a device, images in channels-last order."""
        image = self.image.to(device, non_blocking=True, memory_format=torch.channels_last)
        return ScanBatch(image, *(tensor.to(device, non_blocking=True) for tensor in self[1:]))


def _view(scan: ScanSample) -> ReliefView:
    image = scan.image.astype(np.float32)
    return ReliefView(image, np.ones(image.shape, np.bool_), (0.0, 0.0), 0.0, 1.0, scan.noise, scan.local)


def _told(
    tip_run: str,
    judge_run: str,
    digest: str,
    seed: int,
    split: int,
    number: int,
    options: tuple[Any, ...],
    cache: str,
) -> tuple[NDArray[np.float16], NDArray[np.float32]]:
    """Channels after the image, and what is told of the tip; ``digest`` tells weights apart in the cache."""
    scan: ScanSample = Memory(cache or None, verbose=0).cache(_simulated)(seed, split, number, *options)
    view = _view(scan)
    tip, code = TipEstimator.of(tip_run, judge_run, digest)(view, scan.evidence.astype(np.float32))
    return restore_channels(view, tip)[1:].astype(np.float16), code


def _judged(
    folder: str, digest: str, seed: int, split: int, number: int, options: tuple[Any, ...], cache: str
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """What a network that judges sees of a scan, and the logarithmic errors that it is to foresee."""
    scan: ScanSample = Memory(cache or None, verbose=0).cache(_simulated)(seed, split, number, *options)
    image, clean = scan.image.astype(np.float32), scan.clean.astype(np.float32)
    view = _view(scan)
    tip, code = TipEstimator.of(folder, "", digest)(view, scan.evidence.astype(np.float32))
    surfaces = [image, *(erode(image, np.float32(factor) * tip) for factor in FACTORS)]
    squares = [np.mean(_inner(one - clean).astype(np.float64) ** 2) for one in surfaces]
    errors = np.log10(np.maximum(squares, _LEAST_SQUARE))
    return np.concatenate([candidate_facts(view, tip), code]), (errors[1:] - errors[0]).astype(np.float32)


class JudgeBatch(NamedTuple):
    """A batch for the network that judges tips.

    Parameters
    ----------
    facts
        ``(B, JUDGED_WIDTH)`` float32.
    errors
        ``(B, len(FACTORS))`` float32: decimal logarithm of each candidate's mean squared error over that of the image.
    """

    facts: Tensor
    errors: Tensor

    def to(self, device: torch.device) -> JudgeBatch:
        """The batch on a device."""
        return JudgeBatch(*(tensor.to(device, non_blocking=True) for tensor in self))


class JudgeSamples(_Scans):
    """Facts and errors: samples in the order of `JudgeBatch`."""

    def __init__(self, recipe: Recipe, split: Split) -> None:
        super().__init__(recipe, split)
        if not recipe.tips.tip_run:
            raise ParameterError(
                "tips.tip_run: empty; expected the run of the recipe 'tip', whose tips are judged. Name it with --set."
            )
        self._digest = digest_of(recipe.tips.tip_run)
        self._judge = self._memory.cache(_judged)

    def __getitem__(self, key: tuple[int, int]) -> tuple[Tensor, ...]:
        """One sample, without the batch axis."""
        recipe, number = self.recipe, self._number(key)
        told = (recipe.tips.tip_run, self._digest, recipe.training.seed, int(self.split), number, self._drawn)
        facts, errors = self._judge(*told, recipe.data.cache)
        return torch.from_numpy(facts), torch.from_numpy(errors)


class ScanCrops(_Scans):
    """Crops of scans: samples in the order of `ScanBatch`."""

    def __init__(self, recipe: Recipe, split: Split) -> None:
        super().__init__(recipe, split)
        network = recipe.network
        self.with_tip = isinstance(network, RestorerNetworkOptions) and network.with_tip
        self._digest = digest_of(recipe.tips.tip_run, recipe.tips.judge_run) if self.with_tip else ""
        self._tell = self._memory.cache(_told)

    def __getitem__(self, key: tuple[int, int]) -> tuple[Tensor, ...]:
        """One sample, without the batch axis."""
        number = self._number(key)
        scan = self._scan(number)
        rng, mirror = self._stream(key)
        channels: list[NDArray[Any]] = [scan.image]
        code = np.zeros(0, np.float32)
        if self.with_tip:
            recipe = self.recipe
            runs = (recipe.tips.tip_run, recipe.tips.judge_run, self._digest)
            told = (*runs, recipe.training.seed, int(self.split), number, self._drawn)
            further, code = self._tell(*told, recipe.data.cache)
            channels += list(further)
            mirror = 0  # the code of a mirrored scan would have to be asked for anew
        crop = self._crop(rng, scan.image.shape)
        cut = [np.flip(one, _MIRRORS[mirror])[crop].astype(np.float32) for one in (*channels, scan.clean, scan.touched)]
        image = np.stack(cut[:-2] + [np.zeros_like(cut[0])] * self.with_tip)
        if self.with_tip:
            image[-1].flat[: len(code)] = code
        clean, touched = (torch.from_numpy(one.copy())[None] for one in cut[-2:])
        return torch.from_numpy(image), clean, touched, torch.tensor(scan.family)

    def _crop(self, rng: np.random.Generator, shape: tuple[int, ...]) -> tuple[slice, slice]:
        """Anywhere; beyond the frame on purpose, so that a fifth of the crops shows a border of the image."""
        side = self.recipe.data.crop_px
        starts = []
        for length in shape:
            most = length - side
            starts.append(int(np.clip(rng.integers(-most // 8 - 1, most + most // 8 + 2), 0, most)))
        return slice(starts[0], starts[0] + side), slice(starts[1], starts[1] + side)

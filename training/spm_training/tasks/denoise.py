"""Training of the networks that take noise away, on simulated images of lattices: whole images, and patches.

What decides is the error against the clean image, whatever a network was taught.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from spm_training.data import Split
from spm_training.graphs.denoise import DenoiserGraph, PatchGraph
from spm_training.networks.cae import (
    CaeA,
    CaeB,
    CaeTwin,
    CaeVae,
    PatchDenoiser,
    PatchOutput,
    TwinOutput,
    VaeOutput,
    divergence,
)
from spm_training.networks.denoiser import DenoiserNet
from spm_training.recipe import CaeNetworkOptions, DenoiserNetworkOptions, Recipe
from spm_training.restore_losses import structural_similarity
from spm_training.tasks._task import stacked
from spm_training.tasks.lattice_images import CropBatch, LatticeCrops, LatticePatches, PatchBatch

__all__ = ["CaeTask", "DenoiserTask"]

_NETWORKS: dict[str, type[CaeA | CaeB]] = {"cae-a": CaeA, "cae-b": CaeB, "cae-twin": CaeTwin, "cae-vae": CaeVae}
#: The figures that a network has beside the quality of its images, and which of them a person reads.
_MORE: dict[str, tuple[str, ...]] = {"cae-twin": ("centred_mse", "offset_px", "near"), "cae-vae": ("kl",)}
_MORE_SHOWN: dict[str, tuple[str, ...]] = {"cae-twin": ("offset_px", "near"), "cae-vae": ("kl",)}
#: An offset is right when it is this near, in pixels.
_NEAR_PX = 1.0


class _Denoising:
    """How images without noise are judged.

    PSNR and SSIM are those of an image in which an atom in the plane has height 1, as in `spm_training.peers.denoise_scores`.
    """

    def __init__(self, recipe: Recipe) -> None:
        self.recipe = recipe

    @property
    def sum_names(self) -> tuple[str, ...]:
        """Names of what `validation_sums` adds up, in order."""
        return ("images", "loss", "clean_mse", "noise_mse", "psnr", "gain", "ssim")

    @property
    def shown(self) -> tuple[str, ...]:
        """What a person reads after every epoch, and on the card."""
        return ("psnr", "gain", "ssim")

    def _quality_sums(self, loss: Tensor, found: Tensor, batch: CropBatch | PatchBatch) -> list[float]:
        images, clean = len(batch.image), batch.clean
        squares, before = (((one - clean) ** 2).mean(dim=(1, 2, 3)) for one in (found, batch.image))
        psnr, psnr_before = (
            -10 * torch.log10((one / batch.height**2).clamp(min=1e-10)) for one in (squares, before)
        )  # fmt: skip
        # SSIM compares brightness, which is not negative: the lowest point of the clean image counts as black.
        black, height = clean.amin(dim=(1, 2, 3), keepdim=True), batch.height[:, None, None, None]
        ssim = structural_similarity((found - black) / height, (clean - black) / height)
        columns = (squares, before, psnr, psnr - psnr_before, ssim)
        return [float(images), images * float(loss), *(float(one.sum()) for one in columns)]

    def validation_metrics(self, sums: list[float]) -> dict[str, float]:
        """Figures of merit, means over the images: ``gain`` is that in PSNR over the image as it was, in dB."""
        by_name = dict(zip(self.sum_names, sums, strict=True))
        images = by_name.pop("images")
        return {name: value / images for name, value in by_name.items()}

    def _target(self, batch: CropBatch | PatchBatch) -> Tensor:
        return batch.clean if self.recipe.lattices.target == "clean" else batch.image

    @staticmethod
    def _pictures(maps: Sequence[Tensor], clean: Tensor) -> NDArray[np.float32]:
        """Rows of maps side by side, each row on the grey scale of its clean image."""
        rows = []
        for number in range(min(len(clean), 6)):
            truth = clean[number, 0].float().cpu().numpy()
            low, high = float(truth.min()), max(float(truth.max()), float(truth.min()) + 1e-6)
            row = [np.clip((one[number, 0].float().cpu().numpy() - low) / (high - low), 0, 1) for one in maps]
            rows.append(np.concatenate(row, axis=1))
        return np.concatenate(rows).astype(np.float32)


class DenoiserTask(_Denoising):
    """Crops of images through `DenoiserNet`.

    Parameters
    ----------
    recipe
        The resolved recipe.
    """

    @property
    def input_shape(self) -> tuple[int, ...]:
        """One crop, and what is seen beside it."""
        return 1 + len(self._options.windows_px), self.recipe.data.crop_px, self.recipe.data.crop_px

    @property
    def _options(self) -> DenoiserNetworkOptions:
        options = self.recipe.network
        if not isinstance(options, DenoiserNetworkOptions):
            raise TypeError(f"network options of kind {options.kind!r} for the task of denoising images")
        return options

    def build_network(self) -> DenoiserNet:
        """The network with fresh weights from torch's global generator."""
        options = self._options
        return DenoiserNet(options.base_width, options.depth, fold_px=options.fold_px, windows_px=options.windows_px)

    def graph(self, network: DenoiserNet) -> DenoiserGraph:
        """The network as it is exported."""
        return DenoiserGraph(network)

    def dataset(self, split: Split) -> LatticeCrops:
        """Samples of a split."""
        return LatticeCrops(self.recipe, split, self._options.windows_px)

    def collate(self, samples: Sequence[tuple[Tensor, ...]]) -> CropBatch:
        """A batch from samples."""
        return CropBatch(*stacked(samples))

    def inputs(self, batch: CropBatch) -> Tensor:
        """The images, and what is seen beside them."""
        return torch.cat((batch.image, batch.beside), dim=1)

    def loss(self, output: Tensor, batch: CropBatch) -> dict[str, Tensor]:
        """``loss``: the mean squared error, and ``squares``, the same in units of the view.

        With a `LossOptions.relative_floor` the errors of an image count in units of its noise: without, the noisiest images are
        all that matters, and those with little noise keep most of it. With an ``irregular_weight`` the pixels count more where
        the surface does not repeat: without, vacancies and adatoms fade.
        """
        errors = (output - self._target(batch)) ** 2
        if weight := self.recipe.loss.irregular_weight:
            off = (batch.clean - batch.beside[:, :1]) / batch.height[:, None, None, None]
            errors = errors * (1 + weight * (off**2).clamp(max=1))
        squares = errors.mean(dim=(1, 2, 3))
        floor = self.recipe.loss.relative_floor
        unit = ((batch.image - batch.clean) ** 2).mean(dim=(1, 2, 3)) + floor**2 if floor else torch.ones_like(squares)
        return {"loss": (squares / unit).mean(), "squares": squares.mean()}

    def validation_sums(self, output: Tensor, batch: CropBatch) -> list[float]:
        """Sums over the images, in the order of `sum_names`."""
        return self._quality_sums(self.loss(output, batch)["loss"], output, batch)

    def pictures(self, output: Tensor, batch: CropBatch) -> dict[str, NDArray[np.float32]]:
        """Image, answer and clean image side by side."""
        return {"image_answer_clean": self._pictures((batch.image, output, batch.clean), batch.clean)}


class CaeTask(_Denoising):
    """Patches of images through the autoencoders of the USC study: with one decoder as printed, with two, or variational.

    Parameters
    ----------
    recipe
        The resolved recipe; ``data.crop_px`` has no say.
    """

    @property
    def _network(self) -> type[CaeA | CaeB]:
        options = self.recipe.network
        if not isinstance(options, CaeNetworkOptions):
            raise TypeError(f"network options of kind {options.kind!r} for the task of denoising patches")
        return _NETWORKS[options.kind]

    @property
    def sum_names(self) -> tuple[str, ...]:
        """With the errors of the second decoder where there is one, or the divergence of the latents in nats."""
        return super().sum_names + _MORE.get(self.recipe.network.kind, ())

    @property
    def shown(self) -> tuple[str, ...]:
        """With the offset, in pixels, and the share of those that are right, or the divergence."""
        return super().shown + _MORE_SHOWN.get(self.recipe.network.kind, ())

    @property
    def input_shape(self) -> tuple[int, ...]:
        """One patch."""
        return 1, self._network.SIDE_PX, self._network.SIDE_PX

    def build_network(self) -> PatchDenoiser:
        """The network with fresh weights from torch's global generator."""
        return PatchDenoiser(self._network())

    def graph(self, network: PatchDenoiser) -> PatchGraph:
        """The network as it is exported."""
        return PatchGraph(network)

    def dataset(self, split: Split) -> LatticePatches:
        """Samples of a split."""
        return LatticePatches(self.recipe, split, self._network.SIDE_PX)

    def collate(self, samples: Sequence[tuple[Tensor, ...]] | PatchBatch) -> PatchBatch:
        """A batch from samples, or the batch that the data set made at once."""
        return samples if isinstance(samples, PatchBatch) else PatchBatch(*stacked(samples))

    def inputs(self, batch: PatchBatch) -> Tensor:
        """The patches."""
        return batch.image

    def loss(self, output: PatchOutput | TwinOutput | VaeOutput, batch: PatchBatch) -> dict[str, Tensor]:
        """``loss``: the mean squared error in units of the view; its terms where there are more.

        The error of the offset is Huber's, in pixels: halfway between two atoms nobody can say which is nearer. The divergence
        ``kl`` is the mean over the patches in nats; it counts per pixel, as the squared error does.
        """
        squares = functional.mse_loss(output.denoised, self._target(batch))
        if isinstance(output, PatchOutput):
            return {"loss": squares}
        if isinstance(output, VaeOutput):
            kl = divergence(output.latent, output.log_variance).sum(dim=1).mean()
            return {
                "loss": squares + self.recipe.loss.kl_weight * kl / batch.image[0].numel(),
                "squares": squares,
                "kl": kl,
            }
        centred = functional.mse_loss(output.centred, batch.centred)
        offset = functional.smooth_l1_loss(output.offset_yx_px, batch.offset_yx_px)
        weights = self.recipe.loss
        total = squares + weights.centred_weight * centred + weights.offset_weight * offset
        return {"loss": total, "squares": squares, "centred": centred, "offset": offset}

    def validation_sums(self, output: PatchOutput | TwinOutput | VaeOutput, batch: PatchBatch) -> list[float]:
        """Sums over the patches, in the order of `sum_names`."""
        terms = self.loss(output, batch)
        sums = self._quality_sums(terms["loss"], output.denoised, batch)
        if isinstance(output, PatchOutput):
            return sums
        if isinstance(output, VaeOutput):
            return [*sums, len(batch.image) * float(terms["kl"])]
        centred = ((output.centred - batch.centred) ** 2).mean(dim=(1, 2, 3))
        away = (output.offset_yx_px - batch.offset_yx_px).norm(dim=1)
        return [*sums, float(centred.sum()), float(away.sum()), float((away <= _NEAR_PX).sum())]

    def pictures(
        self, output: PatchOutput | TwinOutput | VaeOutput, batch: PatchBatch
    ) -> dict[str, NDArray[np.float32]]:
        """Patch, answer and clean patch side by side; of two decoders also the centred one and its truth."""
        maps: list[Any] = [batch.image, output.denoised, batch.clean]
        if isinstance(output, TwinOutput):
            maps += [output.centred, batch.centred]
        return {"patch_answer_clean": self._pictures(maps, batch.clean)}

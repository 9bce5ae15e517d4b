"""The package of a network that takes noise away, from whole images or from patches."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from spm_kernels import PatchGrid, extract_patches
from spm_runtime.models import ModelPackage
from spm_runtime.pipelines.denoise_view import BEYOND_PERCENT, denoise_view
from spm_runtime.pipelines.fourier_wiener import with_filtered
from spm_training.data import Split, rng_for
from spm_training.denoise.evaluate import LatticeScore, package_denoiser
from spm_training.denoise.report import DenoiseReport, score_denoiser
from spm_training.denoise.scenes import DENOISE_SEED, DenoiseOptions
from spm_training.networks.cae import CaeA, CaeB
from spm_training.packages.task import Attached, InputSpec, PackagedTask, UserParameter
from spm_training.recipe import CaeNetworkOptions, DenoiserNetworkOptions
from spm_training.restore.report import Subject
from spm_training.run import RunFolder
from spm_training.simulate.stm_lattices import NOISE_LEVELS, simulate_lattice
from spm_training.tasks.lattice_images import PATCH_STRIDE_PX

__all__ = ["DenoisePackage"]

#: Least height and width of the stored test input of a network of images: not square, so that an exchange of the axes shows.
_TEST_PX = (96, 144)
#: Batch, rows and columns in strides of the inputs on which torch and the runtime are compared.
_CHECKED = ((1, 1, 1), (1, 7, 3), (3, 4, 4), (1, 9, 12))
#: The same of patches: batches.
_CHECKED_PATCHES = (1, 7, 512)
_USC = {
    "text": "P. Binev, J. Moorehead, A. Parambath, L. Parrella, R. Pumphrey, M. Savu: STM image analysis using autoencoders, "
    "University of South Carolina, 2024",
    "url": "https://sc.edu/",
}
_DNCNN = {
    "text": "K. Zhang, W. Zuo, Y. Chen, D. Meng, L. Zhang: Beyond a Gaussian denoiser: residual learning of deep CNN for image "
    "denoising, IEEE Trans. Image Process. 26 (2017) 3142",
    "doi": "10.1109/TIP.2017.2662206",
}


class DenoisePackage(PackagedTask):
    """A network that takes noise away: of kind ``image`` or of kind ``patch``."""

    CITATIONS = (_DNCNN, _USC)
    TAGS = ("denoising", "lattices")
    ATTACHABLE = ()

    @property
    def _side_px(self) -> int | None:
        """Side of a patch; None for a network of images."""
        options = self.recipe.network
        if not isinstance(options, CaeNetworkOptions):
            return None
        return CaeB.SIDE_PX if options.kind == "cae-b" else CaeA.SIDE_PX

    @property
    def _windows_px(self) -> tuple[int, ...]:
        """Sides of the windows of the filter beside which the network sees a scan."""
        options = self.recipe.network
        return options.windows_px if isinstance(options, DenoiserNetworkOptions) else ()

    @property
    def input(self) -> InputSpec:
        """A scan, or a patch of it, in units of its relief; the scan filtered beside it."""
        what = "The scan" if self._side_px is None else "A patch of the scan"
        beside = "; then the same, filtered" if self._windows_px else ""
        return InputSpec(
            f"{what} less its plane and the levels of its terraces, in units of its relief{beside}.",
            ("image", *(f"fourier_wiener_{side}" for side in self._windows_px)),
            (None, None),
            {"function": "spm_runtime.pipelines.denoise_view.denoise_view", "beyond_percent": BEYOND_PERCENT},
        )

    @property
    def parameters(self) -> Mapping[str, UserParameter]:
        """None: nothing is left to choose."""
        return {}

    @property
    def extra(self) -> Mapping[str, Any]:
        """Nothing beyond the settings."""
        return {}

    @property
    def purpose(self) -> str:
        """What it may be used for and what it was trained on."""
        card, lattices = self.recipe.card, self.recipe.lattices
        modalities = ", ".join(modality.upper() for modality in card.modalities)
        others = f" and,\n{lattices.surfaces_share:.0%} of them, of other surfaces" if lattices.surfaces_share else ""
        return (
            f"For maps of any channel ({modalities}). Trained on simulated images of the lattices\n"
            f"{', '.join(lattices.taught)}{others}. Values keep their unit, offset and plane."
        )

    def score_meaning(self, *, calibrated: bool) -> str:
        """Of the values."""
        return "Values are in units of the scan's relief; the runtime gives them back their unit, offset and plane."

    def test_image(self) -> NDArray[np.float32]:
        """``(1, 1, H, W)`` of a simulated image, or one patch of it."""
        if self._side_px is not None:
            return self._patches(1, 1)
        stride = self.recipe.network.stride
        rows, columns = (-(-least // stride) * stride for least in _TEST_PX)
        return with_filtered(_seen(1, (rows, columns)), self._windows_px)[None]

    def check_images(self, stride: int) -> Iterator[NDArray[np.float32]]:
        """Pieces of one image."""
        if self._side_px is not None:
            for batch in _CHECKED_PATCHES:
                yield self._patches(0, batch)
            return
        batches, rows, columns = (max(column) for column in zip(*_CHECKED, strict=True))
        whole = with_filtered(_seen(0, ((rows + batches) * stride, columns * stride)), self._windows_px)
        for batch, high, wide in _CHECKED:
            starts = [number * stride for number in range(batch)]
            yield np.stack([whole[:, y : y + high * stride, : wide * stride] for y in starts])

    def _patches(self, number: int, batch: int) -> NDArray[np.float32]:
        """``(batch, 1, P, P)`` first patches of an image."""
        side = CaeA.SIDE_PX if self._side_px is None else self._side_px
        image = _seen(number, (128, 128))
        patches = extract_patches(image, PatchGrid(image.shape, (side, side), PATCH_STRIDE_PX))
        return np.ascontiguousarray(patches[:batch, None])

    def attach(self, runs: Mapping[str, RunFolder], *, half: bool) -> Attached:
        """No further networks; the settings that the pipeline asks for."""
        if self._side_px is None:
            return Attached({}, {"kind": "image", "windows_px": list(self._windows_px)})
        return Attached({}, {"kind": "patch", "patch_px": self._side_px, "stride_px": PATCH_STRIDE_PX})

    def evaluation(self, images: int) -> DenoiseOptions:
        """Images of every lattice and level of noise."""
        return DenoiseOptions(images=images)

    def scores(
        self, package: ModelPackage, evaluation: DenoiseOptions, on_image: Callable[[LatticeScore], object] | None
    ) -> DenoiseReport:
        """MSE, PSNR and SSIM against the clean image, and what is left of defects."""
        return score_denoiser(package_denoiser(package), evaluation, on_image=on_image, subject=Subject.of(package))


def _seen(number: int, shape: tuple[int, int]) -> NDArray[np.float32]:
    """``(H, W)`` a simulated image as the networks see it."""
    rng = rng_for(DENOISE_SEED, Split.VALIDATION, 1, number)
    scene = simulate_lattice(rng, "fcc", shape=shape, noise=NOISE_LEVELS["medium"], vacancies=0.02, adatoms=0.02)
    return denoise_view(scene.image).image

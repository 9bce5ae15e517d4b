"""The network that takes the noise of whole images away."""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn import functional

from spm_training.networks.unet import UNet

__all__ = ["DenoiserNet"]


class DenoiserNet(UNet):
    """Residual U-Net: what is taken away from an image is estimated, not the image.

    Source: K. Zhang et al., Beyond a Gaussian denoiser, IEEE Trans. Image Process. 26 (2017) 3142 (the residual), and FFDNet,
    ibid. 27 (2018) 4608 (pixels folded into channels: a quarter of the work, and twice the reach). Nobody tells it the strength
    of the noise: a lattice shows what is noise. Of what a filtered image lacks it says, pixel by pixel, which share is noise, and
    estimates only the rest: an estimate of all would be as coarse as the noise is strong.

    Parameters
    ----------
    base_width, depth
        As in `spm_training.networks.unet.UNet`, of the network on the folded image.
    fold_px
        Pixels along each axis that become channels; 1 folds nothing.
    windows_px
        Sides of the windows of `spm_runtime.pipelines.fourier_wiener`, whose answers it sees beside the image: what repeats over
        more periods than a pixel can see.
    """

    def __init__(
        self, base_width: int = 32, depth: int = 3, *, fold_px: int = 2, windows_px: tuple[int, ...] = ()
    ) -> None:
        super().__init__(base_width, depth, channels_in=(1 + len(windows_px)) * fold_px**2)
        self.windows_px = windows_px
        self.fold_px = fold_px
        self.stride = fold_px * self.stride
        self.head = nn.Conv2d(base_width, (1 + len(windows_px)) * fold_px**2, 3, padding=1)
        nn.init.zeros_(self.head.weight)
        nn.init.zeros_(self.head.bias)  # type: ignore[arg-type]

    @property
    def halo_px(self) -> int:
        """How far an output pixel looks in any direction, at most: the U-Net and the head on the folded image."""
        stride = self.stride // self.fold_px
        return self.fold_px * (4 * (stride - 1) + 2 * stride + stride - 1 + 1) + self.fold_px - 1

    def forward(self, image: Tensor) -> Tensor:
        """``(B, C, H, W)`` → the first channel without its noise, ``(B, 1, H, W)`` float32; H and W multiples of `stride`."""
        folded = functional.pixel_unshuffle(image, self.fold_px)
        said: Tensor = functional.pixel_shuffle(self.head(self.features(folded)[0]).float(), self.fold_px)
        scan, noise = image[:, :1].float(), said[:, :1]
        if self.windows_px:
            noise = noise + (said[:, 1:] * (scan - image[:, 1:].float())).sum(dim=1, keepdim=True)
        return scan - noise

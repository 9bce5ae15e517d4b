"""The first autoencoder of the UCL report: what any patch of a surface looks like, in a few numbers.

Source: UCL report, appendix A.1 (layers and parameters), section 2.1. Not printed there and chosen here: the rate of the
dropouts, and that both dense layers are linear. The batch norms have Keras' ε.

With context
------------
With zero padding a patch knows where it ends, and two overlapping windows share none of their convolutions. The version with
*context* reads the same layers as valid convolutions on the window and the 7 pixels around it:

=====================  ==========  ======  ======  ======  ======  ======  ======
layer                  input       conv 1  pool    conv 2  pool    conv 3  pool
=====================  ==========  ======  ======  ======  ======  ======  ======
side with context      46          44      22      20      10      8       4
side with zeros        32          32      16      16      8       8       4
=====================  ==========  ======  ======  ======  ======  ======  ======

Feature shape, parameters and decoder are the same, the weights are not: it must be trained with context. A feature then depends
on the image alone and not on the window that asks for it, so a whole image is encoded at once. Up to the third convolution
windows at stride 4 meet the same features; the last pool is taken at stride 1 instead of 2, and the dense layer becomes a 4 × 4
convolution whose taps lie 2 features apart.
"""

from __future__ import annotations

from typing import Self

from torch import Tensor, nn
from torch.nn import functional

__all__ = ["BATCH_NORM_EPS", "FEATURES", "MARGIN_PX", "SIDE_PX", "STRIDES", "Ae1", "joined", "windows_of"]

#: Side of a window in pixels. Source: UCL report, section 2.
SIDE_PX = 32
#: Context that the valid convolutions need on every side of a window: 1 + 2 + 4.
MARGIN_PX = 7
#: Strides at which `Ae1.encode_image` reads windows.
STRIDES = (4, 8, 16, 32)
#: Channels and side of the last features: 8192 numbers.
FEATURES = (512, 4)
#: What Keras adds to the variance, in which the report was computed.
BATCH_NORM_EPS = 1e-3


class Ae1(nn.Module):
    """Autoencoder of windows of 32 × 32 in [0, 1].

    Parameters
    ----------
    latent
        Size of the latent space: 16, 32, 64, 128 or 256 in the report, 32 for its pipeline.
    context
        Whether the encoder sees the 7 pixels around a window (see the module) or zeros, as printed.
    dropout
        Share of the features that is dropped in training, at both places.
    batch_statistics
        Whether the batch norms normalise by the batch in training; False keeps the running means and variances that they have,
        which suits few images a batch.

    Notes
    -----
    3,488,289 parameters at latent 32 as Keras counts them, four per channel of a batch norm; 2,304 of these are running means
    and variances, which torch calls buffers (a test counts all five sizes).
    """

    def __init__(
        self, latent: int = 32, *, context: bool = True, dropout: float = 0.1, batch_statistics: bool = True
    ) -> None:
        super().__init__()
        self.latent = latent
        self.context = context
        self.batch_statistics = batch_statistics
        padding = 0 if context else 1
        channels, side = FEATURES
        self.trunk = nn.Sequential(
            nn.Conv2d(1, 128, 3, padding=padding),
            nn.BatchNorm2d(128, eps=BATCH_NORM_EPS),
            nn.ReLU(inplace=True),
            nn.MaxPool2d(2),
            nn.Conv2d(128, 256, 3, padding=padding),
            nn.BatchNorm2d(256, eps=BATCH_NORM_EPS),
            nn.ReLU(inplace=True),
            nn.MaxPool2d(2),
            nn.Conv2d(256, channels, 3, padding=padding),
            nn.ReLU(inplace=True),
        )
        self.dropout = nn.Dropout(dropout)
        self.to_latent = nn.Linear(channels * side * side, latent)
        self.decoder = nn.Sequential(
            nn.Linear(latent, channels * side * side),
            nn.Unflatten(1, (channels, side, side)),
            nn.Upsample(scale_factor=2),
            nn.Conv2d(channels, 256, 3, padding=1),
            nn.BatchNorm2d(256, eps=BATCH_NORM_EPS),
            nn.ReLU(inplace=True),
            nn.Dropout(dropout),
            nn.Upsample(scale_factor=2),
            nn.Conv2d(256, 128, 3, padding=1),
            nn.BatchNorm2d(128, eps=BATCH_NORM_EPS),
            nn.ReLU(inplace=True),
            nn.Upsample(scale_factor=2),
            nn.Conv2d(128, 1, 3, padding=1),
        )

    def train(self, mode: bool = True) -> Self:
        """As of every module; the batch norms stay in evaluation mode where they are to keep what they know."""
        super().train(mode)
        if not self.batch_statistics:
            for module in self.modules():
                if isinstance(module, nn.BatchNorm2d):
                    module.eval()
        return self

    @property
    def margin_px(self) -> int:
        """Pixels of context that the input has on every side."""
        return MARGIN_PX if self.context else 0

    def encode(self, windows: Tensor) -> Tensor:
        """``(N, 1, 32 + 2 margin_px, 32 + 2 margin_px)`` → ``(N, latent)``."""
        features = functional.max_pool2d(self.trunk(windows), 2)  # (N, 512, 4, 4)
        latent: Tensor = self.to_latent(self.dropout(features).flatten(1))
        return latent

    def encode_image(self, image: Tensor, stride_px: int) -> Tensor:
        """Latents of all windows of an image at once.

        Parameters
        ----------
        image
            ``(B, 1, H + 14, W + 14)`` with its context; H and W at least 32.
        stride_px
            Distance of the windows, one of `STRIDES`.

        Returns
        -------
        ``(B, latent, (H − 32) // stride + 1, (W − 32) // stride + 1)``: at ``[r, c]`` that of the window whose first pixel,
        without context, is ``(stride · r, stride · c)``.

        Raises
        ------
        ValueError
            If the network was made without context, or the stride is none of `STRIDES`.
        """
        if not self.context:
            raise ValueError("a network without context does not share its convolutions: encode windows one by one")
        if stride_px not in STRIDES:
            raise ValueError(f"stride_px {stride_px}: expected one of {STRIDES}")
        fine = stride_px == STRIDES[0]
        features = self.dropout(functional.max_pool2d(self.trunk(image), 2, stride=1 if fine else 2))
        weight = self.to_latent.weight.view(self.latent, FEATURES[0], FEATURES[1], FEATURES[1])
        step, apart = (1, 2) if fine else (stride_px // 8, 1)
        return functional.conv2d(features, weight, self.to_latent.bias, stride=step, dilation=apart)

    def encode_side_by_side(self, image: Tensor) -> Tensor:
        """``(B, 1, 32 R + 2 margin_px, 32 C + 2 margin_px)`` → ``(B, R, C, latent)``: windows that do not overlap."""
        if self.context:
            return self.encode_image(image, SIDE_PX).permute(0, 2, 3, 1)
        batch, _, height, width = image.shape
        return self.encode(windows_of(image)).reshape(batch, height // SIDE_PX, width // SIDE_PX, self.latent)

    def decode(self, latent: Tensor) -> Tensor:
        """``(N, latent)`` → ``(N, 1, 32, 32)`` in [0, 1]."""
        # float32 also under autocast: eight bits of a sigmoid near 1 are worse than the error to be learned.
        answer: Tensor = self.decoder(latent)
        return answer.float().sigmoid()

    def forward(self, image: Tensor) -> Tensor:
        """Every image from its windows, which lie side by side.

        Parameters
        ----------
        image
            ``(B, 1, H + 2 margin_px, W + 2 margin_px)``; H and W multiples of 32.

        Returns
        -------
        ``(B, 1, H, W)`` in [0, 1].
        """
        latent = self.encode_side_by_side(image)
        return joined(self.decode(latent.flatten(0, 2)), *latent.shape[1:3])


def windows_of(image: Tensor) -> Tensor:
    """Cut ``(B, 1, 32 R, 32 C)`` images into ``(B · R · C, 1, 32, 32)`` windows, row by row."""
    batch, _, height, width = image.shape
    tiles = image.reshape(batch, height // SIDE_PX, SIDE_PX, width // SIDE_PX, SIDE_PX)
    return tiles.transpose(2, 3).reshape(-1, 1, SIDE_PX, SIDE_PX)


def joined(windows: Tensor, rows: int, columns: int) -> Tensor:
    """Put the windows of `windows_of` together again: ``(B · R · C, 1, 32, 32)`` → ``(B, 1, 32 R, 32 C)``."""
    tiles = windows.reshape(-1, rows, columns, SIDE_PX, SIDE_PX).transpose(2, 3)
    return tiles.reshape(-1, 1, rows * SIDE_PX, columns * SIDE_PX)

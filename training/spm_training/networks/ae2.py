"""The second autoencoder of the UCL report: what a defect looks like, in eight numbers.

Source: UCL report, appendix A.2 (layers and parameters), section 2.4.1. Not printed there and chosen here: the rate of the
dropouts; ReLU after both dense layers of 256; Keras' ε in the batch norms.
"""

from __future__ import annotations

from torch import Tensor, nn

from spm_training.networks.ae1 import BATCH_NORM_EPS, FEATURES

__all__ = ["Ae2"]


class Ae2(nn.Module):
    """Autoencoder of patches of 32 × 32, each scaled to [0, 1] by its own extremes.

    Parameters
    ----------
    latent
        Size of the latent space.
    hidden
        Size of the dense layers on either side of it.
    dropout
        Share of the features that is dropped in training, at both places.

    Notes
    -----
    5,671,945 parameters at the sizes of the report as Keras counts them, four per channel of a batch norm (a test counts them).
    """

    def __init__(self, latent: int = 8, *, hidden: int = 256, dropout: float = 0.1) -> None:
        super().__init__()
        self.latent = latent
        channels, side = FEATURES
        self.encoder = nn.Sequential(
            nn.Conv2d(1, 64, 5, padding=2),
            nn.BatchNorm2d(64, eps=BATCH_NORM_EPS),
            nn.ReLU(inplace=True),
            nn.MaxPool2d(2),
            nn.Conv2d(64, 128, 3, padding=1),
            nn.BatchNorm2d(128, eps=BATCH_NORM_EPS),
            nn.ReLU(inplace=True),
            nn.MaxPool2d(2),
            nn.Conv2d(128, channels, 3, padding=1),
            nn.BatchNorm2d(channels, eps=BATCH_NORM_EPS),
            nn.ReLU(inplace=True),
            nn.MaxPool2d(2),  # (N, 512, 4, 4)
            nn.Dropout(dropout),
            nn.Flatten(),
            nn.Linear(channels * side * side, hidden),
            nn.ReLU(inplace=True),
            nn.Linear(hidden, latent),
        )
        self.decoder = nn.Sequential(
            nn.Linear(latent, hidden),
            nn.ReLU(inplace=True),
            nn.Linear(hidden, channels * side * side),
            nn.Unflatten(1, (channels, side, side)),
            nn.Upsample(scale_factor=2),
            nn.Conv2d(channels, 128, 3, padding=1),
            nn.BatchNorm2d(128, eps=BATCH_NORM_EPS),
            nn.ReLU(inplace=True),
            nn.Dropout(dropout),
            nn.Upsample(scale_factor=2),
            nn.Conv2d(128, 64, 5, padding=2),
            nn.BatchNorm2d(64, eps=BATCH_NORM_EPS),
            nn.ReLU(inplace=True),
            nn.Upsample(scale_factor=2),
            nn.Conv2d(64, 1, 3, padding=1),
        )

    def encode(self, patch: Tensor) -> Tensor:
        """``(N, 1, 32, 32)`` → ``(N, latent)``."""
        latent: Tensor = self.encoder(patch)
        return latent

    def decode(self, latent: Tensor) -> Tensor:
        """``(N, latent)`` → ``(N, 1, 32, 32)`` in [0, 1]."""
        answer: Tensor = self.decoder(latent)
        return answer.float().sigmoid()  # float32 also under autocast, as in `Ae1`

    def forward(self, patch: Tensor) -> Tensor:
        """``(N, 1, 32, 32)`` → the same shape."""
        return self.decode(self.encode(patch))

"""The first autoencoder with what other losses than the squared error need in training: latents, other views, a coarser image.

Weights and answers are those of `spm_training.networks.ae1.Ae1`; a study asks what each loss is worth.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional

from spm_training.networks.ae1 import SIDE_PX, Ae1, joined

__all__ = ["Ae1Views", "Ae1ViewsOutput", "turned", "turned_back"]

#: The symmetries of a square other than leaving it as it is.
_SYMMETRIES = 7


class Ae1ViewsOutput(NamedTuple):
    """The answer in training; N windows, row by row of the images.

    Parameters
    ----------
    image
        ``(B, 1, H, W)`` in [0, 1].
    latent
        ``(N, D)``.
    view
        ``(N, D)`` latents of the same windows, turned or mirrored; ``(0, D)`` where none was asked for.
    coarse_error
        ``(B,)`` mean squared error of the middle of the image at half of the resolution; ``(0,)`` where it was not asked for.
    """

    image: Tensor
    latent: Tensor
    view: Tensor
    coarse_error: Tensor


class Ae1Views(Ae1):
    """`Ae1` that says more in training, and the same in evaluation.

    Parameters
    ----------
    latent, context, dropout, batch_statistics
        As of `Ae1`.
    view
        Encode a turned or mirrored view of the images too.
    view_noise
        Standard deviation of the white noise that is added to the view.
    coarse
        Reconstruct the images at half of the resolution too.
    """

    def __init__(
        self,
        latent: int = 32,
        *,
        context: bool = True,
        dropout: float = 0.1,
        batch_statistics: bool = True,
        view: bool = False,
        view_noise: float = 0.0,
        coarse: bool = False,
    ) -> None:
        super().__init__(latent, context=context, dropout=dropout, batch_statistics=batch_statistics)
        self.view = view
        self.view_noise = view_noise
        self.coarse = coarse

    def forward(self, image: Tensor) -> Tensor | Ae1ViewsOutput:  # type: ignore[override]
        """As `Ae1` in evaluation; in training with what the losses need, of square images."""
        if not self.training:
            return super().forward(image)
        latent = self.encode_side_by_side(image)
        flat = latent.flatten(0, 2)
        answer = joined(self.decode(flat), *latent.shape[1:3])
        view = self._view(image) if self.view else flat[:0]
        return Ae1ViewsOutput(answer, flat, view, self._coarse(image) if self.coarse else image.new_zeros(0))

    def _view(self, image: Tensor) -> Tensor:
        # On the CPU wherever the network is: a checkpoint keeps the state of that generator alone.
        symmetry = 1 + int(torch.randint(_SYMMETRIES, (), device="cpu"))
        seen = turned(image, symmetry)
        if self.view_noise:
            seen = seen + self.view_noise * torch.randn_like(seen)
        latent = self.encode_side_by_side(seen)  # (B, R, C, D)
        return turned_back(latent.permute(0, 3, 1, 2), symmetry).permute(0, 2, 3, 1).flatten(0, 2)

    def _coarse(self, image: Tensor) -> Tensor:
        small = functional.avg_pool2d(image, 2)
        side = (small.shape[-1] - 2 * self.margin_px) // SIDE_PX * SIDE_PX
        first = (small.shape[-1] - side) // 2  # of the pixels to be reconstructed
        outer = slice(first - self.margin_px, first + side + self.margin_px)
        latent = self.encode_side_by_side(small[..., outer, outer])
        answer = joined(self.decode(latent.flatten(0, 2)), *latent.shape[1:3])
        inner = slice(first, first + side)
        return (answer - small[..., inner, inner].float()).square().mean(dim=(1, 2, 3))


def turned(image: Tensor, symmetry: int) -> Tensor:
    """``(B, C, H, W)`` by one of the eight symmetries of a square: quarter turns, from 4 on with a mirror after them."""
    out = torch.rot90(image, symmetry % 4, (-2, -1))
    return out.flip(-1) if symmetry >= 4 else out


def turned_back(image: Tensor, symmetry: int) -> Tensor:
    """Undo `turned`."""
    out = image.flip(-1) if symmetry >= 4 else image
    return torch.rot90(out, -(symmetry % 4), (-2, -1))

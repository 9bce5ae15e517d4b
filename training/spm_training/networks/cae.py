"""The two patch autoencoders of the USC study, with ten numbers between encoder and decoder, and what was made of the first.

Source: USC report, sections 4.1.1 (CAE-A) and 4.1.2 (CAE-B). Nothing stands between the encoder's dense layer and the decoder's,
as printed: the latent numbers are linear in the last features.

Whole images
------------
With zero padding a patch knows where it ends, and two patches share none of their convolutions. Read the same weights as *valid*
convolutions on a patch with its context and they are shared: a feature then depends on the image and not on the patch that
asks for it, so the encoder runs once over the whole image.

=======  ======================  ====================  ================================================================
network  patch with context      reach in pixels       features of the whole image
=======  ======================  ====================  ================================================================
CAE-A    22 × 22 (3 + 16 + 3)    1 + 2                 every 4 pixels, the printed stride of the patches: the dense layer
                                                       becomes a 4 × 4 convolution from 9 to 10 channels
CAE-B    46 × 46 (15 + 16 + 15)  1 + 2 + 4 + 8         every 16 pixels: patches at stride 4 take 16 shifted runs
=======  ======================  ====================  ================================================================

Shapes and parameters stay the same, the weights do not: a network trained with zero padding must be trained anew with
context, because the outermost features of every patch have seen zeros where context would stand. The decoders work on each
patch, whatever the encoder saw; `spm_kernels.map_patches` (``margin_px``) brings the windows and blends the answers.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor, nn

__all__ = [
    "LATENT",
    "VIEW_REACH",
    "CaeA",
    "CaeB",
    "CaeTwin",
    "CaeVae",
    "PatchDenoiser",
    "PatchOutput",
    "Scaled",
    "TwinOutput",
    "VaeOutput",
    "divergence",
    "scaled",
]

#: Size of the latent space. Source: USC report, section 4.1.
LATENT = 10


#: Values of a `spm_runtime.pipelines.denoise_view.DenoiseView` that become the ends of a network's range: the view is linear that
#: far, and an image with white noise just reaches it.
VIEW_REACH = 1.0


class Scaled(NamedTuple):
    """Images on a fixed range, and what undoes it: ``image * gain + offset``.

    Parameters
    ----------
    image
        ``(B, 1, H, W)``.
    gain, offset
        ``(B, 1, 1, 1)`` in the unit of the input.
    """

    image: Tensor
    gain: Tensor
    offset: Tensor


def scaled(image: Tensor, low: float, high: float) -> Scaled:
    """Scale every image by its own extremes.

    Parameters
    ----------
    image
        ``(B, 1, H, W)``, whole images: patches of one image share its scale.
    low, high
        The new range: −1 to 1 for `CaeA` (USC report, equation 1), 0 to 1 for `CaeB`.

    Returns
    -------
    The images and the way back; a constant image becomes the middle of the range.
    """
    smallest, largest = image.amin(dim=(1, 2, 3), keepdim=True), image.amax(dim=(1, 2, 3), keepdim=True)
    gain = (largest - smallest) / (high - low)
    gain = torch.where(gain > 0, gain, torch.ones_like(gain))
    offset = (largest + smallest) / 2 - gain * ((high + low) / 2)
    return Scaled((image - offset) / gain, gain, offset)


class CaeA(nn.Module):
    """The shallow network, for patches of 17 × 17 in [−1, 1].

    Notes
    -----
    6,212 parameters (a test counts them). The pooling drops the last row and column of 17, as PyTorch's does by default.
    """

    #: Side of a patch in pixels.
    SIDE_PX = 17
    #: Range of the input.
    RANGE = (-1.0, 1.0)

    def __init__(self) -> None:
        super().__init__()
        self.encoder = nn.Sequential(
            nn.Conv2d(1, 16, 3, padding=1),
            nn.ReLU(inplace=True),
            nn.MaxPool2d(2),  # (B, 16, 8, 8)
            nn.Conv2d(16, 9, 3, padding=1),
            nn.ReLU(inplace=True),
            nn.MaxPool2d(2),  # (B, 9, 4, 4)
            nn.Flatten(),
            nn.Linear(144, LATENT),
        )
        self.decoder = nn.Sequential(
            nn.Linear(LATENT, 144),
            nn.Unflatten(1, (9, 4, 4)),
            nn.ConvTranspose2d(9, 16, 3, stride=2),
            nn.ReLU(inplace=True),  # (B, 16, 9, 9)
            nn.ConvTranspose2d(16, 1, 5, stride=2, padding=2),
        )

    def encode(self, patch: Tensor) -> Tensor:
        """``(B, 1, 17, 17)`` → ``(B, 10)``."""
        latent: Tensor = self.encoder(patch)
        return latent

    def decode(self, latent: Tensor) -> Tensor:
        """``(B, 10)`` → ``(B, 1, 17, 17)``, linear: not clipped to the range of the input."""
        patch: Tensor = self.decoder(latent)
        return patch

    def forward(self, patch: Tensor) -> Tensor:
        """``(B, 1, 17, 17)`` → the same shape."""
        return self.decode(self.encode(patch))


class CaeB(nn.Module):
    """The deep network, for patches of 16 × 16 in [0, 1].

    Notes
    -----
    22,979 parameters (a test counts them). As printed, four transposed convolutions of stride 2 lead from 2 × 2 to 32 × 32 with
    four channels, which is no patch. Here the first three have stride 2 (2 → 4 → 8 → 16), and the last one has stride 1 and one
    channel.

    The clipped ReLU at the end is the printed one: what is higher than the relief is cut to 1, what is lower to 0. With the
    report's scale, the extremes of an image, nothing is beyond. `PatchDenoiser` scales by percentiles, so of the few pixels
    beyond its reach (the top of a protrusion on an otherwise flat scan) the height is lost.
    """

    #: Side of a patch in pixels.
    SIDE_PX = 16
    #: Range of the input and of the output.
    RANGE = (0.0, 1.0)

    def __init__(self) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        for before, after in ((1, 32), (32, 24), (24, 16), (16, 8)):
            layers += [nn.Conv2d(before, after, 3, padding=1), nn.LeakyReLU(0.01, inplace=True), nn.MaxPool2d(2)]
        self.encoder = nn.Sequential(*layers, nn.Flatten(), nn.Linear(8, LATENT))
        last = nn.ConvTranspose2d(8, 1, 3, padding=1)
        # The clipped ReLU passes no gradient outside its range: begin in the middle of it.
        last.register_parameter("bias", nn.Parameter(torch.full((1,), 0.5)))
        self.decoder = nn.Sequential(
            nn.Linear(LATENT, 96),
            nn.Unflatten(1, (24, 2, 2)),
            nn.ConvTranspose2d(24, 24, 3, stride=2, padding=1, output_padding=1),
            nn.LeakyReLU(0.01, inplace=True),  # (B, 24, 4, 4)
            nn.ConvTranspose2d(24, 16, 3, stride=2, padding=1, output_padding=1),
            nn.BatchNorm2d(16),
            nn.LeakyReLU(0.01, inplace=True),  # (B, 16, 8, 8)
            nn.ConvTranspose2d(16, 8, 3, stride=2, padding=1, output_padding=1),
            nn.LeakyReLU(0.01, inplace=True),  # (B, 8, 16, 16)
            last,
        )

    def encode(self, patch: Tensor) -> Tensor:
        """``(B, 1, 16, 16)`` → ``(B, 10)``."""
        latent: Tensor = self.encoder(patch)
        return latent

    def decode(self, latent: Tensor) -> Tensor:
        """``(B, 10)`` → ``(B, 1, 16, 16)`` in [0, 1]."""
        patch: Tensor = self.decoder(latent)
        return patch.clamp(0.0, 1.0)

    def forward(self, patch: Tensor) -> Tensor:
        """``(B, 1, 16, 16)`` → the same shape."""
        return self.decode(self.encode(patch))


class PatchOutput(NamedTuple):
    """What a patch autoencoder says of patches.

    Parameters
    ----------
    denoised
        ``(B, 1, P, P)`` in the units of the input.
    latent
        ``(B, 10)``.
    """

    denoised: Tensor
    latent: Tensor


class TwinOutput(NamedTuple):
    """What the network with two decoders says of patches.

    Parameters
    ----------
    denoised, latent
        As in `PatchOutput`.
    centred
        ``(B, 1, P, P)`` the patch without noise, moved so that its nearest atom is in the middle.
    offset_yx_px
        ``(B, 2)`` from the middle of the patch to that atom.
    """

    denoised: Tensor
    latent: Tensor
    centred: Tensor
    offset_yx_px: Tensor


class CaeTwin(CaeA):
    """`CaeA` with a second decoder, which moves the nearest atom into the middle of the patch, and says how far it did.

    Source: USC report, section 4.6 (two decoders on one encoder); the offset is ours.

    Notes
    -----
    A centred patch does not say where it came from: the offset takes two layers of its own from the latent numbers.
    """

    def __init__(self) -> None:
        super().__init__()
        self.centring = CaeA().decoder
        self.offset = nn.Sequential(nn.Linear(LATENT, 64), nn.ReLU(inplace=True), nn.Linear(64, 2))

    def centre(self, latent: Tensor) -> tuple[Tensor, Tensor]:
        """``(B, 10)`` → the centred patch ``(B, 1, 17, 17)`` and the offset ``(B, 2)`` in pixels."""
        return self.centring(latent), self.offset(latent)


class VaeOutput(NamedTuple):
    """What the variational network says of patches.

    Parameters
    ----------
    denoised
        As in `PatchOutput`: of the means in evaluation mode, of numbers drawn around them in training.
    latent
        ``(B, 10)`` means.
    log_variance
        ``(B, 10)`` logarithms of the variances.
    """

    denoised: Tensor
    latent: Tensor
    log_variance: Tensor


class CaeVae(CaeA):
    """`CaeA` whose latent numbers are Gaussians: a β-VAE, to be trained with `divergence` beside the squared error.

    Source: D. P. Kingma, M. Welling, "Auto-encoding variational Bayes", ICLR 2014; I. Higgins et al., "β-VAE: learning basic
    visual concepts with a constrained variational framework", ICLR 2017.

    Notes
    -----
    7,662 parameters: a second dense layer gives the variances. Encoder and decoder are those of `CaeA`.
    """

    def __init__(self) -> None:
        super().__init__()
        self.log_variance = nn.Linear(144, LATENT)

    def distribution(self, patch: Tensor) -> tuple[Tensor, Tensor]:
        """``(B, 1, 17, 17)`` → the means and the logarithms of the variances, each ``(B, 10)``."""
        features = self.encoder[:-1](patch)
        return self.encoder[-1](features), self.log_variance(features)


def divergence(mean: Tensor, log_variance: Tensor) -> Tensor:
    """Kullback–Leibler divergence of Gaussians from the normal distribution in nats, element by element.

    Source: D. P. Kingma, M. Welling, ICLR 2014, appendix B.
    """
    return (mean.square() + log_variance.exp() - 1 - log_variance) / 2


class PatchDenoiser(nn.Module):
    """A patch autoencoder that takes and gives patches of a `spm_runtime.pipelines.denoise_view.DenoiseView`.

    Parameters
    ----------
    network
        Autoencoder, with one decoder or two; ±`VIEW_REACH` of the view are the ends of its range.

    Notes
    -----
    The report scales every image by its own extremes, which are two pixels. A view is scaled by percentiles, to about the same
    range, and nothing is clipped. `CaeA` takes it as it is; squared errors of `CaeB` on its own range are a quarter of these.
    """

    def __init__(self, network: CaeA | CaeB) -> None:
        super().__init__()
        self.network = network
        self.side_px: int = network.SIDE_PX
        low, high = network.RANGE
        self.gain = (high - low) / (2 * VIEW_REACH)
        self.middle = (low + high) / 2

    def forward(self, patch: Tensor) -> PatchOutput | TwinOutput | VaeOutput:
        """``(B, 1, P, P)`` → what is said of each patch."""
        seen = patch * self.gain + self.middle
        if isinstance(self.network, CaeVae):
            return self._drawn(self.network, seen)
        latent = self.network.encode(seen)
        denoised = self._in_view(self.network.decode(latent))
        if not isinstance(self.network, CaeTwin):
            return PatchOutput(denoised, latent.float())
        centred, offset = self.network.centre(latent)
        return TwinOutput(denoised, latent.float(), self._in_view(centred), offset.float())

    def _drawn(self, network: CaeVae, seen: Tensor) -> VaeOutput:
        mean, log_variance = network.distribution(seen)
        latent = mean + (log_variance / 2).exp() * torch.randn_like(mean) if self.training else mean
        return VaeOutput(self._in_view(network.decode(latent)), mean.float(), log_variance.float())

    def _in_view(self, patch: Tensor) -> Tensor:
        return (patch.float() - self.middle) / self.gain

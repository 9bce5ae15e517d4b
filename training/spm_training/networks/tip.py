"""The network that estimates a tip from an image and from what summits, blind estimation and autocorrelation say of it."""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional

from spm_runtime.pipelines.relief import EVIDENCE, TIP_PX
from spm_training.networks.unet import UNet
from spm_training.simulate.tips import FAMILIES

__all__ = ["PACKED_PX", "TipNet", "TipOutput", "correlated", "packed"]

#: Side of the padded tip.
PACKED_PX = 64
#: Pixels of the image for one of its features, and offsets between features in both directions.
_COARSE, _REACH = 2, TIP_PX // 4
#: Window of the mean that is taken away from one of the two views of the image, in pixels.
_FINE_PX = 9


class TipOutput(NamedTuple):
    """What the network says of a batch.

    Parameters
    ----------
    visible
        ``(B, 1, TIP_PX, TIP_PX)`` logit of `spm_runtime.pipelines.relief.visible_tip`; of a point-spread function over its peak
        where the image is blurred instead.
    second
        ``(B, 1, TIP_PX, TIP_PX)``: its softmax over the pixels is the probability that the second apex lies there; in the middle,
        that there is none.
    families
        ``(B, len(FAMILIES))`` logits of the kinds of corruption.
    """

    visible: Tensor
    second: Tensor
    families: Tensor


def packed(image: Tensor, evidence: Tensor) -> Tensor:
    """An image, ``(64 k, 64 k)``, and evidence as one tensor ``(k² + E, 64, 64)``, as `TipNet` takes it in training."""
    blocks = image.shape[-1] // PACKED_PX
    rim = PACKED_PX - TIP_PX
    return torch.cat((functional.pixel_unshuffle(image[None], blocks), functional.pad(evidence, (0, rim, 0, rim))))


class TipNet(UNet):
    """U-Net over the pixels of the tip, fed by evidence and by learned correlations of the image with itself.

    A small U-Net on half of the resolution marks points (where an apex may have touched) and values (what lies around them);
    their correlation is the mean surroundings of the points, one map for each pair of features. Correlated features that lead
    to a kernel are an idea of C. J. Schuler et al., Learning to deblur, IEEE Trans. Pattern Anal. 38 (2016) 1439. Another one
    looks for a second apex; the network that draws the tip sees where it may be.

    Parameters
    ----------
    base_width, depth
        As in `spm_training.networks.unet.UNet`.
    pairs
        Pairs of features that are correlated.
    """

    def __init__(self, base_width: int = 24, depth: int = 4, *, pairs: int = 16) -> None:
        super().__init__(base_width, depth, channels_in=len(EVIDENCE) + 2 + pairs + 1)
        self.pairs = pairs
        self.search = UNet(16, 2, channels_in=len(EVIDENCE) + 2 + pairs)
        self.apex = nn.Conv2d(16, 1, 1)
        self.seen = UNet(16, 2, channels_in=2 * _COARSE**2)
        self.marks = nn.Conv2d(16, 2 * pairs, 1)
        self.head = nn.Conv2d(base_width, 1, 3, padding=1)
        nn.init.constant_(self.head.bias, -3.0)  # type: ignore[arg-type]  # most of a tip is dark
        self.kind = nn.Sequential(
            nn.Linear(self.bottleneck_width + 16, 64), nn.ReLU(inplace=True), nn.Linear(64, len(FAMILIES))
        )
        # Where in the tip a pixel lies: evidence has an apex in its middle.
        axis = torch.linspace(-1, 1, TIP_PX)
        y, x = torch.meshgrid(axis, axis, indexing="ij")
        self.register_buffer("place", torch.stack([torch.hypot(y, x), torch.exp(-8 * (y**2 + x**2))])[None])
        self.place: Tensor

    def forward(self, inputs: Tensor) -> TipOutput:
        """Tip and family of images as large as those of the training, ``(B, k² + E, 64, 64)`` as `packed` makes it."""
        blocks = math.isqrt(inputs.shape[1] - len(EVIDENCE))
        image = functional.pixel_shuffle(inputs[:, : blocks**2], blocks)
        return self.estimate(image, inputs[:, blocks**2 :, :TIP_PX, :TIP_PX])

    def estimate(self, image: Tensor, evidence: Tensor) -> TipOutput:
        """Tip and family.

        Parameters
        ----------
        image
            ``(B, 1, H, W)`` in units of the relief; H and W multiples of 8.
        evidence
            ``(B, len(EVIDENCE), TIP_PX, TIP_PX)`` as `spm_runtime.pipelines.relief.tip_evidence` makes it.
        """
        local = 10 ** evidence[:, -1:, :1, :1].float()
        points, values, features = self.mark(image / local)
        around = functional.interpolate(correlated(points, values), TIP_PX, mode="bilinear", align_corners=True)
        means = features.mean(dim=(2, 3))[:, :, None, None].expand(-1, -1, TIP_PX, TIP_PX)
        return self.draw(torch.cat((evidence, around, means), dim=1))

    def mark(self, levelled: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Points, values and features, ``(B, pairs, H / 2, W / 2)`` twice and ``(B, 16, H / 2, W / 2)``.

        Parameters
        ----------
        levelled
            ``(B, 1, H, W)`` as `spm_runtime.pipelines.relief.marks_input` makes it.
        """
        smooth = functional.avg_pool2d(levelled, _FINE_PX, 1, _FINE_PX // 2, count_include_pad=False)
        views = torch.cat((torch.asinh(levelled), torch.asinh(4 * (levelled - smooth))), dim=1)
        features, _ = self.seen.features(functional.pixel_unshuffle(views, _COARSE))
        points, values = self.marks(features).float().chunk(2, dim=1)
        return functional.softplus(points) + 1e-6, values, features

    def draw(self, told: Tensor) -> TipOutput:
        """Tip and family.

        Parameters
        ----------
        told
            ``(B, E + pairs + 16, TIP_PX, TIP_PX)``: evidence, and what `spm_runtime.pipelines.relief.surroundings` makes of
            points, values and features.
        """
        means_at = len(EVIDENCE) + self.pairs
        evidence, around, means = told[:, : len(EVIDENCE)], told[:, len(EVIDENCE) : means_at], told[:, means_at:]
        rim = PACKED_PX - TIP_PX
        whole = torch.cat((evidence, self.place.expand(told.shape[0], -1, -1, -1), around), dim=1)
        whole = functional.pad(whole, (0, rim, 0, rim), mode="replicate")
        second = self.apex(self.search.features(whole)[0])[..., :TIP_PX, :TIP_PX].float()
        likely = second.flatten(1).softmax(dim=1).reshape(second.shape)
        seen = functional.pad((likely + 1e-6).sqrt(), (0, rim, 0, rim))
        decoded, bottleneck = self.features(torch.cat((whole, seen), dim=1))
        visible = self.head(decoded)[..., :TIP_PX, :TIP_PX].float()
        pooled = torch.cat((bottleneck.mean(dim=(2, 3)) + bottleneck.amax(dim=(2, 3)), means[:, :, 0, 0]), dim=1)
        return TipOutput(visible, second, self.kind(pooled).float())


def correlated(points: Tensor, values: Tensor) -> Tensor:
    """Mean value around the marked points, as `spm_runtime.pipelines.relief.surroundings` has it, at every second offset.

    Parameters
    ----------
    points, values
        ``(B, P, h, w)``.

    Returns
    -------
    ``(B, P, 31, 31)``.
    """
    device = "cpu" if points.is_meta else points.device.type  # a network is counted on the meta device
    with torch.autocast(device, enabled=False):
        size = [-(-(n + _REACH) // 16) * 16 for n in points.shape[-2:]]  # quick to transform
        mark = torch.fft.rfft2(points.float(), size).conj()
        total, weight = (
            torch.fft.irfft2(mark * torch.fft.rfft2(one.float(), size), size)
            for one in (values, torch.ones_like(points[:, :1]))
        )
        mean = torch.roll(total / weight.clamp(min=1e-6), (_REACH, _REACH), (-2, -1))
        return mean[..., : 2 * _REACH + 1, : 2 * _REACH + 1]

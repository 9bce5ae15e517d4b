"""The network that estimates a tip from what an image says of it."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional

from spm_runtime.pipelines.relief import EVIDENCE, TIP_PX
from spm_training.networks.unet import UNet
from spm_training.simulate.tips import FAMILIES

__all__ = ["CODE_WIDTH", "TipNet", "TipOutput"]

#: Numbers that come with the evidence as constant maps, at its end.
_NUMBERS = 2
#: Side of the blocks over which the visible tip is averaged for the code, and of the padded tip.
_BLOCK, _PADDED = 8, 64
#: Length of the code.
CODE_WIDTH = len(FAMILIES) + _NUMBERS + (_PADDED // _BLOCK) ** 2


class TipOutput(NamedTuple):
    """What the network says of a batch.

    Parameters
    ----------
    visible
        ``(B, 1, TIP_PX, TIP_PX)`` logit of `spm_runtime.pipelines.relief.visible_tip`; of a point-spread function over its peak
        where the image is blurred instead.
    families
        ``(B, len(FAMILIES))`` logits of the kinds of corruption.
    code
        ``(B, CODE_WIDTH)``: probabilities of the families, noise and local height, and the visible tip in blocks; what a network
        that restores is told.
    """

    visible: Tensor
    families: Tensor
    code: Tensor


class TipNet(UNet):
    """U-Net over the pixels of the tip, with a head for the kind of corruption.

    Parameters
    ----------
    base_width, depth
        As in `spm_training.networks.unet.UNet`.
    """

    def __init__(self, base_width: int = 24, depth: int = 4) -> None:
        super().__init__(base_width, depth, channels_in=len(EVIDENCE) + 2)
        self.head = nn.Conv2d(base_width, 1, 3, padding=1)
        nn.init.constant_(self.head.bias, -3.0)  # type: ignore[arg-type]  # most of a tip is dark
        self.kind = nn.Sequential(
            nn.Linear(self.bottleneck_width, 64), nn.ReLU(inplace=True), nn.Linear(64, len(FAMILIES))
        )
        # Where in the tip a pixel lies: evidence has an apex in its middle.
        axis = torch.linspace(-1, 1, TIP_PX)
        y, x = torch.meshgrid(axis, axis, indexing="ij")
        self.register_buffer("place", torch.stack([torch.hypot(y, x), torch.exp(-8 * (y**2 + x**2))])[None])
        self.place: Tensor

    def forward(self, evidence: Tensor) -> TipOutput:
        """Tip and family.

        Parameters
        ----------
        evidence
            ``(B, len(EVIDENCE), TIP_PX, TIP_PX)`` as `spm_runtime.pipelines.relief.tip_evidence` makes it.
        """
        rim = _PADDED - TIP_PX
        whole = torch.cat((evidence, self.place.expand(evidence.shape[0], -1, -1, -1)), dim=1)
        decoded, bottleneck = self.features(functional.pad(whole, (0, rim, 0, rim), mode="replicate"))
        visible = self.head(decoded)[..., :TIP_PX, :TIP_PX].float()
        families = self.kind(bottleneck.mean(dim=(2, 3)) + bottleneck.amax(dim=(2, 3))).float()
        blocks = functional.avg_pool2d(functional.pad(visible.sigmoid(), (0, rim, 0, rim)), _BLOCK)
        numbers = evidence[:, -_NUMBERS:, 0, 0].float()
        return TipOutput(visible, families, torch.cat((families.softmax(1), numbers, blocks.flatten(1)), dim=1))

"""Training of the paper's network, `spm_training.networks.atomid.AtomidNet`, with the paper's loss."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from spm_runtime.errors import ParameterError
from spm_training.data import AtomsBatch
from spm_training.graphs.base import AtomidGraph
from spm_training.networks.atomid import AtomidNet, AtomidOutput
from spm_training.recipe import AtomidNetworkOptions, Recipe
from spm_training.tasks.columns import ColumnsData, confidence_pictures

__all__ = ["AtomidTask", "atomid_loss"]


def atomid_loss(
    output: AtomidOutput, *, target: Tensor, target_spacing_px: Tensor, confidence_weight: float, spacing_weight: float
) -> dict[str, Tensor]:
    """The loss of the PolyU thesis, method chapter, eq. 7: ``½ mean(λ‖f − Ỹ‖² + ‖g − s̄‖²)``.

    The mean is over the N images of the batch alone. The norms are Euclidean over whatever they enclose: the first sums over
    all pixels of an image, the second is the square of one number in pixels. So λ weighs crops of different sizes, and images of
    different magnification, differently; that is how it is printed, and what the reference is trained with. Light columns are
    not annotated in the thesis, so the target is 0 there and every pixel counts in full.

    Parameters
    ----------
    output
        Output (f, g) of the network.
    target
        ``(B, 1, H, W)`` confidence map Ỹ in [0, 1].
    target_spacing_px
        ``(B,)`` true mean nearest-neighbour spacing s̄.
    confidence_weight, spacing_weight
        λ, and a weight of the second term, which is 1 in the thesis.

    Returns
    -------
    ``loss`` and its terms ``confidence`` and ``spacing``, means over the images, not yet weighted or halved.
    """
    confidence = (output.confidence - target).square().sum(dim=(1, 2, 3)).mean()
    spacing = (output.spacing_px - target_spacing_px).square().mean()
    loss = 0.5 * (confidence_weight * confidence + spacing_weight * spacing)
    return {"loss": loss, "confidence": confidence, "spacing": spacing}


class AtomidTask(ColumnsData):
    """Confidence and spacing.

    Parameters
    ----------
    recipe
        The resolved recipe; its ``loss.confidence_weight`` is the thesis' λ.

    Raises
    ------
    ParameterError
        If the recipe weighs a position, which this network does not give.
    """

    TERMS = ("loss", "confidence", "spacing")

    def __init__(self, recipe: Recipe) -> None:
        super().__init__(recipe)
        if recipe.loss.position_weight:
            raise ParameterError(
                f"loss.position_weight {recipe.loss.position_weight:g}: the network atomid has no position branch; expected 0. "
                "Set it to 0."
            )

    def build_network(self) -> AtomidNet:
        """The network with fresh weights from torch's global generator."""
        options = self.recipe.network
        if not isinstance(options, AtomidNetworkOptions):
            raise TypeError(f"network options of kind {options.kind!r} for the task of 'atomid'")
        return AtomidNet(options.base_width, options.depth)

    def graph(self, network: AtomidNet) -> AtomidGraph:
        """The network as it is exported."""
        return AtomidGraph(network)

    def loss(self, output: AtomidOutput, batch: AtomsBatch) -> dict[str, Tensor]:
        """Terms of `atomid_loss`."""
        return atomid_loss(
            output,
            target=batch.target,
            target_spacing_px=batch.spacing_px,
            confidence_weight=self.recipe.loss.confidence_weight,
            spacing_weight=self.recipe.loss.spacing_weight,
        )

    def validation_sums(self, output: AtomidOutput, batch: AtomsBatch) -> list[float]:
        """Sums over the images of a batch, in the order of `sum_names`."""
        spacing_px = output.spacing_px.clamp(min=AtomidGraph.SPACING_MIN_PX)  # as exported: it must have a logarithm
        return self.sums_of(self.loss(output, batch), output.confidence, spacing_px, batch)

    def pictures(self, output: AtomidOutput, batch: AtomsBatch) -> dict[str, NDArray[np.float32]]:
        """Image, target and confidence side by side."""
        return confidence_pictures(output.confidence, batch)

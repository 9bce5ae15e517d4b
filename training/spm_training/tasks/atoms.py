"""Training of the default finder of atom columns, `spm_training.networks.atoms.AtomsNet`."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from spm_training.data import AtomsBatch
from spm_training.graphs.base import AtomsGraph
from spm_training.losses import atoms_loss
from spm_training.networks.atoms import AtomsNet, AtomsOutput
from spm_training.recipe import AtomsNetworkOptions
from spm_training.tasks.columns import ColumnsData, confidence_pictures

__all__ = ["AtomsTask"]


class AtomsTask(ColumnsData):
    """Confidence, sub-pixel position and spacing."""

    TERMS = ("loss", "confidence", "position", "spacing")

    def build_network(self) -> AtomsNet:
        """The network with fresh weights from torch's global generator."""
        options = self.recipe.network
        if not isinstance(options, AtomsNetworkOptions):
            raise TypeError(f"network options of kind {options.kind!r} for the task of 'atoms'")
        return AtomsNet(options.base_width, options.depth)

    def graph(self, network: AtomsNet) -> AtomsGraph:
        """The network as it is exported."""
        return AtomsGraph(network)

    def loss(self, output: AtomsOutput, batch: AtomsBatch) -> dict[str, Tensor]:
        """Terms of `spm_training.losses.atoms_loss`."""
        options = self.recipe.loss
        terms = atoms_loss(
            output,
            target=batch.target,
            weight=batch.weight,
            offset=batch.offset,
            target_spacing_px=batch.spacing_px,
            confidence_weight=options.confidence_weight,
            position_weight=options.position_weight,
            spacing_weight=options.spacing_weight,
        )
        return {
            "loss": terms.total,
            "confidence": terms.confidence,
            "position": terms.position,
            "spacing": terms.spacing,
        }

    def validation_sums(self, output: AtomsOutput, batch: AtomsBatch) -> list[float]:
        """Sums over the images of a batch, in the order of `sum_names`."""
        return self.sums_of(self.loss(output, batch), output.confidence, output.spacing_px, batch)

    def pictures(self, output: AtomsOutput, batch: AtomsBatch) -> dict[str, NDArray[np.float32]]:
        """Image, target and confidence side by side."""
        return confidence_pictures(output.confidence, batch)

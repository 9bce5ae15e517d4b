"""The encoder of the shallow patch autoencoder, taught which lattice a patch shows: what the same layers can tell at most."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional

from spm_training.checkpoint import load_checkpoint, save_checkpoint
from spm_training.data import Split
from spm_training.networks.cae import LATENT, VIEW_REACH, CaeA
from spm_training.recipe import Recipe, to_toml
from spm_training.simulate.stm_lattices import LATTICES
from spm_training.tasks.lattice_images import LatticePatches

__all__ = ["LatticeClassifier", "train_classifier"]


class LatticeClassifier(nn.Module):
    """`CaeA`'s encoder with a linear layer from its ten numbers to the lattices."""

    def __init__(self) -> None:
        super().__init__()
        self.encoder = CaeA().encoder
        self.classes = nn.Linear(LATENT, len(LATTICES))

    def encode(self, patch: Tensor) -> Tensor:
        """``(B, 1, 17, 17)`` in units of the view → ``(B, 10)``."""
        latent: Tensor = self.encoder(patch / VIEW_REACH)
        return latent

    def forward(self, patch: Tensor) -> Tensor:
        """``(B, 1, 17, 17)`` → ``(B, 5)`` logits."""
        logits: Tensor = self.classes(self.encode(patch))
        return logits


def train_classifier(recipe: Recipe, file: Path, report: Callable[[str], None]) -> LatticeClassifier:
    """Train with cross-entropy on the patches of a recipe of `CaeA`, with as many steps; what is finished is read again.

    Parameters
    ----------
    recipe
        Which patches, how many of them, and how fast.
    file
        Keeps the weights when the training is done.
    report
        Takes one line for a person.
    """
    network = LatticeClassifier()
    if file.is_file() and (state := load_checkpoint(file))["recipe"] == to_toml(recipe):
        network.load_state_dict(state["weights"])
        report(f"{file}: finished already")
        return network.eval()
    torch.manual_seed(recipe.training.seed)
    network = LatticeClassifier()
    optimiser = torch.optim.Adam(network.parameters(), recipe.optimiser.lr)
    patches = LatticePatches(recipe, Split.TRAIN, CaeA.SIDE_PX)
    data = recipe.data
    for epoch in range(recipe.training.epochs):
        total = 0.0
        for step in range(data.steps_per_epoch):
            batch = patches.__getitems__([(epoch, step * data.batch + index) for index in range(data.batch)])
            loss = functional.cross_entropy(network(batch.image), batch.lattice)
            optimiser.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            optimiser.step()
            total += float(loss.detach())
        report(
            f"supervised, epoch {epoch + 1}/{recipe.training.epochs}  cross-entropy {total / data.steps_per_epoch:.4f}"
        )
    save_checkpoint(file, {"weights": network.state_dict(), "recipe": to_toml(recipe)})
    return network.eval()

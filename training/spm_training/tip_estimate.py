"""A trained network that estimates tips, as the training of the network that restores asks it."""

from __future__ import annotations

import functools
import hashlib
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from spm_runtime.errors import ParameterError
from spm_runtime.pipelines.relief import tip_heights
from spm_training.checkpoint import load_checkpoint
from spm_training.networks.tip import TipNet
from spm_training.recipe import TipNetworkOptions, read_recipe

__all__ = ["TipEstimator", "digest_of"]

#: Files of a run; `spm_training.run` cannot be imported here, for it imports the tasks.
RECIPE, BEST = "recipe.toml", "best.pt"


def digest_of(folder: str) -> str:
    """What tells the weights of a run from those of another one.

    Raises
    ------
    ParameterError
        If the run has no weights.
    """
    best = Path(folder) / BEST
    if not best.is_file():
        raise ParameterError(
            f"tips.tip_run {folder}: {best} not found; expected the run of a recipe of the network 'tip'. "
            "Train it first: spm-train fit tip."
        )
    return hashlib.sha256(best.read_bytes()).hexdigest()


class TipEstimator:
    """The network of a run; one for each run and process, by `of`.

    Parameters
    ----------
    folder
        The run.
    """

    def __init__(self, folder: str) -> None:
        options = read_recipe(Path(folder) / RECIPE).network
        if not isinstance(options, TipNetworkOptions):
            raise ParameterError(
                f"tips.tip_run {folder}: trained a network of the kind {options.kind!r}; expected 'tip'. Name another run."
            )
        self.network = TipNet(options.base_width, options.depth)
        self.network.load_state_dict(load_checkpoint(Path(folder) / BEST)["weights"])
        self.network.eval()

    @staticmethod
    @functools.lru_cache(maxsize=2)
    def of(folder: str, digest: str) -> TipEstimator:
        """The estimator of a run whose weights have this digest."""
        return TipEstimator(folder)

    def __call__(
        self, image: NDArray[np.float32], evidence: NDArray[np.float32], local: float
    ) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """Ask the network.

        Parameters
        ----------
        image, local
            As in `spm_runtime.pipelines.relief.ReliefView`.
        evidence
            As `spm_runtime.pipelines.relief.tip_evidence` makes it.

        Returns
        -------
        tip
            ``(TIP_PX, TIP_PX)`` float32 heights in units of the relief.
        code
            ``(CODE_WIDTH,)`` float32.
        """
        with torch.no_grad():
            found = self.network.estimate(torch.from_numpy(image)[None, None], torch.from_numpy(evidence)[None])
        return tip_heights(found.visible.sigmoid()[0, 0].numpy(), local), found.code[0].numpy()

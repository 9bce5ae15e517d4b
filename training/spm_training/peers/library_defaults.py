"""`blob_log` and `blob_dog` of scikit-image as they come. They know nothing of the scale and are no fair comparison."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray
from skimage import feature

from spm_runtime.levelling import level_for_network
from spm_training.atoms.evaluate import Finder, Found
from spm_training.peers.tuning import mean_neighbour_px

__all__ = ["default_blob_finder"]

_FUNCTIONS: dict[str, Callable[..., Any]] = {"log": feature.blob_log, "dog": feature.blob_dog}


def default_blob_finder(kind: str) -> Finder:
    """`blob_log` (kind ``log``) or `blob_dog` (``dog``) with every default, on the levelled image brought to [0, 1].

    The reported spacing is the mean distance of what was found to its nearest neighbours.
    """
    function = _FUNCTIONS[kind]

    def find(image: NDArray[np.float32]) -> Found:
        levelled = level_for_network(image).astype(np.float64)
        span = max(float(np.ptp(levelled)), 1e-12)
        yx = np.asarray(function((levelled - levelled.min()) / span)[:, :2], dtype=np.float64)
        return Found(yx, mean_neighbour_px(yx))

    return find

"""AtomAI's way from the network to positions: threshold, connected areas, their centres of mass."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from spm_kernels import resize
from spm_training.atoms.evaluate import Finder, Found
from spm_training.peers.tuning import Look, Tuning, best_settings, levelled_and_spacing, mean_neighbour_px

if TYPE_CHECKING:
    import torch

__all__ = ["REMEDY", "AtomaiFinder", "blind_atomai_finder", "locate", "scaled_atomai_finder"]

REMEDY = "pip install --no-deps atomai"

_THRESHOLDS = (0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8)
#: Bounds of the resampling.
_MIN_FACTOR, _MAX_FACTOR = 1 / 8, 8.0


@dataclass(frozen=True, eq=False)
class AtomaiFinder:
    """A trained network with its threshold.

    Parameters
    ----------
    network
        AtomAI's network, trained.
    threshold
        Least confidence of a pixel of a column.
    nominal_px
        Spacing to which an image is resampled, by what the spectrum tells; None leaves it as it is.
    """

    network: torch.nn.Module
    threshold: float
    nominal_px: float | None

    def __call__(self, image: NDArray[np.float32]) -> Found:
        """Positions, and the spacing of the spectrum or (blind) the mean distance of what was found to its neighbours."""
        if self.nominal_px is None:
            yx = locate(self.confidence(image, None), self.threshold)
            return Found(yx, mean_neighbour_px(yx))
        spacing = levelled_and_spacing(image)[1]
        score = self.confidence(image, spacing)
        return Found(_unscaled(locate(score, self.threshold), score.shape, image.shape), spacing)

    def confidence(self, image: NDArray[np.float32], spacing_px: float | None) -> NDArray[np.float32]:
        """The confidence map of an image, resampled when the finder has a nominal spacing."""
        from spm_training.peers.atomai_net import MULTIPLE, confidence

        if self.nominal_px is not None and spacing_px is not None:
            factor = float(np.clip(self.nominal_px / spacing_px, _MIN_FACTOR, _MAX_FACTOR))
            height, width = (max(round(side * factor), MULTIPLE) for side in image.shape)
            image = resize(image.astype(np.float32), (height, width))
        return confidence(self.network, image)


def blind_atomai_finder(tuning: Tuning) -> Finder:
    """AtomAI's network on images as they are, at the scale that they happen to have; trained when there are no weights.

    Raises
    ------
    ParameterError
        If AtomAI is not installed, or the file of weights is of another training.
    """
    return _tuned(tuning, scaled=False)


def scaled_atomai_finder(tuning: Tuning) -> Finder:
    """AtomAI's network on images resampled to the middle of the spacings of its training, by the scale of the spectrum.

    Raises
    ------
    ParameterError
        If AtomAI is not installed, or the file of weights is of another training.
    """
    return _tuned(tuning, scaled=True)


def locate(score: NDArray[np.float32], threshold: float) -> NDArray[np.float64]:
    """Centres of mass ``(N, 2)`` of the connected areas (4 neighbours) above the threshold, each pixel of the same weight.

    Source: AtomAI's `Locator`, without its border of five pixels in which it reports nothing.
    """
    above = score > threshold
    labels, areas = ndimage.label(above)
    return np.asarray(ndimage.center_of_mass(above, labels, np.arange(1, areas + 1)), dtype=np.float64).reshape(-1, 2)


def _tuned(tuning: Tuning, *, scaled: bool) -> Finder:
    from spm_training.peers.atomai_net import AtomaiTraining, load_or_train

    options = AtomaiTraining(minutes=tuning.minutes, spacing_px=tuning.spacing_px)
    network = load_or_train(tuning.weights, options, report=tuning.report)
    nominal = options.nominal_px if scaled else None
    finder = AtomaiFinder(network, 0.5, nominal)

    def propose(look: Look) -> Iterator[tuple[float, NDArray[np.float64]]]:
        score = finder.confidence(look.scene.image, look.spacing_px)
        for threshold in _THRESHOLDS:
            yield threshold, _unscaled(locate(score, threshold), score.shape, look.scene.image.shape)

    return AtomaiFinder(network, best_settings(tuning.looks, propose), nominal)


def _unscaled(yx: NDArray[np.float64], seen: tuple[int, ...], shape: tuple[int, ...]) -> NDArray[np.float64]:
    """Positions in a resampled image, in pixels of the image; pixel centres keep their places."""
    return np.asarray((yx + 0.5) * (np.asarray(shape) / np.asarray(seen)) - 0.5)

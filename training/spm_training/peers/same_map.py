"""Detectors on one and the same confidence map: LoG, DoG and DoH of scikit-image beside max-pool and suppression.

Source: PolyU thesis (AtomID-net), Table 3, which replaces only the detection stage. The σ of the filters follows from the
predicted spacing; its share of the spacing and the threshold are tuned on maps of validation scenes, and so are the window and
threshold of max-pool and suppression. All give whole pixels of the map, so that the detection alone is compared.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from skimage.feature import blob_dog, blob_doh, blob_log

from spm_kernels import box_nms, local_maxima
from spm_training.atoms.evaluate import TOLERANCES
from spm_training.metrics import Counts, count

__all__ = ["DEFAULT_SETTINGS", "Detector", "MapOfScene", "Settings", "detectors", "tuned_settings"]

#: Takes a confidence map ``(H, W)`` float32 in [0, 1] and the spacing in its pixels; gives ``(N, 2)`` positions.
Detector = Callable[[NDArray[np.float32], float], NDArray[np.float64]]

#: Two blobs that overlap by more than this share of the smaller one's area are one. Source: default of scikit-image.
_OVERLAP = 0.5
#: Overlap of two boxes, as intersection over union, above which the weaker goes. Source: PolyU thesis.
_IOU = 0.3
#: Ratio of the two σ of a difference of Gaussians. Source: default of scikit-image.
_DOG_RATIO = 1.6


@dataclass(frozen=True)
class Settings:
    """What is tuned of a detector.

    Parameters
    ----------
    size_spacings
        σ of the filter, or side of the max-pool's window, in units of the spacing.
    threshold
        Least response of a filter, or least confidence of a peak.
    """

    size_spacings: float
    threshold: float


class MapOfScene(NamedTuple):
    """A confidence map with the truth, for tuning and scoring.

    Parameters
    ----------
    confidence
        ``(H, W)`` float32 in [0, 1].
    spacing_px
        Predicted spacing in pixels of the map.
    yx_px
        ``(N, 2)`` true positions in pixels of the map.
    required
        ``(N,)`` whether a detector must report the position.
    true_spacing_px
        True spacing in pixels of the map, for the tolerance.
    """

    confidence: NDArray[np.float32]
    spacing_px: float
    yx_px: NDArray[np.float64]
    required: NDArray[np.bool_]
    true_spacing_px: float


def _log(confidence: NDArray[np.float32], spacing_px: float, settings: Settings) -> NDArray[np.float64]:
    sigma = settings.size_spacings * spacing_px
    return _centres(
        blob_log(  # type: ignore[no-untyped-call]
            confidence, min_sigma=sigma, max_sigma=sigma, num_sigma=1, threshold=settings.threshold, overlap=_OVERLAP
        )
    )


def _dog(confidence: NDArray[np.float32], spacing_px: float, settings: Settings) -> NDArray[np.float64]:
    sigma = settings.size_spacings * spacing_px
    return _centres(
        blob_dog(  # type: ignore[no-untyped-call]
            confidence,
            min_sigma=sigma,
            max_sigma=sigma,
            sigma_ratio=_DOG_RATIO,
            threshold=settings.threshold,
            overlap=_OVERLAP,
        )
    )


def _doh(confidence: NDArray[np.float32], spacing_px: float, settings: Settings) -> NDArray[np.float64]:
    sigma = settings.size_spacings * spacing_px
    return _centres(
        blob_doh(  # type: ignore[no-untyped-call]
            confidence, min_sigma=sigma, max_sigma=sigma, num_sigma=1, threshold=settings.threshold, overlap=_OVERLAP
        )
    )


def _max_pool(confidence: NDArray[np.float32], spacing_px: float, settings: Settings) -> NDArray[np.float64]:
    window = max(3, 2 * round(settings.size_spacings * spacing_px / 2) + 1)
    peaks = local_maxima(confidence, window_px=window, threshold=settings.threshold)
    yx = peaks.astype(np.float64)
    return yx[box_nms(yx, confidence[peaks[:, 0], peaks[:, 1]], side_px=spacing_px, iou=_IOU)]


def _centres(blobs: NDArray[np.float64]) -> NDArray[np.float64]:
    return np.asarray(blobs[:, :2], dtype=np.float64).reshape(-1, 2)


_FUNCTIONS: Mapping[str, Callable[[NDArray[np.float32], float, Settings], NDArray[np.float64]]] = MappingProxyType(
    {"LoG": _log, "DoG": _dog, "DoH": _doh, "max-pool + NMS": _max_pool}
)

_SIGMAS = (0.12, 0.18, 0.25)
_GRID: Mapping[str, tuple[tuple[float, ...], tuple[float, ...]]] = MappingProxyType(
    {
        "LoG": (_SIGMAS, (0.05, 0.1, 0.15, 0.2, 0.3, 0.4)),
        "DoG": (_SIGMAS, (0.025, 0.05, 0.1, 0.15, 0.2, 0.3)),
        "DoH": ((0.18, 0.25, 0.3, 0.35, 0.45), (0.0005, 0.001, 0.002, 0.005, 0.01, 0.02)),
        "max-pool + NMS": ((0.5, 0.7), (0.1, 0.2, 0.3, 0.4, 0.5)),
    }
)

#: Settings for maps of Gaussians of peak 1 and σ of 0.18 spacings, the target that the network of `atoms` learns.
#: `tuned_settings` gives those of a network's own maps.
DEFAULT_SETTINGS: Mapping[str, Settings] = MappingProxyType(
    {
        "LoG": Settings(0.18, 0.15),
        "DoG": Settings(0.18, 0.1),
        "DoH": Settings(0.35, 0.005),
        "max-pool + NMS": Settings(0.5, 0.3),
    }
)


def detectors(settings: Mapping[str, Settings] = DEFAULT_SETTINGS) -> dict[str, Detector]:
    """The detectors by their names in the table.

    Parameters
    ----------
    settings
        By the same names; `tuned_settings` makes them.
    """
    return {name: _with_settings(name, settings[name]) for name in _FUNCTIONS}


def tuned_settings(maps: Iterable[MapOfScene]) -> dict[str, Settings]:
    """Settings with the best F1 (tolerance 0.25) of every detector.

    Parameters
    ----------
    maps
        The network's own maps of scenes of the validation split.
    """
    totals: dict[tuple[str, Settings], Counts] = {}
    for one in maps:
        for name, settings in _candidates():
            yx = _FUNCTIONS[name](one.confidence, one.spacing_px, settings)
            counts = count(yx, one.yx_px, one.required, TOLERANCES[0] * one.true_spacing_px)
            totals[name, settings] = totals.get((name, settings), Counts()) + counts
    if not totals:
        raise ValueError("no maps to tune on")
    return {
        name: max((key[1] for key in totals if key[0] == name), key=lambda settings: totals[name, settings].f1)
        for name in _FUNCTIONS
    }


def _candidates() -> Iterator[tuple[str, Settings]]:
    for name, (sizes, thresholds) in _GRID.items():
        for size in sizes:
            for threshold in thresholds:
                yield name, Settings(size, threshold)


def _with_settings(name: str, settings: Settings) -> Detector:
    function = _FUNCTIONS[name]
    return lambda confidence, spacing_px: function(confidence, spacing_px, settings)

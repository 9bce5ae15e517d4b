"""The whole pipeline of the UCL report as it is printed, with networks that the recipes `ae1` (zero padding) and `ae2` trained.

Source: UCL report, sections 2.2 to 2.5. A plane is subtracted and the image scaled to [0, 1] by its extremes; nothing is known of
steps. Windows of 32 × 32 are labelled by K-means with k = 6 and vote on the character map; the squared error of reconstructed
windows, smoothed, is the error map. Errors above one threshold and the labels of the target clusters make the mask, cleaned in
six morphological steps; every box is classed by the second autoencoder and a mixture of 20 Gaussians.

Not printed, and chosen here: the distance of the windows (8 and 16 pixels), σ of the smoothing, the sizes in the morphological
steps (the runtime's). Threshold and target clusters are tuned like the settings of the other peers.
"""

from __future__ import annotations

import hashlib
import itertools
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple, Self

import numpy as np
import torch
from numpy.typing import NDArray
from scipy import ndimage
from torch import Tensor

from spm_kernels.patches import PatchGrid, extract_patches
from spm_kernels.voting import majority_vote, squared_error_map
from spm_runtime.errors import ParameterError
from spm_runtime.levelling import fit_plane
from spm_runtime.pipelines.defect_mask import MaskSettings, defect_boxes, defect_mask
from spm_runtime.pipelines.surface import unit_range
from spm_runtime.results import Defects
from spm_runtime.scan import Scan
from spm_training.clusters import (
    KMEANS_CLUSTERS,
    MIXTURE_COMPONENTS,
    Clusters,
    Mixture,
    fit_clusters,
    fit_mixture,
)
from spm_training.defects.evaluate import marks
from spm_training.defects.scenes import scan_of
from spm_training.files import write_atomically
from spm_training.graphs.patches import DefectGraph, WindowEncoderGraph
from spm_training.metrics import Counts
from spm_training.networks.ae1 import SIDE_PX, Ae1
from spm_training.networks.ae2 import Ae2
from spm_training.peers.defects.look import heights_nm
from spm_training.peers.defects.tuning import DefectTuning, mean_f1, scene_counts
from spm_training.run import RunFolder
from spm_training.trained import trained_network

__all__ = ["AE1_RUN", "AE2_RUN", "ReportPipeline", "missing_runs", "report_pipeline"]

#: Names of the runs in the folder of `DefectTuning`, and the commands that make them.
AE1_RUN, AE2_RUN = "ae1-printed", "ae2-printed"
_COMMANDS = {
    AE1_RUN: "spm-train fit ae1 --set network.context=false --set surfaces.terraces=false --set surfaces.clip_percent=0 --out {}",
    AE2_RUN: "spm-train fit ae2 --set surfaces.terraces=false --out {}",
}
_LABEL_STRIDE, _ERROR_STRIDE = 8, 16
_SMOOTHING_PX = 2.0
#: Windows through a network at a time.
_BATCH = 256
#: Error thresholds that are tried, as quantiles of the errors of all tuning images.
_QUANTILES = (0.7, 0.8, 0.9, 0.95, 0.98, 0.99, 0.995, 0.999)
#: Patches of each tuning image that the mixture is fitted to.
_PATCHES = 80


class _Maps(NamedTuple):
    """``(H, W)`` image in [0, 1], error map and character map."""

    image: NDArray[np.float32]
    error: NDArray[np.float32]
    character: NDArray[np.int32]


@dataclass(frozen=True, eq=False)
class _Stage1:
    """AE1 with its clusters."""

    network: Ae1
    clusters: Clusters

    def __call__(self, scan: Scan) -> _Maps:
        image = scaled_image(scan)
        grid = _grid(image, _LABEL_STRIDE)
        graph = WindowEncoderGraph(self.network, clusters=self.clusters).eval()
        labels = _in_batches(extract_patches(image, grid), lambda windows: graph(windows)[1])
        shape = (len(grid.rows), len(grid.columns))
        character = majority_vote(
            np.rint(labels).astype(np.int32).reshape(shape), grid, classes=len(self.clusters.centres)
        )
        grid = _grid(image, _ERROR_STRIDE)
        answer = _in_batches(
            extract_patches(image, grid), lambda windows: self.network.decode(self.network.encode(windows))
        )
        error = squared_error_map(image, np.ascontiguousarray(answer[:, 0], np.float32), grid)
        return _Maps(image, ndimage.gaussian_filter(error, _SMOOTHING_PX, mode="nearest"), character)


@dataclass(frozen=True, eq=False)
class ReportPipeline:
    """A finder that does what the report does.

    Parameters
    ----------
    stage1
        The first network with its clusters.
    threshold
        Smallest squared error of a defect.
    settings
        Target clusters and the morphological steps.
    defects
        The second network.
    mixture
        Classes in its latent space.
    """

    stage1: _Stage1
    threshold: float
    settings: MaskSettings
    defects: Ae2
    mixture: Mixture

    def __call__(self, scan: Scan) -> Defects:
        """Boxes of the mask, each with the most probable component as its class."""
        maps = self.stage1(scan)
        boxes = defect_boxes(defect_mask(maps.error, maps.character, self.threshold, self.settings))
        if not len(boxes):
            return marks(boxes.yx_px, 1.0)
        graph = DefectGraph(self.defects, mixture=self.mixture).eval()
        patches = _patches(maps.image, boxes.yx_px)
        component = _in_batches(patches, lambda windows: graph(windows)[1]).argmax(axis=1)
        inside = maps.error[tuple(np.rint(boxes.yx_px).astype(int).T)]
        return marks(
            boxes.yx_px,
            boxes.size_px.mean(axis=1) / 2,
            score=inside,
            names=[f"component {number}" for number in component],
        )

    def write(self, folder: Path) -> None:
        """Write what was fitted and tuned."""
        folder.mkdir(parents=True, exist_ok=True)
        self.stage1.clusters.write(folder / "clusters.npz")
        self.mixture.write(folder / "mixture.npz")
        settings = {"threshold": self.threshold, "target_clusters": list(self.settings.target_clusters)}
        write_atomically(folder / "settings.json", (json.dumps(settings, indent=2) + "\n").encode())

    @classmethod
    def read(cls, folder: Path, network: Ae1, defects: Ae2) -> Self:
        """Read what `write` wrote."""
        settings = json.loads((folder / "settings.json").read_text(encoding="utf-8"))
        stage1 = _Stage1(network, Clusters.read(folder / "clusters.npz"))
        mask = MaskSettings(target_clusters=tuple(settings["target_clusters"]))
        return cls(stage1, float(settings["threshold"]), mask, defects, Mixture.read(folder / "mixture.npz"))


def missing_runs(folder: Path) -> list[str]:
    """The commands that make the runs that are not in a folder."""
    return [
        command.format(folder / name)
        for name, command in _COMMANDS.items()
        if not RunFolder(folder / name).best.is_file()
    ]


def report_pipeline(tuning: DefectTuning) -> ReportPipeline:
    """The pipeline with both networks, fitted and tuned on the tuning scenes; from the cache where it has been before.

    Raises
    ------
    ParameterError
        If a run is missing, or holds another network.
    """
    lacking = missing_runs(tuning.runs)
    if lacking:
        raise ParameterError(f"{tuning.runs}: no such runs; expected what this makes: {'; '.join(lacking)}")
    runs = [RunFolder(tuning.runs / name) for name in (AE1_RUN, AE2_RUN)]
    network, defects = (trained_network(run)[0] for run in runs)
    if not isinstance(network, Ae1) or network.context or not isinstance(defects, Ae2):
        raise ParameterError(
            f"{tuning.runs}: runs of other networks; expected ae1 without context and ae2. Make them again: "
            f"{'; '.join(command.format(tuning.runs / name) for name, command in _COMMANDS.items())}"
        )
    what = repr(tuning.options).encode() + b"".join(run.best.read_bytes() for run in runs)
    cached = None if tuning.cache is None else tuning.cache.parent / f"ucl-{hashlib.sha256(what).hexdigest()[:16]}"
    if cached is not None and (cached / "settings.json").is_file():
        return ReportPipeline.read(cached, network, defects)
    found = _fitted(tuning, network, defects)
    if cached is not None:
        found.write(cached)
    return found


def _fitted(tuning: DefectTuning, network: Ae1, defects: Ae2) -> ReportPipeline:
    scans = [scan_of(one.scene) for one in tuning.shown]
    windows = [extract_patches(image, _grid(image, SIDE_PX)) for image in map(scaled_image, scans)]
    latents = _in_batches(np.concatenate(windows), network.encode)
    stage1 = _Stage1(network, fit_clusters(latents, min(KMEANS_CLUSTERS, len(latents))))
    maps = [stage1(scan) for scan in scans]
    threshold, settings, f1 = _tuned(tuning, maps)
    tuning.report(
        f"the report's pipeline: mean F1 {f1:.3f} on the tuning scenes with {settings.target_clusters} and {threshold:g}"
    )
    rng = np.random.default_rng(0)
    patches = []
    for one in maps:
        inside = np.argwhere(defect_mask(one.error, one.character, threshold, settings))
        chosen = inside[rng.permutation(len(inside))[:_PATCHES]]
        patches.append(_patches(one.image, chosen.astype(np.float64)))
    every = np.concatenate(patches)
    if len(every) < 2 * MIXTURE_COMPONENTS:
        raise ParameterError(
            f"the report's pipeline: {len(every)} pixels in the masks of all tuning scenes; expected "
            f"{2 * MIXTURE_COMPONENTS} or more to fit its mixture to. Train {AE1_RUN} for longer."
        )
    graph = DefectGraph(defects).eval()
    return ReportPipeline(stage1, threshold, settings, defects, fit_mixture(_in_batches(every, graph)))


def _tuned(tuning: DefectTuning, maps: Sequence[_Maps]) -> tuple[float, MaskSettings, float]:
    """Threshold and target clusters with the best mean F1: first the one, then the other, then the first again."""
    errors = np.concatenate([one.error.ravel()[::7] for one in maps])
    thresholds = [float(value) for value in np.quantile(errors, _QUANTILES)]
    clusters = range(int(max(one.character.max() for one in maps)) + 1)
    targets = [chosen for size in (0, 1, 2) for chosen in itertools.combinations(clusters, size)]

    def merit(threshold: float, chosen: tuple[int, ...]) -> float:
        counts = {one.noise: Counts() for one in tuning.shown}
        for one, shown in zip(maps, tuning.shown, strict=True):
            mask = defect_mask(one.error, one.character, threshold, MaskSettings(target_clusters=chosen))
            counts[shown.noise] += scene_counts(marks(defect_boxes(mask).yx_px, 1.0), shown.scene)
        return mean_f1(counts)

    threshold = max(thresholds, key=lambda value: merit(value, ()))
    chosen = max(targets, key=lambda target: merit(threshold, target))
    threshold = max(thresholds, key=lambda value: merit(value, chosen))
    return threshold, MaskSettings(target_clusters=chosen), merit(threshold, chosen)


def scaled_image(scan: Scan) -> NDArray[np.float32]:
    """``(H, W)`` image in [0, 1]: a plane subtracted, the extremes at 0 and 1."""
    heights, _ = heights_nm(scan)
    flat = heights - fit_plane(heights)
    low, high = unit_range(flat, 0.0)
    return np.ascontiguousarray((flat - low) / (high - low), np.float32)


def _grid(image: NDArray[np.float32], stride_px: int) -> PatchGrid:
    return PatchGrid((image.shape[0], image.shape[1]), (SIDE_PX, SIDE_PX), stride_px)


def _patches(image: NDArray[np.float32], yx_px: NDArray[np.float64]) -> NDArray[np.float32]:
    """``(N, 32, 32)`` around centres, moved into the image at its border."""
    last = np.maximum(np.asarray(image.shape) - SIDE_PX, 0)
    padded = np.pad(image, [(0, max(SIDE_PX - side, 0)) for side in image.shape], mode="symmetric")
    corners = np.clip(np.rint(yx_px - SIDE_PX / 2).astype(int), 0, last)
    return np.stack([padded[y : y + SIDE_PX, x : x + SIDE_PX] for y, x in corners]).reshape(-1, SIDE_PX, SIDE_PX)


@torch.no_grad()
def _in_batches(windows: NDArray[np.float32], function: Callable[[Tensor], Tensor]) -> NDArray[np.float32]:
    """``(N, 32, 32)`` windows through a network, some at a time."""
    parts = [
        function(torch.from_numpy(windows[first : first + _BATCH])[:, None]) for first in range(0, len(windows), _BATCH)
    ]
    return np.asarray(torch.cat(parts).numpy(), np.float32)

"""The package of a network that finds defects and steps on surfaces."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from spm_runtime.errors import ParameterError
from spm_runtime.levelling import BACKGROUND_RADIUS_PX
from spm_runtime.models import ModelPackage
from spm_runtime.pipelines.patch_maps import STRIDE_PX
from spm_runtime.pipelines.surface import (
    COARSE_SPREADS,
    OFFSET_ROWS,
    WORKING_PIXEL_NM,
    finder_input,
)
from spm_training.data import Split, rng_for
from spm_training.defects.annotated import spiepy_set
from spm_training.defects.annotated_score import score_annotated_set
from spm_training.defects.evaluate import evaluate_all, package_finder
from spm_training.defects.report import DefectReport, Subject
from spm_training.defects.scenes import DEFECTS_SEED, DefectOptions
from spm_training.defects.score import ImageScore
from spm_training.graphs.base import ExportGraph
from spm_training.graphs.onnx_export import deployable
from spm_training.graphs.patches import DecoderGraph, DefectGraph, ImageEncoderGraph
from spm_training.networks.ae1 import Ae1
from spm_training.networks.ae2 import Ae2
from spm_training.packages.stages import stage_one, stage_two
from spm_training.packages.task import (
    Attached,
    Attachment,
    InputSpec,
    PackagedTask,
    UserParameter,
    trained_for_export,
)
from spm_training.recipe import Ae1NetworkOptions, FinderNetworkOptions
from spm_training.run import RunFolder
from spm_training.simulate.surfaces import DEFECT_CLASSES
from spm_training.simulate.surfaces.working import draw_working_surface
from spm_training.tasks import task_of

__all__ = ["DefectsPackage"]

#: Height and width of the stored test input in strides: not square, so that an exchange of the axes shows.
_TEST_STRIDES = (6, 9)
#: Batch, rows and columns in strides of the inputs on which torch and the runtime are compared.
_CHECKED = ((1, 1, 1), (1, 7, 3), (3, 4, 4), (1, 12, 16))
#: Gaussian σ with which the pipeline smooths the error map, in working pixels.
SMOOTHING_PX = 2.0


class DefectsPackage(PackagedTask):
    """A finder of defects, to which the patch autoencoders may be attached."""

    CITATIONS = (
        {
            "text": "X. Zhou, D. Wang, P. Krähenbühl: Objects as points, arXiv:1904.07850, 2019",
            "doi": "10.48550/arXiv.1904.07850",
        },
        {
            "text": "J. Patel: Developing a machine learning system for the unsupervised classification of defects in scanning "
            "tunnelling microscopy images, University College London, 2025",
            "url": "https://www.ucl.ac.uk/",
        },
    )
    TAGS = ("defects", "steps", "surfaces", "unet", "semantic-segmentation")
    ATTACHABLE = ("ae1", "ae2")

    @property
    def _channels(self) -> tuple[str, ...]:
        options = self.recipe.network
        if not isinstance(options, FinderNetworkOptions):
            raise TypeError(f"network options of kind {options.kind!r} for a package of defects")
        return options.channels

    @property
    def input(self) -> InputSpec:
        """The channels that the recipe names."""
        return InputSpec(
            "The scan on working pixels (config.spm.levelling): less its background, the background, and what tells their scale.",
            self._channels,
            (None, None),
            {
                "function": "spm_runtime.pipelines.surface.finder_input",
                "working_pixel_nm": WORKING_PIXEL_NM,
                "offset_rows": OFFSET_ROWS,
                "background_radius_px": BACKGROUND_RADIUS_PX,
                "coarse_spreads": COARSE_SPREADS,
            },
        )

    @property
    def parameters(self) -> Mapping[str, UserParameter]:
        """Threshold, and what the other direction and the error map have to say."""
        defaults = self.recipe.parameters
        return {
            "lower_bound": UserParameter(
                defaults.lower_bound, 0.0, 1.0, "Lowest score of a defect; higher finds fewer and surer defects."
            ),
            "confirm": UserParameter(
                float(defaults.confirm),
                0.0,
                1.0,
                "1 looks for each defect in the other scan direction, where there is one.",
            ),
            "unexplained": UserParameter(
                float(defaults.unexplained),
                0.0,
                1.0,
                "1 also reports what only the error map of the patch autoencoder shows, as the class other.",
            ),
            "false_alarms": UserParameter(
                defaults.false_alarms, 1e-4, 0.99, "Chance of such a report in an image without defects."
            ),
        }

    @property
    def extra(self) -> Mapping[str, Any]:
        """Nothing beyond the settings."""
        return {}

    @property
    def purpose(self) -> str:
        """Modalities, pixels and surfaces."""
        card = self.recipe.card
        modalities = " and ".join(modality.upper() for modality in card.modalities)
        return (
            f"For {modalities} images with pixels of {card.pixel_size_min_nm:g} to {card.pixel_size_max_nm:g} nm. The runtime "
            f"averages finer pixels to {WORKING_PIXEL_NM:g} nm first; coarser scans\nkeep their pixels. Edges of terraces are "
            f"found as steps and are no defects.\nClasses: {', '.join(DEFECT_CLASSES)}."
        )

    def score_meaning(self, *, calibrated: bool) -> str:
        """Of the presence."""
        if not calibrated:
            return "The presence is what the network learned: no probability."
        return (
            "The presence is calibrated: the share of true defects among marks of that score (config.spm.calibration)."
        )

    def test_image(self) -> NDArray[np.float32]:
        """``(1, C, H, W)`` as `finder_input` makes it."""
        rows, columns = (self.recipe.network.stride * count for count in _TEST_STRIDES)
        return _surface(1, max(rows, columns), self._channels)[None, :, :rows, :columns].copy()

    def check_images(self, stride: int) -> Iterator[NDArray[np.float32]]:
        """Pieces of one surface with defects."""
        whole = _surface(0, stride * max(columns for _, _, columns in _CHECKED), self._channels)
        for batch, rows, columns in _CHECKED:
            starts = [number * stride for number in range(batch)]
            yield np.stack([whole[:, y : y + rows * stride, y : y + columns * stride] for y in starts])

    def attach(self, runs: Mapping[str, RunFolder], *, half: bool) -> Attached:
        """``encoder`` and ``decoder`` of the first patch autoencoder, ``classes`` of the second one."""
        networks: dict[str, Attachment] = {}
        settings: dict[str, Any] = {"classes": list(DEFECT_CLASSES), "channels": list(self._channels)}
        if "ae1" in runs:
            networks, learned = _first(runs["ae1"], half=half)
            settings |= learned
        if "ae2" in runs:
            networks["classes"], settings["mixture_classes"] = _second(runs["ae2"], half=half)
        return Attached(networks, settings)

    def evaluation(self, images: int) -> DefectOptions:
        """Images with defects and without at every noise level."""
        return DefectOptions(images=images)

    def scores(
        self, package: ModelPackage, evaluation: DefectOptions, on_image: Callable[[ImageScore], object] | None
    ) -> DefectReport:
        """F1, false marks and classes on simulated surfaces, and F1 on SPIEPy's images, annotated by eye."""
        subject, finder = Subject.of(package), package_finder(package)
        found = evaluate_all({package.name: finder}, evaluation, on_image=on_image)
        real = score_annotated_set(spiepy_set(), {subject.label: finder}, without_size=[subject.label])
        return DefectReport(subject, evaluation, found[package.name], [real])


def _first(run: RunFolder, *, half: bool) -> tuple[dict[str, Attachment], dict[str, Any]]:
    """Encoder with clusters and decoder of the first autoencoder, and what the pipeline needs to know."""
    recipe = run.recipe()
    options, terraces = recipe.network, recipe.surfaces.terraces
    if not isinstance(options, Ae1NetworkOptions) or not (options.context and terraces):
        raise ParameterError(
            f"--ae1-run {run.path}: trained with network.context={getattr(options, 'context', None)} and "
            f"surfaces.terraces={terraces}; expected true for both, as the runtime encodes whole images levelled terrace by "
            "terrace. Name another run."
        )
    network, training = trained_for_export(run, half=half)
    if not isinstance(network, Ae1):
        raise TypeError(f"a network of type {type(network).__name__} from a run of the kind 'ae1'")
    learned = stage_one(run, network)
    encoder = deployable(ImageEncoderGraph(network, stride_px=STRIDE_PX, clusters=learned.clusters).eval(), half=half)
    decoder = deployable(DecoderGraph(network).eval(), half=half)
    task = task_of(recipe)
    image = task.inputs(task.collate([task.dataset(Split.EVALUATION)[0, 0]]))
    with torch.no_grad():
        latent = encoder.named(image)["latent"][0].flatten(1).T.contiguous()
    networks = {
        "encoder": _attachment(encoder, image, training, half=half),
        "decoder": _attachment(decoder, latent[:16], training, half=half),
    }
    return networks, {
        "clip_percent": recipe.surfaces.clip_percent,
        "clusters": len(learned.clusters.centres),
        "smoothing_px": SMOOTHING_PX,
        "target_clusters": list(learned.target_clusters),
        "novelty_distance": learned.novelty_distance,
    }


def _second(run: RunFolder, *, half: bool) -> tuple[Attachment, list[list[float]]]:
    """Encoder with mixture of the second autoencoder, and the share of each class in each component."""
    network, training = trained_for_export(run, half=half)
    if not isinstance(network, Ae2):
        raise TypeError(f"a network of type {type(network).__name__} from a run of the kind 'ae2'")
    learned = stage_two(run, network)
    graph = deployable(DefectGraph(network, mixture=learned.mixture).eval(), half=half)
    task = task_of(run.recipe())
    dataset = task.dataset(Split.EVALUATION)
    patches = task.inputs(task.collate([dataset[0, number] for number in range(4)]))
    shares = [[round(float(share), 4) for share in row] for row in learned.shares]
    return _attachment(graph, patches, training, half=half), shares


def _attachment(graph: ExportGraph, tensor: Tensor, training: Mapping[str, object], *, half: bool) -> Attachment:
    return Attachment(graph, tensor, {**training, "weights": "float16" if half else "float32"}, half)


def _surface(number: int, side_px: int, channels: tuple[str, ...]) -> NDArray[np.float32]:
    """``(C, H, W)`` input of a simulated surface with defects."""
    _, surface = draw_working_surface(
        rng_for(DEFECTS_SEED, Split.EVALUATION, 1, number),
        side_px + 1,  # rounding may cost a pixel
        families=("si001-2x1-h",),
        detectability=(100.0, 100.0),
        defects=True,
    )
    return finder_input(surface, channels)

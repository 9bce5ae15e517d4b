"""The package of a network that finds atom columns."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from spm_runtime.levelling import BACKGROUND_RADIUS_PX, SOFT_LIMIT, level_for_network
from spm_runtime.models import ModelPackage
from spm_training.atoms.evaluate import EVALUATION_SEED, EvaluationOptions, ImageScore, evaluate, package_finder
from spm_training.atoms.report import Report, Subject
from spm_training.data import Split, rng_for
from spm_training.graphs.onnx_export import deployable
from spm_training.packages.task import (
    Attached,
    Attachment,
    CardReport,
    InputSpec,
    PackagedTask,
    UserParameter,
    trained_for_export,
)
from spm_training.run import RunFolder
from spm_training.simulate.columns import simulate_columns
from spm_training.tasks import task_of

__all__ = ["AtomsPackage"]

#: Not square, and not a power of two: an exchange of the axes shows.
_TEST_SHAPE = (96, 144)


class AtomsPackage(PackagedTask):
    """A finder of atoms, to which the network that reads the scale may be attached."""

    CITATIONS = (
        {
            "text": "Yan Zhangyuan: Scanning transmission electron microscopy image atomic position detection by using "
            "deep learning (AtomID-net), MPhil thesis, The Hong Kong Polytechnic University, 2024",
            "url": "https://theses.lib.polyu.edu.hk/",
        },
    )
    TAGS = ("atoms", "unet", "semantic-segmentation")
    ATTACHABLE = ("scale",)

    @property
    def input(self) -> InputSpec:
        """The levelled image."""
        return InputSpec(
            "The scan after levelling (config.spm.levelling): background removed, contrast normalised.",
            ("levelled",),
            (-SOFT_LIMIT, SOFT_LIMIT),
            {
                "function": "spm_runtime.levelling.level_for_network",
                "background_radius_px": BACKGROUND_RADIUS_PX,
                "soft_limit": SOFT_LIMIT,
            },
        )

    @property
    def parameters(self) -> Mapping[str, UserParameter]:
        """Threshold, window and spacing."""
        defaults = self.recipe.parameters
        return {
            "filter_lower_bound": UserParameter(
                defaults.filter_lower_bound,
                0.0,
                1.0,
                "Lowest confidence of an atom; higher finds fewer and surer atoms.",
            ),
            "filter_window_size": UserParameter(
                defaults.filter_window_size,
                0.1,
                1.5,
                "Window of the max-pool filter in units of the spacing; one atom at most is found in it.",
            ),
            "spacing_px": UserParameter(
                0.0,
                0.0,
                1000.0,
                "Nearest-neighbour spacing in pixels of the scan; 0 lets the network find it.",
            ),
        }

    @property
    def extra(self) -> Mapping[str, Any]:
        """Range of the spacing."""
        simulator = self.recipe.simulator
        return {"spacing_px": {"minimum": simulator.spacing_min_px, "maximum": simulator.spacing_max_px}}

    @property
    def purpose(self) -> str:
        """Modalities, pixels and spacings."""
        card, simulator = self.recipe.card, self.recipe.simulator
        modalities = " and ".join(modality.upper() for modality in card.modalities)
        spacings = f"{simulator.spacing_min_px:g} to {simulator.spacing_max_px:g} px"
        return (
            f"For {modalities} images with pixels of {card.pixel_size_min_nm:g} to {card.pixel_size_max_nm:g} nm; trained on "
            f"nearest-neighbour spacings of {spacings} (the runtime\nresamples a scan to a comfortable spacing first)."
        )

    def score_meaning(self, *, calibrated: bool) -> str:
        """Of the confidence."""
        if not calibrated:
            return "The confidence is what the network learned, clamped: no probability."
        return "The confidence is calibrated: the share of true columns among marks of that score (config.spm.calibration)."

    def test_image(self) -> NDArray[np.float32]:
        """``(1, 1, H, W)`` levelled image."""
        rng = rng_for(EVALUATION_SEED, Split.EVALUATION, 0, 1)
        scene = simulate_columns(rng, shape=_TEST_SHAPE, spacing_px=(9.0, 10.0))
        return level_for_network(scene.image)[None, None]

    def check_images(self, stride: int) -> Iterator[NDArray[np.float32]]:
        """Lattices, not noise: on noise a good network says 0 everywhere, and the clamp would hide a difference."""
        rng = rng_for(EVALUATION_SEED, Split.EVALUATION, 0, 0)
        for batch, rows, columns in ((1, 1, 1), (1, 7, 3), (3, 4, 4), (1, 16, 20)):
            shape = rows * stride, columns * stride
            scenes = [
                simulate_columns(rng, shape=shape, families=["square"], spacing_px=(5.0, 9.0)) for _ in range(batch)
            ]
            yield np.stack([level_for_network(scene.image) for scene in scenes])[:, None]

    def attach(self, runs: Mapping[str, RunFolder], *, half: bool) -> Attached:
        """The network that reads the scale."""
        if "scale" not in runs:
            return Attached()
        network, training = trained_for_export(runs["scale"], half=half)
        task = task_of(runs["scale"].recipe())
        graph = task.graph(deployable(network, half=half)).eval()
        tensor = task.inputs(task.collate([task.dataset(Split.EVALUATION)[0, 0]]))
        return Attached({"scale": Attachment(graph, tensor, training, half)})

    def evaluation(self, images: int) -> EvaluationOptions:
        """Images of every family and noise level."""
        return EvaluationOptions(images=images)

    def scores(
        self, package: ModelPackage, evaluation: EvaluationOptions, on_image: Callable[[ImageScore], object] | None
    ) -> Report:
        """F1, positions and calibration on simulated columns."""
        return Report(Subject.of(package), evaluation, evaluate(package_finder(package), evaluation, on_image=on_image))

    def tables(self, report: CardReport, folder: Path) -> str:
        """With the reliability diagram."""
        return report.card(folder) if isinstance(report, Report) else report.markdown()

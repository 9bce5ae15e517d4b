"""The package of a network that restores surfaces."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from spm_runtime.errors import ParameterError
from spm_runtime.models import ModelPackage
from spm_runtime.pipelines.relief import (
    RESTORE_CHANNELS,
    SPIKES_PERCENT,
    STEP_PX,
    marks_input,
    relief_view,
    restore_channels,
    surroundings,
    tip_evidence,
    tip_heights,
)
from spm_runtime.pipelines.tip_candidates import candidate_facts
from spm_runtime.pipelines.tip_drawn import tip_code, with_second_apex
from spm_training.graphs.onnx_export import deployable
from spm_training.graphs.restore import JudgeGraph, MarksGraph, TipGraph
from spm_training.networks.judge import JudgeNet
from spm_training.networks.tip import TipNet
from spm_training.packages.task import (
    Attached,
    Attachment,
    InputSpec,
    PackagedTask,
    UserParameter,
    trained_for_export,
)
from spm_training.recipe import RestorerNetworkOptions
from spm_training.restore.report import RestoreReport
from spm_training.restore.run import score_package
from spm_training.restore.scenes import RESTORE_SEED, RestoreOptions
from spm_training.restore.score import ImageScore
from spm_training.run import RunFolder
from spm_training.simulate.tips import FAMILIES, TipScene, scene_rng, simulate_tip_scene

__all__ = ["RestorePackage"]

#: Least height and width of the stored test input: not square, so that an exchange of the axes shows.
_TEST_PX = (96, 144)
#: Batch, rows and columns in strides of the inputs on which torch and the runtime are compared.
_CHECKED = ((1, 1, 1), (1, 7, 3), (3, 4, 4), (1, 9, 12))
_HACKATHON = {
    "text": "Nick, M. Petrov, V. Liu, S. Ilyev, S. Rairao, T. Rodani: Mitigating tip-induced artifacts in AFM images using "
    "autoencoder-based solutions, Machine Learning for Microscopy Hackathon, 2024",
    "url": "https://kaliningroup.github.io/mic-hackathon/",
}
_BLIND = {
    "text": "J. S. Villarrubia: Algorithms for scanned probe microscope image simulation, surface reconstruction, and tip "
    "estimation, J. Res. Natl. Inst. Stand. Technol. 102 (1997) 425",
    "doi": "10.6028/jres.102.030",
}


class RestorePackage(PackagedTask):
    """A network that restores surfaces: ours with the one that estimates tips, or one of the hackathon's three alone."""

    CITATIONS = (_HACKATHON, _BLIND)
    TAGS = ("restoration", "tip", "surfaces")
    ATTACHABLE = ("tip", "judge")

    @property
    def _with_tip(self) -> bool:
        options = self.recipe.network
        return isinstance(options, RestorerNetworkOptions) and options.with_tip

    @property
    def _channels(self) -> tuple[str, ...]:
        return RESTORE_CHANNELS if self._with_tip else RESTORE_CHANNELS[:1]

    @property
    def input(self) -> InputSpec:
        """The scan in units of its relief, and of a network that is told of the tip what erosion by it says."""
        # bioimage.io allows 128 characters.
        further = ", its erosions by the tip, a blunter and a sharper one, where it touched" if self._with_tip else ""
        return InputSpec(
            f"The scan less its plane, in units of its relief{further}.",
            self._channels,
            (None, None),
            {
                "function": "spm_runtime.pipelines.relief.relief_view",
                "spikes_percent": SPIKES_PERCENT,
                "slope_step_px": STEP_PX,
            },
        )

    @property
    def parameters(self) -> Mapping[str, UserParameter]:
        """None: nothing is left to choose."""
        return {}

    @property
    def extra(self) -> Mapping[str, Any]:
        """Nothing beyond the settings."""
        return {}

    @property
    def purpose(self) -> str:
        """Modalities, pixels and what it was trained on."""
        card, tips = self.recipe.card, self.recipe.tips
        modalities = " and ".join(modality.upper() for modality in card.modalities)
        trained = " and ".join(modality.upper() for modality in dict.fromkeys(tips.modalities))
        pixels = f"{card.pixel_size_min_nm:g} to {card.pixel_size_max_nm:g} nm"
        return (
            f"For {modalities} maps of heights with pixels of {pixels}. Trained on simulated {trained}\nsurfaces under tips of "
            f"the families {', '.join(dict.fromkeys(tips.families))}. Heights keep their unit,\noffset and plane."
        )

    def score_meaning(self, *, calibrated: bool) -> str:
        """Of the heights."""
        return "Heights are in units of the scan's relief; the runtime gives them back their unit, offset and plane."

    def test_image(self) -> NDArray[np.float32]:
        """``(1, C, H, W)`` of a simulated scan under a double tip."""
        stride = self.recipe.network.stride
        rows, columns = (-(-least // stride) * stride for least in _TEST_PX)
        return self._seen(1, (rows, columns))[None]

    def check_images(self, stride: int) -> Iterator[NDArray[np.float32]]:
        """Pieces of one scan."""
        batches, rows, columns = (max(column) for column in zip(*_CHECKED, strict=True))
        whole = self._seen(0, ((rows + batches) * stride, columns * stride))
        for batch, high, wide in _CHECKED:
            starts = [number * stride for number in range(batch)]
            yield np.stack([whole[:, y : y + high * stride, : wide * stride] for y in starts])

    def _seen(self, number: int, shape: tuple[int, int]) -> NDArray[np.float32]:
        """``(C, H, W)`` of a simulated scan; the channels of the tip are those of the true one."""
        scene = _scan(number, shape)
        view = relief_view(scene.image)
        if not self._with_tip:
            return view.image[None]
        return restore_channels(view, (scene.tip / view.scale).astype(np.float32))

    def attach(self, runs: Mapping[str, RunFolder], *, half: bool) -> Attached:
        """The two parts of the network that estimates tips, and the one that judges them.

        Their runs are those that the recipe names unless others are given.

        Raises
        ------
        ParameterError
            If a network that is told of no tip is to have one.
        """
        settings: dict[str, Any] = {"channels": list(self._channels)}
        if not self._with_tip:
            for kind, run in runs.items():
                raise ParameterError(
                    f"--{kind}-run {run.path}: the network {self.recipe.network.kind!r} of recipe {self.recipe.name} sees the "
                    f"image alone; expected no run of the network {kind!r}. Leave it out."
                )
            return Attached({}, settings)
        network, training = trained_for_export(runs.get("tip") or RunFolder(Path(self.recipe.tips.tip_run)), half=half)
        if not isinstance(network, TipNet):
            raise TypeError(f"a network of type {type(network).__name__} from a run of the kind 'tip'")
        judge, judging = trained_for_export(runs.get("judge") or RunFolder(Path(self.recipe.tips.judge_run)), half=half)
        if not isinstance(judge, JudgeNet):
            raise TypeError(f"a network of type {type(judge).__name__} from a run of the kind 'judge'")
        deployed = deployable(network, half=half)
        marks, tip = MarksGraph(deployed).eval(), TipGraph(deployed).eval()
        view = relief_view(_scan(2, _TEST_PX).image)
        image = torch.from_numpy(marks_input(view))[None]
        with torch.no_grad():
            found = [value[0].numpy() for value in marks(image)]
            told = torch.from_numpy(np.concatenate((tip_evidence(view), surroundings(*found))))[None]
            visible, second, families = (value.numpy() for value in tip(told))
        drawn = with_second_apex(visible[0, 0], second[0, 0], told[0].numpy())
        code = tip_code(families[0], told[0].numpy(), drawn)
        facts = np.concatenate((candidate_facts(view, tip_heights(drawn, view.local)), code))
        networks = {
            "marks": Attachment(marks, image, training, half),
            "tip": Attachment(tip, told, training, half),
            "judge": Attachment(
                JudgeGraph(deployable(judge, half=half)).eval(), torch.from_numpy(facts)[None], judging, half
            ),
        }
        return Attached(networks, settings | {"families": list(FAMILIES)})

    def evaluation(self, images: int) -> RestoreOptions:
        """Images of every family and modality."""
        return RestoreOptions(images=images)

    def scores(
        self, package: ModelPackage, evaluation: RestoreOptions, on_image: Callable[[ImageScore | None], object] | None
    ) -> RestoreReport:
        """PSNR, SSIM and VIF on simulated scans, beside those of the scans as they are."""
        return score_package(package, evaluation, on_image=on_image)


def _scan(number: int, shape: tuple[int, int]) -> TipScene:
    """A simulated scan under a double tip."""
    rng = scene_rng("test", number, seed=RESTORE_SEED)
    return simulate_tip_scene(rng, shape=shape, families=["double"], surfaces=["pillars"])

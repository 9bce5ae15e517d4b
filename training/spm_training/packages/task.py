"""What a model package says, stores and learns that depends on its task; each task has a class of its own."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray
from torch import Tensor, nn

from spm_runtime.models import ModelPackage
from spm_training.graphs.base import ExportGraph, FinderGraph
from spm_training.graphs.denoise import DenoiserGraph, PatchGraph
from spm_training.graphs.finder import FinderOfDefectsGraph
from spm_training.graphs.restore import RestorerGraph
from spm_training.recipe import Recipe
from spm_training.run import RunFolder
from spm_training.trained import trained_network

__all__ = [
    "Attached",
    "Attachment",
    "CardReport",
    "Evaluation",
    "InputSpec",
    "MapsGraph",
    "PackagedTask",
    "UserParameter",
    "trained_for_export",
]

#: Networks that are a package of their own: images or patches in, maps out.
MapsGraph = FinderGraph | FinderOfDefectsGraph | RestorerGraph | DenoiserGraph | PatchGraph

#: Kinds of networks that learn from `spm_training.simulate.surfaces`.
_OF_SURFACES = ("finder", "ae1", "ae2")
#: Kinds that learn from `spm_training.simulate.tips`.
_OF_TIPS = ("tip", "judge", "restorer", "tip1", "tip2", "tip3")
#: Kinds that learn from `spm_training.simulate.stm_lattices`.
_OF_LATTICES = ("denoiser", "cae-a", "cae-b", "cae-twin", "cae-vae")


@dataclass(frozen=True)
class InputSpec:
    """The input of a network.

    Parameters
    ----------
    description
        One sentence.
    channels
        Names of its channels.
    limits
        Smallest and largest value; None where there is none.
    levelling
        Function and constants that make it from a scan.
    """

    description: str
    channels: tuple[str, ...]
    limits: tuple[float | None, float | None]
    levelling: Mapping[str, Any]


@dataclass(frozen=True)
class UserParameter:
    """A number that the user of the package may change."""

    default: float
    minimum: float
    maximum: float
    description: str


@dataclass(frozen=True, eq=False)
class Attachment:
    """A further network of a package.

    Parameters
    ----------
    graph
        The network, ready for export.
    tensor
        Its test input.
    training
        The facts of its training.
    half
        Store its weights as float16.
    """

    graph: ExportGraph
    tensor: Tensor
    training: Mapping[str, object]
    half: bool


@dataclass(frozen=True, eq=False)
class Attached:
    """All further networks of a package.

    Parameters
    ----------
    networks
        By the name that the runtime knows them by.
    settings
        What the pipeline needs to know of them (`spm_runtime.models.ModelPackage.settings`).
    """

    networks: Mapping[str, Attachment] = field(default_factory=dict)
    settings: Mapping[str, Any] = field(default_factory=dict)


class Evaluation(Protocol):
    """Which images a package is scored on."""

    @property
    def total(self) -> int:
        """Number of all images."""
        ...


class CardReport(Protocol):
    """Scores as a package carries them."""

    def headline(self) -> dict[str, float]:
        """The few numbers that stand in the description."""
        ...

    def markdown(self) -> str:
        """The tables."""
        ...


class PackagedTask(ABC):
    """The parts of a package that differ from task to task.

    Parameters
    ----------
    recipe
        The recipe of the run, with the card and the parameters that the package is to have.
    """

    #: Entries of bioimage.io's ``cite`` beside those of every package, and its ``tags``.
    CITATIONS: tuple[Mapping[str, str], ...]
    TAGS: tuple[str, ...]
    #: Kinds of networks whose runs may be attached.
    ATTACHABLE: tuple[str, ...]

    def __init__(self, recipe: Recipe) -> None:
        self.recipe = recipe

    @property
    @abstractmethod
    def input(self) -> InputSpec:
        """What the network sees."""

    @property
    @abstractmethod
    def parameters(self) -> Mapping[str, UserParameter]:
        """What the user may change, by name."""

    @property
    @abstractmethod
    def extra(self) -> Mapping[str, Any]:
        """Further entries of ``config.spm``."""

    @property
    @abstractmethod
    def purpose(self) -> str:
        """What the package is for, for the card; lines of 125 characters at most."""

    @abstractmethod
    def score_meaning(self, *, calibrated: bool) -> str:
        """One sentence on what the scores of the network are."""

    @abstractmethod
    def test_image(self) -> NDArray[np.float32]:
        """``(1, C, H, W)`` input of the network that the package stores, not square."""

    @abstractmethod
    def check_images(self, stride: int) -> Iterator[NDArray[np.float32]]:
        """Inputs ``(B, C, H, W)`` of several sizes on which torch and the runtime are compared."""

    @abstractmethod
    def attach(self, runs: Mapping[str, RunFolder], *, half: bool) -> Attached:
        """Further networks from runs by kind, each one of `ATTACHABLE` and of that kind."""

    @abstractmethod
    def evaluation(self, images: int) -> Evaluation:
        """The evaluation set of the task with so many images of every kind."""

    @abstractmethod
    def scores(self, package: ModelPackage, evaluation: Any, on_image: Callable[[Any], object] | None) -> CardReport:
        """Score a package on the images of `evaluation`."""

    def tables(self, report: CardReport, folder: Path) -> str:
        """The Markdown of the scores for the card in a folder, into which pictures may go."""
        return report.markdown()


def trained_for_export(run: RunFolder, *, half: bool) -> tuple[nn.Module, dict[str, object]]:
    """The network with the best weights of a run, and the facts of its training for a card; raises as `trained_network`."""
    network, training = trained_network(run)
    recipe = run.recipe()
    if recipe.network.kind in _OF_SURFACES:
        training["families"] = ", ".join(recipe.surfaces.families) or "all"
    if recipe.network.kind in _OF_TIPS:
        training["families"] = ", ".join(dict.fromkeys(recipe.tips.families))
        training["modalities"] = ", ".join(dict.fromkeys(recipe.tips.modalities))
    if recipe.network.kind in _OF_LATTICES:
        lattices = recipe.lattices
        training["families"] = ", ".join(lattices.taught) if lattices.names or lattices.leave_out else "all"
        for name in ("thermal", "shot", "striation", "spread_factor"):
            low, high = getattr(lattices, name)
            training[name] = f"{low:g} to {high:g}"
        training["other_surfaces"] = f"{lattices.surfaces_share:.0%}"
        training["target"] = f"the {lattices.target} image"
    return network, {**training, "weights": "float16" if half else "float32"}

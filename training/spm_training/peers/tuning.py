"""What the peers are tuned on, and how the best settings are chosen.

Library defaults prove nothing, so the settings of a tuned peer are those with the best F1 on simulated images of the same
families, noise and range of spacings as those that are scored, drawn from the validation split: never the evaluation set.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Hashable, Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray
from scipy.spatial import cKDTree

from spm_runtime.levelling import level_for_network
from spm_training.atoms.evaluate import EVALUATION_SEED, TOLERANCES, Finder
from spm_training.data import Split, rng_for
from spm_training.metrics import Counts, count
from spm_training.peers.scale import fft_spacing_px
from spm_training.simulate.columns import FAMILIES, NOISE_LEVELS, Scene, simulate_columns

__all__ = ["Look", "Peer", "Tuning", "best_settings", "levelled_and_spacing", "mean_neighbour_px"]


def _silent(_: str) -> None:
    """Report nothing."""


Settings = TypeVar("Settings", bound=Hashable)


@dataclass(frozen=True, eq=False)
class Look:
    """A tuning scene as a peer sees it.

    Parameters
    ----------
    scene
        Image and truth.
    levelled
        ``(H, W)`` float32 levelled image, without offsets between its lines.
    spacing_px
        Spacing that the spectrum tells, not the true one.
    """

    scene: Scene
    levelled: NDArray[np.float32]
    spacing_px: float


@dataclass(frozen=True, eq=False)
class Tuning:
    """Where a peer takes its settings from.

    Parameters
    ----------
    spacing_px
        Range of the spacings, as in the evaluation.
    side_px, images
        Size and number of the tuning images per family and noise level.
    weights
        File of the weights of AtomAI's network; trained and written when it is not there.
    minutes
        Time that the optimisation of AtomAI's network may take.
    report
        Takes a line now and then while that network is trained.
    """

    spacing_px: tuple[float, float] = (4.0, 30.0)
    side_px: int = 192
    images: int = 1
    weights: Path = Path("runs/peers/atomai.pt")
    minutes: float = 18.0
    report: Callable[[str], object] = _silent

    @cached_property
    def looks(self) -> tuple[Look, ...]:
        """Every family at every noise level, made once and shared by the peers."""
        scenes = (
            simulate_columns(
                rng_for(EVALUATION_SEED, Split.VALIDATION, family_index * len(NOISE_LEVELS) + noise_index, index),
                shape=(self.side_px, self.side_px),
                families=[family],
                spacing_px=self.spacing_px,
                detectability=detectability,
            )
            for family_index, family in enumerate(FAMILIES)
            for noise_index, detectability in enumerate(NOISE_LEVELS.values())
            for index in range(self.images)
        )
        return tuple(Look(scene, *levelled_and_spacing(scene.image)) for scene in scenes)


@dataclass(frozen=True)
class Peer:
    """A finder of atoms to compare with.

    Parameters
    ----------
    name
        Name in tables.
    tuned
        Whether its settings were tuned; False for the defaults of a library.
    description
        One line: what it does, and where its scale comes from.
    make
        Gives the finder; a tuned peer looks at the tuning scenes first.
    """

    name: str
    tuned: bool
    description: str
    make: Callable[[Tuning], Finder]


def levelled_and_spacing(image: NDArray[np.float32]) -> tuple[NDArray[np.float32], float]:
    """The image without background and offsets between its lines, and the spacing in pixels that its spectrum tells.

    The medians of the rows are what the offsets are taken for; F1 rises by 0.007 with it.
    """
    levelled = level_for_network(image)
    levelled = levelled - np.median(levelled, axis=1, keepdims=True)
    return levelled, fft_spacing_px(levelled)


def best_settings(
    looks: Sequence[Look], propose: Callable[[Look], Iterable[tuple[Settings, NDArray[np.float64]]]]
) -> Settings:
    """The settings with the best F1 (tolerance 0.25) to three decimals, and of those the ones with the smallest rms distance.

    Both are counted over all columns of all looks.

    Parameters
    ----------
    looks
        The tuning scenes.
    propose
        Gives pairs of settings and the ``(N, 2)`` positions found with them, the same settings for every look.
    """
    totals: defaultdict[Settings, Counts] = defaultdict(Counts)
    for look in looks:
        scene = look.scene
        for settings, yx in propose(look):
            totals[settings] += count(yx, scene.yx_px, scene.required, TOLERANCES[0] * scene.spacing_px)

    def merit(settings: Settings) -> tuple[float, float]:
        counts = totals[settings]
        return round(counts.f1, 3), -counts.rms_px if counts.true_positive else -np.inf

    return max(totals, key=merit)


def mean_neighbour_px(yx: NDArray[np.float64]) -> float:
    """Mean distance of ``(N, 2)`` positions to their nearest neighbours, NaN for fewer than two: for peers without a scale."""
    return float(np.mean(cKDTree(yx).query(yx, k=2)[0][:, 1])) if len(yx) > 1 else float("nan")
